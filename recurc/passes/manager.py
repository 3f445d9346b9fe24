"""Passes as values, and the one place that runs them: in order, each verified, timed, dumped on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recurc.errors import UnsupportedError
from recurc.ir import Expr, Recurrence
from recurc.passes.verify import verify


@dataclass(frozen=True)
class Pass:
    """A step from recurrence to recurrence. `options` are the values `run` was built with, for the record."""

    name: str
    description: str
    run: Callable[[Recurrence], Recurrence]
    stage: str = "core"  # the rules its result must keep (`verify.STAGES`)
    options: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Timing:
    name: str
    seconds: float


@dataclass(frozen=True)
class Record:
    """What a run of passes leaves: the result, how long each took, and the dumps asked for (pass name -> text)."""

    result: Recurrence
    timings: tuple[Timing, ...]
    dumps: dict[str, str] = field(default_factory=dict[str, str])


def run_passes(rec: Recurrence, passes: Sequence[Pass], dump_after: Sequence[str] = ()) -> Record:
    """`passes` in order over `rec`; the IR is verified after each.

    `dump_after` names passes whose result is kept as text; `"source"` keeps the input, `"all"` everything.
    Raises `UnsupportedError` for a pass name that does not exist, `CompilerBug` when a pass breaks the IR."""
    known = {"source", "all", *(p.name for p in passes)}
    for name in dump_after:
        if name not in known:
            raise UnsupportedError(f"there is no pass `{name}` to dump after; there are: {', '.join(sorted(known))}")
    sound: dict[int, Expr] = {}
    verify(rec, "source", sound=sound)
    timings: list[Timing] = []
    dumps: dict[str, str] = {}
    if "source" in dump_after or "all" in dump_after:
        dumps["source"] = _text(rec)
    for step in passes:
        start = time.perf_counter()
        rec = step.run(rec)
        timings.append(Timing(step.name, time.perf_counter() - start))
        verify(rec, step.stage, after=step.name, sound=sound)
        if step.name in dump_after or "all" in dump_after:
            dumps[step.name] = _text(rec)
    return Record(rec, tuple(timings), dumps)


def _text(rec: Recurrence) -> str:
    from recurc.irtext import to_text

    return to_text(rec)
