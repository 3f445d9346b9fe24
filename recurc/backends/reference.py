"""The definition: every equation of a recurrence, evaluated literally, step by step, in float64.

Nothing here is fast. Values are arrays `(B, *dims)` (the batch axis may be 1 for what all sequences share); reals
are float64, complex numbers complex128, integers int64. Everything else in recurc is compared with this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir, linalg
from recurc.backends.base import Arrays, Kernel, Specialization
from recurc.backends.storage import WIDE, loaded, rounded, store
from recurc.errors import ShapeError
from recurc.ops import OPS
from recurc.plan import Plan
from recurc.types import Dims, DType, axis_ids, literal_size

Array = NDArray[Any]
Values = Mapping[tuple[str, int], Array]  # (name, lag) -> (B, *dims)
FINAL = -1  # in place of a lag: the value after the last step


def run(
    rec: ir.Recurrence, arrays: Arrays, batch: int, steps: int, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Outputs `(B, T, *dims)` by name and `STATE@final` `(B, *dims)`, in float64 (complex128, int64, bool).

    `arrays` holds inputs `(B, T, *dims)`, params `(*dims)` or `(B, *dims)` and, where the defaults are not meant,
    `STATE@initial` or `INPUT@initial` `(*dims)` or `(B, *dims)`. Any recurrence will do: any lag, shorthand operators.
    Where a value is read more than one step back, `NAME@lagK@initial` and `NAME@lagK@final` `(B, *dims)` say what it
    was K steps before that, so that a run can be continued.
    Sizes come from the arrays, then `sizes`, then the header's defaults; an unknown one raises `ShapeError`."""
    with np.errstate(all="ignore"):
        return _run(rec, arrays, batch, steps, find_sizes(rec, arrays, sizes or {}))


def _run(rec: ir.Recurrence, arrays: Arrays, batch: int, steps: int, sizes: Mapping[str, int]) -> dict[str, Array]:
    """A recurrence whose outputs read final states runs twice: the second time these are known."""
    results = _pass(rec, arrays, batch, steps, sizes, {})
    if not ir.late_equations(rec):
        return results
    finals = {(s.name, FINAL): results[f"{s.name}@final"] for s in rec.states}
    return _pass(rec, arrays, batch, steps, sizes, finals)


