"""Inputs at the edge of the number range: no backend may lose what the definition keeps, or invent what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.numerics.cases import SYSTEMS, Arrays, compare, draw, expected, run

AAREN, EMA, DIAGONAL, LSTM, GRU = (SYSTEMS[n] for n in ("aaren", "ema", "diagonal_affine", "lstm", "gru"))
BOTH = ["sequential", "scan"]


def _declared(arrays: Arrays) -> Arrays:
    return {name: a for name, a in arrays.items() if "@" not in name}


@pytest.mark.parametrize("schedule", BOTH)
@pytest.mark.parametrize("centre", [-1e4, -300.0, 0.0, 300.0, 1e4])
def test_a_stabilised_softmax_bears_any_shift_of_its_scores(
    centre: float, schedule: str, backend: str, rng: np.random.Generator
) -> None:
    """exp(300) overflows float32 and exp(-300) is 0 in it: only differences of scores may be exponentiated."""
    steps = 129
    arrays = draw(AAREN, rng, (3,), steps, "wide")
    arrays["s"] = (arrays["s"] * 3 + centre).astype(np.float32)
    ref = expected(AAREN, arrays, (3,), steps, given=False)
    assert np.isfinite(ref["o"]).all()
    for real in ("f32", "f64"):
        found = run(AAREN, arrays, real, given=False, backend=backend, schedule=schedule)
        compare(found, ref, real, steps, f"aaren at {centre} by {schedule} on {backend}, {real}")


@pytest.mark.parametrize("schedule", BOTH)
def test_a_jump_of_the_scores_forgets_or_ignores_the_past(
    schedule: str, backend: str, rng: np.random.Generator
) -> None:
    steps, jump = 66, 31
    arrays = draw(AAREN, rng, (2, 2), steps, "small")
    arrays["s"][0, :, jump:] += 300
    arrays["s"][1, :, jump:] -= 300
    ref = expected(AAREN, arrays, (2, 2), steps, given=False)
    for real in ("f32", "f64"):
        found = run(AAREN, arrays, real, given=False, backend=backend, schedule=schedule)
        compare(found, ref, real, steps, f"aaren with a jump by {schedule} on {backend}, {real}")


@pytest.mark.parametrize("schedule", BOTH)
def test_a_score_of_minus_infinity_masks_its_step(schedule: str, backend: str, rng: np.random.Generator) -> None:
    steps = 40
    arrays = draw(AAREN, rng, (3,), steps, "small")
    masked = rng.random(arrays["s"].shape) < 0.4
    masked[:, 0] = False
    arrays["s"][masked] = -np.inf
    ref = expected(AAREN, arrays, (3,), steps, given=False)
    assert np.isfinite(ref["o"]).all()
    found = run(AAREN, arrays, "f64", given=False, backend=backend, schedule=schedule)
    compare(found, ref, "f64", steps, f"masked aaren by {schedule} on {backend}")


@pytest.mark.parametrize("schedule", BOTH)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_lane_and_travel_forward(
    bad: float, schedule: str, backend: str, rng: np.random.Generator
) -> None:
    steps = 70
    for system, name in ((EMA, "x"), (DIAGONAL, "b")):
        arrays = draw(system, rng, (3,), steps, "wide")
        arrays[name][1, 33, 4] = bad
        if name == "b":
            arrays["a"] = np.abs(arrays["a"]) + np.float32(0.01)  # 0 * inf would be NaN in one order and not another
        ref = expected(system, arrays, (3,), steps, given=False)
        assert not np.isfinite(ref["h"][1, 33:, 4]).any()
        assert np.isfinite(ref["h"]).sum() == ref["h"].size - (steps - 33)
        for real in ("f32", "f64"):
            found = run(system, arrays, real, given=False, backend=backend, schedule=schedule)
            compare(found, ref, real, steps, f"{system.name} with {bad} by {schedule} on {backend}, {real}")


@pytest.mark.parametrize("system", [LSTM, GRU], ids=lambda s: s.name)
def test_nan_in_one_sequence_leaves_the_others_alone(system, backend: str, rng: np.random.Generator) -> None:
    arrays = draw(system, rng, (3,), 20, "wide")
    arrays["x"][1, 7, 2] = np.nan
    ref = expected(system, arrays, (3,), 20, given=True)
    assert np.isnan(ref["h"][1, 7:]).all()
    found = run(system, arrays, "f64", given=True, backend=backend)
    compare(found, ref, "f64", 20, f"{system.name} with NaN on {backend}")


@pytest.mark.parametrize("schedule", BOTH)
def test_denormal_numbers_are_not_flushed(schedule: str, backend: str, rng: np.random.Generator) -> None:
    """Results near 1e-40: within some steps of the smallest float32, 1.4e-45, one per operation and forgotten step."""
    steps = 65
    arrays = draw(EMA, rng, (3,), steps, "wide")
    arrays["x"] = (rng.uniform(1, 2, arrays["x"].shape) * 1e-40).astype(np.float32)
    arrays["alpha"] = np.asarray(0.25, dtype=np.float32)
    ref = expected(EMA, _declared(arrays), (3,), steps, given=False)
    found = run(EMA, _declared(arrays), "f32", given=False, backend=backend, schedule=schedule)
    assert np.abs(found["h"] - ref["h"]).max() < 40 * 1.5e-45
    assert found["h"].min() > 0


@pytest.mark.parametrize("system", [LSTM, GRU], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_saturated_gates_are_exact_and_finite(system, size: float, backend: str, rng: np.random.Generator) -> None:
    """tanh by exponentials alone is NaN far out, and a naive sigmoid overflows; both must end at their limits.

    In float32 a gate near its turning point is off by eps times `size`, so there only the range is checked."""
    steps = 33
    arrays = draw(system, rng, (3,), steps, "wide")
    arrays["x"] = np.sign(arrays["x"]).astype(np.float32) * np.float32(size)
    ref = expected(system, arrays, (3,), steps, given=True)
    assert np.isfinite(ref["h"]).all()
    for real in ("f32", "f64"):
        found = run(system, arrays, real, given=True, backend=backend)
        assert np.isfinite(found["h"]).all()
        assert np.abs(found["h"]).max() <= max(1.0, float(np.abs(arrays["h@initial"]).max()))
        if real == "f64":
            compare(found, ref, real, steps, f"{system.name} at {size} on {backend}")


@pytest.mark.parametrize(
    ("first", "schedule"),
    [(np.inf, "sequential"), (np.inf, "scan"), (np.nan, "sequential"), (np.nan, "scan"), (-np.inf, "sequential")],
)
def test_a_softmax_over_nothing_is_nan_as_the_definition_says(
    first: float, schedule: str, backend: str, rng: np.random.Generator
) -> None:
    """exp(-inf - -inf) is NaN in the equations as written; a loop may not quietly know better.

    The exception is a leading score of -inf by scan: parts of an associative form meet in any order, so its guard
    against -inf lets a masked beginning be forgotten, and the result is NaN only until the first finite score."""
    steps = 12
    arrays = draw(AAREN, rng, (2,), steps, "small")
    arrays["s"][0, 0] = first
    ref = expected(AAREN, arrays, (2,), steps, given=False)
    assert np.isnan(ref["o"][0]).all()
    assert np.isfinite(ref["o"][1]).all()
    found = run(AAREN, arrays, "f64", given=False, backend=backend, schedule=schedule)
    compare(found, ref, "f64", steps, f"aaren that begins with {first} by {schedule} on {backend}")


def test_by_scan_a_masked_beginning_counts_for_nothing(backend: str, rng: np.random.Generator) -> None:
    steps = 12
    arrays = draw(AAREN, rng, (2,), steps, "small")
    arrays["s"][:, :3] = -np.inf
    found = run(AAREN, arrays, "f64", given=False, backend=backend, schedule="scan")
    rest = {n: a[:, 3:] for n, a in arrays.items() if "@" not in n}
    ref = expected(AAREN, rest, (2,), steps - 3, given=False)
    assert np.isnan(found["o"][:, :3]).all()
    compare({"o": found["o"][:, 3:]}, {"o": ref["o"]}, "f64", steps, f"aaren with a masked beginning on {backend}")
