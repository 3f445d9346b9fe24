"""IR as SymPy objects, at tiny sizes: what a symbolic proof computes with. No text is ever parsed.

A value is an object array with one SymPy expression per position. `max`, `min` and `logaddexp` have a normal form (the
multiset of their operands, with additions distributed over it) behind one symbol each, so that two joins are equal when
their symbols are. A condition that cannot be decided is guessed: `Undecided` asks the caller to try both.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc.errors import UnsupportedError
from recurc.ir import Apply, Const, Contract, Expr, Read, Reaxis, Reduce, Size, Step
from recurc.types import Dims, DType, axis_ids

Objects = NDArray[Any]
Lookup = Callable[[Read], Objects]
TINY = 2


@cache
def algebra() -> Any:
    """SymPy, imported when a proof is asked for and not before."""
    import sympy

    return sympy


class Undecided(Exception):
    """A condition the caller has to assume true or false (`key`), for one run each."""

    def __init__(self, key: object) -> None:
        self.key = key
        super().__init__("undecided")


def size(dim: str) -> int:
    return int(dim) if dim.isdigit() else TINY


def symbols(name: str, dims: Dims, **assumptions: bool) -> Objects:
    """One fresh-named symbol per position; equal names give equal symbols."""
    out = np.empty(tuple(size(d) for d in dims), object)
    for at in np.ndindex(out.shape):
        out[at] = algebra().Symbol("_".join((name, *map(str, at))), **(assumptions or {"real": True}))
    return out


class Joins:
    """Normal forms of max, min and logaddexp: an operator and the multiset of what it joins <-> one symbol."""

    def __init__(self) -> None:
        self._symbol: dict[tuple[str, frozenset[tuple[Any, int]]], Any] = {}
        self._members: dict[Any, tuple[str, Counter[Any]]] = {}

    def join(self, op: str, *operands: Any) -> Any:
        bottom = algebra().oo if op == "min" else -algebra().oo
        members: Counter[Any] = Counter()
        for operand in operands:
            members.update(self._of(op, algebra().expand(operand)))
        members.pop(bottom, None)
        if op != "logaddexp":
            members = Counter(dict.fromkeys(members, 1))
        if not members:
            return bottom
        if len(members) == 1 and sum(members.values()) == 1:
            return next(iter(members))
        key = (op, frozenset(members.items()))
        if key not in self._symbol:
            symbol = algebra().Symbol(f"{op}_{len(self._symbol)}", real=True)
            self._symbol[key] = symbol
            self._members[symbol] = (op, members)
        return self._symbol[key]

    def canonical(self, values: Objects) -> Objects:
        """`values` with every `max(a, b) + c` as `max(a + c, b + c)`."""
        return _each(self._moved, values)

    def _moved(self, value: Any) -> Any:
        terms = algebra().Add.make_args(value)
        inside = [t for t in terms if t in self._members]
        if len(terms) == 1 or len(inside) != 1 or any(t in self._members for t in (value - inside[0]).free_symbols):
            return value
        return self.join(self._members[inside[0]][0], value)

    def _of(self, op: str, value: Any) -> Counter[Any]:
        """What `value` joins: `join(a, b) + c` is `join(a + c, b + c)`."""
        for term in algebra().Add.make_args(value):
            known = self._members.get(term)
            if known is not None and known[0] == op:
                found: Counter[Any] = Counter()
                for member, times in known[1].items():
                    moved = algebra().expand(value - term + member)
                    for inner, count in self._of(op, moved).items():
                        found[inner] += times * count
                return found
        return Counter({value: 1})


class Evaluator:
    """Evaluates IR over SymPy objects. `lookup` gives the value of a read, `assumed` the truth of open conditions."""

    def __init__(self, joins: Joins, lookup: Lookup, assumed: Mapping[object, bool]) -> None:
        self._joins, self._lookup, self._assumed = joins, lookup, assumed

    def __call__(self, expr: Expr) -> Objects:
        match expr:
            case Const(value=value):
                return _cell(_number(value))
            case Size(dim=dim):
                # A symbol, for a law that only holds at the size of the proof is none.
                known = algebra().Integer(int(dim)) if dim.isdigit() else algebra().Symbol(f"|{dim}|", positive=True)
                return _cell(known)
            case Step():
                return _cell(algebra().Symbol("t", integer=True, nonnegative=True))
            case Read():
                return self._lookup(expr)
            case Apply(op="select"):
                return self._select(expr)
            case Apply(op="cast", args=(arg,)) if _rounds(arg.dtype, expr.dtype):
                rounded = algebra().Function(f"cast_{expr.dtype.value}")
                return _each(rounded, self(arg))
            case Apply(op=op, args=args):
                values = [_onto(self(a), a.dims, expr.dims) for a in args]
                return _each(lambda *v: self._op(op, *v), *values)
            case Reduce(op=op, arg=arg, over=over):
                return self._reduce(op, self(arg), tuple(arg.dims.index(d) for d in over))
            case Contract():
                return self._contract(expr)
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                value = self(arg)
                if at is None:
                    return value.transpose(axes)
                kept: Objects = np.take(value, np.asarray(index), axis=at)
                return kept.transpose([a - (a > at) for a in axes])
            case _:
                raise UnsupportedError(f"a symbolic proof does not know {type(expr).__name__} yet")

    def _op(self, op: str, *v: Any) -> Any:
        match op:
            case "neg":
                return -v[0]
            case "add":
                return v[0] + v[1]
            case "sub":
                return v[0] - v[1]
            case "mul":
                return v[0] * v[1]
            case "div":
                return v[0] / v[1]
            case "exp":
                return algebra().exp(v[0])
            case "max" | "min" | "logaddexp":
                return self._joins.join(op, *v)
            case "cast" | "stop_gradient":
                return v[0]
            case "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "and" | "or" | "not":
                return self._truth(op, *v)
            case _:
                return algebra().Function(op)(*v)

    def _truth(self, op: str, *v: Any) -> Any:
        if op in ("and", "or", "not"):
            logic = {"and": algebra().And, "or": algebra().Or, "not": algebra().Not}[op]
            return logic(*(self._settled(truth) for truth in v))
        if op in ("eq", "ne"):
            gap = v[0] if v[1] == -v[1] else v[0] - v[1]
            if algebra().oo in (v[0], v[1]) or -algebra().oo in (v[0], v[1]):
                known: bool | None = bool(v[0] == v[1])
            else:
                known = algebra().expand(gap).is_zero
            if known is not None:
                return algebra().true if known is (op == "eq") else algebra().false
        return self._supposed((op, *v))

    def _settled(self, truth: Any) -> Any:
        """A truth value that is known or supposed: one that is only read, as an input's, is looked at both ways."""
        return truth if truth in (algebra().true, algebra().false) else self._supposed(("holds", truth))

    def _supposed(self, key: object) -> Any:
        if key not in self._assumed:
            raise Undecided(key)
        return algebra().true if self._assumed[key] else algebra().false

    def _select(self, expr: Apply) -> Objects:
        condition, yes, no = expr.args
        picks = {"gt": "max", "ge": "max", "lt": "min", "le": "min"}
        if isinstance(condition, Apply) and condition.op in picks and set(condition.args) == {yes, no}:
            op = picks[condition.op]
            if condition.args != (yes, no):
                op = {"max": "min", "min": "max"}[op]
            a, b = (_onto(self(e), e.dims, expr.dims) for e in (yes, no))
            return _each(lambda *v: self._joins.join(op, *v), a, b)
        chosen = _onto(self(condition), condition.dims, expr.dims)
        values: list[Objects | None] = [None, None]
        out = np.empty(chosen.shape, object)
        for at in np.ndindex(chosen.shape):
            which = 0 if self._settled(chosen[at]) == algebra().true else 1
            if values[which] is None:  # a branch nobody takes may be undefined, so it is not evaluated
                branch = (yes, no)[which]
                values[which] = _onto(self(branch), branch.dims, expr.dims)
            taken = values[which]
            assert taken is not None
            out[at] = taken[at]
        return out

    def _reduce(self, op: str, value: Objects, axes: tuple[int, ...]) -> Objects:
        kept = [a for a in range(value.ndim) if a not in axes]
        moved = value.transpose([*kept, *axes]).reshape([*(value.shape[a] for a in kept), -1])
        out = np.empty(moved.shape[:-1], object)
        for at in np.ndindex(out.shape):
            items = list(moved[at])
            match op:
                case "sum":
                    out[at] = algebra().Add(*items)
                case "prod":
                    out[at] = algebra().Mul(*items)
                case "max" | "min":
                    out[at] = self._joins.join(op, *items)
                case "any" | "all":
                    out[at] = self._truth({"any": "or", "all": "and"}[op], *items)
                case _:
                    out[at] = algebra().Function(op)(*items)
        return out

    def _contract(self, node: Contract) -> Objects:
        left, right = self(node.left), self(node.right)
        sizes = dict(zip(node.left_axes, left.shape, strict=True)) | dict(
            zip(node.right_axes, right.shape, strict=True)
        )
        summed = [k for k in sizes if k not in node.out_axes]
        out = np.empty(tuple(sizes[k] for k in node.out_axes), object)
        for at in np.ndindex(out.shape):
            place = dict(zip(node.out_axes, at, strict=True))
            terms: list[Any] = []
            for inner in itertools.product(*(range(sizes[k]) for k in summed)):
                here = place | dict(zip(summed, inner, strict=True))
                terms.append(
                    left[tuple(here[k] for k in node.left_axes)] * right[tuple(here[k] for k in node.right_axes)]
                )
            out[at] = algebra().Add(*terms)
        return out


