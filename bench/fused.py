"""`python -m bench fused`: scans in one pass over time, and chunks with the same keys in one stage, beside the same
scans and chunks one after the other, in native code.

The plan is the same but for `taken_apart`; calls take turns. On one thread the processor's time counts, so that a busy
machine shows little in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import Machine
from bench.report import Table, markdown, put
from recurc import targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.passes import make_plan
from recurc.plan import Fused, JointChunk, Plan, Role, Scan, taken_apart
from recurc.runtime.threads import thread_count
from recurc.types import DType, Kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cost_model.md"
CASES: tuple[tuple[str, dict[str, int], int, int], ...] = (  # of scans
    ("adam", {"D": 64}, 4, 1024),
    ("adam", {"D": 64}, 4, 65536),
    ("exponential_variance", {"D": 64}, 4, 1024),
    ("exponential_variance", {"D": 64}, 4, 65536),
    ("welford", {"D": 64}, 4, 65536),
    ("biquad_cascade", {"D": 64}, 4, 65536),
    ("cusum", {"D": 64}, 4, 65536),
    ("past_time_logic", {"D": 64}, 4, 65536),
    ("linear_attention", {"K": 32, "V": 32}, 2, 128),
    ("linear_attention", {"K": 32, "V": 32}, 2, 8192),
    ("mlstm_sigmoid", {"H": 4, "K": 32, "V": 32}, 1, 2048),
)
CHUNKS: tuple[tuple[str, dict[str, int], int, int], ...] = (
    ("linear_attention", {"K": 32, "V": 32}, 2, 128),
    ("linear_attention", {"K": 32, "V": 32}, 2, 2048),
    ("linear_attention", {"K": 64, "V": 64}, 1, 128),
    ("linear_attention", {"K": 64, "V": 64}, 1, 2048),
    ("mlstm_sigmoid", {"H": 4, "K": 32, "V": 32}, 1, 128),
    ("mlstm_sigmoid", {"H": 4, "K": 32, "V": 32}, 1, 2048),
    ("mlstm", {"H": 4, "K": 32, "V": 32}, 1, 128),
    ("mlstm", {"H": 4, "K": 32, "V": 32}, 1, 2048),
)


@dataclass(frozen=True)
class Pair:
    """Median seconds of a call: fused and apart. `passes`: how often the inputs are walked over, and how often apart;
    `between`: bytes per step and sequence that only the scans apart store."""

    system: str
    schedule: str
    sizes: dict[str, int]
    batch: int
    steps: int
    fused: float
    apart: float
    passes: tuple[int, int]
    between: int

    @property
    def gain(self) -> float:
        return self.apart / self.fused


def measure(rng: np.random.Generator, budget: float) -> list[Pair]:
    cases = [("scan", c) for c in CASES] + [("chunkwise", c) for c in CHUNKS]
    return [_pair(rng, schedule, *case, budget) for schedule, case in cases]


def _pair(
    rng: np.random.Generator,
    schedule: str,
    name: str,
    sizes: dict[str, int],
    batch: int,
    steps: int,
    budget: float,
) -> Pair:
    plan = make_plan(zoo.load(name).ir, sizes, batch, steps, DType.F32, targets.named("cpu"), schedule)
    (stage,) = (s for s in plan.stages if isinstance(s, Fused | JointChunk))
    spec = Specialization(tuple(sorted(sizes.items())), DType.F32)
    arrays = _arrays(rng, plan, spec, batch, steps)
    kernels = [BACKEND.build(p, spec) for p in (plan, taken_apart(plan))]
    found: list[list[float]] = [[], []]
    clock = time.thread_time if thread_count() == 1 else time.perf_counter
    begin = time.perf_counter()
    while len(found[0]) < 7 or (len(found[0]) < 200 and time.perf_counter() - begin < budget):
        for k in (0, 1) if len(found[0]) % 2 else (1, 0):
            kernels[k](arrays, batch, steps)
            start = clock()
            kernels[k](arrays, batch, steps)
            found[k].append(clock() - start)
    passes, between = (1, len(stage.parts)), 0
    if isinstance(stage, Fused):
        passes = max(stage.levels) + 2, 2 * sum(isinstance(s, Scan) for s in taken_apart(plan).stages)
        sizes_of = ((b.dtype.settled(spec.real), [sizes[d] for d in b.dims]) for b in stage.between)
        between = sum(dtype.itemsize * int(np.prod(dims)) for dtype, dims in sizes_of)
    fused, apart = (statistics.median(times) for times in found)
    return Pair(name, schedule, sizes, batch, steps, fused, apart, passes, between)


def _arrays(rng: np.random.Generator, plan: Plan, spec: Specialization, batch: int, steps: int) -> dict[str, Any]:
    """Inputs and params between 0.1 and 0.9, truth values at random; everything starts at zero."""
    arrays: dict[str, Any] = {}
    for b in plan.buffers:
        if b.role in (Role.SEQUENCE, Role.ONCE):
            continue
        shape = (batch, *((steps,) if b.has_time else ()), *(spec.size(d) for d in b.dims))
        drawn = rng.uniform(0.1, 0.9, shape if b.role is Role.INPUT else (1, *shape[1:]))
        array = (drawn < 0.5) if b.dtype.kind is Kind.BOOL else drawn
        if b.role not in (Role.INPUT, Role.PARAM):
            array = np.zeros(shape)
        array = array.astype(b.dtype.settled(spec.real).to_numpy())
        arrays[b.name] = np.broadcast_to(array, shape) if b.role is Role.PARAM else array
    return arrays


def table(pairs: Sequence[Pair]) -> Table:
    head = ["system", "schedule", "sizes", "B", "T", "passes", "stored between, per step", "fused", "apart", "gain"]
    rows = [
        [
            p.system,
            p.schedule,
            " ".join(f"{d}={n}" for d, n in p.sizes.items()),
            str(p.batch),
            f"{p.steps:,}",
            f"{p.passes[0]} for {p.passes[1]}",
            f"{p.between} B",
            f"{p.fused * 1e3:.3g} ms",
            f"{p.apart * 1e3:.3g} ms",
            f"{p.gain:.2f}x",
        ]
        for p in pairs
    ]
    return [head, *rows]


def write_page(pairs: Sequence[Pair], machine: Machine, threads: int, command: str) -> None:
    """The table of docs/cost_model.md, between its marks."""
    clock = "seconds of the processor" if threads == 1 else "seconds of the clock"
    busy = f"; {machine.load:.1f} other threads wanted to run when it began" if machine.load >= 0.5 else ""
    many = f"{threads} thread{'s' if threads > 1 else ''}"
    head = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {machine.cpu}, {machine.simd}, {many}, {clock}{busy}."
    text = "\n\n".join([head, markdown(table(pairs))])
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), "fused", text), encoding="utf-8")
