"""Small helpers on names and sizes of expressions that several passes need."""

from __future__ import annotations

from collections.abc import Iterable

from recurc.ir import Expr, children

LARGEST = 2000  # nodes of an expression that is written out; sharing by name has no such bound
HIGHEST = 150  # levels


def too_large(expr: Expr) -> bool:
    """Whether the tree of `expr` is larger than what is written out; looks at no more than that."""
    pending, seen = [(expr, 1)], 0
    while pending:
        node, level = pending.pop()
        seen += 1
        if seen > LARGEST or level > HIGHEST:
            return True
        pending.extend((child, level + 1) for child in children(node))
    return False


def fresh(hint: str, taken: Iterable[str]) -> str:
    """`hint`, or `hint_2`, `hint_3`... whichever no one has."""
    used, name, number = set(taken), hint, 2
    while name in used:
        name, number = f"{hint}_{number}", number + 1
    return name
