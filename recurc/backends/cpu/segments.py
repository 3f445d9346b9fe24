"""Scans as loops over segments of time, level by level: the states before each segment of a level's scans are found by
folding its segments to elements, for which scans of earlier levels run again from the states that were found before.

So n fused scans, each of which needs the one before, pass n + 1 times over the inputs and hand on in registers what n
scans apart would store for every step and load twice, in 2 n passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recurc.backends.cpu.program import StageInput
from recurc.backends.cpu.stages import ScanLoops, scan_loops
from recurc.ir import Equation, Expr, reads
from recurc.plan import Buffer, Carry, Fused, Plan, Scan


@dataclass(frozen=True)
class Level:
    """Scans whose segments fold side by side, by the loop `fold`."""

    fold: StageInput
    scans: tuple[ScanLoops, ...]

    @property
    def totals(self) -> dict[str, Buffer]:
        """What each folded element is called in `fold`, and where it goes."""
        return {c.name: t for s in self.scans for c, t in zip(s.fold.carries, s.totals, strict=True)}


@dataclass(frozen=True)
class Segments:
    """One scan, or fused ones. `run` goes through a segment from the states before it, and writes what is asked for."""

    levels: tuple[Level, ...]
    run: StageInput

    @property
    def scans(self) -> tuple[ScanLoops, ...]:
        return tuple(s for level in self.levels for s in level.scans)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """(B, segments, *dims): the folded elements, and the states before each segment."""
        return tuple(b for s in self.scans for b in (*s.totals, *s.starts))

    @property
    def starts(self) -> dict[str, Buffer]:
        """Of each state, where its values before the segments are."""
        return {c.name: b for s in self.scans for c, b in zip(s.run.carries, s.starts, strict=True)}

    def parts(self) -> tuple[tuple[StageInput, str, str], ...]:
        """Each C function in the order of the calls: what it does, the end of its name, and a sentence for a reader."""
        found: list[tuple[StageInput, str, str]] = []
        for number, level in enumerate(self.levels):
            place = f"_{number + 1}" if len(self.levels) > 1 else ""
            again = " behind the scans before, which run again" if number else ""
            found.append((level.fold, f"fold{place}", f"Folds the elements of one segment of steps into one{again}."))
            for scan in level.scans:
                end = "carry" if len(self.scans) == 1 else f"carry_{scan.carry.carries[0].name}"
                what = "Carries the states over the segments; a step here is a segment."
                found.append((scan.carry, end, what))
        return (*found, (self.run, "run", "Runs one segment from the states before it."))


def segments_of(stage: Scan | Fused, name: str, plan: Plan) -> Segments:
    """The loops of a scan, or of fused ones."""
    if isinstance(stage, Scan):
        loops = scan_loops(stage, name, plan)
        return Segments((Level(loops.fold, (loops,)),), loops.run)
    found = [scan_loops(part, name, plan, alone=False) for part in stage.parts]
    levels: list[Level] = []
    for level in range(max(stage.levels) + 1):
        here = [k for k, place in enumerate(stage.levels) if place == level]
        before = [k for k, place in enumerate(stage.levels) if place < level]
        body = [e for k in before for e in found[k].run.body] + [e for k in here for e in found[k].fold.body]
        folds = [found[k].fold for k in here]
        carries = [c for k in before for c in found[k].run.carries] + [c for f in folds for c in f.carries]
        identity = {n: e for f in folds for n, e in f.identity.items()}
        wanted = {c.name for f in folds for c in f.carries}
        levels.append(
            Level(_pruned(f"{name}@fold{level}", carries, body, wanted, identity), tuple(found[k] for k in here))
        )
    body = _once(e for loops in found for e in loops.run.body)
    run = StageInput(f"{name}@run", stage.carries, body, stage.writes, packs=False)
    return Segments(tuple(levels), run)


def _once(body: Iterable[Equation]) -> tuple[Equation, ...]:
    """Each equation where it stands first: one name is one value."""
    found: dict[str, Equation] = {}
    for equation in body:
        found.setdefault(equation.name, equation)
    return tuple(found.values())


def _pruned(
    name: str, carries: Iterable[Carry], body: Iterable[Equation], wanted: set[str], identity: Mapping[str, Expr]
) -> StageInput:
    """The loop without what `wanted` does not need."""
    every = _once(body)
    by_name = {e.name: e for e in every}
    pending, needed = list(wanted), set[str]()
    while pending:
        found = by_name.get(pending.pop())
        if found is not None and found.name not in needed:
            needed.add(found.name)
            pending += [r.name for r in reads(found.expr)]
    kept = tuple(c for c in carries if c.name in needed)
    return StageInput(name, kept, tuple(e for e in every if e.name in needed), (), identity, packs=False)
