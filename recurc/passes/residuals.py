"""Which values of a forward call its backward pass reads back, and which it computes anew.

What states were before each step is kept. A sum of products with weights (`W @ x + U @ h[t-1] + b`) is smaller than
the products it takes to compute it anew, so it is kept too; everything else is computed from these. Outputs are there
in any case: where one of them spares a state, as the quotient of two sums does, it is read instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from recurc.ir import Apply, Contract, Equation, Expr, Input, Read, Recurrence, children, reads, rewrite
from recurc.passes.adjoint import Adjoint
from recurc.passes.dependence import needed
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names


def segment_steps(steps: int) -> int:
    """How many steps lie between states that are kept where memory is scarce: about the square root of all."""
    return max(1, math.isqrt(max(steps - 1, 0)) + 1)


def keep_sums(rec: Recurrence, adj: Adjoint, names: Collection[str] = ()) -> tuple[Recurrence, Adjoint]:
    """`rec`, whose backward pass is `adj`, with sums of products with weights among its outputs, and the pass that
    reads them instead of computing them. What the two do not write alike is computed anew. `names` are names that new
    values must not have."""
    before = {e.name: e.expr for e in adj.forward.equations if e.name in adj.saved}
    equations = {e.name: e for e in rec.equations}
    states, steady = {s.name for s in rec.states}, {p.name for p in rec.params}
    homes = {node: e.name for e in reversed(rec.equations) for node in _sums(e.expr, steady)}
    taken = used_names(adj.forward) | used_names(adj.back) | {*names}
    made: dict[str, list[Equation]] = {}  # sums that get a name, before the equation they stand in
    kept: dict[Expr, Read] = {}
    back: list[Equation] = []
    for equation in adj.back.equations:
        expr = equation.expr
        for node in _sums(expr, steady):
            source = _of_source(node, before)
            if source not in homes:
                continue
            if source not in kept:
                origin = equations[homes[source]]
                whole = source == origin.expr and origin.name not in states
                name = origin.name if whole else fresh(f"{origin.name}_sum", taken)
                taken.add(name)
                kept[source] = Read(name, 0, source.dims, source.dtype)
                if not whole:
                    made.setdefault(origin.name, []).append(Equation(name, source, origin.span))
                    equations[origin.name] = replace(origin, expr=_with(origin.expr, source, kept[source]))
            expr = _with(expr, node, kept[source])
        if expr != Read(equation.name, 0, expr.dims, expr.dtype):
            back.append(replace(equation, expr=expr))
    new = tuple(read.name for read in kept.values() if read.name not in rec.outputs)
    if not kept:
        return rec, adj
    body = tuple(e for name, own in equations.items() for e in (*made.get(name, ()), own))
    source = replace(rec, equations=body, outputs=(*rec.outputs, *new))
    previous = tuple(e for e in adj.forward.equations if e.name in before)
    forward = replace(source, equations=(*body, *previous), outputs=(*source.outputs, *adj.saved))
    return source, replace(
        adj, forward=forward, back=_reading(adj.back, back, [*kept.values()]), saved=(*new, *adj.saved)
    )


def read_outputs(rec: Recurrence, adj: Adjoint) -> Adjoint:
    """`adj`, a backward pass of `rec`, that reads outputs instead of computing them, if it then needs less of what the
    forward pass has to save; else `adj` itself."""
    before = {
        e.expr: Read(e.name, 0, e.expr.dims, e.expr.dtype)
        for e in adj.forward.equations
        if e.name in adj.previous.values()
    }
    there = {*(s.name for s in rec.states), *(i.name for i in adj.back.inputs)}
    kept = {
        rewrite(e.expr, lambda n: before.get(n, n)): Read(e.name, 0, e.expr.dims, e.expr.dtype)
        for e in rec.equations
        if e.name in rec.outputs and e.name not in there and children(e.expr)
    }
    names = {read.name for read in kept.values()}
    equations = [e for e in adj.back.equations if e.name not in names]
    back = [replace(e, expr=rewrite(e.expr, lambda n: kept.get(n, n))) for e in equations]
    made = _reading(adj.back, back, [*kept.values()])
    needs = {i.name for i in (*made.inputs, *(() if adj.late is None else adj.late.rec.inputs))}
    saved = tuple(n for n in adj.saved if n in needs or n in rec.outputs)
    if saved == adj.saved:
        return adj
    gone = {*adj.saved} - {*saved}
    forward = replace(
        adj.forward,
        equations=tuple(e for e in adj.forward.equations if e.name not in gone),
        outputs=tuple(o for o in adj.forward.outputs if o not in gone),
    )
    previous = {state: name for state, name in adj.previous.items() if name not in gone}
    return replace(adj, forward=forward, back=made, saved=saved, previous=previous)


def _of_source(node: Expr, before: Mapping[str, Expr]) -> Expr:
    """A node of the backward pass as the recurrence has it."""
    return rewrite(node, lambda n: before.get(n.name, n) if isinstance(n, Read) else n)


def _with(expr: Expr, old: Expr, new: Expr) -> Expr:
    return rewrite(expr, lambda n: new if n == old else n)


def _reading(back: Recurrence, equations: Sequence[Equation], kept: Sequence[Read]) -> Recurrence:
    """The pass with these equations, and what they read."""
    kept_equations = needed(equations, {*back.outputs, *(s.name for s in back.states)})
    used = {r.name for e in kept_equations for r in reads(e.expr)}
    inputs = (*back.inputs, *(Input(r.name, r.dims, r.dtype) for r in kept))
    return replace(
        back,
        inputs=tuple(i for i in inputs if i.name in used),
        params=tuple(p for p in back.params if p.name in used),
        equations=tuple(kept_equations),
    )


def _sums(expr: Expr, steady: set[str]) -> Iterator[Expr]:
    """The largest parts of an expression that are sums of products with weights and other values of those dims."""
    if _is_sum(expr, steady):
        yield expr
        return
    for child in children(expr):
        yield from _sums(child, steady)


def _is_sum(expr: Expr, steady: set[str]) -> bool:
    match expr:
        case Contract(left=left, right=right):
            weights = [all(r.name in steady for r in reads(side)) for side in (left, right)]
            summed = {*expr.left_axes, *expr.right_axes} - {*expr.out_axes}
            return weights[0] != weights[1] and bool(summed)
        case Apply(op="add" | "sub", args=args):
            return any(a.dims == expr.dims and _is_sum(a, steady) for a in args)
        case _:
            return False
