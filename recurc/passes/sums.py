"""Sums of products in a form of their own, where terms that are equal up to the order of their factors cancel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product as pairs

from recurc.ir import Apply, Const, Expr
from recurc.ops import apply
from recurc.types import DType, Kind

_MOST_TERMS = 32

Term = frozenset[tuple[Expr, int]]  # a product: factors and how often each occurs
_NONE: Term = frozenset()


def difference(a: Expr, b: Expr, named: Callable[[Expr], Expr]) -> tuple[bool, Expr | None]:
    """Whether terms of `a - b` cancel, and what is left of it then (None: nothing). `named` looks through names."""
    first, second = _terms(a, named), _terms(b, named)
    if first is None or second is None:
        return False, None
    left = Counter(first)
    left.subtract(second)
    kept = {t: n for t, n in left.items() if n}
    if len(kept) == len(set(first) | set(second)) or a.dtype is not b.dtype:
        return False, None
    return True, _written(kept, a.dtype)


def _terms(expr: Expr, named: Callable[[Expr], Expr]) -> dict[Term, int] | None:
    """The terms of a sum of products with their counts; None if there are too many."""
    expr = named(expr)
    match expr:
        case Apply(op="add" | "sub" as op, args=(a, b)):
            left, right = _terms(a, named), _terms(b, named)
            if left is None or right is None:
                return None
            total = Counter(left)
            total.update(right) if op == "add" else total.subtract(right)
            found = {t: n for t, n in total.items() if n}
        case Apply(op="neg", args=(a,)):
            inner = _terms(a, named)
            found = None if inner is None else {t: -n for t, n in inner.items()}
        case Apply(op="mul", args=(a, b)):
            left, right = _terms(a, named), _terms(b, named)
            if left is None or right is None:
                return None
            total = Counter[Term]()
            for (s, m), (t, n) in pairs(left.items(), right.items()):
                total[_times(s, t)] += m * n
            found = {t: n for t, n in total.items() if n}
        case Const(value=value) if not isinstance(value, bool | complex) and value == 1:
            found = {_NONE: 1}
        case _:
            found = {frozenset({(expr, 1)}): 1}
    return found if found is None or len(found) <= _MOST_TERMS else None


def _times(a: Term, b: Term) -> Term:
    factors = Counter(dict(a))
    factors.update(dict(b))
    return frozenset(factors.items())


def _written(terms: dict[Term, int], dtype: DType) -> Expr | None:
    result: Expr | None = None
    for term, count in terms.items():
        factors = [f for f, n in sorted(term, key=lambda item: repr(item[0])) for _ in range(n)]
        if abs(count) > 1 or not factors:
            size = float(abs(count)) if dtype.kind is Kind.REAL else abs(count)
            factors.insert(0, Const(size, dtype))
        value = factors[0]
        for factor in factors[1:]:
            value = apply("mul", value, factor)
        if result is None:
            result = value if count > 0 else apply("neg", value)
        else:
            result = apply("add" if count > 0 else "sub", result, value)
    return result
