"""The Triton backend: what it cannot do, and building what it can."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recurc import ir
from recurc.backends.base import Kernel, Specialization
from recurc.backends.emit.lanes import stage_exprs
from recurc.backends.triton.kernel import Options
from recurc.backends.triton.module import Module, emit_module
from recurc.backends.triton.scan import scan_problems
from recurc.errors import UnsupportedError
from recurc.ops import OPS
from recurc.plan import Newton, Plan, Scan, taken_apart
from recurc.types import Kind


@dataclass(frozen=True)
class TritonBackend:
    """`options` override the heuristics (tile sizes, segments, form of the recurrent product)."""

    name: str = "triton"
    real_only: bool = True
    options: Options = field(default_factory=Options)

    def unavailable(self) -> str | None:
        """Why this machine cannot run Triton kernels (a package, a GPU), or None."""
        from recurc.backends.triton.launch import unavailable

        return unavailable()

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        """What in the plan has no Triton kernel, in words; empty if all of it has."""
        found = _plan_problems(plan)
        if not found:
            try:
                emit_module(plan, spec, self.options)
            except UnsupportedError as limit:
                found.append(str(limit))
        return found

    def emit(self, plan: Plan, spec: Specialization) -> Module:
        """The generated module, as text. Raises `UnsupportedError` naming what has no kernel."""
        problems = _plan_problems(plan)
        if problems:
            raise UnsupportedError("the Triton backend does not do: " + "; ".join(problems))
        return emit_module(plan, spec, self.options)

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        """The plan as kernels compiled on their first call. Raises `UnsupportedError` for a limitation and
        `BackendError` if the module cannot be written to the kernel cache."""
        from recurc.backends.triton.launch import TritonKernel

        return TritonKernel(plan, spec, self.emit(plan, spec), self.options.segments)

    def export(self, plan: Plan, spec: Specialization, directory: Path, arch: str) -> dict[str, object]:
        """Writes the module (and, where Triton is installed, machine code for `arch`) into `directory`.

        Returns the fields of the manifest. Raises `UnsupportedError` for a limitation."""
        from recurc.backends.triton.export import export

        return export(self.emit(plan, spec), plan, spec, directory, arch)


def _plan_problems(plan: Plan) -> list[str]:
    problems: list[str] = []
    if any(b.dtype.kind is Kind.COMPLEX for b in plan.buffers):
        problems.append("complex numbers")
    for stage in taken_apart(plan).stages:
        if isinstance(stage, Scan):
            problems += scan_problems(stage)
        if isinstance(stage, Newton):
            problems += scan_problems(stage.step)
        for expr in stage_exprs(stage):
            for node in ir.walk(expr):
                if isinstance(node, ir.Apply) and OPS[node.op].triton is None:
                    problems.append(f"the operator `{node.op}`")
                elif node.dtype.kind is Kind.COMPLEX:
                    problems.append("complex numbers")
    return list(dict.fromkeys(problems))


BACKEND = TritonBackend()
