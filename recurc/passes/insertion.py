"""Sorted lists that a value is inserted into, `top = max(top[t-1], min(top[t-1] moved on, x))`: the K largest so far.

Two such lists merge into one, in any grouping, so this is an order statistic (class ID), though as written it is one
step of an insertion sort. Place i of the merged list is the largest of `min(a[j], b[i - 1 - j])` over j below i, and of
a[i] and b[i]: the coefficient of a product of two polynomials over max and min. So it composes whatever the lists hold,
in order or not, as the step does (which is the product with `1 + x z`).
"""

from __future__ import annotations

from dataclasses import dataclass

from recurc import build
from recurc.facts import Component, Monoid
from recurc.ir import Apply, Const, Expr, Gather, Iota, Read, State
from recurc.ops import apply, convert
from recurc.passes.affine import Forms, Free
from recurc.passes.algebras import ordered, renamed
from recurc.passes.terms import fresh
from recurc.types import DType, Kind, extreme, second


@dataclass(frozen=True)
class Insertion:
    """A sorted list along `dim` that takes in `value` at each step and keeps the largest ("max") or smallest."""

    op: str
    dim: str
    value: Expr


def inserts(forms: Forms, state: str) -> Insertion | None:
    """What `state` takes in, if it keeps the largest or smallest values it has met, in order."""
    whole = forms.resolved(forms.equation(state))
    if not (isinstance(whole, Apply) and whole.op in ("max", "min")):
        return None
    for old, pushed in (whole.args, whole.args[::-1]):
        found = _pushed_along(forms, state, forms.resolved(pushed), "min" if whole.op == "max" else "max")
        if _is_old(forms.resolved(old), state) and found is not None:
            return Insertion(whole.op, *found)
    return None


def list_monoid(state: State, found: Insertion, taken: set[str]) -> Monoid | None:
    """Steps of `state` as the lists of what they take in; None if its values have no least or largest one."""
    dims, dtype, dim = state.dims, state.dtype, found.dim
    if dtype.kind not in (Kind.REAL, Kind.INT) or len({*dims}) < len(dims):
        return None
    nothing, other = Const(extreme(dtype, found.op == "min"), dtype), "min" if found.op == "max" else "max"
    part = Component(fresh("list", taken), dims, dtype)
    first, later, own = (Read(f"{side}{part.name}", 0, dims, dtype) for side in ("1.", "2.", ""))
    place, below, zero = Iota((dim,)), Iota((second(dim),)), Const(0, DType.I64)

    def merged(a: Expr, b: Expr) -> Expr:
        rest = apply("sub", apply("sub", place, below), Const(1, DType.I64))
        pair = apply(other, renamed(a, {dim: second(dim)}), build.gather(b, dims.index(dim), rest))
        alone = apply(found.op, a, b)
        terms = apply("select", apply("lt", below, place), pair, alone)
        return ordered(build.reduce(found.op, terms, (second(dim),)), dims)

    lift = apply("select", apply("eq", place, zero), convert(found.value, dtype), nothing)
    return Monoid(
        "ID",
        (state.name,),
        (part,),
        (nothing,),
        (ordered(lift, dims),),
        (merged(first, later),),
        (merged(Read(state.name, 1, dims, dtype), own),),
    )


def _is_old(expr: Expr, state: str) -> bool:
    return isinstance(expr, Read) and expr.name == state and expr.lag == 1


def _pushed_along(forms: Forms, state: str, pushed: Expr, other: str) -> tuple[str, Expr] | None:
    """The dim of the list and the new value, if `pushed` is that value at its first place and, at each later one, what
    the place before it gives up."""
    match pushed:
        case Apply(op="select", args=(condition, new, later)) if isinstance(forms.form(new), Free):
            match forms.spelled(condition), forms.resolved(later):
                case Apply(op="eq", args=(Iota(dims=(dim,)), Const(value=0))), Apply(op=op, args=args) if (
                    op == other and dim not in new.dims and new in args
                ):
                    above = args[1] if args[0] == new else args[0]
                    return (dim, new) if _one_before(forms, state, forms.resolved(above), dim) else None
                case _:
                    return None
        case _:
            return None


def _one_before(forms: Forms, state: str, above: Expr, dim: str) -> bool:
    """Whether `above` is the old list, each value one place further along `dim`."""
    if not (isinstance(above, Gather) and above.arg.dims[above.axis] == dim):
        return False
    match forms.spelled(above.index):
        case Apply(op="sub", args=(Iota(dims=(along,)), Const(value=1))):
            return along == dim and _is_old(forms.resolved(above.arg), state)
        case _:
            return False
