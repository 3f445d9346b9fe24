"""The constructs of the language that move values, work on matrices or count in integers, as CUDA C++ on the CPU, and
as machine code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from recurc import passes, targets
from recurc.backends.base import Specialization
from recurc.backends.cuda import lane_stage
from recurc.backends.cuda.compile import compile_cubin, missing_compiler
from recurc.backends.cuda.emit import emit
from recurc.ir import Apply, walk
from recurc.types import DType
from tests.gpu.cuda_shim import has_compiler
from tests.gpu.cuda_stand_in import OnCpu
from tests.gpu.language_cases import CASES, PAIRS, agree
from tests.gpu.test_cuda_machine_code import usage_of

pytest.importorskip("torch")
# Bytes on the stack where CUDA's own sin and cos bring a large angle into range, by many digits of 2/pi.
ANGLES = 40

runs_on_the_cpu = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


@runs_on_the_cpu
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_it_means_what_the_definition_says(name: str, schedule: str, on_cpu: OnCpu, rng: np.random.Generator) -> None:
    agree(name, schedule, "cuda", rng)


@runs_on_the_cpu
def test_some_mean_the_same_by_blocks(on_cpu: OnCpu, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_stage, "REGISTER_BUDGET", -1)
    for name in rng.choice(list(CASES), 6, replace=False):
        agree(str(name), "sequential", "cuda", rng)


@runs_on_the_cpu
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_means_the_same_by_blocks(
    name: str, on_cpu: OnCpu, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_stage, "REGISTER_BUDGET", -1)
    agree(name, "sequential", "cuda", rng)


@pytest.mark.machine_code
@pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or "")
def test_some_stay_in_registers(rng: np.random.Generator, tmp_path: Path) -> None:
    for pick in rng.choice(len(PAIRS), 12, replace=False):
        stays_in_registers(*PAIRS[pick], (DType.F32, DType.F64)[int(rng.integers(2))], tmp_path)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or "")
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_all_stay_in_registers(name: str, schedule: str, tmp_path: Path) -> None:
    for real in (DType.F32, DType.F64):
        stays_in_registers(name, schedule, real, tmp_path)


def stays_in_registers(name: str, schedule: str, real: DType, tmp_path: Path) -> None:
    case = CASES[name]
    sizes = {d.name: case.sizes[d.name] for d in case.rec.dims}
    plan = passes.make_plan(case.rec, sizes, 2, 64, real, targets.named("sm_90"), schedule)
    cubin, report = compile_cubin(emit(plan, Specialization(tuple(sorted(sizes.items())), real)).source, "sm_90")
    usage, code = usage_of(cubin, tmp_path)
    assert "warning" not in report, report
    if any(isinstance(n, Apply) and n.op in ("sin", "cos") for e in case.rec.equations for n in walk(e.expr)):
        assert all(u.stack <= ANGLES for u in usage.values()), usage
        return
    assert not re.search(r"\b(STL|LDL)\b", code), f"registers are spilled in {real.value}: {usage}"
    assert all(u.stack == 0 for u in usage.values()), usage
