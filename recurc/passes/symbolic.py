"""IR as SymPy objects, at tiny sizes: what a symbolic proof computes with. No text is ever parsed.

A value is an object array with one SymPy expression per position; what `max`, `min` and `logaddexp` make are symbols
for normal forms (`joins`). A condition that cannot be decided is guessed: `Undecided` asks the caller to try both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recurc import build
from recurc.errors import UnsupportedError
from recurc.filtering import is_filter, written_out
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
    walk,
)
from recurc.passes.joins import Joins, Objects, algebra, at_a_point, by_name, each, size, symbols
from recurc.passes.order import Order
from recurc.types import Dims, DType, Kind, axis_ids, extreme, own_dim

Lookup = Callable[[Read], Objects]
_TRUTHS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not")
_RATIONAL = ("neg", "add", "sub", "mul", "div", "cast", "stop_gradient", *_TRUTHS)


class Undecided(Exception):
    """A condition the caller has to assume true or false (`key`), for one run each."""

    def __init__(self, key: object) -> None:
        self.key = key
        super().__init__("undecided")


class Evaluator:
    """Evaluates IR over SymPy objects. `lookup` gives the value of a read, `assumed` the truth of open conditions,
    `free` whether a value of a kind that is not computed here may be any: one that no state has a part in. With
    `places` the places along a dim are numbers, else any numbers."""

    def __init__(
        self,
        joins: Joins,
        lookup: Lookup,
        assumed: Mapping[object, bool],
        free: Callable[[Expr], bool] = lambda expr: False,
        places: bool = False,
    ) -> None:
        self._joins, self._lookup, self._assumed, self._free = joins, lookup, assumed, free
        self._places = places
        self._order = Order(joins, assumed, self._supposed)
        self._made: dict[int, tuple[Expr, Objects]] = {}

    def __call__(self, expr: Expr) -> Objects:
        if not isinstance(expr, Apply):
            return self._value(expr)
        known = self._made.get(id(expr))
        if known is None:
            known = self._made[id(expr)] = (expr, self._value(expr))  # held, so that no other one gets its id
        return known[1]

    def _value(self, expr: Expr) -> Objects:
        match expr:
            case Const(value=value, dtype=dtype) if dtype.kind is Kind.INT and value in _extremes(dtype):
                return _cell(algebra().oo * (1 if value.real > 0 else -1))  # beyond every value that is computed with
            case Const(value=value):
                return _cell(_number(value))
            case Size(dim=dim):
                # A symbol, for a law that only holds at the size of the proof is none.
                known = algebra().Integer(int(dim)) if dim.isdigit() else algebra().Symbol(f"|{dim}|", positive=True)
                return _cell(known)
            case Step():
                return _cell(algebra().Symbol("t", integer=True, nonnegative=True))
            case Iota(dim=dim):
                if dim.isdigit() or own_dim(dim) != dim or self._places:
                    return np.array([algebra().Integer(i) for i in range(size(dim))], object)
                return symbols(f"place_{dim}", (dim,), integer=True, nonnegative=True)
            case Read():
                return self._lookup(expr)
            case Broadcast(arg=arg):
                return _onto(self(arg), arg.dims, expr.dims)
            case Apply(op="select"):
                return self._select(expr)
            case Apply(op="cast", args=(arg,)) if _rounds(arg.dtype, expr.dtype):
                rounded = algebra().Function(f"cast_{expr.dtype.value}")
                return each(rounded, self(arg))
            case Apply(op=op) if at_a_point() and op not in _RATIONAL and self._free(expr):
                return self._joins.opaque(expr)
            case Apply(op="or" | "and" as op, args=(first, second)):
                left = _onto(self(first), first.dims, expr.dims)
                decided = algebra().true if op == "or" else algebra().false
                if all(v == decided for v in left.flat):
                    return left  # nothing is asked about the second
                return each(lambda *v: self._op(op, *v), left, _onto(self(second), second.dims, expr.dims))
            case Apply(op=op, args=args):
                values = [_onto(self(a), a.dims, expr.dims) for a in args]
                return each(lambda *v: self._op(op, *v), *values)
            case Linalg(op="eye", dims=dims):
                return np.array(algebra().eye(size(dims[0])).tolist(), object)
            case Linalg() if is_filter(expr):
                return self(written_out(expr))
            case Linalg(op="inv" | "solve"):
                try:
                    return self._solved(expr)
                except UnsupportedError:
                    if not self._free(expr):
                        raise
                    return self._joins.opaque(expr)
            case Gather() if not self._free(expr) or _of_columns(expr):
                return self._gather(expr)
            case Unfold() if not self._free(expr) or _of_columns(expr):
                return self._neighbours(expr)
            case Reduce(op=op, arg=arg, over=over):
                return self._reduce(op, self(arg), tuple(arg.dims.index(d) for d in over))
            case Contract():
                return self._contract(expr)
            case Reaxis(arg=arg, axes=axes, at=at, index=index):
                value = self(arg)
                if at is None:
                    return value.transpose(axes)
                kept: Objects = np.take(value, np.asarray([index]), axis=at).squeeze(at)
                return kept.transpose([a - (a > at) for a in axes])
            case _:
                if self._free(expr):
                    return self._joins.opaque(expr)
                raise UnsupportedError(f"a symbolic proof does not look into {type(expr).__name__} of a state")

    def any_below_zero(self, values: Objects) -> bool:
        """Whether one of them is less than 0 by what is assumed."""
        return any(self._order.sign(v) == -1 for v in values.flat)

    def _op(self, op: str, *v: Any) -> Any:
        if op in ("sqrt", "log", "pow") and self._order.negative(v[0]) and not (op == "pow" and v[1].is_integer):
            return algebra().nan
        if algebra().nan in v and op not in _TRUTHS:
            return algebra().nan
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
            case "log":
                return self._log(v[0])
            case "sqrt":
                return algebra().sqrt(v[0])
            case "pow":
                return v[0] ** _exponent(v[1])
            case "max" | "min" | "logaddexp":
                return self._joins.join(op, *v)
            case "cast" if v[0] in (algebra().true, algebra().false):
                return algebra().Integer(v[0] == algebra().true)
            case "cast" | "stop_gradient":
                return v[0]
            case "abs" if v[0] not in (algebra().oo, -algebra().oo):
                return algebra().Function("abs", real=True)(v[0])
            case "abs" if v[0] in (algebra().oo, -algebra().oo):
                return algebra().oo
            case "mod":
                return self._modulo(*v)
            case op if op in _TRUTHS:
                return self._truth(op, *v)
            case _:
                return algebra().Function(op)(*v)

    def _log(self, value: Any) -> Any:
        """The logarithm, of a sum of exponentials as what it joins."""
        if value == 0:
            return -algebra().oo
        terms = [t.as_coeff_Mul() for t in algebra().Add.make_args(value)]
        if len(terms) > 1 and all(n.is_Integer and n > 0 and e.func == algebra().exp for n, e in terms):
            inside = [algebra().expand(e.args[0]) for n, e in terms for _ in range(int(n))]
            shared: set[Any] = set(algebra().Add.make_args(inside[0]))
            for other in inside[1:]:
                shared &= set(algebra().Add.make_args(other))
            common = algebra().Add(*shared)
            return self._joins.join("logaddexp", *(v - common for v in inside)) + common
        return algebra().log(value)

    def _solved(self, node: Linalg) -> Objects:
        """`inv` or `solve`: by the exact inverse, or any matrix in its place if no state has a part in it."""
        if self._free(node.args[0]) and not at_a_point():
            return self._times(self._joins.opaque(build.linalg("inv", node.args[0])), node)
        matrix = self(node.args[0])
        found = np.empty(matrix.shape[:-2] + matrix.shape[:-3:-1], object)
        for at in np.ndindex(matrix.shape[:-2]):
            found[at] = np.array(algebra().Matrix(matrix[at].tolist()).inv().tolist(), object)
        return self._times(found, node)

    def _times(self, found: Objects, node: Linalg) -> Objects:
        """The inverse that was found, times the right side."""
        if node.op == "inv":
            return found
        right, (*batch, rows, columns) = node.args[1], node.args[0].dims
        known = {"inverse": found, "right": self(right)}
        inverse = Read("inverse", 0, (*batch, columns, rows), node.dtype)
        held = Read("right", 0, right.dims, node.dtype)
        product = build.contract(inverse, held, len(batch) + 1, right.dims.index(rows))
        return _onto(
            Evaluator(self._joins, lambda read: known[read.name], self._assumed)(product), product.dims, node.dims
        )

    def _gather(self, node: Gather) -> Objects:
        """What lies at a place: one that is not known is looked at wherever it may be."""
        value, last = self(node.arg), size(node.arg.dims[node.axis]) - 1
        index = _onto(self(node.index), node.index.dims, node.dims)
        rest = node.arg.dims[: node.axis] + node.arg.dims[node.axis + 1 :]
        along = [node.dims.index(d) for d in rest]
        out = np.empty(index.shape, object)
        for at in np.ndindex(out.shape):
            inner = [at[k] for k in along]
            inner.insert(node.axis, self._place(index[at], last))
            out[at] = value[tuple(inner)]
        return out

    def _neighbours(self, node: Unfold) -> Objects:
        value, rank = self(node.arg), len(node.arg.dims)
        out = np.empty((*value.shape, *(size(d) for d in node.taps)), object)
        for at in np.ndindex(out.shape):
            place, inside = list(at[:rank]), True
            for axis, tap, dim in zip(node.axes, at[rank:], node.taps, strict=True):
                moved = tap - size(dim) // 2
                place[axis] += moved if node.forward else -moved
                inside = inside and 0 <= place[axis] < value.shape[axis]
                place[axis] %= value.shape[axis]
            out[at] = value[tuple(place)] if inside or node.wrap else algebra().Integer(0)
        return out

    def _place(self, value: Any, last: int) -> int:
        if value.is_Integer:
            return min(max(int(value), 0), last)
        return next((k for k in range(last) if self._supposed(("lies at", value, k)) == algebra().true), last)

    def _modulo(self, value: Any, modulus: Any) -> Any:
        """`value` modulo something, with inner remainders by the same left out: (a % m + b) % m = (a + b) % m, and so
        for what multiplies a remainder, if that is an integer."""
        remainder = algebra().Function("mod")
        value = algebra().expand(value)
        while True:
            terms = algebra().Add.make_args(value)
            plain = algebra().expand(algebra().Add(*(_lifted(t, remainder, modulus) for t in terms)))
            if modulus.is_Integer:
                plain = algebra().Add(*(_least(t, modulus) for t in algebra().Add.make_args(plain)))
            if plain == value:
                return remainder(value, modulus)
            value = plain

    def _truth(self, op: str, *v: Any) -> Any:
        if op == "not":
            return algebra().Not(self._settled(v[0]))
        if op in ("and", "or"):
            absorbing, neutral = (algebra().true, algebra().false)[:: 1 if op == "or" else -1]
            left = [truth for truth in v if truth != neutral]
            if absorbing in left or not left:
                return absorbing if absorbing in left else neutral
            return self._joins.join("max" if op == "or" else "min", *left)  # the same laws
        if algebra().nan in v:
            return algebra().true if op == "ne" else algebra().false
        if op in ("eq", "ne"):
            gap = v[0] if v[1] == -v[1] else v[0] - v[1]
            if algebra().oo in (v[0], v[1]) or -algebra().oo in (v[0], v[1]):
                known: bool | None = bool(v[0] == v[1])
            else:
                known = algebra().expand(gap).is_zero
            if known is not None:
                return algebra().true if known is (op == "eq") else algebra().false
        else:
            less = self._order.less(*v) if op in ("lt", "ge") else self._order.less(*reversed(v))
            return less if op in ("lt", "gt") else algebra().Not(less)
        return self._supposed((op, *v))

    def _settled(self, truth: Any) -> Any:
        """A truth value that is known or supposed: one that is only read, as an input's, is looked at both ways."""
        if truth in (algebra().true, algebra().false):
            return truth
        minima = self._joins.minima(truth)
        if minima is None:
            return self._supposed(("holds", truth))
        found = any(all(self._settled(one) == algebra().true for one in by_name(m)) for m in by_name(minima))
        return algebra().true if found else algebra().false

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
            return each(lambda *v: self._joins.join(op, *v), a, b)
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


