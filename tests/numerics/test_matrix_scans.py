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
    assert (group.cls, group.schedules[:2]) == (case.cls, ("sequential", "scan")), group.reasons
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
    for steps in (*LENGTHS, 4096):
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
