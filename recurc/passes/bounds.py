"""Bounds: a state declared `int(Q)` is taken modulo Q in its equation; that it lies below Q stays known."""

from __future__ import annotations

from dataclasses import replace

from recurc.build import below
from recurc.ir import Equation, Recurrence
from recurc.passes.expand import shift_states
from recurc.passes.manager import Pass


def bounds(rec: Recurrence) -> Recurrence:
    """`rec` with the remainder written out; its states keep their bounds, as facts."""
    delays = shift_states(rec)  # of what is below already
    limits = {s.name: s.bound for s in rec.states if s.name not in delays}
    if not any(limits.values()):
        return rec

    def bounded(equation: Equation) -> Equation:
        limit = limits.get(equation.name)
        return equation if limit is None else replace(equation, expr=below(equation.expr, limit, equation.span))

    return replace(rec, equations=tuple(bounded(e) for e in rec.equations))


BOUNDS = Pass("bounds", "take states of type int(Q) modulo Q", bounds)