def equal(a: Objects, b: Objects) -> bool:
    """Whether two values are the same at every position, as expanded expressions."""
    a, b = np.broadcast_arrays(a, b)
    return all(_same(x, y) for x, y in zip(a.flat, b.flat, strict=True))


def _same(x: Any, y: Any) -> bool:
    if x == y:
        return True
    gap = algebra().expand(x - y)
    return bool(gap == 0) or bool(algebra().together(gap) == 0) or bool(algebra().simplify(gap) == 0)


def _rounds(old: DType, new: DType) -> bool:
    """Whether a cast is more than a change of type: to whole numbers, truth values or half precision."""
    return new is not old and (new.kind.value < old.kind.value or new in (DType.F16, DType.BF16))


def _number(value: complex) -> Any:
    if isinstance(value, bool):
        return algebra().true if value else algebra().false
    if isinstance(value, int):
        return algebra().Integer(value)
    if isinstance(value, complex):
        return _number(value.real) + algebra().I * _number(value.imag)
    if math.isnan(value):
        raise UnsupportedError("a proof about a constant that is not a number")
    if math.isinf(value):
        return algebra().oo if value > 0 else -algebra().oo
    return algebra().Rational(value)


def _cell(value: Any) -> Objects:
    out = np.empty((), object)
    out[()] = value
    return out


def _onto(value: Objects, dims: Dims, onto: Dims) -> Objects:
    """`value` of `dims` laid out along `onto`, repeated along the dims it lacks."""
    ids, target = axis_ids(dims), axis_ids(onto)
    ordered = value.transpose([ids.index(i) for i in target if i in ids])
    shape = tuple(size(d) if i in ids else 1 for d, i in zip(onto, target, strict=True))
    return np.broadcast_to(ordered.reshape(shape), tuple(size(d) for d in onto))


def _each(function: Callable[..., Any], *values: Objects) -> Objects:
    out = np.empty(values[0].shape, object)
    for at in np.ndindex(out.shape):
        out[at] = function(*(v[at] for v in values))
    return out


__all__ = ["Evaluator", "Joins", "Undecided", "equal", "size", "symbols"]
