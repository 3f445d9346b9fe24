"""`window(x, W)`: the last W values of a name, kept in a hidden state that moves on by one place at every step."""

from __future__ import annotations

from recurc import build
from recurc.ir import Const, Equation, Expr, Read, Size, State
from recurc.ops import TypeProblem, apply
from recurc.source import Span
from recurc.types import DType, literal_size, show_dims


def window(
    name: str, value: Read, before: Expr, length: str, span: Span | None = None, bound: str | None = None
) -> tuple[State, Equation]:
    """The state `name` that holds x[t-W+1], ..., x[t] for `value` = x (at this step) and the dim `length` = W, and its
    equation. Before the first step x was `before`. Shape: `[W, *x.dims]`, newest last. Raises `TypeProblem` if x has
    the dim W itself.

        x_window = if index(W) == W - 1 then x else lookup(x_window[t-1], index(W) + 1)"""
    if length in value.dims:
        raise TypeProblem(
            "E0313",
            f"`{value.name}` is {show_dims(value.dims)}, so in a window over {length} it is not clear which {length} "
            "is meant",
            f"give the window a dim of its own, for example `W = {length}` in the header",
        )
    dims = (length, *value.dims)
    place, one = build.index(length, span), Const(1, DType.I64, span)
    size = literal_size(length)
    newest = Const(size - 1, DType.I64, span) if size else apply("sub", Size(length, span), one, span=span)
    older = build.lookup(Read(name, 1, dims, value.dtype, span), apply("add", place, one, span=span), span=span)
    moved = apply("select", apply("eq", place, newest, span=span), value, older, span=span)
    return State(name, dims, value.dtype, before, span, bound), Equation(name, moved, span)
