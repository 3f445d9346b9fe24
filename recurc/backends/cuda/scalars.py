"""One element of an IR expression as C++ text: every axis has an index, and the result is a scalar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from recurc.backends.base import Specialization
from recurc.backends.emit.text import bare
from recurc.errors import CompilerBug
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Gather,
    Iota,
    Linalg,
    Read,
    Reaxis,
    Reduce,
    Size,
    Step,
    Unfold,
)
from recurc.ops import OPS
from recurc.types import Dims, DType, Kind, axis_ids

Index = Sequence[str]  # one C++ expression per axis: a name, a number, a call, or in parentheses
Resolve = Callable[[Read, Index], str]

C_TYPE = {DType.BOOL: "bool", DType.I32: "int", DType.I64: "i64", DType.F32: "float", DType.F64: "double"}
STORAGE = {
    DType.BOOL: "unsigned char", DType.I32: "int", DType.I64: "i64", DType.F16: "rc_f16", DType.BF16: "rc_bf16",
    DType.F32: "float", DType.F64: "double",
}  # fmt: skip

_WRAPPING = frozenset(("add", "sub", "mul", "neg"))  # of integers: modulo 2^64 (2^32), where C++ promises nothing


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
        case Kind.INT if value == -(2**63):  # C++ has no negative numbers, only minus signs
            return f"i64({int(value.real) + 1}LL - 1)"
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
        case Iota():
            return f"i64({index[0]})"
        case Broadcast():
            return scalar(expr.arg, dict(zip(axis_ids(expr.dims), index, strict=True)), spec, resolve)
        case Gather():
            return _scalar(expr.arg, gathered(expr, index, spec, resolve), spec, resolve)
        case Unfold():
            return _neighbour(expr, index, spec, resolve)
        case Linalg(op="eye"):
            return f"{c_type(expr.dtype, spec)}({index[0]} == {index[1]} ? 1 : 0)"
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
            if expr.op in _WRAPPING and expr.dtype.kind is Kind.INT:
                return f"rc_wrapped_{expr.op}({', '.join(args)})"
            text = spelling.replace("$", "").format(*args)
            return f"bool{text}" if expr.op in ("and", "or") else text  # `|` of two truth values is an int in C++
        case Reduce() | Contract() | Linalg():
            raise CompilerBug(f"{type(expr).__name__} inside an expression reached the printer; `flatten` names them")
        case _:
            raise CompilerBug(f"{type(expr).__name__} reached the CUDA backend, which cannot print it")


def gathered(expr: Gather, index: Index, spec: Specialization, resolve: Resolve, along: str | None = None) -> Index:
    """Where a gather whose result is wanted at `index` reads its operand; `along` stands for the place asked for."""
    places = dict(zip(axis_ids(expr.dims), index, strict=True))
    rest = list(by_axis(expr.arg.dims[: expr.axis] + expr.arg.dims[expr.axis + 1 :], places))
    size = spec.size(expr.arg.dims[expr.axis])
    asked = along or f"rc_place({bare(scalar(expr.index, places, spec, resolve))}, {size})"
    return [*rest[: expr.axis], asked, *rest[expr.axis :]]


def _neighbour(expr: Unfold, index: Index, spec: Specialization, resolve: Resolve) -> str:
    inner, inside = list(index[: len(expr.arg.dims)]), list[str]()
    for axis, tap, dim in zip(expr.axes, index[len(inner) :], expr.taps, strict=True):
        size, middle = spec.size(expr.arg.dims[axis]), spec.size(dim) // 2
        place = f"({inner[axis]} {'+' if expr.forward else '-'} ({tap} - {middle}))"
        if expr.wrap:
            place = f"rc_wrapped_place({bare(place)}, {size})"
        else:
            inside.append(f"{place} >= 0 && {place} < {size}")
        inner[axis] = place
    value = _scalar(expr.arg, inner, spec, resolve)
    return f"({' && '.join(inside)} ? {value} : {c_type(expr.dtype, spec)}(0))" if inside else value


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


def product_of(left: str, right: str, dtype: DType) -> str:
    return f"rc_wrapped_mul({left}, {right})" if dtype.kind is Kind.INT else f"{left} * {right}"


def accumulate(op: str, total: str, term: str, dtype: DType) -> str:
    """The statement that adds one term to a reduction."""
    if dtype.kind is Kind.INT and op in ("sum", "prod"):
        return f"{total} = rc_wrapped_{'add' if op == 'sum' else 'mul'}({total}, {term});"
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
