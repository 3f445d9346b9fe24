"""Names that mean something in generated C stay ordinary names in a recurrence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends.base import Backend
from recurc.backends.cpu import BACKEND as CPU
from recurc.backends.emit.names import module_name, safe_name
from recurc.backends.numpy_script import script
from recurc.backends.plan_numpy import BACKEND as PLANS
from recurc.frontend import load_text
from tests.odd_names import Call, Case, run_on

NATIVE = pytest.mark.skipif(CPU.unavailable() is not None, reason="no C compiler here")
DIMS = ["free", "y0", "M_PI", "INT_MAX", "_Complex", "parts", "work", "goto", "NULL", "stride", "int"]
VALUES = ["M_PI", "_Bool", "data", "panel", "call", "x_1", "x__1", "x__out", "x_out", "__global__", "NULL"]


def test_dims_named_like_c_functions_macros_and_locals(rng: np.random.Generator) -> None:
    lines = [f"recurrence Odd({', '.join(DIMS)}):"]
    for k, dim in enumerate(DIMS):
        lines += [f"    input x{k}[{dim}]", f"    state h{k}[{dim}] = 0", f"    h{k} = 0.5 * h{k}[t-1] + x{k}"]
    lines.append("    output y = " + " + ".join(f"sum(h{k}, {dim})" for k, dim in enumerate(DIMS)))
    rec = recurc.load(text="\n".join(lines))
    arrays = {f"x{k}": rng.standard_normal((2, 4, 3 + k)) for k in range(len(DIMS))}
    expected = rec.compile(backend="reference")(**arrays)
    np.testing.assert_allclose(rec.compile(backend="cpu")(**arrays), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shift", range(0, len(VALUES), 3))
def test_values_named_like_what_generated_c_declares(shift: int, rng: np.random.Generator) -> None:
    state, gate, into, weight = (VALUES[(shift + k) % len(VALUES)] for k in range(4))
    rec = recurc.load(
        text=f"""recurrence Odd(D, E):
    input x[E]
    param W[D, E], {weight}[D, D]
    state {state}[D] = 0
    {into} = W @ x
    {state} = tanh({into} + {weight} @ {state}[t-1])
    {gate} = {state} * {into}
    output y = {gate}"""
    )
    arrays = {
        "x": rng.standard_normal((9, 6, 3)),
        "W": rng.standard_normal((5, 3)),
        weight: rng.standard_normal((5, 5)) / 5,
    }
    expected = rec.compile(backend="reference")(**arrays)
    np.testing.assert_allclose(rec.compile(backend="cpu")(**arrays), expected, rtol=1e-9, atol=1e-9)


def test_names_compilers_keep_for_themselves_are_spelled_otherwise() -> None:
    for name in ("_Complex", "M_PI", "INT8_MAX", "__global__", "x__3", "x__out"):
        assert safe_name(name) == f"{name}_"
    assert safe_name("A_log") == "A_log"


def test_negative_zero_comes_back_from_text_and_is_no_zero_to_any_backend(rng: np.random.Generator) -> None:
    rec = recurc.load(
        text="""recurrence Zeros(D):
    input x[D]
    output a = x / -0.0
    output b = atan2(-0.0, x) + 10 * atan2(0.0, x)
    output c = atan2(if x > 0 then -0.0 else x, -1.0)"""
    )
    again = recurc.load(text=rec.to_text())
    assert again == rec
    assert load_text(rec.to_text().replace("-0.0", "0.0"))[0] != rec.ir
    x = rng.standard_normal((7, 5))
    expected = (
        -np.sign(x) * np.inf,
        np.arctan2(-0.0, x) + 10 * np.arctan2(0.0, x),
        np.arctan2(np.where(x > 0, -0.0, x), -1.0),
    )
    for backend in ("reference", "numpy", "cpu"):
        for got, want in zip(again.compile(backend=backend)(x=x), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def _by(backend: Backend, case: Case) -> tuple[Call, str]:
    kernel = backend.build(case.plan, case.spec)
    return lambda arrays: kernel(arrays, case.batch, case.steps), "\n".join(kernel.source.values())


def _as_program(case: Case) -> tuple[Call, str]:
    """The program `recurc compile --target numpy` writes."""
    rec = recurc.load(text=case.text).ir
    text = script(rec, case.spec)
    program: dict[str, Any] = {"__name__": "program"}
    exec(compile(text, "program.py", "exec"), program)

    def call(arrays: dict[str, Any]) -> None:
        given = [arrays[i.name] for i in rec.inputs] + [arrays[p.name][0] for p in rec.params]
        for name, value in program[module_name(rec.name)](*given).items():
            if name in arrays:
                arrays[name][...] = value

    return call, text


def test_words_of_every_language_mean_the_same_in_plans_and_programs(rng: np.random.Generator) -> None:
    assert run_on(lambda case: _by(PLANS, case), rng, 3) == 6
    assert run_on(_as_program, rng, 4) == 8


@NATIVE
def test_words_of_every_language_mean_the_same_in_c(rng: np.random.Generator) -> None:
    assert run_on(lambda case: _by(CPU, case), rng, 1) == 2


@NATIVE
@pytest.mark.slow
def test_every_word_of_generated_c_is_an_ordinary_name(rng: np.random.Generator) -> None:
    assert run_on(lambda case: _by(CPU, case), rng, None) > 40


@pytest.mark.parametrize("name", ["Math", "Numpy", "Class", "SYS", "recurc", "Torch", "Print", "__future__"])
def test_a_written_program_hides_no_module(name: str) -> None:
    made = module_name(name)
    assert made.isidentifier()
    assert made not in sys.stdlib_module_names
    assert made not in ("numpy", "torch", "recurc", "print", "class")
    assert module_name("LSTM") == "lstm"


@NATIVE
def test_exported_c_keeps_arrays_of_like_names_apart(tmp_path: Path) -> None:
    rec = recurc.load(
        text="""recurrence Alike(D):
    input x[D], threads[D], construe[D], α[D], alpha[D], h_initial[D]
    state h[D] = 0
    h = 0.5 * h[t-1] + x + threads + construe + α + alpha + h_initial
    output h"""
    )
    plan = rec.compile(backend="cpu", sizes={"D": 3}, dtype="f64").plan
    from recurc.backends.base import Specialization
    from recurc.types import DType

    arrays = CPU.export(plan, Specialization((("D", 3),), DType.F64), tmp_path)["arrays"]
    arguments = [a["argument"] for a in arrays]
    assert len(set(arguments)) == len(arguments)
    assert "threads" not in arguments
    assert all(a.isidentifier() for a in arguments)
    text = (tmp_path / "alike.py").read_text()
    assert '"name": "construe"' in text
    assert '"time": True' in text
