"""The randomised check of a lifted operator: long random sequences, combined in different parenthesisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc.facts import Component, Monoid
from recurc.ir import Apply, Const, Expr, Gather, Iota, Linalg, Read, walk
from recurc.passes.numeric import Numeric, laid_along
from recurc.types import Dims, DType, Kind, literal_size, own_dim

SEED = 0x5EED
Array = NDArray[Any]
_SIZES = (2, 3, 5, 2, 3)


def randomised_error(monoid: Monoid, seed: int = SEED, alike: Mapping[str, str] | None = None) -> float:
    """The largest relative difference between a fold from the left and other parenthesisations of random elements.
    `alike`: dims that are of the size of another one."""
    rng = np.random.default_rng(seed)
    dims = list(dict.fromkeys(d for c in monoid.components for d in c.dims))

    def root(dim: str) -> str:
        own = own_dim(dim)
        return (alike or {}).get(own, own)

    own = list(dict.fromkeys(root(d) for d in dims))
    least = 4 if moves(monoid) else 1  # which place is which, two or three of them do not tell
    sizes = {d: literal_size(d) or max(least, _SIZES[own.index(root(d)) % len(_SIZES)]) for d in dims}
    worst = 0.0
    with np.errstate(all="ignore"):
        for count in (2, 3, 7, 64, 257):
            elements = [_draw(monoid, rng, sizes) for _ in range(count)]
            fold = elements[0]
            for element in elements[1:]:
                fold = _combine(monoid, fold, element, sizes)
            for other in (_balanced(monoid, elements, sizes), _shuffled(monoid, elements, sizes, rng)):
                worst = max(worst, *(_distance(fold[n], other[n]) for n in fold))
    return worst


def _draw(monoid: Monoid, rng: np.random.Generator, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Factors within the unit disc (also exactly 0 and 1), log weights down to -inf, remainders below their modulus,
    the rest normal."""
    element: dict[str, Array] = {}
    for component, identity, combine in zip(monoid.components, monoid.identity, monoid.combine, strict=True):
        shape = tuple(sizes[d] for d in component.dims)
        if component.holds in ("symmetric", "definite"):
            value = rng.normal(size=(shape[0], shape[0]))
            value = value @ value.T / shape[0]
        elif component.holds == "flag":
            value = (rng.random(shape) < 0.2).astype(float)
        elif isinstance(identity, Iota):  # a table of places
            value = rng.integers(0, sizes[identity.dim], shape)
        elif component.dtype.kind is Kind.BOOL:
            value = rng.random(shape) < 0.4
        elif isinstance(identity, Linalg):
            value = rng.normal(size=shape) / np.sqrt(shape[-1])
        elif component.dtype.kind is Kind.INT:
            modulus = combine.args[1] if isinstance(combine, Apply) and combine.op == "mod" else Const(10, DType.I64)
            value = rng.integers(0, int(_value(modulus).real), shape)
        elif (nothing := no_value(identity)) is not None:
            value = rng.normal(0, 4, shape) - 1e4 * (rng.random(shape) < 0.05)
            value = np.where(rng.random(shape) < 0.05, nothing, value)
        elif isinstance(identity, Const) and _value(identity) == 1:
            value = rng.choice([0.0, 1.0, -1.0, 0.5], shape, p=[0.05, 0.1, 0.1, 0.75]) * (1 - rng.random(shape) ** 3)
        else:
            value = rng.normal(size=shape)
        if component.dtype.kind is Kind.COMPLEX:
            value = value * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
        positive = component.holds in ("nonnegative", "unsigned")
        element[component.name] = np.abs(value) if positive else np.asarray(value)
    flag = next((element[c.name] for c in monoid.components if c.holds == "flag"), None)
    for component in monoid.components:
        if component.holds == "flagged" and flag is not None:
            element[component.name] = element[component.name] * flag
    return element


def _value(expr: Expr) -> complex:
    return expr.value if isinstance(expr, Const) else float("nan")


def _combine(
    monoid: Monoid, one: Mapping[str, Array], two: Mapping[str, Array], sizes: Mapping[str, int]
) -> dict[str, Array]:
    def lookup(read: Read) -> Array:
        which, _, name = read.name.partition(".")
        return (one if which == "1" else two)[name]

    evaluate = Numeric(lookup, lambda dim: sizes[next(d for d in sizes if own_dim(d) == own_dim(dim))])
    parts = zip(monoid.components, monoid.combine, strict=True)
    return {c.name: _numbers(evaluate(e), e.dims, c, sizes) for c, e in parts}


def _numbers(value: Array, dims: Dims, component: Component, sizes: Mapping[str, int]) -> Array:
    return np.broadcast_to(laid_along(value, dims, component.dims), tuple(sizes[d] for d in component.dims))


def _balanced(monoid: Monoid, elements: Sequence[dict[str, Array]], sizes: Mapping[str, int]) -> dict[str, Array]:
    if len(elements) == 1:
        return elements[0]
    half = len(elements) // 2
    return _combine(monoid, _balanced(monoid, elements[:half], sizes), _balanced(monoid, elements[half:], sizes), sizes)


def _shuffled(
    monoid: Monoid, elements: Sequence[dict[str, Array]], sizes: Mapping[str, int], rng: np.random.Generator
) -> dict[str, Array]:
    """Neighbours combined in a random order."""
    left = list(elements)
    while len(left) > 1:
        at = int(rng.integers(len(left) - 1))
        left[at : at + 2] = [_combine(monoid, left[at], left[at + 1], sizes)]
    return left[0]


def _distance(a: Array, b: Array) -> float:
    a, b = (v.astype(float) if v.dtype.kind == "b" else v for v in (a, b))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.where(same, 0.0, np.abs(a - b) / (1 + np.abs(a)))
    gap = np.where(np.isnan(gap), np.inf, gap)
    return float(gap.max(initial=0.0))


def moves(monoid: Monoid) -> bool:
    """Whether the operator takes values by where they lie."""
    return any(isinstance(n, Gather) for e in monoid.combine for n in walk(e))


def no_value(identity: Expr) -> float | None:
    """The infinity that stands for no value at all, off the diagonal of a matrix."""
    zero = identity.args[2] if isinstance(identity, Apply) and identity.op == "select" else identity
    infinite = isinstance(zero, Const) and zero.dtype.kind is Kind.REAL and abs(zero.value) == float("inf")
    return float(zero.value.real) if infinite and isinstance(zero, Const) else None


def is_low(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value == -float("inf")
