"""Arithmetic on places: indices that are computed, in the simplest form, and kept inside their axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recurc.backends.emit.nodes import Axis, Call, Node, Number, Place, StepIndex, dim_of, extent
from recurc.types import DType, Kind

_STEPS = 1 << 48  # more than any sequence has
_EXACT = 1 << 24  # integers up to here are the same number as a real of any width
_TRUE = Number(True, DType.BOOL)


def as_node(axis: Axis) -> Node:
    """A place along an axis as an integer value."""
    if isinstance(axis, int):
        return Number(axis, DType.I64)
    return Place(axis) if isinstance(axis, str) else axis


def as_axis(node: Node) -> Axis:
    """An integer value as a place along an axis."""
    if isinstance(node, Number):
        return int(node.value.real)
    return node.var if isinstance(node, Place) else node


def plus(a: Node, b: Node | int) -> Node:
    return folded(Call("add", (a, Number(b, DType.I64) if isinstance(b, int) else b), DType.I64))


def minus(a: Node, b: Node) -> Node:
    return folded(Call("sub", (a, b), DType.I64))


def clamped(place: Node, size: int, sizes: Mapping[str, int]) -> Node:
    """The place, or the nearest end of an axis."""
    low, high = limits(place, sizes)
    if high > size - 1:
        place = folded(Call("min", (place, Number(size - 1, DType.I64)), DType.I64))
    if low < 0:
        place = folded(Call("max", (place, Number(0, DType.I64)), DType.I64))
    return place


def within(place: Node, size: int, sizes: Mapping[str, int]) -> list[Node]:
    """The conditions under which a place lies on an axis, besides those that always hold."""
    low, high = limits(place, sizes)
    below, above = Number(0, DType.I64), Number(size, DType.I64)
    found = [folded(Call("ge", (place, below), DType.BOOL))] if low < 0 else []
    return [*found, folded(Call("lt", (place, above), DType.BOOL))] if high >= size else found


def wrapped(place: Node, size: int, sizes: Mapping[str, int]) -> Node:
    """The place on a ring of `size` places."""
    low, high = limits(place, sizes)
    whole, zero = Number(size, DType.I64), Number(0, DType.I64)
    if low < -size or high >= 2 * size:
        return folded(Call("mod", (place, whole), DType.I64))
    here = place
    if high >= size:
        beyond = folded(Call("ge", (place, whole), DType.BOOL))
        here = folded(Call("select", (beyond, minus(place, whole), here), DType.I64))
    if low < 0:
        before = folded(Call("lt", (place, zero), DType.BOOL))
        here = folded(Call("select", (before, plus(place, whole), here), DType.I64))
    return here


# --- between which numbers ----------------------------------------------------------------------------------------


Range = tuple[int, int]


def limits(node: Node, sizes: Mapping[str, int]) -> Range:
    """The least and the largest value an integer can have: at worst, those of its type."""
    match node:
        case Number(value=int(value)):
            return int(value), int(value)
        case Place(var=var):
            return 0, max(extent(dim_of(var), sizes) - 1, 0)
        case StepIndex():
            return 0, _STEPS
        case Call(op=op, args=args) if node.dtype.kind is Kind.INT and op in _LIMITS:
            found, whole = _LIMITS[op]([limits(a, sizes) for a in args]), _whole(node.dtype)
            return found if whole[0] <= found[0] and found[1] <= whole[1] else whole  # beyond its type it wraps around
        case _:
            return _whole(node.dtype)


def _whole(dtype: DType) -> Range:
    half = 2 ** (8 * dtype.itemsize - 1)
    return -half, half - 1


def _product(known: list[Range]) -> Range:
    a, b = known
    ends = [x * y for x in a for y in b]
    return min(ends), max(ends)


def _choice(known: list[Range]) -> Range:
    _, a, b = known
    return min(a[0], b[0]), max(a[1], b[1])


def _rest(known: list[Range]) -> Range:
    """A remainder has the sign of the divisor; it is 0 where that is 0."""
    low, high = known[1]
    return min(low + 1, 0), max(high - 1, 0)


_LIMITS: dict[str, Callable[[list[Range]], Range]] = {
    "add": lambda known: (known[0][0] + known[1][0], known[0][1] + known[1][1]),
    "sub": lambda known: (known[0][0] - known[1][1], known[0][1] - known[1][0]),
    "mul": _product,
    "min": lambda known: (min(known[0][0], known[1][0]), min(known[0][1], known[1][1])),
    "max": lambda known: (max(known[0][0], known[1][0]), max(known[0][1], known[1][1])),
    "select": _choice,
    "mod": _rest,
}


# --- the simplest form --------------------------------------------------------------------------------------------

_INTEGER: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "add": np.add, "sub": np.subtract, "mul": np.multiply, "mod": np.mod,
    "floordiv": np.floor_divide, "max": np.maximum, "min": np.minimum, "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "and": np.logical_and,
    "or": np.logical_or, "not": np.logical_not,
}  # fmt: skip


def folded(call: Call) -> Node:
    """A call on numbers known here, computed: integers and truth values only, whose results are exact."""
    args, dtype = call.args, call.dtype
    match call:
        case Call("select", (Number(value=condition), chosen, other)):
            return chosen if condition else other
        case Call("cast", (Number(value=int(value)),)) if abs(value) <= _EXACT and dtype not in _ROUNDED:
            return Number(_as(value, dtype), dtype)
        case Call(("and" | "or") as op, (a, b)):
            for one, other in ((a, b), (b, a)):
                if isinstance(one, Number):
                    return other if bool(one.value) is (op == "and") else one
        case Call(("add" | "sub") as op, (a, Number(value=int(more)))) if dtype.kind is Kind.INT:
            shift = int(more) if op == "add" else -int(more)
            return _shifted(a, shift, dtype)
        case Call("add", (Number(value=int(more)), a)) if dtype.kind is Kind.INT:
            return _shifted(a, int(more), dtype)
        case _:
            pass
    if call.op in _INTEGER and all(isinstance(a, Number) and a.dtype.kind in (Kind.INT, Kind.BOOL) for a in args):
        with np.errstate(all="ignore"):
            numbers = [np.asarray(a.value, a.dtype.to_numpy()) for a in args if isinstance(a, Number)]
            value = _INTEGER[call.op](*numbers).item()
        return Number(value, dtype)
    return call


_ROUNDED = (DType.F16, DType.BF16)


def _as(value: int, dtype: DType) -> bool | int | float | complex:
    return {Kind.BOOL: bool, Kind.INT: int, Kind.REAL: float, Kind.COMPLEX: complex}[dtype.kind](value)


def _shifted(node: Node, shift: int, dtype: DType) -> Node:
    """`node + shift`, with one number at most; sums wrap around, so the order of additions is free."""
    half = 2 ** (8 * dtype.itemsize - 1)
    match node:
        case Number(value=int(value)):
            return Number((int(value) + shift + half) % (2 * half) - half, dtype)
        case Call("add", (a, Number(value=int(more)))) if node.dtype is dtype:
            return _shifted(a, int(more) + shift, dtype)
        case Call("sub", (a, Number(value=int(more)))) if node.dtype is dtype:
            return _shifted(a, shift - int(more), dtype)
        case _:
            pass
    shift = (shift + half) % (2 * half) - half
    if shift == 0:
        return node
    if shift == -half:
        return Call("add", (node, Number(shift, dtype)), dtype)
    return Call("sub" if shift < 0 else "add", (node, Number(abs(shift), dtype)), dtype)


def conditional(conditions: list[Node], value: Node) -> Node:
    """`value` where all conditions hold, zero elsewhere."""
    every: Node = _TRUE
    for condition in conditions:
        every = folded(Call("and", (every, condition), DType.BOOL))
    zero = Number(_as(0, value.dtype), value.dtype)
    return folded(Call("select", (every, value, zero), value.dtype))
