"""Whether the scheduler's choice is a good one: every legal schedule of a grid of systems and sizes, side by side.

The best time of each decides, on this machine and with the threads it is given: what else runs there meets the best
least. On one thread the processor's time is taken, so that a busy machine will do."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

import recurc
from bench.machine import Machine
from bench.report import RESULTS, ROOT, Table, markdown, put
from bench.rows import seconds
from recurc import ir
from recurc.passes import analyze, core_form, make_plan
from recurc.passes.cost import Shape
from recurc.passes.schedule import choose
from recurc.runtime.machine import cpu_target
from recurc.runtime.threads import thread_count
from recurc.targets import Target
from recurc.types import DType, Kind

WITHIN = 1.3  # a choice is good if it takes at most this many times what the best schedule takes
SHARE = 0.9  # of the cells whose choice must be good
PAGE = ROOT / "docs" / "cost_model.md"
KEPT = RESULTS / "choice.json"
BATCHES, STEPS = (1, 8), (64, 1024, 16_384)
_LARGEST = 1 << 26  # bytes that a call moves
_LONGEST = 0.5  # seconds of the slowest schedule, by the model: so that a run ends
_LONG = 0.1  # seconds of a call that is timed no more often than it must be
_HOPELESS = 3.0  # a schedule this many times slower than the best is measured no further

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class System:
    """An entry of the zoo at some sizes. `drawn`: the range of an input or param, where -1 to 1 or its own initialiser
    would let the values grow without bound."""

    name: str
    sizes: tuple[Sizes, ...]
    drawn: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])


def _wide(**few: Sequence[int]) -> tuple[Sizes, ...]:
    return tuple(dict(zip(few, values, strict=True)) for values in zip(*few.values(), strict=True))


_LANES = _wide(D=(1, 64))
_MATRIX = _wide(K=(16, 64, 128), V=(16, 64, 128))
_HEADS = _wide(H=(1, 4), K=(64, 32), V=(64, 32))
GRID = (
    System("ema", _LANES, {"alpha": (0.05, 0.2)}),
    System("diagonal_affine", _LANES, {"a": (0.8, 1.0)}),
    System("hgrn_real", _LANES),
    System("min_gru", _wide(D=(16, 64), H=(16, 64))),
    System("selective_scan", _wide(D=(2, 64), N=(16, 16))),
    System("longhorn", _wide(D=(2, 64), N=(16, 16))),
    System("s4d_real", _wide(D=(1, 16), N=(4, 32))),
    System("s4d", _wide(D=(1, 16), N=(4, 32))),
    System("lru_real", _wide(D=(4, 32), N=(4, 32))),
    System("s5", _wide(D=(4, 32), P=(4, 32))),
    System("selective_scan_complex", _wide(D=(2, 32), N=(8, 8))),
    System("simple_gla", _HEADS, {"g": (-0.2, 0.0)}),
    System("linear_attention", _MATRIX[1:2]),
    System("mamba2", _wide(H=(1, 4), P=(64, 32), N=(64, 16))),
    System("gla", _MATRIX),
    System("hgrn2", _MATRIX[::2]),
    System("rwkv6", _HEADS, {"omega": (-3.0, -1.0)}),
    System("delta_net", _MATRIX),
    System("gated_delta_net", _HEADS),
    System("kda", _HEADS),
    System("rwkv7", _HEADS),
    System("linear_recurrence", _wide(K=(4, 32))),
    System("lssl", _wide(D=(1, 8), N=(4, 32))),
    System("biquad", _LANES),
    System("holt_winters", _LANES),
    System("decayed_max", _LANES),
    System("logsumexp_scan", _LANES),
    System("lindley_queue", ({},)),
    System("clipped_integrator", _LANES),
    System("pid", ({},)),
    System("aaren", _LANES),
    System("online_logsumexp", _LANES),
    System("mlstm", _wide(H=(1, 4), K=(16, 32), V=(16, 32))),
    System("rwkv4", _LANES),
    System("mobius", _LANES, dict.fromkeys("abcd", (0.5, 1.5))),
    System("kalman_scalar", ({},)),
    System("running_max", _LANES),
    System("running_argmax", _LANES),
    System("mamba3", _wide(H=(2,), M=(8,), P=(32,)), {"rate": (0.0, 1.0)}),
    System("segmented_sum", _LANES),
    System("cumulative_product", _LANES, {"x": (0.9, 1.1)}),
    System("rg_lru", _wide(H=(1, 4), P=(16, 32))),
)


@dataclass(frozen=True)
class Cell:
    """One system at one size: the best seconds of each schedule (one name for each group of states, joined by `+`),
    and which of them the scheduler takes."""

    system: str
    classes: str
    sizes: Sizes
    batch: int
    steps: int
    chosen: str
    best: Mapping[str, float]
    median: Mapping[str, float]

    @property
    def ratio(self) -> float:
        """How many times the best schedule's time the chosen one takes."""
        return self.best[self.chosen] / min(self.best.values())

    @property
    def fastest(self) -> str:
        return min(self.best, key=lambda name: self.best[name])

    @property
    def title(self) -> str:
        return " ".join([self.system, *(f"{d}{n}" for d, n in self.sizes.items()), f"B{self.batch}", f"T{self.steps}"])

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def share(cells: Sequence[Cell]) -> float:
    """Of the cells, how many have a good choice."""
    return sum(c.ratio <= WITHIN for c in cells) / max(len(cells), 1)


