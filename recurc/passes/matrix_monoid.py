"""The associative operators of updates that mix elements: products of matrices, over numbers or a semiring.

DA, SL   h = A h + b                (A, b)        (A2 A1, A2 b1 + b2)                 Blelloch 1990, section 1.4
"""

from __future__ import annotations

from recurc.build import reduce
from recurc.facts import Component, Monoid
from recurc.ir import Const, Expr, Read, State
from recurc.ops import apply
from recurc.passes.affine import one, zero
from recurc.passes.algebras import NUMBERS, Algebra, columns_of, ordered, renamed
from recurc.passes.matrix_lift import Lifted, LiftedEach
from recurc.passes.monoid import Parts
from recurc.passes.terms import fresh
from recurc.types import Dims, second


def matrix_monoid(cls: str, state: State, found: Lifted, algebra: Algebra, taken: set[str]) -> Monoid:
    """Steps `state` = A state + b as matrices, one for each place along the dims that do not mix."""
    dtype, rows, columns = state.dtype, found.rows, columns_of(found.rows)
    matrix = Component(fresh("A", taken), found.matrix.dims, dtype)
    parts, lift, identity = [matrix], [found.matrix], [algebra.unit(rows, columns, None, dtype)]
    old, own = Read(state.name, 1, state.dims, dtype), _part("", matrix)
    combine: list[Expr] = [multiplied(algebra, _part("2.", matrix), _part("1.", matrix), rows, matrix.dims)]
    new = applied(algebra, own, old, rows, given=True)
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


def projective_monoid(state: State, found: LiftedEach, taken: set[str]) -> Monoid | None:
    """Steps `state` = A state / (c . state + s), where a step has s = 0 and the identity s = 1. A common factor of A, c
    and s does not count, so products are divided by their largest value."""
    above, below = found.matrices
    rows, columns, dtype = found.rows, columns_of(found.rows), state.dtype
    if above is None or below is None or any(o is not None for o in found.offsets) or {*below.dims} & {*rows}:
        return None
    apart = tuple(d for d in state.dims if d not in rows and (d in above.dims or d in below.dims))
    parts = Parts(taken)
    matrix = parts.add("A", (*(d for d in state.dims if d in apart or d in rows), *columns), dtype)
    row, rest = parts.add("c", (*apart, *columns), dtype), parts.add("s", apart, dtype)

    def seen(value: Expr, over: Expr, dims: Dims) -> Expr:
        """A row times what the rows of `over` are."""
        return NUMBERS.product(value, over, columns, dims)

    turned = dict(zip(rows, columns, strict=True))
    between = {d: second(d, 2) for d in rows}
    (a1, a2), (c1, c2), (s1, s2) = (tuple(_part(f"{i}.", c) for i in (1, 2)) for c in (matrix, row, rest))
    across = {c: between[r] for r, c in turned.items()}
    met = NUMBERS.product(renamed(c2, across), renamed(a1, between), tuple(between.values()), row.dims)
    products = [
        multiplied(NUMBERS, a2, a1, rows, matrix.dims),
        apply("add", met, apply("mul", s2, c1)),
        apply("mul", s2, s1),
    ]
    sizes = [
        reduce("max", apply("abs", p), inside) if (inside := tuple(d for d in p.dims if d not in apart)) else p
        for p in products
    ]
    size = apply("max", apply("max", sizes[0], sizes[1]), apply("abs", products[2]))
    scale = apply("select", apply("gt", size, Const(0.0, dtype)), size, Const(1.0, dtype))
    old = Read(state.name, 1, state.dims, dtype)
    total = seen(_part("", row), renamed(old, turned), tuple(d for d in state.dims if d not in rows))
    new = apply("div", applied(NUMBERS, _part("", matrix), old, rows), apply("add", total, _part("", rest)))
    return Monoid(
        "SL",
        (state.name,),
        (matrix, row, rest),
        (NUMBERS.unit(rows, columns, None, dtype), zero(dtype), one(dtype)),
        (ordered(above, matrix.dims), ordered(below, row.dims), zero(dtype)),
        tuple(apply("div", p, scale) for p in products),
        (new,),
    )


def multiplied(algebra: Algebra, later: Expr, earlier: Expr, rows: Dims, out: Dims) -> Expr:
    """The product of two matrices over the columns of the first, which are the rows of the second."""
    between = {d: second(d, 2) for d in rows}
    first = renamed(later, {c: between[r] for r, c in zip(rows, columns_of(rows), strict=True)})
    return algebra.product(first, renamed(earlier, between), tuple(between.values()), out)


def applied(algebra: Algebra, matrix: Expr, value: Expr, rows: Dims, given: bool = False) -> Expr:
    """The matrix times a value over its rows; shape that of the value. `given`: it is no value of the algebra's own."""
    columns = columns_of(rows)
    turned = renamed(value, dict(zip(rows, columns, strict=True)))
    return algebra.product(matrix, turned, columns, value.dims, given)


def _part(side: str, component: Component) -> Read:
    return Read(f"{side}{component.name}", 0, component.dims, component.dtype)


__all__ = ["applied", "joined_monoid", "matrix_monoid", "multiplied", "projective_monoid"]
