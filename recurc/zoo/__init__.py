"""Published systems, one `.rec` file each, with the paper they come from."""

from __future__ import annotations

import difflib
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from recurc.errors import RecurcError

if TYPE_CHECKING:
    from recurc.api import Recurrence


class UnknownSystemError(RecurcError, KeyError):
    """The zoo has no system of this name."""

    __str__ = RecurcError.__str__  # KeyError's would put the message in quotes


def names() -> list[str]:
    """The systems of the zoo, in alphabetical order."""
    return sorted(entry.name.removesuffix(".rec") for entry in files(__name__).iterdir() if entry.name.endswith(".rec"))


def text(name: str) -> str:
    """The source of a system. Raises `UnknownSystemError` if the zoo does not have it."""
    return files(__name__).joinpath(f"{_known(name)}.rec").read_text(encoding="utf-8")


def path(name: str) -> Path:
    """The file of a system. Raises `UnknownSystemError` if the zoo does not have it."""
    with as_file(files(__name__).joinpath(f"{_known(name)}.rec")) as found:
        return found


def load(name: str) -> Recurrence:
    """A system of the zoo as a `recurc.Recurrence`: the last one of its file, behind the cells it is made of.

    Raises `UnknownSystemError` if the zoo does not have it."""
    from recurc.api import Recurrence
    from recurc.frontend import load_text

    return Recurrence(load_text(text(name), f"zoo/{name}.rec")[-1])


def _known(name: str) -> str:
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names())}"
        raise UnknownSystemError(f"the zoo has no {name!r}; {hint}")
    return name


__all__ = ["UnknownSystemError", "load", "names", "path", "text"]
