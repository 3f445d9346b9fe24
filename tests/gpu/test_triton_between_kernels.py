"""Stages that Triton modules run with torch between kernels: convolutions, chunks with frozen states, Newton's method.

Numbers in the interpreter, machine code for chips that are not here, and modules that run without recurc."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import passes, targets, zoo
from recurc.backends.base import Specialization
from recurc.backends.triton import TritonBackend
from recurc.passes.complex_parts import split_complex
from recurc.plan import Convolution, Frozen, Newton, Plan
from recurc.types import DType
from tests.gpu.machine_code import ARCHS
from tests.gpu.test_triton_machine_code import check

pytest.importorskip("torch")
pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
SIZES = {"D": 3, "N": 4, "M": 5, "H": 6, "K": 3, "V": 7, "E": 5, "C": 4}
LARGE = {"D": 8, "N": 32, "M": 16, "H": 4, "K": 64, "V": 64, "E": 64, "C": 16}
SYSTEMS = {
    "convolution": ("ema", "biquad", "lru_real", "s4d", "lru", "lssl", "holt_winters"),
    "chunk-frozen": ("titans_linear_chunked", "titans_linear_previous_chunk", "ttt_linear"),
    "newton": ("indrnn", "gru_diagonal", "sru", "lstm_cifg_diagonal", "elman", "gru", "gru_reset_before", "lstm"),
}
PAIRS = [(name, schedule) for schedule, names in SYSTEMS.items() for name in names]


def sizes_of(name: str, sizes: dict[str, int]) -> dict[str, int]:
    dims = zoo.load(name).ir.dims
    return {d.name: sizes[d.same_as or d.name] for d in dims}


def plan_of(name: str, schedule: str, sizes: dict[str, int], real: DType) -> Plan:
    plan = passes.make_plan(zoo.load(name).ir, sizes, 2, 64, real, targets.named("sm_90"), schedule)
    return split_complex(plan, real)


# --- numbers ----------------------------------------------------------------------------------------------------------


def interpreted(program: str, which: str, seed: int, cache: Path) -> list[dict[str, Any]]:
    """In a process of its own: the variable must be set before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.gpu.{program}", str(seed), which],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-500:]}\n{done.stderr[-4000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("program", ["transforms_interpreted", "frozen_interpreted", "newton_interpreted"])
def test_they_agree_with_the_definition(program: str, which: str, seed: int, tmp_path: Path) -> None:
    found = interpreted(program, which, seed, tmp_path)
    assert len(found) >= 5
    wrong = [f"{case['case']}: {case['wrong']}" for case in found if case["wrong"]]
    assert not wrong, "\n".join([f"seed {seed}", *wrong])


# --- modules ----------------------------------------------------------------------------------------------------------

