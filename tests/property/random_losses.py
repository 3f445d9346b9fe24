"""Random scalar losses over every kind of node, and their values by torch, which knows nothing of recurc."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recurc import build, ops
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Reduce,
    Size,
    Unfold,
)
from recurc.ops import apply
from recurc.types import Dims, DType

SIZES = {"D": 3, "N": 2, "K": 4, "E": 3, "2": 2, "3": 3}
REAL, INT = DType.REAL, DType.I64
NAMES: dict[str, Dims] = {
    "s": (), "x": ("D",), "w": ("N", "D"), "u": ("D", "D"), "g": ("2", "D"), "r": ("K", "D"), "q": ("K",),
    "b": ("N", "D", "E"), "c": ("K", "N", "3"),
}  # fmt: skip
PLACES: dict[str, Dims] = {"i": (), "j": ("D",), "k": ("K", "N")}


def read(name: str) -> Read:
    return Read(name, 1 if name in ("x", "u") else 0, NAMES[name], REAL)


class Losses:
    """Draws a loss from a seed, with some of its parts as named equations."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.equations: list[Equation] = []
        self.named: list[Read] = []

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def loss(self, depth: int = 4) -> Expr:
        for at in range(int(self.rng.integers(0, 4))):
            expr = self.expr(depth - 1)
            self.equations.append(Equation(f"e{at}", expr))
            self.named.append(Read(f"e{at}", 0, expr.dims, REAL))
        total: Expr = ops.number(0.0)
        for part in (self.expr(depth), *self.named):
            total = ops.add(total, self.scalar(part))
        return total

    def scalar(self, expr: Expr) -> Expr:
        while len(set(expr.dims)) < len(expr.dims):
            expr = build.matmul(expr, apply("sin", build.broadcast(read("s"), expr.dims[-1:])))
        square = apply("mul", expr, apply("sin", expr))
        return build.reduce("sum", square) if square.dims else square

    def leaf(self) -> Expr:
        if self.named and self.rng.random() < 0.4:
            return self.pick(*self.named)
        return read(self.pick(*NAMES))

    def unary(self, expr: Expr) -> Expr:
        op = self.pick(
            "tanh", "sigmoid", "exp", "softplus", "relu", "silu", "gelu", "elu", "logsigmoid", "sqrt", "log", "neg",
            "erf", "log1p", "expm1", "rsqrt", "abs", "cos", "clamp", "square", "pow", "atan2", "logaddexp", "stop",
            "floor",
        )  # fmt: skip
        soft = apply("tanh", expr)
        match op:
            case "sqrt" | "log" | "log1p" | "rsqrt":
                return apply(op, ops.add(ops.number(1.5), soft))
            case "exp" | "expm1":
                return apply(op, soft)
            case "clamp":
                return apply("clamp", expr, ops.number(-0.3), ops.number(0.4))
            case "square":
                return apply("pow", soft, Const(self.pick(2.0, 3.0), REAL))
            case "pow":
                return apply("pow", ops.add(ops.number(2.0), soft), apply("sin", self.like(expr)))
            case "atan2" | "logaddexp":
                return apply(op, expr, self.like(expr))
            case "stop":
                return ops.mul(soft, apply("stop_gradient", expr))
            case "floor":
                return ops.add(expr, apply("floor", expr))
            case _:
                return apply(op, expr)

    def like(self, expr: Expr) -> Expr:
        """Another value that meets `expr`."""
        for _ in range(10):
            other = self.expr(1)
            try:
                ops.align([expr.dims, other.dims])
            except ops.TypeProblem:
                continue
            return other
        return read("s")

    def expr(self, depth: int) -> Expr:
        if depth <= 0:
            return self.leaf()
        kind = self.pick(
            "unary", "binary", "binary", "select", "reduce", "normal", "matmul", "matmul", "outer", "view", "unpack",
            "broadcast", "lookup", "one_hot", "conv", "solve", "inv",
        )  # fmt: skip
        arg = self.expr(depth - 1)
        try:
            made = getattr(self, f"_{kind}")(arg)
        except ops.TypeProblem:
            made = self.unary(arg)
        return made if len(made.dims) <= 4 else self.leaf()

    def _unary(self, arg: Expr) -> Expr:
        return self.unary(arg)

    def _binary(self, arg: Expr) -> Expr:
        other = self.like(arg)
        match self.pick("add", "sub", "mul", "div", "max", "min"):
            case "div":
                return ops.div(arg, ops.add(ops.number(1.5), apply("sin", other)))
            case op:
                return apply(op, arg, other)

    def _select(self, arg: Expr) -> Expr:
        other = self.like(arg)
        return ops.select(apply("gt", other, ops.number(0.1)), self.unary(arg), other)

    def _reduce(self, arg: Expr) -> Expr:
        dim = self.pick(*arg.dims) if arg.dims else ""
        if len(set(arg.dims)) < len(arg.dims):
            return build.reduce("sum", arg, (dim,))
        op = self.pick("sum", "max", "min", "prod")
        for at, other in enumerate(
            arg.dims if op in ("max", "min") else ()
        ):  # no ties: torch has another rule for them
            ramp = ops.mul(ops.number((0.37, 0.73, 0.19, 0.11)[at]), build.index(other))
            arg = ops.add(arg, ramp)
        if not dim or self.rng.random() < 0.3:
            return apply("tanh", build.reduce(op, arg))
        if self.rng.random() < 0.3:
            return build.mean(arg, (dim,))
        return build.reduce(op, arg, (dim,))

    def _normal(self, arg: Expr) -> Expr:
        over = (self.pick(*arg.dims),) if arg.dims and self.rng.random() < 0.7 else ()
        return self.pick(build.softmax, build.logsumexp, build.l2norm, build.rmsnorm, build.layernorm)(arg, over)

    def _matmul(self, arg: Expr) -> Expr:
        other = self.expr(1)
        return build.matmul(arg, other) if self.rng.random() < 0.5 else build.matmul(other, arg)

    def _outer(self, arg: Expr) -> Expr:
        return build.outer(arg, self.pick(read("x"), read("q"), apply("sin", read("x"))))

    def _view(self, arg: Expr) -> Expr:
        if arg.dims[-1:] == ("D",) and "E" not in arg.dims and self.rng.random() < 0.5:
            return build.rename(arg, (*arg.dims[:-1], "E"))
        return build.transpose(arg)

    def _unpack(self, arg: Expr) -> Expr:
        if arg.dims[:1] == ("2",):
            one, two = build.unpack(arg, 2)
            return ops.mul(one, apply("sigmoid", two))
        return ops.mul(build.unpack(read("g"), 2)[1], arg)

    def _broadcast(self, arg: Expr) -> Expr:
        return apply("tanh", build.repeat(arg, (self.pick("D", "N", "K"),)))

    def _lookup(self, arg: Expr) -> Expr:
        name = self.pick(*PLACES)
        return build.lookup(arg, Read(name, 0, PLACES[name], INT))

    def _one_hot(self, arg: Expr) -> Expr:
        return ops.mul(build.one_hot(Read("i", 0, (), INT), self.pick("D", "K", "2")), arg)

    def _conv(self, arg: Expr) -> Expr:
        taps = self.pick(read("c"), read("q"), read("x"), apply("sin", read("w")))
        return build.conv(taps, arg, (self.pick(*arg.dims) if arg.dims else "D",), self.rng.random() < 0.5)

    def _solve(self, arg: Expr) -> Expr:
        a = self.matrix()
        return build.linalg("solve", a, arg)

    def _inv(self, arg: Expr) -> Expr:
        return build.matmul(arg, build.linalg("inv", self.matrix()))

    def matrix(self) -> Expr:
        """An invertible one."""
        if self.rng.random() < 0.5:
            return ops.add(ops.mul(ops.number(3.0), build.eye("D")), apply("tanh", read("u")))
        eye = build.rename(build.eye("D"), ("D", "E"))
        return ops.add(apply("tanh", read("b")), ops.mul(ops.number(3.0), eye))


