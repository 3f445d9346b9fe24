"""The constructs of the language that move values, work on matrices or count in integers, as Triton kernels: in the
interpreter, and as machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from recurc import passes, targets
from recurc.types import DType
from tests.gpu.language_cases import CASES, PAIRS
from tests.gpu.test_triton_machine_code import check

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["auto", "dot"])
def test_it_means_what_the_definition_says(form: str, which: str, seed: int, tmp_path: Path) -> None:
    names = ["all"] if which == "all" else []
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.language_interpreted", str(seed), form, *names],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    found = [json.loads(line) for line in run.stdout.splitlines()]
    ran = {(f["name"], f["schedule"]) for f in found}
    assert ran >= set(PAIRS) if which == "all" else len(ran & set(PAIRS)) > len(PAIRS) / 5
    wrong = [f["wrong"] for f in found if f["wrong"]]
    assert not wrong, "\n".join(wrong)
    refused = [f for f in found if f["refused"]]
    assert not refused if form == "auto" else all("large recurrent param" in f["refused"] for f in refused)
    assert len(refused) < len(found) / 2


# For these Triton 3.6 makes code that needs more registers than a thread has, and 3.7 does not; one that no longer
# does fails here, so that it is taken from the list.
SPILLS_ON_3_6 = {
    ("neighbours in an image", DType.F64),
    ("derivatives of larger exponentials", DType.F32),
}


def compiles(name: str, schedule: str, real: DType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spills = (name, real) in SPILLS_ON_3_6 and version("triton").startswith("3.6.")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = CASES[name]
    sizes = {d.name: case.sizes[d.name] for d in case.rec.dims}
    plan = passes.make_plan(case.rec, sizes, 2, 64, real, targets.named("sm_90"), schedule)
    with pytest.raises(AssertionError, match=r"spills=[1-9]") if spills else nullcontext():
        check(plan, sizes, real, "sm_90", folder)


@pytest.mark.machine_code
def test_some_stay_in_registers(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pick in rng.choice(len(PAIRS), 8, replace=False):
        compiles(*PAIRS[pick], (DType.F32, DType.F64)[int(rng.integers(2))], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_all_stay_in_registers(name: str, schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for real in (DType.F32, DType.F64):
        compiles(name, schedule, real, tmp_path, monkeypatch)
