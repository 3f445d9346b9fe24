"""`recurc bench FILE`: every backend and schedule side by side, and torch's eager loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recurc.cli import OK, say
from recurc.cli.options import batch_option, dtype_option, file_argument, name_option, sizes_option, steps_option
from recurc.cli.tables import print_table
from recurc.errors import BackendError, UnsupportedError

if TYPE_CHECKING:
    from recurc.explain import Case
    from recurc.ir import Recurrence

_SLOW = 1 << 18  # steps x sequences from which interpreters are left out


@dataclass(frozen=True)
class _Row:
    what: str
    schedule: str
    seconds: float | None
    note: str = ""


@click.command("bench")
@file_argument
@name_option
@sizes_option
@batch_option
@steps_option
@dtype_option
@click.option("--seconds", type=click.FloatRange(min=0.01), default=1.0, show_default=True, help="Time for each row.")
def command(
    file: Path, name: str | None, sizes: dict[str, int], batch: int, steps: int, dtype: str | None, seconds: float
) -> int:
    """Time every backend and schedule on random inputs, side by side, and torch's eager loop."""
    from recurc.cli.cases import case_for
    from recurc.cli.load import load

    rec = load(file, name).ir
    case = case_for(rec, sizes, batch, steps, dtype or "f32", "cpu")
    rows = _measure(rec, case, seconds)
    _print(f"{rec.name}   {case}", rows)
    return OK


def _measure(rec: Recurrence, case: Case, budget: float) -> list[_Row]:
    from recurc.api import Recurrence as Public
    from recurc.cli.selftest import random_arrays
    from recurc.passes import analyze
    from recurc.runtime.choose import BACKENDS, backend

    arrays = random_arrays(rec, case.sizes, case.batch, case.steps, case.real)
    legal = list(dict.fromkeys(s for g in analyze(rec).groups for s in g.schedules)) or ["auto"]
    rows: list[_Row] = []
    for name in BACKENDS:
        reason = backend(name).unavailable()
        interpreted = name in ("reference", "numpy")
        if reason is None and interpreted and case.batch * case.steps > _SLOW:
            reason = "left out: an interpreter, this long"
        if reason is not None:
            rows.append(_Row(name, "", None, reason))
            continue
        for schedule in ["auto"] if name == "reference" else legal:
            say(f"{name}, {schedule} ...")
            try:
                compiled: Callable[..., Any] = Public(rec).compile(
                    backend=name, schedule=schedule, dtype=case.real.value
                )
                rows.append(
                    _Row(name, "" if name == "reference" else schedule, _median(lambda f=compiled: f(**arrays), budget))
                )
            except (BackendError, UnsupportedError) as why:
                rows.append(_Row(name, schedule, None, str(why).splitlines()[0]))
    return [*rows, _eager(rec, case, arrays, budget)]


def _eager(rec: Recurrence, case: Case, arrays: dict[str, Any], budget: float) -> _Row:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return _Row("torch eager", "", None, "torch is not installed")
    import torch

    from recurc.cli.eager import Eager
    from recurc.passes import core_form

    say("torch eager ...")
    tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}  # pyright: ignore[reportUnknownMemberType]
    loop = Eager(core_form(rec), case.sizes)
    with torch.no_grad():
        return _Row("torch eager", "", _median(lambda: loop(tensors), budget), "the equations, step by step")


def _median(call: Callable[[], Any], budget: float) -> float:
    """The median of as many runs as fit, at least two after one to warm up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 2 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _print(title: str, rows: list[_Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    best = min((r.seconds for r in rows if r.seconds), default=1.0)
    table = Table(title=Text(title), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in ("backend", "schedule", "time", "of the best", ""):
        table.add_column(heading, justify="right" if heading in ("time", "of the best") else "left")
    for r in rows:
        figures = (f"{r.seconds * 1e3:.3f} ms", f"{r.seconds / best:.1f}x") if r.seconds else ("-", "")
        table.add_row(r.what, r.schedule, *figures, Text(r.note))
    print_table(table)
