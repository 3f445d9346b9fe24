"""The functions of the language on plain arrays and tensors, so that a step function can be tried before it is traced.

Arrays have no dim names: where the language names dims, these functions take axis numbers and sizes, or refuse.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from recurc import linalg
from recurc.errors import ShapeError, TraceError


def is_tensor(value: Any) -> bool:
    """Whether this is a torch tensor; False as long as nobody has imported torch."""
    from recurc.runtime.torch_ops import is_tensor

    return is_tensor(value)


def library(value: Any) -> Any:
    """The library of an array: NumPy, or torch for a tensor."""
    from recurc.runtime.torch_ops import library

    return library() if is_tensor(value) else np


def on_tensors(name: str, args: tuple[Any, ...]) -> Any:
    """An elementwise function on torch tensors."""
    torch = library(next(a for a in args if is_tensor(a)))
    other = {"max": "maximum", "min": "minimum", "stop_gradient": "detach"}.get(name, name)
    function = getattr(torch, other, None) or getattr(torch.nn.functional, other, None)
    if function is None:
        raise TraceError(f"torch has no function for recurc.{name}")
    return function(*args)


def reduced(name: str, value: Any, axes: tuple[int, ...], eps: float = 1e-6) -> Any:
    """A reduction over axes."""
    lib = library(value)
    keep = {"keepdim" if lib is not np else "keepdims": True}

    def total(v: Any) -> Any:
        return lib.sum(v, axes, **keep)

    def mean(v: Any) -> Any:
        return lib.mean(v, axes, **keep)

    match name:
        case "softmax" | "logsumexp":
            top = lib.amax(value, axes, **keep)
            weights = lib.exp(value - top)
            return weights / total(weights) if name == "softmax" else (top + lib.log(total(weights))).squeeze(axes)
        case "norm":
            return lib.sqrt(lib.sum(value * value, axes))
        case "l2norm":
            return value / lib.sqrt(total(value * value) + eps)
        case "rmsnorm":
            return value / lib.sqrt(mean(value * value) + eps)
        case "layernorm":
            centred = value - mean(value)
            return centred / lib.sqrt(mean(centred * centred) + eps)
        case "argmax" | "argmin":
            return getattr(lib, name)(value, axes[0])
        case _:
            return getattr(lib, {"max": "amax", "min": "amin"}.get(name, name))(value, axes)


def composed(name: str, first: Any, second: Any) -> Any:
    """`outer` and `polar`."""
    if name == "outer":
        return first[..., :, None] * second[..., None, :]
    return first * library(second).exp(1j * second)


def shaped(name: str, values: tuple[Any, ...], sizes: tuple[Any, ...]) -> Any:
    """`index(n)`, `eye(n)`, `one_hot(i, n)`, `lookup(table, i, ...)` and small matrices in the last two axes.

    Raises `ShapeError` for a function of named dims."""
    lib: Any = library(values[0]) if values else np
    if any(isinstance(n, str) for n in sizes):
        raise ShapeError(f"recurc.{name} over {', '.join(sizes)}: a plain array has no dim names, give a size")
    match name:
        case "index":
            return lib.arange(sizes[0])
        case "eye":
            return lib.eye(sizes[0])
        case "one_hot":
            places = lib.arange(sizes[0])
            return 1.0 * (values[0][..., None] == places)
        case "lookup":
            table, places = values[0], values[1:]
            clipped = (lib.clip(lib.asarray(p), 0, n - 1) for p, n in zip(places, table.shape, strict=False))
            return table[tuple(clipped)]
        case "kalman_mean" | "kalman_covariance":
            return getattr(linalg, name)(*values, **({} if lib is np else {"solve": lib.linalg.solve}))
        case "inv" | "solve" | "cholesky" | "phi1" | "dphi1" if lib is np:
            return getattr(linalg, name)(*values)
        case "phi1":
            return _phi1(lib, values[0])
        case "dphi1":
            return lib.func.jvp(partial(_phi1, lib), (values[0],), (values[1],))[1]
        case "inv" | "solve" | "cholesky":
            return getattr(lib.linalg, name)(*values)
        case _:
            raise ShapeError(f"recurc.{name} goes by the names of dims, which a plain array does not have")


def _phi1(torch: Any, a: Any) -> Any:
    """exp([[A, I], [0, 0]]) holds phi1(A) in its upper right corner."""
    n = a.shape[-1]
    unit = torch.eye(n, dtype=a.dtype, device=a.device).expand(a.shape)
    top = torch.cat([a, unit], -1)
    return torch.linalg.matrix_exp(torch.cat([top, torch.zeros_like(top)], -2))[..., :n, n:]
