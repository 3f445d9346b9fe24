"""The equations evaluated step by step with torch's own operators: the loop a person would write, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recurc.errors import UnsupportedError
from recurc.ir import Apply, Const, Contract, Expr, Read, Reaxis, Recurrence, Reduce, Size, Step
from recurc.types import Dims

_SAME_NAME = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "erf",
    "abs",
    "sign",
    "floor",
    "round",
    "tanh",
    "sigmoid",
)
_TENSORS = {"max": "maximum", "min": "minimum", "logaddexp": "logaddexp", "atan2": "atan2"}
_PLAIN = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "true_divide", "neg": "negative", "pow": "pow",
    "mod": "remainder", "floordiv": "floor_divide",
    "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge",
    "and": "logical_and", "or": "logical_or", "not": "logical_not",
}  # fmt: skip


class Eager:
    """`rec` in core form, as a function on torch tensors: inputs (B, T, *dims), params (*dims)."""

    def __init__(self, rec: Recurrence, sizes: Mapping[str, int]) -> None:
        import torch

        self.torch: Any = torch
        self.rec, self.sizes = rec, sizes

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs (B, T, *dims) by name. Raises `UnsupportedError` for an operator torch has no name for."""
        rec = self.rec
        first = arrays[rec.inputs[0].name]
        batch, steps = first.shape[:2]
        params = {p.name: arrays[p.name][None] for p in rec.params}
        before: dict[str, Any] = {}
        for state in rec.states:
            value = self._tensor(self._value(state.initial, params, before, 0), first)
            shape = (batch, *(self._size(d) for d in state.dims))
            before[state.name] = self._aligned(value, state.initial.dims, state.dims).expand(shape)
        collected: dict[str, list[Any]] = {o: [] for o in rec.outputs}
        for t in range(steps):
            now = params | {i.name: arrays[i.name][:, t] for i in rec.inputs}
            for e in rec.equations:
                now[e.name] = self._value(e.expr, now, before, t)
            before = {n: now[n] for n in before}
            for o, values in collected.items():
                values.append(now[o])
        return {o: self.torch.stack(values, 1) for o, values in collected.items() if values}

    def _tensor(self, value: Any, like: Any) -> Any:
        return value if isinstance(value, self.torch.Tensor) else self.torch.tensor([value], dtype=like.dtype)

    def _size(self, dim: str) -> int:
        return int(dim) if dim.isdigit() else self.sizes[dim]

    def _value(self, e: Expr, now: Mapping[str, Any], before: Mapping[str, Any], t: int) -> Any:
        match e:
            case Const(value=value):
                return value
            case Size(dim=dim):
                return self._size(dim)
            case Step():
                return t
            case Read(name=name, lag=lag):
                return before[name] if lag else now[name]
            case Apply(op=op, args=args):
                return self._apply(op, [self._aligned(self._value(a, now, before, t), a.dims, e.dims) for a in args])
            case Reduce(op=op, arg=arg, over=over):
                axes = [arg.dims.index(d) + 1 for d in over]
                return self._reduce(op, self._value(arg, now, before, t), axes)
            case Contract(left=left, right=right, left_axes=a, right_axes=b, out_axes=out):
                formula = f"...{_letters(a)},...{_letters(b)}->...{_letters(out)}"
                return self.torch.einsum(formula, self._value(left, now, before, t), self._value(right, now, before, t))
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                value = self._value(arg, now, before, t)
                if at is not None:
                    value = value.select(at + 1, index)
                    axes = tuple(x - (x > at) for x in axes)
                return value.permute(0, *(x + 1 for x in axes))
            case _:
                raise UnsupportedError(f"the torch eager comparison does not know {type(e).__name__}")

    def _apply(self, op: str, args: list[Any]) -> Any:
        if not any(isinstance(a, self.torch.Tensor) for a in args):
            args = [self.torch.tensor(float(a)) for a in args]
        if op == "select":
            return self.torch.where(*args)
        if op in ("cast", "stop_gradient"):
            return args[0]
        if op == "softplus":  # the definition's form, without torch's threshold
            return args[0].clamp(min=0) + self.torch.log1p(self.torch.exp(-args[0].abs()))
        if op in _TENSORS:
            like = next(a for a in args if isinstance(a, self.torch.Tensor))
            args = [a if isinstance(a, self.torch.Tensor) else self.torch.full_like(like, a) for a in args]
            return getattr(self.torch, _TENSORS[op])(*args)
        name = op if op in _SAME_NAME else _PLAIN.get(op)
        if name is None:
            raise UnsupportedError(f"the torch eager comparison does not know `{op}`")
        function: Callable[..., Any] = getattr(self.torch, name)
        if not isinstance(args[0], self.torch.Tensor):
            like = next(a for a in args if isinstance(a, self.torch.Tensor))
            args[0] = self.torch.full_like(like, args[0])
        return function(*args)

    def _reduce(self, op: str, value: Any, axes: list[int]) -> Any:
        if op in ("argmax", "argmin"):
            return getattr(self.torch, op)(value, dim=axes[0])
        if op in ("max", "min"):
            return getattr(self.torch, f"a{op}")(value, dim=axes)
        for axis in sorted(axes, reverse=True):
            value = getattr(self.torch, op)(value, dim=axis)
        return value

    def _aligned(self, value: Any, dims: Dims, wanted: Dims) -> Any:
        """`value` with its axes where `wanted` has them, axes of length 1 for the others, after the batch axis."""
        if not isinstance(value, self.torch.Tensor) or dims == wanted or value.ndim == 0:
            return value
        order = sorted(range(len(dims)), key=lambda i: wanted.index(dims[i]))
        value = value.permute(0, *(i + 1 for i in order))
        for axis, dim in enumerate(wanted):
            if dim not in dims:
                value = value.unsqueeze(axis + 1)
        return value


def _letters(axes: tuple[int, ...]) -> str:
    return "".join(chr(ord("a") + i) for i in axes)
