"""Linear maps up to a scale, `h = A h / (c . A h)`: what a filter of probabilities does that normalises at every step.

The scale that is divided out is linear in the old state too, so n steps are the product of their matrices, divided by
one number at the end: linear over + and *, scaled (class SL).
"""

from __future__ import annotations

from recurc.ir import Apply, Broadcast, Contract, Expr, Gather, Read, Reaxis, Reduce
from recurc.passes.affine import Forms, Free


def scaled_linear(forms: Forms, state: str) -> tuple[Expr, Expr] | None:
    """The linear map and the number it is divided by, if `state` is a linear map of its old value without a summand,
    divided by a linear number of fewer dims."""
    whole = forms.resolved(forms.equation(state))
    match whole:
        case Apply(op="div", args=(above, below)):
            own = {*next(s.dims for s in forms.rec.states if s.name == state)}
            linear = own > {*below.dims} and _homogeneous(forms, above) and _homogeneous(forms, below)
            return (above, below) if linear else None
        case _:
            return None


def _homogeneous(forms: Forms, expr: Expr) -> bool:
    """Whether `expr` is a linear map of old states of the group, and nothing is added to it."""
    expr = forms.resolved(expr)

    def free(e: Expr) -> bool:
        return isinstance(forms.form(e), Free)

    def of(e: Expr) -> bool:
        return _homogeneous(forms, e)

    match expr:
        case Read(name=name, lag=lag):
            return bool(lag) and name in forms.group
        case Apply(op="add" | "sub", args=(a, b)):
            return of(a) and of(b)
        case Apply(op="neg" | "cast", args=(a,)) | Reduce(op="sum", arg=a) | Reaxis(arg=a) | Broadcast(arg=a):
            return of(a)
        case Apply(op="mul", args=(a, b)) | Contract(left=a, right=b):
            return (free(a) and of(b)) or (free(b) and of(a))
        case Apply(op="div", args=(a, b)):
            return of(a) and free(b)
        case Apply(op="select", args=(condition, a, b)):
            return free(condition) and of(a) and of(b)
        case Gather(arg=a, index=index):
            return of(a) and free(index)
        case _:
            return False