def _of_columns(expr: Expr) -> bool:
    """Whether places along the columns of a matrix or a table take part: values that a pass made."""
    return any(own_dim(d) != d for n in walk(expr) for d in n.dims)


def equal(a: Objects, b: Objects, known: Mapping[Any, Any] | None = None) -> bool:
    """Whether two values are the same at every position, as expanded expressions, with what is `known` of symbols."""
    a, b = np.broadcast_arrays(a, b)
    pairs = zip(a.flat, b.flat, strict=True)
    return all(_same(x.subs(known), y.subs(known)) if known else _same(x, y) for x, y in pairs)


def _same(x: Any, y: Any) -> bool:
    if x == y:
        return True
    if any(v in (algebra().true, algebra().false) for v in (x, y)):
        return False
    gap = algebra().expand(x - y)
    if gap == 0:
        return True
    above, _ = algebra().fraction(algebra().together(x - y))
    above = algebra().expand(above)
    if above == 0 or above.is_polynomial(*above.free_symbols):
        return bool(above == 0)  # a polynomial that is written out is zero or it is not
    return bool(algebra().simplify(gap) == 0)


def _exponent(value: Any) -> Any:
    """The fraction that a rounded exponent such as 0.333... stands for."""
    if not value.is_Rational:
        return value
    near = value.limit_denominator(64)
    return near if abs(near - value) < algebra().Rational(1, 10**15) else value


