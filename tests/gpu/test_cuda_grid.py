"""CUDA C++, run on the CPU, agrees with the definition for every length and batch shape of the grid, and every form of
expression."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu.cuda_shim import has_compiler
from tests.gpu.cuda_stand_in import OnCpu
from tests.gpu.grid import PAIRS, check, sample, whole_grid
from tests.numerics.test_expressions import REAL, agree

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


@pytest.mark.parametrize("form", REAL)
def test_every_form_of_expression_agrees_with_the_definition(
    form: str, on_cpu: OnCpu, rng: np.random.Generator
) -> None:
    agree(REAL[form], "cuda", rng)
    assert [k.calls for k in on_cpu.kernels.values()] == [1]


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_a_sample_of_the_grid_agrees_with_the_definition(name: str, schedule: str, on_cpu: OnCpu, seed: int) -> None:
    for point in sample(name, schedule, seed):
        check(name, schedule, "cuda", point, seed)
    assert sum(k.calls for k in on_cpu.kernels.values()) == 2, "all but the call without steps reach the kernel"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_the_whole_grid_agrees_with_the_definition(name: str, schedule: str, on_cpu: OnCpu, seed: int) -> None:
    points = list(whole_grid())
    for point in points:
        check(name, schedule, "cuda", point, seed)
    assert sum(k.calls for k in on_cpu.kernels.values()) == sum(p.steps > 0 for p in points)
