"""Constant folding: an operation on numbers known at compile time is done at compile time, in float64 and int64."""

from __future__ import annotations

import cmath
import math

import numpy as np

from recurc.ir import Apply, Const, Expr
from recurc.ops import OPS
from recurc.types import Kind

_LIMIT = 2**63
_EXACT = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b}


def fold(expr: Expr) -> Expr:
    """`expr`, or its value if all its operands are numbers. Raises `ArithmeticError` if there is none."""
    if not isinstance(expr, Apply) or expr.op == "cast" or not all(isinstance(a, Const) for a in expr.args):
        return expr
    values = [a.value for a in expr.args if isinstance(a, Const)]
    kind = expr.dtype.kind
    if kind is Kind.INT and expr.op in _EXACT:
        value = _EXACT[expr.op](*values)
    elif kind is Kind.INT and expr.op == "neg":
        value = -values[0]
    elif expr.op in ("div", "mod", "floordiv") and values[1] == 0:
        raise ZeroDivisionError("a division by zero")
    else:
        with np.errstate(all="ignore"):
            value = OPS[expr.op].numpy(*(_operand(v) for v in values)).item()
    if kind is Kind.INT:
        value = int(value)
        if not -_LIMIT <= value < _LIMIT:
            raise OverflowError("the integer does not fit into 64 bits")
    elif kind is Kind.REAL:
        value = float(value.real)
        if math.isnan(value):
            raise ArithmeticError("it is not a number")
    elif kind is Kind.COMPLEX:
        value = complex(value)
        if cmath.isnan(value):
            raise ArithmeticError("it is not a number")
    else:
        value = bool(value)
    return Const(value, expr.dtype, expr.span)


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
