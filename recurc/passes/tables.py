"""States of few values (class FS): one step as a table of what becomes of each value.

Tables compose: after the first, each entry is looked up in the second (Ladner and Fischer, "Parallel prefix
computation", 1980; Hillis and Steele, "Data parallel algorithms", 1986). The table is the step itself at the places of
the bound: a dim named like the bound, as the columns of a matrix are.
"""

from __future__ import annotations

from recurc import build
from recurc.facts import Component, Monoid
from recurc.ir import Apply, Broadcast, Const, Expr, Gather, Iota, Read, State
from recurc.ops import apply, cast, convert
from recurc.passes.affine import Forms
from recurc.passes.algebras import ordered
from recurc.passes.terms import fresh, too_large
from recurc.types import Dims, DType, Kind, literal_size, second


def table_monoid(forms: Forms, state: State, taken: set[str]) -> Monoid | None:
    """Steps of `state`, a truth value or an integer below a bound, as tables; None if its elements meet, or the step
    works on them otherwise than by operators and lookups."""
    bound = "2" if state.dtype.kind is Kind.BOOL else state.bound
    if bound is None or len({*state.dims}) < len(state.dims):
        return None
    values = second(bound)
    found = _Table(forms, state, values).equation(state.name)
    if found is None or too_large(found):
        return None
    dims = (*(d for d in state.dims if d in found.dims), values)
    table = Component(fresh("table", taken), dims, DType.I64)
    first, then, own = (Read(f"{side}{table.name}", 0, dims, DType.I64) for side in ("1.", "2.", ""))
    old = Read(state.name, 1, state.dims, state.dtype)
    new = ordered(build.gather(own, len(dims) - 1, convert(old, DType.I64)), state.dims)
    return Monoid(
        "FS",
        (state.name,),
        (table,),
        (Iota((values,)),),
        (ordered(convert(found, DType.I64), dims),),
        (build.gather(then, len(dims) - 1, first),),
        (_as(new, state.dtype),),
    )


def begins_below(state: State) -> bool:
    """Whether the first value is surely below the bound, as one that is given is checked to be."""
    first = state.initial
    while isinstance(first, Broadcast):
        first = first.arg
    match first:
        case _ if state.dtype.kind is Kind.BOOL:
            return True
        case Const(value=value):
            return isinstance(value, int) and 0 <= value < (literal_size(state.bound or "") or 1)
        case Iota(dim=dim):
            return dim == state.bound
        case _:
            return first == build.below(first, state.bound or "")


def _as(value: Expr, dtype: DType) -> Expr:
    if dtype.kind is Kind.BOOL:
        return apply("ne", value, Const(0, value.dtype))
    return convert(value, dtype)


class _Table:
    """Evaluates equations on all values of the state at once, along the dim `values` and no dim of the state."""

    def __init__(self, forms: Forms, state: State, values: str) -> None:
        self._forms, self._state, self._values = forms, state, values
        self._memo: dict[str, Expr | None] = {}

    def equation(self, name: str) -> Expr | None:
        for needed in self._forms.behind(name, self._memo):
            found = self.value(self._forms.equation(needed))
            self._memo[needed] = None if found is None or too_large(found) else found
        return self._memo[name]

    def value(self, expr: Expr) -> Expr | None:
        if self._forms.reads_none(expr):
            return expr
        match expr:
            case Read(name=name, lag=lag):
                if not lag:
                    return self.equation(name)
                return _as(Iota((self._values,)), self._state.dtype) if name == self._state.name else None
            case Apply(op="cast", args=(arg,), dtype=dtype):
                value = self.value(arg)
                return None if value is None else cast(value, dtype)
            case Apply(op=op, args=args):
                values = [self.value(a) for a in args]
                known = [v for v in values if v is not None]
                return apply(op, *known, span=expr.span) if len(known) == len(values) else None
            case Broadcast(arg=arg):
                return self.value(arg)
            case Gather(arg=arg, axis=axis, index=index):
                table, place = self.value(arg), self.value(index)
                dim = arg.dims[axis]
                met = not self._forms.reads_none(arg) and dim in self._state.dims
                if table is None or place is None or met or _repeats(table.dims):
                    return None
                if dim not in table.dims:
                    return table
                return build.gather(table, table.dims.index(dim), place, expr.span)
            case _:
                return None


def _repeats(dims: Dims) -> bool:
    return len({*dims}) < len(dims)
