"""The op table: everything recurc knows about an elementwise operator stands in its one row.

Columns: how many operands, which kinds it takes and gives, its meaning (the definition: a function of NumPy, or of
`recurc.meaning` where NumPy lacks it), its spelling in C
and CUDA C++ (`$` becomes the emitter's type suffix), its spelling in Triton, how it acts on affine operands, its
partial derivatives as IR, the range of its values, and its cost in floating-point operations.
A row without a spelling is a limitation the backend reports. A row with `expands` is shorthand: the `expand` pass
replaces it by other rows, so backends never see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

from recurc.ir import Apply, Const, Expr
from recurc.source import Span
from recurc.types import Dims, DType, Kind, common_dtype, show_dims


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


@cache
def _meaning(text: str) -> Callable[..., Any]:
    return import_module("recurc.meaning").function(text)


@dataclass(frozen=True)
class Op:
    name: str
    arity: int
    meaning: str
    c: str | None
    triton: str | None
    takes: Takes = Takes.REAL
    gives: Gives = Gives.FLOAT
    affine: Affine = Affine.NONE
    derivative: Partials | None = None
    range: tuple[float, float] = (-math.inf, math.inf)
    flops: int = 1
    expands: Callable[..., Expr] | None = None

    @property
    def numpy(self) -> Callable[..., Any]:
        """The meaning as a function of arrays; see `recurc.meaning`."""
        return _meaning(self.meaning)


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
            assert not isinstance(expr.value, complex), "a complex constant never narrows to a real one"
            return Const(float(expr.value), dtype, expr.span)
        if dtype.kind is Kind.COMPLEX:
            return Const(complex(expr.value), dtype, expr.span)
    return Apply("cast", (expr,), expr.dims, dtype, expr.span)


def apply(name: str, *args: Expr, span: Span | None = None) -> Apply:
    """`OPS[name]` on `args`, aligned by dim name, operands converted to their common type.

    Raises `TypeProblem` if the operands' kinds or dims do not fit."""
    op = OPS[name]
    if len(args) != op.arity:
        raise TypeProblem("E0306", f"{name} takes {op.arity} operand{'s' if op.arity != 1 else ''}, got {len(args)}")
    dims = align([a.dims for a in args])
    operands = list(args)
    if op.takes is Takes.CONDITION:
        if args[0].dtype.kind is not Kind.BOOL:
            message = f"the condition must be a truth value, not {_kind(args[0])}"
            raise TypeProblem("E0321", message, "compare it: `x > 0`")
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
    result = common
    if op.gives is Gives.BOOL:
        result = DType.BOOL
    elif op.gives is Gives.REAL_PART:
        result = _real_part(common)
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
        if kind is Kind.COMPLEX:
            help = "take `real(z)`, `imag(z)` or `abs(z)`"
        raise TypeProblem("E0320", f"`{op.name}` takes {op.takes.value}, got {_kind(arg)}", help)


# --- small spellings for the derivative column ---------------------------------------------------------------


def number(value: float) -> Const:
    return Const(float(value), DType.REAL)


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


def some_log(y: Expr) -> Expr:
    """y, the logarithm of a sum, and 0 where that is log 0, of which no term has a share."""
    return select(apply("eq", y, number(-math.inf)), _ZERO, y)


# --- the table ------------------------------------------------------------------------------------------------


def _helper(name: str, arity: int) -> str:
    """The spelling of an operator that is a helper `rc_NAME` of the backends' preludes; `$` is C's type suffix."""
    return f"rc_{name}$({', '.join(f'{{{i}}}' for i in range(arity))})"


def _unary(
    name: str,
    meaning: str,
    partial: Callable[[Expr, Expr], Expr] | None,
    *,
    flops: int = 1,
    spelling: str | None = None,
    takes: Takes = Takes.REAL,
    gives: Gives = Gives.FLOAT,
    affine: Affine = Affine.NONE,
    range: tuple[float, float] = (-math.inf, math.inf),
) -> Op:
    """A row with one operand; `partial(x, y)` is dy/dx."""
    c = spelling or _helper(name, 1)
    derivative: Partials | None = (lambda a, y: (partial(a[0], y),)) if partial else None
    return Op(name, 1, meaning, c, c.replace("$", ""), takes, gives, affine, derivative, range, flops)


def _binary(
    name: str,
    meaning: str,
    partials: Callable[[Expr, Expr, Expr], tuple[Expr, Expr]] | None,
    *,
    flops: int = 1,
    spelling: str | None = None,
    takes: Takes = Takes.REAL,
    gives: Gives = Gives.FLOAT,
    affine: Affine = Affine.NONE,
    range: tuple[float, float] = (-math.inf, math.inf),
) -> Op:
    """A row with two operands; `partials(a, b, y)` is (dy/da, dy/db)."""
    c = spelling or _helper(name, 2)
    derivative: Partials | None = (lambda a, y: partials(a[0], a[1], y)) if partials else None
    return Op(name, 2, meaning, c, c.replace("$", ""), takes, gives, affine, derivative, range, flops)


