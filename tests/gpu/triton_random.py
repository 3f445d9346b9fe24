"""Random recurrences through every legal schedule and both forms of a loop, as Triton kernels against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from recurc import load, passes, targets
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.triton import Options, TritonBackend
from recurc.errors import UnsupportedError
from recurc.plan import Plan, Role
from recurc.types import DType
from tests.property import random_recurrences

# What a scan must also get right beside the states: outputs that read them one step before, and two groups at once.
_BESIDE_A_SCAN = {
    "an output of the state before": "state h[D] = 0\n    h = s * h[t-1] + x\n    output y = x * h[t-1], h",
    "a sum over the states before and after": "state h[N, D] = 0\n    h = s * h[t-1] + x * u\n"
    "    output y = sum((h - h[t-1]) * u, N), h",
    "a running maximum and what it was": "state m[D] = 0\n    m = max(m[t-1] + s, x)\n    output y = m - m[t-1], m",
    "two groups, one of which reads the other": "state h[D] = 0, g[D] = 0\n    h = s * h[t-1] + x\n"
    "    g = 0.5 * g[t-1] + h[t-1]\n    output g, y = h[t-1] - g[t-1]",
    "four groups on three levels": "state h[D] = 0, k[D] = 0, g[D] = 0, m[D] = 0\n    h = s * h[t-1] + x\n"
    "    k = 0.5 * k[t-1] + x * x\n    v = sin(h) + k[t-1]\n    g = (if s > 0 then 0.9 else 0) * g[t-1] + v\n"
    "    m = max(m[t-1] - 0.1, g * g[t-1] + h)\n    output m, y = v - g[t-1]",
    "a sum over a matrix and one over a vector": "state S[N, D] = 0, z[N] = 0\n    S = 0.9 * S[t-1] + u * x\n"
    "    z = 0.9 * z[t-1] + u * u\n    output y = u @ (S + S[t-1]) / (1 + sum(z, N))",
}


def beside_a_scan(seed: int, device: str = "cpu") -> Iterator[tuple[str, float]]:
    """(what, largest relative error in f64) of recurrences scanned over tiles shorter than the sequence."""
    for what, body in _BESIDE_A_SCAN.items():
        source = f"recurrence R(D, N):\n    input  x[D], u[N], s\n    {body}\n"
        for segments in (1, 2):
            label = f"{what}, segments {segments}"
            yield label, _error(load(text=source).ir, seed, "scan", "registers", device, segments)


def random_errors(seed: int, count: int, device: str = "cpu") -> Iterator[tuple[str, float | None]]:
    """(what, largest relative error in f64, or None where a limitation was named)."""
    for number in range(seed, seed + count):
        recurrence = random_recurrences.make(number)
        groups = passes.analyze(recurrence).groups
        schedules = sorted({s for group in groups for s in group.schedules} | {"auto"})
        for schedule in schedules:
            for form in ("registers", "dot") if schedule != "scan" else ("registers",):
                what = f"random recurrence {number}, {schedule}, {form}"
                try:
                    yield what, _error(recurrence, number, schedule, form, device)
                except UnsupportedError:
                    yield what, None


def _error(recurrence: Any, seed: int, schedule: str, form: str, device: str, segments: int = 2) -> float:
    import torch

    batch, steps = 2, 11
    sizes = {d.name: random_recurrences.SIZES[d.name] for d in recurrence.dims}
    rng = np.random.default_rng(seed)
    given = random_recurrences.arrays(recurrence, rng, batch, steps)
    target = targets.named("sm_90")
    plan: Plan = passes.make_plan(recurrence, sizes, batch, steps, DType.F64, target, schedule)
    spec = Specialization(tuple(sorted(sizes.items())), DType.F64)
    options = Options(block_t=8, recurrent=form, block_h=16, segments=segments)
    kernel = TritonBackend(options=options).build(plan, spec)
    arrays: dict[str, Any] = {}
    for buffer in plan.buffers:
        shape = tuple(spec.size(d) for d in buffer.dims)
        match buffer.role:
            case Role.ONCE | Role.SEQUENCE:
                continue
            case Role.INPUT:
                array = torch.from_numpy(given[buffer.name].astype(np.float64))
            case Role.PARAM:
                array = torch.from_numpy(given[buffer.name].astype(np.float64)).expand(batch, *shape)
            case Role.INITIAL:
                given[buffer.name] = rng.uniform(-1, 1, (batch, *shape))
                array = torch.from_numpy(given[buffer.name])
            case _:
                lead = (batch, steps) if buffer.has_time else (batch,)
                array = torch.full((*lead, *shape), float("nan"), dtype=torch.float64)
        arrays[buffer.name] = array.to(device)
    kernel(arrays, batch, steps)
    known = {k: v for k, v in given.items() if "@" not in k or plan.has(k)}
    core = plan.recurrence
    expected = reference.run(core, known, batch, steps, sizes)
    worst = 0.0
    for name, want in expected.items():
        if name not in arrays:
            continue
        got = arrays[name].double().cpu().numpy()
        if not np.isfinite(got[np.isfinite(want)]).all():
            return float("inf")
        kept = np.isfinite(want)
        largest = max(float(np.max(np.abs(want[kept]), initial=0.0)), 1.0)
        worst = max(worst, float(np.max(np.abs(got[kept] - want[kept]), initial=0.0)) / largest)
    return worst
