"""`recurc new NAME`: a file of one's own, started from the zoo."""

from __future__ import annotations

from pathlib import Path

import click

from recurc.cli import OK, say
from recurc.cli.files import FileError, write


@click.command("new")
@click.argument("name")
@click.option("--from", "entry", metavar="ZOO_NAME", help="The system to start from (default: NAME, else ema).")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write (default: NAME.rec).")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def command(name: str, entry: str | None, out: Path | None, force: bool) -> int:
    """Start a .rec file from a system of the zoo."""
    import recurc

    stem = Path(name).stem
    if not stem.isidentifier():
        raise click.BadParameter(f"{stem!r} cannot name a recurrence: letters, digits and _ only", param_hint="NAME")
    known = recurc.zoo.names()
    source = entry or (stem if stem in known else "ema")
    path = out or Path(name).with_suffix(".rec")
    if path.exists() and not force:
        raise FileError(f"{path} exists; --force replaces it")
    text = recurc.zoo.text(source)
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    say(f"wrote {path}, from the zoo's {source}. Next: recurc check {path}, recurc explain {path}")
    return OK
