"""The diagonal of a full Jacobian, for Newton's method over time: what the linearised step of a group whose elements
meet takes in place of the whole (quasi-DEER, Gonzalez et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from recurc.calculus.dag import Graph, named
from recurc.ir import (
    Contract,
    Equation,
    Expr,
    Gather,
    Linalg,
    Read,
    Reduce,
    Step,
    children,
    reads,
    walk,
    with_children,
)
from recurc.ops import convert
from recurc.passes.cost import costly
from recurc.passes.own_element import own_element
from recurc.plan import Carry
from recurc.types import Kind

Unused = Callable[[str], str]


@dataclass(frozen=True)
class Diagonal:
    """`values` are the equations of the step, in which what is costly and depends on the states has a name, and then
    those of the slopes. `slopes`: for each pair of states how much each element of the new value of the first grows
    with the old one of the second at the same place (None: not at all, or left out). `once`: what those read that is
    made of params alone; `named`: the expressions of the step that got names."""

    values: tuple[Equation, ...]
    slopes: dict[tuple[str, str], Expr | None]
    once: dict[str, Expr]
    named: dict[Expr, Read]


def diagonal(
    values: Sequence[Equation],
    rows: Sequence[tuple[Carry, str]],
    columns: Sequence[tuple[Carry, Read]],
    unused: Unused,
    steady: Collection[str],
) -> Diagonal:
    """Of the step `values`: `rows` are states with the names of their new values, `columns` the reads of the old ones,
    `steady` the names that are the same at every step. Exact up to what `own_element` leaves out. Raises `TypeProblem`
    where the result grows too large."""
    values, names = _with_names(values, {read.name for _, read in columns}, unused)
    known = set(steady)
    for equation in values:
        if is_steady(equation.expr, known):
            known.add(equation.name)
    graph = Graph()
    found = {c.name: own_element(values, read, graph, lambda e: is_steady(e, known)) for c, read in columns}
    hold = _Held(graph, known, lambda: unused(f"{columns[0][0].name}'own"))
    pairs: dict[tuple[str, str], Expr] = {}
    for row, name in rows:
        for column, _ in columns:
            if name in found[column.name]:
                slope = graph.put(convert(found[column.name][name], row.dtype))
                pairs[row.name, column.name] = hold(slope)
    equations, made = named(
        list(pairs.values()),
        lambda _: unused(f"{rows[0][0].name}'slope"),
        "",
        {e.expr: Read(e.name, 0, e.expr.dims, e.expr.dtype) for e in values},
    )
    slopes = dict(zip(pairs, made, strict=True))
    return Diagonal(
        (*values, *equations),
        {(r.name, c.name): slopes.get((r.name, c.name)) for r, _ in rows for c, _ in columns},
        {name: expr for expr, name in hold.names.items()},
        names,
    )


def is_steady(expr: Expr, names: Collection[str]) -> bool:
    """Whether an expression is made of these names alone, and not of the step index."""
    return all(not isinstance(n, Step) and (not isinstance(n, Read) or n.name in names) for n in walk(expr))


class _Held:
    """Puts names in place of what is made of params alone and costs something at every step."""

    def __init__(self, graph: Graph, steady: Collection[str], unused: Callable[[], str]) -> None:
        self.graph, self.steady, self.unused = graph, steady, unused
        self.names: dict[Expr, str] = {}
        self.done: dict[int, Expr] = {}

    def __call__(self, expr: Expr) -> Expr:
        if id(expr) not in self.done:
            self.done[id(expr)] = self._held(expr)
        return self.done[id(expr)]

    def _held(self, expr: Expr) -> Expr:
        if is_steady(expr, self.steady):
            if not any(isinstance(n, Gather | Contract | Reduce) for n in walk(expr)):
                return expr
            if expr not in self.names:
                self.names[expr] = self.unused()
            return self.graph.put(Read(self.names[expr], 0, expr.dims, expr.dtype, expr.span))
        old = children(expr)
        new = tuple(self(c) for c in old)
        changed = any(a is not b for a, b in zip(old, new, strict=True))
        return self.graph.put(with_children(expr, new)) if changed else expr


def _with_names(
    values: Sequence[Equation], moving: Collection[str], unused: Unused
) -> tuple[list[Equation], dict[Expr, Read]]:
    """The equations, in which sums and functions of what is `moving` have equations of their own, as the slopes are
    made of their values and would compute them once more; and these names by the expressions as they were."""
    depends, names = set(moving), dict[Expr, Read]()
    out: list[Equation] = []

    def rewritten(expr: Expr, hint: str) -> Expr:
        if expr in names:
            return names[expr]
        new = inside(expr, hint)
        worth = isinstance(expr, Contract | Reduce | Linalg) or costly(expr)
        if not worth or expr.dtype.kind is not Kind.REAL or not any(r.name in depends for r in reads(expr)):
            return new
        names[expr] = Read(unused(f"{hint}'part"), 0, expr.dims, expr.dtype, expr.span)
        depends.add(names[expr].name)
        out.append(Equation(names[expr].name, new, expr.span))
        return names[expr]

    def inside(expr: Expr, hint: str) -> Expr:
        old = children(expr)
        new = tuple(rewritten(c, hint) for c in old)
        return with_children(expr, new) if any(a is not b for a, b in zip(old, new, strict=True)) else expr

    for equation in values:
        if any(r.name in depends for r in reads(equation.expr)):
            depends.add(equation.name)
        out.append(Equation(equation.name, inside(equation.expr, equation.name.split("'")[0]), equation.span))
    return out, names
