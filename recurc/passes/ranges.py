"""Bounds of a real or integer value that hold whatever the inputs are, from the ranges of operators alone.

What a rule needs to know is mostly a sign: `max(a * h, x)` is a scan for a >= 0, and only then. An open end is
infinite; NaN is in every range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recurc.ir import Apply, Broadcast, Const, Expr, Gather, Iota, Read, Reaxis, Reduce, Size, Step, Unfold
from recurc.ops import OPS
from recurc.types import Kind

Range = tuple[float, float]
_ANY: Range = (-math.inf, math.inf)
_DEEPEST = 40  # levels of an expression, and of names, that are looked through


def value_range(expr: Expr, equations: Mapping[str, Expr], depth: int = _DEEPEST) -> Range:
    """The least and the largest value `expr` can have; `equations` are those it is looked through by name."""
    if depth == 0 or expr.dtype.kind is Kind.COMPLEX:
        return _ANY

    def of(e: Expr) -> Range:
        return value_range(e, equations, depth - 1)

    match expr:
        case Const(value=value) if not isinstance(value, complex):
            return float(value), float(value)
        case Size() | Step() | Iota():
            return 0.0, math.inf
        case Read(name=name, lag=0) if name in equations:
            return of(equations[name])
        case Reaxis(arg=arg) | Broadcast(arg=arg) | Gather(arg=arg):
            return of(arg)
        case Unfold(arg=arg):
            low, high = of(arg)
            return min(low, 0.0), max(high, 0.0)
        case Reduce(op="sum", arg=arg):
            low, high = of(arg)
            return 0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf
        case Reduce(op="max" | "min", arg=arg):
            return of(arg)
        case Apply():
            return _applied(expr, [of(a) for a in expr.args])
        case _:
            return _ANY


def nonnegative(expr: Expr, equations: Mapping[str, Expr]) -> bool:
    return value_range(expr, equations)[0] >= 0


def _applied(node: Apply, args: list[Range]) -> Range:
    match node.op, args:
        case "neg", [(a, b)]:
            return -b, -a
        case "add", [(a, b), (c, d)]:
            return _sum(a, c, -math.inf), _sum(b, d, math.inf)
        case "sub", [(a, b), (c, d)]:
            return _sum(a, -d, -math.inf), _sum(b, -c, math.inf)
        case "mul", [(a, b), (c, d)]:
            if node.args[0] == node.args[1]:
                return 0.0, max(_times(a, a), _times(b, b))
            ends = [_times(x, y) for x in (a, b) for y in (c, d)]
            return min(ends), max(ends)
        case "div", [(a, _), (c, _)] if a >= 0 and c >= 0:
            return 0.0, math.inf
        case "pow", [(a, b), _] if a >= 0:
            return 0.0, math.inf
        case "max", [(a, b), (c, d)]:
            return max(a, c), max(b, d)
        case "min", [(a, b), (c, d)]:
            return min(a, c), min(b, d)
        case "select", [_, (a, b), (c, d)]:
            return min(a, c), max(b, d)
        case (("cast" | "stop_gradient" | "floor" | "round"), [(a, b)]):
            return math.floor(a) if math.isfinite(a) else a, math.ceil(b) if math.isfinite(b) else b
        case "mod", [_, (c, _)] if c > 0:
            return 0.0, args[1][1]
        case _:
            return OPS[node.op].range


def _sum(a: float, b: float, unknown: float) -> float:
    return unknown if math.isinf(a) and math.isinf(b) and a != b else a + b


def _times(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) else a * b
