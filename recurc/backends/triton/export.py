"""Kernels that run without recurc: the generated module, machine code for a named chip, and the manifest's fields."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path
from typing import Any

from recurc.backends.base import Specialization
from recurc.backends.triton.kernel import stored
from recurc.backends.triton.module import Module
from recurc.errors import BackendError
from recurc.plan import Plan, Role


def export(module: Module, plan: Plan, spec: Specialization, directory: Path, arch: str) -> dict[str, object]:
    """Writes `NAME.py` (all one needs besides torch and Triton) and, where Triton is installed and works as a
    compiler, `KERNEL.ARCH.cubin` for every kernel. Returns what the manifest says of them.

    `arch` names an NVIDIA chip ("sm_90"). Raises `BackendError` if it does not or if a kernel does not compile."""
    path = directory / f"{module.name}.py"
    path.write_text(module.text, encoding="utf-8")
    arrays = [
        {
            "argument": argument,
            "name": name,
            "role": plan.buffer(name).role.value,
            "dims": list(plan.buffer(name).dims),
            "time": plan.buffer(name).has_time,
            "dtype": stored(plan.buffer(name), spec.real).value,
        }
        for argument, name in module.arguments
        if plan.buffer(name).role not in (Role.ONCE, Role.SEQUENCE)
    ]
    return {
        "module": path.name,
        "launch": "launch",
        "needs": ["torch>=2.11", "triton>=3.6,<3.10"],
        "arrays": arrays,
        "kernels": _machine_code(module, path, directory, arch),
    }


def _machine_code(module: Module, path: Path, directory: Path, arch: str) -> list[dict[str, object]]:
    """A cubin for every kernel, if this machine can make one; else only what the kernels are."""
    from recurc.backends.triton.aot import compile_kernel
    from recurc.backends.triton.launch import interpreted

    entries: list[dict[str, object]] = []
    able = not interpreted() and all(importlib.util.find_spec(p) for p in ("torch", "triton"))
    loaded = _loaded(path) if able else None
    for kernel in module.kernels:
        entry: dict[str, object] = {"name": kernel.name, "form": kernel.form, "num_warps": kernel.num_warps}
        if loaded is not None:
            code = compile_kernel(getattr(loaded, kernel.name), kernel, arch)
            file = directory / f"{kernel.name}.{arch}.cubin"
            file.write_bytes(code.cubin)
            entry |= {"cubin": file.name, "symbol": code.name, "shared_bytes": code.shared_bytes}
            entry |= {
                "parameters": [{"name": n, "type": t} for n, t in code.signature.items()],
                "constants": code.constants,
            }
            entry["multiples_of_16"] = [a.name for a in kernel.args if a.aligned]
        entries.append(entry)
    return entries


class _LeavesNoTrace(importlib.machinery.SourceFileLoader):
    """Loads a module without writing `__pycache__` beside what was exported."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def _loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=_LeavesNoTrace(path.stem, str(path)))
    if spec is None or spec.loader is None:
        raise BackendError(f"the generated module {path} cannot be loaded")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
