"""Logarithms of factors, written without dividing by these: `exp(g)` has the logarithm `g`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from recurc.ir import Apply, Broadcast, Const, Expr, Read, Reaxis
from recurc.ops import apply, convert, number

_DEPTH = 30  # operations one factor is followed through


def logarithm(factor: Expr, equations: Mapping[str, Expr], depth: int = _DEPTH) -> Expr | None:
    """The logarithm of `factor`, a product of exponentials, sigmoids, positive numbers and powers of these, looking
    through the names of `equations`; what is 0 counts as 1. None for anything else: a logarithm that must be taken of
    the value has an infinite derivative where that is 0."""

    def of(expr: Expr) -> Expr | None:
        return logarithm(expr, equations, depth - 1) if depth else None

    def each(*parts: Expr) -> list[Expr] | None:
        found = [of(p) for p in parts]
        return [f for f in found if f is not None] if None not in found else None

    match factor:
        case Read(name=name, lag=0) if name in equations:
            return of(equations[name])
        case Const(value=value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            return convert(number(math.log(value) if value else 0.0), factor.dtype)
        case Apply(op="exp", args=(arg,)):
            return arg
        case Apply(op="sigmoid", args=(arg,)):
            return apply("neg", apply("softplus", apply("neg", arg)))
        case Apply(op="sub", args=(Const(value=1), Apply(op="sigmoid", args=(arg,)))):
            return apply("neg", apply("softplus", arg))
        case Apply(op="mul", args=args) if (parts := each(*args)) is not None:
            return apply("add", *parts)
        case Apply(op="div", args=args) if (parts := each(*args)) is not None:
            return apply("sub", *parts)
        case Apply(op="pow", args=(base, Const() as exponent)) if (part := of(base)) is not None:
            return apply("mul", exponent, part)
        case Apply(op="sqrt" | "rsqrt" as op, args=(arg,)) if (part := of(arg)) is not None:
            return apply("mul", number(0.5 if op == "sqrt" else -0.5), part)
        case Apply(op="cast", args=(arg,)) if (part := of(arg)) is not None:
            return convert(part, factor.dtype)
        case Apply(op="select", args=(condition, yes, no)) if (parts := each(yes, no)) is not None:
            return apply("select", condition, *parts)
        case Broadcast(arg=arg) if (part := of(arg)) is not None:
            return Broadcast(part, factor.dims, part.dtype, factor.span) if part.dims == arg.dims else None
        case Reaxis(arg=arg) if (part := of(arg)) is not None and part.dims == arg.dims:
            return Reaxis(part, factor.axes, factor.dims, part.dtype, factor.at, factor.index, factor.span)
        case _:
            return None
