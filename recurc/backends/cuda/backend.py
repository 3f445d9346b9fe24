"""The backend `cuda`: plans as CUDA C++ through NVRTC."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from recurc import ir
from recurc.backends.base import Kernel, Specialization
from recurc.backends.emit.lanes import stage_exprs
from recurc.ops import OPS
from recurc.plan import NO_FROZEN, NO_TRANSFORM, Chunk, Convolution, Frozen, Newton, Plan, Scan, taken_apart
from recurc.types import Kind


@dataclass(frozen=True)
class CudaBackend:
    """Fulfils `recurc.backends.base.Backend`, and writes kernels that run without recurc."""

    name: str = "cuda"
    real_only: bool = True

    def unavailable(self) -> str | None:
        from recurc.backends.cuda.launch import unavailable

        return unavailable()

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        found: dict[str, None] = {}
        for buffer in plan.buffers:
            if buffer.dtype.kind is Kind.COMPLEX:
                found[f"`{buffer.name}` is complex, and the CUDA backend has no complex arithmetic yet"] = None
        plan = taken_apart(plan)
        for stage in plan.stages:
            if isinstance(stage, Newton):
                names = ", ".join(c.name for c in stage.carries)
                found[f"Newton's method over time (for {names}) has no CUDA kernels"] = None
            if isinstance(stage, Convolution):
                found[NO_TRANSFORM] = None
            if isinstance(stage, Frozen):
                found[NO_FROZEN] = None
            if isinstance(stage, Chunk):
                states = ", ".join(stage.form.states)
                found[f"the chunkwise schedule of {states} has no CUDA kernel yet"] = None
            for expr in stage_exprs(stage):
                for node in ir.walk(expr):
                    if node.dtype.kind is Kind.COMPLEX:
                        found["complex numbers have no CUDA spelling yet"] = None
                    elif isinstance(node, ir.Apply) and OPS[node.op].c is None:
                        found[f"`{node.op}` has no CUDA spelling yet"] = None
        if not found:
            from recurc.backends.cuda.scan_stage import too_large

            scans = [s for s in plan.stages if isinstance(s, Scan)]
            found |= dict.fromkeys(why for s in scans if (why := too_large(s, plan, spec)) is not None)
        return list(found)

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        """Raises `UnsupportedError` for a limitation and `BackendError` without NVRTC or a GPU."""
        from recurc.backends.cuda.launch import CudaKernel, unavailable
        from recurc.errors import BackendError

        self._refuse(plan, spec)
        missing = unavailable()
        if missing:
            raise BackendError(f"the CUDA backend cannot run here: {missing}")
        return CudaKernel(plan, spec)

    def source(self, plan: Plan, spec: Specialization) -> dict[str, str]:
        """The generated CUDA C++ by file name; needs no GPU and no NVRTC."""
        from recurc.backends.cuda.emit import emit

        self._refuse(plan, spec)
        return {f"{_stem(plan)}.cu": emit(plan, spec).source}

    def export(self, plan: Plan, spec: Specialization, directory: Path, arch: str) -> dict[str, Any]:
        """Writes NAME.cu, NAME.cubin, kernel.json and launch.py into `directory`; returns the manifest's fields.

        `launch.py` runs the kernels on NumPy arrays without recurc. Raises as `build`, but needs no GPU."""
        import json

        from recurc.backends.cuda.compile import compile_cubin
        from recurc.backends.cuda.emit import emit
        from recurc.backends.cuda.manifest import manifest_of
        from recurc.errors import UnsupportedError

        self._refuse(plan, spec)
        if any(b.part is not None for b in plan.buffers):
            raise UnsupportedError("the launcher that goes with exported CUDA kernels takes no complex arrays yet")
        program, stem = emit(plan, spec), _stem(plan)
        cubin, _ = compile_cubin(program.source, arch, f"{stem}.cu")
        manifest = {
            **manifest_of(program, plan, spec),
            "arch": arch,
            "dtype": spec.real.value,
            "source": f"{stem}.cu",
            "cubin": f"{stem}.cubin",
            "launcher": "launch.py",
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{stem}.cu").write_text(program.source, encoding="utf-8")
        (directory / f"{stem}.cubin").write_bytes(cubin)
        (directory / "kernel.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        launcher = (files("recurc.backends.cuda") / "standalone.py").read_text(encoding="utf-8")
        (directory / "launch.py").write_text(launcher, encoding="utf-8")
        return manifest

    def _refuse(self, plan: Plan, spec: Specialization) -> None:
        from recurc.errors import UnsupportedError

        problems = self.limitations(plan, spec)
        if problems:
            raise UnsupportedError("; ".join(problems))


def _stem(plan: Plan) -> str:
    from recurc.backends.emit.names import safe_name

    return safe_name(plan.recurrence.name)


BACKEND = CudaBackend()