def _pass(
    rec: ir.Recurrence, arrays: Arrays, batch: int, steps: int, sizes: Mapping[str, int], finals: Values
) -> dict[str, Array]:
    inputs = {v.name: rounded(np.asarray(arrays[v.name]), v.dtype) for v in rec.inputs}
    params = {(v.name, 0): _with_batch(rounded(np.asarray(arrays[v.name]), v.dtype), v.dims) for v in rec.params}

    def before(name: str, dims: Dims, dtype: DType, expr: ir.Expr) -> Array:
        given = arrays.get(f"{name}@initial")
        if given is not None:
            return _filled(_with_batch(rounded(np.asarray(given), dtype), dims), dims, dims, batch, sizes)
        return _filled(evaluate(expr, params, sizes), expr.dims, dims, batch, sizes)

    past = {s.name: before(s.name, s.dims, s.dtype, s.initial) for s in rec.states}
    past |= {v.name: before(v.name, v.dims, v.dtype, v.before) for v in rec.inputs if v.before is not None}
    declared = {s.name: (s.dims, s.initial) for s in rec.states} | {
        v.name: (v.dims, v.before) for v in rec.inputs if v.before is not None
    }
    begin = {
        name: _filled(evaluate(expr, params, sizes), expr.dims, dims, batch, sizes)
        for name, (dims, expr) in declared.items()
        if rec.reset is not None
    }
    bounds = {s.name: s.bound for s in rec.states if s.bound is not None}
    late = ir.late_equations(rec)
    lags = {
        name: max((r.lag for e in rec.equations for r in ir.reads(e.expr) if r.name == name), default=0)
        for name in past
    }
    history = {name: [value] * lags[name] for name, value in past.items()}  # newest first
    for name, values in history.items():
        for k in range(1, len(values)):
            if f"{name}@lag{k}@initial" in arrays:
                values[k] = np.asarray(arrays[f"{name}@lag{k}@initial"], values[k].dtype)

    known = value_types(rec)
    outputs: dict[str, Array] = {}
    for name in rec.outputs:
        dims, dtype = known[name]
        outputs[name] = np.empty((batch, steps, *(_size(d, sizes) for d in dims)), WIDE[dtype.kind])
    for t in range(steps):
        now: dict[tuple[str, int], Array] = {**params, **finals}
        now |= {(name, 0): value[:, t] for name, value in inputs.items()}
        now |= {(name, k): value for name, values in history.items() for k, value in enumerate(values, start=1)}
        for equation in rec.equations:
            if equation.name in late and not finals:
                continue
            value, dims = evaluate(equation.expr, now, sizes, t), known[equation.name][0]
            if equation.name in bounds:
                value = np.mod(value, _size(bounds[equation.name], sizes))
            now[equation.name, 0] = _filled(value, equation.expr.dims, dims, batch, sizes)
            if equation.name == rec.reset:
                for name, values in history.items():
                    history[name] = [_chosen(now[equation.name, 0], begin[name], v) for v in values]
                    now |= {(name, k): value for k, value in enumerate(history[name], start=1)}
        for name in rec.outputs:
            if (name, 0) in now:
                outputs[name][:, t] = now[name, 0]
        history = {name: [now[name, 0], *values][: lags[name]] for name, values in history.items()}
        past |= {s.name: now[s.name, 0] for s in rec.states}
    last = {f"{s.name}@final": past[s.name].copy() for s in rec.states}
    last |= {f"{name}@lag{k}@final": values[k] for name, values in history.items() for k in range(1, len(values))}
    return outputs | last


def evaluate(expr: ir.Expr, values: Values, sizes: Mapping[str, int], t: int = 0) -> Array:
    """The value `(B or 1, *dims)` of an expression; `values` gives what it reads."""
    match expr:
        case ir.Const(value, dtype):
            return np.array([value], WIDE[dtype.kind])
        case ir.Size(dim):
            return np.array([_size(dim, sizes)])
        case ir.Step():
            return np.array([t])
        case ir.Read(name, lag):
            return values[name, lag]
        case ir.Apply("cast", (arg,), dtype=dtype):
            return rounded(evaluate(arg, values, sizes, t), dtype)
        case ir.Apply(op, args, dims, dtype):
            operands = [_aligned(evaluate(a, values, sizes, t), a.dims, dims) for a in args]
            return np.asarray(OPS[op].numpy(*operands), WIDE[dtype.kind])
        case ir.Reduce(op, arg, over, _, dtype):
            axes = tuple(1 + arg.dims.index(d) for d in over)
            reduce: Any = getattr(np, op)
            value = evaluate(arg, values, sizes, t)
            return np.asarray(reduce(value, axis=axes[0] if op.startswith("arg") else axes), WIDE[dtype.kind])
        case ir.Contract(left, right, left_axes, right_axes, out_axes):
            # contiguous: einsum takes a broadcast operand out of the sum, but `inf * 0.1 + inf * -0.2` is no number
            a, b = (np.ascontiguousarray(evaluate(e, values, sizes, t)) for e in (left, right))
            einsum: Any = np.einsum  # its stubs know no lists of axes
            return einsum(a, [..., *left_axes], b, [..., *right_axes], [..., *out_axes])
        case ir.Reaxis(arg, axes, at=at, index=index):
            value = evaluate(arg, values, sizes, t)
            if at is None:
                return value.transpose(0, *(1 + a for a in axes))
            return value.take(index or 0, 1 + at).transpose(0, *(1 + a - (a > at) for a in axes))
        case ir.Iota(dims):
            return np.arange(_size(dims[0], sizes))[np.newaxis]
        case ir.Final(name):
            return values[name, FINAL]
        case ir.Broadcast(arg, dims):
            value = _aligned(evaluate(arg, values, sizes, t), arg.dims, dims)
            return np.broadcast_to(value, (value.shape[0], *(_size(d, sizes) for d in dims)))
        case ir.Gather():
            return _gathered(expr, values, sizes, t)
        case ir.Unfold():
            return _unfolded(expr, values, sizes, t)
        case ir.Linalg():
            return _solved(expr, values, sizes, t)


