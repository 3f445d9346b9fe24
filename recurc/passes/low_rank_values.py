"""The values an equation takes in matrix states under products of matrices: an abstract interpretation.

For one state or several of equal shape and one choice of their rows, a value is `Free` (no state reaches it), a
`Matrix` (the states times factors plus writes of low rank), a `Row` (a sum of the states over their rows, with weights,
plus an offset) or `Other`, with the operator and the place that made it so. Names are looked through. A matrix that was
written to and is summed over its rows gives a row of the old states, since `q . (S + k (x) u) = q . S + (q . k) u`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from recurc.ir import Apply, Broadcast, Contract, Expr, Read, Reaxis, Recurrence, Reduce, reads
from recurc.ops import apply, convert
from recurc.passes.affine import is_number, one, reorders_only, shown, sum_over, zero
from recurc.source import Span
from recurc.types import Dims, DType, Kind

MOST_WRITES = 4  # a product of more Householder matrices than these is left to the loop
Parts = tuple[Expr | None, ...]  # one for each state; None where it does not take part


@dataclass(frozen=True)
class Free:
    expr: Expr


@dataclass(frozen=True)
class Term:
    """A write in the making: `key` (x) (`probes` . states + `value`), summed over `rank`. The row of a `settled` one is
    written to another state as it is, so that factors go to the key."""

    key: Expr
    probes: Parts
    value: Expr | None
    rank: Dims = ()
    settled: bool = False

    def beside(self, scale: Callable[[Expr], Expr]) -> Term:
        """`scale` on what is linear in the write once."""
        if self.settled:
            return replace(self, key=scale(self.key))
        return replace(self, probes=_each(self.probes, scale), value=None if self.value is None else scale(self.value))


@dataclass(frozen=True)
class Matrix:
    """The sum of `factors` o states + writes, at lag `lag` of the states, summed over the rows that `left` lacks (the
    factors still have those: their sum with the states is taken at the end). No factor: the state is only read by the
    writes."""

    lag: int
    factors: Parts
    writes: tuple[Term, ...]
    left: Dims


@dataclass(frozen=True)
class Row:
    """The sum of `probes` . states, plus the value."""

    lag: int
    probes: Parts
    value: Expr | None


@dataclass(frozen=True)
class Other:
    text: str
    span: Span | None = None


Value = Free | Matrix | Row | Other


def moving(rec: Recurrence, states: Iterable[str]) -> frozenset[str]:
    """The equations that read one of the states, directly or through others that are not states."""
    known, found = {s.name for s in rec.states}, set[str]()
    for equation in rec.equations:
        if equation.name not in known and reaches(equation.expr, states, found):
            found.add(equation.name)
    return frozenset(found)


def reaches(expr: Expr, states: Iterable[str], moving: frozenset[str] | set[str]) -> bool:
    return any(r.name in states or (r.name in moving and not r.lag) for r in reads(expr))


class Values:
    """Some states of equal shape with one choice of their rows, and of their columns once they are known."""

    def __init__(self, rec: Recurrence, members: tuple[str, ...], rows: Dims, columns: Dims | None = None) -> None:
        self.rec, self.members, self.rows = rec, members, rows
        self.who, self.old = ", ".join(members), " or ".join(shown(m) for m in members)
        self.moving = moving(rec, members)
        self.equations = {e.name: e for e in rec.equations}
        self.states = {s.name: s for s in rec.states}
        self.dims, self.dtype = self.states[members[0]].dims, self.states[members[0]].dtype
        self.columns = tuple(d for d in self.dims if d not in rows) if columns is None else columns
        self.inside = False  # an update: new values of the states are looked through as well
        self._named: dict[tuple[str, bool], Value] = {}
        self._seen: dict[tuple[int, bool], Value] = {}

    def value(self, expr: Expr) -> Value:
        if not reaches(expr, self.members, self.moving):
            return Free(expr)
        known = self._seen.get((id(expr), self.inside))
        if known is None:
            known = self._seen[id(expr), self.inside] = self._value(expr)
        return known

    def update(self, state: str) -> Value:
        """The new value of a state by the old ones."""
        self.inside = True
        value = self._of_equation(state)
        self.inside = False
        return spread(value, self.rows) if isinstance(value, Row) else value

    def _of_equation(self, name: str) -> Value:
        key = (name, self.inside)
        if key not in self._named:
            self._named[key] = self.value(self.equations[name].expr)
        return self._named[key]

    def _value(self, expr: Expr) -> Value:
        match expr:
            case Read(name=name, lag=0) if name in self.members and self.inside:
                return _settled(self._of_equation(name), self.rows)
            case Read(name=name) if name in self.members:
                factors = tuple(one(self.dtype) if m == name else None for m in self.members)
                return Matrix(expr.lag, factors, (), self.rows)
            case Read(name=name):
                return self._of_equation(name)
            case Apply():
                return self._apply(expr, [self.value(a) for a in expr.args])
            case Contract():
                return self._contract(expr)
            case Reduce(arg=arg, op="sum"):
                return self._summed(self.value(arg), expr.over, expr)
            case Broadcast(arg=arg):
                value = self.value(arg)
                new = set(expr.dims) - set(arg.dims)
                if isinstance(value, Row) and new & set(self.rows):
                    return spread(value, self.rows)
                return value if new <= set(self.dims) else Other(f"{self.who} is repeated along new dims", expr.span)
            case Reaxis(arg=arg) if reorders_only(expr):
                return self.value(arg)
            case _:
                return Other(f"{self.who} meets what is no sum over its rows", expr.span)

    def _apply(self, node: Apply, values: list[Value]) -> Value:
        other = next((v for v in values if isinstance(v, Other)), None)
        if other is not None:
            return other
        match node.op:
            case "neg":
                return self._scaled(values[0], lambda e: apply("neg", e))
            case "add":
                return self._added(values[0], values[1], node)
            case "sub":
                return self._added(values[0], self._scaled(values[1], lambda e: apply("neg", e)), node)
            case "mul":
                match values:
                    case [Free(expr=factor), moving] | [moving, Free(expr=factor)]:
                        return self._product(moving, factor, node)
                    case _:
                        pass
            case "div" if isinstance(values[1], Free):
                return self._quotient(values[0], values[1].expr, node)
            case "select" if isinstance(values[0], Free):
                return self._chosen(values[0].expr, values[1], values[2], node)
            case "cast" if node.dtype.kind is Kind.REAL and node.dtype not in (DType.F16, DType.BF16):
                return self._scaled(values[0], lambda e: convert(e, node.dtype))
            case _:
                pass
        return Other(f"{self.old} reaches `{node.op}`", node.span)

    def _scaled(self, value: Value, scale: Callable[[Expr], Expr]) -> Value:
        """`scale` on what is linear in the value once: on the factor and beside the keys."""
        match value:
            case Free(expr=expr):
                return Free(scale(expr))
            case Matrix(factors=factors):
                return replace(
                    value, factors=_each(factors, scale), writes=tuple(w.beside(scale) for w in value.writes)
                )
            case Row(lag=lag, probes=probes, value=offset):
                return Row(lag, _each(probes, scale), None if offset is None else scale(offset))
            case Other():
                return value

    def _added(self, a: Value, b: Value, node: Expr) -> Value:
        if isinstance(a, Other) or isinstance(b, Other):
            return a if isinstance(a, Other) else b
        if isinstance(a, Free) and isinstance(b, Free):
            return Free(apply("add", a.expr, b.expr))
        if isinstance(a, Free):
            a, b = b, a
        assert not isinstance(a, Free)
        if isinstance(b, Free):
            if isinstance(a, Row) and not set(b.expr.dims) & set(self.rows):
                return replace(a, value=_plus(a.value, b.expr))
            a = spread(a, self.rows) if isinstance(a, Row) else a
            if a.left != self.rows:
                return Other(f"{self.who} meets what is no sum over its rows", node.span)
            if is_number(b.expr, 0):
                return a
            new = tuple(self._write(p) for p in self._split(b.expr))
            return replace(a, writes=a.writes + new)
        if a.lag != b.lag:
            return Other(f"{self.who} is read before and after its update in one term", node.span)
        if isinstance(a, Row) and isinstance(b, Row):
            return Row(a.lag, _pairwise(_plus, a.probes, b.probes), _plus(a.value, b.value))
        a, b = (spread(v, self.rows) if isinstance(v, Row) else v for v in (a, b))
        if a.left != b.left:
            return Other(f"{self.who} meets what is no sum over its rows", node.span)
        return Matrix(a.lag, _pairwise(_plus, a.factors, b.factors), a.writes + b.writes, a.left)

    def _write(self, product: Product) -> Term:
        key, aside, rank = product
        none = (None,) * len(self.members)
        return Term(key or one(self.dtype), none, aside or one(self.dtype), rank)

    def _product(self, value: Value, factor: Expr, node: Expr) -> Value:
        match value:
            case Free(expr=expr):
                return Free(apply("mul", factor, expr))
            case Matrix():
                if set(factor.dims) & (set(self.rows) - set(value.left)):
                    return Other(f"{self.who} is spread again along a dim that was summed over", node.span)
                if any(set(factor.dims) & set(w.rank) for w in value.writes):
                    return Other(f"{self.who} meets a dim again that its writes were summed over", node.span)
                parts = self._split(factor)
                key, aside, _ = parts[0] if len(parts) == 1 and not parts[0][2] else (factor, None, ())
                scaled = tuple(
                    (w if key is None else replace(w, key=apply("mul", key, w.key))).beside(_times(aside))
                    for w in value.writes
                )
                return replace(value, factors=_each(value.factors, _times(factor)), writes=scaled)
            case Row(lag=lag, probes=probes, value=offset):
                if not set(factor.dims) & set(self.rows):
                    return self._scaled(value, _times(factor))
                parts = self._split(factor)
                parts = [(factor, None, ())] if any(rank for _, _, rank in parts) else parts
                writes = tuple(
                    Term(key or one(self.dtype), probes, offset).beside(_times(aside)) for key, aside, _ in parts
                )
                return Matrix(lag, (None,) * len(self.members), writes, self.rows)
            case Other():
                return value

    def _quotient(self, value: Value, by: Expr, node: Expr) -> Value:
        ranks = {d for w in value.writes for d in w.rank} if isinstance(value, Matrix) else set[str]()
        if not set(by.dims) & {*self.rows, *ranks}:
            return self._scaled(value, lambda e: apply("div", e, by))
        return self._product(value, apply("div", one(self.dtype), by), node)

    def _chosen(self, condition: Expr, yes: Value, no: Value, node: Expr) -> Value:
        """Each branch where it holds, zero where it does not. A branch without the state would drop it, which a product
        with zero does not do to an infinity: that is left to the loop."""
        if isinstance(yes, Free) or isinstance(no, Free):
            return Other(f"a choice drops {self.old} where its condition holds", node.span)
        nothing = zero(self.dtype)

        def where(e: Expr | None, holds: bool) -> Expr | None:
            if e is None:
                return None
            return apply("select", condition, e, nothing) if holds else apply("select", condition, nothing, e)

        def either(a: Expr | None, b: Expr | None) -> Expr | None:
            return None if a is None and b is None else apply("select", condition, a or nothing, b or nothing)

        if isinstance(yes, Row) and isinstance(no, Row) and yes.lag == no.lag:
            return Row(yes.lag, _pairwise(either, yes.probes, no.probes), either(yes.value, no.value))
        if not (isinstance(yes, Matrix) and isinstance(no, Matrix)) or yes.lag != no.lag or yes.left != no.left:
            return Other(f"the branches of a choice read {self.who} in different ways", node.span)
        inside, aside = not set(condition.dims) - set(self.rows), not set(condition.dims) & set(self.rows)

        def gated(write: Term, holds: bool) -> Term:
            key = where(write.key, holds) if inside or write.settled else write.key
            assert key is not None
            if not aside or write.settled:
                return replace(write, key=key)
            probes = tuple(where(p, holds) for p in write.probes)
            return replace(write, key=key, probes=probes, value=where(write.value, holds))

        if not inside and not aside:
            return Other(f"a condition tells rows and columns of {self.who} apart at once", node.span)
        if any(set(condition.dims) & set(w.rank) for w in (*yes.writes, *no.writes)):
            return Other(f"a condition meets a dim that writes of {self.who} were summed over", node.span)
        writes = (*(gated(w, True) for w in yes.writes), *(gated(w, False) for w in no.writes))
        return Matrix(yes.lag, _pairwise(either, yes.factors, no.factors), writes, yes.left)

    def _contract(self, node: Contract) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        labels = [
            *zip(node.left_axes, node.left.dims, strict=True),
            *zip(node.right_axes, node.right.dims, strict=True),
        ]
        if len({k for k, _ in labels}) != len(set(labels)) or len({d for _, d in labels}) != len(set(labels)):
            return Other(f"{self.who} is contracted along dims of other names", node.span)
        match left, right:
            case (Free(expr=factor), moving) | (moving, Free(expr=factor)):
                over = tuple(dict.fromkeys(d for k, d in labels if k not in node.out_axes))
                return self._summed(self._product(moving, factor, node), over, node)
            case (Other(), _):
                return left
            case (_, Other()):
                return right
            case _:
                return Other(f"{self.old} is contracted with a value that also depends on it", node.span)

    def _summed(self, value: Value, over: Dims, node: Expr) -> Value:
        if isinstance(value, Other | Free) or not over:
            return value
        rows = tuple(d for d in over if d in self.rows)
        rest = tuple(d for d in over if d not in rows)
        if set(rest) & set(self.dims) or (rows and (isinstance(value, Row) or set(rows) - set(value.left))):
            return Other(f"{self.who} is summed over {', '.join(over)}", node.span)
        if isinstance(value, Row):
            return self._scaled(value, lambda e: sum_over(e, rest))
        if rest:
            value = self._ranked(value, rest)
        if not rows:
            return value
        left = tuple(d for d in value.left if d not in rows)
        writes = tuple(replace(w, key=sum_over(w.key, rows)) for w in value.writes)
        if left:
            return replace(value, writes=writes, left=left)
        probes, offset = value.factors, None
        for w in writes:

            def met(part: Expr, w: Term = w) -> Expr:
                return sum_over(_times(w.key)(part), w.rank)

            probes = _pairwise(_plus, probes, _each(w.probes, met))
            if w.value is not None:
                offset = _plus(offset, met(w.value))
        return Row(value.lag, probes, offset)

    def _ranked(self, value: Matrix, over: Dims) -> Matrix:
        """The sum of a matrix over dims the states do not have, which its writes keep as their rank."""

        def summed(w: Term) -> Term:
            rows = [e for e in (*w.probes, w.value) if e is not None]
            both = tuple(d for d in over if d in w.key.dims and any(d in e.dims for e in rows))
            on_key = tuple(d for d in over if d not in both and d in w.key.dims)
            aside = tuple(d for d in over if d not in (*both, *on_key))
            term = replace(w, key=sum_over(w.key, on_key), rank=(*w.rank, *both))
            return term.beside(lambda e: sum_over(e, aside))

        factors = _each(value.factors, lambda e: sum_over(e, over))
        return replace(value, factors=factors, writes=tuple(summed(w) for w in value.writes))

    # --- values without the states ------------------------------------------------------------------------------------

    def _split(self, expr: Expr) -> list[Product]:
        """`expr` as a sum of products of a value along the rows and one beside them (None: the number one)."""
        if not set(expr.dims) & set(self.rows):
            return [(None, expr, ())]
        if not set(expr.dims) & set(self.columns):
            return [(expr, None, ())]
        found = list(self._factored(expr))
        split = 1 < len(found) <= MOST_WRITES or (len(found) == 1 and found[0][1] is not None)
        return found if split else [(expr, None, ())]

    def _factored(self, expr: Expr) -> Iterator[Product]:
        match expr:
            case Apply(op="mul", args=(a, b)):
                yield from self._pairs(a, b)
            case Contract(left=left, right=right):
                labels = {
                    *zip(expr.left_axes, left.dims, strict=True),
                    *zip(expr.right_axes, right.dims, strict=True),
                }
                over = tuple(d for k, d in sorted(labels) if k not in expr.out_axes)
                one_each = len(labels) == len({d for _, d in labels}) == len({k for k, _ in labels})
                if one_each and not set(over) & set(self.dims):
                    yield from self._sums(list(self._pairs(left, right)), over, expr)
                else:
                    yield expr, None, ()
            case Reduce(op="sum", arg=a, over=over) if not set(over) & set(self.dims):
                yield from self._sums(self._split(a), over, expr)
            case Apply(op="add" | "sub" as op, args=(a, b)):
                yield from self._split(a)
                for part in self._split(b):
                    yield part if op == "add" else _negated(part)
            case Apply(op="neg", args=(a,)):
                for part in self._split(a):
                    yield _negated(part)
            case Apply(op="div", args=(a, b)):
                parts = self._split(a)
                if any(set(b.dims) & set(rank) for _, _, rank in parts):  # one name for two dims
                    yield expr, None, ()
                    return
                for key, aside, rank in parts:
                    if set(b.dims) & set(self.rows):
                        yield apply("div", key or one(self.dtype), b), aside, rank
                    else:
                        yield key, apply("div", aside or one(self.dtype), b), rank
            case Apply(op="cast", args=(a,)) if expr.dtype.kind is Kind.REAL and a.dtype.kind is Kind.REAL:
                if expr.dtype in (DType.F16, DType.BF16):
                    yield expr, None, ()
                    return
                for key, aside, rank in self._split(a):
                    yield (
                        None if key is None else convert(key, expr.dtype),
                        None if aside is None else convert(aside, expr.dtype),
                        rank,
                    )
            case Read(name=name, lag=0) if name in self.equations and name not in self.states:
                yield from self._split(self.equations[name].expr)
            case Broadcast(arg=arg):
                yield from self._split(arg)
            case Reaxis(arg=arg) if reorders_only(expr):
                yield from self._split(arg)
            case _:
                yield expr, None, ()

    def _pairs(self, a: Expr, b: Expr) -> Iterator[Product]:
        left, right = self._split(a), self._split(b)
        ranks = [{d for _, _, rank in side for d in rank} for side in (left, right)]
        if ranks[0] & {*b.dims, *ranks[1]} or ranks[1] & set(a.dims):  # one name for two dims
            yield apply("mul", a, b), None, ()
            return
        for key1, aside1, rank1 in left:
            for key2, aside2, rank2 in right:
                yield _join(key1, key2), _join(aside1, aside2), (*rank1, *rank2)

    def _sums(self, parts: list[Product], over: Dims, expr: Expr) -> Iterator[Product]:
        """Sums over dims no state has: of the side that has them, or of the products, which become rows of one step."""
        if any(set(over) & set(rank) for _, _, rank in parts):
            yield expr, None, ()
            return
        for key, aside, rank in parts:
            key_dims, aside_dims = (set[str]() if e is None else set(e.dims) for e in (key, aside))
            both = tuple(d for d in over if d in key_dims & aside_dims)
            on_key = tuple(d for d in over if d in key_dims - aside_dims)
            rest = tuple(d for d in over if d not in key_dims)
            key = sum_over(key, on_key) if key is not None and on_key else key
            aside = sum_over(aside or one(self.dtype), rest) if rest else aside
            yield key, aside, (*rank, *both)


Product = tuple[Expr | None, Expr | None, Dims]  # a value along the rows, one beside them, dims they are summed over


def spread(row: Row, rows: Dims) -> Matrix:
    """A row, the same along every row dim."""
    dtype = next((e for e in (*row.probes, row.value) if e is not None), one(DType.REAL)).dtype
    return Matrix(row.lag, (None,) * len(row.probes), (Term(one(dtype), row.probes, row.value),), rows)


def _settled(value: Value, rows: Dims) -> Value:
    """The new value of a state, as another state of the group takes it."""
    value = spread(value, rows) if isinstance(value, Row) else value
    if isinstance(value, Matrix):
        return replace(value, writes=tuple(replace(w, settled=True) for w in value.writes))
    return value


def _each(parts: Parts, change: Callable[[Expr], Expr]) -> Parts:
    return tuple(None if p is None else change(p) for p in parts)


def _pairwise(join: Callable[[Expr | None, Expr | None], Expr | None], a: Parts, b: Parts) -> Parts:
    return tuple(join(x, y) for x, y in zip(a, b, strict=True))


def _times(factor: Expr | None) -> Callable[[Expr], Expr]:
    def scale(expr: Expr) -> Expr:
        if factor is None or is_number(factor, 1):
            return expr
        return factor if is_number(expr, 1) and factor.dtype is expr.dtype else apply("mul", factor, expr)

    return scale


def _join(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else apply("mul", a, b)


def _plus(a: Expr | None, b: Expr | None) -> Expr | None:
    return b if a is None else a if b is None else apply("add", a, b)


def _negated(part: Product) -> Product:
    key, aside, rank = part
    if aside is not None or key is None:
        return key, apply("neg", aside if aside is not None else one(DType.REAL)), rank
    return apply("neg", key), None, rank
