"""Every row of the op table keeps its promises: meaning, derivative, range, shorthand, alignment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recurc.backends import reference
from recurc.ir import Const, Equation, Expr, Input, Read, Recurrence
from recurc.ops import OPS, Gives, Takes, TypeProblem, align, apply
from recurc.types import DimDecl, DType

POINTS = 64
NEEDS_POSITIVE = {"log", "sqrt", "rsqrt", "pow"}
SMOOTH = sorted(
    name
    for name, op in OPS.items()
    if op.derivative is not None
    and op.takes not in (Takes.CONDITION, Takes.BOOL)
    and name not in ("mod", "floordiv", "stop_gradient")
)


def _evaluate(expr: Expr, operands: list[np.ndarray]) -> np.ndarray:
    inputs = tuple(Input(f"x{i}", ("D",), DType.REAL) for i in range(len(operands)))
    rec = Recurrence("Row", (DimDecl("D"),), inputs, (), (), (Equation("y", expr),), ("y",))
    arrays = {f"x{i}": value.reshape(1, 1, -1) for i, value in enumerate(operands)}
    value = reference.run(rec, arrays, 1, 1)["y"]
    return np.broadcast_to(value, (1, 1, POINTS))[0, 0] if value.ndim < 3 else value[0, 0]


def _reads(arity: int) -> list[Expr]:
    return [Read(f"x{i}", 0, ("D",), DType.REAL) for i in range(arity)]


def _operands(name: str, rng: np.random.Generator) -> list[np.ndarray]:
    values = [rng.uniform(-3, 3, POINTS) for _ in range(OPS[name].arity)]
    if name in NEEDS_POSITIVE:
        values[0] = np.abs(values[0]) + 0.2
    if name in ("div", "atan2"):  # away from the pole, where central differences say nothing
        values[1] = np.copysign(np.abs(values[1]) + 0.2, values[1])
    if name == "log1p":
        values[0] = np.abs(values[0])
    return values


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_column_matches_central_differences(name: str, rng: np.random.Generator) -> None:
    op, operands = OPS[name], _operands(name, rng)
    args = _reads(op.arity)
    y = apply(name, *args)
    assert op.derivative is not None
    step = 1e-6
    for i, partial in enumerate(op.derivative(args, y)):
        assert partial is not None
        up, down = [*operands], [*operands]
        up[i], down[i] = operands[i] + step, operands[i] - step
        slope = (_evaluate(y, up) - _evaluate(y, down)) / (2 * step)
        # away from the kinks of max, abs, sign...: the points are continuous draws, a kink within 1e-6 is improbable
        exact = _evaluate(partial, operands)
        # central differences: h^2/6 |f'''| plus eps |f| / h
        assert np.allclose(exact, slope, rtol=2e-6, atol=2e-6 * (1 + np.abs(slope).max())), name


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if op.expands))
def test_shorthand_means_what_it_expands_to(name: str, rng: np.random.Generator) -> None:
    op = OPS[name]
    operands = [4 * rng.standard_normal(POINTS) for _ in range(op.arity)]
    if name == "clamp":
        operands[1], operands[2] = np.minimum(*operands[1:]), np.maximum(*operands[1:])
    args = _reads(op.arity)
    assert op.expands is not None
    direct, expanded = _evaluate(apply(name, *args), operands), _evaluate(op.expands(*args), operands)
    assert np.allclose(direct, expanded, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", sorted(n for n, op in OPS.items() if op.range != (-math.inf, math.inf)))
def test_values_stay_in_the_stated_range(name: str, rng: np.random.Generator) -> None:
    op, operands = OPS[name], [20 * v for v in _operands(name, rng)]
    values = _evaluate(apply(name, *_reads(op.arity)), operands)
    low, high = op.range
    assert np.all((values >= low) & (values <= high))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "silu", "logsigmoid", "gelu", "elu"])
def test_gates_are_finite_at_both_ends(name: str) -> None:
    ends = np.resize(np.array([-1e30, -800.0, -45.0, 0.0, 45.0, 800.0, 1e30]), POINTS)
    assert np.all(np.isfinite(_evaluate(apply(name, *_reads(1)), [ends])))


def test_every_row_is_native_or_shorthand_or_complex() -> None:
    for op in OPS.values():
        native = op.c is not None and op.triton is not None
        assert native or op.expands is not None or op.name in ("real", "imag", "conj"), op.name


def test_operands_align_by_name_and_keep_the_left_order() -> None:
    assert align([("V",), ("K",)]) == ("V", "K")
    assert align([("K", "V"), ("V", "K")]) == ("K", "V")
    assert align([(), ("H", "H")]) == ("H", "H")
    with pytest.raises(TypeProblem, match="repeats a dim"):
        align([("H", "H"), ("H",)])


def test_literals_take_the_operands_type_and_gates_refuse_truth_values() -> None:
    x = Read("x", 0, ("D",), DType.REAL)
    assert apply("mul", Const(2, DType.I64), x) == apply("mul", Const(2.0, DType.REAL), x)
    assert apply("div", Const(1, DType.I64), Const(2, DType.I64)).dtype is DType.REAL
    with pytest.raises(TypeProblem, match="truth value"):
        apply("tanh", apply("gt", x, Const(0.0, DType.REAL)))
    with pytest.raises(TypeProblem, match="condition"):
        apply("select", x, x, x)


def test_result_kinds_follow_the_row() -> None:
    i = Read("i", 0, (), DType.I64)
    for op in OPS.values():
        if (
            op.arity == 1
            and op.takes in (Takes.INT_OR_REAL, Takes.ANY)
            and op.gives is Gives.COMMON
            and op.name != "conj"
        ):
            assert apply(op.name, i).dtype is DType.I64, op.name
        if op.arity == 1 and op.takes is Takes.REAL and op.gives is Gives.FLOAT:
            assert apply(op.name, i).dtype is DType.REAL, op.name
