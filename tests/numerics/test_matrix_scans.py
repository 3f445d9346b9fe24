"""Scans that multiply matrices or compose tables: the interpreter and native code against the definition, and the
proofs of their operators."""

from __future__ import annotations

import time

import numpy as np
import pytest

from recurc.passes import analyze
from tests.matrix_cases import CASES, Mixed, arrays

LENGTHS = (0, 1, 2, 3, 7, 64, 257)


def agree(case: Mixed, backend: str, rng: np.random.Generator, steps: int) -> None:
    """In f64 to 1e-9 of the largest value: 257 steps that each round at most 30 times by 1e-16 leave 1e-12, and the
    systems forget. In f32 by as much as its rounding is coarser, 5e8 times, for at most 64 steps."""
    given = arrays(case, rng, 2, steps)
    expected, final = case.rec.compile(backend="reference")(**given, return_final=True)
    for dtype, bound in (("f64", 1e-9), *([("f32", 2e-3)] if steps <= 64 else [])):
        real = np.float64 if dtype == "f64" else np.float32
        typed = {n: a.astype(real) if a.dtype.kind == "f" else a for n, a in given.items()}
        found, ended = case.rec.compile(backend=backend, schedule="scan")(**typed, return_final=True)
        several = expected if isinstance(expected, tuple) else (expected,)
        have = found if isinstance(found, tuple) else (found,)
        for a, b in (*zip(have, several, strict=True), *((ended[n], final[n]) for n in final)):
            a, b = np.asarray(a), np.asarray(b)
            if a.dtype.kind != "f":
                np.testing.assert_array_equal(a, b, err_msg=f"{backend}, {dtype}, {steps} steps")
                continue
            scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
            np.testing.assert_allclose(a, b, rtol=0, atol=bound * scale, err_msg=f"{backend}, {dtype}, {steps} steps")


@pytest.mark.parametrize("name", CASES)
def test_a_scan_of_matrices_is_legal_and_agrees_in_the_interpreter(name: str, rng: np.random.Generator) -> None:
    case = CASES[name]
    (group,) = case.rec.analyze().groups
    assert group.cls == case.cls and group.schedules[0] == "sequential", group.reasons
    assert ("scan" in group.on_request) is case.drifts and ("scan" in group.schedules) is not case.drifts, group.reasons
    for steps in (0, 1, 2, 7, 64):
        agree(case, "numpy", rng, steps)


def test_some_scans_of_matrices_agree_in_native_code(rng: np.random.Generator) -> None:
    name = str(rng.choice(list(CASES)))
    for steps in (0, 3, 257):
        agree(CASES[name], "cpu", rng, steps)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_every_scan_of_matrices_agrees(name: str, backend: str, rng: np.random.Generator) -> None:
    for steps in LENGTHS if CASES[name].drifts else (*LENGTHS, 4096):
        agree(CASES[name], backend, rng, steps)


@pytest.mark.parametrize("name", CASES)
def test_the_operator_is_proved_within_five_seconds(name: str) -> None:
    start = time.process_time()
    (group,) = analyze(CASES[name].rec.ir, prove=True).groups
    assert time.process_time() - start < 5.0
    # tables of several elements at once have too many cases; without dims they are proved
    proved = name not in ("automaton", "exclusive or")
    method = "exact" if CASES[name].cls == "MB" else "symbolic"
    known = (method, "proved") if proved else ("randomised", "decided")
    assert (group.certificate.method, group.certificate.status) == known, group.certificate.details


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_lists_are_merged_to_the_same_values_where_they_are_not_finite(backend: str, rng: np.random.Generator) -> None:
    """A maximum with what is not a number is none, in a loop and in a merge; infinities are numbers like others. Lists
    are exact, whatever they begin with."""
    case = CASES["largest values"]
    given = arrays(case, rng, 3, 70)
    given["x"][0, 20], given["x"][1, 30:40], given["x"][1, 50], given["p"][0, 1] = np.nan, np.inf, -np.inf, -np.inf
    expected, final = case.rec.compile(backend="reference")(**given, return_final=True)
    found, ended = case.rec.compile(backend=backend, schedule="scan")(**given, return_final=True)
    assert np.isnan(expected[0, 20:]).all() and not np.isnan(expected[1:]).any()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ended["h"], final["h"])


