"""The op table: everything recurc knows about an elementwise operator stands in its one row.

Columns: how many operands, which kinds it takes and gives, its NumPy meaning (the definition), its spelling in C
and CUDA C++ (`$` becomes the emitter's type suffix), its spelling in Triton, how it acts on affine operands, its
partial derivatives as IR, the range of its values, and its cost in floating-point operations.
A row without a spelling is a limitation the backend reports. A row with `expands` is shorthand: the `expand` pass
replaces it by other rows, so backends never see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from recurc.ir import Apply, Const, Expr
from recurc.source import Span
from recurc.types import Dims, DType, Kind, axis_ids, common_dtype, show_dims


class Gives(Enum):
    """The element type of a result."""

    COMMON = "the operands' common type"
    FLOAT = "the operands' common type, at least real"
    BOOL = "bool"
    REAL_PART = "real, also for complex operands"
    BRANCH = "the common type of the second and third operand"
    CAST = "the type asked for"


class Takes(Enum):
    ANY = "numbers"
    REAL = "real numbers"
    BOOL = "truth values"
    INT_OR_REAL = "integers or real numbers"
    CONDITION = "a truth value, then two values"
    COMPLEX = "complex numbers"


class Affine(Enum):
    """What the operator does to operands that are affine in a state."""

    LINEAR = "stays affine in all operands"
    PRODUCT = "affine if at most one operand depends on the state"
    NUMERATOR = "affine if only the first operand depends on the state"
    BRANCHES = "affine if the condition does not depend on the state"
    REAL_LINEAR = "linear over the reals only"
    ORDER = "piecewise (max, min): semiring structure, not affine"
    DISCONTINUOUS = "a threshold or rounding: never affine, whatever its derivative says"
    NONE = "nonlinear"


Partials = Callable[[Sequence[Expr], Expr], tuple[Expr | None, ...]]


@dataclass(frozen=True)
class Op:
    name: str
    arity: int
    numpy: Callable[..., Any]
    c: str | None
    triton: str | None
    takes: Takes = Takes.REAL
    gives: Gives = Gives.FLOAT
    affine: Affine = Affine.NONE
    derivative: Partials | None = None
    range: tuple[float, float] = (-math.inf, math.inf)
    flops: int = 1
    expands: Callable[..., Expr] | None = None


OPS: dict[str, Op] = {}


class TypeProblem(Exception):
    """Operands that do not fit an operator. Front ends turn it into a diagnostic or a `ShapeError`."""

    def __init__(self, code: str, message: str, help: str = "") -> None:
        self.code, self.help = code, help
        super().__init__(message)


# --- constructing elementwise nodes -------------------------------------------------------------------------


def align(operands: Sequence[Dims]) -> Dims:
    """The dims of an elementwise result: the left operand's in order, then the new ones.

    A shape with a repeated dim (a square matrix) meets only itself or scalars; anything else is ambiguous."""
    shapes = [d for d in operands if d]
    repeated = [d for d in shapes if len(set(d)) < len(d)]
    if repeated:
        for other in shapes:
            if other != repeated[0]:
                raise TypeProblem(
                    "E0313",
                    f"{show_dims(repeated[0])} repeats a dim, so it can only meet {show_dims(repeated[0])} "
                    f"or a scalar here, not {show_dims(other)}",
                    "rename one of the two dims with `as [..]`, so that it is clear which one is meant",
                )
        return repeated[0]
    return tuple(dict.fromkeys(dim for d in shapes for dim in d))


def convert(expr: Expr, dtype: DType) -> Expr:
    """`expr` as `dtype`: constants change on the spot, anything else through a `cast` node."""
    if expr.dtype is dtype:
        return expr
    if isinstance(expr, Const):
        if dtype.kind is Kind.REAL:
            return Const(float(expr.value), dtype, expr.span)  # type: ignore[arg-type]
        if dtype.kind is Kind.COMPLEX:
            return Const(complex(expr.value), dtype, expr.span)
    return Apply("cast", (expr,), expr.dims, dtype, expr.span)


def apply(name: str, *args: Expr, span: Span | None = None) -> Apply:
    """`OPS[name]` on `args`, aligned by dim name, operands converted to their common type.

    Raises `TypeProblem` if the operands' kinds or dims do not fit."""
    op = OPS[name]
    if len(args) != op.arity:
        raise TypeProblem("E0306", f"{name} takes {op.arity} operand{'s' * (op.arity != 1)}, got {len(args)}")
    dims = align([a.dims for a in args])
    operands = list(args)
    if op.takes is Takes.CONDITION:
        if args[0].dtype.kind is not Kind.BOOL:
            raise TypeProblem("E0321", f"the condition must be a truth value, not {_kind(args[0])}", "compare it: `x > 0`")
        common = common_dtype(args[1].dtype, args[2].dtype)
        operands[1:] = [convert(a, common) for a in args[1:]]
        return Apply(name, tuple(operands), dims, common, span)
    for arg in args:
        _check_kind(op, arg)
    common = common_dtype(*(a.dtype for a in args))
    if op.gives is Gives.FLOAT and common.kind in (Kind.INT, Kind.BOOL):
        common = DType.REAL
    if common is DType.BOOL and op.takes is not Takes.BOOL:
        common = DType.I64
    result = {Gives.BOOL: DType.BOOL, Gives.REAL_PART: _real_part(common)}.get(op.gives, common)
    return Apply(name, tuple(convert(a, common) for a in operands), dims, result, span)


