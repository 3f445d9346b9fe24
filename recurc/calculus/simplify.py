"""Elementwise constructors that simplify what derivatives and discretised laws are full of: factors of 1 and -1, sums
with 0, products of numbers. They build through `recurc.ops.apply` and keep dims and types.

A factor 0 makes the whole product 0, so these are for derivatives, where a partial that is 0 everywhere means that
nothing flows; they are not for the user's own products (`0 * inf`)."""

from __future__ import annotations

from collections.abc import Container
from typing import cast

from recurc import ops
from recurc.ir import Apply, Const, Expr, children, with_children
from recurc.types import Kind

ZERO, ONE = ops.number(0.0), ops.number(1.0)


def value_of(expr: Expr) -> float | None:
    """The value of a real constant."""
    if isinstance(expr, Const) and expr.dtype.kind is Kind.REAL:
        return float(cast(float, expr.value))
    return None


def is_zero(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.dtype.kind in (Kind.INT, Kind.REAL) and expr.value == 0


def is_one(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.dtype.kind in (Kind.INT, Kind.REAL) and expr.value == 1


def factor(expr: Expr) -> tuple[float, Expr | None]:
    """`expr` as a number times something that is no product with a number (None: just the number)."""
    match expr:
        case Apply(op="neg", args=(arg,)) if expr.dtype.kind is Kind.REAL:
            number, rest = factor(arg)
            return -number, rest
        case Apply(op="mul", args=(first, rest)) if (number := value_of(first)) is not None:
            inner, rest = factor(rest)
            return number * inner, rest
        case _:
            number = value_of(expr)
            return (1.0, expr) if number is None else (number, None)


def scaled(number: float, expr: Expr | None) -> Expr:
    """`number * expr`, with the number in front."""
    if expr is None or number == 0:
        return ops.number(number)
    if number == 1:
        return expr
    if number == -1:
        return ops.neg(expr)
    return ops.mul(ops.number(number), expr)


def mul(a: Expr, b: Expr) -> Expr:
    """a * b, numbers in front."""
    if is_zero(a) or is_zero(b):
        return ops.number(0.0)
    if is_one(a):
        return b
    if is_one(b):
        return a
    (m, x), (n, y) = factor(a), factor(b)
    if x is None or y is None:
        rest = y if x is None else x
        return scaled(m * n, rest)
    match x, y:
        case _, Apply(op="div", args=(top, bottom)) if is_one(top):
            return scaled(m * n, ops.div(x, bottom))
        case Apply(op="div", args=(top, bottom)), _ if is_one(top):
            return scaled(m * n, ops.div(y, bottom))
        case _:
            return scaled(m * n, ops.mul(x, y))


def add(a: Expr, b: Expr) -> Expr:
    """a + b; equal terms are counted, and a negative one is subtracted."""
    if is_zero(a) and set(a.dims) <= set(b.dims):
        return b
    if is_zero(b) and set(b.dims) <= set(a.dims):
        return a
    (m, x), (n, y) = factor(a), factor(b)
    if x is None and y is None:
        return ops.number(m + n)
    if x is not None and x == y:
        return ops.number(0.0) if m + n == 0 else scaled(m + n, x)
    if n < 0:
        return ops.sub(a, scaled(-n, y))
    if m < 0:
        return ops.sub(b, scaled(-m, x))
    return ops.add(a, b)


def neg(a: Expr) -> Expr:
    return mul(ops.number(-1.0), a)


def sub(a: Expr, b: Expr) -> Expr:
    return add(a, neg(b))


def div(a: Expr, b: Expr) -> Expr:
    """a / b."""
    if is_zero(a):
        return ops.number(0.0)
    if is_one(b):
        return a
    number = value_of(b)
    if number is not None and number != 0:
        m, x = factor(a)
        return scaled(m / number, x)
    m, x = factor(a)
    if x is None or m == 1:
        return ops.div(a, b)
    return scaled(m, ops.div(x, b))


def power(a: Expr, b: Expr) -> Expr:
    """a ** b."""
    match value_of(b):
        case 0.0:
            return ops.number(1.0)
        case 1.0:
            return a
        case _:
            return ops.apply("pow", a, b)


def tidy(expr: Expr, opaque: Container[int]) -> Expr:
    """A small real expression built by the op table, simplified; parts whose id is in `opaque` stay as they are."""
    if id(expr) in opaque or not isinstance(expr, Apply):
        return expr
    new = tuple(tidy(c, opaque) for c in children(expr))
    match expr.op, new:
        case "mul", (a, b):
            return mul(a, b)
        case "add", (a, b):
            return add(a, b)
        case "sub", (a, b):
            return sub(a, b)
        case "div", (a, b):
            return div(a, b)
        case "neg", (a,):
            return neg(a)
        case "pow", (a, b):
            return power(a, b)
        case _:
            changed = any(a is not b for a, b in zip(new, expr.args, strict=True))
            return with_children(expr, new) if changed else expr
