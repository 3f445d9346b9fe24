"""The functions of the language as Python functions: `recurc.sigmoid`, `recurc.sum(x, "D")`, `recurc.where`, ...

On traced values they build IR; on NumPy arrays and numbers they compute with the op table's own definition, on torch
tensors with torch. So a step function can be tried on arrays before it is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from recurc import build, ir, on_arrays, ops
from recurc.errors import ShapeError, TraceError
from recurc.frontend.beyond import clocked, der, every, final, grad, lag, reset_when, step_index, window
from recurc.frontend.declare import TYPES, init
from recurc.frontend.foreign import dim_names, reduction, shaped
from recurc.frontend.functions import FUNCTIONS, Form, Function, wanted
from recurc.frontend.traced import Traced, elementwise, operate, recording
from recurc.types import DType, show_dims

inf, pi = float("inf"), float(np.pi)


def size(dim: str) -> Traced:
    """The size of a dim, as an integer."""
    return Traced(ir.Size(dim))


def cast(value: Any, dtype: DType | str | type) -> Any:
    """`value` as another element type, rounded if it is narrower: `int`, `float`, `complex` or `bool`, or a name of the
    IR ("f16", "bf16", "f32", "i64", ...)."""
    known = {d.value: d for d in DType}
    target = dtype if isinstance(dtype, DType) else TYPES.get(dtype) or known.get(str(dtype))
    if target is None:
        raise TraceError(f"cast to {dtype!r}: the element types are {', '.join(known)}")
    if isinstance(value, Traced):
        return operate(partial(ops.cast, dtype=target), value)
    if on_arrays.is_tensor(value):
        from recurc.runtime.torch_ops import torch_dtype

        return value.to(torch_dtype(target))
    return np.asarray(value).astype(target.to_numpy())


def matmul(a: Any, b: Any) -> Any:
    """`a @ b`."""
    return a @ b


def transpose(value: Any) -> Any:
    """The last two dims swapped."""
    return value.T if isinstance(value, Traced) else on_arrays.library(value).swapaxes(value, -1, -2)


def einsum(left: Any, right: Any, a: str, b: str, out: str = "") -> Any:
    """`einsum(A, B, ij, jk, ik)`: products of two values, summed over the letters that `out` lacks; a letter stands
    for an axis by its position. Shape: one dim for each letter of `out`."""
    for letters in (a, b, out):
        if not (isinstance(letters, str) and letters.isascii() and (letters.isalpha() or not letters)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TraceError(
                f"recurc.einsum takes letters for dims, as in einsum(A, B, 'ij', 'jk', 'ik'), got {letters!r}"
            )
    if isinstance(left, Traced) or isinstance(right, Traced):
        return operate(partial(build.einsum, a=a, b=b, out=out), left, right)
    return on_arrays.library(left).einsum(f"{a},{b}->{out}", left, right)


def permute(value: Any, *order: str | int) -> Any:
    """The same value with its dims in this order, all of them; of an array, its axes."""
    if not isinstance(value, Traced):
        return (
            value.permute(order) if on_arrays.is_tensor(value) else np.transpose(value, [int(axis) for axis in order])
        )
    names = dim_names("permute", order)
    if sorted(names) != sorted(value.dims) or len(set(names)) < len(names):
        raise ShapeError(
            f"recurc.permute names every dim of {show_dims(value.dims)} once, in the new order; got {names}"
        )
    return value if names == value.dims else operate(partial(build.permute, dims=names), value)


def unfold(value: Traced, *dims: str | int, circular: bool = False, turned: bool = False) -> Traced:
    """`unfold(x, X, Y, 3, 3)`: the neighbours of every place of a traced value, as a convolution sees them: dims to
    look along, and as many for what is found there. `circular`: wraps around; `turned`: from the last to the first.
    Shape: the dims of `value`, then the latter half of `dims`."""
    if not isinstance(value, Traced):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TraceError("recurc.unfold takes a value of a step that is traced: the axes of an array have no names")
    names, half = dim_names("unfold", dims), len(dims) // 2
    if not dims or len(dims) % 2:
        raise TraceError(f"recurc.unfold takes dims to look along, and as many for what is found there, got {names}")
    make = partial(build.unfold, over=names[:half], taps=names[half:], forward=not turned, wrap=circular)
    return operate(make, value)


def _elementwise(name: str) -> Callable[..., Any]:
    op = ops.OPS["select" if name == "where" else name]

    def function(*args: Any) -> Any:
        if any(isinstance(a, Traced) for a in args):
            return elementwise(op.name, *args)
        if any(on_arrays.is_tensor(a) for a in args):
            return on_arrays.on_tensors(name, args)
        return op.numpy(*args)

    return function


def _composed(name: str) -> Callable[..., Any]:
    make: Callable[..., ir.Expr] = FUNCTIONS[name].make or build.outer

    def function(*args: Any) -> Any:
        return operate(make, *args) if any(isinstance(a, Traced) for a in args) else on_arrays.composed(name, *args)

    return function


def _reduction(name: str, order: bool = False) -> Callable[..., Any]:
    """Over named dims of a traced value; over axes (numbers) of an array. `max` and `min` also take two operands."""
    pair = _elementwise(name) if order else None

    def function(value: Any, *over: Any, **options: float) -> Any:
        named = all(isinstance(d, str) for d in over)
        axes = all(isinstance(d, int) for d in over) and not isinstance(value, Traced)
        if pair is not None and len(over) == 1 and not named and not axes:
            return pair(value, over[0])
        if isinstance(value, Traced):
            return reduction(name, value, over, **options)
        if named and over:
            raise ShapeError(f"recurc.{name} over {', '.join(over)}: a plain array has no dim names, give axis numbers")
        return on_arrays.reduced(name, value, over or tuple(range(value.ndim)), **options)

    return function


def _shaped(made: Function) -> Callable[..., Any]:
    """Values, then dims: names or literal sizes. Without traced values and names, on arrays."""

    def function(*args: Any, **named: Any) -> Any:
        args = _by_name(made, args, named)
        count = len(args) if made.more else made.arity
        values, dims = args[:count], args[count:]
        if not made.arity <= len(values) or not made.dims[0] <= len(dims) <= made.dims[1]:
            raise TraceError(f"recurc.{made.name} takes {wanted(made)}, got {len(args)} arguments")
        here = not values and (recording.get() is not None or any(isinstance(d, str) for d in dims))
        if here or any(isinstance(v, Traced) for v in values):
            return shaped(made, values, dims)
        return on_arrays.shaped(made.name, values, dims)

    return function


def _by_name(made: Function, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The values, of which a filter's may be given by name, by position."""
    left = made.named[len(args) :]
    unknown = [n for n in named if n not in left]
    if unknown:
        values = f"its values are {', '.join(made.named)}" if made.named else "give values by position"
        raise TraceError(f"recurc.{made.name} has no `{unknown[0]}` left to give: {values}")
    if named and len(named) < len(left):
        raise TraceError(
            f"recurc.{made.name} takes {wanted(made)}; {', '.join(n for n in left if n not in named)} is missing"
        )
    return (*args, *(named[n] for n in left if n in named))


