"""Reads the machine code of a compiled kernel: registers, stack, spills, tensor-core instructions.

Uses the disassembler that Triton's wheels bring along; no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ARCHS = ("sm_80", "sm_90", "sm_100")
SHARED_LIMIT = {
    "sm_80": 166_912,
    "sm_90": 232_448,
    "sm_100": 232_448,
}  # bytes one block may use; nothing else checks it
_TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA", "DMMA", "UTCMMA")


@dataclass(frozen=True)
class Inspection:
    registers: int
    stack: int
    spills: int
    tensor_core_ops: int
    copies: int  # asynchronous copies into shared memory


def inspect(cubin: bytes) -> Inspection:
    """What the hardware would run."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        text = subprocess.run(
            [tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"no resource usage in: {usage}"

    def count(*names: str) -> int:
        return sum(len(re.findall(rf"\b{name}\b", text)) for name in names)

    return Inspection(int(found[1]), int(found[2]), count("STL", "LDL"), count(*_TENSOR_CORE), count("LDGSTS"))
