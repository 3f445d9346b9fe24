"""Canonicalise: one spelling for what means the same, and nothing computed twice or for no one.

Every rule keeps the value bit for bit in float64, or to the last rounding where it says so, for infinities, NaN and
signed zeros too: `0 * x` is not 0, `x + 0` is not x (it turns -0 into 0), and a choice by comparison is not `max` for a
NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from recurc.ir import Apply, Const, Contract, Equation, Expr, Read, Reaxis, Recurrence, placed, reads, rewrite
from recurc.ops import OPS, apply
from recurc.passes.dependence import topological
from recurc.passes.manager import Pass
from recurc.passes.sharing import share
from recurc.passes.verify import used_names
from recurc.types import DType, Kind

_HALF = (DType.F16, DType.BF16)
_FOLDABLE = (DType.REAL, DType.F64, DType.I64, DType.BOOL)
_INT_LIMIT = 1 << 62


def canonicalize(rec: Recurrence) -> Recurrence:
    """`rec` (core operators) with constants folded and simple identities applied in every expression."""
    return replace(
        rec,
        inputs=tuple(replace(i, before=i.before and simplified(i.before)) for i in rec.inputs),
        states=tuple(replace(s, initial=simplified(s.initial)) for s in rec.states),
        equations=tuple(replace(e, expr=simplified(e.expr)) for e in rec.equations),
    )


def simplified(expr: Expr) -> Expr:
    """`expr` by the rules of this file, operands first."""
    return rewrite(expr, _rule)


def _rule(node: Expr) -> Expr:
    match node:
        case Apply():
            new = folded(node) or _identity(node)
            if new is None or (new.dims, new.dtype) != (node.dims, node.dtype):
                return node
            return placed(new, node.span)
        case Contract():
            return _through_transposes(node)
        case Reaxis(arg=arg, axes=axes, at=None) if axes == tuple(range(len(axes))) and node.dims == arg.dims:
            return arg
        case _:
            return node


def folded(node: Apply) -> Expr | None:
    """The constant `node` is, computed in float64 (or exactly, for integers); None if it is none."""
    values = [a.value for a in node.args if isinstance(a, Const)]
    if len(values) < len(node.args) or node.dtype not in _FOLDABLE or any(isinstance(v, complex) for v in values):
        return None
    if any(a.dtype not in _FOLDABLE for a in node.args):
        return None
    if node.op == "cast":
        return _constant(values[0], node) if _widens(node.args[0].dtype, node.dtype) else None
    if node.dtype is DType.I64 and any(isinstance(v, int) and abs(v) > _INT_LIMIT for v in values):
        return None
    if node.op in ("mod", "floordiv") and node.dtype is DType.I64 and values[1] == 0:
        return None
    with np.errstate(all="ignore"):
        function: Callable[..., Any] = OPS[node.op].numpy
        wide = [np.float64(v) if isinstance(v, float) else v for v in values]
        if node.dtype is DType.I64 and node.op in ("add", "sub", "mul"):
            a, b = (int(v.real) for v in values)
            result: Any = {"add": a + b, "sub": a - b, "mul": a * b}[node.op]
        else:
            result = function(*wide)
    return _constant(result, node)


def _is_cast(expr: Expr) -> bool:
    return isinstance(expr, Apply) and expr.op == "cast"


def _widens(old: DType, new: DType) -> bool:
    return old.kind.value <= new.kind.value


def _constant(value: Any, node: Apply) -> Const | None:
    match node.dtype.kind:
        case Kind.BOOL:
            return Const(bool(value), node.dtype, node.span)
        case Kind.INT:
            whole = int(value)
            return Const(whole, node.dtype, node.span) if abs(whole) <= _INT_LIMIT else None
        case _:
            number = float(value)
            return None if number != number else Const(number, node.dtype, node.span)


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and not isinstance(expr.value, bool | complex) and expr.value == value


def _identity(node: Apply) -> Expr | None:
    match node:
        case Apply(op="mul", args=(a, b)):
            if _is(b, 1) or _is(a, 1):
                return a if _is(b, 1) else b
            if _is(b, -1) or _is(a, -1):
                return apply("neg", a if _is(b, -1) else b)
        case Apply(op="div", args=(a, b)) if _is(b, 1):
            return a
        case Apply(op="sub", args=(a, Const(value=0) as zero)) if not _negative_zero(zero):
            return a
        case Apply(op="sub", args=(a, Apply(op="neg", args=(b,)))):
            return apply("add", a, b)
        case Apply(op="add", args=(a, Apply(op="neg", args=(b,)))):
            return apply("sub", a, b)
        case Apply(op="neg", args=(Apply(op="neg", args=(a,)),)) | Apply(op="not", args=(Apply(op="not", args=(a,)),)):
            return a
        case Apply(op="cast", args=(a,)) if a.dtype is node.dtype and (node.dtype not in _HALF or _is_cast(a)):
            return a  # arithmetic on half precisions is wider than they are, so its result is not rounded yet
        case Apply(op="pow", args=(a, b)) if _is(b, 1):
            return a
        case Apply(op="select", args=(Const(value=bool(chosen)), a, b)):
            return a if chosen else b
        case Apply(op="select", args=(condition, a, b)) if node.dtype.kind is Kind.INT:
            return _picked(condition, a, b)
        case _:
            pass
    return None


def _negative_zero(zero: Const) -> bool:
    return isinstance(zero.value, float) and str(zero.value) == "-0.0"


_PICKS = {"gt": "max", "ge": "max", "lt": "min", "le": "min"}


def _picked(condition: Expr, a: Expr, b: Expr) -> Expr | None:
    """`if a > b then a else b` as max: for integers only, where no NaN can make a difference."""
    match condition:
        case Apply(op=op, args=args) if op in _PICKS and args == (a, b):
            return apply(_PICKS[op], a, b)
        case Apply(op=op, args=args) if op in _PICKS and args == (b, a):
            return apply({"max": "min", "min": "max"}[_PICKS[op]], a, b)
        case _:
            return None


def _through_transposes(node: Contract) -> Contract:
    """A contraction names its operands' axes, so it can read a permuted operand where it stands."""
    left, left_axes = _unpermuted(node.left, node.left_axes)
    right, right_axes = _unpermuted(node.right, node.right_axes)
    return replace(node, left=left, right=right, left_axes=left_axes, right_axes=right_axes)


