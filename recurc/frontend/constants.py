"""Constant folding: an operation on numbers known at compile time is done at compile time, in float64 and int64."""

from __future__ import annotations

import cmath

import numpy as np

from recurc.ir import Apply, Const, Expr
from recurc.ops import OPS
from recurc.types import Kind

_LIMIT = 2**63
_Number = bool | int | float | complex


def fold(expr: Expr) -> Expr:
    """`expr`, or its value if all its operands are numbers. Raises `ArithmeticError` if there is none."""
    if not isinstance(expr, Apply) or expr.op == "cast":
        return expr
    values = [a.value for a in expr.args if isinstance(a, Const)]
    if len(values) < len(expr.args):
        return expr
    if expr.op in ("div", "mod", "floordiv") and values[1] == 0:
        raise ZeroDivisionError("a division by zero")
    value = _exact(expr.op, values) if expr.dtype.kind is Kind.INT else None
    if value is None:
        with np.errstate(all="ignore"):
            value = OPS[expr.op].numpy(*(_operand(v) for v in values)).item()
    if cmath.isinf(value) and not any(cmath.isinf(v) for v in values):
        raise OverflowError("the result is too large for a float64")
    return Const(_checked(value, expr.dtype.kind), expr.dtype, expr.span)


def _exact(op: str, values: list[_Number]) -> int | None:
    """Whole numbers in exact arithmetic, so that an overflow is seen."""
    match op, [int(v) for v in values if isinstance(v, int)]:
        case "add", [a, b]:
            return a + b
        case "sub", [a, b]:
            return a - b
        case "mul", [a, b]:
            return a * b
        case "neg", [a]:
            return -a
        case _:
            return None


def _checked(value: _Number, kind: Kind) -> _Number:
    if kind is Kind.INT and not isinstance(value, complex):
        if not -_LIMIT <= int(value) < _LIMIT:
            raise OverflowError("the integer does not fit into 64 bits")
        return int(value)
    if cmath.isnan(value):
        raise ArithmeticError("it is not a number")
    if kind is Kind.COMPLEX:
        return complex(value)
    return bool(value) if kind is Kind.BOOL else float(value.real)


def _operand(value: bool | int | float | complex) -> np.generic:
    match value:
        case bool():
            return np.bool_(value)
        case int():
            return np.int64(value)
        case float():
            return np.float64(value)
        case _:
            return np.complex128(value)
