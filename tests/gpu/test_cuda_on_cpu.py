"""The generated CUDA C++ computes what the definition says: run on the CPU, one fiber per CUDA thread.

Bounds: for f32 and wider, the unit of rounding times a condition factor times 1 + log2 T (sums and decays of these
systems neither grow nor cancel); half precisions compute in f32 and round once on the way out, so half a unit in the
last place of the stored type relative to the value, on top of the f32 bound."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pytest

from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.cuda import block_stage, lane_stage, persistent_stage, scan_stage
from recurc.backends.storage import bf16_bits, loaded
from recurc.plan import Plan, Role
from recurc.types import DType
from tests.gpu.cuda_shim import ShimKernel, has_compiler
from tests.systems import SIZES, SYSTEMS, plans, random_arrays

pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")

STORED = {DType.F32: np.float32, DType.F64: np.float64, DType.F16: np.float16, DType.BF16: np.uint16}
EPSILON = {DType.F32: 2.0**-24, DType.F64: 2.0**-53, DType.F16: 2.0**-24, DType.BF16: 2.0**-24}
ROUNDING = {DType.F32: 0.0, DType.F64: 0.0, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}
GUARD = 7  # elements of NaN around every array
# every system and schedule in f32; each other type where it matters: loads, stores, sums, products, the identity of max
CASES = [(key, DType.F32) for key in plans()] + [
    (("ema", "sequential"), DType.F16),
    (("aaren", "scan"), DType.F16),
    (("lstm", "sequential"), DType.BF16),
    (("selective_scan", "sequential"), DType.BF16),
    (("selective_scan", "scan"), DType.BF16),
    (("ema", "scan"), DType.F64),
    (("gru", "sequential"), DType.F64),
]


def stored(values: np.ndarray, real: DType) -> np.ndarray:
    return bf16_bits(values) if real is DType.BF16 else values.astype(STORED[real])


@lru_cache(maxsize=64)
def kernel(key: tuple[str, str], real: DType, sizes: tuple[tuple[str, int], ...]) -> ShimKernel:
    return ShimKernel(plans()[key], Specialization(sizes, real), seed=1)


class Arrays:
    """Every buffer the caller brings, in the middle of guard elements, with odd strides between sequences and steps."""

    def __init__(
        self, name: str, plan: Plan, spec: Specialization, rng: np.random.Generator, batch: int, steps: int
    ) -> None:
        real = spec.real
        values = random_arrays(name, rng, batch, steps, dict(spec.sizes))
        self.arrays: dict[str, np.ndarray] = {}
        self.whole: dict[str, np.ndarray] = {}
        self.results = [b.name for b in plan.buffers if b.role in (Role.OUTPUT, Role.FINAL)]
        for buffer in plan.buffers:
            if buffer.role in (Role.ONCE, Role.SEQUENCE):
                continue
            lead = (batch, steps) if buffer.has_time else (batch,)
            shape = (*lead, *(spec.size(d) for d in buffer.dims))
            given = values.get(buffer.name)
            shape = shape if given is None else given.shape
            self._place(buffer.name, shape, real, rng, buffer.has_time)
            if given is not None:
                self.arrays[buffer.name][...] = stored(given, real)
        exact = {n: loaded(a).astype(np.float64) for n, a in self.arrays.items() if n in values}
        self.expected = reference.run(SYSTEMS[name](), exact, batch, steps)

    def _place(self, name: str, shape: tuple[int, ...], real: DType, rng: np.random.Generator, has_time: bool) -> None:
        lead = 2 if has_time else 1
        inner = math.prod(shape[lead:])
        per_step = inner + int(rng.integers(0, 3))
        per_sequence = (shape[1] * per_step if has_time else inner) + int(rng.integers(0, 3))
        flat = stored(np.full(2 * GUARD + shape[0] * per_sequence, np.nan), real)
        item = flat.itemsize
        inside = [item * math.prod(shape[i + 1 :]) for i in range(lead, len(shape))]
        strides = (per_sequence * item, per_step * item)[:lead] + tuple(inside)
        self.whole[name] = flat
        self.arrays[name] = np.lib.stride_tricks.as_strided(flat[GUARD:], shape, strides)

    def check(self, real: DType, steps: int, what: str) -> None:
        for name in self.results:
            want, have = self.expected[name], loaded(self.arrays[name]).astype(np.float64)
            scale = max(1.0, float(np.max(np.abs(want))))
            allowed = 32 * EPSILON[real] * (1 + math.log2(steps)) * scale + ROUNDING[real] * np.abs(want)
            if real is DType.F16:
                allowed = allowed + 2.0**-24  # below 2^-14 the spacing of f16 is constant
            worst = float(np.max(np.abs(have - want) / allowed))
            assert worst <= 1, f"{what}: {name} is off by {worst:.2f} times the bound"
            written = np.zeros(self.whole[name].size, bool)
            start = (self.arrays[name].ctypes.data - self.whole[name].ctypes.data) // self.whole[name].itemsize
            mask = np.lib.stride_tricks.as_strided(
                written[start:],
                self.arrays[name].shape,
                tuple(s // self.whole[name].itemsize for s in self.arrays[name].strides),
            )
            mask[...] = True
            outside = loaded(self.whole[name])[~written]
            assert np.isnan(outside.astype(np.float64)).all(), f"{what}: {name} was written outside its elements"


def check(
    key: tuple[str, str], real: DType, seed: int, batch: int, steps: int, sizes: dict[str, int] | None = None
) -> None:
    chosen = tuple(sorted((sizes or SIZES[key[0]]).items()))
    run = kernel(key, real, chosen)
    run.seed = seed
    spec = Specialization(chosen, real)
    arrays = Arrays(key[0], plans()[key], spec, np.random.default_rng(seed), batch, steps)
    run(arrays.arrays, batch, steps)
    arrays.check(real, steps, f"{key[0]} {key[1]} {real.value} B={batch} T={steps}")


@pytest.mark.parametrize(("key", "real"), CASES, ids=lambda v: v.value if isinstance(v, DType) else "-".join(v))
def test_kernels_compute_the_definition(key: tuple[str, str], real: DType, seed: int) -> None:
    for steps in (1, 2, 3, 7, 64):
        check(key, real, seed, 1 if steps == 3 else 3, steps)


@pytest.mark.parametrize("together", [False, True], ids=["blocks in turn", "blocks at once"])
@pytest.mark.parametrize("key", [k for k in plans() if k[1] == "scan"], ids="-".join)
def test_chunks_are_chained(key: tuple[str, str], together: bool, seed: int) -> None:
    """Every chunk by its own block: in any order of running, and all running at once."""
    sizes = {"ema": {"D": 11}, "aaren": {"D": 3}, "selective_scan": {"D": 3, "N": 2}}[key[0]]
    run = kernel(key, DType.F32, tuple(sorted(sizes.items())))
    run.together = together
    for steps in (257, 1030):
        check(key, DType.F32, seed, 2, steps, sizes)


@pytest.mark.parametrize("key", [k for k in plans() if k[1] == "scan"], ids="-".join)
def test_a_block_walks_over_the_chunks_of_its_own(
    key: tuple[str, str], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, seed: int
) -> None:
    """What runs when sequences and lanes fill the GPU."""
    monkeypatch.setattr(scan_stage, "ENOUGH_BLOCKS", 0)
    spec = Specialization(tuple(sorted(SIZES[key[0]].items())), DType.F32)
    run = ShimKernel(plans()[key], spec, seed)
    for batch, steps in ((3, 1), (1, 2), (2, 7), (2, 64), (1, 1030)):
        arrays = Arrays(key[0], plans()[key], spec, rng, batch, steps)
        run(arrays.arrays, batch, steps)
        arrays.check(DType.F32, steps, f"{key[0]} walking")


def test_a_scan_of_a_single_lane_uses_the_whole_warp_along_time(seed: int) -> None:
    check(("ema", "scan"), DType.F32, seed, 2, 3000, {"D": 1})


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_persistent_loop_splits_rows_over_blocks_and_the_batch_over_groups(name: str, seed: int) -> None:
    sizes = {"D": 5, "H": 37}  # 5 blocks, the last one partly idle
    for batch, groups in ((1, 1), (19, 1), (19, 3)):
        kernel((name, "sequential"), DType.F32, tuple(sorted(sizes.items()))).most_groups = groups
        check((name, "sequential"), DType.F32, seed, batch, 4, sizes)


def test_the_persistent_loop_streams_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(persistent_stage, "WEIGHT_REGISTERS", 0)
    monkeypatch.setattr(persistent_stage, "RESIDENT_BLOCKS", 2)
    check(("gru", "sequential"), DType.F32, seed, 9, 3, {"D": 4, "H": 41})


def test_sequences_with_weights_of_their_own_take_the_block_form(rng: np.random.Generator, seed: int) -> None:
    spec = Specialization((("D", 3), ("H", 8)), DType.F64)
    plan = plans()["lstm", "sequential"]
    run = ShimKernel(plan, spec, seed)
    batch, steps = 3, 5
    own = random_arrays("lstm", rng, batch, steps, dict(spec.sizes))
    for param in ("W", "U", "b"):
        own[param] = rng.standard_normal((batch, *own[param].shape[1:]))
    out = {"h": np.empty((batch, steps, 8)), "h@final": np.empty((batch, 8)), "c@final": np.empty((batch, 8))}
    run({**own, **out}, batch, steps)
    want = reference.run(SYSTEMS["lstm"](), own, batch, steps)
    for name, have in out.items():
        np.testing.assert_allclose(have, want[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["ema", "selective_scan", "aaren"])
def test_the_block_form_computes_what_the_lane_form_does(
    name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, seed: int
) -> None:
    monkeypatch.setattr(lane_stage, "REGISTER_BUDGET", -1)
    for budget in (block_stage.SHARED_BUDGET, 0):  # in shared memory, then in device memory
        monkeypatch.setattr(block_stage, "SHARED_BUDGET", budget)
        spec = Specialization(tuple(sorted(SIZES[name].items())), DType.F32)
        plan = plans()[name, "sequential"]
        arrays = Arrays(name, plan, spec, rng, 2, 3)
        ShimKernel(plan, spec, seed)(arrays.arrays, 2, 3)
        arrays.check(DType.F32, 3, f"{name} by blocks")


def test_reversed_time_and_broadcast_sequences_are_strides(rng: np.random.Generator) -> None:
    run = kernel(("ema", "sequential"), DType.F32, (("D", 5),))
    x = rng.standard_normal((1, 9, 5)).astype(np.float32)
    fixed = {"alpha": np.full(1, 0.25, np.float32), "h@initial": np.zeros((2, 5), np.float32)}
    results = []
    for reverse in (False, True):
        series = np.ascontiguousarray(x[:, ::-1])[:, ::-1] if reverse else x  # the same numbers, strides the other way
        out = {"h": np.empty((2, 9, 5), np.float32), "h@final": np.empty((2, 5), np.float32)}
        h = np.empty((2, 9, 5), np.float32)
        run(
            {
                "x": np.broadcast_to(series, (2, 9, 5)),
                **fixed,
                "h": h[:, ::-1] if reverse else h,
                "h@final": out["h@final"],
            },
            2,
            9,
        )
        results.append((h[:, ::-1] if reverse else h, out["h@final"]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[0], one[1])
