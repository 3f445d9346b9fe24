"""Chunkwise stages in Triton: numbers in the interpreter, and machine code for chips that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recurc import targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.backends.triton.aot import compile_kernel
from recurc.passes import make_plan
from recurc.types import DType
from tests.gpu.machine_code import ARCHS, inspect
from tests.gpu.test_triton_machine_code import check, kernels

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
    assert len(found) >= 18
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


# Several rows of a step: corrections one after another, several keys per head, corrections on a window of 4 and 16.
SEVERAL = {
    ("gated_delta_product", 64): {"H": 4, "K": 64, "V": 64},
    ("gated_delta_product", 128): {"H": 4, "K": 128, "V": 128},
    ("mamba3_mimo", 64): {"H": 4, "M": 32, "P": 64, "R": 4},
    ("mamba3_mimo", 128): {"H": 4, "M": 64, "P": 128, "R": 4},
    ("omega_net_linear", 64): {"K": 64, "V": 64, "C": 4},
    ("omega_net_linear", 128): {"K": 128, "V": 128, "C": 4},
    ("omega_net_linear", 129): {"K": 128, "V": 128, "C": 16},
    ("omega_net", 153): {"K": 16, "V": 64, "P": 153, "C": 4},
    ("omega_net_powers", 64): {"K": 64, "V": 64, "C": 4},
}


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("name", "which"), SEVERAL)
def test_chunks_of_several_rows_spill_nothing(
    name: str, which: int, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two states of 128 rows each, with four rows per step (omega_net_powers), do so on sm_90 alone."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = SEVERAL[name, which]
    plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, DType.BF16, targets.named(arch), "chunkwise")
    check(plan, sizes, DType.BF16, arch, tmp_path)


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("simple_gla", 128), ("mlstm", 128), ("gla", 128), ("gated_delta_net", 64), ("kda", 64), ("delta_net", 64)],
)
def test_chunks_in_f32_spill_nothing_and_run_on_tensor_cores(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta rules of 128 rows spill in f32, whose products hold the high and the low part of each operand."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {d.name: {"H": 4}.get(d.name, size) for d in zoo.load(name).ir.dims}
    plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, DType.F32, targets.named("sm_90"), "chunkwise")
    check(plan, sizes, DType.F32, "sm_90", tmp_path)
    chunks = [(k, f) for k, f in kernels(plan, sizes, DType.F32, tmp_path) if k.form == "chunk"]
    assert chunks and all(inspect(compile_kernel(f, k, "sm_90").cubin).tensor_core_ops > 0 for k, f in chunks)


def test_more_rows_of_a_step_than_a_tile_holds_are_refused_in_words() -> None:
    """What has no kernel is said with the numbers that matter; what has just as many rows as there may be is not."""
    backend = TritonBackend()
    for name, sizes, words in (
        ("omega_net_linear", {"K": 16, "V": 16, "C": 129}, "129 rows of M in one step by the chunkwise schedule"),
        ("omega_net_linear", {"K": 16, "V": 16, "C": 128}, ""),
        ("omega_net_powers", {"K": 129, "V": 16, "C": 4}, "a chunkwise state of 258 rows"),
        ("omega_net_powers", {"K": 128, "V": 16, "C": 4}, ""),
    ):
        plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, DType.F32, targets.named("sm_90"), "chunkwise")
        found = backend.limitations(plan, Specialization(tuple(sorted(sizes.items())), DType.F32))
        assert (words in " ".join(found)) if words else not found, found


@pytest.mark.machine_code
def test_a_chunk_of_several_rows_spills_nothing_in_either_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {"K": 64, "V": 64, "C": 4}
    for real in (DType.BF16, DType.F32):
        plan = make_plan(zoo.load("omega_net_linear").ir, sizes, 2, 1024, real, targets.named("sm_90"), "chunkwise")
        check(plan, sizes, real, "sm_90", tmp_path)


@pytest.mark.machine_code
def test_a_small_chunk_spills_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {"H": 2, "K": 32, "V": 32}
    for real in (DType.BF16, DType.F32):
        plan = make_plan(zoo.load("simple_gla").ir, sizes, 2, 1024, real, targets.named("sm_90"), "chunkwise")
        check(plan, sizes, real, "sm_90", tmp_path)
