"""Tables on the screen, and in pipes and files, where a row is one line whatever it holds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

_LEAST, _PIPED = 60, 400  # columns: below the first, words fall apart letter by letter


def print_table(table: Table) -> None:
    """Prints to stdout, as wide as the terminal; a reader that is no terminal gets every row on a line of its own."""
    from rich.console import Console

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(highlight=False, width=_PIPED) if piped else Console(highlight=False)
    console.width = max(_LEAST, console.width)
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        click.echo(line.rstrip())