def _chosen(condition: Array, yes: Array, no: Array) -> Array:
    """`yes` for the sequences `(B,)` where the condition holds."""
    return np.where(condition.reshape(-1, *(1,) * (yes.ndim - 1)), yes, no)


def _gathered(expr: ir.Gather, values: Values, sizes: Mapping[str, int], t: int) -> Array:
    arg, index = (evaluate(e, values, sizes, t) for e in (expr.arg, expr.index))
    arg = np.moveaxis(arg, 1 + expr.axis, -1)  # (B, *rest, n)
    rest = expr.arg.dims[: expr.axis] + expr.arg.dims[expr.axis + 1 :]
    place = np.clip(_aligned(index, expr.index.dims, expr.dims), 0, arg.shape[-1] - 1)
    arg = np.moveaxis(np.stack([_aligned(a, rest, expr.dims) for a in np.moveaxis(arg, -1, 0)]), 0, -1)
    shape = np.broadcast_shapes(arg.shape[:-1], place.shape)
    arg, place = np.broadcast_to(arg, (*shape, arg.shape[-1])), np.broadcast_to(place, shape)
    return np.take_along_axis(arg, place[..., np.newaxis], -1)[..., 0]


def _unfolded(expr: ir.Unfold, values: Values, sizes: Mapping[str, int], t: int) -> Array:
    value = evaluate(expr.arg, values, sizes, t)
    value = np.broadcast_to(value, (value.shape[0], *(_size(d, sizes) for d in expr.arg.dims)))
    for axis, tap in zip(expr.axes, expr.taps, strict=True):
        size, taps = value.shape[1 + axis], _size(tap, sizes)
        sign = 1 if expr.forward else -1
        place = np.array([[i + sign * (k - taps // 2) for k in range(taps)] for i in range(size)])
        place = place.reshape(size, taps)
        near = np.take(value, place % size if expr.wrap else np.clip(place, 0, size - 1), 1 + axis)
        if not expr.wrap:
            inside: Array = np.logical_and(place >= 0, place < size)
            near = np.where(inside.reshape(size, taps, *(1,) * (near.ndim - 3 - axis)), near, 0)
        value = np.moveaxis(near, 2 + axis, -1)
    return value


def _solved(expr: ir.Linalg, values: Values, sizes: Mapping[str, int], t: int) -> Array:
    if expr.op == "eye":
        return np.eye(_size(expr.dims[0], sizes))[np.newaxis]
    a = evaluate(expr.args[0], values, sizes, t)
    a = np.broadcast_to(a, (a.shape[0], *(_size(d, sizes) for d in expr.args[0].dims)))
    match expr.op:
        case "inv":
            return linalg.inv(a)
        case "cholesky":
            return linalg.cholesky(a)
        case "phi1":
            return linalg.phi1(a)
        case _:
            pass
    right = expr.args[1]
    *batch, rows, columns = expr.args[0].dims
    b = evaluate(right, values, sizes, t)
    b = np.broadcast_to(b, (b.shape[0], *(_size(d, sizes) for d in right.dims)))
    if expr.op == "dphi1":
        return linalg.dphi1(a, b)
    others = tuple(d for d in right.dims if d != rows and d not in batch)
    b = _aligned(b, right.dims, (*batch, rows, *others))
    x = linalg.solve(a, b.reshape(*b.shape[: 2 + len(batch)], -1))
    x = x.reshape(*x.shape[: 2 + len(batch)], *b.shape[2 + len(batch) :])
    return _aligned(x, (*batch, columns, *others), expr.dims)


def find_sizes(rec: ir.Recurrence, arrays: Arrays, given: Mapping[str, int]) -> dict[str, int]:
    """Every dim's size, from the arrays' last axes, then `given`, then the header."""
    sizes = dict(given)
    for value in (*rec.inputs, *rec.params, *rec.states):
        for name in (value.name, f"{value.name}@initial"):
            if name in arrays and value.dims:
                shape = np.shape(arrays[name])[-len(value.dims) :]
                sizes.update(zip(value.dims, shape, strict=True))
    for decl in rec.dims:
        if decl.name not in sizes and decl.default is not None:
            sizes[decl.name] = decl.default
    for decl in rec.dims:
        if decl.same_as is not None:
            known = sizes.get(decl.name, sizes.get(decl.same_as))
            if known is not None:
                sizes[decl.name] = sizes[decl.same_as] = known
    return sizes


def value_types(rec: ir.Recurrence) -> dict[str, tuple[Dims, DType]]:
    """The dims and dtype of every value an output may name; a state's are those it was declared with."""
    known = {e.name: (e.expr.dims, e.expr.dtype) for e in rec.equations}
    known |= {v.name: (v.dims, v.dtype) for v in rec.inputs}
    return known | {s.name: (s.dims, s.dtype) for s in rec.states}


def _size(dim: str, sizes: Mapping[str, int]) -> int:
    literal = literal_size(dim)
    if literal is not None:
        return literal
    if dim not in sizes:
        raise ShapeError(f"the size of {dim} is not known: no array has it and the header gives no default")
    return sizes[dim]


def _with_batch(value: Array, dims: Dims) -> Array:
    return value[np.newaxis] if value.ndim == len(dims) else value


def _aligned(value: Array, dims: Dims, onto: Dims) -> Array:
    """`value` with the axes of `onto` in their order, 1 where it has none."""
    if dims == onto:
        return value
    order, places = _alignment(dims, onto)
    return value.transpose(order)[places]


@cache
def _alignment(dims: Dims, onto: Dims) -> tuple[tuple[int, ...], tuple[slice | None, ...]]:
    """The axes in their new order, and an index that makes the new ones."""
    have, want = axis_ids(dims), axis_ids(onto)
    order = (0, *(1 + have.index(axis) for axis in want if axis in have))
    return order, (slice(None), *(slice(None) if axis in have else None for axis in want))


def _filled(value: Array, dims: Dims, onto: Dims, batch: int, sizes: Mapping[str, int]) -> Array:
    """`value` broadcast to `(batch, *onto)`."""
    return np.broadcast_to(_aligned(value, dims, onto), (batch, *(_size(d, sizes) for d in onto)))


class _ReferenceKernel:
    """A recurrence behind the backends' call, its results rounded to the arrays they are written to."""

    def __init__(self, rec: ir.Recurrence, spec: Specialization) -> None:
        self.source: dict[str, str] = {}
        self._rec, self._sizes = rec, dict(spec.sizes)

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        given = {name: loaded(array) for name, array in arrays.items()}
        for name, value in run(self._rec, given, batch, steps, self._sizes).items():
            place = f"{name}@out" if f"{name}@out" in arrays else name  # an output that is an input as it stands
            if place in arrays:
                store(arrays[place], value)


class ReferenceBackend:
    """`backend="reference"`: no schedule, no storage dtype of its own."""

    name = "reference"
    real_only = False

    def unavailable(self) -> str | None:
        return None

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        return []

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        return self.build_recurrence(plan.recurrence, spec)

    def build_recurrence(self, rec: ir.Recurrence, spec: Specialization) -> Kernel:
        """A kernel straight from the source's equations, without any pass in between."""
        return _ReferenceKernel(rec, spec)


BACKEND = ReferenceBackend()
__all__ = ["BACKEND", "ReferenceBackend", "evaluate", "find_sizes", "run", "value_types"]