def cast(expr: Expr, dtype: DType, span: Span | None = None) -> Expr:
    """`cast(e, dtype)`, rounding when the type is narrower."""
    return Apply("cast", (expr,), expr.dims, dtype, span)


def _real_part(dtype: DType) -> DType:
    return {DType.COMPLEX: DType.REAL, DType.C64: DType.F32, DType.C128: DType.F64}.get(dtype, dtype)


def _kind(expr: Expr) -> str:
    return {
        Kind.BOOL: "a truth value",
        Kind.INT: "an integer",
        Kind.REAL: "a real number",
        Kind.COMPLEX: "a complex number",
    }[expr.dtype.kind]


def _check_kind(op: Op, arg: Expr) -> None:
    kind = arg.dtype.kind
    wrong = (
        (op.takes is Takes.BOOL and kind is not Kind.BOOL)
        or (op.takes in (Takes.REAL, Takes.INT_OR_REAL) and kind is Kind.COMPLEX)
        or (op.takes is not Takes.BOOL and kind is Kind.BOOL)
    )
    if wrong:
        help = "compare it first, e.g. `x > 0`" if op.takes is Takes.BOOL else "use `if c then 1 else 0` for a number"
        raise TypeProblem("E0320", f"`{op.name}` takes {op.takes.value}, got {_kind(arg)}", help)


# --- small spellings for the derivative column ---------------------------------------------------------------


def number(value: float) -> Const:
    return Const(value, DType.REAL)


def add(a: Expr, b: Expr) -> Expr:
    return apply("add", a, b)


def sub(a: Expr, b: Expr) -> Expr:
    return apply("sub", a, b)


def mul(a: Expr, b: Expr) -> Expr:
    return apply("mul", a, b)


def div(a: Expr, b: Expr) -> Expr:
    return apply("div", a, b)


def neg(a: Expr) -> Expr:
    return apply("neg", a)


def select(c: Expr, a: Expr, b: Expr) -> Expr:
    return apply("select", c, a, b)


_ZERO, _ONE = number(0.0), number(1.0)


def _when(c: Expr) -> Expr:
    return select(c, _ONE, _ZERO)


# --- the table ------------------------------------------------------------------------------------------------


def _row(name: str, arity: int, numpy: Callable[..., Any], c: str | None, triton: str | None, **rest: Any) -> None:
    OPS[name] = Op(name, arity, numpy, c, triton, **rest)


def _function(name: str, numpy: Callable[..., Any], derivative: Partials | None, flops: int, **rest: Any) -> None:
    """A row whose C and Triton spellings are the helper `rc_NAME` of the backends' preludes."""
    arity = rest.pop("arity", 1)
    operands = ", ".join(f"{{{i}}}" for i in range(arity))
    _row(name, arity, numpy, f"rc_{name}$({operands})", f"rc_{name}({operands})", derivative=derivative, flops=flops, **rest)


def _np_sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _np_softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _np_erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


