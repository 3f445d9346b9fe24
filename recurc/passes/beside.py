"""What walks over time together: whether scans can, without losing what each runs side by side by itself, and what a
group of states finds at hand that runs in one stage with groups before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recurc.facts import Group, Monoid
from recurc.ir import Expr, walk
from recurc.passes.cost import Shape
from recurc.passes.nonlinear_rules import crossed
from recurc.passes.work import Steps, Work
from recurc.types import Dims


@dataclass(frozen=True)
class Walk:
    """A scan, as those see it that would walk over time with it."""

    dims: frozenset[str]  # of its states
    meet: frozenset[str]  # dims along which positions meet in any of its expressions
    size: int  # elements of its states
    multiplies: bool  # elements combine by products of matrices


def walk_of(monoid: Monoid, states: Iterable[Dims], body: Iterable[Expr], shape: Shape) -> Walk:
    """Of the states with those dims, and the expressions around the monoid."""
    meet: set[str] = set()
    for node in (n for e in (*body, *monoid.lift, *monoid.combine, *monoid.apply) for n in walk(e)):
        meet |= crossed(node, lambda _: False) | {d for d in node.dims if node.dims.count(d) > 1}
    dims = list(states)
    size = sum(shape.elements(d) for d in dims)
    return Walk(frozenset(d for each in dims for d in each), frozenset(meet), size, monoid.multiplies)


def together(walks: Sequence[Walk], shape: Shape) -> bool:
    """Whether scans lose nothing of what runs side by side.

    A scan does so along dims of its states along which its positions never meet. Of these, one must be left where the
    positions of no other scan meet either. A scan that has none may join others if it is small: for every place along
    theirs it is computed anew. Scans of matrices and tables, which combine by products, stay alone."""
    if any(w.multiplies for w in walks):
        return False
    meet = frozenset[str]().union(*(w.meet for w in walks))
    left = [w.dims - meet for w in walks]
    if any(w.dims - w.meet and not rest for w, rest in zip(walks, left, strict=True)):
        return False
    if not any(left):
        return len({w.dims for w in walks}) == 1
    along = [w.size / shape.elements(tuple(rest)) for w, rest in zip(walks, left, strict=True) if rest]
    return all(w.size <= max(along) for w, rest in zip(walks, left, strict=True) if not rest)


_FARTHEST = 16  # groups before one that are asked what it finds at hand


class Neighbours:
    """The groups right before one, as they were scheduled, that would run in one stage with it."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._schedule, self._groups = steps, "", tuple[Group, ...]()

    def work(self, group: Group, schedule: str, alone: Work) -> Work:
        """What the group takes by a schedule, beside those that it would run with."""
        others = self._beside(group, schedule)
        return self._steps.beside(group, alone, others) if others else alone

    def take(self, group: Group, schedule: str) -> None:
        """The group runs by that schedule."""
        self._groups = (*self._beside(group, schedule), group)[-_FARTHEST:]
        self._schedule = schedule

    def _beside(self, group: Group, schedule: str) -> tuple[Group, ...]:
        if schedule != self._schedule or schedule not in ("sequential", "scan"):
            return ()
        if schedule == "scan" and not together([self._walk(g) for g in (*self._groups, group)], self._steps.shape):
            return ()
        return self._groups

    def _walk(self, group: Group) -> Walk:
        assert group.monoid is not None
        dims = [self._steps.states[s].dims for s in group.states]
        return walk_of(group.monoid, dims, (e.expr for e in self._steps.equations_of(group)), self._steps.shape)
