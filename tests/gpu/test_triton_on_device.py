"""What only a real GPU can answer about the Triton backend: races, launch limits, machine code that runs. Run by
`make gpu`."""

from __future__ import annotations

import pytest

from recurc.backends.triton import BACKEND
from tests.gpu.triton_cases import Case, device_cases, run, tolerance

MISSING = BACKEND.unavailable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING is not None, reason=f"no GPU for Triton: {MISSING}")]


@pytest.mark.parametrize("case", list(device_cases()), ids=str)
def test_kernels_on_the_device_compute_what_the_reference_defines(case: Case, seed: int) -> None:
    errors = run(case, seed, "cuda")
    # tl.dot rounds its half operands at every step, where the interpreter's small cases round a few
    assert max(errors.values()) <= 2 * tolerance(case), f"{case}: {errors}"


@pytest.mark.parametrize("system", ["lstm", "selective_scan", "aaren"])
def test_the_same_call_gives_the_same_bits(system: str, seed: int) -> None:
    sizes = {"lstm": (("D", 65), ("H", 130)), "selective_scan": (("D", 70), ("N", 16)), "aaren": (("D", 100),)}
    from recurc.types import DType

    schedule = "sequential" if system == "lstm" else "scan"
    case = Case(system, schedule, DType.F32, 5, 700, sizes=sizes[system])
    assert run(case, seed, "cuda") == run(case, seed, "cuda")


def test_random_recurrences_agree_with_the_reference_in_f64(seed: int) -> None:
    from tests.gpu.triton_random import random_errors

    wrong = [(what, e) for what, e in random_errors(seed % 100_000, 8, "cuda") if e is not None and not e <= 1e-10]
    assert not wrong
