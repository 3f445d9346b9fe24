"""The operators of monoids on NumPy arrays, for the randomised check of their laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import linalg
from recurc.ir import Apply, Broadcast, Const, Contract, Expr, Gather, Iota, Linalg, Read, Reaxis, Reduce
from recurc.ops import OPS
from recurc.types import Dims, axis_ids

Array = NDArray[Any]
_REDUCTIONS: dict[str, Any] = {
    "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum, "any": np.logical_or,
    "all": np.logical_and,
}  # fmt: skip


class Numeric:
    """Evaluates an expression to an array `(*dims)`, where axes along which it does not differ may have size 1.

    `lookup` gives the value of a read, `size` that of a dim. Parts that are the same object are computed once."""

    def __init__(self, lookup: Callable[[Read], Array], size: Callable[[str], int]) -> None:
        self._lookup, self._size = lookup, size
        self._memo: dict[int, Array] = {}

    def __call__(self, expr: Expr) -> Array:
        if id(expr) not in self._memo:
            self._memo[id(expr)] = self._value(expr)
        return self._memo[id(expr)]

    def _value(self, expr: Expr) -> Array:
        match expr:
            case Const(value=value):
                return np.asarray(value)
            case Read():
                return self._lookup(expr)
            case Iota(dim=dim):
                return np.arange(self._size(dim))
            case Linalg(op="eye", dims=dims):
                return np.eye(self._size(dims[0]))
            case Linalg(op="solve", args=(matrix, right)) if len(matrix.dims) == 2:
                at = right.dims.index(matrix.dims[0])
                first = np.moveaxis(self._full(right), at, 0)
                found = linalg.solve(self._full(matrix), first.reshape(first.shape[0], -1))
                return np.moveaxis(found.reshape(first.shape), 0, at)
            case Apply(op=op, args=args):
                return OPS[op].numpy(*(laid_along(self(a), a.dims, expr.dims) for a in args))
            case Broadcast(arg=arg, dims=dims):
                return np.broadcast_to(laid_along(self(arg), arg.dims, dims), tuple(self._size(d) for d in dims))
            case Reduce(op=op, arg=arg, over=over) if op in _REDUCTIONS:
                axes = tuple(arg.dims.index(d) for d in over)
                return _REDUCTIONS[op].reduce(self._full(arg), axis=axes)
            case Reaxis(arg=arg, axes=axes, at=None):
                return self._full(arg).transpose(axes)
            case Contract(left=left, right=right):
                product: Any = np.einsum
                operands = (self._full(left), [*expr.left_axes], self._full(right), [*expr.right_axes])
                return product(*operands, [*expr.out_axes])
            case Gather(arg=arg, axis=axis, index=index, dims=dims):
                return self._gather(expr, self._full(arg), laid_along(self(index), index.dims, dims), axis)
            case _:
                raise TypeError(f"{type(expr).__name__} in a combine operator")

    def _full(self, expr: Expr) -> Array:
        return np.broadcast_to(self(expr), tuple(self._size(d) for d in expr.dims))

    def _gather(self, node: Gather, value: Array, index: Array, axis: int) -> Array:
        rest = [node.dims.index(d) for a, d in enumerate(node.arg.dims) if a != axis]
        places: list[Any] = [
            np.arange(self._size(node.dims[k])).reshape(-1, *(1,) * (len(node.dims) - 1 - k)) for k in rest
        ]
        places.insert(axis, np.clip(index, 0, value.shape[axis] - 1).astype(int))
        return value[tuple(places)]


def laid_along(value: Array, dims: Dims, onto: Dims) -> Array:
    """`value` of `dims` with the axes of `onto`, of size 1 where it has no such dim."""
    ids, target = axis_ids(dims), axis_ids(onto)
    ordered = value.transpose([ids.index(i) for i in target if i in ids])
    present = iter(ordered.shape)
    return ordered.reshape([next(present) if i in ids else 1 for i in target])
