"""Values read at computed places: gathers and neighbours.

The place becomes a part of the load wherever what is read lies in memory. What a program holds in registers is picked
by `tl.gather` (see `TileCode.moved`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recurc import ir
from recurc.types import DType, Kind, axis_ids

if TYPE_CHECKING:
    from recurc.backends.triton.values import Code, Ids, TileCode

_MOST_TAPS = 32  # neighbours that are written out one by one


@dataclass(frozen=True)
class Place:
    """An integer tile of places along one axis, each of them inside it; in the position of an axis id."""

    text: str
    covers: frozenset[str]


def fresh_axis(dim: str, used: Iterable[str | int | Place]) -> str:
    """An axis id of `dim` along which none of `used` extends."""
    taken = {a for u in used for a in (u.covers if isinstance(u, Place) else (u,))}
    axis, prime = dim, 1
    while axis in taken:
        axis, prime = f"{dim}'{prime}", prime + 1
    return axis


def gather(code: TileCode, expr: ir.Gather, ids: Ids) -> Code:
    """The operand with the place asked for on the gathered axis."""
    where = dict(zip(axis_ids(expr.dims), ids, strict=True))
    asked = code.value(expr.index, tuple(where[i] for i in axis_ids(expr.index.dims)))
    last = code.context.size(expr.arg.dims[expr.axis]) - 1
    rest = expr.arg.dims[: expr.axis] + expr.arg.dims[expr.axis + 1 :]
    inner = [where[i] for i in axis_ids(rest)]
    inner.insert(expr.axis, _clamped(code, asked, last))
    return code.value(expr.arg, tuple(inner))


def _clamped(code: TileCode, asked: Code, last: int) -> int | Place:
    number = asked.text.strip("()")
    if asked.literal and number.lstrip("-").isdigit():
        return min(max(int(number), 0), last)
    named = code.named(asked.of(f"tl.minimum(tl.maximum({asked.text}, 0), {last})"), "place")
    return Place(named.text, named.covers)


def unfold(code: TileCode, expr: ir.Unfold, ids: Ids) -> Code:
    """The operand at the neighbours' places; outside, 0."""
    inner = list(ids[: len(expr.arg.dims)])
    zero = code.zero(expr.dtype)
    inside: list[Code] = []
    for axis, tap, dim in zip(expr.axes, ids[len(inner) :], expr.taps, strict=True):
        size, middle, here = code.context.size(expr.arg.dims[axis]), code.context.size(dim) // 2, inner[axis]
        if isinstance(here, int) and isinstance(tap, int):
            place = here + (tap - middle if expr.forward else middle - tap)
            if not expr.wrap and not 0 <= place < size:
                return zero
            inner[axis] = place % size
            continue
        covers = frozenset[str]().union(*(code.covered(i) for i in (here, tap)))
        step = f"({code.index(tap)} - {middle})" if not isinstance(tap, int) else str(tap - middle)
        near = code.named(zero.of(f"{code.index(here)} {'+' if expr.forward else '-'} ({step})", covers), "near")
        if expr.wrap:
            near = code.named(near.of(f"({near.text} % {size} + {size}) % {size}"), "near")
        else:
            inside.append(near.of(f"({near.text} >= 0) & ({near.text} < {size})"))
            near = code.named(near.of(f"tl.minimum(tl.maximum({near.text}, 0), {size - 1})"), "near")
        inner[axis] = Place(near.text, near.covers)
    value = code.value(expr.arg, tuple(inner))
    if not inside:
        return value
    covers = value.covers.union(*(c.covers for c in inside))
    condition = inside[0].text if len(inside) == 1 else " & ".join(f"({c.text})" for c in inside)
    return value.of(f"tl.where({condition}, {value.text}, {zero.text})", covers)


def tap_labels(code: TileCode, expr: ir.Contract) -> tuple[int, ...]:
    """The labels of a contraction that are taps of neighbours, if there are few enough to write them out."""
    found: dict[int, int] = {}
    for side, labels in ((expr.left, expr.left_axes), (expr.right, expr.right_axes)):
        if isinstance(side, ir.Unfold):
            taps = labels[len(side.arg.dims) :]
            found |= {k: code.context.size(d) for k, d in zip(taps, side.taps, strict=True) if k not in expr.out_axes}
    total = 1
    for size in found.values():
        total *= size
    return tuple(found) if total <= _MOST_TAPS else ()


def tap_places(code: TileCode, expr: ir.Contract, labels: tuple[int, ...]) -> list[dict[int, int]]:
    """Every combination of taps, by label."""
    dims = dict(zip(expr.left_axes, expr.left.dims, strict=True)) | dict(
        zip(expr.right_axes, expr.right.dims, strict=True)
    )
    counts = [range(code.context.size(dims[k])) for k in labels]
    return [dict(zip(labels, place, strict=True)) for place in itertools.product(*counts)]


def picked(code: TileCode, value: Code, axis: str, place: Place, dtype: DType) -> Code:
    """The elements of a value in registers at `place` along one of its axes."""
    if axis not in value.covers:
        return value
    source = code.spread(value, sorted(place.covers - {axis}))
    index = code.spread(value.of(f"{place.text}.to(tl.int32)", place.covers), sorted(source.covers - {axis}))
    text = f"{source.text}.to(tl.int32)" if dtype.kind is Kind.BOOL else source.text
    text = f"tl.gather({text}, {index.text}, {code.position(axis)})"
    text = f"({text} != 0)" if dtype.kind is Kind.BOOL else text
    return value.of(text, (source.covers - {axis}) | place.covers)