@pytest.mark.parametrize("first", [2**62, 2**63 - 1, 2**63 - 40, -(2**62), 0])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_whole_numbers_that_stand_for_infinity_are_kept(backend: str, first: int, rng: np.random.Generator) -> None:
    """First values at the end of their range, with which a sum would leave it, beside ones whose sums do not."""
    case = CASES["min and plus in whole numbers"]
    given = arrays(case, rng, 3, 70)
    given["A"][:] = rng.integers(1, 4, given["A"].shape)  # what is added to a first value is 0 or more
    given["A"][:, :, :, 0], given["n"][:] = 1, rng.integers(1, 4, given["n"].shape)
    start = {"h": np.array([0, first, first])}
    expected, final = case.rec.compile(backend="reference")(**given, initial=start, return_final=True)
    found, ended = case.rec.compile(backend=backend, schedule="scan")(**given, initial=start, return_final=True)
    if first < 2**62 + 1:  # else sums of the definition itself turn over
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(ended["h"], final["h"])
    else:
        assert (np.asarray(found) <= 0 + 3 * 70).all() and (np.asarray(found) >= 0).all()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("h = min(h[t-1] + n, 3)", "not known to be small enough"),
        ("h = min(h[t-1] + 4194304, 3)", "not known to be small enough"),
        ("h = min(h[t-1] - 4194304, 3)", "not known to be small enough"),
        ("h = max(h[t-1] - n, 3)", "not known to be small enough"),
        ("h = min(h[t-1] + 1, n)", "not known to be small enough"),
        ("h = max(h[t-1] + cast(x, int), 3)", "not known to be small enough"),
        ("h = min(-h[t-1] + 1, 3)", ""),
        ("h = min(2 * h[t-1] + 1, 3)", ""),
    ],
)
def test_sums_of_whole_numbers_without_bounds_are_not_scanned(line: str, word: str) -> None:
    case = Mixed("", f"input x[D], n[D]: int; state h[D]: int = 0; {line}; output h, z = x + 1 + n")
    (group,) = case.rec.analyze().groups
    assert "scan" not in group.schedules and any(word in r.text for r in group.reasons), group.reasons


@pytest.mark.parametrize(
    "line",
    [
        "h = min(h[t-1] + 4194303, 3)",
        "h = max(h[t-1] - k + m, t)",
        "h = min(if k == 0 then h[t-1] + index(D) else h[t-1] - m, m * k)",
    ],
)
def test_sums_of_whole_numbers_with_bounds_are_scanned(line: str, rng: np.random.Generator) -> None:
    case = Mixed("", f"input k[D]: int(Q); param m: int(N); state h[D]: int = 0; {line}; output h, z = k + m")
    (group,) = case.rec.analyze().groups
    assert group.schedules == ("sequential", "scan"), group.reasons
    for steps in (1, 2, 64):
        agree(case, "numpy", rng, steps)


LOOK_ALIKES = {
    "two places on": "h = max(h[t-1], if index(Q) == 0 then x else min(lookup(h[t-1], index(Q) - 2), x))",
    "taken in at the second place": "h = max(h[t-1], if index(Q) == 1 then x else min(above, x))",
    "two values": "h = max(h[t-1], if index(Q) == 0 then x else min(above, y))",
    "a minimum of maxima of maxima": "h = min(h[t-1], if index(Q) == 0 then x else min(above, x))",
    "the negated list": "h = max(h[t-1], if index(Q) == 0 then x else min(-above, x))",
    "a value that the list decides": "v = x + 0.5 * lookup(h[t-1], 0); "
    "h = max(h[t-1], if index(Q) == 0 then v else min(above, v))",
    "a list that fades": "h = max(0.5 * h[t-1], if index(Q) == 0 then x else min(above, x))",
}


@pytest.mark.parametrize("what", LOOK_ALIKES)
def test_what_looks_like_a_sorted_list_is_none(what: str, rng: np.random.Generator) -> None:
    """None is merged as a list; those that are scanned, as linear maps over max and min, mean what they say."""
    before = "input x, y; param p[Q]; state h[Q] = p; above = lookup(h[t-1], index(Q) - 1)"
    case = Mixed("", f"{before}; {LOOK_ALIKES[what]}; output h, z = x + y")
    (group,) = case.rec.analyze().groups
    assert not any("in order along" in r.text for r in group.reasons), group.reasons
    if "scan" in group.schedules:
        for steps in (1, 2, 7, 64):
            agree(case, "numpy", rng, steps)
