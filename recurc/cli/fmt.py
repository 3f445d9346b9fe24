"""`recurc fmt FILE...`: the standard layout, comments kept."""

from __future__ import annotations

from pathlib import Path

import click

from recurc.cli import OK, WRONG, say
from recurc.cli.files import source_text, write
from recurc.cli.options import FILE


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit 1 if a file is not in the standard layout."
)
@click.option("--stdout", "to_stdout", is_flag=True, help="Print the result instead of writing the file.")
def command(files: tuple[Path, ...], only_check: bool, to_stdout: bool) -> int:
    """Put .rec files into the standard layout, in place."""
    from recurc.frontend import format_text

    changed: list[Path] = []
    for path in files:
        text = source_text(path)
        formatted = format_text(text, str(path))
        if to_stdout:
            click.echo(formatted, nl=False)
        elif formatted.encode("utf-8") != path.read_bytes():
            changed.append(path)
            if not only_check:
                write(path, lambda temporary, body=formatted: temporary.write_bytes(body.encode("utf-8")))
    if to_stdout:
        return OK
    for path in changed:
        say(f"{path}: {'not in the standard layout' if only_check else 'formatted'}")
    say(f"{len(files) - len(changed)} of {len(files)} already in the standard layout")
    return WRONG if only_check and changed else OK
