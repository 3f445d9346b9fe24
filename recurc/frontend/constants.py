"""Constant folding: an operation on numbers known at compile time is done at compile time, in float64 and int64."""

from __future__ import annotations

import cmath
from collections.abc import Callable
from typing import Any

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
    value = _arithmetic(expr.op, values)
    if value is None:
        value = _numpy(expr.op, values)
    if cmath.isinf(value) and not any(cmath.isinf(v) for v in values):
        raise OverflowError("the result is too large for a float64")
    return Const(_checked(value, expr.dtype.kind), expr.dtype, expr.span)


def _arithmetic(op: str, values: list[_Number]) -> _Number | None:
    """Whole numbers exactly, so that an overflow is seen; real ones by Python's float64, which is NumPy's."""
    whole = [int(v) for v in values if isinstance(v, int)]
    match op, whole if len(whole) == len(values) else [v for v in values if isinstance(v, float)]:
        case "add", [a, b]:
            return a + b
        case "sub", [a, b]:
            return a - b
        case "mul", [a, b]:
            return a * b
        case "div", [float(a), b]:
            return a / b
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


def _numpy(op: str, values: list[_Number]) -> _Number:
    import numpy as np

    types: dict[type, Callable[..., Any]] = {bool: np.bool_, int: np.int64, float: np.float64, complex: np.complex128}
    with np.errstate(all="ignore"):
        return OPS[op].numpy(*(types[type(v)](v) for v in values)).item()
