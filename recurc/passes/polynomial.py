"""The degree of an update as a polynomial in its old state (class QP): from 2 on its powers never close.

The map of n steps has degree 2^n, so no element of fixed size holds it.
"""

from __future__ import annotations

from recurc.ir import Apply, Expr, Read, Reaxis
from recurc.passes.affine import Forms, Free, reorders_only

_HIGHEST = 64


def degree(forms: Forms, state: str) -> int | None:
    """The degree of `state`'s elementwise update in its old value, as it is written; None if it is no polynomial."""
    memo: dict[str, int | None] = {}
    equations = {e.name: e.expr for e in forms.rec.equations}

    def of(expr: Expr) -> int | None:
        if isinstance(forms.form(expr), Free):
            return 0
        match expr:
            case Read(name=name, lag=lag):
                return (1 if name == state else None) if lag else memo.get(name)
            case Apply(op="neg" | "cast", args=(arg,)):
                return of(arg)
            case Apply(op="add" | "sub" | "mul" as op, args=(a, b)):
                left, right = of(a), of(b)
                if left is None or right is None:
                    return None
                total = left + right if op == "mul" else max(left, right)
                return total if total <= _HIGHEST else None
            case Apply(op="div", args=(a, b)) if isinstance(forms.form(b), Free):
                return of(a)
            case Reaxis(arg=arg) if reorders_only(expr):
                return of(arg)
            case _:
                return None

    for needed in forms.behind(state, ()):
        memo[needed] = of(equations[needed])
    return memo[state]
