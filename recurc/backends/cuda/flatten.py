"""Equations in the form the emitters take: every reduction and contraction is an equation of its own."""

from __future__ import annotations

from collections.abc import Iterable

from recurc.ir import Contract, Equation, Expr, Read, Reduce, children, with_children


def flatten(body: Iterable[Equation]) -> list[Equation]:
    """The same equations, with each `Reduce` and `Contract` inside an expression named before it. The new names hold
    an `@`, which no source name does."""
    out: list[Equation] = []
    for equation in body:
        taken = 0

        def name_inner(expr: Expr, root: bool, equation: Equation = equation) -> Expr:
            nonlocal taken
            new = tuple(name_inner(child, False) for child in children(expr))
            expr = with_children(expr, new)
            if root or not isinstance(expr, Reduce | Contract):
                return expr
            taken += 1
            what = "product" if isinstance(expr, Contract) else expr.op
            name = f"{equation.name}@{what}" + (f"@{taken}" if taken > 1 else "")
            out.append(Equation(name, expr, expr.span or equation.span))
            return Read(name, 0, expr.dims, expr.dtype, expr.span)

        out.append(Equation(equation.name, name_inner(equation.expr, True), equation.span))
    return out