def _compare(name: str, meaning: str, sign: str, takes: Takes = Takes.INT_OR_REAL) -> Op:
    spelling = f"({{0}} {sign} {{1}})"
    return _binary(
        name, meaning, None, spelling=spelling, takes=takes, gives=Gives.BOOL, affine=Affine.DISCONTINUOUS
    )  # fmt: skip


def _shorthand(name: str, meaning: str, expands: Callable[[Expr], Expr], affine: Affine = Affine.NONE) -> Op:
    return Op(name, 1, meaning, None, None, affine=affine, expands=expands)


def _reference_only(name: str, meaning: str, gives: Gives) -> Op:
    """Complex numbers are defined by the reference and the interpreter; they have no native spelling yet."""
    return Op(name, 1, meaning, None, None, Takes.ANY, gives, Affine.REAL_LINEAR)


_ANY, _NUM, _BOOL = Takes.ANY, Takes.INT_OR_REAL, Takes.BOOL
_COMMON, _DISCONTINUOUS, _ORDER = Gives.COMMON, Affine.DISCONTINUOUS, Affine.ORDER
_POSITIVE, _UNIT = (0.0, math.inf), (-1.0, 1.0)
_MINUS = number(-1.0)


def _clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    return apply("min", apply("max", x, low), high)


def _square_sum(a: Expr, b: Expr) -> Expr:
    """a^2 + b^2, and 1 where that is 0, so that what is divided by it is 0 there."""
    return _not_zero(add(mul(a, a), mul(b, b)))


def _not_zero(x: Expr) -> Expr:
    return select(apply("eq", x, _ZERO), _ONE, x)


