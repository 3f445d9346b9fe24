"""Backward: the pass that a differentiated call runs, and what its forward pass puts out for it.

`adjoint` differentiates equations as they stand. Here it gets a recurrence in which running maxima that no output
depends on are constants (`gauges`), and what it has to be given is made small (`residuals`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.ir import Recurrence
from recurc.passes.adjoint import Adjoint, adjoint
from recurc.passes.gauges import Gauge, detached
from recurc.passes.residuals import keep_sums, read_outputs


@dataclass(frozen=True)
class Backward:
    """`whole`: the backward pass; `adjoint`: the one for calls by whose gauges' final values there is no derivative,
    from the same that is saved. Where there are gauges, `whole` takes the derivatives by final states of members for a
    gauge that stays, and those by a gauge for members that do not change with it; of initial states it gives the same.
    `source`: what was differentiated."""

    source: Recurrence
    whole: Adjoint
    adjoint: Adjoint
    first: Adjoint

    def again(self) -> Adjoint:
        """The whole pass where derivatives by what was saved come in as well: of a derivative, that is."""
        return read_outputs(self.source, adjoint(self.source, self.first))


def backward(rec: Recurrence, memory: str, found: tuple[Gauge, ...]) -> Backward:
    """For a recurrence as the front end gives it, whose gauges are `found`, or which is taken as it is written;
    `memory`: "fast" or "balanced". Raises `UnsupportedError` for what has no derivative."""
    made = _kept(detached(rec, found, moving=True), memory)
    if not found:
        return made
    light = _without(_kept(detached(rec, found), memory).adjoint, found)
    if not {*light.saved} <= {*made.whole.saved}:
        light = made.whole
    return replace(made, adjoint=light)


def _kept(source: Recurrence, memory: str) -> Backward:
    plain = adjoint(source)
    kept = keep_sums(source, plain) if memory == "fast" else (source, plain)
    made = Backward(kept[0], kept[1], kept[1], plain)
    small = read_outputs(*kept)
    if small is kept[1]:
        return made
    first = replace(plain, saved=tuple(n for n in plain.saved if n in small.saved), previous=small.previous)
    made = Backward(kept[0], small, small, first)
    return made if {*made.again().saved} <= {*small.saved} else Backward(kept[0], kept[1], kept[1], plain)


def _without(adj: Adjoint, constant: tuple[Gauge, ...]) -> Adjoint:
    """The pass without derivatives by states that are constants: they are 0."""
    names = {g.name for g in constant}
    gone = {held for state, held in adj.states.items() if state in names}
    back = replace(
        adj.back,
        states=tuple(s for s in adj.back.states if s.name not in gone),
        equations=tuple(e for e in adj.back.equations if e.name not in gone),
    )
    return replace(adj, back=back, states={s: held for s, held in adj.states.items() if s not in names})
