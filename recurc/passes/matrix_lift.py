"""Updates h = A h + b that mix the elements of h, taken apart: A as an expression, and b.

The equations of a state that is linear over + and * or over a semiring are evaluated twice at once: on the columns of
the identity, which gives A, and on zero, which gives b. A has the dims of the state as rows and, for those along which
elements meet, the same dims under other names as columns; along the others it is one matrix per place. As long as a
value is only scaled, its matrix is a diagonal one and is kept as its diagonal, so that `A @ h` gives A itself and no
product with an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from recurc import build
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Gather,
    Linalg,
    Read,
    Reaxis,
    Reduce,
    State,
    Unfold,
)
from recurc.ops import apply, convert
from recurc.passes.affine import Forms
from recurc.passes.algebras import Algebra, columns_of, ordered, renamed, repeated
from recurc.passes.log_sums import log_sum
from recurc.passes.terms import too_large
from recurc.types import Dims, Kind


@dataclass(frozen=True)
class Lifted:
    """`state` = `matrix` times its old value over the `rows`, plus `offset`. The matrix has dims of the state and a
    column for each row; without rows it is a factor for each element."""

    rows: Dims
    matrix: Expr
    offset: Expr | None


@dataclass(frozen=True)
class _Diagonal:
    """A diagonal matrix: its factor (None: one), and the dims that the rows have become."""

    factor: Expr | None
    rows: Dims


@dataclass(frozen=True)
class _Dense:
    expr: Expr


_Matrix = _Diagonal | _Dense | None  # None is zero


@dataclass(frozen=True)
class _Value:
    matrix: _Matrix
    offset: Expr | None


def _small(value: _Value) -> bool:
    match value.matrix:
        case _Dense(expr=expr) | _Diagonal(factor=expr):
            return not any(e is not None and too_large(e) for e in (expr, value.offset))
        case _:
            return value.offset is None or not too_large(value.offset)


class _Unknown(Exception):
    """The update is no such map, or too large to write out."""


class _Meets(Exception):
    """Elements meet along another dim of the state."""

    def __init__(self, dim: str) -> None:
        self.dim = dim


def lift(forms: Forms, state: State, algebra: Algebra, modulus: Expr | None = None) -> Lifted | None:
    """The matrix and the offset of `state`'s update, if it is linear over `algebra`; remainders by `modulus` are left
    out."""
    found = lift_each(forms, state, (forms.equation(state.name),), algebra, modulus)
    if found is None or found.matrices[0] is None:
        return None
    kept = tuple(d for d in state.dims if d in found.rows or d in found.matrices[0].dims)
    return Lifted(found.rows, ordered(found.matrices[0], (*kept, *columns_of(found.rows))), found.offsets[0])


@dataclass(frozen=True)
class LiftedEach:
    """Several values that are linear in one state. A matrix lacks dims along which it does not differ, and what has no
    part in a value is None."""

    rows: Dims
    matrices: tuple[Expr | None, ...]
    offsets: tuple[Expr | None, ...]


def lift_each(
    forms: Forms, state: State, exprs: Sequence[Expr], algebra: Algebra, modulus: Expr | None = None
) -> LiftedEach | None:
    """The matrices and offsets of several expressions of one step, as `lift` gives those of a state's update."""
    if len(set(state.dims)) < len(state.dims) or not algebra.holds(state.dtype):
        return None
    rows: Dims = ()
    for _ in range(len(state.dims) + 1):
        try:
            return _Lift(forms, state, algebra, rows, modulus).each(exprs)
        except _Meets as more:
            rows = tuple(d for d in state.dims if d in rows or d == more.dim)
        except _Unknown:
            return None
    return None


