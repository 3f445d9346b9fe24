"""The functions of the language as Python functions: `recurc.sigmoid`, `recurc.sum(x, "D")`, `recurc.where`, ...

On traced values they build IR; on NumPy arrays and numbers they compute with the op table's own definition, on torch
tensors with torch. So a step function can be tried on arrays before it is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from recurc import build, ir, ops
from recurc.errors import ShapeError, TraceError
from recurc.frontend.calls import MAX_ROUNDS
from recurc.frontend.declare import init
from recurc.frontend.foreign import reduction
from recurc.frontend.functions import FUNCTIONS, Form
from recurc.frontend.traced import Traced, elementwise, operate
from recurc.types import DType

inf, pi = float("inf"), float(np.pi)


def size(dim: str) -> Traced:
    """The size of a dim, as an integer."""
    return Traced(ir.Size(dim))


def step_index(like: Traced) -> Traced:
    """`t`, the index of the step, in the trace that `like` belongs to."""

    def index(_: ir.Expr) -> ir.Expr:
        return ir.Step()

    return operate(index, like)


def lag(value: Traced, k: int) -> Traced:
    """A state (the argument itself, `h[t-1]`) or an input, `k` steps before this one."""

    def read(expr: ir.Expr) -> ir.Expr:
        if not isinstance(expr, ir.Read) or expr.name.startswith("%") or not _is_lag(k):
            raise TraceError(
                "lag(h, k) reads an argument of the step function, a state or an input, k steps back, with k from 1 to "
                f"{MAX_ROUNDS}; got k = {k!r}"
            )
        return ir.Read(expr.name, k, expr.dims, expr.dtype)

    return operate(read, value)


def _is_lag(k: object) -> bool:
    return isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= MAX_ROUNDS


def cast(value: Any, dtype: DType | str) -> Any:
    """`value` as another element type, rounded if it is narrower (the IR's names: "f16", "bf16", "f32", "i64", ...)."""
    known = {d.value: d for d in DType}
    target = dtype if isinstance(dtype, DType) else known.get(dtype)
    if target is None:
        raise TraceError(f"cast to {dtype!r}: the element types are {', '.join(known)}")
    if isinstance(value, Traced):
        return operate(partial(ops.cast, dtype=target), value)
    if _is_tensor(value):
        from recurc.runtime.torch_ops import torch_dtype

        return value.to(torch_dtype(target))
    return np.asarray(value).astype(target.to_numpy())


def matmul(a: Any, b: Any) -> Any:
    """`a @ b`."""
    return a @ b


def transpose(value: Any) -> Any:
    """The last two dims swapped."""
    return value.T if isinstance(value, Traced) else _library(value).swapaxes(value, -1, -2)


def _is_tensor(value: Any) -> bool:
    from recurc.runtime.torch_ops import is_tensor

    return is_tensor(value)


def _library(value: Any) -> Any:
    from recurc.runtime.torch_ops import is_tensor, library

    return library() if is_tensor(value) else np


def _elementwise(name: str) -> Callable[..., Any]:
    op = ops.OPS["select" if name == "where" else name]

    def function(*args: Any) -> Any:
        if any(isinstance(a, Traced) for a in args):
            return elementwise(op.name, *args)
        if any(_is_tensor(a) for a in args):
            return _on_tensors(name, args)
        return op.numpy(*args)

    return function


def _on_tensors(name: str, args: tuple[Any, ...]) -> Any:
    from recurc.runtime.torch_ops import library

    torch = library()
    function = getattr(torch, {"max": "maximum", "min": "minimum"}.get(name, name), None)
    function = function or getattr(torch.nn.functional, name, None)
    if function is None:
        raise TraceError(f"torch has no function for recurc.{name}")
    return function(*args)


def _composed(name: str) -> Callable[..., Any]:
    make: Callable[..., ir.Expr] = FUNCTIONS[name].make or build.outer

    def function(*args: Any) -> Any:
        if any(isinstance(a, Traced) for a in args):
            return operate(make, *args)
        library = _library(args[0])
        if name == "outer":
            return args[0][..., :, None] * args[1][..., None, :]
        return args[0] * library.exp(1j * args[1])

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
        return _on_array(name, value, over or tuple(range(value.ndim)), **options)

    return function


def _on_array(name: str, value: Any, axes: tuple[int, ...], eps: float = 1e-6) -> Any:
    library = _library(value)
    keep = {"keepdim" if library is not np else "keepdims": True}

    def total(v: Any) -> Any:
        return library.sum(v, axes, **keep)

    def mean(v: Any) -> Any:
        return library.mean(v, axes, **keep)

    match name:
        case "softmax" | "logsumexp":
            top = library.amax(value, axes, **keep)
            weights = library.exp(value - top)
            return weights / total(weights) if name == "softmax" else (top + library.log(total(weights))).squeeze(axes)
        case "norm":
            return library.sqrt(library.sum(value * value, axes))
        case "l2norm":
            return value / library.sqrt(total(value * value) + eps)
        case "rmsnorm":
            return value / library.sqrt(mean(value * value) + eps)
        case "layernorm":
            centred = value - mean(value)
            return centred / library.sqrt(mean(centred * centred) + eps)
        case "argmax" | "argmin":
            return getattr(library, name)(value, axes[0])
        case _:
            return getattr(library, {"max": "amax", "min": "amin"}.get(name, name))(value, axes)


def _table() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name, made in FUNCTIONS.items():
        if made.form is Form.ELEMENTWISE:
            found[name] = _composed(name) if name in ("outer", "polar") else _elementwise(name)
        elif made.form in (Form.REDUCTION, Form.ORDER):
            found[name] = _reduction(name, made.form is Form.ORDER)
    for name, function in found.items():
        function.__name__ = function.__qualname__ = name
        function.__doc__ = f"`{name}` of the language: {FUNCTIONS[name].form.value}."
    return found


NAMED: dict[str, Any] = {
    **_table(), "cast": cast, "inf": inf, "init": init, "lag": lag, "matmul": matmul, "pi": pi, "size": size,
    "step_index": step_index, "transpose": transpose,
}  # fmt: skip
