"""Sorted lists that a value is inserted into, `top = max(top[t-1], min(top[t-1] moved on, x))`: the K largest so far.

Two such lists merge into one, in any grouping, so this is an order statistic (class ID), though as written it is one
step of an insertion sort.
"""

from __future__ import annotations

from recurc.ir import Apply, Const, Expr, Gather, Iota, Read
from recurc.passes.affine import Forms, Free


def inserts(forms: Forms, state: str) -> tuple[str, str] | None:
    """("max" or "min", the dim of the list) if `state` keeps the largest or smallest values it has met, in order."""
    whole = forms.resolved(forms.equation(state))
    if not (isinstance(whole, Apply) and whole.op in ("max", "min")):
        return None
    for old, pushed in (whole.args, whole.args[::-1]):
        dim = _pushed_along(forms, state, forms.resolved(pushed), "min" if whole.op == "max" else "max")
        if _is_old(forms.resolved(old), state) and dim is not None:
            return whole.op, dim
    return None


def _is_old(expr: Expr, state: str) -> bool:
    return isinstance(expr, Read) and expr.name == state and expr.lag == 1


def _pushed_along(forms: Forms, state: str, pushed: Expr, other: str) -> str | None:
    """The dim of the list, if `pushed` is the new value at its first place and, at each later one, what the place
    before it gives up."""
    match pushed:
        case Apply(op="select", args=(condition, new, later)) if isinstance(forms.form(new), Free):
            match forms.spelled(condition), forms.resolved(later):
                case Apply(op="eq", args=(Iota(dims=(dim,)), Const(value=0))), Apply(op=op, args=args) if (
                    op == other and dim not in new.dims and new in args
                ):
                    above = args[1] if args[0] == new else args[0]
                    return dim if _one_before(forms, state, forms.resolved(above), dim) else None
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
