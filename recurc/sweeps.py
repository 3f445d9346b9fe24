"""The backward pass of a matrix memory (`passes.matrix_adjoint`), run on arrays: what is behind the memory, the sweeps
over time that keep one matrix each, and what is before it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from recurc.passes.matrix_adjoint import MatrixAdjoint
from recurc.runtime import torch_ops

if TYPE_CHECKING:
    from recurc.vjp import Pullback, Sums

Arrays = Mapping[str, Any]


def by_matrix(
    of: Pullback, adj: MatrixAdjoint, given: Arrays, ends: Arrays, found: Sums
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `Pullback.by`. `given`: the derivatives by outputs, by the names of `adj.cotangents`; `ends`: those by final
    states, `(*batch, *dims)`."""
    known = {**of.arrays, **of.outputs, **of.saved}
    if adj.making is not None:
        starts = {s.name: of.initial[s.name] for s in adj.making.states if s.name in of.initial}
        known |= of.run(adj.making, known, starts, backwards=False)[0]
    first, inner = dict[str, Any](), dict[str, Any]()
    front = {} if adj.front is None else adj.front.carried
    if adj.rear is not None:
        own = {n: v for n, v in ends.items() if n in adj.rear.carried and n not in front}
        first, inner = of.by(adj.rear, given, own, found)
        known |= {own: inner.pop(name) for name, own in adj.reads.items()}
    end = ends.get(adj.state)
    for sweep in of.of.sweeps(adj, of):
        results, carried = of.run(sweep.rec, known, {} if end is None else {sweep.carried: end})
        known |= results
        first.setdefault(adj.state, carried[sweep.carried])
    if adj.again is not None:
        starts = {n: v for n, v in of.initial.items() if n == adj.state}
        known |= of.run(adj.again.rec, known, starts, backwards=False)[0]
    if adj.decays is not None:
        sums = {} if end is None else {adj.decays.carried: _inner(of.finals[adj.state] * end, adj)}
        known |= of.run(adj.decays.rec, known, sums)[0]
    made = {name: reduce(add, (known[n] for n in parts)) for name, parts in adj.derivatives.items()}
    if adj.front is not None:
        handed = {own: made.pop(name) for name, own in adj.front.cotangents.items()}
        starts, more = of.by(adj.front, handed, {n: v for n, v in ends.items() if n in front}, found)
        first, inner = _plus(first, starts), _plus(inner, more)
    for name in made.keys() & of.arrays.keys():
        found.add(name, made.pop(name), over_time=True)
    return first, _plus(inner, made)


def _plus(left: Arrays, right: Arrays) -> dict[str, Any]:
    return {**left, **{n: left[n] + v if n in left else v for n, v in right.items()}}


def _inner(product: Any, adj: MatrixAdjoint) -> Any:
    """A product of matrices `(*batch, *dims)`, summed over the dims that the decay does not tell apart."""
    assert adj.decays is not None
    dims, kept = adj.carried[adj.state], adj.decays.rec.states[0].dims
    batch = product.ndim - len(dims)
    over = tuple(batch + i for i, d in enumerate(dims) if d not in kept)
    summed = product.sum(over) if over else product
    left = [d for d in dims if d in kept]
    order = (*range(batch), *(batch + left.index(d) for d in kept))
    return summed.permute(order) if torch_ops.is_tensor(summed) else summed.transpose(order)