def measure(rng: np.random.Generator, budget: float, grid: Sequence[System] = GRID) -> list[Cell]:
    """Every cell of the grid; `budget` seconds are shared out between them, kernels' building apart."""
    target = cpu_target()
    places = [place for system in grid for place in _places(system, target)]
    cells: list[Cell] = []
    for system, sizes, batch, steps in places:
        cells.append(_measure(rng, system, sizes, batch, steps, budget / len(places), target))
    return cells


def combinations(rec: Any) -> list[tuple[str, ...]]:
    """Every legal choice of a schedule for each group of states."""
    return list(itertools.product(*(g.schedules for g in analyze(rec.ir).groups)))


def _places(system: System, target: Target) -> Iterator[tuple[System, Sizes, int, int]]:
    rec = recurc.zoo.load(system.name).ir
    core, analysis = core_form(rec), analyze(rec)
    for sizes, batch, steps in itertools.product(system.sizes, BATCHES, STEPS):
        known = _known(rec, sizes)
        weighed = choose(core, analysis, Shape(known, batch, steps, 4), target).candidates
        if max(c.seconds for c in weighed) <= _LONGEST and max(c.bytes_moved for c in weighed) <= _LARGEST:
            yield system, known, batch, steps


def _known(rec: ir.Recurrence, sizes: Sizes) -> Sizes:
    return {d.name: sizes.get(d.name, d.default or 1) for d in rec.dims}


def _measure(
    rng: np.random.Generator, system: System, sizes: Sizes, batch: int, steps: int, budget: float, target: Target
) -> Cell:
    rec = recurc.zoo.load(system.name)
    groups = analyze(rec.ir).groups
    arrays = _draw(rng, rec.ir, system, sizes, batch, steps)
    calls: dict[str, Callable[[], Any]] = {}
    for names in combinations(rec):
        forced = ",".join(f"{g.states[0]}={n}" for g, n in zip(groups, names, strict=True))
        compiled = _compiled(system.name, forced)
        calls["+".join(names)] = lambda compiled=compiled: compiled(**arrays)
    plan = make_plan(rec.ir, sizes, batch, steps, DType.F32, target)
    chosen = "+".join(plan.schedules)
    outcomes = calls[chosen]()
    for value in outcomes if isinstance(outcomes, tuple) else (outcomes,):
        assert np.isfinite(np.asarray(value)).all(), f"{system.name}: what overflows is another computation"
    best, median = race(calls, budget)
    classes = "+".join(g.cls for g in groups if len(g.schedules) > 1)
    return Cell(system.name, classes, sizes, batch, steps, chosen, best, median)


_BUILT: dict[tuple[str, str], Any] = {}


def _compiled(name: str, schedule: str) -> Any:
    if (name, schedule) not in _BUILT:
        _BUILT[name, schedule] = recurc.zoo.load(name).compile(backend="cpu", schedule=schedule)
    return _BUILT[name, schedule]


def _draw(
    rng: np.random.Generator, rec: ir.Recurrence, system: System, sizes: Sizes, batch: int, steps: int
) -> dict[str, np.ndarray]:
    from recurc.initializers import initial_params

    def one(value: ir.Input | ir.Param, lead: tuple[int, ...]) -> np.ndarray:
        shape = (*lead, *(int(d) if d.isdigit() else sizes[d] for d in value.dims))
        if value.dtype.kind is Kind.BOOL:
            return rng.random(shape) < 0.05
        low, high = system.drawn.get(value.name, (-1.0, 1.0))
        drawn = rng.random(shape, np.float32) * (high - low) + low
        return drawn.astype(np.complex64) if value.dtype.kind is Kind.COMPLEX else drawn

    params = {n: np.asarray(a) for n, a in initial_params(rec, rng, dict(sizes), {}).items()}
    params |= {p.name: one(p, ()) for p in rec.params if p.name in system.drawn}
    return {i.name: one(i, (batch, steps)) for i in rec.inputs} | params


