"""Initial and final states of calls that are differentiated, as the caller knows them and as the pass does, with their
derivatives: arrays of NumPy as of torch.

*Gauges* (`passes.gauges`). The pass takes m for a constant: a derivative by a state u is one by U = exp(m) u, and one
by m is one for U that stay. With du by u, a loss has by m for U that stay what it has by m alone, less u du for each u.
It has by an initial m alone what it has by m for U that stay, and u du for each u.

*Tops* (`passes.with_maxima`). The caller knows u, and the pass exp(-m) u beside an m of its own.

Both are tuples, which `torch.compile` takes for constants: a gauge and its members, each with which of its dims the
gauge has; and a state, its maximum, and the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurc.errors import ShapeError
from recurc.ir import Recurrence
from recurc.passes.gauges import Gauge
from recurc.passes.with_maxima import WithMaxima
from recurc.runtime import torch_ops

Arrays = Mapping[str, Any]
Within = tuple[bool, ...]
GaugeEnds = tuple[str, tuple[tuple[str, Within], ...]]
TopEnds = tuple[str, str, Within]


def gauge_ends(rec: Recurrence, gauges: Sequence[Gauge]) -> tuple[GaugeEnds, ...]:
    return tuple((g.name, tuple((u, _within(rec, g.name, u)) for u in g.members)) for g in gauges)


def top_ends(made: WithMaxima) -> tuple[TopEnds, ...]:
    return tuple((u, top, _within(made.rec, top, u)) for u, top in made.tops.items())


def _within(rec: Recurrence, own: str, name: str) -> Within:
    dims = {s.name: s.dims for s in rec.states}
    return tuple(d in dims[own] for d in dims[name])


# --- gauges


def of_finals(gauges: Sequence[GaugeEnds], ends: Arrays, finals: Arrays) -> dict[str, Any]:
    """The derivatives `ends` by final states, as the pass takes them."""
    found = dict(ends)
    for name, members in gauges:
        for u, within in members:
            if u in ends:
                taken = _over(finals[u] * ends[u], within)
                found[name] = found[name] - taken if name in found else -taken
    return found


def of_starts(gauges: Sequence[GaugeEnds], first: Arrays, initial: Arrays) -> dict[str, Any]:
    """The derivatives by initial states from those `first` that the pass finds. Members begin at 0 where `initial` has
    none; a gauge begins at a number then, which has no derivative."""
    found = dict(first)
    for name, members in gauges:
        if name not in initial:
            continue
        terms = [_over(_array(initial.get(u, 0.0)) * first[u], within) for u, within in members]
        found[name] = sum(terms, found.get(name, 0.0))
    return found


def moved_starts(gauges: Sequence[GaugeEnds], initial: Arrays) -> dict[str, Any]:
    """Tensors of the same values, in which members depend on the gauge as they do where U stays: from these, autograd
    finds the derivatives of `of_starts`, and further ones."""
    found = dict(initial)
    for name, members in gauges:
        if name in initial and initial[name].requires_grad:
            found |= {u: initial[u] * _one(initial[name], within, 1) for u, within in members if u in initial}
    return found


def moved_finals(gauges: Sequence[GaugeEnds], finals: Arrays) -> dict[str, Any]:
    """The same for final states and `of_finals`."""
    found = dict(finals)
    for name, members in gauges:
        found |= {u: finals[u] * _one(finals[name], within, -1) for u, within in members}
    return found


def _one(gauge: Any, within: Within, sign: int) -> Any:
    """1, with the derivative of exp(sign m); without one for an infinite m."""
    difference = torch_ops.library().where(gauge.isfinite(), gauge - gauge.detach(), 0.0)
    return _spread((sign * difference).exp(), within)


# --- tops


def begun(tops: Sequence[TopEnds], initial: Arrays) -> dict[str, Any]:
    """With the maxima that belong to states of the caller's: 0. Raises `ShapeError` for such a maximum among them."""
    found = dict(initial)
    for top in {top for _, top, _ in tops} & {*initial}:
        raise ShapeError(f"there is no state `{top}` to give an initial value: it is what keeps sums in range")
    for u, top, within in tops:
        if u in initial and top not in found:
            own = _array(initial[u])[(..., *(slice(None) if own else 0 for own in within))]
            found[top] = own.new_zeros(own.shape) if torch_ops.is_tensor(own) else np.zeros_like(own)
    return found


def whole(tops: Sequence[TopEnds], finals: Arrays) -> dict[str, Any]:
    """The final states of the caller: exp(m) times what is beside the maximum, computed in f64."""
    found = {n: value for n, value in finals.items() if n not in {top for _, top, _ in tops}}
    for u, top, within in tops:
        found[u] = _times(finals[u], finals[top], within)
    return found


def scaled(tops: Sequence[TopEnds], ends: Arrays, finals: Arrays) -> dict[str, Any]:
    """The derivatives `ends` by such final states, by those beside the maxima."""
    found = dict(ends)
    for u, top, within in tops:
        given = ends.get(u)
        if given is not None and np.shape(given) == np.shape(finals[u]):
            found[u] = _times(given, finals[top], within)
            taken = _over(finals[u] * found[u], within)
            found[top] = found[top] + taken if top in found else taken
    return found


def _times(value: Any, top: Any, within: Within) -> Any:
    """`value` times exp of a maximum; 0 stays 0."""
    if not torch_ops.is_tensor(value):
        value = np.asarray(value)
        with np.errstate(all="ignore"):
            factor = np.exp(_spread(np.asarray(top, np.float64), within))
            return (value * np.where((value == 0) & np.isinf(factor), 1.0, factor)).astype(value.dtype)
    factor = _spread(top.double(), within).exp()
    factor = factor.where((value != 0) | factor.isfinite(), factor.new_ones(()))
    return (value.double() * factor).to(value.dtype)


def _spread(value: Any, within: Within) -> Any:
    """`(*batch, *dims)` of a maximum, as it goes with `(*batch, *dims)` of a state."""
    return value[(..., *(slice(None) if own else None for own in within))]


def _over(value: Any, within: Within) -> Any:
    """The sum over the dims that a gauge lacks."""
    axes = tuple(place - len(within) for place, own in enumerate(within) if not own)
    return value.sum(axes) if axes else value


def _array(value: Any) -> Any:
    return value if torch_ops.is_tensor(value) else np.asarray(value)
