"""Values of a symbolic proof, and the normal forms of what joins them: `max`, `min` and `logaddexp`.

The normal form is the multiset of the operands, with additions distributed over it, behind one symbol each, so that two
joins are equal when their symbols are.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc.ir import Expr
from recurc.types import Dims, literal_size

Objects = NDArray[Any]
TINY = 2


@cache
def algebra() -> Any:
    """SymPy, imported when a proof is asked for and not before."""
    import sympy

    return sympy


def size(dim: str) -> int:
    return literal_size(dim) or TINY


LARGEST_NUMBER = 2**31
_point: ContextVar[int | None] = ContextVar("point", default=None)


@contextmanager
def numbers(point: int) -> Generator[None]:
    """Within it symbols are whole numbers, drawn at random for each name: one of the points at which rational functions
    are compared that are too large to write out."""
    token = _point.set(point)
    try:
        yield
    finally:
        _point.reset(token)


def at_a_point() -> bool:
    """Whether symbols are numbers now."""
    return _point.get() is not None


def symbols(name: str, dims: Dims, **assumptions: bool) -> Objects:
    """One fresh-named symbol per position; equal names give equal symbols."""
    out = np.empty(tuple(size(d) for d in dims), object)
    point = _point.get()
    for at in np.ndindex(out.shape):
        own = "_".join((name, *map(str, at)))
        if point is None:
            out[at] = algebra().Symbol(own, **(assumptions or {"real": True}))
        else:
            out[at] = algebra().Integer(random.Random(f"{point} {own}").randrange(1, LARGEST_NUMBER))
    return out


Sums = frozenset[frozenset[Any]]


class Joins:
    """Normal forms of max, min and logaddexp, each behind one symbol.

    Max and min distribute over each other, and adding a value distributes over both, so what they build is a maximum
    of minima of sums: a set of sets, without those that another one makes superfluous. `logaddexp` is the multiset of
    what it joins."""

    def __init__(self) -> None:
        self._symbol: dict[tuple[str, frozenset[Any]], Any] = {}
        self._members: dict[Any, tuple[str, Counter[Any]]] = {}  # of a logaddexp
        self._minima: dict[Any, Sums] = {}  # of a symbol for max and min
        self._opaque: dict[Expr, Objects] = {}

    def opaque(self, expr: Expr) -> Objects:
        """Symbols for a value that is not looked into; equal expressions have equal ones."""
        if expr not in self._opaque:
            self._opaque[expr] = symbols(f"value_{len(self._opaque)}", expr.dims)
        return self._opaque[expr]

    def join(self, op: str, *operands: Any) -> Any:
        if op != "logaddexp":
            return self._ordered(op, *operands)
        members: Counter[Any] = Counter()
        for operand in operands:
            members.update(self._of(op, algebra().expand(operand)))
        members.pop(-algebra().oo, None)
        if not members:
            return -algebra().oo
        if sum(members.values()) == 1:
            return next(iter(members))
        symbol = self._named(op, frozenset(members.items()))
        self._members[symbol] = (op, members)
        return symbol

    def _named(self, op: str, key: frozenset[Any]) -> Any:
        if (op, key) not in self._symbol:
            self._symbol[op, key] = algebra().Symbol(f"{op}_{len(self._symbol)}", real=True)
        return self._symbol[op, key]

    def _ordered(self, op: str, *operands: Any) -> Any:
        """A maximum or minimum of sums that may hold such symbols themselves."""
        forms = [self._sums(algebra().expand(o)) for o in operands]
        if op == "max":
            minima = frozenset[frozenset[Any]]().union(*forms)
        else:
            minima = frozenset(frozenset[Any]().union(*chosen) for chosen in itertools.product(*forms))
        return self._value(minima)

    def _value(self, minima: Sums) -> Any:
        low, high = -algebra().oo, algebra().oo
        bounded = {m - {high} or frozenset({high}) for m in minima}
        real = {m for m in bounded if low not in m} or {frozenset({low})}
        if frozenset({high}) in real:
            return high
        real = _without_smaller_numbers(real)
        least = frozenset(m for m in real if not any(other < m for other in real))
        if len(least) == 1 and len(next(iter(least))) == 1:
            return next(iter(next(iter(least))))
        symbol = self._named("order", least)
        self._minima[symbol] = least
        return symbol

    def _sums(self, value: Any) -> Sums:
        """`value` as a maximum of minima; to such a symbol times a factor of 0 or more, plus a value, the same is done
        in each sum."""
        terms = algebra().Add.make_args(value)
        inside = [t for t in terms if any(s in self._minima for s in t.free_symbols)]
        found = self._scaled(inside[0]) if len(inside) == 1 else None
        if found is None:
            return frozenset({frozenset({value})})
        symbol, factor = found
        rest = algebra().Add(*(t for t in terms if t is not inside[0]))
        moved = [[algebra().expand(factor * m + rest) for m in s] for s in self._minima[symbol]]
        if factor.is_nonnegative:
            return frozenset(frozenset(m) for m in moved)
        return frozenset(frozenset(chosen) for chosen in itertools.product(*moved))  # a minimum of maxima

    def _scaled(self, term: Any) -> tuple[Any, Any] | None:
        """The symbol of a maximum in `term` and what multiplies it, if the sign of that is known."""
        factors = algebra().Mul.make_args(term)
        inside = [f for f in factors if f in self._minima]
        if len(inside) != 1:
            return None
        rest = algebra().Mul(*(f for f in factors if f is not inside[0]))
        known = rest.is_nonnegative or rest.is_nonpositive
        return (inside[0], rest) if known and not any(s in self._minima for s in rest.free_symbols) else None

    def minima(self, value: Any) -> Sums | None:
        """The sets of values whose minima `value` is the maximum of, if it is known as that."""
        return self._minima.get(value)

    def canonical(self, values: Objects) -> Objects:
        """`values` with every `max(a, b) + c` as `max(a + c, b + c)`."""
        return each(self._moved, values)

    def _moved(self, value: Any) -> Any:
        terms = algebra().Add.make_args(value)
        if any(s in self._minima for s in value.free_symbols):
            return self._value(self._sums(value))
        inside = [t for t in terms if t in self._members]
        if len(terms) == 1 or len(inside) != 1 or any(t in self._members for t in (value - inside[0]).free_symbols):
            return value
        return self.join(self._members[inside[0]][0], value)

    def _of(self, op: str, value: Any) -> Counter[Any]:
        """What `value` joins: `join(a, b) + c` is `join(a + c, b + c)`."""
        for term in algebra().Add.make_args(value):
            known = self._members.get(term)
            if known is not None and known[0] == op:
                found: Counter[Any] = Counter()
                for member, times in known[1].items():
                    moved = algebra().expand(value - term + member)
                    for inner, count in self._of(op, moved).items():
                        found[inner] += times * count
                return found
        return Counter({value: 1})


def by_name(values: Collection[Any]) -> list[Any]:
    return sorted(values, key=_name)


@lru_cache(1 << 12)
def _name(value: Any) -> str:
    return str(value)


def _without_smaller_numbers(minima: Collection[frozenset[Any]]) -> set[frozenset[Any]]:
    """Of operands that differ by a number only, a maximum needs the largest and a minimum the least."""
    shorter = {frozenset(_extremes(members, min)) for members in minima}
    alone = [next(iter(m)) for m in shorter if len(m) == 1]
    kept = _extremes(alone, max)
    return {m for m in shorter if len(m) > 1 or next(iter(m)) in kept}


def _extremes(values: Collection[Any], pick: Callable[[Any, Any], Any]) -> set[Any]:
    """One of the values for each of what they are apart from a number that is added; that number as `pick` says."""
    found: dict[Any, Any] = {}
    for value in values:
        number, rest = (value, 0) if value.is_number else value.as_coeff_Add()
        found[rest] = pick(found[rest], number) if rest in found else number
    return {rest + number for rest, number in found.items()}


def each(function: Callable[..., Any], *values: Objects) -> Objects:
    """`function` of what lies at every place, once for places where the same lies."""
    out = np.empty(values[0].shape, object)
    known: dict[tuple[Any, ...], Any] = {}
    for at in np.ndindex(out.shape):
        here = tuple(v[at] for v in values)
        if here not in known:
            known[here] = function(*here)
        out[at] = known[here]
    return out
