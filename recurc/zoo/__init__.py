"""Published systems, one `.rec` file each, with the paper they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from recurc.errors import RecurcError

if TYPE_CHECKING:
    from recurc.api import Recurrence


_FOLDER = Path(__file__).parent


class UnknownSystemError(RecurcError, KeyError):
    """The zoo has no system of this name."""

    __str__ = RecurcError.__str__  # KeyError's would put the message in quotes


def names() -> list[str]:
    """The systems of the zoo, in alphabetical order."""
    return sorted(file.stem for file in _FOLDER.glob("*.rec"))


def text(name: str) -> str:
    """The source of a system. Raises `UnknownSystemError` if the zoo does not have it."""
    return path(name).read_text(encoding="utf-8")


def path(name: str) -> Path:
    """The file of a system. Raises `UnknownSystemError` if the zoo does not have it."""
    return _FOLDER / f"{_known(name)}.rec"


def load(name: str) -> Recurrence:
    """A system of the zoo as a `recurc.Recurrence`: the last one of its file, behind the cells it is made of.

    Raises `UnknownSystemError` if the zoo does not have it."""
    from recurc.api import Recurrence
    from recurc.frontend import load_text

    return Recurrence(load_text(text(name), f"zoo/{name}.rec")[-1])


def _known(name: str) -> str:
    if name not in names():
        import difflib

        near = difflib.get_close_matches(str(name), names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names())}"
        raise UnknownSystemError(f"the zoo has no {name!r}; {hint}")
    return name


__all__ = ["UnknownSystemError", "load", "names", "path", "text"]