_TABLE = (
    # arithmetic
    _unary("neg", "negative", lambda x, y: _MINUS, spelling="(-{0})", takes=_ANY, gives=_COMMON, affine=Affine.LINEAR),
    _binary(
        "add", "add", lambda a, b, y: (_ONE, _ONE),
        spelling="({0} + {1})", takes=_ANY, gives=_COMMON, affine=Affine.LINEAR,
    ),
    _binary(
        "sub", "subtract", lambda a, b, y: (_ONE, _MINUS),
        spelling="({0} - {1})", takes=_ANY, gives=_COMMON, affine=Affine.LINEAR,
    ),
    _binary(
        "mul", "multiply", lambda a, b, y: (b, a),
        spelling="({0} * {1})", takes=_ANY, gives=_COMMON, affine=Affine.PRODUCT,
    ),
    _binary(
        "div", "true_divide", lambda a, b, y: (div(_ONE, b), neg(div(y, b))),
        spelling="({0} / {1})", takes=_ANY, affine=Affine.NUMERATOR, flops=4,
    ),
    _binary(
        "pow", "power",
        lambda a, b, y: (mul(b, apply("pow", a, sub(b, _ONE))), mul(y, apply("log", _not_zero(a)))),
        takes=_ANY, flops=40,
    ),
    _binary(
        "mod", "mod", lambda a, b, y: (_ONE, neg(apply("floordiv", a, b))),
        takes=_NUM, gives=_COMMON, affine=_DISCONTINUOUS, flops=6,
    ),
    _binary(
        "floordiv", "floor_divide", lambda a, b, y: (_ZERO, _ZERO),
        takes=_NUM, gives=_COMMON, affine=_DISCONTINUOUS, flops=6,
    ),
    # comparisons, truth values, choice
    _compare("eq", "equal", "==", _ANY),
    _compare("ne", "not_equal", "!=", _ANY),
    _compare("lt", "less", "<"),
    _compare("le", "less_equal", "<="),
    _compare("gt", "greater", ">"),
    _compare("ge", "greater_equal", ">="),
    _binary(
        "and", "logical_and", None, spelling="({0} & {1})", takes=_BOOL, gives=Gives.BOOL, affine=_DISCONTINUOUS
    ),
    _binary("or", "logical_or", None, spelling="({0} | {1})", takes=_BOOL, gives=Gives.BOOL, affine=_DISCONTINUOUS),
    _unary("not", "logical_not", None, takes=_BOOL, gives=Gives.BOOL, affine=_DISCONTINUOUS),
    Op(
        "select", 3, "where", "rc_select$({0}, {1}, {2})", "tl.where({0}, {1}, {2})",
        Takes.CONDITION, Gives.BRANCH, Affine.BRANCHES,
        lambda a, y: (None, _when(a[0]), select(a[0], _ZERO, _ONE)),
    ),
    _unary(
        "stop_gradient", "same", lambda x, y: _ZERO,
        spelling="{0}", takes=_ANY, gives=_COMMON, affine=Affine.LINEAR,
    ),
    _unary(
        "cast", "same", lambda x, y: _ONE, spelling="{0}", takes=_ANY, gives=Gives.CAST, affine=Affine.LINEAR
    ),
    # order; a tie belongs to the first operand, in the derivative too
    _binary(
        "max", "maximum", lambda a, b, y: (_when(apply("ge", a, b)), _when(apply("lt", a, b))),
        takes=_NUM, gives=_COMMON, affine=_ORDER,
    ),
    _binary(
        "min", "minimum", lambda a, b, y: (_when(apply("le", a, b)), _when(apply("gt", a, b))),
        takes=_NUM, gives=_COMMON, affine=_ORDER,
    ),
    # exponentials, logarithms, roots
    _unary("exp", "exp", lambda x, y: y, takes=_ANY, range=_POSITIVE, flops=12),
    _unary("expm1", "expm1", lambda x, y: add(y, _ONE), range=(-1.0, math.inf), flops=18),
    _unary("log", "log", lambda x, y: div(_ONE, x), takes=_ANY, flops=15),
    _unary("log1p", "log1p", lambda x, y: div(_ONE, add(_ONE, x)), flops=18),
    _unary("sqrt", "sqrt", lambda x, y: div(number(0.5), y), takes=_ANY, range=_POSITIVE, flops=6),
    _unary("rsqrt", "rsqrt", lambda x, y: mul(number(-0.5), div(y, x)), range=_POSITIVE, flops=8),
    _binary(
        "logaddexp", "logaddexp",
        lambda a, b, y: (apply("exp", sub(a, some_log(y))), apply("exp", sub(b, some_log(y)))),
        affine=_ORDER, flops=35,
    ),
    # angles and special functions
    _unary("sin", "sin", lambda x, y: apply("cos", x), takes=_ANY, range=_UNIT, flops=20),
    _unary("cos", "cos", lambda x, y: neg(apply("sin", x)), takes=_ANY, range=_UNIT, flops=20),
    _binary(
        "atan2", "arctan2", lambda a, b, y: (div(b, _square_sum(a, b)), neg(div(a, _square_sum(a, b)))),
        range=(-math.pi, math.pi), flops=30,
    ),
    _unary(
        "erf", "erf", lambda x, y: mul(number(2 / math.sqrt(math.pi)), apply("exp", neg(mul(x, x)))),
        range=_UNIT, flops=25,
    ),
    # pieces
    _unary(
        "abs", "abs", lambda x, y: apply("sign", x),
        takes=_ANY, gives=Gives.REAL_PART, affine=_DISCONTINUOUS, range=_POSITIVE,
    ),
    _unary("sign", "sign", lambda x, y: _ZERO, takes=_NUM, gives=_COMMON, affine=_DISCONTINUOUS, range=_UNIT, flops=2),
    _unary("floor", "floor", lambda x, y: _ZERO, takes=_NUM, gives=_COMMON, affine=_DISCONTINUOUS),
    _unary("round", "round", lambda x, y: _ZERO, takes=_NUM, gives=_COMMON, affine=_DISCONTINUOUS),
    # gates and activations
    _unary("sigmoid", "sigmoid", lambda x, y: mul(y, sub(_ONE, y)), range=(0.0, 1.0), flops=16),
    _unary("tanh", "tanh", lambda x, y: sub(_ONE, mul(y, y)), range=_UNIT, flops=18),
    _unary("softplus", "softplus", lambda x, y: apply("sigmoid", x), range=_POSITIVE, flops=30),
    # shorthand
    _shorthand("relu", "relu", lambda x: apply("max", _ZERO, x), _ORDER),  # at 0 the derivative is 0
    _shorthand("silu", "silu", lambda x: mul(x, apply("sigmoid", x))),
    _shorthand(
        "gelu", "gelu",
        lambda x: mul(mul(number(0.5), x), add(_ONE, apply("erf", mul(x, number(math.sqrt(0.5)))))),
    ),
    _shorthand("logsigmoid", "logsigmoid", lambda x: neg(apply("softplus", neg(x)))),
    _shorthand(
        "elu", "elu",
        lambda x: select(apply("gt", x, _ZERO), x, apply("expm1", apply("min", x, _ZERO))),
    ),
    Op(
        "clamp", 3, "clip", None, None, Takes.INT_OR_REAL, Gives.COMMON, Affine.ORDER,
        expands=_clamp,
    ),
    # complex numbers
    _reference_only("real", "real", Gives.REAL_PART),
    _reference_only("imag", "imag", Gives.REAL_PART),
    _reference_only("conj", "conj", Gives.COMMON),
)  # fmt: skip

OPS: Mapping[str, Op] = MappingProxyType({op.name: op for op in _TABLE})
