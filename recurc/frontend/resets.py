"""`reset when c`: the condition as an equation, and the rule that it knows nothing of earlier steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recurc import ir
from recurc.frontend import ast, clocks
from recurc.frontend.problems import Stop
from recurc.frontend.symbols import Definition, Kind
from recurc.types import DType

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer

_WHAT = "`reset when`"


def condition(lowerer: Lowerer, definition: Definition) -> ir.Equation:
    """The equation of a condition that the source gives no name. Raises `Stop` after reporting what is wrong."""
    from recurc.frontend.lower import Value

    value = lowerer.expression(definition.value)
    clocks.check_truth(lowerer, value, definition.span, _WHAT)
    name = definition.names[0].name
    lowerer.values[name] = Value((), DType.BOOL, definition.span)
    return ir.Equation(name, value, definition.span)


def check(lowerer: Lowerer, reset: ast.Name, equations: Sequence[ir.Equation]) -> None:
    """Reports a condition that is no truth value, or that depends on a state or on an earlier step."""
    symbol = lowerer.scope.symbols.get(reset.name)
    if symbol is not None and symbol.block is not None:
        clocks.report_outside(lowerer.problems, symbol, reset.span)
        return
    defined = {e.name: e.expr for e in equations}
    states = {s.name for s in (*lowerer.scope.of_kind(Kind.STATE), *lowerer.expansions.hidden)}
    if reset.name not in defined:
        return  # its equation is wrong, which has been reported
    try:
        clocks.check_truth(lowerer, defined[reset.name], reset.span, _WHAT)
    except Stop:
        return
    pending, seen = [reset.name], {reset.name}
    while pending:
        for read in ir.reads(defined[pending.pop()]):
            if read.lag or read.name in states:
                lowerer.problems.report(
                    "E0525",
                    f"the condition of {_WHAT} depends on `{read.name}`"
                    + (f" {read.lag} step{'s' * (read.lag != 1)} before" if read.lag else ", which is a state"),
                    reset.span,
                    "a reset is decided before the step: by inputs, params and t only; a choice that reads a state is "
                    "written `h = if c then 0 else ...`",
                    ((reset.span, "the condition"), (read.span or reset.span, f"{read.name} is read here")),
                )
                return
            if read.name in defined and read.name not in seen:
                seen.add(read.name)
                pending.append(read.name)
