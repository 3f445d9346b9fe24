"""The definition: every equation of a recurrence, evaluated literally, step by step, in float64.

Nothing here is fast. Values are arrays `(B, *dims)` (the batch axis may be 1 for what all sequences share); reals
are float64, complex numbers complex128, integers int64. Everything else in recurc is compared with this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.backends.base import Arrays, Kernel, Specialization
from recurc.backends.storage import bf16_bits, loaded, store
from recurc.errors import ShapeError
from recurc.ops import OPS
from recurc.plan import Plan
from recurc.types import Dims, DType, Kind, axis_ids, literal_size

Array = NDArray[Any]
Values = Mapping[tuple[str, int], Array]  # (name, lag) -> (B, *dims)

_WIDE = {Kind.BOOL: np.bool_, Kind.INT: np.int64, Kind.REAL: np.float64, Kind.COMPLEX: np.complex128}


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
    inputs = {v.name: _rounded(np.asarray(arrays[v.name]), v.dtype) for v in rec.inputs}
    params = {(v.name, 0): _with_batch(_rounded(np.asarray(arrays[v.name]), v.dtype), v.dims) for v in rec.params}

    def before(name: str, dims: Dims, dtype: DType, expr: ir.Expr) -> Array:
        given = arrays.get(f"{name}@initial")
        if given is not None:
            return _filled(_with_batch(_rounded(np.asarray(given), dtype), dims), dims, dims, batch, sizes)
        return _filled(evaluate(expr, params, sizes), expr.dims, dims, batch, sizes)

    past = {s.name: before(s.name, s.dims, s.dtype, s.initial) for s in rec.states}
    past |= {v.name: before(v.name, v.dims, v.dtype, v.before) for v in rec.inputs if v.before is not None}
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
        outputs[name] = np.empty((batch, steps, *(_size(d, sizes) for d in dims)), _WIDE[dtype.kind])
    for t in range(steps):
        now: dict[tuple[str, int], Array] = dict(params)
        now |= {(name, 0): value[:, t] for name, value in inputs.items()}
        now |= {(name, k): value for name, values in history.items() for k, value in enumerate(values, start=1)}
        for equation in rec.equations:
            value, dims = evaluate(equation.expr, now, sizes, t), known[equation.name][0]
            now[equation.name, 0] = _filled(value, equation.expr.dims, dims, batch, sizes)
        for name in rec.outputs:
            outputs[name][:, t] = now[name, 0]
        history = {name: [now[name, 0], *values][: lags[name]] for name, values in history.items()}
        past |= {s.name: now[s.name, 0] for s in rec.states}
    finals = {f"{s.name}@final": past[s.name].copy() for s in rec.states}
    finals |= {f"{name}@lag{k}@final": values[k] for name, values in history.items() for k in range(1, len(values))}
    return outputs | finals


def evaluate(expr: ir.Expr, values: Values, sizes: Mapping[str, int], t: int = 0) -> Array:
    """The value `(B or 1, *dims)` of an expression; `values` gives what it reads."""
    match expr:
        case ir.Const(value, dtype):
            return np.array([value], _WIDE[dtype.kind])
        case ir.Size(dim):
            return np.array([_size(dim, sizes)])
        case ir.Step():
            return np.array([t])
        case ir.Read(name, lag):
            return values[name, lag]
        case ir.Apply("cast", (arg,), dtype=dtype):
            return _rounded(evaluate(arg, values, sizes, t), dtype)
        case ir.Apply(op, args, dims, dtype):
            operands = [_aligned(evaluate(a, values, sizes, t), a.dims, dims) for a in args]
            return np.asarray(OPS[op].numpy(*operands), _WIDE[dtype.kind])
        case ir.Reduce(op, arg, over, _, dtype):
            axes = tuple(1 + arg.dims.index(d) for d in over)
            reduce: Any = getattr(np, op)
            value = evaluate(arg, values, sizes, t)
            return np.asarray(reduce(value, axis=axes[0] if op.startswith("arg") else axes), _WIDE[dtype.kind])
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
    have, want = axis_ids(dims), axis_ids(onto)
    ordered = value.transpose(0, *(1 + have.index(axis) for axis in want if axis in have))
    return ordered[(slice(None), *(slice(None) if axis in have else np.newaxis for axis in want))]


def _filled(value: Array, dims: Dims, onto: Dims, batch: int, sizes: Mapping[str, int]) -> Array:
    """`value` broadcast to `(batch, *onto)`."""
    return np.broadcast_to(_aligned(value, dims, onto), (batch, *(_size(d, sizes) for d in onto)))


def _rounded(value: Array, dtype: DType) -> Array:
    """`value` rounded to what `dtype` can hold, in the reference's wide type of that kind."""
    if dtype is DType.BF16:
        return loaded(bf16_bits(value)).astype(np.float64)
    if dtype.kind is not Kind.COMPLEX and np.iscomplexobj(value):
        value = np.asarray(np.real(value))
    return value.astype(dtype.to_numpy()).astype(_WIDE[dtype.kind])


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