class _Lift:
    def __init__(self, forms: Forms, state: State, algebra: Algebra, rows: Dims, modulus: Expr | None) -> None:
        self._forms, self._state, self._algebra, self._rows, self._modulus = forms, state, algebra, rows, modulus
        self._columns = columns_of(rows)
        self._apart = {*state.dims} - {*rows}  # dims along which elements have not met so far
        self._memo: dict[str, _Value | None] = {}

    def each(self, exprs: Sequence[Expr]) -> LiftedEach:
        dtype, values = self._state.dtype, [self.value(e) for e in exprs]
        dense = [None if v.matrix is None else convert(self._dense(v.matrix), dtype) for v in values]
        offsets = [None if v.offset is None else convert(v.offset, dtype) for v in values]
        return LiftedEach(self._rows, tuple(dense), tuple(offsets))

    def equation(self, name: str) -> _Value:
        for needed in self._forms.behind(name, self._memo):
            try:
                value = self.value(self._forms.equation(needed))
            except _Unknown:  # it may be a part of something that is known as a whole, such as a log-sum-exp
                value = None
            self._memo[needed] = value if value is not None and _small(value) else None
        found = self._memo[name]
        if found is None:
            raise _Unknown
        return found

    def free(self, expr: Expr) -> bool:
        return self._forms.reads_none(expr)

    def value(self, expr: Expr) -> _Value:
        if self.free(expr):
            return _Value(None, expr)
        algebra = self._algebra
        written = log_sum(self._forms, expr) if algebra.plus == "logaddexp" else None
        if written is not None:
            return self._summed(written.arg, written.over)
        match expr:
            case Read(name=name, lag=lag):
                if lag and name == self._state.name:
                    return _Value(_Diagonal(None, self._rows), None)
                if lag:
                    raise _Unknown
                return self.equation(name)
            case Apply():
                return self._applied(expr)
            case Reduce(op=op, arg=arg, over=over) if op == algebra.reduction:
                return self._summed(arg, over)
            case Contract() if algebra.low is None:
                return self._contracted(expr)
            case Reaxis(arg=arg):
                return self._reaxis(expr, self.value(arg))
            case Broadcast(arg=arg):
                return self.value(arg)  # it is the same along the new dims
            case Gather(arg=arg, index=index) if self.free(index):
                return self._gathered(expr, self.value(arg))
            case Unfold(wrap=wrap) if wrap or algebra.low is None:
                return self._unfolded(expr, self.value(expr.arg))
            case Linalg(op="solve", args=(matrix, right)) if self.free(matrix) and algebra.low is None:
                return self._solved(expr, matrix, self.value(right))
            case _:
                raise _Unknown

    # --- elementwise operators ----------------------------------------------------------------------------------------

    def _applied(self, node: Apply) -> _Value:
        algebra, args = self._algebra, node.args
        match node.op:
            case "select":
                return self._choice(node)
            case "cast" if node.dtype.kind is args[0].dtype.kind and not node.dtype.is_generic:
                raise _Unknown  # it may round
            case "cast" if node.dtype.kind.value >= args[0].dtype.kind.value:
                return self._each(self.value(args[0]), lambda e: convert(e, node.dtype))
            case "stop_gradient":
                return self.value(args[0])
            case "mod" if self._modulus is not None and args[1] == self._modulus:
                return self.value(args[0])
            case op if op == algebra.plus:
                return self._joined(op, self.value(args[0]), self.value(args[1]))
            case "neg" if algebra.low is None:
                return self._negated(self.value(args[0]))
            case "sub" if algebra.low is None:
                return self._joined("add", self.value(args[0]), self._negated(self.value(args[1])))
            case op if op == algebra.times or op == {"mul": "div", "add": "sub"}.get(algebra.times):
                state_first = not self.free(args[0])
                if self.free(args[1]) is not state_first or (op != algebra.times and not state_first):
                    raise _Unknown
                free = args[1] if state_first else args[0]
                return self._scaled(self.value(args[0] if state_first else args[1]), op, free, state_first)
            case _:
                raise _Unknown

    def _each(self, value: _Value, function: Callable[[Expr], Expr]) -> _Value:
        offset = None if value.offset is None else function(value.offset)
        match value.matrix:
            case _Dense(expr=expr):
                return _Value(_Dense(function(expr)), offset)
            case _Diagonal(factor=factor, rows=rows):
                made = function(self._algebra.one(self._state.dtype) if factor is None else factor)
                return _Value(_Diagonal(None if factor is None else made, rows), offset)
            case _:
                return _Value(None, offset)

    def _negated(self, value: _Value) -> _Value:
        minus = Const(-1.0 if self._state.dtype.kind is Kind.REAL else -1, self._state.dtype)
        found = self._each(value, lambda e: apply("neg", e))
        if isinstance(value.matrix, _Diagonal) and value.matrix.factor is None:
            return replace(found, matrix=_Diagonal(minus, value.matrix.rows))
        return found

    def _scaled(self, value: _Value, op: str, free: Expr, state_first: bool) -> _Value:
        def by(expr: Expr) -> Expr:
            return self._algebra.scaled(op, expr, free, state_first)

        matrix = value.matrix
        if isinstance(matrix, _Diagonal) and matrix.factor is None:
            plain = op == self._algebra.times and free.dtype is self._state.dtype
            matrix = replace(matrix, factor=free if plain else by(self._algebra.one(self._state.dtype)))
            return _Value(matrix, None if value.offset is None else by(value.offset))
        return self._each(value, by)

    def _joined(self, op: str, a: _Value, b: _Value) -> _Value:
        offset = self._algebra.add(a.offset, b.offset)
        if a.matrix is None or b.matrix is None:
            return _Value(b.matrix if a.matrix is None else a.matrix, offset)
        if isinstance(a.matrix, _Diagonal) and isinstance(b.matrix, _Diagonal) and a.matrix.rows == b.matrix.rows:
            factors = [self._factor(m) for m in (a.matrix, b.matrix)]
            return _Value(_Diagonal(apply(op, *factors), a.matrix.rows), offset)
        return _Value(_Dense(apply(op, self._dense(a.matrix), self._dense(b.matrix))), offset)

    def _choice(self, node: Apply) -> _Value:
        condition, yes, no = node.args
        a, b = self.value(yes), self.value(no)
        if not self.free(condition):
            picks = {"gt": "max", "ge": "max", "lt": "min", "le": "min"}
            if not (isinstance(condition, Apply) and condition.op in picks and {*condition.args} == {yes, no}):
                raise _Unknown
            picked = picks[condition.op]
            if condition.args != (yes, no):
                picked = {"max": "min", "min": "max"}[picked]
            if picked != self._algebra.plus:
                raise _Unknown
            return self._joined(picked, a, b)
        zero = self._algebra.zero(self._state.dtype)

        def chosen(first: Expr | None, other: Expr | None) -> Expr:
            return apply("select", condition, first or zero, other or zero)

        offset = None if a.offset is None and b.offset is None else chosen(a.offset, b.offset)
        matrices = [m for m in (a.matrix, b.matrix) if m is not None]
        if (
            all(isinstance(m, _Diagonal) for m in matrices)
            and len({m.rows for m in matrices if isinstance(m, _Diagonal)}) == 1
        ):
            factors = [self._factor(m) if isinstance(m, _Diagonal) else None for m in (a.matrix, b.matrix)]
            rows = next(m.rows for m in matrices if isinstance(m, _Diagonal))
            return _Value(_Diagonal(chosen(*factors), rows), offset)
        dense = [None if m is None else self._dense(m) for m in (a.matrix, b.matrix)]
        return _Value(_Dense(chosen(*dense)), offset)

    def _factor(self, matrix: _Diagonal) -> Expr:
        return self._algebra.one(self._state.dtype) if matrix.factor is None else matrix.factor

    def _dense(self, matrix: _Diagonal | _Dense) -> Expr:
        if isinstance(matrix, _Dense):
            return matrix.expr
        if not self._rows:
            return self._factor(matrix)
        return self._algebra.unit(matrix.rows, self._columns, matrix.factor, self._state.dtype)

    # --- what moves elements ------------------------------------------------------------------------------------------

    def _together(self, dims: Dims) -> None:
        """Elements meet along these dims."""
        for dim in dims:
            if dim in self._apart:
                raise _Meets(dim)

    def _summed(self, arg: Expr, over: Dims) -> _Value:
        self._together(over)
        value, total = self.value(arg), self._algebra.total
        offset = None if value.offset is None else total(value.offset, over)
        match value.matrix:
            case None:
                return _Value(None, offset)
            case _Diagonal(rows=rows) if rows and {*rows} <= {*over}:
                rest = tuple(d for d in over if d not in rows)
                factor = total(self._factor(value.matrix), rest)
                return _Value(_Dense(renamed(factor, dict(zip(rows, self._columns, strict=True)))), offset)
            case matrix:
                return _Value(_Dense(total(self._dense(matrix), over)), offset)

    def _contracted(self, node: Contract) -> _Value:
        moves_left = not self.free(node.left)
        if moves_left and not self.free(node.right):
            raise _Unknown
        moving, fixed = (node.left, node.right) if moves_left else (node.right, node.left)
        labels, others = (node.left_axes, node.right_axes) if moves_left else (node.right_axes, node.left_axes)
        if len({*moving.dims}) < len(moving.dims) or len({*node.dims}) < len(node.dims):
            raise _Unknown
        self._together(tuple(d for d, k in zip(moving.dims, labels, strict=True) if k not in node.out_axes))
        inside, names = dict(zip(labels, moving.dims, strict=True)), dict(zip(node.out_axes, node.dims, strict=True))
        if any(names.get(k, d) != d for k, d in inside.items()) or len({*others}) < len(others):
            raise _Unknown
        fixed, value = convert(fixed, node.dtype), self.value(moving)

        def product(arg: Expr, kept: dict[int, str]) -> Expr:
            """The contraction of `fixed` with `arg`, not summed over the labels that are `kept`, under these names."""
            arg = convert(arg, node.dtype)
            both = {*others} | {k for k, d in inside.items() if d in arg.dims}
            arg = self._algebra.total(
                arg, tuple(d for k, d in inside.items() if k not in names | kept and k not in both)
            )
            label = {d: k for k, d in inside.items()} | {d: 1000 + i for i, d in enumerate(self._columns)}
            own = tuple(label[d] for d in arg.dims)
            out = {k: d for k, d in (names | kept).items() if k in both}
            out |= {label[d]: d for d in arg.dims if d in self._columns}
            dims = tuple(out.values())
            if arg == self._algebra.one(node.dtype) and {*others} <= {*out}:
                return Reaxis(fixed, tuple(range(len(others))), tuple(out[k] for k in others), node.dtype)
            return Contract(fixed, arg, others, own, tuple(out), dims, node.dtype, node.span)

        offset = None if value.offset is None else product(value.offset, {})
        match value.matrix:
            case None:
                return _Value(None, offset)
            case _Diagonal(rows=rows) if rows and not {*rows} & {inside[k] for k in inside if k in names}:
                kept = {k: self._columns[rows.index(d)] for k, d in inside.items() if d in rows}
                return _Value(_Dense(product(self._factor(value.matrix), kept)), offset)
            case matrix:
                return _Value(_Dense(product(self._dense(matrix), {})), offset)

    def _reaxis(self, node: Reaxis, value: _Value) -> _Value:
        old = node.arg.dims
        if len({*old}) < len(old) or len({*node.dims}) < len(node.dims):
            raise _Unknown
        names = {old[a]: new for a, new in zip(node.axes, node.dims, strict=True)}
        self._together(tuple(d for pair in names.items() if pair[0] != pair[1] for d in pair))
        if node.at is not None:
            self._together((old[node.at],))

        def seen(expr: Expr) -> Expr:
            if node.at is not None and old[node.at] in expr.dims:
                at = expr.dims.index(old[node.at])
                axes = tuple(a for a in range(len(expr.dims)) if a != at)
                dims = tuple(names.get(expr.dims[a], expr.dims[a]) for a in axes)
                return Reaxis(expr, axes, dims, expr.dtype, at, node.index, node.span)
            return renamed(expr, names)

        offset = None if value.offset is None else seen(value.offset)
        match value.matrix:
            case None:
                return _Value(None, offset)
            case _Diagonal(factor=factor, rows=rows) if {*rows} <= {*names}:
                new = _Diagonal(None if factor is None else seen(factor), tuple(names[r] for r in rows))
                return _Value(new, offset)
            case matrix:
                return _Value(_Dense(seen(self._dense(matrix))), offset)

    def _gathered(self, node: Gather, value: _Value) -> _Value:
        dim = node.arg.dims[node.axis]
        if len({*node.arg.dims}) < len(node.arg.dims):
            raise _Unknown
        self._together((dim,))

        def picked(expr: Expr) -> Expr:
            return build.gather(expr, expr.dims.index(dim), node.index) if dim in expr.dims else expr

        matrix = None if value.matrix is None else _Dense(picked(self._dense(value.matrix)))
        return _Value(matrix, None if value.offset is None else picked(value.offset))

    def _unfolded(self, node: Unfold, value: _Value) -> _Value:
        over = tuple(node.arg.dims[a] for a in node.axes)
        if len({*node.dims}) < len(node.dims):
            raise _Unknown
        self._together((*over, *node.taps))

        def near(expr: Expr) -> Expr:
            whole = repeated(expr, tuple(d for d in over if d not in expr.dims))
            return build.unfold(whole, over, node.taps, node.forward, node.wrap, node.span)

        matrix = None if value.matrix is None else _Dense(near(self._dense(value.matrix)))
        return _Value(matrix, None if value.offset is None else near(value.offset))

    def _solved(self, node: Linalg, matrix: Expr, value: _Value) -> _Value:
        *batch, rows, columns = matrix.dims
        if rows in batch or columns in batch or len({*node.args[1].dims}) < len(node.args[1].dims):
            raise _Unknown
        self._together((rows, columns))

        def solved(right: Expr) -> Expr:
            return build.linalg("solve", matrix, repeated(right, () if rows in right.dims else (rows,)))

        found = None if value.matrix is None else _Dense(solved(self._dense(value.matrix)))
        return _Value(found, None if value.offset is None else solved(value.offset))


__all__ = ["Lifted", "LiftedEach", "lift", "lift_each"]