def values(rng: np.random.Generator) -> dict[tuple[str, int], np.ndarray]:
    """A batch of one: real values (1, *dims), and places that lie outside now and then."""
    shape = lambda dims: tuple(SIZES[d] for d in dims)  # noqa: E731
    drawn = {(n, read(n).lag): rng.standard_normal((1, *shape(d))) for n, d in NAMES.items()}
    return drawn | {(n, 0): rng.integers(-1, 5, (1, *shape(d))) for n, d in PLACES.items()}


# --- the same in torch

_TORCH: dict[str, Any] = {
    "mul": torch.mul, "add": torch.add, "sub": torch.sub, "div": torch.div, "pow": torch.pow, "max": torch.maximum,
    "min": torch.minimum, "relu": torch.relu, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu,
    "elu": torch.nn.functional.elu, "softplus": torch.nn.functional.softplus, "stop_gradient": lambda x: x.detach(),
    "logsigmoid": torch.nn.functional.logsigmoid, "select": torch.where, "cast": lambda x: x.double(), "gt": torch.gt,
    "eq": torch.eq,
}  # fmt: skip


class Torch:
    """Values without a batch axis, `(*dims)`."""

    def __init__(self, equations: list[Equation], given: dict[tuple[str, int], torch.Tensor]) -> None:
        self.given = dict(given)
        for equation in equations:
            self.given[equation.name, 0] = self(equation.expr).clone()

    def __call__(self, expr: Expr) -> torch.Tensor:
        match expr:
            case Const(value=value, dtype=dtype):
                return torch.tensor(value, dtype=torch.int64 if dtype is INT else torch.float64)
            case Size(dim=dim):
                return torch.tensor(SIZES[dim])
            case Iota(dim=dim):
                return torch.arange(SIZES[dim])
            case Read(name=name, lag=lag):
                return self.given[name, lag]
            case Apply(op="clamp", args=(x, low, high)):
                return torch.clamp(self(x), self(low), self(high))
            case Apply(op=op, args=args, dims=dims):
                return _TORCH.get(op, getattr(torch, op, None))(*(self.aligned(a, dims) for a in args))
            case Reduce():
                return self._reduce(expr)
            case Contract(left=left, right=right, left_axes=a, right_axes=b, out_axes=out):
                return torch.einsum(self(left), a, self(right), b, out)
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                if at is not None and index is not None:
                    assert list(axes) == [i for i in range(len(arg.dims)) if i != at]
                    return self(arg).select(at, index)
                return self(arg).permute(axes)
            case Broadcast(arg=arg, dims=dims):
                return self.aligned(arg, dims).expand([SIZES[d] for d in dims])
            case Gather():
                return self._gather(expr)
            case Unfold():
                return self._unfold(expr)
            case Linalg():
                return self._linalg(expr)
            case _:
                raise AssertionError(expr)

    def aligned(self, expr: Expr, dims: Dims) -> torch.Tensor:
        value = self(expr)
        if expr.dims == dims or not expr.dims:
            return value
        value = value.permute([expr.dims.index(d) for d in dims if d in expr.dims])
        return value.reshape([SIZES[d] if d in expr.dims else 1 for d in dims])

    def _reduce(self, expr: Reduce) -> torch.Tensor:
        axes = [expr.arg.dims.index(d) for d in expr.over]
        value = self(expr.arg)
        if expr.op == "sum":
            return value.sum(axes)
        for axis in sorted(axes, reverse=True):
            match expr.op:
                case "prod":
                    value = value.prod(axis)
                case "argmax" | "argmin":
                    value = getattr(value, expr.op)(axis)
                case op:
                    value = getattr(value, op)(axis).values
        return value

    def _gather(self, expr: Gather) -> torch.Tensor:
        arg, place, out = self(expr.arg).movedim(expr.axis, -1), self(expr.index), expr.dims
        rest = tuple(d for i, d in enumerate(expr.arg.dims) if i != expr.axis)
        if len(set(rest)) < len(rest):
            assert not expr.index.dims
            return arg[..., place.clamp(0, arg.shape[-1] - 1)]
        arg = arg.permute([*(rest.index(d) for d in out if d in rest), len(rest)])
        arg = arg.reshape([*(SIZES[d] if d in rest else 1 for d in out), arg.shape[-1]])
        arg = arg.expand([*(SIZES[d] for d in out), arg.shape[-1]])
        place = self.aligned(expr.index, out).expand([SIZES[d] for d in out]).clamp(0, arg.shape[-1] - 1)
        return torch.take_along_dim(arg, place[..., None], -1)[..., 0]

    def _unfold(self, expr: Unfold) -> torch.Tensor:
        value = self(expr.arg)
        for axis, tap in zip(expr.axes, expr.taps, strict=True):
            size, taps = value.shape[axis], SIZES[tap]
            slices = []
            for k in range(taps):
                shift = (k - taps // 2) * (1 if expr.forward else -1)
                parts = []
                for i in range(size):
                    at = (i + shift) % size if expr.wrap else i + shift
                    part = value.select(axis, at) if 0 <= at < size else torch.zeros_like(value.select(axis, 0))
                    parts.append(part)
                slices.append(torch.stack(parts, axis))
            value = torch.stack(slices, -1)
        return value

    def _linalg(self, expr: Linalg) -> torch.Tensor:
        match expr.op:
            case "eye":
                return torch.eye(SIZES[expr.dims[0]], dtype=torch.float64)
            case "inv":
                return torch.linalg.inv(self(expr.args[0]))
            case _:
                a, b = expr.args
                rows = a.dims[-2]
                inverse = torch.linalg.inv(self(a))
                n = len(b.dims)
                labels = list(range(n))
                solved = n
                at = b.dims.index(rows)
                batch = [b.dims.index(d) if d in b.dims else n + 1 + k for k, d in enumerate(a.dims[:-2])]
                missing = [label for label in batch if label > n]
                out = [*missing, *labels[:at], solved, *labels[at + 1 :]]
                return torch.einsum(inverse, [*batch, solved, at], self(b), labels, out)
