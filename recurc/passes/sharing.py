"""Sharing: costly subexpressions that occur more than once get a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from recurc.ir import Apply, Contract, Equation, Expr, Reduce, children, walk, with_children
from recurc.ops import OPS
from recurc.passes.terms import fresh

_COSTLY = 6


def costly(expr: Expr) -> bool:
    """Whether computing `expr` twice costs more than keeping it."""
    match expr:
        case Apply(op=op):
            return OPS[op].flops >= _COSTLY or any(costly(a) for a in expr.args)
        case Reduce() | Contract():
            return True
        case _:
            return any(costly(c) for c in children(expr))


def share(exprs: Sequence[Expr], taken: Collection[str]) -> tuple[list[Equation], tuple[Expr, ...]]:
    """Equations for the costly subexpressions that occur at least twice in `exprs`, and `exprs` reading them.

    The equations stand in an order in which each reads only earlier ones."""
    counts: Counter[Expr] = Counter()
    for expr in exprs:
        _count(expr, counts)
    named: dict[Expr, Expr] = {}
    equations: list[Equation] = []
    used = set(taken)

    def rewritten(expr: Expr) -> Expr:
        from recurc.ir import Read

        if expr in named:
            return named[expr]
        old = children(expr)
        new = tuple(rewritten(c) for c in old)
        result = with_children(expr, new) if any(a is not b for a, b in zip(old, new, strict=True)) else expr
        if counts[expr] > 1 and costly(expr) and not isinstance(expr, Read):
            name = fresh(_hint(expr), used)
            used.add(name)
            equations.append(Equation(name, result, expr.span))
            named[expr] = result = Read(name, 0, expr.dims, expr.dtype, expr.span)
        return result

    return equations, tuple(rewritten(e) for e in exprs)


def _count(expr: Expr, counts: Counter[Expr]) -> None:
    """Counts occurrences; below a repeated expression only once, since the repeats will read its name."""
    pending = [expr]
    while pending:
        node = pending.pop()
        counts[node] += 1
        if counts[node] == 1:
            pending.extend(children(node))


def _hint(expr: Expr) -> str:
    from recurc.ir import Read

    what = expr.op if isinstance(expr, Apply | Reduce) else "dot" if isinstance(expr, Contract) else "part"
    first = next((n.name for n in walk(expr) if isinstance(n, Read)), "")
    return f"{what}_{first}".rstrip("_").replace("@", "_")
