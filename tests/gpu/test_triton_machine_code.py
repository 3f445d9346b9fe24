"""Machine code of the generated Triton kernels, for chips that are not here: it compiles, spills nothing, fits the
chip's shared memory, and runs matrix products on tensor cores."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurc import targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.passes import make_plan
from recurc.plan import Plan
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
# rows that start anywhere, and tiles with a rest: what the assembler needs most registers for
ODD_SIZES = {
    "ema": {"D": 33},
    "lstm": {"D": 33, "H": 127},
    "gru": {"D": 33, "H": 100},
    "selective_scan": {"D": 33, "N": 8},
    "aaren": {"D": 33},
}


def kernels(plan: Plan, sizes: dict[str, int], real: DType, folder: Path) -> Iterator[tuple[Any, Any]]:
    """The kernels of a plan with their loaded functions."""
    module = TritonBackend().emit(plan, Specialization(tuple(sorted(sizes.items())), real))
    path = folder / f"{module.name}_{real.value}.py"
    path.write_text(module.text, encoding="utf-8")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    for kernel in module.kernels:
        yield kernel, getattr(loaded, kernel.name)


def check(plan: Plan, sizes: dict[str, int], real: DType, arch: str, folder: Path, form: str = "") -> None:
    """Every kernel of the plan (or those of one form) keeps its values in registers and fits the chip."""
    from recurc.backends.triton.aot import compile_kernel

    for kernel, function in kernels(plan, sizes, real, folder):
        if form not in ("", kernel.form):
            continue
        code = compile_kernel(function, kernel, arch)
        seen = inspect(code.cubin)
        label = f"{kernel.name} {sizes} {real.value} {arch}: {seen}"
        assert seen.spills == 0 and seen.stack == 0, label
        assert seen.registers * 32 * kernel.num_warps <= 65536, label
        assert code.shared_bytes <= SHARED_LIMIT[arch], f"{label}, {code.shared_bytes} bytes shared"
        if kernel.uses_dot and (real.itemsize == 2 or (kernel.form == "chunk" and real is DType.F32)):
            assert seen.tensor_core_ops > 0, label


@pytest.fixture(autouse=True)
def compiled_not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_kernels_compile_without_spills_and_with_tensor_cores(
    system: str, schedule: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    for real in ((DType.BF16, DType.F16)[int(rng.integers(2))], (DType.F32, DType.F64)[int(rng.integers(2))]):
        check(plans()[system, schedule], SIZES[system], real, "sm_90", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_kernels_of_all_chips_and_types(system: str, schedule: str, arch: str, tmp_path: Path) -> None:
    for real in (DType.BF16, DType.F16, DType.F32, DType.F64):
        check(plans()[system, schedule], SIZES[system], real, arch, tmp_path)


@pytest.mark.parametrize("arch", [a for a in ARCHS if a != "sm_90"])
def test_some_compile_for_other_chips(arch: str, rng: np.random.Generator, tmp_path: Path) -> None:
    for pick in rng.choice(len(plans()), 3, replace=False):
        system, schedule = sorted(plans())[pick]
        real = (DType.BF16, DType.F16, DType.F32, DType.F64)[int(rng.integers(4))]
        check(plans()[system, schedule], SIZES[system], real, arch, tmp_path)


def odd_sizes_spill_nothing(system: str, schedule: str, folder: Path) -> None:
    for real in (DType.F32, DType.F64):
        check(plans()[system, schedule], ODD_SIZES[system], real, "sm_90", folder)


def test_some_odd_sizes_spill_nothing_either(rng: np.random.Generator, tmp_path: Path) -> None:
    for pick in rng.choice(len(plans()), 2, replace=False):
        odd_sizes_spill_nothing(*sorted(plans())[pick], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "schedule"), sorted(plans()))
def test_odd_sizes_spill_nothing_either(system: str, schedule: str, tmp_path: Path) -> None:
    odd_sizes_spill_nothing(system, schedule, tmp_path)


FUSED = ("adam", "welford", "linear_attention")  # on two and three levels; with a state that lacks lanes of the other


def fused_scans_spill_nothing(name: str, size: int, folder: Path) -> None:
    rec = zoo.load(name).ir
    sizes = {d.name: size for d in rec.dims}
    for real in (DType.F32, DType.F64):
        plan = make_plan(rec, sizes, 2, 4096, real, targets.named("sm_90"), "scan")
        assert any("_fused_" in kernel.name for kernel, _ in kernels(plan, sizes, real, folder))
        check(plan, sizes, real, "sm_90", folder)


def test_some_fused_scans_spill_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    fused_scans_spill_nothing(str(rng.choice(FUSED)), 64, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 33])
@pytest.mark.parametrize("name", FUSED)
def test_fused_scans_spill_nothing(name: str, size: int, tmp_path: Path) -> None:
    fused_scans_spill_nothing(name, size, tmp_path)
