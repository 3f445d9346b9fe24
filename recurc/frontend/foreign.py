"""NumPy's and torch's functions on traced values, by what they mean; `axis` and `dim` take dim names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np

from recurc import build, ir, ops
from recurc.errors import TraceError
from recurc.frontend.functions import FUNCTIONS, Form, Function
from recurc.frontend.traced import Traced, elementwise, operate
from recurc.ops import OPS
from recurc.types import DType, Kind, show_dims

_REDUCTIONS = {
    "sum": "sum", "prod": "prod", "amax": "max", "max": "max", "amin": "min", "min": "min", "any": "any", "all": "all",
    "mean": "mean", "argmax": "argmax", "argmin": "argmin", "softmax": "softmax", "logsumexp": "logsumexp",
    "norm": "norm",
}  # fmt: skip
# Names the libraries have for operators that the op table names otherwise.
_ALIASES = {
    "maximum": "max", "minimum": "min", "subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div",
    "power": "pow", "float_power": "pow", "remainder": "mod", "floor_divide": "floordiv", "negative": "neg",
    "absolute": "abs", "arctan2": "atan2", "rint": "round", "around": "round", "conjugate": "conj", "clip": "clamp",
    "where": "select", "logical_and": "and", "logical_or": "or", "logical_not": "not", "bitwise_and": "and",
    "bitwise_or": "or", "bitwise_not": "not", "invert": "not", "equal": "eq", "not_equal": "ne", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge", "rsub": "sub", "sgn": "sign", "swish": "silu",
    "log_sigmoid": "logsigmoid", "special_expit": "sigmoid", "expit": "sigmoid", "special_erf": "erf",
    "special_log1p": "log1p", "special_expm1": "expm1",
}  # fmt: skip
# Arguments that torch.nn.functional passes on even where the caller did not.
_DEFAULTS = {
    "inplace": False, "alpha": 1.0, "_stacklevel": 3, "approximate": "none", "beta": 1, "threshold": 20,
    "norm_type": 2.0, "scale_grad_by_freq": False, "sparse": False,
}  # fmt: skip
_SWAPPED = {"rsub", "__rsub__", "__rtruediv__", "__rdiv__", "__rpow__", "__rmod__", "__rfloordiv__", "__rmatmul__"}


@lru_cache(maxsize=1)
def _ufuncs() -> dict[Any, str]:
    found = {op.numpy: name for name, op in OPS.items() if isinstance(op.numpy, np.ufunc)}
    return found | {
        getattr(np, alias): op for alias, op in _ALIASES.items() if isinstance(getattr(np, alias, None), np.ufunc)
    }


def numpy_ufunc(ufunc: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    if method != "__call__" or kwargs:
        raise _refusal(
            f"np.{ufunc.__name__}" + (f".{method}" if method != "__call__" else f" with {', '.join(kwargs)}")
        )
    if ufunc is np.matmul:
        return operate(build.matmul, *args)
    if ufunc is np.square:
        return elementwise("mul", args[0], args[0])
    if ufunc is np.reciprocal:
        return elementwise("div", 1.0, args[0])
    name = _ufuncs().get(ufunc)
    if name is None:
        raise _refusal(f"np.{ufunc.__name__}")
    return elementwise(name, *args)


def numpy_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    return _named(f"np.{function.__name__}", function.__name__, args, kwargs)


def torch_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    name = getattr(function, "__name__", str(function))
    if name == "square":
        return elementwise("mul", args[0], args[0])
    if name == "reciprocal":
        return elementwise("div", 1.0, args[0])
    return _named(f"torch.{name}", name, args, kwargs)


def _named(shown: str, name: str, given: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    """A function of either library by its name, with the arguments the two have in common."""
    args = list(given)
    plain = name.strip("_")
    if name in _SWAPPED:
        args, plain = [args[1], args[0]], plain.removeprefix("r")
    plain = {"truediv": "div"}.get(plain, plain.removeprefix("r") if plain in ("radd", "rmul") else plain)
    kwargs = {k: v for k, v in kwargs.items() if v is not None and not (k in _DEFAULTS and v == _DEFAULTS[k])}
    if plain in ("dot", "matmul", "mm", "mv", "bmm") and not kwargs:
        return operate(build.matmul, *args)
    if plain in ("outer", "ger") and not kwargs:
        return operate(build.outer, *args)
    if plain == "lerp" and not kwargs:
        start, end, weight = args
        return start + weight * (end - start)
    found = _shaped_like(plain, args, kwargs)
    if found is not None:
        return found
    if plain in ("max", "min") and len(args) == 2 and isinstance(args[1], Traced):
        return elementwise(plain, *args)
    if plain in _REDUCTIONS:
        return _reduction(shown, _REDUCTIONS[plain], args, kwargs)
    op = plain if plain in OPS else _ALIASES.get(plain)
    if op == "clamp":
        low = kwargs.pop("min", kwargs.pop("a_min", args[1] if len(args) > 1 else None))
        high = kwargs.pop("max", kwargs.pop("a_max", args[2] if len(args) > 2 else None))
        return _clamped(args[0], low, high)
    if op is None or kwargs or len(args) != OPS[op].arity:
        # Defaults written out, such as softplus(x, 1.0, 20.0), would be silently ignored here: refuse them.
        raise _refusal(shown if not kwargs else f"{shown} with {', '.join(kwargs)}")
    return elementwise(op, *args)


# Functions of the libraries that go by another name here.
_SHAPED = {
    "inv": "inv", "inverse": "inv", "linalg_inv": "inv", "linalg_solve": "solve", "solve": "solve",
    "cholesky": "cholesky", "linalg_cholesky": "cholesky",
}  # fmt: skip


def _shaped_like(plain: str, args: list[Any], kwargs: dict[str, Any]) -> Traced | None:
    """A function of values and dims, or None: small matrices, tables, constants of a value's shape."""
    options = {k: v for k, v in kwargs.items() if (k, v) not in (("left", True), ("upper", False))}
    if plain in _SHAPED and not options:
        return shaped(FUNCTIONS[_SHAPED[plain]], args, ())
    if plain in ("take", "index_select"):
        axis = options.pop("axis", options.pop("dim", None))
        table, *rest = args
        if plain == "index_select" and len(rest) == 2:
            axis, rest = rest[0], rest[1:]
        elif len(rest) == 2:
            rest, axis = rest[:1], rest[1]
        if not options and len(rest) == 1 and axis is not None:
            return _taken(table, rest[0], axis)
    if plain == "embedding" and not options and len(args) >= 2:
        return shaped(FUNCTIONS["lookup"], [args[1], args[0]], ())
    if plain in ("zeros_like", "ones_like") and not options and len(args) == 1:
        return operate(partial(_constant, value=int(plain == "ones_like")), args[0])
    if plain == "detach" and not options:
        return elementwise("stop_gradient", *args)
    if plain == "angle" and not options and len(args) == 1:
        return elementwise("atan2", elementwise("imag", args[0]), elementwise("real", args[0]))
    return None