# arithmetic
_any: dict[str, Any] = {"takes": Takes.ANY, "gives": Gives.COMMON}
_row("neg", 1, np.negative, "(-{0})", "(-{0})", **_any, affine=Affine.LINEAR, derivative=lambda a, y: (number(-1.0),))
_row("add", 2, np.add, "({0} + {1})", "({0} + {1})", **_any, affine=Affine.LINEAR, derivative=lambda a, y: (_ONE, _ONE))
_row("sub", 2, np.subtract, "({0} - {1})", "({0} - {1})", **_any, affine=Affine.LINEAR, derivative=lambda a, y: (_ONE, number(-1.0)))
_row("mul", 2, np.multiply, "({0} * {1})", "({0} * {1})", **_any, affine=Affine.PRODUCT, derivative=lambda a, y: (a[1], a[0]))
_row(
    "div", 2, np.true_divide, "({0} / {1})", "({0} / {1})", takes=Takes.ANY, affine=Affine.NUMERATOR, flops=4,
    derivative=lambda a, y: (div(_ONE, a[1]), neg(div(y, a[1]))),
)  # fmt: skip
_row(
    "pow", 2, np.power, "rc_pow$({0}, {1})", "rc_pow({0}, {1})", takes=Takes.ANY, flops=40,
    derivative=lambda a, y: (mul(a[1], apply("pow", a[0], sub(a[1], _ONE))), mul(y, apply("log", a[0]))),
)  # fmt: skip
_row(
    "mod", 2, np.mod, "rc_mod$({0}, {1})", "rc_mod({0}, {1})", takes=Takes.INT_OR_REAL, gives=Gives.COMMON, flops=6,
    affine=Affine.DISCONTINUOUS, derivative=lambda a, y: (_ONE, neg(apply("floordiv", a[0], a[1]))),
)  # fmt: skip
_row(
    "floordiv", 2, np.floor_divide, "rc_floordiv$({0}, {1})", "rc_floordiv({0}, {1})", takes=Takes.INT_OR_REAL,
    gives=Gives.COMMON, flops=6, affine=Affine.DISCONTINUOUS, derivative=lambda a, y: (_ZERO, _ZERO),
)  # fmt: skip

# comparisons and truth values
for _name, _fn in {"eq": np.equal, "ne": np.not_equal}.items():
    _sign = {"eq": "==", "ne": "!="}[_name]
    _row(_name, 2, _fn, f"({{0}} {_sign} {{1}})", f"({{0}} {_sign} {{1}})", takes=Takes.ANY, gives=Gives.BOOL, affine=Affine.DISCONTINUOUS)
for _name, _fn in {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}.items():
    _sign = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}[_name]
    _row(_name, 2, _fn, f"({{0}} {_sign} {{1}})", f"({{0}} {_sign} {{1}})", takes=Takes.INT_OR_REAL, gives=Gives.BOOL, affine=Affine.DISCONTINUOUS)
_truth: dict[str, Any] = {"takes": Takes.BOOL, "gives": Gives.BOOL, "affine": Affine.DISCONTINUOUS}
_row("and", 2, np.logical_and, "({0} & {1})", "({0} & {1})", **_truth)
_row("or", 2, np.logical_or, "({0} | {1})", "({0} | {1})", **_truth)
_row("not", 1, np.logical_not, "rc_not$({0})", "({0} == 0)", **_truth)
_row(
    "select", 3, np.where, "rc_select$({0}, {1}, {2})", "tl.where({0}, {1}, {2})", takes=Takes.CONDITION,
    gives=Gives.BRANCH, affine=Affine.BRANCHES, derivative=lambda a, y: (None, _when(a[0]), sub(_ONE, _when(a[0]))),
)  # fmt: skip
_row("cast", 1, lambda x: x, "{0}", "{0}", takes=Takes.ANY, gives=Gives.CAST, affine=Affine.LINEAR, derivative=lambda a, y: (_ONE,))

# order; a tie belongs to the first operand, also in the derivative
_order: dict[str, Any] = {"arity": 2, "takes": Takes.INT_OR_REAL, "gives": Gives.COMMON, "affine": Affine.ORDER}
_function("max", np.maximum, lambda a, y: (_when(apply("ge", a[0], a[1])), _when(apply("lt", a[0], a[1]))), 1, **_order)
_function("min", np.minimum, lambda a, y: (_when(apply("le", a[0], a[1])), _when(apply("gt", a[0], a[1]))), 1, **_order)

# exponentials, logarithms, roots
_positive = {"range": (0.0, math.inf)}
_function("exp", np.exp, lambda a, y: (y,), 12, takes=Takes.ANY, **_positive)
_function("expm1", np.expm1, lambda a, y: (add(y, _ONE),), 18, range=(-1.0, math.inf))
_function("log", np.log, lambda a, y: (div(_ONE, a[0]),), 15, takes=Takes.ANY)
_function("log1p", np.log1p, lambda a, y: (div(_ONE, add(_ONE, a[0])),), 18)
_function("sqrt", np.sqrt, lambda a, y: (div(number(0.5), y),), 6, **_positive)
_function("rsqrt", lambda x: 1 / np.sqrt(x), lambda a, y: (mul(number(-0.5), div(y, a[0])),), 8, **_positive)
_function(
    "logaddexp", np.logaddexp, lambda a, y: (apply("exp", sub(a[0], y)), apply("exp", sub(a[1], y))), 35, arity=2,
    affine=Affine.ORDER,
)  # fmt: skip

