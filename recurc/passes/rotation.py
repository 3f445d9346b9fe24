"""Two coupled states that turn and shrink, r [[cos, -sin], [sin, cos]]: a complex factor in real form (class CA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from recurc.ir import Apply, Const, Expr
from recurc.passes.affine import Coef, Linear


def turns(forms: Mapping[str, Linear], first: str, second: str) -> tuple[Expr, Expr] | None:
    """The real and imaginary part of the factor, if `first + i second` is multiplied by a complex number."""
    (a, b), (c, d) = (
        tuple(forms[row].coefs.get(column, Coef(None)).factor for column in (first, second)) for row in (first, second)
    )
    if a is None or b is None or c is None or d is None:
        return None
    sign, product = _signed(b)
    return (a, c) if _signed(a) == _signed(d) and (-sign, product) == _signed(c) else None


def _signed(expr: Expr) -> tuple[int, Counter[object]]:
    """The sign and the factors of a product, in any order."""
    match expr:
        case Apply(op="neg", args=(a,)):
            sign, product = _signed(a)
            return -sign, product
        case Apply(op="mul", args=(a, b)):
            (s, p), (t, q) = _signed(a), _signed(b)
            return s * t, p + q
        case Const(value=value) if isinstance(value, float) and value < 0:
            return -1, Counter({-value: 1})
        case Const(value=value) if isinstance(value, float):
            return 1, Counter({value: 1})
        case _:
            return 1, Counter({expr: 1})
