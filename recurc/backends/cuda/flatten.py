"""Equations in the form the emitters take: what needs a loop of its own is an equation of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from recurc.ir import Contract, Equation, Expr, Gather, Linalg, Read, Reduce, children, reads, with_children


def flatten(body: Iterable[Equation], carries: Collection[str] = ()) -> list[Equation]:
    """The same equations, with each `Reduce`, `Contract` and small-matrix operation inside an expression named before
    it, and each `Gather` from what the kernel holds (an equation's value, or a carry). The new names hold an `@`, which
    no source name does. A matrix operation stands alone also where it was a whole equation, with the dims it has."""
    out: list[Equation] = []
    held = set(carries)
    for equation in body:
        taken = 0

        def name_inner(expr: Expr, root: bool, equation: Equation = equation) -> Expr:
            nonlocal taken
            new = tuple(name_inner(child, False) for child in children(expr))
            expr = with_children(expr, new)
            if not is_matrix_operation(expr) and (root or not _needs_a_loop(expr, held)):
                return expr
            taken += 1
            name = f"{equation.name}@{_word(expr)}" + (f"@{taken}" if taken > 1 else "")
            out.append(Equation(name, expr, expr.span or equation.span))
            held.add(name)
            return Read(name, 0, expr.dims, expr.dtype, expr.span)

        out.append(Equation(equation.name, name_inner(equation.expr, True), equation.span))
        held.add(equation.name)
    return out


def is_matrix_operation(expr: Expr) -> bool:
    """Whether `expr` works on whole matrices (the identity does not: its elements are known by their places)."""
    return isinstance(expr, Linalg) and expr.op != "eye"


def gathers_held(expr: Expr, held: Collection[str]) -> bool:
    """Whether `expr` picks places of a value in the kernel's hands."""
    return isinstance(expr, Gather) and any(r.name in held for r in reads(expr.arg))


def _needs_a_loop(expr: Expr, held: Collection[str]) -> bool:
    return isinstance(expr, Reduce | Contract) or is_matrix_operation(expr) or gathers_held(expr, held)


def _word(expr: Expr) -> str:
    match expr:
        case Contract():
            return "product"
        case Reduce(op=op) | Linalg(op=op):
            return op
        case _:
            return "picked"