ALONE = """
import importlib.util, sys
import numpy as np, torch

sys.modules["recurc"] = None  # whoever imports it now fails
folder, module = sys.argv[1:]
given = np.load(f"{folder}/given.npz")
tensors = {n: torch.from_numpy(given[n]) for n in given.files}
batch, steps = tensors.pop("batch").item(), tensors.pop("steps").item()
found = importlib.util.spec_from_file_location(module, f"{folder}/{module}.py")
made = importlib.util.module_from_spec(found)
found.loader.exec_module(made)
made.launch(**tensors, batch=batch, steps=steps)
np.savez(f"{folder}/found.npz", **{n: t.numpy() for n, t in tensors.items()})
"""


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("lru_real", "convolution"), ("ttt_linear", "chunk-frozen"), ("indrnn", "newton"), ("elman", "newton")],
)
def test_a_module_runs_where_recurc_is_not(
    name: str, schedule: str, rng: np.random.Generator, seed: int, tmp_path: Path
) -> None:
    sizes, batch, steps = sizes_of(name, SIZES), 2, 11
    rec = zoo.load(name)
    plan = plan_of(name, schedule, sizes, DType.F64)
    module = TritonBackend().emit(plan, Specialization(tuple(sorted(sizes.items())), DType.F64))
    (tmp_path / f"{module.name}.py").write_text(module.text, encoding="utf-8")
    (tmp_path / "alone.py").write_text(ALONE, encoding="utf-8")
    kernel = rec.compile(backend="numpy", sizes=sizes)
    arrays = {n: 0.3 * rng.standard_normal((batch, steps, *(sizes[d] for d in i.dims))) for n, i in rec.inputs.items()}
    params = {n: 0.3 * rng.standard_normal([sizes[d] for d in p.dims]) for n, p in rec.params.items()}
    initial = {s.name: 0.3 * rng.standard_normal((batch, *(sizes[d] for d in s.dims))) for s in rec.ir.states}
    outputs, last = kernel(**arrays, **params, initial=initial, return_final=True)
    known = arrays | params | {f"{n}@initial": a for n, a in initial.items()}
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = dict(zip(rec.ir.outputs, outputs, strict=True)) | {f"{n}@final": a for n, a in last.items()}
    given: dict[str, Any] = {"batch": batch, "steps": steps}
    for argument, buffer in module.arguments:
        found = plan.buffer(buffer)
        lead = (batch, steps) if found.has_time else (batch,)
        shape = (*lead, *(sizes[d] for d in found.dims))
        given[argument] = np.ascontiguousarray(np.broadcast_to(known.get(buffer, np.nan), shape))
    np.savez(tmp_path / "given.npz", **given)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "alone.py", tmp_path, module.name],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}\n{done.stderr[-3000:]}"
    made = np.load(tmp_path / "found.npz")
    checked = 0
    for argument, buffer in module.arguments:
        if buffer in wanted:
            np.testing.assert_allclose(made[argument], wanted[buffer], rtol=1e-9, atol=1e-9, err_msg=f"seed {seed}")
            checked += 1
    assert checked > len(outputs)


@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_a_module_brings_what_it_calls(name: str, schedule: str) -> None:
    """torch and triton only, and every function of the host that is named is there."""
    sizes = sizes_of(name, SIZES)
    plan = plan_of(name, schedule, sizes, DType.F32)
    assert any(isinstance(s, Convolution | Frozen | Newton) for s in plan.stages)
    tree = ast.parse(TritonBackend().emit(plan, Specialization(tuple(sorted(sizes.items())), DType.F32)).text)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= {"math", "torch", "triton", "triton.language"}
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    defined |= {
        n.id for node in tree.body if isinstance(node, ast.Assign) for n in node.targets if isinstance(n, ast.Name)
    }
    called = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id.startswith("rc_")}
    assert called and called <= defined


def test_a_kernel_inside_a_chunk_knows_its_step() -> None:
    text = """recurrence Clock(K):
    input  x[K]
    state  M[K] = 0
    every 4:
        state F[K] = 0
        F = M[t-1]
    M = 0.5 * M[t-1] + tanh(F + 0.1 * t) * x
    output M
"""
    rec = recurc.load(text=text)
    plan = passes.make_plan(rec.ir, {"K": 5}, 2, 64, DType.F32, targets.named("sm_90"), "chunk-frozen")
    module = TritonBackend().emit(plan, Specialization((("K", 5),), DType.F32))
    assert any(a.name == "begin" for k in module.kernels for a in k.args)


# --- machine code -----------------------------------------------------------------------------------------------------


@pytest.mark.machine_code
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("name", "schedule"), [p for p in PAIRS if p[0] not in ("lru_real", "s4d", "lru")])
def test_their_kernels_spill_nothing(
    name: str, schedule: str, arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from those with sines of params, whose stack the library of the chip asks for."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for real in (DType.F32, DType.BF16):
        sizes = sizes_of(name, LARGE)
        check(plan_of(name, schedule, sizes, real), sizes, real, arch, tmp_path)


@pytest.mark.machine_code
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("biquad", "convolution"),
        ("titans_linear_chunked", "chunk-frozen"),
        ("lstm_cifg_diagonal", "newton"),
        ("lstm", "newton"),
    ],
)
def test_some_of_their_kernels_spill_nothing(
    name: str, schedule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = sizes_of(name, LARGE)
    check(plan_of(name, schedule, sizes, DType.F32), sizes, DType.F32, "sm_90", tmp_path)