# angles and special functions
_function("sin", np.sin, lambda a, y: (apply("cos", a[0]),), 20, range=(-1.0, 1.0), takes=Takes.ANY)
_function("cos", np.cos, lambda a, y: (neg(apply("sin", a[0])),), 20, range=(-1.0, 1.0), takes=Takes.ANY)
_function(
    "atan2", np.arctan2,
    lambda a, y: (
        div(a[1], add(mul(a[0], a[0]), mul(a[1], a[1]))),
        neg(div(a[0], add(mul(a[0], a[0]), mul(a[1], a[1])))),
    ), 30, arity=2, range=(-math.pi, math.pi),
)  # fmt: skip
_function(
    "erf", _np_erf, lambda a, y: (mul(number(2 / math.sqrt(math.pi)), apply("exp", neg(mul(a[0], a[0])))),), 25,
    range=(-1.0, 1.0),
)  # fmt: skip

# pieces
_function(
    "abs", np.abs, lambda a, y: (apply("sign", a[0]),), 1, takes=Takes.ANY, gives=Gives.REAL_PART,
    affine=Affine.DISCONTINUOUS, **_positive,
)  # fmt: skip
_step: dict[str, Any] = {"takes": Takes.INT_OR_REAL, "gives": Gives.COMMON, "affine": Affine.DISCONTINUOUS}
_function("sign", np.sign, lambda a, y: (_ZERO,), 2, range=(-1.0, 1.0), **_step)
_function("floor", np.floor, lambda a, y: (_ZERO,), 1, **_step)
_function("round", np.round, lambda a, y: (_ZERO,), 1, **_step)

# gates and activations
_function("sigmoid", _np_sigmoid, lambda a, y: (mul(y, sub(_ONE, y)),), 16, range=(0.0, 1.0))
_function("tanh", np.tanh, lambda a, y: (sub(_ONE, mul(y, y)),), 18, range=(-1.0, 1.0))
_function("softplus", _np_softplus, lambda a, y: (apply("sigmoid", a[0]),), 30, **_positive)


def _shorthand(name: str, numpy: Callable[..., Any], expands: Callable[..., Expr], arity: int = 1, **rest: Any) -> None:
    _row(name, arity, numpy, None, None, expands=expands, **rest)


_shorthand("relu", lambda x: np.maximum(x, 0), lambda x: apply("max", x, _ZERO), affine=Affine.ORDER)
_shorthand("silu", lambda x: x * _np_sigmoid(x), lambda x: mul(x, apply("sigmoid", x)))
_shorthand(
    "gelu", lambda x: 0.5 * x * (1 + _np_erf(x / math.sqrt(2))),
    lambda x: mul(mul(number(0.5), x), add(_ONE, apply("erf", mul(x, number(math.sqrt(0.5)))))),
)  # fmt: skip
_shorthand("logsigmoid", lambda x: -_np_softplus(-x), lambda x: neg(apply("softplus", neg(x))))
_shorthand(
    "elu", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    lambda x: select(apply("gt", x, _ZERO), x, apply("expm1", apply("min", x, _ZERO))),
)  # fmt: skip
_shorthand(
    "clamp", lambda x, lo, hi: np.minimum(np.maximum(x, lo), hi), lambda x, lo, hi: apply("min", apply("max", x, lo), hi),
    arity=3, takes=Takes.INT_OR_REAL, gives=Gives.COMMON, affine=Affine.ORDER,
)  # fmt: skip

# complex numbers: defined by the reference; no native spelling yet
_row("real", 1, np.real, None, None, takes=Takes.ANY, gives=Gives.REAL_PART, affine=Affine.REAL_LINEAR)
_row("imag", 1, np.imag, None, None, takes=Takes.ANY, gives=Gives.REAL_PART, affine=Affine.REAL_LINEAR)
_row("conj", 1, np.conj, None, None, takes=Takes.ANY, gives=Gives.COMMON, affine=Affine.REAL_LINEAR)

__all__ = ["OPS", "Affine", "Gives", "Op", "Takes", "TypeProblem", "align", "apply", "axis_ids", "cast", "convert", "number"]
