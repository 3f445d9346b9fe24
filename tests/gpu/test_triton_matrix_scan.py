"""Scans of matrices and tables as Triton kernels: in the interpreter against the definition, in machine code without
spills, and what is left out where their elements do not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import recurc
from recurc import passes, targets
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.errors import UnsupportedError
from recurc.plan import Loop, Plan, Scan
from recurc.runtime.choose import able_plan, backend
from recurc.types import DType
from tests.gpu.machine_code import ARCHS
from tests.gpu.matrix_interpreted import EDGES, LARGE, large
from tests.gpu.test_triton_machine_code import check
from tests.matrix_cases import CASES

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
REALS = (DType.BF16, DType.F32, DType.F64)
PRODUCT = """recurrence P(N, R = N):
    input  x[N], A[N, R]
    state  h[N] = 1
    h = A @ (h[t-1] as [R]) + x
    output h
"""


def _interpreted(seed: int, cache: Path, *names: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.matrix_interpreted", str(seed), *names],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert {f["name"] for f in found} == set(names) if names else len({f["name"] for f in found}) == 11
    assert any(f["segments"] > 1 and f["steps"] > f["segments"] for f in found)
    wrong = [f["wrong"] for f in found if f["wrong"]]
    assert not wrong, f"seed {seed}\n" + "\n".join(wrong)


def test_some_operators_agree_with_the_definition(seed: int, tmp_path: Path) -> None:
    _interpreted(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *LARGE, *EDGES])
def test_every_length_agrees_with_the_definition(name: str, seed: int, tmp_path: Path) -> None:
    _interpreted(seed, tmp_path, name)


def plan_of(rec: recurc.Recurrence, sizes: dict[str, int], real: DType) -> Plan:
    found = passes.make_plan(rec.ir, sizes, 2, 64, real, targets.named("sm_90"), "scan")
    assert any(isinstance(s, Scan) and s.monoid.multiplies for s in found.stages) or rec.name != "P"
    return found


def compiles(name: str, n: int, real: DType, arch: str, folder: Path) -> None:
    """Without spills; or the backend refuses, as it does where systems of eight rows are solved for four matrices. One
    case needs more registers than a thread has; if it no longer does, that fails here."""
    rec = CASES[name].rec
    sizes = {d.name: {"N": n, "R": n, "D": 3, "Q": 4}[d.name] for d in rec.ir.dims}
    plan = plan_of(rec, sizes, real)
    if CASES[name].cls == "MB" and n == 8:
        with pytest.raises(UnsupportedError, match="held at once in every step"):
            TritonBackend().emit(plan, Specialization(tuple(sorted(sizes.items())), real))
        return
    spills = (name, n, real) == ("two matrices from two sides", 3, DType.F64)
    with pytest.raises(AssertionError, match=r"spills=[1-9]") if spills else nullcontext():
        check(plan, sizes, real, arch, folder)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled")
def test_some_stay_in_registers(rng: np.random.Generator, tmp_path: Path) -> None:
    names = list(CASES)
    for _ in range(4):
        name = names[int(rng.integers(len(names)))]
        compiles(name, int(rng.choice((3, 8))), REALS[int(rng.integers(3))], "sm_90", tmp_path)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", CASES)
def test_all_stay_in_registers(name: str, arch: str, tmp_path: Path) -> None:
    for real in REALS:
        for n in (3, 8):
            compiles(name, n, real, arch, tmp_path)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", LARGE)
def test_large_ones_stay_in_registers(name: str, arch: str, tmp_path: Path) -> None:
    for real in (DType.F32, DType.F64):
        check(plan_of(large(name), LARGE[name][1], real), LARGE[name][1], real, arch, tmp_path)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("n", "real"), [(64, DType.F64), (128, DType.F32), (128, DType.BF16)])
def test_the_largest_that_are_taken_stay_in_registers(n: int, real: DType, arch: str, tmp_path: Path) -> None:
    sizes = {"N": n, "R": n}
    check(plan_of(recurc.load(text=PRODUCT), sizes, real), sizes, real, arch, tmp_path)


def _able(name: str, n: int, steps: int) -> tuple[Plan, list[str]]:
    sizes = {"N": n, "R": n}
    spec, rec = Specialization(tuple(sorted(sizes.items())), DType.F32), recurc.load(text=PRODUCT).ir
    plan, _, limits = able_plan(
        backend(name), spec, "auto",
        lambda without: passes.make_plan(
            rec, sizes, 1, steps, DType.F32, targets.named("sm_90"), without=without
        ),
    )  # fmt: skip
    return plan, limits


def test_a_long_product_of_matrices_is_scanned_where_its_elements_fit() -> None:
    plan, limits = _able("triton", 8, 16384)
    assert (plan.schedules, limits) == (("scan",), [])
    text = TritonBackend().emit(plan, Specialization((("N", 8), ("R", 8)), DType.F32)).text
    assert all(f"def P_scan_0{kernel}(" in text for kernel in ("", "_fold", "_starts"))


def test_what_does_not_fit_runs_as_a_loop_and_the_plan_says_why() -> None:
    plan, limits = _able("triton", 200, 16384)
    assert (plan.schedules, limits) == (("sequential",), [])
    assert isinstance(plan.stages[0], Loop)
    (scan,) = (c for c in plan.candidates if c.schedule == "scan")
    assert "only when asked for: a scan of matrices of N = 200 x N@2 = 200" in scan.reason
    assert "stay in registers" in scan.reason


def test_the_cuda_backend_takes_a_loop_of_matrices_unless_asked() -> None:
    plan, limits = _able("cuda", 8, 16384)
    assert (plan.schedules, limits) == (("sequential",), [])
    (scan,) = (c for c in plan.candidates if c.schedule == "scan")
    assert "only when asked for: on the `cuda` backend every thread combines whole matrices or tables" in scan.reason
    sizes = {"N": 128, "R": 128}
    asked = plan_of(recurc.load(text=PRODUCT), sizes, DType.F32)
    (limit,) = backend("cuda").limitations(asked, Specialization(tuple(sorted(sizes.items())), DType.F32))
    assert "a scan whose elements" in limit and "bytes of a block" in limit


@pytest.mark.parametrize(
    ("batch", "steps", "wanted"), [(1, 65536, "scan"), (1, 32, "sequential"), (4096, 1024, "sequential")]
)
def test_time_is_split_where_sequences_leave_the_device_idle(batch: int, steps: int, wanted: str) -> None:
    sizes = {"N": 16, "R": 16}
    rec = recurc.load(text=PRODUCT).ir
    plan = passes.make_plan(rec, sizes, batch, steps, DType.F32, targets.named("sm_90"))
    assert plan.schedules == (wanted,), [(c.schedule, c.seconds, c.reason) for c in plan.candidates]