def _constant(like: ir.Expr, value: int) -> ir.Expr:
    """0 or 1 in the dims and the type of a value."""
    if like.dtype.kind is Kind.BOOL:
        return build.broadcast(ir.Const(bool(value), DType.BOOL), like.dims)
    return build.broadcast(ops.convert(ir.Const(value, DType.I64), like.dtype), like.dims)


def _taken(table: Any, place: Any, axis: Any) -> Traced:
    """`table` at places along one axis: a dim's name, or 0 for the leading one."""

    def make(value: ir.Expr, at: ir.Expr) -> ir.Expr:
        found = value.dims.index(axis) if axis in value.dims else axis
        if not isinstance(found, int) or isinstance(found, bool) or (found != 0 and axis not in value.dims):
            raise ops.TypeProblem("E0314", f"take along {axis!r}: name a dim of {show_dims(value.dims)}")
        return build.gather(value, found, at)

    return operate(make, table, place)


def dim_names(function: str, dims: Sequence[Any]) -> tuple[str, ...]:
    """Dims as a function of the language takes them in Python. Raises `TraceError` for what is no dim."""
    names = tuple(str(d) for d in dims)
    for dim in names:
        if not (dim.isidentifier() or (dim.isdigit() and int(dim) > 0)):
            raise TraceError(f"recurc.{function}: a dim is a name in quotes or a positive integer, got {dim!r}")
    return names


def shaped(function: Function, values: Sequence[Any], dims: Sequence[Any]) -> Traced:
    """A function of the language that takes values, then dims."""
    assert function.make is not None
    make = function.make
    names = dim_names(function.name, dims)
    return operate(lambda *exprs: make(exprs, names, None), *values)


def _clamped(value: Any, low: Any, high: Any) -> Traced:
    if low is not None and high is not None:
        return elementwise("clamp", value, low, high)
    return elementwise("max", value, low) if low is not None else elementwise("min", value, high)


def _reduction(shown: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Traced:
    over = kwargs.pop("axis", kwargs.pop("dim", args[1] if len(args) > 1 else None))
    keep = kwargs.pop("keepdims", kwargs.pop("keepdim", False))
    if keep or kwargs or len(args) > 2:
        raise _refusal(f"{shown} with {', '.join(kwargs) or 'keepdims'}")
    return reduction(name, args[0], _dims(shown, over))


def reduction(name: str, value: Any, over: tuple[str, ...], **options: float) -> Traced:
    """A reduction of the language over named dims; none named: all."""
    made = FUNCTIONS[name]
    if made.form is Form.REDUCTION and made.make is not None:
        return operate(partial(made.make, over=over, **options), value)
    return operate(partial(build.reduce, name, over=over), value)


def method(value: Traced, name: str) -> Callable[..., Traced] | None:
    """A function of the language as a method of a traced value."""
    made = FUNCTIONS.get(name)
    if name == "detach":
        return partial(elementwise, "stop_gradient", value)
    if made is None or made.form in (Form.SPECIAL, Form.UNSUPPORTED) or name in ("where", "polar", "index", "eye"):
        return None

    def call(*args: Any, **kwargs: Any) -> Traced:
        if made.form is Form.SHAPED and not kwargs:
            count = 1 + len(args) if made.more else made.arity
            return shaped(made, (value, *args)[:count], (value, *args)[count:])
        return _named(f".{name}", name, (value, *args), kwargs)

    return call


def _dims(shown: str, over: Any) -> tuple[str, ...]:
    names: tuple[Any, ...] = ()
    if over is not None:
        names = tuple(cast("tuple[Any, ...]", over)) if isinstance(over, (tuple, list)) else (over,)
    for dim in names:
        if not isinstance(dim, str):
            raise TraceError(
                f'{shown} over axis {dim!r}: name the dim, as in {shown}(x, "D"); batch and time have no axis here'
            )
    return tuple(names)


def _refusal(what: str) -> TraceError:
    return TraceError(f"{what} is not supported on traced values; recurc.* has the functions of the language")
