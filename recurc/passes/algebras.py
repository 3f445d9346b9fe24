"""Matrices over + and * or over a semiring, in IR expressions: their sums, products and identities.

Such matrices multiply associatively whatever the semiring (Mohri, "Semiring frameworks and algorithms for
shortest-distance problems", 2002). `zero` changes nothing under `plus` and absorbs under `times`; `one` changes nothing
under `times`. Integers have no infinity: over max or min and +, the largest (or least) of their type stands for it. It
is kept apart in every sum, so it is reached by none as long as sums of finite values stay below it, which the caller
sees to (`ranges.finite_range`). The rows of a matrix are dims of a state, its columns the same dims under another name
(`types.second`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recurc.build import reduce
from recurc.ir import Apply, Broadcast, Const, Contract, Expr, Linalg, Reaxis, walk
from recurc.ops import apply, convert
from recurc.passes.affine import one, sum_over, zero
from recurc.types import Dims, DType, Kind, extreme, second


@dataclass(frozen=True)
class Algebra:
    """What stands for + and *, as operators of the op table, and for 0 and 1; None: those of the numbers."""

    plus: str = "add"
    times: str = "mul"
    reduction: str | None = "sum"  # None: logaddexp, which is written out
    low: bool | float | None = None
    high: bool | float | None = None

    @property
    def words(self) -> str:
        """Its operations, for a person."""
        return f"{self.plus} and {'+' if self.times == 'add' else self.times}"

    def zero(self, dtype: DType) -> Const:
        return zero(dtype) if self.low is None else _constant(self.low, dtype)

    def one(self, dtype: DType) -> Const:
        return one(dtype) if self.high is None else _constant(self.high, dtype)

    def saturates(self, dtype: DType) -> bool:
        """Whether the sums that stand for products have to keep the zero apart: those of integers."""
        return self.times == "add" and dtype.kind is Kind.INT

    def holds(self, dtype: DType) -> bool:
        """Whether values of that type have a zero and a one."""
        if isinstance(self.low, bool):
            return dtype.kind is Kind.BOOL
        if self.plus != "logaddexp" and dtype is DType.I64:
            return True
        return dtype.kind is Kind.REAL or (self.low is None and dtype.kind is not Kind.BOOL)

    def scaled(self, op: str, value: Expr, free: Expr, value_first: bool = True) -> Expr:
        """`value` times something finite, or by the operator that undoes that; `value` may be zero."""
        nothing = self.zero(value.dtype)

        def by(e: Expr) -> Expr:
            return apply(op, e, free) if value_first else apply(op, free, e)

        def of(e: Expr) -> Expr:
            return self.scaled(op, e, free, value_first)

        if not self.saturates(value.dtype) or all(n != nothing for n in walk(value)):
            return by(value)
        match value:
            case Const():
                return value
            case Apply(op="select", args=(Apply(op="eq", args=(_, none)) as where, zero_, rest)) if (
                none == nothing == zero_
            ):
                return apply("select", where, nothing, by(rest))
            case Apply(op="select", args=(where, yes, no)):
                return apply("select", where, of(yes), of(no))
            case Apply(op=plus, args=(a, b)) if plus == self.plus:
                return apply(plus, of(a), of(b))
            case _:
                return apply("select", apply("eq", value, nothing), nothing, by(value))

    def times_of(self, a: Expr, b: Expr, given: bool = False) -> Expr:
        """The product of two values aligned by name, of which each may be zero. `given`: b is never zero, and may be
        any number of its type: a sum that would leave it is zero."""
        made = apply(self.times, a, b)
        if not self.saturates(a.dtype):
            return made
        nothing, none = self.zero(a.dtype), Const(0, a.dtype)
        least = self.plus == "max"
        if not given:
            either = apply("eq", apply("min" if least else "max", a, b), nothing)
            return apply("select", either, nothing, made)
        room = apply("sub", nothing, apply("min" if least else "max", b, none))
        return apply("select", apply("le" if least else "ge", a, room), nothing, made)

    def add(self, a: Expr | None, b: Expr | None) -> Expr | None:
        """The sum, where None is zero."""
        if a is None or b is None:
            return b if a is None else a
        return apply(self.plus, a, b)

    def total(self, arg: Expr, over: Dims) -> Expr:
        """`arg` summed over dims, along those of which that it lacks it is the same everywhere."""
        if self.low is None:
            return sum_over(arg, over)
        present = tuple(d for d in over if d in arg.dims)
        if self.reduction is not None:
            return reduce(self.reduction, arg, present) if present else arg
        missing = tuple(d for d in over if d not in arg.dims)
        return log_total(repeated(arg, missing), over) if over else arg

    def product(self, a: Expr, b: Expr, over: Dims, out: Dims, given: bool = False) -> Expr:
        """The sum over `over` of the products of two values aligned by name; shape `out`. `given` as in `times_of`."""
        if self.low is None:
            names = list(dict.fromkeys((*a.dims, *b.dims)))
            labels = [tuple(names.index(d) for d in dims) for dims in (a.dims, b.dims, out)]
            return Contract(a, b, labels[0], labels[1], labels[2], out, a.dtype)
        return ordered(self.total(self.times_of(a, b, given), over), out)

    def unit(self, rows: Dims, columns: Dims, factor: Expr | None, dtype: DType) -> Expr:
        """`factor` (one, if None) where each row is its column, zero elsewhere."""
        if not rows:
            return self.one(dtype) if factor is None else factor
        pairs = [Linalg("eye", (), pair, DType.REAL) for pair in zip(rows, columns, strict=True)]
        if self.low is None and factor is None and len(pairs) == 1 and dtype.kind is not Kind.INT:
            return convert(pairs[0], dtype)
        hits = [apply("gt", p, Const(0.5, DType.REAL)) for p in pairs]
        hit = hits[0]
        for other in hits[1:]:
            hit = apply("and", hit, other)
        return apply("select", hit, self.one(dtype) if factor is None else factor, self.zero(dtype))


NUMBERS = Algebra()


def _constant(value: bool | float, dtype: DType) -> Const:
    if dtype.kind is not Kind.INT:
        return Const(value, dtype)
    return Const(extreme(dtype, value > 0) if math.isinf(value) else int(value), dtype)


def log_total(arg: Expr, over: Dims) -> Expr:
    """log(sum(exp(arg))), shifted by the maximum where that is a number: of nothing but -inf it is -inf."""
    low = Const(-math.inf, arg.dtype)
    top = reduce("max", arg, over)
    shift = apply("select", apply("eq", top, low), zero(arg.dtype), top)
    weights = apply("exp", apply("sub", arg, shift))
    return apply("add", shift, apply("log", reduce("sum", weights, over)))


def renamed(expr: Expr, names: dict[str, str]) -> Expr:
    """The same axes under other names."""
    dims = tuple(names.get(d, d) for d in expr.dims)
    return expr if dims == expr.dims else Reaxis(expr, tuple(range(len(dims))), dims, expr.dtype)


def ordered(expr: Expr, dims: Dims) -> Expr:
    """`expr` with exactly the dims `dims`, repeated along those it lacks."""
    expr = repeated(expr, tuple(d for d in dims if d not in expr.dims))
    return expr if expr.dims == dims else Reaxis(expr, tuple(expr.dims.index(d) for d in dims), dims, expr.dtype)


def repeated(expr: Expr, more: Dims) -> Expr:
    return Broadcast(expr, (*expr.dims, *more), expr.dtype) if more else expr


def columns_of(rows: Dims) -> Dims:
    return tuple(second(d) for d in rows)
