"""Expand: shorthand operators become rows of the op table, and lags above 1 become chains of shift states.

`h[t-3]` needs what `h` was two steps before the last: the chain `h@lag1 = h[t-1]`, `h@lag2 = h@lag1[t-1]` holds it, and
`h[t-3]` is then `h@lag2[t-1]`. Before the first step every member of the chain has the value `h` has there, so a
caller who gives `h` another initial value gives the same one to its chain (`shift_states` says which those are).
"""

from __future__ import annotations

from recurc.errors import UnsupportedError
from recurc.ir import Apply, Equation, Expr, Input, Read, Recurrence, State, reads, rewrite
from recurc.ops import OPS, convert
from recurc.passes.manager import Pass

_LONGEST_LAG = 4096


def lag_name(name: str, lag: int) -> str:
    """The shift state that holds `name` as it was `lag` steps before (`@` cannot occur in a source name)."""
    return f"{name}@lag{lag}"


def shift_states(rec: Recurrence) -> dict[str, str]:
    """Shift state -> the state or input it delays, for a recurrence in core form."""
    return {s.name: s.name.partition("@lag")[0] for s in rec.states if "@lag" in s.name}


def expand(rec: Recurrence) -> Recurrence:
    """`rec` without shorthand operators and with lags 0 and 1 only.

    Raises `UnsupportedError` for a lag above 4096 steps."""
    longest = _longest_lags(rec)
    chains: list[State] = []
    shifts: list[Equation] = []
    for name, lag in longest.items():
        if lag > _LONGEST_LAG:
            raise UnsupportedError(f"{name}[t-{lag}]: a lag above {_LONGEST_LAG} steps is not supported yet")
        origin = next(d for d in (*rec.states, *rec.inputs) if d.name == name)
        before = origin.before if isinstance(origin, Input) else origin.initial
        if before is None or lag < 2:
            continue
        for k in range(1, lag):
            source = name if k == 1 else lag_name(name, k - 1)
            shift = lag_name(name, k)
            chains.append(State(shift, origin.dims, origin.dtype, convert(_plain(before), origin.dtype), origin.span))
            shifts.append(Equation(shift, Read(source, 1, origin.dims, origin.dtype, origin.span), origin.span))
    return Recurrence(
        rec.name,
        rec.dims,
        tuple(Input(i.name, i.dims, i.dtype, i.before and _plain(i.before), i.span) for i in rec.inputs),
        rec.params,
        (*(State(s.name, s.dims, s.dtype, _plain(s.initial), s.span) for s in rec.states), *chains),
        (*shifts, *(Equation(e.name, rewrite(e.expr, _rule), e.span) for e in rec.equations)),
        rec.outputs,
        rec.doc,
        rec.span,
    )


def _longest_lags(rec: Recurrence) -> dict[str, int]:
    longest: dict[str, int] = {}
    for equation in rec.equations:
        for read in reads(equation.expr):
            if read.lag:
                longest[read.name] = max(longest.get(read.name, 0), read.lag)
    return longest


def _rule(node: Expr) -> Expr:
    if isinstance(node, Read) and node.lag > 1:
        return Read(lag_name(node.name, node.lag - 1), 1, node.dims, node.dtype, node.span)
    return _shorthand(node)


def _shorthand(node: Expr) -> Expr:
    if isinstance(node, Apply):
        expands = OPS[node.op].expands
        if expands is not None:
            return respan(rewrite(expands(*node.args), _shorthand), node)
    return node


def _plain(expr: Expr) -> Expr:
    return rewrite(expr, _shorthand)


def respan(expr: Expr, origin: Expr) -> Expr:
    """`expr` with the place of `origin` wherever it has none: made nodes point at what they were made from."""
    from dataclasses import replace

    if origin.span is None:
        return expr
    return rewrite(expr, lambda node: node if node.span else replace(node, span=origin.span))


EXPAND = Pass("expand", "replace shorthand operators and long lags by core forms", expand)
