"""`recurc explain FILE` and `recurc explain E0312`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import click

from recurc.cli import OK, say
from recurc.cli.options import (
    batch_option,
    dtype_option,
    json_option,
    name_option,
    schedule_option,
    sizes_option,
    steps_option,
)

_WIDEST = 140  # longer lines are hard to read


@click.command("explain")
@click.argument("what", metavar="FILE|CODE")
@name_option
@sizes_option
@batch_option
@steps_option
@click.option("--target", default="cpu", show_default=True, help="cpu, sm_80, sm_90 or sm_100.")
@schedule_option
@dtype_option
@click.option("--prove", is_flag=True, help="Let SymPy prove what was decided (takes seconds).")
@click.option("--dump-after", multiple=True, metavar="PASS", help="Print the IR after a pass (source, all, a name).")
@json_option
def command(
    what: str,
    name: str | None,
    sizes: dict[str, int],
    batch: int,
    steps: int,
    target: str,
    schedule: str,
    dtype: str | None,
    prove: bool,
    dump_after: tuple[str, ...],
    as_json: bool,
) -> int:
    """Groups of states, their classes and why, legal schedules, the chosen one with its cost, memory and plan;
    or what an error code like E0312 means."""
    if re.fullmatch(r"[A-Za-z]\d{4}", what):
        click.echo(_error(what.upper(), as_json))
        return OK
    from recurc.cli.load import load

    rec = load(Path(what), name).ir
    if dump_after:
        return _dump(rec, dump_after)
    from recurc.cli.cases import case_for
    from recurc.explain import WIDTH, to_json, to_text
    from recurc.passes import make_plan

    case = case_for(rec, sizes, batch, steps, dtype, target)
    plan = make_plan(rec, case.sizes, batch, steps, case.real, case.target, schedule, prove)
    if as_json:
        click.echo(json.dumps(to_json(plan, case), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        columns = shutil.get_terminal_size((WIDTH, 24)).columns
        click.echo(to_text(plan, case, min(columns, _WIDEST)))
    return OK


def _error(code: str, as_json: bool) -> str:
    from recurc import error_index

    entry = error_index.entry(code)
    return json.dumps(entry.to_json(), indent=2, ensure_ascii=False) if as_json else entry.to_text()


def _dump(rec: object, dump_after: tuple[str, ...]) -> int:
    """The IR after passes, as text that parses back; how long each pass took goes to stderr."""
    from recurc.ir import Recurrence
    from recurc.passes import run_core

    assert isinstance(rec, Recurrence)
    record = run_core(rec, dump_after)
    for step in record.timings:
        say(f"{step.name}: {step.seconds * 1e3:.2f} ms")
    for after, text in record.dumps.items():
        if len(record.dumps) > 1:
            say(f"--- after {after}")
        click.echo(text)
    return OK
