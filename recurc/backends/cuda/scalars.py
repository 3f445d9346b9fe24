"""One element of an IR expression as C++ text: every axis has an index, and the result is a scalar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from recurc.backends.base import Specialization
from recurc.errors import CompilerBug
from recurc.ir import Apply, Const, Contract, Expr, Read, Reaxis, Reduce, Size, Step
from recurc.ops import OPS
from recurc.types import Dims, DType, Kind, axis_ids

Index = Sequence[str]  # one C++ expression per axis
Resolve = Callable[[Read, Index], str]

C_TYPE = {DType.BOOL: "bool", DType.I32: "int", DType.I64: "i64", DType.F32: "float", DType.F64: "double"}
STORAGE = {
    DType.BOOL: "unsigned char", DType.I32: "int", DType.I64: "i64", DType.F16: "rc_f16", DType.BF16: "rc_bf16",
    DType.F32: "float", DType.F64: "double",
}  # fmt: skip


def arithmetic(dtype: DType, spec: Specialization) -> DType:
    """The type a value of `dtype` is computed in and kept in registers."""
    return spec.dtype(dtype).accumulator


def c_type(dtype: DType, spec: Specialization) -> str:
    return C_TYPE[arithmetic(dtype, spec)]


def literal(value: bool | int | float | complex, dtype: DType) -> str:
    """A constant of an arithmetic type."""
    match dtype.kind:
        case Kind.BOOL:
            return "true" if value else "false"
        case Kind.INT:
            return f"i64({value}LL)" if dtype is DType.I64 else f"{value}"
        case Kind.REAL if isinstance(value, int | float):
            if math.isnan(value):
                return f"{C_TYPE[dtype]}(RC_NAN)"
            if math.isinf(value):
                return f"{C_TYPE[dtype]}({'-' if value < 0 else ''}RC_INF)"
            text = repr(float(value))
            text = f"{text}f" if dtype is DType.F32 else text
            return f"({text})" if value < 0 else text
        case _:
            raise CompilerBug(f"a constant of type {dtype.value} reached the CUDA backend")


def by_axis(dims: Dims, places: Mapping[str, str]) -> tuple[str, ...]:
    """The index of a value with `dims`, given the place along every axis id."""
    return tuple(places[axis] for axis in axis_ids(dims))


def scalar(expr: Expr, places: Mapping[str, str], spec: Specialization, resolve: Resolve) -> str:
    """C++ for the element of `expr` at `places` (axis id -> index). Dims that `expr` lacks are ignored: it is the same
    along them."""
    return _scalar(expr, by_axis(expr.dims, places), spec, resolve)


def _scalar(expr: Expr, index: Index, spec: Specialization, resolve: Resolve) -> str:
    match expr:
        case Const():
            return literal(expr.value, arithmetic(expr.dtype, spec))
        case Size():
            return literal(spec.size(expr.dim), DType.I64)
        case Step():
            return "t"
        case Read():
            return resolve(expr, index)
        case Reaxis():
            inner = [str(expr.index)] * len(expr.arg.dims)
            for place, axis in enumerate(expr.axes):
                inner[axis] = index[place]
            return _scalar(expr.arg, inner, spec, resolve)
        case Apply(op="cast"):
            (arg,) = expr.args
            text = _scalar(arg, index, spec, resolve)
            if spec.dtype(expr.dtype) in (DType.F16, DType.BF16) and not expr.dtype.is_generic:
                return f"rc_round_{expr.dtype.value}(float({text}))"
            return f"{c_type(expr.dtype, spec)}({text})"
        case Apply():
            spelling = OPS[expr.op].c
            if spelling is None:
                raise CompilerBug(f"`{expr.op}` reached the CUDA backend, which has no spelling for it")
            places = dict(zip(axis_ids(expr.dims), index, strict=True))
            args = [_scalar(arg, by_axis(arg.dims, places), spec, resolve) for arg in expr.args]
            # C++ overloads choose by type, so no suffix is needed.
            text = spelling.replace("$", "").format(*args)
            return f"bool{text}" if expr.op in ("and", "or") else text  # `|` of two truth values is an int in C++
        case Reduce() | Contract():
            raise CompilerBug("a reduction inside an expression reached the printer; `flatten` names them first")
        case _:
            raise CompilerBug(f"{type(expr).__name__} reached the CUDA backend, which cannot print it")


def bare(text: str) -> str:
    """Without the parentheses around the whole."""
    if not text.startswith("("):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else text
    return text


def identity_of(op: str, dtype: DType) -> str:
    """The neutral element of a reduction, in an arithmetic type."""
    if op in ("max", "min") and dtype in (DType.I32, DType.I64):
        largest = literal(2 ** (8 * dtype.itemsize - 1) - 1, dtype)
        return largest if op == "min" else f"(-{largest} - 1)"  # C++ has no literal for the lowest integer
    value = {"sum": 0, "prod": 1, "max": -math.inf, "min": math.inf, "any": False, "all": True}[op]
    return literal(value, dtype)


def beats(search: Reduce, term: str, best: str) -> str:
    """Whether `term` takes the place of `best` in an argmax or argmin. The first NaN wins, as in NumPy."""
    larger = f"{term} {'>' if search.op == 'argmax' else '<'} {best}"
    if search.arg.dtype.kind is not Kind.REAL:
        return larger
    return f"{larger} || ({term} != {term} && {best} == {best})"


def accumulate(op: str, total: str, term: str) -> str:
    """The statement that adds one term to a reduction."""
    match op:
        case "sum":
            return f"{total} += {term};"
        case "prod":
            return f"{total} *= {term};"
        case "any":
            return f"{total} = {total} | {term};"
        case "all":
            return f"{total} = {total} & {term};"
        case _:
            return f"{total} = rc_{op}({total}, {term});"
