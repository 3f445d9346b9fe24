"""Dependence: which states feed each other, what reads no state, what no state reads.

States are split into strongly connected components of the graph "j -> i when the new value of i reads j, old or new",
in an order in which each component reads only earlier ones. Everything later (classes, schedules) works per component:
the states of earlier components are known sequences there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import networkx as nx

from recurc.ir import Equation, Expr, Final, Read, Recurrence, reads, walk


@dataclass(frozen=True)
class Dependence:
    """`groups`: components in order. `on_states[e]`: the states equation `e` reads, directly or through equations
    that are not states (a state read at lag 0 counts as itself). `depends[e]`: all states `e` can see at all."""

    groups: tuple[tuple[str, ...], ...]
    on_states: dict[str, frozenset[str]]
    depends: dict[str, frozenset[str]]
    hoisted: tuple[str, ...]
    sunk: tuple[str, ...]
    feedback: frozenset[str] = field(default_factory=frozenset[str])  # states that read their own component

    def of(self, expr: Expr) -> frozenset[str]:
        """All states `expr` can see: the ones it reads, and those they were computed from."""
        return frozenset[str]().union(*(self.seen(r.name) for r in reads(expr)))

    def seen(self, name: str) -> frozenset[str]:
        return self.depends.get(name, frozenset())


def dependence(rec: Recurrence) -> Dependence:
    """The dependence structure of a recurrence in core form."""
    states = [s.name for s in rec.states]
    on_states = _direct_states(rec.equations, frozenset(states))
    edges = [(source, target) for target in states for source in on_states[target]]
    groups = _components(states, edges)
    position = {name: i for i, group in enumerate(groups) for name in group}
    depends: dict[str, frozenset[str]] = {}
    for group in groups:
        seen = frozenset(group).union(*(depends[s] for g in group for s in on_states[g] if position[s] < position[g]))
        depends.update(dict.fromkeys(group, seen))
    for equation in rec.equations:
        if equation.name not in position:
            depends[equation.name] = frozenset().union(*(depends[s] for s in on_states[equation.name]))
    fed = _feeding_states(rec, frozenset(states))
    plain = [e.name for e in rec.equations if e.name not in position]
    return Dependence(
        groups,
        on_states,
        depends,
        tuple(n for n in plain if not depends[n]),
        tuple(n for n in plain if depends[n] and n not in fed),
        frozenset(s for s in states if any(position[j] == position[s] for j in on_states[s])),
    )


def _direct_states(equations: Iterable[Equation], states: frozenset[str]) -> dict[str, frozenset[str]]:
    through: dict[str, frozenset[str]] = {}
    for equation in equations:
        found: set[str] = set()
        for read in walk(equation.expr):
            if not isinstance(read, Read | Final):
                continue
            if read.name in states:
                found.add(read.name)
            else:
                found |= through.get(read.name, frozenset())
        through[equation.name] = frozenset(found)
    return through


def _feeding_states(rec: Recurrence, states: frozenset[str]) -> set[str]:
    """Equations some state reads, directly or through others."""
    by_name = {e.name: e for e in rec.equations}
    pending = list(states)
    fed: set[str] = set()
    while pending:
        for read in reads(by_name[pending.pop()].expr):
            if read.name in by_name and read.name not in fed and read.name not in states:
                fed.add(read.name)
                pending.append(read.name)
    return fed


def _components(states: list[str], edges: list[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Strongly connected components in topological order; ties keep the source order."""
    if len(states) < 2:
        return tuple((s,) for s in states)
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(states)
    graph.add_edges_from(edges)
    order = {name: i for i, name in enumerate(states)}
    condensed = nx.condensation(graph)
    members = {n: sorted(condensed.nodes[n]["members"], key=order.__getitem__) for n in condensed.nodes}
    first: dict[int, int] = {n: order[m[0]] for n, m in members.items()}
    ranked: Iterable[int] = nx.lexicographical_topological_sort(condensed, key=first.__getitem__)
    return tuple(tuple(members[n]) for n in ranked)


def needed(equations: Sequence[Equation], names: Collection[str]) -> list[Equation]:
    """The equations of these names, and those that they read at this step, directly or through others, in order."""
    wanted = set(names)
    kept: list[Equation] = []
    for equation in reversed(equations):
        if equation.name in wanted:
            wanted |= {r.name for r in reads(equation.expr) if r.lag == 0}
            kept.append(equation)
    return kept[::-1]


def topological(equations: Iterable[Equation]) -> tuple[Equation, ...]:
    """`equations` in an order in which each reads (at lag 0) only earlier ones; otherwise as they stood."""
    todo = {e.name: e for e in equations}
    done: list[Equation] = []
    waiting = dict(todo)

    def visit(name: str) -> None:
        stack = [name]
        while stack:
            top = stack[-1]
            if top not in waiting:
                stack.pop()
                continue
            needs = [r.name for r in reads(waiting[top].expr) if r.lag == 0 and r.name in waiting and r.name != top]
            if needs:
                stack.append(needs[0])
            else:
                done.append(waiting.pop(top))
                stack.pop()

    for name in todo:
        visit(name)
    return tuple(done)