def _lifted(term: Any, remainder: Any, modulus: Any) -> Any:
    """A term of a sum that is taken modulo `modulus`, without remainders by it."""
    factors = list(algebra().Mul.make_args(term))
    for i, factor in enumerate(factors):
        base, times = factor.as_base_exp()
        if base.func != remainder or base.args[1] != modulus:
            continue
        others = factors[:i] + factors[i + 1 :]
        power = times.is_Integer and times > 0 and (base.args[0].is_integer or times < 2)
        if power and all(o.is_integer or (o.func == remainder and o.args[0].is_integer) for o in others):
            return algebra().Mul(base.args[0] ** times, *others)
    return term


def _least(term: Any, modulus: Any) -> Any:
    """A term of a sum that is taken modulo `modulus`, its whole factor between 0 and that."""
    factor, rest = term.as_coeff_Mul()
    return (factor % modulus) * rest if factor.is_Integer and rest.is_integer else term


def vanishing(assumed: Mapping[Any, bool]) -> list[dict[Any, Any]]:
    """What to put for symbols where values are assumed to be zero, for each way in which they can be; none if they
    cannot all be zero at once."""
    found: list[dict[Any, Any]] = [{}]
    for key, truth in assumed.items():
        match key:
            case ("eq" | "ne" as op, a, b) if truth is (op == "eq"):
                found = [more for known in found for more in _with_zero(known, a - b)]
            case _:
                pass
    return found


