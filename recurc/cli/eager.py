"""The equations evaluated step by step with torch's own operators: the loop a person would write, for comparison.

Every tensor has a batch axis, of length 1 where nothing in it differs between sequences, and then its dims. Constants,
sizes and the step index stay numbers of Python as long as only they meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recurc.errors import UnsupportedError
from recurc.filtering import is_filter, written_out
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Final,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    Step,
    Unfold,
    late,
    reads,
)
from recurc.on_arrays import shaped
from recurc.ops import OPS
from recurc.types import Dims, DType, axis_ids, literal_size

_NAMES = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "true_divide", "neg": "negative", "pow": "pow",
    "mod": "remainder", "floordiv": "floor_divide", "select": "where",
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
    "and": "logical_and", "or": "logical_or", "not": "logical_not",
    "max": "maximum", "min": "minimum", "logaddexp": "logaddexp", "atan2": "atan2", "real": "real", "conj": "conj",
    **{n: n for n in ("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "erf", "abs", "sign")},
    **{n: n for n in ("floor", "round", "tanh", "sigmoid")},
}  # fmt: skip
_Values = Mapping[str, Any]


class Eager:
    """`rec` in core form, as a function on torch tensors: inputs (B, T, *dims), params (*dims)."""

    def __init__(self, rec: Recurrence, sizes: Mapping[str, int]) -> None:
        import torch

        self.torch: Any = torch
        self.rec, self.sizes = rec, sizes
        if not rec.inputs:
            raise UnsupportedError("the torch eager comparison needs an input: without one it knows no number of steps")
        self._late = late(rec.equations)
        self._lagged = [
            i for i in rec.inputs if any(r.lag and r.name == i.name for e in rec.equations for r in reads(e.expr))
        ]
        self._real: Any = None
        self._final: dict[str, Any] = {}

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs (B, T, *dims) by name."""
        rec, torch = self.rec, self.torch
        first = arrays[rec.inputs[0].name]
        batch, steps = first.shape[:2]
        kinds = [
            torch.empty((), dtype=a.dtype).real.dtype
            for a in arrays.values()
            if a.is_floating_point() or a.is_complex()
        ]
        self._real = kinds[0] if kinds else torch.float64
        params = {p.name: arrays[p.name][None] for p in rec.params}
        carried = [(s.name, s.dims, s.dtype, s.initial) for s in rec.states]
        carried += [(i.name, i.dims, i.dtype, i.before) for i in self._lagged if i.before is not None]
        before: dict[str, Any] = {}
        for name, dims, dtype, start in carried:
            before[name] = self._full(self._value(start, params, before, 0), start.dims, dims, dtype, batch)
        types = {e.name: (e.expr.dims, e.expr.dtype) for e in rec.equations}
        types |= {i.name: (i.dims, i.dtype) for i in rec.inputs}
        collected: dict[str, list[Any]] = {o: [] for o in rec.outputs}

        def collect(now: _Values) -> None:
            for o, values in collected.items():
                dims, dtype = types[o]
                values.append(self._full(now[o], dims, dims, dtype, batch))

        early = [e for e in rec.equations if e not in self._late]
        seen: list[tuple[dict[str, Any], dict[str, Any]]] = []  # for a second pass, if there is one
        for t in range(steps):
            now = params | {i.name: arrays[i.name][:, t] for i in rec.inputs}
            for e in early:
                now[e.name] = self._value(e.expr, now, before, t)
            if self._late:
                seen.append((now, before))
            else:
                collect(now)
            before = {n: now[n] for n in before}
        self._final = {n: self._full(before[n], dims, dims, dtype, batch) for n, dims, dtype, _ in carried}
        for t, (now, old) in enumerate(seen):
            for e in self._late:
                now[e.name] = self._value(e.expr, now, old, t)
            collect(now)
        return {o: torch.stack(values, 1) for o, values in collected.items() if values}

    # --- shapes and types -------------------------------------------------------------------------------------------

    def _full(self, value: Any, dims: Dims, wanted: Dims, dtype: DType, batch: int) -> Any:
        """A value as `(batch, *wanted)`."""
        value = self._aligned(self._tensor(value, dtype), dims, wanted)
        return value.expand(batch, *self._shape(wanted))

    def _tensor(self, value: Any, dtype: DType) -> Any:
        if isinstance(value, self.torch.Tensor):
            return value
        return self.torch.tensor([value], dtype=self._dtype(dtype))

    def _dtype(self, dtype: DType) -> Any:
        torch = self.torch
        generic = {
            DType.REAL: self._real, DType.COMPLEX: torch.complex128 if self._real == torch.float64 else torch.complex64,
        }  # fmt: skip
        if dtype in generic:
            return generic[dtype]
        from recurc.runtime.torch_ops import torch_dtype

        return torch_dtype(dtype)

    def _size(self, dim: str) -> int:
        return literal_size(dim) or self.sizes[dim]

    def _shape(self, dims: Dims) -> tuple[int, ...]:
        return tuple(self._size(d) for d in dims)

    def _aligned(self, value: Any, dims: Dims, wanted: Dims) -> Any:
        """`value` with its axes where `wanted` has them, axes of length 1 for the others, after the batch axis."""
        if not isinstance(value, self.torch.Tensor) or dims == wanted:
            return value
        have, want = axis_ids(dims), axis_ids(wanted)
        value = value.permute(0, *(1 + have.index(axis) for axis in want if axis in have))
        for place, axis in enumerate(want):
            if axis not in have:
                value = value.unsqueeze(place + 1)
        return value

    # --- expressions ------------------------------------------------------------------------------------------------

    def _value(self, e: Expr, now: _Values, before: _Values, t: int) -> Any:
        torch = self.torch

        def value(part: Expr) -> Any:
            return self._value(part, now, before, t)

        def tensor(part: Expr, dims: Dims) -> Any:
            """With the axes of `dims`, those it lacks of length 1."""
            return self._aligned(self._tensor(value(part), part.dtype), part.dims, dims)

        match e:
            case Const(value=number):
                return number
            case Size(dim=dim):
                return self._size(dim)
            case Step():
                return t
            case Read(name=name, lag=lag):
                return before[name] if lag else now[name]
            case Apply(op="cast", args=(arg,)):
                return self._cast(value(arg), e.dtype)
            case Apply(op=op, args=args):
                return self._apply(op, [self._aligned(value(a), a.dims, e.dims) for a in args], e)
            case Reduce(op=op, arg=arg, over=over):
                return self._reduce(op, tensor(arg, arg.dims), [arg.dims.index(d) + 1 for d in over])
            case Contract(left=left, right=right, left_axes=a, right_axes=b, out_axes=out):
                formula = f"...{_letters(a)},...{_letters(b)}->...{_letters(out)}"
                return torch.einsum(formula, tensor(left, left.dims), tensor(right, right.dims))
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                found = value(arg)
                if at is not None:
                    found = found.select(at + 1, index)
                    axes = tuple(x - (x > at) for x in axes)
                return found.permute(0, *(x + 1 for x in axes))
            case Iota(dims=dims):
                return torch.arange(self._size(dims[0]))[None]
            case Broadcast(arg=arg, dims=dims):
                return tensor(arg, dims).expand(-1, *self._shape(dims))
            case Gather():
                return self._gather(e, tensor(e.arg, e.arg.dims), tensor(e.index, e.dims))
            case Unfold():
                return self._near(e, tensor(e.arg, e.arg.dims))
            case Linalg(op="eye", dims=dims):
                return torch.eye(self._size(dims[0]), dtype=self._real)[None]
            case Linalg() if is_filter(e):
                return value(written_out(e))
            case Linalg():
                matrix, *rest = e.args
                whole = tensor(matrix, matrix.dims).expand(-1, *self._shape(matrix.dims))
                return self._linalg(e, whole, [value(r) for r in rest])
            case Final(name=name):
                return self._final[name]

    def _cast(self, value: Any, dtype: DType) -> Any:
        if not isinstance(value, self.torch.Tensor):
            value = self.torch.tensor([value])
        cast = value.to(self._dtype(dtype))
        narrow = dtype in (DType.F16, DType.BF16, DType.F32)
        return cast.to(self._real) if narrow else cast  # rounded, and computed with as all reals are

    def _apply(self, op: str, args: list[Any], e: Apply) -> Any:
        torch = self.torch
        if not any(isinstance(a, torch.Tensor) for a in args):
            return np.asarray(OPS[op].numpy(*args)).item()
        args = [self._tensor(a, own.dtype) for a, own in zip(args, e.args, strict=True)]
        match op:
            case "stop_gradient":
                return args[0].detach()
            case "softplus":  # the definition's form, without torch's threshold
                return args[0].clamp(min=0) + torch.log1p(torch.exp(-args[0].abs()))
            case "imag":
                return args[0].imag if args[0].is_complex() else torch.zeros_like(args[0])
            case _ if op in _NAMES:
                return getattr(torch, _NAMES[op])(*args)
            case _:
                raise UnsupportedError(f"the torch eager comparison does not know `{op}`")

    def _reduce(self, op: str, value: Any, axes: list[int]) -> Any:
        if op in ("argmax", "argmin"):
            return getattr(self.torch, op)(value, dim=axes[0])
        if op in ("max", "min"):
            return getattr(self.torch, f"a{op}")(value, dim=axes)
        for axis in sorted(axes, reverse=True):
            value = getattr(self.torch, op)(value, dim=axis)
        return value

    def _gather(self, e: Gather, table: Any, place: Any) -> Any:
        """The element at a place along an axis, or at its nearest end."""
        torch, shape = self.torch, self._shape(e.dims)
        rank = len(shape)
        index = [torch.arange(table.shape[0]).reshape(-1, *[1] * rank)]
        for axis, dim in enumerate(e.arg.dims):
            if axis == e.axis:
                index.append(place.clamp(0, table.shape[axis + 1] - 1))
            else:
                at = e.dims.index(dim)
                own = (
                    torch.arange(shape[at]) if table.shape[axis + 1] > 1 else torch.zeros(shape[at], dtype=torch.int64)
                )
                index.append(own.reshape(-1, *[1] * (rank - 1 - at)))
        return table[tuple(index)]

    def _near(self, e: Unfold, value: Any) -> Any:
        torch = self.torch
        value = value.expand(-1, *self._shape(e.arg.dims))
        for axis, dim in zip(e.axes, e.taps, strict=True):
            size, taps = value.shape[axis + 1], self._size(dim)
            shift = torch.arange(taps) - taps // 2
            place = torch.arange(size)[:, None] + (shift if e.forward else -shift)
            inside = (place >= 0) & (place < size)
            near = value.movedim(axis + 1, -1)[..., place % size]
            near = near if e.wrap else torch.where(inside, near, torch.zeros((), dtype=near.dtype))
            value = near.movedim(-2, axis + 1)
        return value

    def _linalg(self, e: Linalg, matrix: Any, rest: list[Any]) -> Any:
        torch = self.torch
        match e.op:
            case "inv":
                return torch.linalg.inv(matrix)
            case "cholesky":
                return torch.linalg.cholesky(matrix)
            case "phi1" | "dphi1":
                operands = [matrix, *(self._tensor(r, e.dtype) for r in rest)]
                return shaped(e.op, tuple(torch.broadcast_tensors(*operands)), ())
            case _:
                pass
        right = e.args[1]
        *batch, rows, columns = e.args[0].dims
        others = tuple(d for d in right.dims if d != rows and d not in batch)
        b = self._aligned(self._tensor(rest[0], right.dtype), right.dims, (*batch, rows, *others))
        b = b.expand(-1, *self._shape((*batch, rows, *others)))
        x = torch.linalg.solve(matrix, b.reshape(*b.shape[: 2 + len(batch)], -1))
        x = x.reshape(x.shape[0], *b.shape[1:])
        return self._aligned(x, (*batch, columns, *others), e.dims)


def _letters(axes: tuple[int, ...]) -> str:
    return "".join(chr(ord("a") + i) for i in axes)
