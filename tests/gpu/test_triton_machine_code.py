"""Machine code of the generated Triton kernels, for chips that are not here: it compiles, spills nothing, fits the
chip's shared memory, and runs matrix products on tensor cores."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.types import DType
from tests.gpu.machine_code import ARCHS, SHARED_LIMIT, inspect
from tests.systems import plans

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = pytest.mark.machine_code

SIZES = {
    "ema": {"D": 64},
    "lstm": {"D": 96, "H": 128},
    "gru": {"D": 96, "H": 128},
    "selective_scan": {"D": 256, "N": 16},
    "aaren": {"D": 64},
}


def kernels(system: str, schedule: str, real: DType, folder: Path) -> Iterator[tuple[Any, Any]]:
    """The kernels of a plan with their loaded functions."""
    spec = Specialization(tuple(sorted(SIZES[system].items())), real)
    module = TritonBackend().emit(plans()[system, schedule], spec)
    path = folder / f"{module.name}_{schedule}_{real.value}.py"
    path.write_text(module.text, encoding="utf-8")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    for kernel in module.kernels:
        yield kernel, getattr(loaded, kernel.name)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_kernels_compile_without_spills_and_with_tensor_cores(
    system: str, schedule: str, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recurc.backends.triton.aot import compile_kernel

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for real in (DType.BF16, DType.F32):
        for kernel, function in kernels(system, schedule, real, tmp_path):
            code = compile_kernel(function, kernel, arch)
            seen = inspect(code.cubin)
            label = f"{kernel.name} {real.value} {arch}: {seen}"
            # f32 products are unrolled multiply-adds: there the assembler may park a few values to fit one more block
            # on the chip (well below 255 registers), which is its trade and not a tile that is too large
            parked = 8 if kernel.form == "recurrent" and real is DType.F32 and seen.registers < 128 else 0
            assert seen.spills <= parked and seen.stack <= 4 * parked, label
            assert seen.registers <= 255, label
            assert code.shared_bytes <= SHARED_LIMIT[arch], f"{label}, {code.shared_bytes} bytes shared"
            if kernel.uses_dot and real is DType.BF16:
                assert seen.tensor_core_ops > 0, label


@pytest.mark.parametrize("real", [DType.F64, DType.F16])
@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_every_storage_type_compiles(system: str, schedule: str, real: DType, tmp_path: Path) -> None:
    from recurc.backends.triton.aot import compile_kernel

    for kernel, function in kernels(system, schedule, real, tmp_path):
        assert compile_kernel(function, kernel, "sm_90").cubin
