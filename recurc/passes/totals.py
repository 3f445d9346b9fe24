"""What a recurrence only adds up over time leaves it: `S = S[t-1] + outer(u, v)` is one product of matrices once all of
`u` and `v` are known, with time as the dim that is summed. The derivative of every weight has this form.

A state leaves the recurrence if nothing else reads it, it starts from zero and each term of its sum is a product of two
values that both lack a dim of it, or a value that the recurrence puts out anyway. The values become outputs. A term of
another kind stays a step of the recurrence: it may be as large as the state, and would be stored for every t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from recurc import ops
from recurc.calculus import simplify
from recurc.ir import Apply, Contract, Equation, Expr, Read, Recurrence, State, reads
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.types import Dims

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """A value of each step, `name (*dims)`: an input or an output; `labels` name its axes."""

    name: str
    labels: Labels


@dataclass(frozen=True)
class Term:
    """`number` times the sum over time of the product of `factors` (one or two), by the labels of their axes. Labels
    that `out` lacks are summed."""

    number: float
    factors: tuple[Factor, ...]
    out: Labels


@dataclass(frozen=True)
class Total:
    """`state (*dims)` after the last step, as a sum of terms."""

    state: State
    terms: tuple[Term, ...]


def totals(rec: Recurrence) -> tuple[Recurrence, tuple[Total, ...]]:
    """The recurrence without what it only adds up, and how that is found from its inputs and outputs."""
    read_by = [(e.name, r) for e in rec.equations for r in reads(e.expr)]
    split = _Split(rec)
    for state in rec.states:
        elsewhere = any(r.name == state.name and e != state.name for e, r in read_by)
        if not elsewhere and state.name not in rec.outputs and simplify.is_zero(_bare(state.initial)):
            split.take(state)
    return split.result()


def _bare(expr: Expr) -> Expr:
    return expr.args[0] if isinstance(expr, Apply) and expr.op == "cast" else expr


@dataclass(frozen=True)
class _Product:
    number: float
    factors: tuple[tuple[Expr, Labels], ...]
    out: Labels


class _Split:
    def __init__(self, rec: Recurrence) -> None:
        self.rec = rec
        self.taken = used_names(rec)
        self.steady = {p.name for p in rec.params}
        self.known = {i.name for i in rec.inputs}
        self.outputs = dict.fromkeys(rec.outputs)
        self.made: dict[Expr, str] = {}  # factors that got a name
        self.found: list[tuple[State, list[_Product]]] = []

    def take(self, state: State) -> None:
        """Takes a state out, if all terms of its sum are of a kind that can leave."""
        equation = next(e for e in self.rec.equations if e.name == state.name)
        products: list[_Product] = []
        own = 0
        for number, term in _terms(equation.expr, 1.0):
            if isinstance(term, Read) and term.name == state.name:
                own += term.lag == 1 and number == 1
                continue
            found = self._product(number, term, state.dims)
            if found is None:
                return
            products.append(found)
        if own == 1:
            self.found.append((state, products))

    def _product(self, number: float, term: Expr, dims: Dims) -> _Product | None:
        if term.dims != dims:
            return None
        out = tuple(range(len(dims)))
        match term:
            case Contract(left=left, right=right):
                parts = ((left, term.left_axes), (right, term.right_axes))
                found = _Product(number, parts, term.out_axes)
            case Apply(op="mul", args=(left, right)) if len(set(dims)) == len(dims):
                places = {d: i for i, d in enumerate(dims)}
                parts = tuple((a, tuple(places[d] for d in a.dims)) for a in (left, right))
                found = _Product(number, parts, out)
            case Read(lag=0):
                return _Product(number, ((term, out),), out)
            case _:
                return None
        for value, labels in found.factors:
            moving = any(r.name not in self.steady for r in reads(value))
            if not moving or set(found.out) <= set(labels):
                return None
        return found

    def result(self) -> tuple[Recurrence, tuple[Total, ...]]:
        products = [p for _, found in self.found for p in found if len(p.factors) == 2]
        free = {value.name for p in products for value, _ in p.factors if isinstance(value, Read) and not value.lag}
        free |= self.outputs.keys() | self.known
        kept = [
            (state, found) for state, found in self.found
            if all(len(p.factors) == 2 or _name(p.factors[0][0]) in free for p in found)
        ]  # fmt: skip
        gone = {state.name for state, _ in kept}
        if not gone:
            return self.rec, ()
        equations = [e for e in self.rec.equations if e.name not in gone]
        more: list[Equation] = []
        result = tuple(Total(state, tuple(self._term(p, more) for p in found)) for state, found in kept)
        outputs = self._outputs(gone)
        rec = replace(
            self.rec,
            states=tuple(s for s in self.rec.states if s.name not in gone),
            equations=(*equations, *more),
            outputs=outputs,
        )
        return rec, result

    def _outputs(self, gone: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if name not in gone)

    def _term(self, product: _Product, more: list[Equation]) -> Term:
        factors = tuple(self._factor(value, labels, more) for value, labels in product.factors)
        return Term(product.number, factors, product.out)

    def _factor(self, value: Expr, labels: Labels, more: list[Equation]) -> Factor:
        if isinstance(value, Read) and not value.lag and value.name not in self.steady:
            name = value.name
        elif value in self.made:
            name = self.made[value]
        else:
            name = fresh("factor", self.taken)
            self.taken.add(name)
            self.made[value] = name
            more.append(Equation(name, value))
        if name not in self.known:
            self.outputs[name] = None
        return Factor(name, labels)


def _terms(expr: Expr, number: float) -> Iterator[tuple[float, Expr]]:
    """The terms of a sum, each with the number it is multiplied by."""
    match expr:
        case Apply(op="add", args=(left, right)) if left.dims == right.dims == expr.dims:
            yield from _terms(left, number)
            yield from _terms(right, number)
        case Apply(op="sub", args=(left, right)) if left.dims == right.dims == expr.dims:
            yield from _terms(left, number)
            yield from _terms(right, -number)
        case _:
            found, rest = simplify.factor(expr)
            if rest is None:
                yield number, ops.number(found)
            elif rest is expr:
                yield number, expr
            else:
                yield from _terms(rest, number * found)


def _name(value: Expr) -> str:
    return value.name if isinstance(value, Read) else ""


__all__: Sequence[str] = ["Factor", "Term", "Total", "totals"]
