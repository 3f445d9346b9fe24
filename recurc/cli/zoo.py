"""`recurc zoo [NAME]`: the systems that come with recurc."""

from __future__ import annotations

import json

import click

from recurc.cli import OK
from recurc.cli.options import json_option


@click.command("zoo")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> int:
    """List the systems that come with recurc, or show the text of one."""
    import recurc

    if name is not None:
        text = recurc.zoo.text(name)
        click.echo(json.dumps({"name": name, "text": text}, ensure_ascii=False) if as_json else text, nl=as_json)
        return OK
    rows = [_row(entry) for entry in recurc.zoo.names()]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return OK
    _table(rows)
    return OK


def _row(name: str) -> dict[str, object]:
    import recurc
    from recurc.passes import analyze

    rec = recurc.zoo.load(name)
    groups = analyze(rec.ir).groups
    lines = [line for line in recurc.zoo.text(name).splitlines() if line.startswith("#")]
    return {
        "name": name,
        "recurrence": rec.ir.name,
        "states": [s.name for s in rec.ir.states],
        "classes": [g.cls for g in groups],
        "schedules": sorted({s for g in groups for s in g.schedules}),
        "about": lines[0].lstrip("# ") if lines else "",
    }


def _table(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "states", "class", "schedules", "what it is"):
        table.add_column(heading, no_wrap=heading == "name")
    for row in rows:
        listed = [", ".join(str(x) for x in _list(row[key])) for key in ("states", "classes", "schedules")]
        table.add_row(*(Text(cell) for cell in (str(row["name"]), *listed, str(row["about"]))))
    Console(highlight=False).print(table)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
