"""Chunkwise stages in Triton: numbers in the interpreter, and machine code for chips that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recurc import targets, zoo
from recurc.passes import make_plan
from recurc.types import DType
from tests.gpu.machine_code import ARCHS
from tests.gpu.test_triton_machine_code import check

pytest.importorskip("torch")
pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_chunks_agree_with_the_definition_in_the_interpreter(which: str, seed: int) -> None:
    """In a process of its own: the variable must be set before Triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.chunk_interpreted", str(seed), which],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= 5
    for case in found:
        worst = max(case["errors"].values())
        assert worst <= case["tolerance"], f"{case} with seed {seed}"


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("name", ["simple_gla", "gla", "gated_delta_net", "mlstm"])
def test_chunks_spill_nothing_and_run_on_tensor_cores(
    name: str, size: int, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {d.name: {"H": 4}.get(d.name, size) for d in zoo.load(name).ir.dims}
    plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, DType.BF16, targets.named(arch), "chunkwise")
    check(plan, sizes, DType.BF16, arch, tmp_path)


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "size"), [("sm_80", 64), ("sm_90", 64), ("sm_100", 64), ("sm_80", 128), ("sm_90", 128)]
)
def test_chunks_of_two_states_spill_nothing(
    arch: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 128 on sm_100 ten registers are spilled."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {"K": size, "V": size}
    plan = make_plan(zoo.load("titans_linear").ir, sizes, 2, 1024, DType.BF16, targets.named(arch), "chunkwise")
    check(plan, sizes, DType.BF16, arch, tmp_path)


@pytest.mark.machine_code
def test_a_small_chunk_spills_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {"H": 2, "K": 32, "V": 32}
    for real in (DType.BF16, DType.F32):
        plan = make_plan(zoo.load("simple_gla").ir, sizes, 2, 1024, real, targets.named("sm_90"), "chunkwise")
        check(plan, sizes, real, "sm_90", tmp_path)
