"""Linear fractional maps of matrices (class MB): the Riccati recurrences of filters and of least squares.

A matrix state is moved by P -> (a P + b)(c P + d)^-1. Such maps compose. Adding a free matrix, multiplying by one and
inverting stay inside; so does the step of a filter that takes in an observation, by the identity of Woodbury (and of
Sherman and Morrison, for a vector h):

    P - (H P)^T (H P H^T + R)^-1 (H P) = (P^-1 + H^T R^-1 H)^-1        for symmetric P and R

The map is read off the equations by evaluating them on such maps (`star`). What is taken to be symmetric for the
identity has to stay so: a step that multiplies P by F from the left must multiply it by F^T from the right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.ir import Apply, Contract, Expr, Linalg, Read, Reaxis, State, reads
from recurc.ops import apply, convert
from recurc.passes.affine import Forms, Free, zero
from recurc.passes.star import Star, flipped, matrix, observed, plus, star, times, unit
from recurc.passes.terms import too_large


@dataclass(frozen=True)
class MatrixFraction:
    """A value that is a linear fractional map of the old state: whether it inverts, whether by an identity that takes
    the state to be symmetric, and what it maps to where that could be written out (`None`: with the `obstacle`).

    `turned`: of the transposed state. `inverse`: it is the inverse of what `star` gives. `even`: what has to be
    symmetric for a symmetric state to give a symmetric value, once the factors `left` and `right` of it, the inner ones
    first, are transposes of each other; None: it need not."""

    star: Star | None
    inverts: bool = False
    symmetric: bool = False
    turned: bool = False
    inverse: bool = False
    even: frozenset[str] | None = frozenset()
    left: tuple[Expr, ...] = ()
    right: tuple[Expr, ...] = ()
    obstacle: str = ""

    @property
    def assumes(self) -> frozenset[str] | None:
        """What has to be symmetric for the value to be, if that is known."""
        return self.even if self.left == tuple(flipped(e) for e in self.right) else None

    @property
    def drifts(self) -> bool:
        """Whether an element multiplies the state by matrices from two sides that have nothing to do with each other:
        over thousands of steps one product may grow as the other shrinks, and leave the range of numbers alone."""
        if self.star is None or self.star.a is None or self.star.b is None:
            return False
        left, right = _unscaled(self.star.a), _unscaled(self.star.b)
        both = all(any(r.dims for r in reads(e)) for e in (left, right))
        return both and left != _unscaled(flipped(right))

    def settled(self, more: frozenset[str] | None = frozenset()) -> MatrixFraction:
        """The same, with what `more` has to be symmetric besides; no factors are open."""
        even = None if self.assumes is None or more is None else self.assumes | more
        return replace(self, even=even, left=(), right=())

    def without(self, obstacle: str) -> MatrixFraction:
        return replace(self, star=None, obstacle=self.obstacle or obstacle)


def matrix_fraction(forms: Forms, state: State) -> MatrixFraction | None:
    """The form of `state`'s update, if it is such a map and not affine; shape of its parts: `star`."""
    if len(state.dims) < 2:
        return None
    found = _Interpreter(forms, state).value(forms.equation(state.name))
    if not isinstance(found, MatrixFraction) or not found.inverts:
        return None
    if found.inverse or (found.turned and not found.symmetric):
        found = found.without("its map has no value at zero")
    if found.symmetric:
        found = found.settled(frozenset({state.name}))
        if found.even is None:
            return found.without(f"it is not known that {state.name} stays symmetric")
    if found.star is not None and any(p is not None and too_large(p) for p in found.star.each()):
        return found.without("its matrices are too large to write out")
    return found


def _unscaled(expr: Expr) -> Expr:
    """A matrix without the numbers it is multiplied by."""
    while isinstance(expr, Apply) and expr.op in ("mul", "div", "neg"):
        inside = [a for a in expr.args if a.dims]
        if len(inside) != 1:
            break
        expr = inside[0]
    return expr


