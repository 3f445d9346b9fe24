"""Expand: shorthand operators become rows of the op table, and lags above 1 become chains of shift states.

`h[t-3]` needs what `h` was two steps before the last: the chain `h@lag1 = h[t-1]`, `h@lag2 = h@lag1[t-1]` holds it, and
`h[t-3]` is then `h@lag2[t-1]`. Before the first step every member of the chain has the value `h` has there, so a
caller who gives `h` another initial value gives the same one to its chain (`shift_states` says which those are).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from recurc.errors import UnsupportedError
from recurc.ir import Apply, Const, Equation, Expr, Input, Read, Recurrence, Size, State, Step, placed, reads, rewrite
from recurc.ops import OPS, apply, convert
from recurc.passes.manager import Pass
from recurc.passes.terms import fresh, too_large
from recurc.passes.verify import used_names

_LONGEST_LAG = 4096


def lag_name(name: str, lag: int) -> str:
    """The shift state that holds `name` as it was `lag` steps before (`@` cannot occur in a source name)."""
    return f"{name}@lag{lag}"


def shift_states(rec: Recurrence) -> dict[str, str]:
    """Shift state -> the state or input it delays, for a recurrence in core form."""
    return {s.name: s.name.partition("@lag")[0] for s in rec.states if "@lag" in s.name}


def expand(rec: Recurrence) -> Recurrence:
    """`rec` without shorthand operators and with lags 0 and 1 only.

    An operand that a shorthand uses more than once gets a name (an equation of its own), so that nested shorthand stays
    linear in size. Raises `UnsupportedError` for a lag above 4096 steps."""
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
            first = convert(_plain(before), origin.dtype)
            chains.append(State(shift, origin.dims, origin.dtype, first, origin.span, origin.bound))
            shifts.append(Equation(shift, Read(source, 1, origin.dims, origin.dtype, origin.span), origin.span))
    names = _Namer(rec)
    equations = [] if rec.reset is not None else shifts
    for equation in rec.equations:
        expr = rewrite(equation.expr, names.rule)
        equations += names.taken_out()
        equations.append(Equation(equation.name, expr, equation.span))
        if equation.name == rec.reset:
            equations += shifts  # what reads earlier steps comes after a reset
    return replace(
        rec,
        inputs=tuple(replace(i, before=i.before and _plain(i.before)) for i in rec.inputs),
        states=(*(replace(s, initial=_plain(s.initial)) for s in rec.states), *chains),
        equations=tuple(equations),
    )


def _longest_lags(rec: Recurrence) -> dict[str, int]:
    longest: dict[str, int] = {}
    for equation in rec.equations:
        for read in reads(equation.expr):
            if read.lag:
                longest[read.name] = max(longest.get(read.name, 0), read.lag)
    return longest


class _Namer:
    """Expands the nodes of one equation after another; operands used twice become equations before it."""

    def __init__(self, rec: Recurrence) -> None:
        self._taken = used_names(rec)
        self._named: dict[Expr, str] = {}
        self._new: list[Equation] = []

    def taken_out(self) -> list[Equation]:
        new, self._new = self._new, []
        return new

    def rule(self, node: Expr) -> Expr:
        if isinstance(node, Read) and node.lag > 1:
            return Read(lag_name(node.name, node.lag - 1), 1, node.dims, node.dtype, node.span)
        if isinstance(node, Apply) and (OPS[node.op].expands is not None or _is_power(node)):
            return _expanded(node, self._operand)
        return node

    def _operand(self, arg: Expr, op: str) -> Expr:
        if arg not in self._named:
            name = fresh(f"{op}_in", self._taken)
            self._taken.add(name)
            self._named[arg] = name
            self._new.append(Equation(name, arg, arg.span))
        return Read(self._named[arg], 0, arg.dims, arg.dtype, arg.span)


def _is_power(node: Apply) -> bool:
    """Whether `node` is the square, cube or fourth power, which are products (the last two to the last roundings)."""
    power = node.args[1] if node.op == "pow" else None
    return isinstance(power, Const) and not isinstance(power.value, bool) and power.value in (2, 3, 4)


def _expanded(node: Apply, operand: Callable[[Expr, str], Expr] | None) -> Expr:
    """The expansion of one node; an operand it uses more than once is replaced by `operand(arg, op)`."""
    held = [Read(f"#{i}", 0, a.dims, a.dtype) for i, a in enumerate(node.args)]
    if node.op == "pow":
        power = node.args[1]
        assert isinstance(power, Const)
        square = apply("mul", held[0], held[0])
        result = {2: square, 3: apply("mul", square, held[0]), 4: apply("mul", square, square)}[int(power.value.real)]
    else:
        expands = OPS[node.op].expands
        assert expands is not None
        result = rewrite(expands(*held), _plain_rule)
    result = placed(result, node.span)
    uses = Counter(r.name for r in reads(result))
    real: dict[str, Expr] = {}
    for place, arg in zip(held, node.args, strict=True):
        leaf = isinstance(arg, Read | Const | Size | Step)
        real[place.name] = arg if leaf or operand is None or uses[place.name] < 2 else operand(arg, node.op)
    return rewrite(result, lambda n: real.get(n.name, n) if isinstance(n, Read) else n)


def _plain_rule(node: Expr) -> Expr:
    if isinstance(node, Apply) and OPS[node.op].expands is not None:
        return _expanded(node, None)
    return node


def _plain(expr: Expr) -> Expr:
    """`expr`, an initial value, without shorthand. There is no step to hold an operand's name, so size is bounded.

    Raises `UnsupportedError` if nested shorthand makes it too large."""
    result = rewrite(expr, _plain_rule)
    if too_large(result):
        raise UnsupportedError("an initial value nests shorthand functions (silu, gelu, elu, ...) too deeply")
    return result


EXPAND = Pass("expand", "replace shorthand operators and long lags by core forms", expand, "expanded")
