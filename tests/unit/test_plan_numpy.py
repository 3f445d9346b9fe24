"""The plan interpreter executes every kind of stage with the meaning the reference gives the recurrence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recurc.backends import plan_numpy, reference
from recurc.backends.base import Specialization
from recurc.backends.plan_numpy import prefix_scan
from recurc.backends.storage import bf16_bits, loaded
from recurc.ir import Equation
from recurc.ops import add
from recurc.plan import Map, Plan, Role
from recurc.types import DType
from tests.systems import SIZES, SYSTEMS, plans, random_arrays, read

PLANS = plans()


def execute(
    plan: Plan, sizes: dict[str, int], arrays: dict[str, np.ndarray], batch: int, steps: int, real: DType
) -> dict[str, np.ndarray]:
    """Calls the kernel as a caller must: every buffer at its full shape, params and initials broadcast."""
    spec = Specialization(tuple(sorted(sizes.items())), real)
    storage = np.dtype(np.uint16) if real is DType.BF16 else real.to_numpy()
    given: dict[str, np.ndarray] = {}
    for buffer in plan.buffers:
        shape = tuple(spec.size(d) for d in buffer.dims)
        lead = (batch, steps) if buffer.has_time else (batch,)
        if buffer.role in (Role.INPUT, Role.PARAM, Role.INITIAL):
            value = bf16_bits(arrays[buffer.name]) if real is DType.BF16 else arrays[buffer.name].astype(storage)
            given[buffer.name] = np.broadcast_to(value, (*lead, *shape))
        elif buffer.role in (Role.OUTPUT, Role.FINAL):
            given[buffer.name] = np.zeros((*lead, *shape), storage)
    plan_numpy.BACKEND.build(plan, spec)(given, batch, steps)
    return {
        b.name: loaded(given[b.name]).astype(np.float64) for b in plan.buffers if b.role in (Role.OUTPUT, Role.FINAL)
    }


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("system", "schedule"), PLANS)
def test_every_schedule_means_what_the_reference_says(
    system: str, schedule: str, batch: int, steps: int, rng: np.random.Generator
) -> None:
    arrays = random_arrays(system, rng, batch, steps)
    expected = reference.run(SYSTEMS[system](), arrays, batch, steps)
    got = execute(PLANS[system, schedule], SIZES[system], arrays, batch, steps, DType.F64)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        # A few hundred roundings of values of order one, in another order of summation.
        np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(("real", "bound"), [(DType.F32, 2e-5), (DType.F16, 2e-2), (DType.BF16, 1e-1)])
@pytest.mark.parametrize(("system", "schedule"), PLANS)
def test_storage_dtypes_round_only_where_arrays_are_stored(
    system: str, schedule: str, real: DType, bound: float, rng: np.random.Generator
) -> None:
    arrays = random_arrays(system, rng, 2, 9)
    stored = {n: loaded(bf16_bits(a)) if real is DType.BF16 else a.astype(real.to_numpy()) for n, a in arrays.items()}
    expected = reference.run(SYSTEMS[system](), stored, 2, 9)
    got = execute(PLANS[system, schedule], SIZES[system], arrays, 2, 9, real)
    for name, value in got.items():
        scale = np.abs(expected[name]).max() + 1
        assert np.abs(value - expected[name]).max() <= bound * scale, name


def test_batched_params_reach_every_stage(rng: np.random.Generator) -> None:
    arrays = random_arrays("lstm", rng, 3, 4)
    arrays["W"] = rng.standard_normal((3, *arrays["W"].shape[1:]))
    arrays["U"] = rng.standard_normal((3, *arrays["U"].shape[1:]))
    expected = reference.run(SYSTEMS["lstm"](), arrays, 3, 4)
    got = execute(PLANS["lstm", "sequential"], SIZES["lstm"], arrays, 3, 4, DType.F64)
    np.testing.assert_allclose(got["h"], expected["h"], rtol=1e-12, atol=1e-12)


def test_a_map_reads_the_step_before_from_the_buffer_and_its_initial(rng: np.random.Generator) -> None:
    plan = PLANS["ema", "sequential"]
    x, before = read("x", "D"), read("h", "D", lag=1)
    sunk = Map((Equation("y", add(x, before)),), ("y",))
    output = replace(plan.buffer("h"), name="y")
    plan = replace(plan, buffers=(*plan.buffers, output), stages=(*plan.stages, sunk))
    arrays = random_arrays("ema", rng, 2, 5)
    got = execute(plan, SIZES["ema"], arrays, 2, 5, DType.F64)
    delayed = np.concatenate([arrays["h@initial"][:, None], got["h"][:, :-1]], axis=1)
    np.testing.assert_allclose(got["y"], arrays["x"] + delayed, rtol=1e-14)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 31])
def test_the_scan_needs_associativity_but_not_commutativity(steps: int, rng: np.random.Generator) -> None:
    matrices = rng.standard_normal((2, steps, 3, 3)) / 2
    (got,) = prefix_scan([matrices], lambda earlier, later: [later[0] @ earlier[0]])
    running = np.broadcast_to(np.eye(3), (2, 3, 3))
    for t in range(steps):
        running = matrices[:, t] @ running
        np.testing.assert_allclose(got[:, t], running, rtol=1e-12, atol=1e-12)
