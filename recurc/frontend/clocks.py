"""Blocks of clocked equations, `every k:` and `when c:`, as equations that hold at every step.

A block's condition is an equation of its own, its clock (of a block inside another: and-ed with the outer clock). A
state defined inside is `select(clock, new, old[t-1])`: it holds its value while the block does not fire. Other
equations of a block stand as they are; the name checks let only the block itself read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurc import ir, ops
from recurc.frontend.problems import Problems, Stop
from recurc.frontend.symbols import Block, Definition, Symbol
from recurc.source import Span
from recurc.types import DType, show_dims

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer


def clock(lowerer: Lowerer, definition: Definition) -> ir.Equation:
    """The equation that says whether a block fires. Raises `Stop` after reporting what is wrong."""
    from recurc.frontend.lower import Value

    block = definition.clock_of
    assert block is not None
    span = definition.span
    value = lowerer.expression(definition.value)
    if block.word == "every":
        value = _every(lowerer, value, span)
    else:
        check_truth(lowerer, value, span, "`when`")
    if definition.block is not None:
        value = ops.apply("and", _clock(lowerer, definition.block.clock.name), value, span=span)
    lowerer.values[block.clock.name] = Value((), DType.BOOL, span)
    return ir.Equation(block.clock.name, value, span)


def _every(lowerer: Lowerer, count: ir.Expr, span: Span) -> ir.Expr:
    """`every k` fires at t = 0, k, 2k, ..."""
    known = isinstance(count, ir.Size)
    if isinstance(count, ir.Const):
        known = count.dtype is DType.I64 and not isinstance(count.value, complex) and count.value > 0
    if not known:
        raise lowerer.stop(
            "E0522",
            "`every` takes a positive whole number that is known at compile time",
            span,
            "write a number, a const or a dim, as in `every 4:`; `when c:` takes any condition",
        )
    place = ops.apply("mod", ir.Step(span), count, span=span)
    return ops.apply("eq", place, ir.Const(0, DType.I64, span), span=span)


def check_truth(lowerer: Lowerer, value: ir.Expr, span: Span, what: str) -> None:
    """Raises `Stop`, reported, unless `value` is a truth value without dims."""
    if value.dtype is not DType.BOOL:
        raise lowerer.stop(
            "E0521", f"{what} takes a truth value, and this is a number", span, "compare it, as in `x > 0`"
        )
    if value.dims:
        dims = ", ".join(value.dims)
        raise lowerer.stop(
            "E0521",
            f"{what} takes one truth value for the whole step, and this is {show_dims(value.dims)}",
            span,
            f"reduce it: `any(..., {dims})` or `all(..., {dims})`; to choose per element, write `if c then a else b`",
        )


def clock_of(lowerer: Lowerer, block: Block) -> ir.Expr:
    """The truth value at which a block fires. Raises `Stop` if its condition is wrong."""
    return _clock(lowerer, block.clock.name)


def held(lowerer: Lowerer, symbol: Symbol, value: ir.Expr, definition: Definition) -> ir.Expr:
    """What a state is that an equation of a block defines as `value`, which has the state's dims and type."""
    if definition.block is None:
        return value
    span = definition.span
    old = ir.Read(symbol.name, 1, symbol.dims, symbol.dtype, span)
    return ops.apply("select", _clock(lowerer, definition.block.clock.name), value, old, span=span)


def _clock(lowerer: Lowerer, name: str) -> ir.Expr:
    value = lowerer.values.get(name)
    if value is None:
        raise Stop(name)  # its condition is wrong, which has been reported
    return ir.Read(name, 0, value.dims, value.dtype, value.span)


def report_outside(problems: Problems, symbol: Symbol, span: Span) -> Stop:
    """An equation of a block, read where the block may not fire."""
    assert symbol.block is not None
    return problems.stop(
        "E0410",
        f"`{symbol.name}` is defined inside `{symbol.block.word}`, so it has no value outside the block",
        span,
        f"make it a state, which holds its value between the steps: `state {symbol.name} = 0`",
        ((symbol.span, "defined here"), (span, "read here")),
    )
