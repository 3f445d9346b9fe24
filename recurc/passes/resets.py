"""Resets: a condition that starts the sequence anew becomes choices where earlier steps are read.

Where the condition holds, a lag-1 read of a state or input is what it was before the first step. The chains of
longer lags are states too (`expand` has made them), so `h[t-2]` is right one step after a reset as well.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.build import choose
from recurc.ir import Const, Equation, Expr, Input, Read, Recurrence, Size, rewrite
from recurc.ops import convert
from recurc.passes.manager import Pass
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.types import DType


def resets(rec: Recurrence) -> Recurrence:
    """`rec`, which has lags 0 and 1 only, without a reset.

    An initial value that is more than a number gets a name, an equation of params that is worked out once."""
    if rec.reset is None:
        return rec
    taken = used_names(rec)
    begin: dict[str, Expr] = {}
    known: dict[Expr, Expr] = {}
    named: list[Equation] = []
    for origin in (*rec.states, *rec.inputs):
        first = origin.before if isinstance(origin, Input) else origin.initial
        if first is None:
            continue
        value = convert(first, origin.dtype)
        if value not in known and not isinstance(value, Const | Size | Read):
            name = fresh(f"{origin.name}@begin", taken)
            taken.add(name)
            named.append(Equation(name, value, origin.span))
            known[value] = Read(name, 0, value.dims, value.dtype, origin.span)
        begin[origin.name] = known.get(value, value)
    at = next(i for i, e in enumerate(rec.equations) if e.name == rec.reset)
    condition = Read(rec.reset, 0, (), DType.BOOL, rec.equations[at].span)

    def chosen(node: Expr) -> Expr:
        if not isinstance(node, Read) or not node.lag:
            return node
        return choose(condition, begin[node.name], node, node.dims, node.span)

    after = (replace(e, expr=rewrite(e.expr, chosen)) for e in rec.equations[at + 1 :])
    return replace(rec, equations=(*named, *rec.equations[: at + 1], *after), reset=None)


RESETS = Pass("resets", "replace a reset by choices where earlier steps are read", resets)