def kalman(m: Any, P: Any, z: Any, F: Any, H: Any, Q: Any, R: Any) -> tuple[Any, Any]:
    """One step of a Kalman filter: the mean `[N]` and the covariance `[N, N]`, predicted by F and Q and then updated by
    what z `[M]` says through H `[M, N]` and R; of P, Q and R the symmetric parts count."""
    return NAMED["kalman_mean"](m, P, z, F, H, Q, R), NAMED["kalman_covariance"](P, F, H, Q, R)


def _table() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, made in FUNCTIONS.items():
        match made.form:
            case Form.ELEMENTWISE:
                found[name] = _composed(name) if name in ("outer", "polar") else _elementwise(name)
            case Form.REDUCTION | Form.ORDER:
                found[name] = _reduction(name, made.form is Form.ORDER)
            case Form.SHAPED:
                found[name] = _shaped(made)
            case _:
                pass
    for name, function in found.items():
        function.__name__ = function.__qualname__ = name
        function.__doc__ = f"`{name}` of the language: {FUNCTIONS[name].form.value}."
    return found


NAMED: dict[str, Any] = {
    **_table(), "cast": cast, "clocked": clocked, "der": der, "einsum": einsum, "every": every, "final": final,
    "grad": grad, "inf": inf, "init": init, "kalman": kalman, "lag": lag, "matmul": matmul, "permute": permute,
    "pi": pi, "reset_when": reset_when, "size": size, "step_index": step_index, "transpose": transpose,
    "unfold": unfold, "window": window,
}  # fmt: skip
