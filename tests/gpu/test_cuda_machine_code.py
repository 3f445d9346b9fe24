"""The generated CUDA C++ compiles for real chips without a GPU: registers, spills and shared memory of each kernel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from recurc.backends.base import Specialization
from recurc.backends.cuda.compile import compile_cubin, missing_compiler
from recurc.backends.cuda.emit import emit
from recurc.errors import BackendError
from recurc.types import DType
from tests.systems import plans

pytestmark = [
    pytest.mark.machine_code,
    pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or ""),
]

REALS = (DType.F32, DType.BF16, DType.F16, DType.F64)
SHARED_LIMIT = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}  # bytes one block may have
SIZES = {
    "ema": (("D", 512),),
    "lstm": (("D", 256), ("H", 256)),
    "gru": (("D", 256), ("H", 512)),
    "selective_scan": (("D", 512), ("N", 16)),
    "aaren": (("D", 64),),
}


@dataclass(frozen=True)
class Usage:
    registers: int
    stack: int
    shared: int


def _tool(name: str) -> Path | None:
    """cuobjdump and nvdisasm come with Triton's wheels and with the CUDA toolkit."""
    found = importlib.util.find_spec("triton")
    if found and found.origin:
        bundled = Path(found.origin).parent / "backends" / "nvidia" / "bin" / name
        if bundled.exists():
            return bundled
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


@lru_cache
def _cubin(key: tuple[str, str], real: DType, arch: str) -> tuple[bytes, str]:
    return compile_cubin(emit(plans()[key], Specialization(SIZES[key[0]], real)).source, arch)


def usage_of(cubin: bytes, folder: Path) -> tuple[dict[str, Usage], str]:
    """What each kernel takes, and the machine code."""
    dump, disassemble = _tool("cuobjdump"), _tool("nvdisasm")
    if dump is None or disassemble is None:
        pytest.skip("neither Triton's wheel nor a CUDA toolkit offers cuobjdump and nvdisasm")
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    text = subprocess.run([dump, "-res-usage", path], capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    code = subprocess.run([disassemble, "-c", path], capture_output=True, text=True, check=True, timeout=60).stdout
    return {name: Usage(int(r), int(s), int(m)) for name, r, s, m in found}, code


@pytest.mark.parametrize("arch", [a if a == "sm_90" else pytest.param(a, marks=pytest.mark.slow) for a in SHARED_LIMIT])
@pytest.mark.parametrize("key", plans(), ids="-".join)
def test_kernels_compile_and_keep_everything_in_registers(key: tuple[str, str], arch: str, tmp_path: Path) -> None:
    keeps_everything_in_registers(key, arch, REALS, tmp_path)


@pytest.mark.parametrize("arch", [a for a in SHARED_LIMIT if a != "sm_90"])
def test_some_keep_everything_in_registers_on_other_chips(arch: str, rng: np.random.Generator, tmp_path: Path) -> None:
    for pick in rng.choice(len(plans()), 3, replace=False):
        keeps_everything_in_registers(list(plans())[pick], arch, REALS[int(rng.integers(4)) :][:1], tmp_path)


def keeps_everything_in_registers(key: tuple[str, str], arch: str, reals: Sequence[DType], tmp_path: Path) -> None:
    for real in reals:
        program = emit(plans()[key], Specialization(SIZES[key[0]], real))
        cubin, report = _cubin(key, real, arch)
        assert "warning" not in report, report
        usage, code = usage_of(cubin, tmp_path)
        launches = [launch for step in program.steps for launch in step.launches]
        assert set(usage) == {launch.kernel for launch in launches}
        for launch in launches:
            used = usage[launch.kernel]
            what = f"{launch.kernel}, {real.value}, {arch}"
            assert used.stack == 0, f"{what}: a stack frame of {used.stack} bytes"
            assert used.registers * launch.block <= 65536, (
                f"{what}: {used.registers} registers in {launch.block} threads"
            )
            assert used.shared + launch.shared_bytes <= SHARED_LIMIT[arch], f"{what}: too much shared memory"
        assert not re.search(r"\b(STL|LDL)\b", code), f"{key}: registers are spilled on {arch} in {real.value}"


def test_recurrent_weights_stay_in_registers(tmp_path: Path) -> None:
    """4 gates x 256 / 32 weights per lane, held across the loop over t: the step itself reads none from memory."""
    cubin, _ = _cubin(("lstm", "sequential"), DType.F32, "sm_90")
    usage, code = usage_of(cubin, tmp_path)
    (section,) = re.findall(r"\.text\.lstm_loop_1_batch1:(.*?)(?=\n\.text\.|\Z)", code, re.DOTALL)
    before, loop = section.split("MEMBAR", 1)  # the first grid barrier: the loop over t follows
    assert usage["lstm_loop_1_batch1"].registers >= 32
    assert len(re.findall(r"\bFFMA\b", loop)) >= 32
    weights = len(re.findall(r"\bLDG\b", before))
    assert weights >= 32, "the weights are not loaded before the loop"
    assert len(re.findall(r"\bLDG\b", loop)) < 24, "weights are loaded inside the loop"


def test_the_compiler_s_complaint_reaches_the_message() -> None:
    with pytest.raises(BackendError, match=r"oops"):
        compile_cubin('extern "C" __global__ void broken() { oops; }', "sm_90")


def test_an_architecture_nobody_has_is_refused() -> None:
    with pytest.raises(BackendError):
        compile_cubin('extern "C" __global__ void fine() {}', "sm_11")
