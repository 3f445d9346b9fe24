"""Which of two values of a symbolic proof is less: known, asked for, or what follows from what is assumed.

What is compared with a maximum or minimum is compared with its members, and a fraction is multiplied out where the sign
of its denominator is known, so that one question is asked once however it is spelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from recurc.passes.joins import Joins, algebra, by_name


class Order:
    """`assumed` holds the truth of the questions asked so far, by key; `ask` gives that of another one, or raises."""

    def __init__(self, joins: Joins, assumed: Mapping[Any, bool], ask: Callable[[object], Any]) -> None:
        self._joins, self._assumed, self._ask = joins, assumed, ask

    def less(self, a: Any, b: Any) -> Any:
        """SymPy's true or false: whether a < b. Any symbol is finite."""
        infinite = algebra().oo
        if a in (b, infinite) or b == -infinite:
            return algebra().false
        if a == -infinite or b == infinite:
            return algebra().true
        left, right = self._joins.minima(a), self._joins.minima(b)
        yes, no = algebra().true, algebra().false
        if left is not None:  # a maximum of minima is less if each of these has a member that is
            found = all(any(self.less(m, b) == yes for m in by_name(s)) for s in by_name(left))
            return yes if found else no
        if right is not None:
            found = any(all(self.less(a, m) == yes for m in by_name(s)) for s in by_name(right))
            return yes if found else no
        gap = self._gap(a - b)
        if gap is None:
            return self._ask(("lt", a, b))
        if gap.is_negative is not None:
            return yes if gap.is_negative else no
        if self._assumed.get(("below 0", algebra().expand(-gap))):
            return no
        return self._ask(("below 0", gap))

    def negative(self, value: Any) -> bool:
        """Whether `value` is less than 0 by what is assumed; nothing is asked."""
        gap = self._gap(value) if self._assumed else None
        return gap is not None and (bool(gap.is_negative) or self._assumed.get(("below 0", gap), False))

    def _gap(self, value: Any) -> Any:
        """Something of the same sign as `value` without a fraction; None if it has one whose sign is not known."""
        for key, truth in self._assumed.items():
            match key:
                case ("eq", a, b) if truth:
                    value = value.subs(a, b)
                case _:
                    pass
        above, below = _fraction(value)
        sign = self.sign(below)
        return None if sign is None else algebra().expand(above * sign)

    def sign(self, value: Any) -> int | None:
        """1 or -1 if every factor of `value` has a sign by what is known or assumed."""
        signs = [self._sign_of(f) for f in algebra().Mul.make_args(value)]
        known = [s for s in signs if s is not None]
        return math.prod(known) if len(known) == len(signs) else None

    def _sign_of(self, factor: Any) -> int | None:
        if factor.is_positive or factor.is_negative:
            return 1 if factor.is_positive else -1
        other = self._assumed.get(("eq", factor, algebra().Integer(0))) is False
        for sign in (1, -1):
            less = self._assumed.get(("below 0", algebra().expand(-sign * factor)))
            if less is not None and (less or other):
                return sign if less else -sign
        return None


@lru_cache(1 << 12)
def _fraction(value: Any) -> tuple[Any, Any]:
    above, below = algebra().fraction(algebra().together(value))
    return above, below


__all__ = ["Order"]
