"""Expressions of the IR as functions of NumPy arrays `(B or 1, T or 1, *dims)`, for the plan interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir, linalg
from recurc.backends.base import Specialization
from recurc.backends.storage import bf16_bits, loaded
from recurc.errors import CompilerBug
from recurc.ops import OPS
from recurc.types import Dims, DType, axis_ids

Array = NDArray[Any]


@dataclass
class Frame:
    """What expressions may read: values `(B or 1, T or 1, *dims)` by name and lag, and the steps' indices."""

    values: dict[tuple[str, int], Array]
    t: Array = field(default_factory=lambda: np.zeros((1, 1), np.int64))


Evaluate = Callable[[Frame], Array]


class Evaluator:
    """Turns expressions into functions of a frame, once per kernel."""

    def __init__(self, spec: Specialization) -> None:
        self.spec = spec

    def dtype(self, dtype: DType) -> np.dtype[Any]:
        """What arithmetic of this type is done in."""
        return self.spec.dtype(dtype).accumulator.to_numpy()

    def shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(self.spec.size(d) for d in dims)

    def __call__(self, expr: ir.Expr) -> Evaluate:
        match expr:
            case ir.Const(value, dtype):
                constant = np.full((1, 1), value, self.dtype(dtype))
                return lambda frame: constant
            case ir.Size(dim):
                size = np.full((1, 1), self.spec.size(dim), np.int64)
                return lambda frame: size
            case ir.Step():
                return lambda frame: frame.t
            case ir.Read(name, lag):
                return lambda frame: frame.values[name, lag]
            case ir.Apply("cast", (arg,), dtype=dtype):
                return self._cast(self(arg), dtype)
            case ir.Apply():
                return self._apply(expr)
            case ir.Reduce():
                return self._reduce(expr)
            case ir.Contract():
                return self._contract(expr)
            case ir.Reaxis():
                return self._reaxis(expr)
            case ir.Iota(dims):
                places = np.arange(self.spec.size(dims[0]))[np.newaxis, np.newaxis]
                return lambda frame: places
            case ir.Final(name):
                raise CompilerBug(f"a plan reads the final value of {name} from its buffer")
            case ir.Broadcast(arg, dims):
                return self.aligned(arg, dims, full=True)
            case ir.Gather():
                return self._gather(expr)
            case ir.Unfold():
                return self._unfold(expr)
            case ir.Linalg():
                return self._linalg(expr)

    def aligned(self, expr: ir.Expr, dims: Dims, full: bool = False) -> Evaluate:
        """The expression with the axes `dims`; those it lacks have size 1, or their own size if `full`."""
        value, arrange, shape = self(expr), arrangement(expr.dims, dims), self.shape(dims)
        if not full:
            return lambda frame: arrange(value(frame))

        def filled(frame: Frame) -> Array:
            array = arrange(value(frame))
            return np.broadcast_to(array, (*array.shape[:2], *shape))

        return filled

    def _cast(self, arg: Evaluate, dtype: DType) -> Evaluate:
        asked = dtype.settled(self.spec.real.accumulator)  # the call's own dtype is that of its arithmetic: no rounding
        compute = asked.accumulator.to_numpy()
        if asked is DType.BF16:
            return lambda frame: loaded(bf16_bits(arg(frame)))
        stored = asked.to_numpy()
        return lambda frame: arg(frame).astype(stored, copy=False).astype(compute, copy=False)

    def _apply(self, expr: ir.Apply) -> Evaluate:
        function, dtype = OPS[expr.op].numpy, self.dtype(expr.dtype)
        operands = [self.aligned(a, expr.dims) for a in expr.args]
        if len(operands) == 1:
            only = operands[0]
            return lambda frame: np.asarray(function(only(frame)), dtype)
        if len(operands) == 2:
            first, second = operands
            return lambda frame: np.asarray(function(first(frame), second(frame)), dtype)
        return lambda frame: np.asarray(function(*(o(frame) for o in operands)), dtype)

    def _reduce(self, expr: ir.Reduce) -> Evaluate:
        arg, dtype = self.aligned(expr.arg, expr.arg.dims, full=True), self.dtype(expr.dtype)
        axes = tuple(2 + expr.arg.dims.index(d) for d in expr.over)
        match expr.op:
            case "argmax" | "argmin":
                function: Any = np.argmax if expr.op == "argmax" else np.argmin
                return lambda frame: np.asarray(function(arg(frame), axis=axes[0]), dtype)
            case "any" | "all":
                ufunc = np.logical_or if expr.op == "any" else np.logical_and
            case _:
                ufunc = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[expr.op]
        return lambda frame: np.asarray(ufunc.reduce(arg(frame), axis=axes), dtype)

    def _reaxis(self, expr: ir.Reaxis) -> Evaluate:
        arg, at = self.aligned(expr.arg, expr.arg.dims, full=True), expr.at
        if at is None:
            order = (0, 1, *(2 + a for a in expr.axes))
            return lambda frame: arg(frame).transpose(order)
        place = (slice(None),) * (2 + at) + (expr.index,)
        order = (0, 1, *(2 + a - (a > at) for a in expr.axes))
        return lambda frame: arg(frame)[place].transpose(order)

    def _gather(self, expr: ir.Gather) -> Evaluate:
        """Fancy indexing: every axis of the result indexes its own, the gathered one is indexed by the place."""
        arg = self.aligned(expr.arg, expr.arg.dims, full=True)
        place = self.aligned(expr.index, expr.dims)
        last = self.spec.size(expr.arg.dims[expr.axis]) - 1
        rest = [expr.dims.index(d) for a, d in enumerate(expr.arg.dims) if a != expr.axis]
        rank, shape = len(expr.dims), self.shape(expr.dims)

        def gathered(frame: Frame) -> Array:
            value, at = arg(frame), np.clip(place(frame), 0, last)

            def along(axis: int, size: int) -> Array:
                return np.arange(size).reshape(-1, *(1,) * (1 + rank - axis))

            lead = [along(k, value.shape[k]) for k in (0, 1)]
            inner = [along(2 + k, shape[k]) for k in rest]
            inner.insert(expr.axis, at)
            return value[(*lead, *inner)]

        return gathered

    def _unfold(self, expr: ir.Unfold) -> Evaluate:
        """A view of a padded copy, one window per axis."""
        arg = self.aligned(expr.arg, expr.arg.dims, full=True)
        axes, taps = [2 + a for a in expr.axes], [self.spec.size(d) for d in expr.taps]

        def unfolded(frame: Frame) -> Array:
            value = arg(frame)
            pads = [(0, 0)] * value.ndim
            for axis, n in zip(axes, taps, strict=True):
                before, after = n // 2, n - 1 - n // 2
                pads[axis] = (before, after) if expr.forward else (after, before)
            padded = np.pad(value, pads, mode="wrap" if expr.wrap else "constant") if value.size else value
            if not value.size:
                return np.zeros((*value.shape, *taps), value.dtype)
            windows: Array = np.lib.stride_tricks.sliding_window_view(padded, tuple(taps), tuple(axes))
            return windows if expr.forward else np.flip(windows, tuple(range(value.ndim, windows.ndim)))

        return unfolded

    def _linalg(self, expr: ir.Linalg) -> Evaluate:
        dtype = self.dtype(expr.dtype)
        if expr.op == "eye":
            unit = np.eye(self.spec.size(expr.dims[0]), dtype=dtype)[np.newaxis, np.newaxis]
            return lambda frame: unit
        matrix = self.aligned(expr.args[0], expr.args[0].dims, full=True)
        if expr.op == "dphi1":
            along = self.aligned(expr.args[1], expr.args[1].dims, full=True)
            return lambda frame: np.asarray(linalg.dphi1(matrix(frame), along(frame)), dtype)
        if expr.op != "solve":
            function: Callable[[Array], Array] = {"inv": linalg.inv, "cholesky": linalg.cholesky, "phi1": linalg.phi1}[
                expr.op
            ]
            return lambda frame: np.asarray(function(matrix(frame)), dtype)
        *batch, rows, columns = expr.args[0].dims
        others = tuple(d for d in expr.args[1].dims if d != rows and d not in batch)
        right = self.aligned(expr.args[1], (*batch, rows, *others), full=True)
        arrange = arrangement((*batch, columns, *others), expr.dims)
        lead, shape = 3 + len(batch), self.shape(others)

        def solved(frame: Frame) -> Array:
            b = right(frame)
            x = linalg.solve(matrix(frame), b.reshape(*b.shape[:lead], math.prod(shape)))
            return arrange(np.asarray(x.reshape(*x.shape[:lead], *shape), dtype))

        return solved

    def _contract(self, expr: ir.Contract) -> Evaluate:
        left = self.aligned(expr.left, expr.left.dims, full=True)
        right = self.aligned(expr.right, expr.right.dims, full=True)
        a, b, out = expr.left_axes, expr.right_axes, expr.out_axes
        both = [i for i in a if i in b]
        batch, summed = [i for i in both if i in out], [i for i in both if i not in out]
        rows, columns = [i for i in a if i not in b], [i for i in b if i not in a]
        if len(set(a)) < len(a) or len(set(b)) < len(b) or not set(rows + columns) <= set(out):
            einsum: Any = np.einsum  # a diagonal or a lone sum: rare, and plain einsum says it
            return lambda frame: einsum(left(frame), [..., *a], right(frame), [..., *b], [..., *out])
        size = dict(zip(a, self.shape(expr.left.dims), strict=True)) | dict(
            zip(b, self.shape(expr.right.dims), strict=True)
        )
        order_a = (0, 1, *(2 + a.index(i) for i in (*batch, *rows, *summed)))
        order_b = (0, 1, *(2 + b.index(i) for i in (*batch, *summed, *columns)))

        def count(labels: list[int]) -> int:
            return math.prod(size[i] for i in labels)

        shape_a = (*(size[i] for i in batch), count(rows), count(summed))
        shape_b = (*(size[i] for i in batch), count(summed), count(columns))
        shape = tuple(size[i] for i in (*batch, *rows, *columns))
        order = (0, 1, *(2 + (*batch, *rows, *columns).index(i) for i in out))
        weights_left, weights_right = not batch and not columns, not batch and not rows

        def product(frame: Frame) -> Array:
            x, y = left(frame).transpose(order_a), right(frame).transpose(order_b)
            x, y = x.reshape(*x.shape[:2], *shape_a), y.reshape(*y.shape[:2], *shape_b)
            # Weights that all sequences and steps share, times a vector: one GEMM over (B, T), not B*T GEMVs.
            if weights_left and x.shape[:2] == (1, 1):
                z = y[..., 0] @ x[0, 0].T
            elif weights_right and y.shape[:2] == (1, 1):
                z = x[..., 0, :] @ y[0, 0]
            else:
                z = x @ y
            return z.reshape(*z.shape[:2], *shape).transpose(order)

        return product


def arrangement(dims: Dims, onto: Dims) -> Callable[[Array], Array]:
    """Moves the axes of `dims` to where `onto` has them, with axes of size 1 where it has others."""
    if dims == onto:
        return lambda value: value
    have, want = axis_ids(dims), axis_ids(onto)
    order = (0, 1, *(2 + have.index(axis) for axis in want if axis in have))
    if len(order) != 2 + len(have):
        raise CompilerBug(f"a value over {dims} does not fit into {onto}")
    place = (slice(None), slice(None), *(slice(None) if axis in have else np.newaxis for axis in want))
    return lambda value: value.transpose(order)[place]