def _unpermuted(side: Expr, labels: tuple[int, ...]) -> tuple[Expr, tuple[int, ...]]:
    if isinstance(side, Reaxis) and side.at is None and side.dims == tuple(side.arg.dims[a] for a in side.axes):
        moved = dict(zip(side.axes, labels, strict=True))
        return side.arg, tuple(moved[axis] for axis in range(len(labels)))
    return side, labels


def share_terms(rec: Recurrence) -> Recurrence:
    """`rec` with a name for each costly term that occurs more than once; a term that is an equation is read by its
    name."""
    states = {s.name for s in rec.states}
    whole: dict[Expr, Equation] = {}
    for equation in rec.equations:
        if equation.name not in states and not isinstance(equation.expr, Read | Const):
            whole.setdefault(equation.expr, equation)

    def by_name(node: Expr) -> Expr:
        owner = whole.get(node)
        return node if owner is None else Read(owner.name, 0, node.dims, node.dtype, node.span)

    exprs: list[Expr] = []
    for equation in rec.equations:
        if whole.get(equation.expr) is equation:
            exprs.append(equation.expr)
        else:
            exprs.append(_top_down(equation.expr, by_name))
    named, shared = share(exprs, used_names(rec))
    kept = [replace(e, expr=x) for e, x in zip(rec.equations, shared, strict=True)]
    return replace(rec, equations=topological([*kept, *named]))


def _top_down(expr: Expr, rule: Callable[[Expr], Expr]) -> Expr:
    from recurc.ir import children, with_children

    new = rule(expr)
    if new is not expr:
        return new
    old = children(expr)
    below = tuple(_top_down(c, rule) for c in old)
    return with_children(expr, below) if any(a is not b for a, b in zip(old, below, strict=True)) else expr


def drop_dead(rec: Recurrence) -> Recurrence:
    """`rec` without equations that reach neither an output nor a state."""
    by_name = {e.name: e for e in rec.equations}
    pending = [*rec.outputs, *(s.name for s in rec.states)]
    live: set[str] = set()
    while pending:
        name = pending.pop()
        if name in by_name and name not in live:
            live.add(name)
            pending.extend(r.name for r in reads(by_name[name].expr) if r.lag == 0)
    return replace(rec, equations=tuple(e for e in rec.equations if e.name in live))


CANONICALIZE = Pass("canonicalize", "fold constants and apply identities that keep every value", canonicalize)
SHARE = Pass("share", "name costly terms that occur more than once", share_terms)
DROP_DEAD = Pass("drop-dead", "remove equations that reach no output and no state", drop_dead)
