"""The functions of the language as data: what each takes and how it becomes IR."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from recurc import build, ops
from recurc.ir import Const, Expr
from recurc.source import Span
from recurc.types import DType


class Form(Enum):
    """How the arguments of a function are read."""

    ELEMENTWISE = "values, aligned by dim name"
    REDUCTION = "a value, then the dims to reduce over (none: all)"
    ORDER = "two values, or a value and dims"
    SHAPED = "values, then dims"
    SPECIAL = "a form of its own"
    UNSUPPORTED = "not supported yet"


@dataclass(frozen=True, slots=True)
class Function:
    """`arity` counts the values; `make` builds the node from them. `code` names the limitation, if it is one.

    Of the form SHAPED, `dims` is the least and the most number of dims behind the values, `more` says that further
    values may follow, and `make` takes the list of values, the dims, and the span."""

    name: str
    form: Form
    arity: int = 1
    make: Callable[..., Expr] | None = None
    code: str = ""
    options: tuple[str, ...] = ()
    what: str = ""
    dims: tuple[int, int] = (0, 0)
    more: bool = False
    named: tuple[str, ...] = ()  # the names of the values, if they may be given by name


def wanted(function: Function) -> str:
    """What a function of the form SHAPED takes, in words."""
    if function.named:
        return f"the values {', '.join(function.named)}"
    values = ("no value", "a value", "two values")[function.arity] + (" or more" if function.more else "")
    dims = ("", "a dim", "one or more dims")[min(function.dims[1], 2)]
    return " and ".join(part for part in (values if function.arity else "", dims) if part)


def _polar(radius: Expr, angle: Expr) -> Expr:
    """radius e^(i angle)."""
    return ops.mul(radius, ops.apply("exp", ops.mul(Const(1j, DType.COMPLEX), angle)))


_MANY = 100
_Values = Sequence[Expr]
_Dims = Sequence[str]


def _index(_: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.index(dims[0], span)


def _eye(_: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.eye(dims[0], span)


def _one_hot(values: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.one_hot(values[0], dims[0], span)


def _lookup(values: _Values, _: _Dims, span: Span | None) -> Expr:
    return build.lookup(*values, span=span)


def _broadcast(values: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.repeat(values[0], dims, span)


def _conv(values: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.conv(values[0], values[1], dims, False, span)


def _circular_conv(values: _Values, dims: _Dims, span: Span | None) -> Expr:
    return build.conv(values[0], values[1], dims, True, span)


def _linalg(name: str, values: _Values, _: _Dims, span: Span | None) -> Expr:
    return build.linalg(name, *values, span=span)


def _shaped() -> Iterator[Function]:
    """The functions of values and dims: places along dims, tables, neighbours, small matrices."""

    def shaped(name: str, arity: int, least: int, most: int, make: Callable[..., Expr], more: bool = False) -> Function:
        named = tuple(build.FILTERS.get(name, ()))
        return Function(name, Form.SHAPED, arity, make, dims=(least, most), more=more, named=named)

    yield shaped("index", 0, 1, 1, _index)
    yield shaped("eye", 0, 1, 1, _eye)
    yield shaped("one_hot", 1, 1, 1, _one_hot)
    yield shaped("lookup", 2, 0, 0, _lookup, more=True)
    yield shaped("broadcast", 1, 1, _MANY, _broadcast)
    yield shaped("conv", 2, 1, _MANY, _conv)
    yield shaped("circular_conv", 2, 1, _MANY, _circular_conv)
    for name in ("inv", "solve", "cholesky", "phi1", "dphi1", *build.FILTERS):
        yield shaped(name, build.LINALG[name], 0, 0, partial(_linalg, name))


def _table() -> dict[str, Function]:
    table: dict[str, Function] = {}
    elementwise = (
        "exp log log1p expm1 sqrt rsqrt sin cos atan2 erf logaddexp abs sign floor round clamp sigmoid tanh relu silu "
        "gelu softplus logsigmoid elu real imag conj stop_gradient"
    )
    for name in elementwise.split():
        table[name] = Function(name, Form.ELEMENTWISE, ops.OPS[name].arity)
    table["where"] = Function("where", Form.ELEMENTWISE, 3, ops.select)
    table["polar"] = Function("polar", Form.ELEMENTWISE, 2, _polar)
    table["outer"] = Function("outer", Form.ELEMENTWISE, 2, build.outer)
    for name in ("sum", "prod", "any", "all", "argmax", "argmin"):
        table[name] = Function(name, Form.REDUCTION)
    for name in ("mean", "norm", "softmax", "logsumexp"):
        table[name] = Function(name, Form.REDUCTION, make=getattr(build, name))
    for name in ("l2norm", "rmsnorm", "layernorm"):
        table[name] = Function(name, Form.REDUCTION, make=getattr(build, name), options=("eps",))
    for name in ("max", "min"):
        table[name] = Function(name, Form.ORDER, 2)
    for name in ("cast", "einsum", "grad", "iterate", "part", "permute", "unfold", "window"):
        table[name] = Function(name, Form.SPECIAL)
    named = tuple(build.FILTERS["kalman_mean"])
    table["kalman"] = Function("kalman", Form.SPECIAL, len(named), named=named)
    table |= {function.name: function for function in _shaped()}
    return table


FUNCTIONS = _table()
# What people write who come from NumPy, PyTorch or JAX.
FOREIGN = {
    "ln": "log", "pow": "**", "power": "**", "mod": "%", "sig": "sigmoid", "logistic": "sigmoid", "swish": "silu",
    "maximum": "max", "minimum": "min", "fabs": "abs", "clip": "clamp", "matmul": "@", "dot": "@", "mm": "@",
    "transpose": ".T", "average": "mean", "concat": "", "cat": "", "stack": "", "reshape": "", "view": "",
    "log_softmax": "x - logsumexp(x, D)", "square": "x**2", "zeros": "0", "ones": "1",
    "zeros_like": "0 * x", "ones_like": "0 * x + 1", "isnan": "x != x", "tan": "sin(x) / cos(x)", "ceil": "-floor(-x)",
}  # fmt: skip
INITIALIZERS = {
    "zeros": (0, 0), "ones": (0, 0), "uniform": (2, 2), "normal": (2, 2), "orthogonal": (0, 0), "hippo": (0, 0),
    "s4d_lin": (0, 0), "s4d_real": (0, 0), "log_uniform": (2, 2),
}  # fmt: skip
