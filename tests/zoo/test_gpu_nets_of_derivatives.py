"""What a differentiated call runs, of every system of the zoo that has derivatives, on the GPU backends, on a machine
without a GPU: the forward pass with what it saves and the backward pass agree with the definition, by every legal
schedule, in Triton's interpreter and as CUDA C++ on the CPU, and compile for a real chip; so do the derivatives that
calls on these backends give. The fast run takes a few systems, drawn by the seed among those that are soon done; the
slow one all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurc import ir
from recurc.backends.cuda.compile import missing_compiler
from recurc.runtime import choose
from recurc.types import DType
from tests.gpu.adjoint_cases import agree, derivatives_agree, expected, parts, plan_of, schedules
from tests.gpu.cuda_shim import has_compiler
from tests.gpu.cuda_stand_in import OnCpu
from tests.gpu.interpreted import interpreted
from tests.gpu.zoo_cases import compile_plan_as_cuda, compile_plan_as_triton
from tests.numerics.test_gradients import NAMES
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

torch = pytest.importorskip("torch")
SMALL = 150  # nodes of the parts of a call that is soon done; half of them are smaller
runs_on_the_cpu = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")
compiles_cuda = pytest.mark.skipif(missing_compiler() is not None, reason=missing_compiler() or "")


def some(rng: np.random.Generator, count: int) -> list[str]:
    def small(name: str) -> bool:
        return sum(1 for part in parts(name).values() for e in part.ir.equations for _ in ir.walk(e.expr)) <= SMALL

    return list(islice((str(n) for n in rng.permutation(NAMES) if small(str(n))), count))


# --- CUDA ---


@pytest.fixture
def on_cpu(seed: int, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    known, stand_in = choose.backend, OnCpu(seed)
    monkeypatch.setattr(choose, "backend", lambda name: stand_in if name == "cuda" else known(name))
    return stand_in


@runs_on_the_cpu
def test_parts_of_some_agree_as_cuda(on_cpu: OnCpu, rng: np.random.Generator, seed: int) -> None:
    for name in some(rng, 1):
        for part in parts(name):
            agree(name, part, "cuda", seed)
    assert any(kernel.calls for kernel in on_cpu.kernels.values())


@runs_on_the_cpu
def test_derivatives_of_some_are_right_as_cuda(on_cpu: OnCpu, rng: np.random.Generator, seed: int) -> None:
    for name in some(rng, 1):
        derivatives_agree(name, "cuda", seed)
    assert any(kernel.calls for kernel in on_cpu.kernels.values())


@runs_on_the_cpu
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parts_of_all_agree_as_cuda(name: str, on_cpu: OnCpu, seed: int) -> None:
    for part in parts(name):
        agree(name, part, "cuda", seed)
    derivatives_agree(name, "cuda", seed)


def compile_parts(name: str, backend: str, reals: Sequence[DType], folder: Path) -> None:
    for part in parts(name):
        for schedule in schedules(name, part):
            if expected(name, part, schedule, backend) is not None:
                continue
            for real in reals:
                plan, sizes = plan_of(name, part, schedule, real)
                if backend == "cuda":
                    compile_plan_as_cuda(plan, sizes, real, f"the {part} pass of {name} by {schedule}")
                else:
                    compile_plan_as_triton(plan, sizes, real, folder)


@compiles_cuda
@pytest.mark.machine_code
def test_parts_of_some_compile_as_cuda(rng: np.random.Generator, tmp_path: Path) -> None:
    for name in some(rng, 1):
        compile_parts(name, "cuda", [(DType.F32, DType.F64, DType.BF16)[int(rng.integers(3))]], tmp_path)


@compiles_cuda
@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.parametrize("name", NAMES)
def test_parts_of_all_compile_as_cuda(name: str, tmp_path: Path) -> None:
    compile_parts(name, "cuda", (DType.F32, DType.F64, DType.BF16), tmp_path)


# --- Triton ---


def right_in_the_interpreter(words: list[str], seed: int, cache: Path) -> None:
    found = interpreted("zoo_interpreted", words, seed, cache, 3000)
    assert [f["case"] for f in found] == words
    wrong = [f"{f['case']}: {f['wrong'] or f['refused']}" for f in found if f["wrong"] or f["refused"]]
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


def test_some_are_right_as_triton(rng: np.random.Generator, seed: int, tmp_path: Path) -> None:
    one, other = some(rng, 2)
    right_in_the_interpreter([*(f"{one}:call/{part}" for part in parts(one)), f"{other}:derivatives"], seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_are_right_as_triton(name: str, seed: int, tmp_path: Path) -> None:
    right_in_the_interpreter([*(f"{name}:call/{part}" for part in parts(name)), f"{name}:derivatives"], seed, tmp_path)


@pytest.fixture
def compiled_not_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled_not_interpreted")
def test_parts_of_some_compile_as_triton(rng: np.random.Generator, tmp_path: Path) -> None:
    for name in some(rng, 1):
        compile_parts(name, "triton", [(DType.F32, DType.BF16)[int(rng.integers(2))]], tmp_path)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.usefixtures("compiled_not_interpreted")
@pytest.mark.parametrize("name", NAMES)
def test_parts_of_all_compile_as_triton(name: str, tmp_path: Path) -> None:
    compile_parts(name, "triton", (DType.F32, DType.BF16), tmp_path)


# --- tensors on a GPU that is not here ---


@pytest.mark.parametrize("backend", ["auto", "cuda", "triton"])
@pytest.mark.parametrize("name", ["lstm", "aaren", "lru", "qrnn", "bidirectional_rnn", "jrt", "episodic_lstm"])
def test_derivatives_lie_where_the_arguments_do(name: str, backend: str, rng: np.random.Generator) -> None:
    """By fake tensors, which have a device and no memory: nothing of a differentiated call moves to another device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    inputs, params = cases.draw(name, rng, 6)
    f = cases.load(name).compile(backend=backend, sizes=ORACLES[name].sizes)
    kinds = {n: torch.from_numpy(a).dtype for n, a in (inputs | params).items()}
    with FakeTensorMode():
        given = {n: torch.empty(a.shape, dtype=kinds[n], device="cuda:1") for n, a in (inputs | params).items()}
        (made, finals), pullback = f.vjp(return_final=True, **given)
        outputs = cases.several(made)
        ends = {n: torch.empty_like(v) for n, v in finals.items() if v.is_floating_point() or v.is_complex()}
        found: dict[str, Any] = pullback(torch.empty_like(made) if len(outputs) == 1 else [*outputs], ends)
        assert {v.device for v in (*outputs, *finals.values())} == {torch.device("cuda:1")}
        assert not found.pop("initial")
        assert set(found) == {n for n, t in given.items() if t.is_floating_point() or t.is_complex()}
        for argument, gradient in found.items():
            like = given[argument]
            assert (gradient.shape, gradient.dtype, gradient.device) == (like.shape, like.dtype, like.device)
