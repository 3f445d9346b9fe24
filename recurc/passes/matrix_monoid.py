"""The associative operators of updates that mix elements: products of matrices, over numbers or a semiring.

DA, SL   h = A h + b                (A, b)        (A2 A1, A2 b1 + b2)                 Blelloch 1990, section 1.4
"""

from __future__ import annotations

from recurc.facts import Component, Monoid
from recurc.ir import Expr, Read, State
from recurc.ops import apply
from recurc.passes.algebras import Algebra, columns_of, renamed
from recurc.passes.matrix_lift import Lifted
from recurc.passes.terms import fresh
from recurc.types import Dims, second


def matrix_monoid(cls: str, state: State, found: Lifted, algebra: Algebra, taken: set[str]) -> Monoid:
    """Steps `state` = A state + b as matrices, one for each place along the dims that do not mix."""
    dtype, rows, columns = state.dtype, found.rows, columns_of(found.rows)
    matrix = Component(fresh("A", taken), found.matrix.dims, dtype)
    parts, lift, identity = [matrix], [found.matrix], [algebra.unit(rows, columns, None, dtype)]
    old, own = Read(state.name, 1, state.dims, dtype), _part("", matrix)
    combine: list[Expr] = [multiplied(algebra, _part("2.", matrix), _part("1.", matrix), rows, matrix.dims)]
    new = applied(algebra, own, old, rows)
    if found.offset is not None:
        offset = Component(fresh("b", {*taken, matrix.name}), state.dims, dtype)
        moved = algebra.add(applied(algebra, _part("2.", matrix), _part("1.", offset), rows), _part("2.", offset))
        whole = algebra.add(new, _part("", offset))
        assert moved is not None and whole is not None
        parts, lift, identity = [*parts, offset], [*lift, found.offset], [*identity, algebra.zero(dtype)]
        combine, new = [*combine, moved], whole
    return Monoid(cls, (state.name,), tuple(parts), tuple(identity), tuple(lift), tuple(combine), (new,))


def joined_monoid(state: State, offset: Expr, algebra: Algebra, taken: set[str]) -> Monoid:
    """Steps `state` = `state` + b, where + is that of the algebra and need not add."""
    part, old = Component(fresh("b", taken), state.dims, state.dtype), Read(state.name, 1, state.dims, state.dtype)
    first, second_, own = _part("1.", part), _part("2.", part), _part("", part)
    combine, new = apply(algebra.plus, first, second_), apply(algebra.plus, old, own)
    return Monoid("ID", (state.name,), (part,), (algebra.zero(state.dtype),), (offset,), (combine,), (new,))


def multiplied(algebra: Algebra, later: Expr, earlier: Expr, rows: Dims, out: Dims) -> Expr:
    """The product of two matrices over the columns of the first, which are the rows of the second."""
    between = {d: second(d, 2) for d in rows}
    first = renamed(later, {c: between[r] for r, c in zip(rows, columns_of(rows), strict=True)})
    return algebra.product(first, renamed(earlier, between), tuple(between.values()), out)


def applied(algebra: Algebra, matrix: Expr, value: Expr, rows: Dims) -> Expr:
    """The matrix times a value over its rows; shape that of the value."""
    columns = columns_of(rows)
    turned = renamed(value, dict(zip(rows, columns, strict=True)))
    return algebra.product(matrix, turned, columns, value.dims)


def _part(side: str, component: Component) -> Read:
    return Read(f"{side}{component.name}", 0, component.dims, component.dtype)


__all__ = ["applied", "joined_monoid", "matrix_monoid", "multiplied"]
