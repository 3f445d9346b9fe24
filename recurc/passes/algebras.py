"""Matrices over + and * or over a semiring, in IR expressions: their sums, products and identities.

Such matrices multiply associatively whatever the semiring (Mohri, "Semiring frameworks and algorithms for
shortest-distance problems", 2002). `zero` changes nothing under `plus` and absorbs under `times`; `one` changes nothing
under `times`. The rows of a matrix are dims of a state, its columns the same dims under another name (`types.second`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recurc.build import reduce
from recurc.ir import Broadcast, Const, Contract, Expr, Linalg, Reaxis
from recurc.ops import apply, convert
from recurc.passes.affine import one, sum_over, zero
from recurc.types import Dims, DType, Kind, second


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
        return zero(dtype) if self.low is None else Const(self.low, dtype)

    def one(self, dtype: DType) -> Const:
        return one(dtype) if self.high is None else Const(self.high, dtype)

    def holds(self, dtype: DType) -> bool:
        """Whether values of that type have a zero and a one."""
        if isinstance(self.low, bool):
            return dtype.kind is Kind.BOOL
        return dtype.kind is Kind.REAL or (self.low is None and dtype.kind is not Kind.BOOL)

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

    def product(self, a: Expr, b: Expr, over: Dims, out: Dims) -> Expr:
        """The sum over `over` of the products of two values aligned by name; shape `out`."""
        if self.low is None:
            names = list(dict.fromkeys((*a.dims, *b.dims)))
            labels = [tuple(names.index(d) for d in dims) for dims in (a.dims, b.dims, out)]
            return Contract(a, b, labels[0], labels[1], labels[2], out, a.dtype)
        return ordered(self.total(apply(self.times, a, b), over), out)

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
