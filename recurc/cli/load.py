"""The one recurrence a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recurc.cli.files import FileError, readable

if TYPE_CHECKING:
    from recurc.api import Recurrence


def load(file: Path, name: str | None = None) -> Recurrence:
    """The recurrence in `file`, or `zoo:NAME`; `name` picks one of several.

    Raises `FileError`, and `RecError` with the diagnostics of the source."""
    import recurc

    text = str(file)
    if text.startswith("zoo:"):
        return recurc.zoo.load(zoo_entry(text.removeprefix("zoo:")))
    return recurc.load(readable(file), name=name)


def zoo_entry(name: str) -> str:
    """`name`, if the zoo has it; raises `FileError` with what it has."""
    from recurc import zoo

    if name not in zoo.names():
        raise FileError(f"the zoo has no {name!r}; it has: {', '.join(zoo.names())}")
    return name
