"""Machine code ahead of time: a generated kernel compiled for a named chip, which need not be in this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from recurc.backends.triton.kernel import KernelText
from recurc.errors import BackendError


@dataclass(frozen=True)
class MachineCode:
    """What Triton made of one kernel."""

    name: str  # the kernel's symbol
    cubin: bytes
    shared_bytes: int
    num_warps: int
    signature: dict[str, str]
    constants: dict[str, int | bool]


def compile_kernel(function: Any, kernel: KernelText, arch: str) -> MachineCode:
    """`kernel`, loaded as the jit function `function`, as machine code for `arch` ("sm_90").

    Pointers are taken to be aligned to 16 bytes, as torch allocates them, and strides to be those of contiguous
    arrays as far as divisibility by 16 goes. Raises `BackendError` if `arch` is not
    a chip's name, if Triton runs as an interpreter here, or if it cannot compile the kernel."""
    triton, compiler = cast(Any, import_module("triton")), cast(Any, import_module("triton.compiler"))
    target = cast(Any, import_module("triton.backends.compiler")).GPUTarget

    chip = re.fullmatch(r"sm_(\d+)a?", arch)
    if chip is None:
        raise BackendError(f"{arch!r} names no NVIDIA chip; write for example sm_80, sm_90 or sm_100")
    if not hasattr(function, "cache_key"):
        raise BackendError("machine code cannot be made while TRITON_INTERPRET is set")
    signature = {a.name: a.type for a in kernel.args}
    constants: dict[str, int | bool] = {a.name: a.value for a in kernel.args if a.value is not None}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, a in enumerate(kernel.args) if a.type.startswith("*") or a.aligned
    }
    source = compiler.ASTSource(function, signature, constants, aligned)
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages, "enable_fp_fusion": True}
    options |= {"maxnreg": kernel.registers} if kernel.registers else {}
    try:
        made = triton.compile(source, target=target("cuda", int(chip[1]), 32), options=options)
    except (compiler.CompilationError, RuntimeError) as problem:
        raise BackendError(f"Triton cannot compile {kernel.name} for {arch}: {problem}") from problem
    meta = made.metadata
    return MachineCode(meta.name, made.asm["cubin"], meta.shared, meta.num_warps, signature, constants)
