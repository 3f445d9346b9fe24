"""The native CPU backend: one generated C file per plan, built with the system's compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recurc.backends.base import Specialization
from recurc.plan import Plan


class CpuBackend:
    """Generated C: SIMD over lanes, OpenMP over sequences and lanes, matrix products through packed panels."""

    name = "cpu"
    real_only = True

    def unavailable(self) -> str | None:
        """Why no kernel can be built on this machine, or None."""
        from recurc.runtime.compiler import why_no_compiler

        return why_no_compiler()

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        """What in the plan has no C form, in words a user understands."""
        from recurc.backends.cpu.limits import limitations

        return limitations(plan, spec)

    def build(self, plan: Plan, spec: Specialization) -> Any:
        """A `CpuKernel`. Raises `UnsupportedError` for a limitation, `BackendError` if the compiler or cache fails."""
        from recurc.backends.cpu.build import build

        return build(plan, spec)

    def export(self, plan: Plan, spec: Specialization, directory: Path) -> dict[str, Any]:
        """Write the C file, the command that builds it and a runner that needs only NumPy; the manifest's fields."""
        from recurc.backends.cpu.export import export

        return export(plan, spec, directory)


BACKEND = CpuBackend()
