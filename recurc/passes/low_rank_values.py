"""The values an equation takes in a matrix state under products of matrices: an abstract interpretation.

For one state and one choice of its rows, a value is `Free` (the state does not reach it), a `Matrix` (the state times a
factor plus writes of low rank), a `Row` (a sum of the state over its rows, with weights, plus an offset) or `Other`,
with the operator and the place that made it so. Names are looked through. A matrix that was written to and is summed
over its rows gives a row of the old state, since `q . (S + k (x) u) = q . S + (q . k) u`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from recurc.facts import Write
from recurc.ir import Apply, Broadcast, Contract, Expr, Read, Reaxis, Recurrence, Reduce, reads
from recurc.ops import apply, convert
from recurc.passes.affine import is_number, one, reorders_only, shown, sum_over, zero
from recurc.source import Span
from recurc.types import Dims, DType, Kind

MOST_WRITES = 4  # a product of more Householder matrices than these is left to the loop


@dataclass(frozen=True)
class Free:
    expr: Expr


@dataclass(frozen=True)
class Matrix:
    """`factor` o state + writes, at lag `lag` of the state, summed over the rows that `left` lacks (the factor still
    has those: its sum with the state is taken at the end). No factor: the state is only read by the writes."""

    lag: int
    factor: Expr | None
    writes: tuple[Write, ...]
    left: Dims


@dataclass(frozen=True)
class Row:
    """`probe` . state + value."""

    lag: int
    probe: Expr | None
    value: Expr | None


@dataclass(frozen=True)
class Other:
    text: str
    span: Span | None = None


Value = Free | Matrix | Row | Other


def moving(rec: Recurrence, state: str) -> frozenset[str]:
    """The equations that read the state, directly or through others that are not states."""
    states, found = {s.name for s in rec.states}, set[str]()
    for equation in rec.equations:
        if equation.name not in states and reaches(equation.expr, state, found):
            found.add(equation.name)
    return frozenset(found)


def reaches(expr: Expr, state: str, moving: frozenset[str] | set[str]) -> bool:
    return any(r.name == state or (r.name in moving and not r.lag) for r in reads(expr))


class Values:
    """One state with one choice of its rows, and of its columns once they are known."""

    def __init__(self, rec: Recurrence, state: str, rows: Dims, columns: Dims = ()) -> None:
        self.rec, self.state, self.rows = rec, state, rows
        self.moving = moving(rec, state)
        self.equations = {e.name: e for e in rec.equations}
        self.states = {s.name: s for s in rec.states}
        self.dims, self.dtype = self.states[state].dims, self.states[state].dtype
        self.columns = columns or tuple(d for d in self.dims if d not in rows)
        self._named: dict[str, Value] = {}
        self._seen: dict[int, Value] = {}

    def value(self, expr: Expr) -> Value:
        if not reaches(expr, self.state, self.moving):
            return Free(expr)
        known = self._seen.get(id(expr))
        if known is None:
            known = self._seen[id(expr)] = self._value(expr)
        return known

    def _value(self, expr: Expr) -> Value:
        match expr:
            case Read(name=self.state):
                return Matrix(expr.lag, one(self.dtype), (), self.rows)
            case Read(name=name):
                if name not in self._named:
                    self._named[name] = self.value(self.equations[name].expr)
                return self._named[name]
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
                return value if new <= set(self.dims) else Other(f"{self.state} is repeated along new dims", expr.span)
            case Reaxis(arg=arg) if reorders_only(expr):
                return self.value(arg)
            case _:
                return Other(f"{self.state} meets what is no sum over its rows", expr.span)

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
        return Other(f"{shown(self.state)} reaches `{node.op}`", node.span)

    def _scaled(self, value: Value, scale: Callable[[Expr], Expr]) -> Value:
        """`scale` on what is linear in the value once: on the factor and beside the keys."""
        match value:
            case Free(expr=expr):
                return Free(scale(expr))
            case Matrix():
                factor = None if value.factor is None else scale(value.factor)
                return replace(value, factor=factor, writes=tuple(_beside(w, scale) for w in value.writes))
            case Row(lag=lag, probe=probe, value=offset):
                return Row(lag, None if probe is None else scale(probe), None if offset is None else scale(offset))
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
                return Other(f"{self.state} meets what is no sum over its rows", node.span)
            if is_number(b.expr, 0):
                return a
            new = tuple(Write(k or one(self.dtype), None, v or one(self.dtype)) for k, v in self._split(b.expr))
            return replace(a, writes=a.writes + new)
        if a.lag != b.lag:
            return Other(f"{self.state} is read before and after its update in one term", node.span)
        if isinstance(a, Row) and isinstance(b, Row):
            return Row(a.lag, _plus(a.probe, b.probe), _plus(a.value, b.value))
        a, b = (spread(v, self.rows) if isinstance(v, Row) else v for v in (a, b))
        if a.left != b.left:
            return Other(f"{self.state} meets what is no sum over its rows", node.span)
        return Matrix(a.lag, _plus(a.factor, b.factor), a.writes + b.writes, a.left)

    def _product(self, value: Value, factor: Expr, node: Expr) -> Value:
        match value:
            case Free(expr=expr):
                return Free(apply("mul", factor, expr))
            case Matrix():
                if set(factor.dims) & (set(self.rows) - set(value.left)):
                    return Other(f"{self.state} is spread again along a dim that was summed over", node.span)
                parts = self._split(factor)
                key, aside = parts[0] if len(parts) == 1 else (factor, None)
                scaled = tuple(
                    _beside(w if key is None else replace(w, key=apply("mul", key, w.key)), _times(aside))
                    for w in value.writes
                )
                return replace(
                    value, factor=None if value.factor is None else _times(factor)(value.factor), writes=scaled
                )
            case Row(lag=lag, probe=probe, value=offset):
                if not set(factor.dims) & set(self.rows):
                    return self._scaled(value, _times(factor))
                writes = tuple(
                    _beside(Write(key or one(self.dtype), probe, offset), _times(aside))
                    for key, aside in self._split(factor)
                )
                return Matrix(lag, None, writes, self.rows)
            case Other():
                return value

    def _quotient(self, value: Value, by: Expr, node: Expr) -> Value:
        if not set(by.dims) & set(self.rows):
            return self._scaled(value, lambda e: apply("div", e, by))
        return self._product(value, apply("div", one(self.dtype), by), node)

    def _chosen(self, condition: Expr, yes: Value, no: Value, node: Expr) -> Value:
        """Each branch where it holds, zero where it does not. A branch without the state would drop it, which a product
        with zero does not do to an infinity: that is left to the loop."""
        if isinstance(yes, Free) or isinstance(no, Free):
            return Other(f"a choice drops {shown(self.state)} where its condition holds", node.span)
        nothing = zero(self.dtype)

        def where(e: Expr | None, holds: bool) -> Expr | None:
            if e is None:
                return None
            return apply("select", condition, e, nothing) if holds else apply("select", condition, nothing, e)

        def either(a: Expr | None, b: Expr | None) -> Expr | None:
            return None if a is None and b is None else apply("select", condition, a or nothing, b or nothing)

        if isinstance(yes, Row) and isinstance(no, Row) and yes.lag == no.lag:
            return Row(yes.lag, either(yes.probe, no.probe), either(yes.value, no.value))
        if not (isinstance(yes, Matrix) and isinstance(no, Matrix)) or yes.lag != no.lag or yes.left != no.left:
            return Other(f"the branches of a choice read {self.state} in different ways", node.span)
        inside, aside = not set(condition.dims) - set(self.rows), not set(condition.dims) & set(self.rows)

        def gated(write: Write, holds: bool) -> Write:
            key = where(write.key, holds) if inside else write.key
            assert key is not None
            return replace(
                write, key=key, probe=where(write.probe, holds) if aside else write.probe,
                value=where(write.value, holds) if aside else write.value,
            )  # fmt: skip

        if not inside and not aside:
            return Other(f"a condition tells rows and columns of {self.state} apart at once", node.span)
        writes = (*(gated(w, True) for w in yes.writes), *(gated(w, False) for w in no.writes))
        return Matrix(yes.lag, either(yes.factor, no.factor), writes, yes.left)

    def _contract(self, node: Contract) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        labels = [
            *zip(node.left_axes, node.left.dims, strict=True),
            *zip(node.right_axes, node.right.dims, strict=True),
        ]
        if len({k for k, _ in labels}) != len(set(labels)) or len({d for _, d in labels}) != len(set(labels)):
            return Other(f"{self.state} is contracted along dims of other names", node.span)
        match left, right:
            case (Free(expr=factor), moving) | (moving, Free(expr=factor)):
                over = tuple(dict.fromkeys(d for k, d in labels if k not in node.out_axes))
                return self._summed(self._product(moving, factor, node), over, node)
            case (Other(), _):
                return left
            case (_, Other()):
                return right
            case _:
                return Other(f"{shown(self.state)} is contracted with a value that also depends on it", node.span)

    def _summed(self, value: Value, over: Dims, node: Expr) -> Value:
        if isinstance(value, Other | Free) or not over:
            return value
        if isinstance(value, Row) or set(over) - set(value.left):
            return Other(f"{self.state} is summed over {', '.join(over)}", node.span)
        left = tuple(d for d in value.left if d not in over)
        writes = tuple(replace(w, key=sum_over(w.key, over)) for w in value.writes)
        if left:
            return replace(value, writes=writes, left=left)
        probe, offset = value.factor, None
        for w in writes:
            if w.probe is not None:
                probe = _plus(probe, _times(w.key)(w.probe))
            if w.value is not None:
                offset = _plus(offset, _times(w.key)(w.value))
        return Row(value.lag, probe, offset)

    # --- values without the state -------------------------------------------------------------------------------------

    def _split(self, expr: Expr) -> list[tuple[Expr | None, Expr | None]]:
        """`expr` as a sum of products of a value along the rows and one beside them (None: the number one)."""
        if not set(expr.dims) & set(self.rows):
            return [(None, expr)]
        if not set(expr.dims) & set(self.columns):
            return [(expr, None)]
        found = list(self._factored(expr))
        split = 1 < len(found) <= MOST_WRITES or (len(found) == 1 and found[0][1] is not None)
        return found if split else [(expr, None)]

    def _factored(self, expr: Expr) -> Iterator[tuple[Expr | None, Expr | None]]:
        match expr:
            case Apply(op="mul", args=(a, b)):
                yield from self._pairs(a, b)
            case Contract() if set(expr.left_axes) | set(expr.right_axes) == set(expr.out_axes):
                dims = expr.left.dims + expr.right.dims
                labels = {*zip(expr.left_axes + expr.right_axes, dims, strict=True)}
                if len(labels) == len(set(dims)) == len(expr.out_axes):
                    yield from self._pairs(expr.left, expr.right)
                else:
                    yield expr, None
            case Apply(op="add" | "sub" as op, args=(a, b)):
                yield from self._split(a)
                for key, aside in self._split(b):
                    yield (key, aside) if op == "add" else _negated(key, aside)
            case Apply(op="neg", args=(a,)):
                for key, aside in self._split(a):
                    yield _negated(key, aside)
            case Apply(op="div", args=(a, b)):
                for key, aside in self._split(a):
                    if set(b.dims) & set(self.rows):
                        yield apply("div", key or one(self.dtype), b), aside
                    else:
                        yield key, apply("div", aside or one(self.dtype), b)
            case Apply(op="cast", args=(a,)) if expr.dtype.kind is Kind.REAL and a.dtype.kind is Kind.REAL:
                if expr.dtype in (DType.F16, DType.BF16):
                    yield expr, None
                    return
                for key, aside in self._split(a):
                    yield (
                        None if key is None else convert(key, expr.dtype),
                        None if aside is None else convert(aside, expr.dtype),
                    )
            case Read(name=name, lag=0) if name in self.equations and name not in self.states:
                yield from self._split(self.equations[name].expr)
            case Broadcast(arg=arg):
                yield from self._split(arg)
            case Reaxis(arg=arg) if reorders_only(expr):
                yield from self._split(arg)
            case _:
                yield expr, None

    def _pairs(self, a: Expr, b: Expr) -> Iterator[tuple[Expr | None, Expr | None]]:
        for key1, aside1 in self._split(a):
            for key2, aside2 in self._split(b):
                yield _join(key1, key2), _join(aside1, aside2)


def spread(row: Row, rows: Dims) -> Matrix:
    """A row, the same along every row dim."""
    dtype = (row.probe or row.value or one(DType.REAL)).dtype
    return Matrix(row.lag, None, (Write(one(dtype), row.probe, row.value),), rows)


def _beside(write: Write, scale: Callable[[Expr], Expr]) -> Write:
    probe, value = (None if e is None else scale(e) for e in (write.probe, write.value))
    return replace(write, probe=probe, value=value)


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


def _negated(key: Expr | None, aside: Expr | None) -> tuple[Expr | None, Expr | None]:
    if aside is not None or key is None:
        return key, apply("neg", aside if aside is not None else one(DType.REAL))
    return apply("neg", key), None
