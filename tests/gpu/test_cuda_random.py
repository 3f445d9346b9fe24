"""Recurrences drawn at random mean the same as CUDA C++ (run on the CPU) by every schedule."""

from __future__ import annotations

import pytest

from recurc.backends.base import Kernel, Specialization
from recurc.backends.cuda import BACKEND, lane_stage
from recurc.plan import Plan
from recurc.types import DType
from tests.gpu.cuda_shim import ShimKernel, has_compiler
from tests.property.test_random_recurrences import _agree as agree

pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


class OnCpu:
    """The backend, with kernels built for the CPU."""

    name = "cuda"
    real_only = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def unavailable(self) -> str | None:
        return None

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        return BACKEND.limitations(plan, spec)

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        return ShimKernel(plan, spec, self.seed)


def test_a_random_recurrence_means_the_same(seed: int) -> None:
    assert agree(seed % 10**6, OnCpu(seed), (DType.F64,)) > 0


def test_a_random_recurrence_means_the_same_by_blocks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_stage, "REGISTER_BUDGET", -1)
    assert agree(seed % 10**6 + 1, OnCpu(seed), (DType.F64,)) > 0


@pytest.mark.slow
def test_many_random_recurrences_mean_the_same(seed: int) -> None:
    assert sum(agree(seed % 10**6 + k, OnCpu(seed), (DType.F64,)) for k in range(40)) > 40
