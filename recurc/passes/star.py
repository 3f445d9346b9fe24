"""Linear fractional maps of a matrix as elements of a scan, in the form that keeps its digits.

    P -> A P (I + J P)^-1 B + C         (A, B, C, J); for a symmetric P and a filter, B = A^T

Every map P -> (a P + b)(c P + d)^-1 that is finite at P = 0 has this form. Two of them compose by the star product of
scattering theory (R. Redheffer 1959, "Inequalities for a matrix Riccati equation"), with E = (I + C1 J2)^-1:

    A = A2 E A1     B = B1 (I + J2 C1)^-1 B2     C = A2 E C1 B2 + C2     J = J1 + B1 J2 E A1

The block matrices [[a, b], [c, d]] of the same maps compose by a plain product, whose columns grow at different rates:
after some hundred steps of a filter what is left of the smaller ones is rounding. Here nothing grows: C and J go to
limits, A and B to zero as the past is forgotten.

A matrix of this file has a dim as rows and another one, as `types.second` names it, as columns: `[x, y@1]`.
"""

from __future__ import annotations

from dataclasses import dataclass

from recurc.build import linalg
from recurc.facts import Monoid
from recurc.ir import Apply, Contract, Expr, Linalg, Read, Reaxis, State
from recurc.ops import apply, convert
from recurc.passes.affine import zero
from recurc.passes.algebras import NUMBERS, renamed
from recurc.passes.monoid import Parts
from recurc.types import Dims, DType, own_dim, second


@dataclass(frozen=True)
class Star:
    """The parts of such a map. None: the identity (a, b), zero (c, j)."""

    a: Expr | None = None
    b: Expr | None = None
    c: Expr | None = None
    j: Expr | None = None

    def each(self) -> tuple[Expr | None, ...]:
        return self.a, self.b, self.c, self.j


def view(expr: Expr, axes: tuple[int, ...], dims: Dims) -> Expr:
    """Axes of `expr` under new names; a view of a view is one view."""
    while isinstance(expr, Reaxis) and expr.at is None:
        axes, expr = tuple(expr.axes[a] for a in axes), expr.arg
    if axes == tuple(range(len(axes))) and dims == expr.dims:
        return expr
    return Reaxis(expr, axes, dims, expr.dtype)


def matrix(expr: Expr, rows: str, columns: str, turned: bool = False) -> Expr:
    """A value over two dims, whatever their names, as a matrix; or its transpose."""
    return view(expr, (1, 0) if turned else (0, 1), (own_dim(rows), second(columns)))


def unit(dim: str, dtype: DType) -> Expr:
    return NUMBERS.unit((dim,), (second(dim),), None, dtype)


def flipped(expr: Expr) -> Expr:
    """The transpose of a matrix, in one spelling where it is a product, a sum or a choice of matrices."""
    rows, columns = expr.dims
    out = own_dim(columns), second(rows)
    match expr:
        case Linalg(op="eye") if own_dim(columns) == rows:
            return expr
        case Apply(op=op, args=args) if all(a.dims in ((), expr.dims) for a in args) and op != "solve":
            return apply(op, *(flipped(a) if a.dims else a for a in args))
        case _:
            return view(expr, (1, 0), out)


def times(*factors: Expr | None) -> Expr | None:
    """The product of matrices; None is the identity."""
    made: Expr | None = None
    for factor in factors:
        made = factor if made is None else made if factor is None else _product(made, factor)
    return made


def _product(left: Expr, right: Expr) -> Expr:
    between = second(right.dims[0], 2)
    a, b = view(left, (0, 1), (left.dims[0], between)), view(right, (0, 1), (between, right.dims[1]))
    return Contract(a, b, (0, 1), (1, 2), (0, 2), (left.dims[0], right.dims[1]), left.dtype)


def plus(left: Expr | None, right: Expr | None) -> Expr | None:
    """The sum; None is zero."""
    return NUMBERS.add(left, right)


def solved(square: Expr, right: Expr) -> Expr:
    """The inverse of a square matrix, times another matrix; of a number, divided by it."""
    if not square.dims:
        return apply("div", right, square)
    rows = square.dims[0]
    found = linalg("solve", view(square, (0, 1), (rows, second(rows, 2))), right)
    return renamed(found, {second(rows, 2): rows})


