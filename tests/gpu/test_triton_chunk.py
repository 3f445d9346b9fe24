"""Chunkwise stages in Triton: numbers in the interpreter, and machine code for chips that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recurc import targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.passes import make_plan
from recurc.types import DType
from tests.gpu.machine_code import ARCHS
from tests.gpu.test_triton_machine_code import check, kernels
from tests.zoo.cases import NAMES, schedules

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
    assert len(found) >= 28
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
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [64, 128])
def test_chunks_of_two_states_spill_nothing(
    arch: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = SEVERAL[name, which]
    plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, DType.BF16, targets.named(arch), "chunkwise")
    check(plan, sizes, DType.BF16, arch, tmp_path)


# Every entry whose states have chunks, at so many rows and columns. `mesa_net` solves no system of 64 rows; two states
# of 128 rows with four rows per step (`omega_net_powers`) spill.
EVERY = [
    (name, size, real)
    for name in NAMES
    if "chunkwise" in schedules(name) and name != "mesa_net"
    for size in (64, 128)
    if (name, size) != ("omega_net_powers", 128)
    for real in (DType.F32, DType.BF16)
]
# Dims of which the rows are made otherwise: two halves of M, products of two of K, all monomials of K up to degree 2.
IN_ROWS = {
    **{name: {64: {"M": 32}, 128: {"M": 64}} for name in ("mamba3", "mamba3_mimo", "retnet")},
    "based": {64: {"K": 8, "J": 8}, 128: {"K": 11, "J": 11}},
    "omega_net": {64: {"K": 9, "P": 55}, 128: {"K": 14, "P": 120}},
}


def spills_nothing(name: str, size: int, real: DType, folder: Path) -> None:
    """No kernel of the entry's chunks spills on sm_90, and they run on tensor cores."""
    sizes = {d.name: {"H": 4, "C": 4, "R": 4}.get(d.name, size) for d in zoo.load(name).ir.dims}
    sizes |= IN_ROWS.get(name, {}).get(size, {})
    plan = make_plan(zoo.load(name).ir, sizes, 2, 1024, real, targets.named("sm_90"), "chunkwise")
    assert any(kernel.form == "chunk" and kernel.uses_dot for kernel, _ in kernels(plan, sizes, real, folder))
    check(plan, sizes, real, "sm_90", folder, "chunk")


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "real"), EVERY)
def test_chunks_of_every_entry_spill_nothing_and_run_on_tensor_cores(
    name: str, size: int, real: DType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    spills_nothing(name, size, real, tmp_path)


@pytest.mark.machine_code
def test_chunks_of_some_entries_spill_nothing_and_run_on_tensor_cores(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for n in rng.choice(len(EVERY), 2, replace=False):
        spills_nothing(*EVERY[n], tmp_path)


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