def race(calls: Mapping[str, Callable[[], Any]], budget: float) -> tuple[dict[str, float], dict[str, float]]:
    """The best and the median of each: of three rounds, and of those that are not hopeless of at least four more, until
    the budget is spent. Before each timed call comes an untimed one (see `bench.measure.interleaved`)."""
    times: dict[str, list[float]] = {n: [] for n in calls}
    for run in calls.values():
        run()  # builds it
    for _ in range(3):
        for name, run in calls.items():
            if not times[name] or min(times[name]) < _LONG:
                run()
                times[name].append(_timed(run))
    limit = _HOPELESS * min(min(v) for v in times.values())
    running = [n for n in calls if min(times[n]) <= limit]
    rounds, spent = 0, 0.0
    while len(running) > 1 and rounds < 100 and (rounds < 4 or spent < budget):
        turn = rounds % len(running)
        for name in running[turn:] + running[:turn]:
            calls[name]()
            times[name].append(_timed(calls[name]))
            spent += 2 * times[name][-1]
        rounds += 1
    best, median = ({n: _rounded(f(v)) for n, v in times.items()} for f in (min, statistics.median))
    return best, median


def _rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def _timed(run: Callable[[], Any]) -> float:
    """Seconds of one call: on one thread those of the processor, which other work on the machine does not lengthen."""
    clock = time.thread_time if thread_count() == 1 else time.perf_counter
    begin = clock()
    run()
    return clock() - begin


def kept(cells: Sequence[Cell], machine: Machine, threads: int, seed: int) -> str:
    """All of it, as JSON."""
    head = {"machine": machine.to_json(), "target": asdict(cpu_target()), "threads": threads, "seed": seed}
    lines = ",\n".join(json.dumps(c.to_json()) for c in cells)
    return f'{json.dumps(head)[:-1]},\n"cells": [\n{lines}\n]}}\n'


def read(text: str) -> tuple[Target, list[Cell]]:
    """What `kept` wrote: the machine as the scheduler saw it, and the cells."""
    content = json.loads(text)
    return Target(**content["target"]), [Cell(**c) for c in content["cells"]]


def systems_table(cells: Sequence[Cell]) -> Table:
    """One line for each system."""
    table = [["system", "class", "cells", f"within {WITHIN}x", "worst", "chosen"]]
    for name in dict.fromkeys(c.system for c in cells):
        own = [c for c in cells if c.system == name]
        taken = Counter(c.chosen for c in own).most_common()
        worst = max(c.ratio for c in own)
        chosen = ", ".join(f"{schedule} {count}" for schedule, count in taken)
        table.append([name, own[0].classes, str(len(own)), f"{share(own):.0%}", f"{worst:.2f}x", chosen])
    return table


def misses_table(cells: Sequence[Cell]) -> Table:
    """The cells whose choice is not good, the worst first."""
    table = [["cell", "chosen", "its time", "fastest", "its time", "ratio"]]
    for c in sorted(cells, key=lambda c: -c.ratio):
        if c.ratio > WITHIN:
            times = [c.chosen, seconds(c.best[c.chosen]), c.fastest, seconds(c.best[c.fastest])]
            table.append([c.title, *times, f"{c.ratio:.2f}x"])
    return table


def verdict(cells: Sequence[Cell]) -> str:
    good, met = sum(c.ratio <= WITHIN for c in cells), "met" if share(cells) >= SHARE else "not met"
    return (
        f"{good} of {len(cells)} cells ({share(cells):.1%}) within {WITHIN}x of the best measured schedule; "
        f"the target is {SHARE:.0%}: {met}."
    )


def write_page(cells: Sequence[Cell], machine: Machine, threads: int, command: str) -> None:
    """The tables of docs/cost_model.md, between their marks."""
    clock = "seconds of the processor" if threads == 1 else "seconds of the clock"
    busy = f"; {machine.load:.1f} other threads wanted to run when it began" if machine.load >= 0.5 else ""
    head = (
        f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {machine.cpu}, {machine.simd}, {threads} "
        f"thread{'s' if threads > 1 else ''}, {clock}{busy}."
    )
    misses = misses_table(cells)
    parts = [head, verdict(cells), markdown(systems_table(cells))]
    if len(misses) > 1:
        parts += ["The others:", markdown(misses)]
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), "choice", "\n\n".join(parts)), encoding="utf-8")
