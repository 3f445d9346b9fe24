"""`recurc check FILE...`: every diagnostic of the front end."""

from __future__ import annotations

import json
from pathlib import Path

import click

from recurc.cli import OK, WRONG, say
from recurc.cli.files import FileError, readable, source_text
from recurc.cli.options import FILE, json_option
from recurc.diagnostics import Diagnostic
from recurc.errors import RecError, UnsupportedError


@click.command("check")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """Parse and check .rec files: names, dims, dtypes, causality. Exit code 0 if all is well, 1 if not."""
    found: list[Diagnostic] = []
    good = 0
    limits: list[str] = []
    for path in files:
        diagnostics, limit = _problems(path)
        found += diagnostics
        limits += [limit] if limit else []
        good += not diagnostics and not limit
    if as_json:
        click.echo(json.dumps([d.to_json() for d in found], indent=2, ensure_ascii=False))
    else:
        for diagnostic in found:
            click.echo(diagnostic.to_text() + "\n")
    for limit in limits:
        say(limit)
    if good < len(files):
        say(f"{len(files) - good} of {len(files)} files with problems")
        return WRONG
    say(f"{good} file{'s' * (good != 1)} checked, no problems")
    return OK


def _source(path: Path) -> str:
    """The text of a file, or of `zoo:NAME`."""
    name = str(path)
    if not name.startswith("zoo:"):
        return source_text(path)
    from recurc import zoo

    return zoo.text(name.removeprefix("zoo:"))


def _problems(path: Path) -> tuple[list[Diagnostic], str]:
    """The diagnostics of a file, and a limitation that has none."""
    from recurc.frontend import load_file, load_text
    from recurc.zoo import UnknownSystemError

    try:
        if str(path).startswith("zoo:"):
            load_text(_source(path), str(path))
        else:
            load_file(readable(path))
    except RecError as wrong:
        return wrong.diagnostics, ""
    except UnsupportedError as limit:
        return limit.diagnostics, "" if limit.diagnostics else f"{path}: not supported: {limit}"
    except (FileError, UnknownSystemError) as missing:
        return [], f"error: {missing}"
    return [], ""
