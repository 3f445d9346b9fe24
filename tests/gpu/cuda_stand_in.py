"""The CUDA backend with kernels built for the CPU, in the place of the real one behind the public API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recurc.backends.base import Arrays, Kernel, Specialization
from recurc.backends.cuda import BACKEND
from recurc.plan import Plan
from recurc.runtime.torch_ops import host_view
from tests.gpu.cuda_shim import ShimKernel


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
    real_only = True

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
