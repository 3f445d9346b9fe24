"""What a recurrence only adds up over time leaves it: `S = S[t-1] + outer(u, v)` is one product of matrices once all of
`u` and `v` are known, with time as the dim that is summed. The derivative of every weight has this form.

A state leaves the recurrence if nothing else reads it, it starts from zero and each term of its sum is a product of two
values that both lack a dim of it, or a value that the recurrence puts out anyway. The values become outputs. A term of
another kind stays a step of the recurrence: it may be as large as the state, and would be stored for every t.

An output leaves, too, if nothing reads it and it is a sum of products of weights with what is put out anyway:
`d_x = W.T @ d_z` is one product for all steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from recurc.calculus import simplify
from recurc.ir import Apply, Contract, Equation, Expr, Read, Recurrence, State, reads, rewrite
from recurc.passes.dependence import topological
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.types import Dims

Labels = tuple[int, ...]


@dataclass(frozen=True)
class Factor:
    """A value of each step, `name (*dims)`: an input or an output; or, if `steady`, a param. `labels` name its axes."""

    name: str
    labels: Labels
    steady: bool = False


@dataclass(frozen=True)
class Term:
    """`number` times the product of `factors` (one or two), by the labels of their axes. Labels that `out` lacks are
    summed."""

    number: float
    factors: tuple[Factor, ...]
    out: Labels


@dataclass(frozen=True)
class Total:
    """A sum of terms: with `over_time` the final value of the state `name (*dims)`, which is a sum over all steps, else
    the output `name (*dims)` of each step."""

    name: str
    terms: tuple[Term, ...]
    over_time: bool


def totals(rec: Recurrence) -> tuple[Recurrence, tuple[Total, ...]]:
    """The recurrence without what is found from its other outputs, its inputs and its params, and how."""
    return _Split(rec).run()


@dataclass(frozen=True)
class _Product:
    number: float
    factors: tuple[tuple[Expr, Labels], ...]
    out: Labels


class _Split:
    def __init__(self, rec: Recurrence) -> None:
        self.rec = rec
        self.taken = used_names(rec)
        self.equations = {e.name: e for e in rec.equations}
        self.steady = {p.name for p in rec.params}
        self.inputs = {i.name for i in rec.inputs}
        self.outputs = dict.fromkeys(rec.outputs)
        self.named: dict[Expr, str] = {}  # factors that get a name
        self.found: list[Total] = []

    def run(self) -> tuple[Recurrence, tuple[Total, ...]]:
        read = [(e.name, r.name) for e in self.rec.equations for r in reads(e.expr)]
        sums = [
            s for s in self.rec.states if self._only_added_up(s) and all(e == s.name for e, r in read if r == s.name)
        ]
        for state in sums:
            products = self._products(state)
            if products is not None:
                self._leave(state.name, products, over_time=True)
        left = {t.name for t in self.found}
        for state in (s for s in sums if s.name not in left):  # now it is known what is put out
            value = self._added(state)
            if value is not None and (value in self.named or _name(value) in self.outputs.keys() | self.inputs):
                places = _places(state.dims)
                self._leave(state.name, [_Product(1.0, ((value, places),), places)], over_time=True)
        for name in self.rec.outputs:
            if all(r != name for _, r in read) and (products := self._of_outputs(name)) is not None:
                self._leave(name, products, over_time=False)
        if not self.found:
            return self.rec, ()
        gone = {t.name for t in self.found}
        factors = [Equation(name, value) for value, name in self.named.items()]
        kept = [replace(e, expr=self._by_name(e.expr)) for n, e in self.equations.items() if n not in gone]
        rec = replace(
            self.rec,
            states=tuple(s for s in self.rec.states if s.name not in gone),
            equations=topological([*kept, *factors]),
            outputs=tuple(n for n in self.outputs if n not in gone),
        )
        return rec, tuple(self.found)

    # --- what can leave

    def _only_added_up(self, state: State) -> bool:
        return state.name not in self.outputs and simplify.is_zero(_bare(state.initial))

    def _products(self, state: State) -> list[_Product] | None:
        """The terms of a state that only adds up, if they are products of smaller values."""
        products: list[_Product] = []
        own = 0
        for number, term in _terms(self.equations[state.name].expr, 1.0):
            if isinstance(term, Read) and term.name == state.name:
                own += term.lag == 1 and number == 1
                continue
            found = _product(number, term, state.dims)
            if found is None or not all(self._moves(v) and not set(found.out) <= set(at) for v, at in found.factors):
                return None
            products.append(found)
        return products if own == 1 and products else None

    def _added(self, state: State) -> Expr | None:
        """What a state adds up, as one value."""
        match self.equations[state.name].expr:
            case Apply(op="add", args=(Read(name=state.name, lag=1), value)) if value.dims == state.dims:
                return value
            case _:
                return None

    def _of_outputs(self, name: str) -> list[_Product] | None:
        """The terms of an output that is made of weights and what is put out anyway."""
        equation = self.equations.get(name)
        if equation is None or any(s.name == name for s in self.rec.states):
            return None
        products: list[_Product] = []
        for number, term in _terms(equation.expr, 1.0):
            found = _product(number, term, equation.expr.dims) if isinstance(term, Contract) else None
            if found is None:
                return None
            weights = [v for v, _ in found.factors if isinstance(v, Read) and v.name in self.steady]
            rest = [v for v, _ in found.factors if self._moves(v)]
            summed = {label for _, labels in found.factors for label in labels} - {*found.out}
            if not (len(weights) == len(rest) == 1 and summed):
                return None
            if rest[0] not in self.named and _name(rest[0]) not in self.outputs:
                return None
            products.append(found)
        return products

    def _moves(self, value: Expr) -> bool:
        return any(r.name not in self.steady for r in reads(value))

    # --- what becomes of it

    def _leave(self, name: str, products: Sequence[_Product], over_time: bool) -> None:
        terms = (Term(p.number, tuple(self._factor(v, labels) for v, labels in p.factors), p.out) for p in products)
        self.found.append(Total(name, tuple(terms), over_time))

    def _factor(self, value: Expr, labels: Labels) -> Factor:
        if isinstance(value, Read) and value.name in self.steady:
            return Factor(value.name, labels, steady=True)
        if isinstance(value, Read) and not value.lag:
            name = value.name
        else:
            name = self.named.get(value) or fresh("factor", self.taken)
            self.taken.add(name)
            self.named[value] = name
        if name not in self.inputs:
            self.outputs[name] = None
        return Factor(name, labels)

    def _by_name(self, expr: Expr) -> Expr:
        def rule(node: Expr) -> Expr:
            name = self.named.get(node)
            return node if name is None else Read(name, 0, node.dims, node.dtype, node.span)

        return rewrite(expr, rule)


def _places(dims: Dims) -> Labels:
    return tuple(range(len(dims)))


def _product(number: float, term: Expr, dims: Dims) -> _Product | None:
    """A product of two values, by the labels of their axes."""
    match term:
        case Contract(left=left, right=right) if term.dims == dims:
            return _Product(number, ((left, term.left_axes), (right, term.right_axes)), term.out_axes)
        case Apply(op="mul", args=(left, right)) if term.dims == dims and len(set(dims)) == len(dims):
            place = {d: i for i, d in enumerate(dims)}
            parts = tuple((a, tuple(place[d] for d in a.dims)) for a in (left, right))
            return _Product(number, parts, _places(dims))
        case _:
            return None


def _bare(expr: Expr) -> Expr:
    return expr.args[0] if isinstance(expr, Apply) and expr.op == "cast" else expr


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
            if rest is None or rest is expr:
                yield number, expr
            else:
                yield from _terms(rest, number * found)


def _name(value: Expr) -> str:
    return value.name if isinstance(value, Read) and not value.lag else ""
