"""The one recurrence a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recurc.cli.files import readable

if TYPE_CHECKING:
    from recurc.api import Recurrence


def load(file: Path, name: str | None = None) -> Recurrence:
    """The recurrence in `file`, or `zoo:NAME`; `name` picks one of several.

    Raises `RecurcError` for what is not there, and `RecError` with the diagnostics of the source."""
    import recurc

    text = str(file)
    if text.startswith("zoo:"):
        return recurc.zoo.load(text.removeprefix("zoo:"))
    return recurc.load(readable(file), name=name)
