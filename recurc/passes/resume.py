"""Recurrences that a run is continued with: `t` counts on from an earlier run, and rows of a batch end before others.

Both are ordinary recurrences with one param more, so every backend and schedule has them.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.build import permute
from recurc.ir import Equation, Expr, Param, Read, Recurrence, State, Step, late_equations, rewrite, walk
from recurc.ops import apply, convert
from recurc.types import DType

START = "t@initial"  # the index of the first step: that of a run's continuation is how many steps there were before
LENGTH = "T@row"  # how many steps a row of the batch has


def reads_step(rec: Recurrence) -> bool:
    """Whether an equation reads `t`, the index of the step."""
    return any(isinstance(node, Step) for e in rec.equations for node in walk(e.expr))


def reads_final(rec: Recurrence) -> bool:
    """Whether an equation reads `S[T]`, the value of a state after the last step."""
    return bool(late_equations(rec))


def started(rec: Recurrence) -> Recurrence:
    """`rec` with `t` counted from the param `START` (an integer) instead of from 0."""
    start = Read(START, 0, (), DType.I64)

    def shifted(node: Expr) -> Expr:
        return apply("add", node, start, span=node.span) if isinstance(node, Step) else node

    equations = tuple(Equation(e.name, rewrite(e.expr, shifted), e.span) for e in rec.equations)
    return replace(rec, params=(*rec.params, Param(START, (), DType.I64)), equations=equations)


def held(core: Recurrence) -> Recurrence:
    """`core` (a recurrence in core form) whose states keep what they are from step `LENGTH` (a param) on: the final
    values of a row that is shorter than the others are those at its own end."""
    states = {s.name: s for s in core.states}
    equations = tuple(_held(e, states[e.name]) if e.name in states else e for e in core.equations)
    return replace(core, params=(*core.params, Param(LENGTH, (), DType.I64)), equations=equations)


def _held(equation: Equation, state: State) -> Equation:
    lives = apply("lt", Step(), Read(LENGTH, 0, (), DType.I64), span=equation.span)
    old = Read(state.name, 1, state.dims, state.dtype, equation.span)
    kept = apply("select", lives, convert(equation.expr, state.dtype), old, span=equation.span)
    return Equation(state.name, kept if kept.dims == state.dims else permute(kept, state.dims), equation.span)
