"""`S[T]`: only outputs, and equations that nothing but outputs read, may know what a state is after the last step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from recurc import ir
from recurc.frontend.symbols import Kind

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer


def stepwise(
    equations: Sequence[ir.Equation], states: Collection[str], reset: str | None
) -> list[tuple[ir.Equation, ir.Final]]:
    """The equations of `states` and of the condition `reset` that depend on a final value, directly or through other
    equations, each with one such value; `equations` are in dependence order."""
    behind: dict[str, ir.Final] = {}
    for equation in equations:
        for node in ir.walk(equation.expr):
            found = node if isinstance(node, ir.Final) else None
            if isinstance(node, ir.Read) and not node.lag:
                found = behind.get(node.name)
            if found is not None:
                behind.setdefault(equation.name, found)
    known = {*states, reset}
    return [(e, behind[e.name]) for e in equations if e.name in behind and e.name in known]


def check(lowerer: Lowerer, equations: Sequence[ir.Equation], reset: str | None) -> None:
    """Reports every state (and a reset) that depends on a final value."""
    states = {s.name for s in (*lowerer.scope.of_kind(Kind.STATE), *lowerer.expansions.hidden)}
    for equation, final in stepwise(equations, states, reset):
        where = equation.span or equation.expr.span or final.span
        assert where is not None
        what = f"state {equation.name}" if equation.name in states else "the condition of `reset when`"
        read = () if final.span is None else ((final.span, f"{final.name}[T] is read here"),)
        lowerer.problems.report(
            "E0411",
            f"{what} depends on `{final.name}[T]`, which is known after the last step only",
            where,
            f"read the step before, `{final.name}[t-1]`, or use `{final.name}[T]` in an output only",
            ((where, f"{what} is worked out at every step"), *read),
        )
