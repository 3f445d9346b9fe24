"""The backward pass of a matrix memory (`passes.matrix_adjoint`), run on arrays: what is behind the memory, the sweeps
over time that keep one matrix each, and what is before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np

from recurc import ir
from recurc.passes.matrix_adjoint import MatrixAdjoint, Sweep
from recurc.runtime import torch_ops

if TYPE_CHECKING:
    from recurc.vjp import Pullback, Sums

Arrays = Mapping[str, Any]
_SPAN = 256  # steps after which the sum that finds the derivatives by decays begins anew from the matrices


def by_matrix(
    of: Pullback, adj: MatrixAdjoint, given: Arrays, ends: Arrays, found: Sums
) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `Pullback.by`. `given`: the derivatives by outputs, by the names of `adj.cotangents`; `ends`: those by final
    states, `(*batch, *dims)`."""
    known = {**of.arrays, **of.outputs, **of.saved}
    if adj.making is not None:
        begun = {s.name for s in adj.making.states} | {i.name for i in adj.making.inputs if i.before is not None}
        starts = {n: v for n, v in of.initial.items() if n in begun}
        known |= of.run(adj.making, known, starts, backwards=False)[0]
    first, inner = dict[str, Any](), dict[str, Any]()
    front = {} if adj.front is None else adj.front.carried
    if adj.rear is not None:
        own = {n: v for n, v in ends.items() if n in adj.rear.carried and n not in front}
        first, inner = of.by(adj.rear, given, own, found)
        known |= {own: inner.pop(name) for name, own in adj.reads.items()}
    made, first[adj.state] = _sweeps(of, adj, known, ends.get(adj.state))
    if adj.front is not None:
        handed = {own: made.pop(name) for name, own in adj.front.cotangents.items()}
        starts, more = of.by(adj.front, handed, {n: v for n, v in ends.items() if n in front}, found)
        first, inner = _plus(first, starts), _plus(inner, more)
    for name in made.keys() & of.arrays.keys():
        found.add(name, made.pop(name), over_time=True)
    return first, _plus(inner, made)


def _sweeps(of: Pullback, adj: MatrixAdjoint, known: dict[str, Any], end: Any) -> tuple[dict[str, Any], Any]:
    """The derivatives by operands, and that by the matrix before the first step; `end`: that by the final matrix, None
    for zeros."""
    spans = _spans(of) if adj.decays is not None else [None]
    start: Any = None
    ends: list[Any] = []  # the derivatives by the matrix after each span
    for sweep in of.of.sweeps(adj, of):
        results, *carried = _run(of, sweep, known, end, spans[::-1])
        known |= results
        if not ends:
            start, ends = carried[-1], [end, *carried[:-1]][::-1]
    if adj.again is not None:
        results, *carried = _run(of, adj.again, known, of.initial.get(adj.state), spans)
        known |= results
        if adj.decays is not None:
            after = [*carried[:-1], of.finals[adj.state]]
            sums = [None if d is None else _inner(s * d, adj) for s, d in zip(after, ends, strict=True)]
            known |= _apart(of, adj.decays, known, sums, spans)
    return {name: reduce(add, (known[n] for n in parts)) for name, parts in adj.derivatives.items()}, start


_Span = tuple[int, int] | None


def _spans(of: Pullback) -> Sequence[_Span]:
    """The spans of steps that sweeps are cut into, in the order in which the call ran."""
    steps, _ = of.extent
    if steps <= _SPAN or of.options.get("cu_seqlens") is not None:
        return [None]
    spans = [(t, min(t + _SPAN, steps)) for t in range(0, steps, _SPAN)]
    return spans[::-1] if of.options["reverse"] else spans


def _run(of: Pullback, sweep: Sweep, known: Arrays, start: Any, spans: Sequence[_Span]) -> tuple[Any, ...]:
    """The outputs of a sweep over spans in that order, and what it carries after each."""
    state, made = start, list[dict[str, Any]]()
    carried: list[Any] = []
    for span in spans:
        results, finals = _over(of, sweep, known, state, span)
        made.append(results)
        state = finals[sweep.carried]
        carried.append(state)
    return _joined(of, sweep.rec, made, spans), *carried


def _apart(of: Pullback, sweep: Sweep, known: Arrays, starts: Sequence[Any], spans: Sequence[_Span]) -> Any:
    """The outputs of a sweep that begins anew in each span."""
    made = [_over(of, sweep, known, start, span)[0] for start, span in zip(starts, spans, strict=True)]
    return _joined(of, sweep.rec, made, spans)


def _over(of: Pullback, sweep: Sweep, known: Arrays, start: Any, span: _Span) -> tuple[dict[str, Any], dict[str, Any]]:
    initial = {} if start is None else {sweep.carried: start}
    if span is None:
        return of.run(sweep.rec, known, initial, sweep.backwards)
    arrays = dict(known)
    for value in sweep.rec.inputs:
        array = known[value.name]
        arrays[value.name] = array[(slice(None),) * _axis(of, array.ndim, len(value.dims)) + (slice(*span),)]
    lengths = of.options.get("lengths")
    if lengths is not None:
        lengths = lengths if torch_ops.is_tensor(lengths) else np.asarray(lengths)
        lengths = (lengths - span[0]).clip(0, span[1] - span[0])
    return of.run(sweep.rec, arrays, initial, sweep.backwards, lengths=lengths)


def _joined(of: Pullback, rec: ir.Recurrence, made: Sequence[Arrays], spans: Sequence[_Span]) -> dict[str, Any]:
    """The outputs over all spans, in the order of time."""
    if len(made) == 1:
        return dict(made[0])
    parts = [p for _, p in sorted(zip(spans, made, strict=True), key=lambda pair: pair[0] or (0, 0))]
    ranks = {e.name: len(e.expr.dims) for e in rec.equations}
    found: dict[str, Any] = {}
    for name in parts[0]:
        values = [p[name] for p in parts]
        axis = _axis(of, values[0].ndim, ranks[name])
        tensors = torch_ops.is_tensor(values[0])
        found[name] = torch_ops.library().cat(values, axis) if tensors else np.concatenate(values, axis)
    return found


def _axis(of: Pullback, ndim: int, rank: int) -> int:
    """The time axis of an array of so many axes, `rank` of them dims."""
    return 0 if of.of.options.layout == "TB" else ndim - rank - 1


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


def _plus(left: Arrays, right: Arrays) -> dict[str, Any]:
    return {**left, **{n: left[n] + v if n in left else v for n, v in right.items()}}
