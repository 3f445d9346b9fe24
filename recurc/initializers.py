"""How new parameters are filled: the `~` initialisers of the language.

`orthogonal` and `hippo` speak of the last two dims (`hippo` of one dim too), `s4d_lin` and `s4d_real` of the last one;
leading dims hold independent or equal copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.backends.reference import evaluate
from recurc.build import broadcast
from recurc.errors import BackendError, ShapeError
from recurc.types import Dims, Kind, literal_size

Values = NDArray[np.inexact[Any]]
Shape = tuple[int, ...]
_MOST_NUMBERS = 2**44  # more than any machine's memory holds as float64, and NumPy can still count them


def initial_params(
    rec: ir.Recurrence, rng: np.random.Generator, sizes: Mapping[str, int], defaults: Mapping[str, Any]
) -> dict[str, NDArray[np.generic]]:
    """Arrays `(*dims)` for every param, float32 (complex64, int64, bool for params of such kinds), in source order.

    A param without `~`: its value in `defaults`, else uniform in (-1/sqrt(n), 1/sqrt(n)) with n its last dim if it has
    two dims or more, else uniform in (0, 1). Raises `ShapeError` if an initialiser or a default does not fit the
    param's dims, `BackendError` if the memory does not suffice."""
    return {p.name: _made(p, rng, sizes, defaults.get(p.name)) for p in rec.params}


def _made(param: ir.Param, rng: np.random.Generator, sizes: Mapping[str, int], default: Any) -> NDArray[np.generic]:
    shape = tuple(literal_size(d) or sizes[d] for d in param.dims)
    numbers = math.prod(shape)
    try:
        if numbers > _MOST_NUMBERS:
            raise MemoryError
        return _stored(param, _values(param, rng, sizes, shape, default))
    except MemoryError as trouble:
        shown = ", ".join(f"{dim} = {sizes[dim]}" for dim in dict.fromkeys(param.dims) if dim in sizes)
        title = f"param `{param.name}[{', '.join(param.dims)}]`"
        raise BackendError(f"{title} with {shown} has {numbers:.3g} numbers: not enough memory for them") from trouble


def _values(param: ir.Param, rng: np.random.Generator, sizes: Mapping[str, int], shape: Shape, default: Any) -> Values:
    if default is not None and param.init is None:
        value = np.asarray(default)
        if value.shape not in ((), shape):
            raise ShapeError(f"the default of param `{param.name}` has shape {value.shape}, it should be {shape}")
        return np.broadcast_to(value, shape)
    if param.init is None:
        bound = 1 / math.sqrt(shape[-1]) if len(shape) > 1 else 1.0
        return rng.uniform(-bound if len(shape) > 1 else 0.0, bound, shape)
    if param.init.name == ir.EXPRESSION:
        return _expression(param.dims, param.init.args[0], sizes, shape)
    args = tuple(float(evaluate(a, {}, sizes)[0]) for a in param.init.args)
    return _INITIALIZERS[param.init.name](param, rng, shape, args)


def _expression(dims: Dims, expr: ir.Expr, sizes: Mapping[str, int], shape: Shape) -> Values:
    if expr.dims and expr.dims != dims:
        expr = broadcast(expr, dims)
    with np.errstate(all="ignore"):
        return np.broadcast_to(evaluate(expr, {}, sizes)[0], shape)


def _stored(param: ir.Param, values: Values) -> NDArray[np.generic]:
    match param.dtype.kind:
        case Kind.COMPLEX:
            return values.astype(np.complex64)
        case Kind.REAL:
            return np.asarray(np.real(values), np.float32)
        case Kind.INT:
            return np.asarray(np.real(values)).astype(np.int64)
        case Kind.BOOL:
            return np.asarray(np.real(values)) > 0.5


def _uniform(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    low, high = sorted(args)
    return rng.uniform(low, high, shape)


def _normal(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    return args[0] + abs(args[1]) * rng.standard_normal(shape)


def _log_uniform(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    """Between a and b, uniform in the logarithm: how step sizes are spread (Gu et al. 2022)."""
    low, high = sorted(args)
    if low <= 0:
        raise ShapeError(f"log_uniform of param `{param.name}` needs bounds above 0, got {low:g}")
    return np.exp(rng.uniform(math.log(low), math.log(high), shape))


def _orthogonal(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    """Orthonormal rows or columns, whichever are fewer, by Haar's measure (QR with the signs of R taken out)."""
    if len(shape) < 2:
        raise ShapeError(f"orthogonal needs two dims, param `{param.name}` has {len(shape)}")
    rows, columns = shape[-2:]
    tall = rng.standard_normal((*shape[:-2], max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., np.newaxis, :]
    return q if rows >= columns else np.swapaxes(q, -1, -2)


def _hippo(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    """HiPPO-LegS (Gu et al. 2020): the matrix A over two equal dims, or the vector B over one."""
    if not shape:
        raise ShapeError(f"hippo needs a dim, param `{param.name}` is a scalar")
    root = np.sqrt(2 * np.arange(shape[-1]) + 1.0)
    if len(shape) == 1:
        return root
    if shape[-1] != shape[-2]:
        raise ShapeError(f"hippo needs a square matrix, the last dims of param `{param.name}` are {shape[-2:]}")
    matrix = -np.tril(root[:, np.newaxis] * root, -1) - np.diag(np.arange(shape[-1]) + 1.0)
    return np.broadcast_to(matrix, shape)


def _s4d_lin(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    """-1/2 + i pi n over the last dim (S4D-Lin, Gu et al. 2022); a real param takes the real part."""
    return np.broadcast_to(-0.5 + 1j * math.pi * np.arange(_last(param, shape)), shape)


def _s4d_real(param: ir.Param, rng: np.random.Generator, shape: Shape, args: tuple[float, ...]) -> Values:
    """-(n + 1) over the last dim (S4D-Real, Gu et al. 2022)."""
    return np.broadcast_to(-(np.arange(_last(param, shape)) + 1.0), shape)


def _last(param: ir.Param, shape: Shape) -> int:
    if not shape:
        raise ShapeError(f"the initialiser of param `{param.name}` needs a dim, it is a scalar")
    return shape[-1]


_INITIALIZERS: dict[str, Callable[[ir.Param, np.random.Generator, Shape, tuple[float, ...]], Values]] = {
    "zeros": lambda param, rng, shape, args: np.zeros(shape),
    "ones": lambda param, rng, shape, args: np.ones(shape),
    "uniform": _uniform,
    "normal": _normal,
    "log_uniform": _log_uniform,
    "orthogonal": _orthogonal,
    "hippo": _hippo,
    "s4d_lin": _s4d_lin,
    "s4d_real": _s4d_real,
}
