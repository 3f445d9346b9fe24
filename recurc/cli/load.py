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
        entry = text.removeprefix("zoo:")
        if entry not in recurc.zoo.names():
            raise FileError(f"the zoo has no {entry!r}; it has: {', '.join(recurc.zoo.names())}")
        return recurc.load(recurc.zoo.path(entry), name=name)
    return recurc.load(readable(file), name=name)