def lying(assumed: Mapping[Any, bool], count: int) -> dict[Any, int]:
    """The places below `count` where values are assumed to lie."""
    found: dict[Any, int] = {}
    for key in assumed:
        match key:
            case ("lies at", value, int()):
                here = (k for k in range(count - 1) if assumed.get(("lies at", value, k)))
                found[value] = next(here, count - 1)
            case _:
                pass
    return found


def _with_zero(known: dict[Any, Any], value: Any) -> list[dict[Any, Any]]:
    """`known` and what follows if `value` is zero too, for each of its factors."""
    left = algebra().factor(value.subs(known))
    if left.is_number:
        return [known] if left == 0 else []
    solved = [_solved(f) for f in algebra().Mul.make_args(left) if not f.is_number]
    if any(s is None for s in solved):
        return [known]  # a factor that is not solved for says nothing
    return [{k: v.subs(s) for k, v in known.items()} | s for s in solved if s is not None]


def _solved(factor: Any) -> dict[Any, Any] | None:
    """One symbol by the others where `factor` is zero; None if it is not linear in one with a number before it."""
    for symbol in sorted(factor.free_symbols, key=str):
        slope = factor.diff(symbol)
        if slope.is_number and slope != 0:
            return {symbol: symbol - factor / slope}
    return None


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
        return algebra().nan
    if math.isinf(value):
        return algebra().oo if value > 0 else -algebra().oo
    return algebra().Rational(value)


def _extremes(dtype: DType) -> tuple[float, float]:
    return extreme(dtype, False), extreme(dtype, True)


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


__all__ = ["Evaluator", "Undecided", "equal", "lying", "vanishing"]
