"""Reverse-mode derivatives of IR expressions, as IR: `grad(loss, name)` and what adjoints are made of.

Equations are gone through backwards from the loss; every node hands its cotangent, the derivative of the loss by it, to
its operands, by the rules of `recurc.calculus.cotangents` and the derivative column of the op table. Equal parts of the
result are found by `recurc.calculus.dag` and become equations of their own, so that nothing grows exponentially.

A cotangent may lack dims of its node, along which it is then the same everywhere. It may come with a `guard`: a truth
value that is false where nothing flows. The guard is applied as late as possible, by a choice, so that an infinite
partial in the branch of an `if` that is not taken does not make the derivative NaN (0 * inf).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from recurc import ops
from recurc.calculus import simplify
from recurc.calculus.cotangents import Cotangent, applied, full, operands
from recurc.calculus.dag import Graph, named, postorder
from recurc.filtering import is_filter, written_out
from recurc.ir import Apply, Const, Equation, Expr, Iota, Linalg, Read, Reduce, Size, Step, children, walk
from recurc.ops import OPS, TypeProblem
from recurc.types import Kind, show_dims

MAX_NODES = 20_000  # of the graph of a derivative


@dataclass(frozen=True, slots=True)
class Adjoints:
    """Derivatives, one for each value asked for and with its dims, and the equations they read, to be placed behind
    those that were differentiated; each reads only earlier ones."""

    equations: tuple[Equation, ...]
    values: tuple[Expr, ...]


def gradient(
    loss: Expr,
    value: Expr,
    equations: Sequence[Equation],
    fresh: Callable[[str], str],
    known: Mapping[Expr, Read] = MappingProxyType({}),
) -> Adjoints:
    """The derivative of the scalar `loss` with respect to `value`: a read of a name, at this step or an earlier one, or
    any expression that occurs in the loss. Raises `TypeProblem`: E0701 if the loss is no real scalar, E0702 if `value`
    is nothing one can differentiate by, E0703 if the loss does not depend on it, E0901 for what has no rule yet."""
    if loss.dims or loss.dtype.kind is not Kind.REAL:
        what = "a complex number" if loss.dtype.kind is Kind.COMPLEX else "no real number"
        raise TypeProblem(
            "E0701",
            f"`grad` takes a scalar loss, and this is {show_dims(loss.dims) if loss.dims else what}",
            f"sum it: `sum(..., {', '.join(loss.dims)})`" if loss.dims else "a loss is a real number",
        )
    if isinstance(value, Const | Size | Step | Iota):
        raise TypeProblem(
            "E0702",
            "this is a constant, and there is no derivative with respect to it",
            "differentiate by a state's previous value, an intermediate, an input or a param: `grad(loss, M[t-1])`",
        )
    if value.dtype.kind in (Kind.BOOL, Kind.INT):
        raise TypeProblem("E0702", f"this is {value.dtype.value}: only real numbers have derivatives", "cast it")
    parts = postorder([loss, *(e.expr for e in _reached([loss], [value], equations))])
    if not any(node == value for node in parts if type(node) is type(value) and node.dims == value.dims):
        raise TypeProblem("E0703", f"the loss does not depend on {_spelled(value)}", _near(value, parts))
    return adjoints(equations, [(loss, ops.number(1.0))], [value], fresh, known)


def adjoints(
    equations: Sequence[Equation],
    seeds: Sequence[tuple[Expr, Expr]],
    values: Sequence[Expr],
    fresh: Callable[[str], str],
    known: Mapping[Expr, Read] = MappingProxyType({}),
) -> Adjoints:
    """What the `values` add to a quantity of which each seed gives an expression and the derivative by it (of the same
    dims). Reads at lag 0 are looked through, except of the `values` themselves; reads of earlier steps are constants
    unless they are among the `values`. `fresh` makes new names; `known` says which expressions have one. Raises
    `TypeProblem` with E0901 for what has no derivative, and E0324 where the result grows too large."""
    reached = _reached([expr for expr, _ in seeds], values, equations)
    return _Reverse(reached, values).run(seeds, fresh, known)


class _Reverse:
    def __init__(self, equations: Sequence[Equation], values: Sequence[Expr]) -> None:
        """`equations` are those the seeds reach, in order."""
        self.graph = Graph(core_node)
        self.values = [self.graph.put(v) for v in values]
        self.wanted = {id(v) for v in self.values}
        self.equations = {e.name: self.graph.put(e.expr) for e in equations}
        self.active: dict[int, bool] = {}
        self.flowing: dict[str, list[Cotangent]] = {}  # by equation
        self.found: dict[int, list[Cotangent]] = {id(v): [] for v in self.values}
        for name, expr in self.equations.items():
            self._mark(expr)
            self.flowing[name] = []

    def run(
        self, seeds: Sequence[tuple[Expr, Expr]], fresh: Callable[[str], str], known: Mapping[Expr, Read]
    ) -> Adjoints:
        for expr, cotangent in seeds:
            node = self.graph.put(expr)
            self._mark(node)
            self._through(node, Cotangent(cotangent))
        for name, expr in reversed(self.equations.items()):
            if self.flowing[name]:
                self._through(expr, self._total(self.flowing[name], expr))
        results: list[Expr] = []
        for value in self.values:
            total = self._total(self.found[id(value)], value)
            results.append(self.graph.put(ops.convert(full(applied(total), value.dims), value.dtype)))
        hint = next((f"grad_{n.name}" for v in self.values for n in walk(v) if isinstance(n, Read)), "grad")
        equations, made = named(results, fresh, hint, known)
        return Adjoints(tuple(equations), tuple(made))

    def _mark(self, expr: Expr) -> None:
        """Notes for every node whether a derivative flows through it to one of the values."""
        for node in postorder([expr], lambda n: id(n) not in self.active):
            if id(node) in self.wanted:
                found = True
            elif node.dtype.kind in (Kind.BOOL, Kind.INT) or (isinstance(node, Apply) and node.op == "stop_gradient"):
                found = False
            elif isinstance(node, Read):
                through = self.equations.get(node.name) if node.lag == 0 else None
                found = through is not None and self.active.get(id(through), False)
            else:
                found = any(self.active[id(c)] for c in children(node))
            self.active[id(node)] = found

    def _through(self, expr: Expr, cotangent: Cotangent) -> None:
        """Hands the cotangent of `expr` down to the names it reads."""
        if not self.active[id(expr)]:
            return
        arrived: dict[int, list[Cotangent]] = {id(expr): [cotangent]}
        inside = self._inside
        for node in reversed(postorder([expr], lambda n: self.active[id(n)])):
            if id(node) not in arrived:
                continue
            total = self._total(arrived[id(node)], node)
            if id(node) in self.wanted:
                self.found[id(node)].append(total)
            elif isinstance(node, Read):
                self.flowing[node.name].append(total)
            else:
                for operand, handed in operands(node, total, inside):
                    arrived.setdefault(id(operand), []).append(handed)
            if len(self.graph) > MAX_NODES:
                raise TypeProblem(
                    "E0324",
                    f"this derivative has more than {MAX_NODES:,} operations",
                    "use fewer rounds of `iterate`, or a smaller loss",
                )

    def _inside(self, node: Expr) -> bool:
        return self.active.get(id(node), False)

    def _total(self, parts: Sequence[Cotangent], node: Expr) -> Cotangent:
        """The sum of what arrived at a node; it keeps a guard only if every part has one."""
        if not parts:
            return Cotangent(ops.number(0.0))
        if len(parts) == 1:
            return parts[0]
        value = applied(parts[0])
        for part in parts[1:]:
            value = simplify.add(value, applied(part))
        # As nodes of the graph, so that equal ones are one object: as trees, guards of guards double at every step.
        guards = list({id(g): g for g in (self.graph.put(p.guard) for p in parts if p.guard is not None)}.values())
        opposite = any(isinstance(g, Apply) and g.op == "not" and any(g.args[0] is o for o in guards) for g in guards)
        if any(p.guard is None for p in parts) or len(guards) > 4 or opposite:
            return Cotangent(value)
        try:
            guard = guards[0]
            for other in guards[1:]:
                guard = ops.apply("or", guard, other)
        except TypeProblem:
            return Cotangent(value)
        return Cotangent(value, guard, clean=True) if set(guard.dims) <= set(node.dims) else Cotangent(value)


def core_node(expr: Expr) -> Expr:
    """Shorthand and steps of filters written out, and extremes over one dim at a time (the innermost last): what the
    rules are made for."""
    match expr:
        case Linalg() if is_filter(expr):
            return written_out(expr)
        case Apply(op=op, args=args) if (expands := OPS[op].expands) is not None:
            return ops.convert(expands(*args), expr.dtype)
        case Reduce(op="max" | "min" as op, arg=arg, over=(*first, last)) if first:
            inner = Reduce(op, arg, (last,), tuple(d for d in arg.dims if d != last), expr.dtype, expr.span)
            return Reduce(op, inner, tuple(first), expr.dims, expr.dtype, expr.span)
        case _:
            return expr


def _reached(exprs: Sequence[Expr], values: Sequence[Expr], equations: Sequence[Equation]) -> list[Equation]:
    """The equations that `exprs` read at this step, directly or through others, in order; not through `values`."""
    defined = {e.name: e.expr for e in equations}
    pending, seen = list(exprs), set[str]()
    while pending:
        for node in postorder([pending.pop()]):
            new = isinstance(node, Read) and node.lag == 0 and node.name in defined and node.name not in seen
            if isinstance(node, Read) and new and node not in values:
                seen.add(node.name)
                pending.append(defined[node.name])
    return [e for e in equations if e.name in seen]


def _spelled(value: Expr) -> str:
    if not isinstance(value, Read):
        return "this expression"
    return f"`{value.name}[t-{value.lag}]`" if value.lag else f"`{value.name}`"


def _near(value: Expr, parts: Sequence[Expr]) -> str:
    """What may have been meant."""
    for node in parts:
        if isinstance(node, Read) and isinstance(value, Read) and node.name == value.name:
            return f"it reads {_spelled(node)}: differentiate by that"
    return "the derivative is 0; name something that the loss is made of"
