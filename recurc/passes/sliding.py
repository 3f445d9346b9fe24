"""Windows and delay lines (class SH): a state that holds the last values of a sequence and moves them along a dim.

    w = if index(W) == W - 1 then x else lookup(w[t-1], index(W) + 1)

As a linear map this is nilpotent: after W steps nothing is left of the old state, so there is no recurrence to solve.
"""

from __future__ import annotations

from recurc.ir import Apply, Broadcast, Const, Expr, Gather, Iota, Read, Size, walk
from recurc.ops import OPS
from recurc.passes.affine import Forms, Free
from recurc.types import literal_size

_SIZES = 7  # a dim without a size is looked at in these; what is compared there is linear in the place and the size


def slides_along(forms: Forms, state: str) -> str | None:
    """The dim along which `state` moves its values on by a fixed number of places, each newest one from outside the
    group; None if it does anything else."""
    expr = forms.resolved(forms.equation(state))
    while isinstance(expr, Apply) and expr.op in ("mod", "cast") and all(_free(forms, a) for a in expr.args[1:]):
        expr = forms.resolved(expr.args[0])  # a bound or a type that every value has anyway
    if not (isinstance(expr, Apply) and expr.op == "select" and _free(forms, expr.args[0])):
        return None
    condition, yes, no = expr.args
    if _free(forms, yes) == _free(forms, no):
        return None
    moved = forms.resolved(no if _free(forms, yes) else yes)
    if not isinstance(moved, Gather) or not _is_old(forms, moved.arg, state):
        return None
    dim = moved.arg.dims[moved.axis]
    step, condition = _step(forms.spelled(moved.index), dim), forms.spelled(condition)
    if step is None or not _comparison(condition, dim):
        return None
    known = literal_size(dim)
    for size in range(1, _SIZES + 1) if known is None else (known,):
        outside = range(max(size - step, 0), size) if step > 0 else range(min(-step, size))
        if any(_holds(condition, place, size) != _free(forms, yes) for place in outside):
            return None  # this place would keep its own end of the line for ever
    return dim


def _free(forms: Forms, expr: Expr) -> bool:
    return isinstance(forms.form(expr), Free)


def _is_old(forms: Forms, expr: Expr, state: str) -> bool:
    """Whether `expr` is the state one step before, or what it begins with where a free condition says so."""
    while isinstance(expr, Apply) and expr.op == "select" and _free(forms, expr.args[0]):
        first, second = (forms.resolved(a) for a in expr.args[1:])
        if _free(forms, first) == _free(forms, second):
            return False
        expr = second if _free(forms, first) else first
        expr = expr.arg if isinstance(expr, Broadcast) else expr
    return isinstance(expr, Read) and expr.name == state and expr.lag == 1


def _step(place: Expr, dim: str) -> int | None:
    """k, if `place` is `index(dim) + k`."""
    match place:
        case Apply(op="add" | "sub" as op, args=(Iota() as at, Const(value=int(k)))) if at.dim == dim and k:
            return k if op == "add" else -k
        case Apply(op="add", args=(Const(value=int(k)), Iota() as at)) if at.dim == dim and k:
            return k
        case _:
            return None


def _comparison(condition: Expr, dim: str) -> bool:
    """Whether `condition` compares sums of the place along `dim`, its size and numbers."""
    if not (isinstance(condition, Apply) and condition.op in ("eq", "ne", "lt", "le", "gt", "ge")):
        return False
    for node in (n for side in condition.args for n in walk(side)):
        match node:
            case Const(value=value) if isinstance(value, int):
                pass
            case Iota(dims=(name,)) | Size(dim=name) if name == dim:
                pass
            case Apply(op="add" | "sub"):
                pass
            case _:
                return False
    return True


def _holds(expr: Expr, place: int, size: int) -> bool:
    return bool(_value(expr, place, size))


def _value(expr: Expr, place: int, size: int) -> int:
    match expr:
        case Iota():
            return place
        case Size():
            return size
        case Const(value=value):
            return int(value.real)
        case Apply(op=op, args=args):
            return OPS[op].numpy(*(_value(a, place, size) for a in args))
        case _:
            raise TypeError(f"{type(expr).__name__} in a place")