def star(first: Star, later: Star) -> Star:
    """`later` after `first`."""
    if first.c is None or later.j is None:
        moved = None if later.j is None else _all(times(first.b, later.j, first.a))
        added = None if first.c is None else times(later.a, first.c, later.b)
        return Star(
            times(later.a, first.a), times(first.b, later.b), plus(added, later.c), plus(first.j, moved)
        )  # fmt: skip
    dtype, rows, columns = first.c.dtype, first.c.dims[0], own_dim(first.c.dims[1])
    forward = apply("add", unit(rows, dtype), _product(first.c, later.j))
    backward = apply("add", unit(columns, dtype), _product(later.j, first.c))
    a = solved(forward, first.a or unit(rows, dtype))
    c = solved(forward, first.c)
    b = solved(backward, later.b or unit(columns, dtype))
    return Star(
        times(later.a, a),
        times(first.b, b),
        plus(times(later.a, c, later.b), later.c),
        plus(first.j, times(first.b, later.j, a)),
    )


def _all(expr: Expr | None) -> Expr:
    assert expr is not None
    return expr


def observed(prior: Star, h: Expr, noise: Expr, rows: str, columns: str) -> Star:
    """What takes in an observation after `prior`: W -> W (I + H^T R^-1 H W)^-1, by R + H C H^T, which has an inverse
    even where R has none. `h` has the dims `[M, N]`, or `[N]` alone and a number as noise."""
    some = tuple(second(d, 3) for d in h.dims[:-1])
    others = tuple(second(d, 4) for d in h.dims[:-1])
    across, beside = second(columns), second(rows)

    def spelled(name: str, along: Dims = some) -> Expr:
        return view(h, tuple(range(len(h.dims))), (*along, name))

    def product(left: Expr, right: Expr, over: Dims, *out: str) -> Expr:
        return NUMBERS.product(left, right, over, out)

    spread = view(noise, (0, 1), (*some, *others)) if some else noise
    right = spelled(beside) if prior.a is None else product(spelled(rows), prior.a, (rows,), *some, beside)
    left = spelled(columns) if prior.b is None else product(prior.b, spelled(across), (across,), columns, *some)
    if prior.c is None:
        gained = solved(spread, right)
        return Star(prior.a, prior.b, None, plus(prior.j, product(left, gained, some, columns, beside)))
    ahead = product(spelled(rows), prior.c, (rows,), *some, across)
    spread = apply("add", product(ahead, spelled(across, others), (across,), *some, *others), spread)
    gained, lost = solved(spread, right), solved(spread, ahead)
    gain = product(prior.c, spelled(across), (across,), rows, *some)

    def less(value: Expr, by: Expr, known: Expr) -> Expr:
        return apply("sub", value, product(by, known, some, *value.dims))

    return Star(
        less(prior.a or unit(rows, prior.c.dtype), gain, gained),
        less(prior.b or unit(columns, prior.c.dtype), left, lost),
        less(prior.c, gain, lost),
        plus(prior.j, product(left, gained, some, columns, beside)),
    )


def star_monoid(state: State, found: Star, taken: set[str], assumes: frozenset[str] = frozenset()) -> Monoid:
    """Steps of `state`[x, y], two dims. Parts that no step has are left out."""
    (rows, columns), dtype = state.dims, state.dtype
    parts = Parts(taken)
    units = unit(rows, dtype), unit(columns, dtype), zero(dtype), zero(dtype)
    ends = (rows, rows), (columns, columns), (rows, columns), (columns, rows)
    kept = [n for n, part in enumerate(found.each()) if part is not None or n < 2]
    made = {
        n: parts.add("ABCJ"[n], (ends[n][0], second(ends[n][1])), dtype, "any" if n < 2 else "definite") for n in kept
    }

    def element(side: str) -> Star:
        reads = {n: Read(f"{side}{p.name}", 0, p.dims, dtype) for n, p in made.items()}
        return Star(*(reads.get(n) for n in range(4)))

    own, old = element(""), matrix(Read(state.name, 1, state.dims, dtype), rows, columns)
    inside = old
    if own.j is not None:
        inside = solved(apply("add", unit(rows, dtype), _product(old, own.j)), old)
    new = _all(plus(times(own.a, inside, own.b), own.c))
    both = star(element("1."), element("2.")).each()
    return Monoid(
        "MB",
        (state.name,),
        tuple(parts.components),
        tuple(units[n] for n in kept),
        tuple(convert(found.each()[n] or units[n], dtype) for n in kept),
        tuple(_all(both[n]) for n in kept),
        (view(new, (0, 1), state.dims),),
        assumes,
    )


__all__ = ["Star", "flipped", "matrix", "observed", "plus", "star", "star_monoid", "times", "unit", "view"]
