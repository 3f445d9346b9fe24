"""Updates that are no weighted sums and still scan: every schedule of the interpreter and of native code against the
definition, and the proofs of their operators. (The GPU backends run the same cases in tests/gpu.)"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.errors import ShapeError
from recurc.passes import analyze
from tests.lifted_cases import CASES, Lifted, arrays

LENGTHS = (0, 1, 2, 3, 7, 257)


def agree(rec: recurc.Recurrence, given: dict[str, Any], bound: float = 1e-9) -> None:
    expected, final = rec.compile(backend="reference")(**given, return_final=True)
    for backend in ("numpy", "cpu"):
        for schedule in ("sequential", "scan"):
            found, ended = rec.compile(backend=backend, schedule=schedule)(**given, return_final=True)
            for have, want in ((found, expected), *((ended[n], final[n]) for n in final)):
                have, want = np.asarray(have), np.asarray(want)
                assert (have == want).all() or have.dtype.kind == "f", (backend, schedule)
                np.testing.assert_allclose(have, want, rtol=bound, atol=bound, err_msg=f"{backend}, {schedule}")


@pytest.mark.parametrize("case", CASES)
def test_every_schedule_agrees_with_the_definition(case: str, rng: np.random.Generator) -> None:
    rec = CASES[case].rec
    (group,) = rec.analyze().groups
    assert (group.cls, group.schedules[:2]) == (CASES[case].cls, ("sequential", "scan"))
    for steps in LENGTHS:
        agree(rec, arrays(rec, rng, 3, steps))


@pytest.mark.parametrize("case", CASES)
def test_the_operator_is_proved_within_five_seconds(case: str) -> None:
    rec = CASES[case].rec.ir
    start = time.process_time()
    (group,) = analyze(rec, prove=True).groups
    assert time.process_time() - start < 5.0
    assert (group.certificate.method, group.certificate.status) == ("symbolic", "proved"), group.certificate.details


def test_a_pole_is_passed(rng: np.random.Generator) -> None:
    """h = 1 / h goes through infinity, and comes back from it."""
    rec = recurc.load(text="recurrence P(D):\n    input  x[D]\n    state  h[D] = 0\n    h = x / h[t-1]\n    output h\n")
    x = 1 + rng.random((2, 300, 3))
    with np.errstate(divide="ignore"):
        agree(rec, {"x": x})
        assert np.isinf(np.asarray(rec.compile(backend="numpy", schedule="scan")(x=x))[:, ::2]).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_an_infinite_shift_lasts_for_one_step(bad: float, rng: np.random.Generator) -> None:
    rec = CASES["clamp"].rec
    given = arrays(rec, rng, 2, 70)
    given["x"][:, rng.integers(0, 70, 5)] = bad
    given["x"][0, rng.integers(0, 70, 5)] = -bad
    agree(rec, given)


def test_a_fraction_with_an_infinite_denominator_is_zero_and_goes_on_from_there(rng: np.random.Generator) -> None:
    """No proof sees this, for proofs are about finite values; the lifted element has a choice of its own for it."""
    rec = CASES["quotient"].rec
    given = arrays(rec, rng, 2, 70)
    given["z"][:, rng.integers(0, 70, 5)] = np.inf
    given["z"][0, rng.integers(0, 70, 5)] = -np.inf
    agree(rec, given)


ROOTS = {
    "square root": ("h = sqrt(z * h[t-1]**2 + x)", lambda h: h**2),
    "cube root": ("h = (z * h[t-1]**3 + x)**(1 / 3)", lambda h: h**3),
    "logarithm": ("h = log(z * exp(h[t-1]) + x)", np.exp),
}


@pytest.mark.parametrize("falls", [0.0, 0.02, 0.4])
@pytest.mark.parametrize("what", ROOTS)
def test_what_has_no_root_once_is_never_a_number_again(what: str, falls: float, rng: np.random.Generator) -> None:
    """A sum below 0 has no root, and neither has what is made of it; a later sum, that a scan could make without it,
    may be above 0. Factors of any sign and of exactly 0; what is under the root agrees to rounding."""
    line, under = ROOTS[what]
    rec = Lifted("AM", line).rec
    shape = (3, 90, 3)
    x, z = np.abs(rng.standard_normal(shape)), 0.2 + 0.7 * rng.random(shape)
    x = np.where(rng.random(shape) < falls, -x, x)
    z = np.where(rng.random(shape) < falls, -z, np.where(rng.random(shape) < 0.1, 0.0, z))
    for start in (1.0, 0.0, -0.75):
        given = {"x": x, "z": z, "initial": {"h": np.full((3, 3), start)}}
        with np.errstate(invalid="ignore", divide="ignore"):
            want = under(np.asarray(rec.compile(backend="reference")(**given)))
            for backend in ("numpy", "cpu"):
                have = under(np.asarray(rec.compile(backend=backend, schedule="scan")(**given)))
                np.testing.assert_allclose(have, want, rtol=1e-9, atol=1e-9, err_msg=f"{backend} from {start}")
        lost = np.isnan(want)
        assert (lost == np.maximum.accumulate(lost, axis=1)).all()
        assert lost.any() or falls == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_roots_of_what_is_not_finite(bad: float, rng: np.random.Generator) -> None:
    """In the two forms of the operator that keep account; an infinite factor or summand, or none that is a number."""
    for case, value in (("norm of what may have any sign", "x"), ("norm whose factor may have any sign", "x")):
        rec = CASES[case].rec
        given = arrays(rec, rng, 2, 70)
        given["p"] = np.abs(given["p"]) + 0.1
        given[value][0, 30, 1] = bad
        agree(rec, given)


def test_a_root_after_a_reset_has_forgotten_what_had_none(rng: np.random.Generator) -> None:
    rec = Lifted("SEG", "reset when go; h = sqrt(z * h[t-1]**2 + x + 0.5)", "abs(p)").rec
    (group,) = analyze(rec.ir, prove=True).groups
    assert group.schedules == ("sequential", "scan") and group.certificate.status == "decided"
    given = arrays(rec, rng, 3, 90)
    agree(rec, given)
    found = np.asarray(rec.compile(backend="numpy", schedule="scan")(**given))
    assert np.isnan(found).any() and np.isfinite(found[given["go"]]).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [c for c, v in CASES.items() if v.cls == "SEG" and not v.states])
def test_nothing_leaks_over_a_reset(case: str, bad: float, rng: np.random.Generator) -> None:
    rec = CASES[case].rec
    given = arrays(rec, rng, 2, 90)
    given["x"][0, 20, 1] = bad
    given["go"][:, 20:40] = False
    given["go"][:, 40] = True
    agree(rec, given)
    assert np.isfinite(np.asarray(rec.compile(backend="numpy", schedule="scan")(**given))[0, 40:]).all()


def test_sums_that_keep_their_rounding_errors_are_not_scanned() -> None:
    (group,) = recurc.zoo.load("kahan_sum").analyze().groups
    assert (group.cls, group.schedules) == ("NL-b", ("sequential",))
    assert any("rounding errors" in str(r) for r in group.reasons), group.reasons


def test_a_remainder_too_large_for_the_products_of_two_is_not_scanned() -> None:
    head = "recurrence R:\n    input  n: int\n    state  h: int = 1\n"
    for modulus, legal in ((3037000500, ("sequential", "scan")), (3037000502, ("sequential",))):
        rec = recurc.load(text=f"{head}    h = (3 * h[t-1] + n) % {modulus}\n    output h\n")
        assert rec.analyze().groups[0].schedules == legal


def test_a_delayed_remainder_keeps_a_first_value_that_is_none() -> None:
    """What stands before the first step may be above the modulus, and is read as it is."""
    rec = recurc.load(
        text="recurrence F:\n    input  n: int\n    state  h: int = 50\n    h = (h[t-1] + h[t-2] + n) % 7\n"
        "    old = h[t-2]\n    output h, old\n"
    )
    assert rec.analyze().groups[0].schedules == ("sequential",)
    _, old = rec.compile(backend="numpy")(n=np.arange(5))
    assert list(np.asarray(old)[:2]) == [50, 50]


@pytest.mark.parametrize(("first", "above"), [("5", "6"), ("0", "7")])
def test_a_delayed_remainder_that_surely_begins_as_one_is_scanned(first: str, above: str) -> None:
    rec = recurc.load(
        text=f"recurrence F:\n    input  n: int\n    state  h: int({above}) = {first}\n    h = h[t-1] + h[t-3] + n\n"
        "    old = h[t-3]\n    output h, old\n"
    )
    assert rec.analyze().groups[0].schedules == ("sequential", "scan")
    for steps in (0, 1, 2, 3, 9):
        agree(rec, {"n": np.arange(steps) - 4})
    with pytest.raises(ShapeError, match=rf"is int\({above}\)"):
        rec.compile(backend="numpy", schedule="scan")(n=np.arange(3), initial={"h": int(above)})
