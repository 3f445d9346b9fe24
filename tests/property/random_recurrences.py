"""Random well-typed recurrences: bounded values, every node type, every class of state the analysis knows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from recurc.build import (
    LINALG,
    conv,
    eye,
    index,
    linalg,
    lookup,
    matmul,
    mean,
    permute,
    reduce,
    rename,
    transpose,
    unpack,
)
from recurc.ir import Const, Equation, Expr, Input, Param, Read, Recurrence, Size, State, Step
from recurc.ops import add, apply, convert, div, mul, number, select, sub
from recurc.types import DimDecl, Dims, DType

REAL = DType.REAL
SIZES = {"D": 5, "N": 3, "K": 7, "M": 3}  # M: what N is called when renamed
INPUTS: dict[str, Dims] = {"x": ("D",), "u": ("N",), "s": (), "m": ("N", "D")}
PARAMS: dict[str, Dims] = {"a": ("D",), "w": (), "W": ("N", "D"), "R": ("D", "D"), "P": ("2", "K", "D"), "q": ("K",)}
SHAPES: tuple[Dims, ...] = ((), ("D",), ("N",), ("N", "D"))


@dataclass
class Draft:
    """A recurrence in the making: what expressions may read so far."""

    rng: np.random.Generator
    readable: list[Read]
    equations: list[Equation] = field(default_factory=list[Equation])

    def pick(self, *options: str) -> str:
        return options[int(self.rng.integers(len(options)))]

    def leaf(self) -> Expr:
        if self.rng.random() < 0.05:
            return div(convert(Step(), REAL), number(50.0))
        return self.readable[int(self.rng.integers(len(self.readable)))]

    def expr(self, depth: int) -> Expr:
        """Any expression; every operation keeps bounded operands bounded."""
        if depth == 0:
            return self.leaf()
        kind = self.pick(
            "one",
            "one",
            "two",
            "two",
            "two",
            "select",
            "reduce",
            "matmul",
            "unpack",
            "leaf",
            "through",
            "moved",
            "turned",
        )
        match kind:
            case "one":
                op = self.pick("tanh", "sigmoid", "sin", "cos", "softplus", "abs", "neg", "relu", "erf", "logsigmoid")
                return apply(op, self.expr(depth - 1))
            case "two":
                left, right = self.expr(depth - 1), self.expr(depth - 1)
                if self.rng.random() < 0.15:
                    return div(left, add(apply("abs", right), number(1.0)))
                if self.rng.random() < 0.2:
                    right = number(float(np.round(self.rng.uniform(-1, 1), 2)))
                return apply(self.pick("add", "sub", "mul", "max", "min"), apply("tanh", left), right)
            case "select":
                condition = apply(self.pick("lt", "ge"), self.expr(depth - 1), number(0.1))
                return select(condition, self.expr(depth - 1), self.expr(depth - 1))
            case "reduce":
                value = self.expr(depth - 1)
                if not value.dims:
                    return value
                over = (value.dims[int(self.rng.integers(len(value.dims)))],)
                if self.rng.random() < 0.3:
                    return mean(value, over)
                return apply("tanh", reduce(self.pick("sum", "max", "min"), value, over))
            case "matmul":
                return self.product(depth)
            case "unpack":
                first, second = unpack(Read("P", 0, PARAMS["P"], REAL), 2)
                read = Read("x", 0, ("D",), REAL)
                packed = matmul(first, read) if self.rng.random() < 0.5 else matmul(second, apply("tanh", read))
                return reduce("sum", mul(packed, Read("q", 0, ("K",), REAL)))
            case "moved":
                return self.moved(depth)
            case "turned":  # through the complex plane and back
                value = apply("tanh", self.expr(depth - 1))
                turned = mul(convert(value, DType.COMPLEX), apply("exp", mul(Const(1j, DType.COMPLEX), value)))
                return apply(self.pick("real", "imag", "abs"), turned)
            case "through":  # a matrix seen through other axes
                turned = rename(transpose(Read("W", 0, ("N", "D"), REAL)), ("D", "M"))
                return apply("tanh", reduce("sum", turned, ("M",)))
            case _:
                return self.leaf()

    def moved(self, depth: int) -> Expr:
        """A value seen from other places along one of its dims, or a small matrix made of it."""
        value = self.expr(depth - 1)
        dims = [d for d in value.dims if value.dims.count(d) == 1]
        if not dims:
            return value
        dim = dims[int(self.rng.integers(len(dims)))]
        first = permute(value, (dim, *(d for d in value.dims if d != dim))) if value.dims[0] != dim else value
        match self.pick("place", "lookup", "shift", "conv", "ring", "matrix"):
            case "place":
                return mul(apply("tanh", value), div(convert(index(dim), REAL), convert(Size(dim), REAL)))
            case "lookup":
                place = apply("mod", add(Step(), Const(int(self.rng.integers(9)), DType.I64)), Size(dim))
                return lookup(first, place)
            case "shift":
                shift = Const(int(self.rng.integers(-2, 3)), DType.I64)
                return lookup(first, add(index(dim), shift))
            case "matrix":
                near = add(mul(number(0.1), Read("R", 0, ("D", "D"), REAL)), eye("D"))
                op = self.pick("inv", "phi1", "dphi1")
                made = linalg(op, *(near,) * LINALG[op])
                return apply("tanh", matmul(made, Read("x", 0, ("D",), REAL)))
            case kind:
                weight = reduce("sum", Read("P", 0, PARAMS["P"], REAL), ("2", "D"))
                return apply("tanh", conv(apply("tanh", weight), value, [dim], kind == "ring"))

    def product(self, depth: int) -> Expr:
        value = self.expr(depth - 1)
        if "D" in value.dims and value.dims.count("D") == 1 and "N" not in value.dims:
            matrix = self.pick("W", "R")
            return matmul(Read(matrix, 0, PARAMS[matrix], REAL), value)
        if value.dims == ("N",):
            return matmul(value, Read("W", 0, PARAMS["W"], REAL))
        return value

    def fitted(self, expr: Expr, dims: Dims) -> Expr:
        """`expr` with exactly `dims`: other dims summed away and squashed, missing ones broadcast."""
        extra = tuple(d for d in expr.dims if d not in dims)
        if extra:
            expr = apply("tanh", reduce("sum", expr, extra))
        if expr.dims == dims:
            return expr
        zero: Expr = number(0.0)
        for name, shape in (*PARAMS.items(), *INPUTS.items()):
            if shape == dims:
                zero = mul(number(0.0), Read(name, 0, shape, REAL))
                break
        return add(zero, expr)


def make(seed: int) -> Recurrence:
    """A recurrence drawn from `seed`: two to four states, equations around them, two outputs."""
    rng = np.random.default_rng(seed)
    inputs = tuple(Input(n, d, REAL, number(0.25) if n == "x" else None) for n, d in INPUTS.items())
    params = tuple(Param(n, d) for n, d in PARAMS.items())
    free = [Read(n, 0, d, REAL) for n, d in {**INPUTS, **PARAMS}.items() if n not in ("R", "P", "q")]
    free.append(Read("x", 1, ("D",), REAL))
    draft = Draft(rng, free)
    states: list[State] = []
    for order in range(int(rng.integers(2, 5))):
        name, dims = f"h{order}", SHAPES[int(rng.integers(len(SHAPES)))]
        if rng.random() < 0.6:
            draft.equations.append(Equation(f"e{order}", draft.expr(2)))
            read = draft.equations[-1]
            draft.readable.append(Read(read.name, 0, read.expr.dims, read.expr.dtype))
        initial: Expr = number(float(np.round(rng.uniform(-1, 1), 2)))
        update, start = _update(draft, name, dims)
        states.append(State(name, dims, REAL, start or initial))
        draft.equations.append(Equation(name, update))
        draft.readable.append(Read(name, 0, dims, REAL))
        if rng.random() < 0.5:
            draft.readable.append(Read(name, 1, dims, REAL))
    draft.equations.append(Equation("y", draft.expr(3)))
    dims = tuple(DimDecl(d) for d in SIZES)
    outputs = ("y", states[-1].name)
    return Recurrence(f"Random{seed}", dims, inputs, params, tuple(states), tuple(draft.equations), outputs)


def _update(draft: Draft, name: str, dims: Dims) -> tuple[Expr, Expr | None]:
    """The equation of a state, of a class drawn at random, and an initial value if the class wants its own."""
    before = Read(name, 1, dims, REAL)
    term = draft.fitted(draft.expr(2), dims)
    gate = draft.fitted(apply("sigmoid", draft.expr(1)), dims)
    match draft.pick("affine", "affine", "nonlinear", "maximum", "lagged", "reset", "coupled"):
        case "affine":
            return add(mul(gate, before), term), None
        case "nonlinear":
            mixed = matmul(Read("R", 0, ("D", "D"), REAL), before) if dims == ("D",) else before
            return apply("tanh", add(mul(number(0.5), mixed), term)), None
        case "maximum":
            return apply("max", before, term), Const(-math.inf, REAL) if draft.rng.random() < 0.5 else None
        case "lagged":
            older = Read(name, 2, dims, REAL)
            return add(sub(mul(number(0.6), before), mul(number(0.25), older)), term), None
        case "reset":
            fire = apply("gt", Read("s", 0, (), REAL), number(0.8))
            return select(fire, term, add(mul(number(0.9), before), mul(number(0.1), term))), None
        case _:
            return add(mul(mul(gate, number(0.5)), before), apply("sin", term)), None


def arrays(rec: Recurrence, rng: np.random.Generator, batch: int, steps: int) -> dict[str, np.ndarray]:
    """float32 inputs `(B, T, *dims)` and params `(1, *dims)`."""
    shape = lambda dims: tuple(int(d) if d.isdigit() else SIZES[d] for d in dims)  # noqa: E731
    values = {i.name: rng.uniform(-1, 1, (batch, steps, *shape(i.dims))) for i in rec.inputs}
    values |= {p.name: rng.uniform(-0.4, 0.4, (1, *shape(p.dims))) for p in rec.params}
    return {n: np.asarray(a, np.float32) for n, a in values.items()}
