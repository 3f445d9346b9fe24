"""`recurc zoo [NAME]`: the systems that come with recurc."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import click

from recurc.cli import OK, say
from recurc.cli.options import json_option
from recurc.cli.tables import print_table

_DRAWN_BATCH, _DRAWN_STEPS = 8, 4096  # what `recurc graph` draws unless told otherwise


@click.command("zoo")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> int:
    """List the systems that come with recurc, or show one: its text, and where its picture lies."""
    import recurc

    if name is not None:
        text, picture = recurc.zoo.text(name), _picture(name)
        if as_json:
            click.echo(json.dumps(_row(name) | {"text": text, "picture": picture}, indent=2, ensure_ascii=False))
            return OK
        click.echo(text, nl=False)
        if picture:
            click.echo(f"\n# picture: {picture}")
        else:
            say("for a picture of it: pip install 'recurc[plot]'")
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
    from recurc.zoo.header import header

    rec = recurc.zoo.load(name)
    groups = analyze(rec.ir).groups
    head = header(recurc.zoo.text(name))
    return {
        "name": name,
        "recurrence": rec.ir.name,
        "states": [s.name for s in rec.ir.states],
        "classes": list(dict.fromkeys(g.cls for g in groups)),
        "schedules": list(dict.fromkeys(s for g in groups for s in g.schedules)),
        "about": head.about,
        "paper": head.paper,
    }


def _picture(name: str) -> str | None:
    """The dependence picture of a system, drawn once into the user's cache folder; None without matplotlib."""
    if find_spec("matplotlib") is None:
        return None
    import recurc
    from recurc.cli.cases import case_for
    from recurc.passes import make_plan
    from recurc.runtime.cache import cache_directory

    digest = hashlib.sha256(f"{recurc.__version__} {recurc.zoo.text(name)}".encode()).hexdigest()[:12]
    path = cache_directory() / f"{name}-{digest}.svg"
    if not path.exists():
        from recurc.cli.files import write
        from recurc.picture.draw import draw
        from recurc.picture.model import picture

        rec = recurc.zoo.load(name).ir
        case = case_for(rec, {}, _DRAWN_BATCH, _DRAWN_STEPS, None, "cpu")
        plan = make_plan(rec, case.sizes, _DRAWN_BATCH, _DRAWN_STEPS, case.real, case.target)
        drawn = picture(plan, f"{name}.rec · {case}")

        def save(temporary: Path) -> None:
            draw(drawn, temporary)

        write(path, save)
    return str(path)


def _table(rows: list[dict[str, object]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("name", "class", "schedules", "paper"):
        table.add_column(heading, no_wrap=heading in ("name", "class"))
    for row in rows:
        listed = [", ".join(str(x) for x in _list(row[key])) or "-" for key in ("classes", "schedules")]
        table.add_row(*(Text(cell) for cell in (str(row["name"]), *listed, str(row["paper"] or row["about"]))))
    print_table(table)
    say(f"{len(rows)} systems. `recurc zoo NAME` shows one, `recurc new my_cell --from NAME` starts a file from it.")


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
