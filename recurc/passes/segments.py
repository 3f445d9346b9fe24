"""Resets (class SEG): where a condition of inputs holds, a state is before the step what it was before the first one.

`reset when c` has become `if c then INITIAL else h[t-1]` wherever the state is read. Without these choices the update
is of some class, and with them it is that class segment by segment: the element of a step also says whether the
sequence has started anew, and what came before such an element is left out, whatever it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.ir import Apply, Broadcast, Expr, Read, State, rewrite, walk
from recurc.ops import convert
from recurc.passes.affine import Forms
from recurc.types import DType


@dataclass(frozen=True)
class Segments:
    """The condition, and the forms of the same update without resets."""

    condition: Read
    forms: Forms


def segments(forms: Forms, state: str) -> Segments | None:
    """The resets of `state`, if every read of its old value is subject to the same one."""
    declared = next(s for s in forms.rec.states if s.name == state)
    needed = {state, *forms.behind(state, ())}
    conditions: list[Read] = []

    def stripped(node: Expr) -> Expr:
        match node:
            case Apply(op="select", args=(Read(lag=0, dims=(), dtype=DType.BOOL) as condition, begin, old)) if (
                forms.is_free(condition.name) and _is_old(old, state) and _is_initial(forms, begin, declared)
            ):
                conditions.append(condition)
                return old
            case _:
                return node

    equations = tuple(
        replace(e, expr=rewrite(e.expr, stripped)) if e.name in needed else e for e in forms.rec.equations
    )
    reads = sum(_is_old(n, state) for e in equations if e.name in needed for n in walk(e.expr))
    if not conditions or len(set(conditions)) > 1 or reads != len(conditions):
        return None
    return Segments(conditions[0], Forms(replace(forms.rec, equations=equations), forms.dep, forms.group))


def _is_old(expr: Expr, state: str) -> bool:
    return isinstance(expr, Read) and expr.name == state and expr.lag == 1


def _unbroadcast(expr: Expr) -> Expr:
    return expr.arg if isinstance(expr, Broadcast) else expr


def _is_initial(forms: Forms, begin: Expr, state: State) -> bool:
    begin = _unbroadcast(begin)
    initial = convert(state.initial, state.dtype)
    named = isinstance(begin, Read) and not begin.lag and any(e.name == begin.name for e in forms.rec.equations)
    return begin == initial or (isinstance(begin, Read) and named and forms.equation(begin.name) == initial)
