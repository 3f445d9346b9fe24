"""Bounds of a real or integer value that hold whatever the inputs are, from the ranges of operators alone.

What a rule needs to know is mostly a sign: `max(a * h, x)` is a scan for a >= 0, and only then. An open end is
infinite; NaN is in every range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recurc.ir import Apply, Broadcast, Const, Expr, Gather, Iota, Read, Reaxis, Reduce, Size, Step, Unfold
from recurc.ops import OPS
from recurc.types import Kind, extreme, literal_size

Range = tuple[float, float]
_ANY: Range = (-math.inf, math.inf)
LONGEST, WIDEST = 2.0**40, 2.0**20  # steps of a call and places along a dim: together too many to visit each
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


def finite_range(expr: Expr, known: Mapping[str, Range], equations: Mapping[str, Expr]) -> Range:
    """The least and the largest integer that `expr` can be where it is not the largest or least of its type, which
    stand for no value at all. `known`: what reads lie between; a dim has at most `WIDEST` places, a call less than
    `LONGEST` steps."""
    return _finite(expr, known, equations, _DEEPEST) or (0.0, 0.0)


def _finite(expr: Expr, known: Mapping[str, Range], equations: Mapping[str, Expr], depth: int) -> Range | None:
    if depth == 0:
        return _ANY

    def of(e: Expr) -> Range | None:
        return _finite(e, known, equations, depth - 1)

    match expr:
        case Const(value=int(value), dtype=dtype):
            return None if value in (extreme(dtype, False), extreme(dtype, True)) else (float(value), float(value))
        case _ if expr.dtype.kind is Kind.BOOL:
            return 0.0, 1.0
        case Step():
            return 0.0, LONGEST
        case Iota(dim=dim) | Size(dim=dim):
            return 0.0, float(literal_size(dim) or WIDEST)
        case Read(name=name, lag=0) if name in equations:
            return of(equations[name])
        case Read(name=name):
            return known.get(name, _ANY)
        case Reaxis(arg=arg) | Broadcast(arg=arg) | Gather(arg=arg) | Reduce(op="max" | "min", arg=arg):
            return of(arg)
        case Apply(op="max" | "min", args=args) | Apply(op="select", args=(_, *args)):
            # where one of them is none, it is the other
            found = [r for r in map(of, args) if r is not None]
            return (min(r[0] for r in found), max(r[1] for r in found)) if found else None
        case Apply(op="add" | "sub" | "neg" | "mul" | "cast" | "mod", args=args):
            found = [r for r in map(of, args) if r is not None]
            return _applied(expr, found) if len(found) == len(args) else None
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
