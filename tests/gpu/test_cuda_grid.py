"""CUDA C++, run on the CPU, agrees with the definition for every length and batch shape of the grid, and every form of
expression."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recurc.backends.base import Arrays, Kernel, Specialization
from recurc.backends.cuda import BACKEND
from recurc.plan import Plan
from recurc.runtime import choose
from recurc.runtime.torch_ops import host_view
from tests.gpu.cuda_shim import ShimKernel, has_compiler
from tests.gpu.grid import PAIRS, check, sample, whole_grid
from tests.numerics.test_expressions import REAL, agree

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


class TensorKernel:
    """A kernel on the CPU that takes tensors, as those for a GPU do."""

    def __init__(self, kernel: ShimKernel) -> None:
        self.kernel, self.source, self.calls = kernel, kernel.source, 0

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        self.calls += 1
        self.kernel({name: host_view(tensor) for name, tensor in arrays.items()}, batch, steps)  # no copies


class OnCpu:
    """The backend, with kernels built for the CPU, once for every plan."""

    name = "cuda"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kernels: dict[Any, TensorKernel] = {}

    def unavailable(self) -> str | None:
        return None

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        return BACKEND.limitations(plan, spec)

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        key = replace(plan, candidates=()), spec
        if key not in self.kernels:
            self.kernels[key] = TensorKernel(ShimKernel(plan, spec, self.seed))
        return self.kernels[key]


@pytest.fixture
def on_cpu(seed: int, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    known, stand_in = choose.backend, OnCpu(seed)
    monkeypatch.setattr(choose, "backend", lambda name: stand_in if name == "cuda" else known(name))
    return stand_in


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
