"""Cases for generated Triton kernels, and how one is run and judged: in the interpreter and on a real device alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.triton import Options, TritonBackend
from recurc.plan import Plan, Role
from recurc.types import DType
from tests.systems import SIZES, SYSTEMS, plans, random_arrays

REALS = (DType.F32, DType.F64, DType.BF16, DType.F16)
UNIT = {DType.F32: 2.0**-24, DType.F64: 2.0**-53, DType.BF16: 2.0**-9, DType.F16: 2.0**-11}
BIG = {"lstm": {"D": 21, "H": 37}, "gru": {"D": 21, "H": 37}}


@dataclass(frozen=True)
class Case:
    system: str
    schedule: str
    real: DType
    batch: int
    steps: int
    options: Options = field(default_factory=Options)
    sizes: tuple[tuple[str, int], ...] = ()
    own_params: bool = False  # every sequence has params of its own
    time_first: bool = False  # arrays are (T, B, ...) in memory

    def __str__(self) -> str:
        extra = [k for k in ("own_params", "time_first") if getattr(self, k)]
        form = f"{self.options.recurrent} segments={self.options.segments}"
        sizes = dict(self.sizes)
        return f"{self.system} {self.schedule} {self.real.value} B={self.batch} T={self.steps} {form} {sizes} {extra}"


def interpreter_cases() -> Iterator[Case]:
    """Small ones: the interpreter takes a tenth of a millisecond or more for every operation of every step."""
    small = Options(block_t=16)
    for system, schedule in plans():
        sizes = tuple(SIZES[system].items())
        lengths = (1, 2, 3, 7, 64) if schedule == "scan" else (1, 2, 3, 7, 33)
        for n, steps in enumerate(lengths):
            yield Case(system, schedule, DType.F32, (1, 3, 4)[n % 3], steps, small, sizes)
        for real in REALS[1:]:
            yield Case(system, schedule, real, 3, 7 if schedule == "sequential" else 21, small, sizes)
        yield Case(system, schedule, DType.F32, 3, 5, small, sizes, own_params=True)
        yield Case(system, schedule, DType.F32, 3, 5, small, sizes, time_first=True)
        if schedule == "scan":
            for segments in (2, 5):
                split = Options(block_t=16, segments=segments)
                yield Case(system, schedule, DType.F32, 2, 77, split, sizes)
            yield Case(system, schedule, DType.F32, 1, 257, Options(block_t=32, segments=3), sizes)
            yield Case(system, schedule, DType.BF16, 2, 49, Options(block_t=16, segments=2), sizes)
    yield Case("ema", "sequential", DType.F32, 2, 257, small, tuple(SIZES["ema"].items()))
    for system in ("lstm", "gru"):
        sizes = tuple(BIG[system].items())
        tiles = Options(recurrent="dot", block_h=16)
        yield Case(system, "sequential", DType.F32, 3, 9, tiles, sizes)
        yield Case(system, "sequential", DType.F32, 18, 3, Options(recurrent="dot"), sizes)
        yield Case(system, "sequential", DType.F32, 3, 4, tiles, sizes, own_params=True)
        yield Case(system, "sequential", DType.F32, 3, 4, tiles, sizes, time_first=True)
        for real in REALS[1:]:
            yield Case(system, "sequential", real, 2, 6, tiles, sizes)
        yield Case(system, "sequential", DType.F32, 1, 20, Options(recurrent="dot"), (("D", 3), ("H", 7)))


def device_cases() -> Iterator[Case]:
    """Sizes of real use, in every storage type: what the interpreter is too slow for, and races."""
    sizes = {
        "ema": {"D": 100},
        "lstm": {"D": 65, "H": 130},
        "gru": {"D": 65, "H": 130},
        "selective_scan": {"D": 70, "N": 16},
        "aaren": {"D": 100},
    }
    for system, schedule in plans():
        at = tuple(sizes[system].items())
        for real in REALS:
            for batch, steps in ((1, 1), (4, 257), (17, 1000)):
                yield Case(system, schedule, real, batch, steps, Options(), at)
        yield Case(system, schedule, DType.F32, 3, 63, Options(), at, own_params=True)
        yield Case(system, schedule, DType.F32, 3, 63, Options(), at, time_first=True)
        if schedule == "scan":
            yield Case(system, schedule, DType.F32, 1, 20_000, Options(), at)
            yield Case(system, schedule, DType.F32, 2, 3001, Options(segments=7), at)
    for system in ("lstm", "gru"):
        yield Case(system, "sequential", DType.F32, 3, 200, Options(), tuple(SIZES[system].items()))


def tolerance(case: Case) -> float:
    """A bound on max|error| / max|reference|: rounding in the storage type (inputs are shared, so: outputs, and for
    half precisions the operands of tl.dot), and in the accumulator along the path of a state. The systems forget, so
    the path counts through its logarithm; the factors cover the operations of a step."""
    storage, accumulator = UNIT[case.real], UNIT[case.real.accumulator]
    return 8 * storage * (storage > accumulator) + 32 * accumulator * (1 + math.log2(max(case.steps, 2)))


def run(case: Case, seed: int, device: str) -> dict[str, float]:
    """The largest error of every result, relative to the largest value of the reference."""
    import torch

    plan: Plan = plans()[case.system, case.schedule]
    sizes = dict(case.sizes)
    spec = Specialization(tuple(sorted(sizes.items())), case.real)
    kernel = TritonBackend(options=case.options).build(plan, spec)
    rng = np.random.default_rng([seed, case.batch, case.steps])
    given = random_arrays(case.system, rng, case.batch, case.steps, sizes)
    params = {p.name for p in plan.recurrence.params}
    if case.own_params:
        for name in sorted(params):
            given[name] = given[name] * rng.uniform(0.5, 1.0, (case.batch,) + (1,) * (given[name].ndim - 1))
    dtype: Any = getattr(
        torch, {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16"}[case.real.value]
    )
    arrays: dict[str, Any] = {}
    for buffer in plan.buffers:
        shape = tuple(spec.size(d) for d in buffer.dims)
        if buffer.role in (Role.ONCE, Role.SEQUENCE):
            continue
        if buffer.name in given:
            array = torch.from_numpy(given[buffer.name]).to(device, dtype)
            if buffer.role is Role.PARAM:
                array = array.expand(case.batch, *shape)
        else:
            lead = (case.batch, case.steps) if buffer.has_time else (case.batch,)
            array = torch.full((*lead, *shape), math.nan, dtype=dtype, device=device)
        if case.time_first and buffer.has_time:
            array = array.transpose(0, 1).contiguous().transpose(0, 1)
        arrays[buffer.name] = array
    kernel(arrays, case.batch, case.steps)
    rounded = {k: v.double().cpu().numpy() for k, v in arrays.items() if k in given}
    expected = reference.run(SYSTEMS[case.system](), rounded, case.batch, case.steps, sizes)
    errors: dict[str, float] = {}
    for name, want in expected.items():
        got = arrays[name].double().cpu().numpy()
        largest = np.max(np.abs(want)) or 1.0
        errors[name] = float(np.max(np.abs(got - want)) / largest) if np.isfinite(got).all() else math.inf
    return errors