class _Interpreter:
    def __init__(self, forms: Forms, state: State) -> None:
        self._forms, self._state = forms, state
        self._plain = len(state.dims) == 2

    def value(self, expr: Expr) -> Free | MatrixFraction | None:
        if isinstance(self._forms.form(expr), Free):
            return Free(expr)
        expr = self._forms.resolved(expr)
        match expr:
            case Read(name=name, lag=lag):
                if not lag or name != self._state.name:
                    return None
                found = MatrixFraction(Star())
                return found if self._plain else found.without("it has more dims than a matrix")
            case Apply(op="sub", args=(a, b)) if (seen := self._observation(a, b)) is not None:
                inner = self.value(a)
                return self._observed(inner, *seen) if isinstance(inner, MatrixFraction) else None
            case Apply(op="add" | "sub" as op, args=(a, b)):
                return self._sum(op, self.value(a), self.value(b))
            case Apply(op="neg", args=(a,)):
                inner = self.value(a)
                return self._scaled(inner, "neg", None) if isinstance(inner, MatrixFraction) else inner
            case Apply(op="mul" | "div" as op, args=(a, b)):
                left, right = self.value(a), self.value(b)
                if isinstance(left, MatrixFraction) and isinstance(right, Free) and not b.dims:
                    return self._scaled(left, op, b)
                if op == "mul" and isinstance(right, MatrixFraction) and isinstance(left, Free) and not a.dims:
                    return self._scaled(right, op, a)
                return None
            case Apply(op="select", args=(condition, yes, no)) if isinstance(self._forms.form(condition), Free):
                return self._choice(condition, self.value(yes), self.value(no))
            case Contract():
                return self._contracted(expr)
            case Linalg(op="inv", args=(a,)):
                inner = self.value(a)
                if not isinstance(inner, MatrixFraction):
                    return None
                return replace(inner.settled(), inverts=True, inverse=not inner.inverse)
            case Reaxis(arg=arg, at=None) if len(arg.dims) == 2 or reorders(expr):
                inner = self.value(arg)
                return self._turned(inner) if isinstance(inner, MatrixFraction) and expr.axes == (1, 0) else inner
            case _:
                return None

    # --- sums, factors, choices -------------------------------------------------------------------------------------

    def _sum(
        self, op: str, left: Free | MatrixFraction | None, right: Free | MatrixFraction | None
    ) -> MatrixFraction | None:
        if isinstance(left, MatrixFraction) and isinstance(right, Free):
            added = apply("neg", right.expr) if op == "sub" else right.expr
            return self._added(left, added, right.expr)
        if isinstance(left, Free) and isinstance(right, MatrixFraction):
            return self._added(self._scaled(right, "neg", None) if op == "sub" else right, left.expr, left.expr)
        return None

    def _added(self, value: MatrixFraction, added: Expr, named: Expr) -> MatrixFraction:
        rows, columns = self._ends(value)
        found = value.settled(self._symmetric(named))
        if found.star is None:
            return found
        if len(added.dims) != 2:
            return found.without("what is added to it is no matrix")
        whole = convert(added, self._state.dtype)
        if value.inverse:
            return replace(found, star=star(found.star, Star(j=matrix(whole, columns, rows))))
        return replace(found, star=replace(found.star, c=plus(found.star.c, matrix(whole, rows, columns))))

    def _scaled(self, value: MatrixFraction, op: str, factor: Expr | None) -> MatrixFraction:
        if value.star is None:
            return value
        rows, _ = self._ends(value)
        if value.inverse and op != "neg":
            op = "div" if op == "mul" else "mul"

        def by(part: Expr) -> Expr:
            return apply("neg", part) if factor is None else apply(op, part, convert(factor, part.dtype))

        a = value.star.a or unit(rows, self._state.dtype)
        return replace(value, star=replace(value.star, a=by(a), c=None if value.star.c is None else by(value.star.c)))

    def _choice(
        self, condition: Expr, yes: Free | MatrixFraction | None, no: Free | MatrixFraction | None
    ) -> MatrixFraction | None:
        if not isinstance(yes, MatrixFraction) or not isinstance(no, MatrixFraction):
            return None
        a, b = yes.settled(), no.settled()
        even = None if a.even is None or b.even is None else a.even | b.even
        both = replace(a, inverts=a.inverts or b.inverts, symmetric=a.symmetric or b.symmetric, even=even)
        if a.star is None or b.star is None:
            return both.without(a.obstacle or b.obstacle)
        if condition.dims or (a.turned, a.inverse) != (b.turned, b.inverse):
            return both.without("its choices differ in form")
        (rows, columns), dtype = self._ends(a), self._state.dtype
        units = unit(rows, dtype), unit(columns, dtype), zero(dtype), zero(dtype)
        parts = (
            None if one is None and other is None else apply("select", condition, one or plain, other or plain)
            for one, other, plain in zip(a.star.each(), b.star.each(), units, strict=True)
        )
        return replace(both, star=Star(*parts))

    # --- products and transposes ------------------------------------------------------------------------------------

    def _contracted(self, node: Contract) -> Free | MatrixFraction | None:
        left, right = self.value(node.left), self.value(node.right)
        summed = {*node.left_axes, *node.right_axes} - {*node.out_axes}
        square = len(summed) == 1 and len(node.left.dims) == len(node.right.dims) == len(node.dims) == 2
        if not square or isinstance(left, MatrixFraction) is isinstance(right, MatrixFraction):
            return None
        value, axes, factor, others = left, node.left_axes, right, node.right_axes
        if isinstance(right, MatrixFraction):
            value, axes, factor, others = right, node.right_axes, left, node.left_axes
        (over,) = summed
        if not isinstance(value, MatrixFraction) or not isinstance(factor, Free) or over not in axes:
            return None
        if over not in others:
            return None
        kept = next(k for k in axes if k != over)
        from_left = axes[0] == over  # the rows of the value are summed over
        other = next(k for k in others if k != over)
        made = self._factored(value, convert(factor.expr, self._state.dtype), from_left, others[0] == over)
        straight = (other, kept) if from_left else (kept, other)
        return made if node.out_axes == straight else self._turned(made)

    def _factored(self, value: MatrixFraction, factor: Expr, left: bool, summed_first: bool) -> MatrixFraction:
        """The value times a free matrix from one side; `summed_first`: the first axis of the matrix meets the value."""
        if value.star is None or value.inverse:
            return value.without("the inverse of it is multiplied by a matrix, which may have no inverse itself")
        rows, columns = self._ends(value)
        part = value.star
        if left:
            by = matrix(factor, rows, rows, summed_first)
            moved = replace(part, a=times(by, part.a), c=None if part.c is None else times(by, part.c))
            return replace(value, star=moved, left=(*value.left, by))
        by = matrix(factor, columns, columns, not summed_first)
        moved = replace(part, b=times(part.b, by), c=None if part.c is None else times(part.c, by))
        return replace(value, star=moved, right=(*value.right, by))

    def _turned(self, value: MatrixFraction) -> MatrixFraction:
        """The transpose of the value, a map of the transposed state."""
        left, right = (tuple(flipped(e) for e in side) for side in (value.right, value.left))
        whole = value.star
        if whole is not None:
            a, b, c, j = (None if p is None else flipped(p) for p in whole.each())
            whole = Star(b, a, c, j)
        return replace(value, star=whole, turned=not value.turned, left=left, right=right)

    def _ends(self, value: MatrixFraction) -> tuple[str, str]:
        """The names of the rows and the columns of the value's map."""
        rows, columns = self._state.dims[:2]
        return (columns, rows) if value.turned else (rows, columns)

    # --- taking in an observation -----------------------------------------------------------------------------------

    def _observed(self, value: MatrixFraction, h: Expr, noise: Expr) -> MatrixFraction:
        found = replace(value, inverts=True, symmetric=True)
        if value.inverse or value.assumes is None:
            found = replace(found, even=None)
        found = found.settled(self._symmetric(noise) if noise.dims else frozenset())
        if found.star is None or value.inverse:
            return found.without("the inverse of it takes in an observation")
        dtype = self._state.dtype
        return replace(found, star=observed(found.star, convert(h, dtype), convert(noise, dtype), *self._ends(value)))

    def _observation(self, whole: Expr, lost: Expr) -> tuple[Expr, Expr] | None:
        """H, as `[M, N]` or `[N]`, and R, if `lost` is (H P)^T (H P H^T + R)^-1 (H P) for P = `whole`."""
        lost, _ = self._bare(lost)
        match lost:
            case Contract(left=a, right=b) if len(lost.dims) == 2:
                return self._solves(lost, a, b, whole) or self._solves(lost, b, a, whole)
            case Apply(op="mul", args=(a, b)) if len(lost.dims) == 2:
                return self._divides(a, b, whole) or self._divides(b, a, whole)
            case _:
                return None

    def _solves(self, lost: Contract, gain: Expr, seen: Expr, whole: Expr) -> tuple[Expr, Expr] | None:
        """`gain` = (H P H^T + R)^-1 `seen`, `seen` = H P, and the places of the observation are summed over."""
        solve, gain_axes = self._bare(gain)
        product, seen_axes = self._bare(seen)
        if not isinstance(solve, Linalg) or solve.op != "solve" or len(solve.args[0].dims) != 2:
            return None
        spread, right = solve.args
        again, right_axes = self._bare(right)
        found = self._seen(product, whole)
        if again != product or found is None or len(found[0].dims) != 2:
            return None
        h, place, row = found
        labels = {id(lost.left): lost.left_axes, id(lost.right): lost.right_axes}
        if right_axes[right.dims.index(spread.dims[0])] != place:
            return None
        met = [labels[id(gain)][gain_axes.index(right_axes.index(place))], labels[id(seen)][seen_axes.index(place)]]
        if met[0] != met[1] or met[0] in lost.out_axes:
            return None
        noise = self._spread(spread, product, place, row)
        return None if noise is None or len(noise.dims) != 2 else (h, noise)

    def _divides(self, gain: Expr, seen: Expr, whole: Expr) -> tuple[Expr, Expr] | None:
        """The same for one number: `gain` = `seen` / (h . P h + c), and `seen` = P h."""
        quotient, _ = self._bare(gain)
        product, _ = self._bare(seen)
        match quotient:
            case Apply(op="div", args=(above, below)) if self._bare(above)[0] == product and not below.dims:
                found = self._seen(product, whole)
                if found is None or len(found[0].dims) != 1:
                    return None
                noise = self._spread(below, product, None, found[2])
                return None if noise is None or noise.dims else (found[0], noise)
            case _:
                return None

    def _seen(self, product: Expr, whole: Expr) -> tuple[Expr, int | None, Expr] | None:
        """H with the dims [M, N] or [N], the axis of `product` that is its M, and what it was read from, if `product`
        is H P or P H."""
        if not isinstance(product, Contract):
            return None
        base = self._bare(whole)[0]
        sides = (product.left, product.left_axes), (product.right, product.right_axes)
        for (state, state_axes), (row, row_axes) in (sides, sides[::-1]):
            if not isinstance(self._forms.form(row), Free) or self._bare(state)[0] != base or len(state.dims) != 2:
                continue
            over = [k for k in row_axes if k in state_axes]
            if len(over) != 1 or over[0] in product.out_axes or len(row_axes) > 2:
                return None
            (n,) = over
            rest = [k for k in row_axes if k != n]
            if len(product.dims) != 1 + len(rest):
                return None
            axes = (*(row_axes.index(k) for k in rest), row_axes.index(n))
            h = (
                row
                if axes == tuple(range(len(axes)))
                else Reaxis(row, axes, tuple(row.dims[a] for a in axes), row.dtype)
            )
            return h, product.out_axes.index(rest[0]) if rest else None, row
        return None

    def _spread(self, spread: Expr, product: Expr, place: int | None, row: Expr) -> Expr | None:
        """R, if `spread` is H P H^T + R, where `product` is H P."""
        total, _ = self._bare(spread)
        if not isinstance(total, Apply) or total.op != "add":
            return None
        for whole, noise in (total.args, total.args[::-1]):
            made, _ = self._bare(whole)
            if not isinstance(self._forms.form(noise), Free) or not isinstance(made, Contract):
                continue
            base, bare = self._bare(row)
            sides = (made.left, made.left_axes), (made.right, made.right_axes)
            for (seen, seen_axes), (other, other_axes) in (sides, sides[::-1]):
                one, axes = self._bare(seen)
                two, others = self._bare(other)
                if one != product or two != base or len(made.dims) != (0 if place is None else 2):
                    continue
                # the axis of each that is summed over, as one of the products' own
                over = [k for k in seen_axes if k in other_axes]
                if len(over) != 1 or over[0] in made.out_axes:
                    continue
                n_seen, n_row = axes[seen_axes.index(over[0])], others[other_axes.index(over[0])]
                if n_seen != place and n_row == bare[self._summed(product, row)]:
                    return noise
        return None

    def _summed(self, product: Expr, row: Expr) -> int:
        """The axis of `row` that `product` sums over."""
        assert isinstance(product, Contract)
        labels = product.left_axes if product.left is row else product.right_axes
        return next(a for a, k in enumerate(labels) if k not in product.out_axes)

    def _bare(self, expr: Expr) -> tuple[Expr, tuple[int, ...]]:
        """What `expr` is a view of, without names, and the axes of that which are its own."""
        axes = tuple(range(len(expr.dims)))
        while True:
            found = self._forms.resolved(expr)
            if isinstance(found, Reaxis) and found.at is None:
                axes, found = tuple(found.axes[a] for a in axes), found.arg
            if found is expr:
                return expr, axes
            expr = found

    def _symmetric(self, expr: Expr) -> frozenset[str] | None:
        """Names of inputs and params that have to be symmetric for a free matrix to be; None: that does not suffice."""
        expr = self._forms.spelled(expr)
        match expr:
            case Read(name=name, lag=0) if len(expr.dims) == 2 and name in self._given:
                return frozenset({name})
            case Linalg(op="eye"):
                return frozenset()
            case Linalg(op="inv", args=(a,)):
                return self._symmetric(a)
            case Reaxis(arg=arg, at=None) if len(arg.dims) == 2:
                return self._symmetric(arg)
            case Apply(args=args) if all(len(a.dims) in (0, 2) for a in args):
                found = [self._symmetric(a) for a in args if a.dims]
                known = [f for f in found if f is not None]
                return frozenset[str]().union(*known) if len(known) == len(found) else None
            case _:
                return None

    @property
    def _given(self) -> set[str]:
        rec = self._forms.rec
        return {v.name for v in (*rec.inputs, *rec.params)}


def reorders(node: Reaxis) -> bool:
    """Whether the node only lists the same named dims in another order."""
    return node.dims == tuple(node.arg.dims[a] for a in node.axes) and len({*node.dims}) == len(node.dims)
