"""Every system of the zoo on the GPU backends, on a machine without a GPU: what a backend refuses is known; the others
agree with their papers in Triton's interpreter and as CUDA C++ on the CPU, and compile for a real chip. The fast run
takes a few systems, drawn by the seed; the slow one all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recurc.backends.cuda.compile import missing_compiler
from recurc.runtime import choose
from recurc.types import DType
from tests.gpu.cuda_shim import has_compiler
from tests.gpu.cuda_stand_in import OnCpu
from tests.gpu.interpreted import interpreted as process
from tests.gpu.zoo_cases import (
    BY_SCHEDULE,
    LIMITATIONS,
    PAIRS,
    agree,
    compile_plan_as_cuda,
    compile_plan_as_triton,
    plan_of,
    refusals,
)

pytest.importorskip("torch")
ROOT = Path(__file__).parents[2]
RUNS = {
    b: [p for p in PAIRS if (p[0], b) not in LIMITATIONS and (*p, b) not in BY_SCHEDULE] for b in ("cuda", "triton")
}
runs_on_the_cpu = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")
compiles_cuda = pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or "")


def some(rng: np.random.Generator, backend: str, count: int) -> list[tuple[str, str]]:
    return [RUNS[backend][k] for k in rng.choice(len(RUNS[backend]), count, replace=False)]


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_what_a_backend_refuses_is_known(backend: str) -> None:
    found: dict[tuple[str, ...], list[str]] = {}
    for name, schedule in PAIRS:
        reasons = refusals(name, schedule, choose.backend(backend))
        if reasons:
            found[(name, schedule, backend) if (name, schedule, backend) in BY_SCHEDULE else (name, backend)] = reasons
    known = {key: word for key, word in {**LIMITATIONS, **BY_SCHEDULE}.items() if key[-1] == backend}
    assert set(found) == set(known), found
    assert all(word in " ".join(found[key]) for key, word in known.items()), found


# --- CUDA ---


@pytest.fixture
def on_cpu(seed: int, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    known, stand_in = choose.backend, OnCpu(seed)
    monkeypatch.setattr(choose, "backend", lambda name: stand_in if name == "cuda" else known(name))
    return stand_in


@runs_on_the_cpu
def test_some_systems_agree_as_cuda(on_cpu: OnCpu, rng: np.random.Generator, seed: int) -> None:
    for name, schedule in some(rng, "cuda", 10):
        agree(name, schedule, "cuda", seed)


@runs_on_the_cpu
@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule"), RUNS["cuda"])
def test_a_system_agrees_as_cuda(name: str, schedule: str, on_cpu: OnCpu, seed: int) -> None:
    agree(name, schedule, "cuda", seed)


def compile_as_cuda(name: str, schedule: str, real: DType) -> None:
    compile_plan_as_cuda(*plan_of(name, schedule, real), real, f"{name} by {schedule}")


@compiles_cuda
@pytest.mark.machine_code
def test_some_systems_compile_as_cuda(rng: np.random.Generator) -> None:
    for name, schedule in some(rng, "cuda", 10):
        compile_as_cuda(name, schedule, (DType.F32, DType.F64, DType.BF16)[int(rng.integers(3))])


@compiles_cuda
@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.parametrize(("name", "schedule"), RUNS["cuda"])
def test_a_system_compiles_as_cuda(name: str, schedule: str) -> None:
    for real in (DType.F32, DType.F64, DType.BF16):
        compile_as_cuda(name, schedule, real)


# --- Triton ---


def interpreted(pairs: Sequence[tuple[str, str]], seed: int, cache: Path) -> None:
    words = [f"{name}:{schedule}" for name, schedule in pairs]
    found = process("zoo_interpreted", words, seed, cache, 1800)
    assert [f["case"] for f in found] == words
    wrong = [f["wrong"] or f["refused"] for f in found if f["wrong"] or f["refused"]]
    assert not wrong, "\n".join(wrong)


def test_some_systems_agree_as_triton(rng: np.random.Generator, seed: int, tmp_path: Path) -> None:
    interpreted(some(rng, "triton", 10), seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_all_systems_agree_as_triton(part: int, seed: int, tmp_path: Path) -> None:
    interpreted(RUNS["triton"][part::8], seed, tmp_path)


def compile_as_triton(name: str, schedule: str, real: DType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    compile_plan_as_triton(*plan_of(name, schedule, real), real, folder)


@pytest.mark.machine_code
def test_some_systems_compile_as_triton(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, schedule in some(rng, "triton", 4):
        compile_as_triton(
            name, schedule, (DType.F32, DType.F64, DType.BF16)[int(rng.integers(3))], tmp_path, monkeypatch
        )


@pytest.mark.machine_code
def test_a_row_that_becomes_a_column_stops_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's passes over layouts never end where a carried value is permuted and reduced again, so it is reshaped."""
    from tests.gpu.test_triton_machine_code import kernels

    plan, sizes = plan_of("bottleneck_paths", "sequential", DType.F32)
    for kernel, _ in kernels(plan, sizes, DType.F32, tmp_path):
        assert not any("tl.permute" in line for line in kernel.body)
    compile_as_triton("bottleneck_paths", "sequential", DType.F32, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.parametrize(("name", "schedule"), RUNS["triton"])
def test_a_system_compiles_as_triton(name: str, schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for real in (DType.F32, DType.BF16):
        compile_as_triton(name, schedule, real, tmp_path, monkeypatch)


def test_the_page_of_the_zoo_says_what_runs_where() -> None:
    from tests.zoo.page import page

    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == page(), "docs/zoo.md is old: `make docs`"
