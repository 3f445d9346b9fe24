"""Names for sums over states that only a later stage takes.

Where a matrix state goes in chunks, what is made of it stands in a map behind its stage. If that map also sums over a
state of an earlier loop, as `abs(sum(n * q, K))` does, the sum gets a name: then the loop that has the state stores
the sum, which is smaller, and not the whole state at every step. A scan keeps its places apart, and a sum over them
would need all of them, for a tile of steps, in the registers of one program.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from recurc.ir import Contract, Equation, Expr, Final, Read, Recurrence, Reduce, reads, rewrite, walk
from recurc.passes.dependence import topological
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names


def name_sums(rec: Recurrence, states: Collection[str]) -> Recurrence:
    """`rec` (in core form) with a name for each such sum, of inputs, params, `states` and what is made of these
    alone."""
    dims = {s.name: set(s.dims) for s in rec.states if s.name in states}
    known = {*dims, *(i.name for i in rec.inputs), *(p.name for p in rec.params)}
    others = {s.name for s in rec.states} - known
    for equation in rec.equations:
        if equation.name not in others and not _late(equation.expr) and _reads(equation.expr) <= known:
            known.add(equation.name)
    taken, made = used_names(rec), dict[Expr, str]()

    def named(node: Expr) -> Expr:
        if not isinstance(node, Reduce | Contract) or _late(node):
            return node
        found = _reads(node)
        summed = [n for n in dims if n in found]
        if not summed or not found <= known or not all(set(node.dims) < dims[n] for n in summed):
            return node
        if node not in made:
            made[node] = fresh(f"{summed[0]}_sum", taken)
            taken.add(made[node])
        return Read(made[node], 0, node.dims, node.dtype, node.span)

    kept = [e if e.name in known else replace(e, expr=rewrite(e.expr, named)) for e in rec.equations]
    return replace(rec, equations=topological([*(Equation(n, e) for e, n in made.items()), *kept]))


def _late(expr: Expr) -> bool:
    return any(isinstance(n, Final) for n in walk(expr))


def _reads(expr: Expr) -> set[str]:
    return {r.name for r in reads(expr)}
