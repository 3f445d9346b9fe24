"""Published systems, one `.rec` file each, with the paper they come from."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recurc.api import Recurrence


def names() -> list[str]:
    """The systems of the zoo, in alphabetical order."""
    return sorted(entry.name.removesuffix(".rec") for entry in files(__name__).iterdir() if entry.name.endswith(".rec"))


def text(name: str) -> str:
    """The source of a system. Raises `KeyError` if the zoo does not have it."""
    return files(__name__).joinpath(f"{_known(name)}.rec").read_text(encoding="utf-8")


def path(name: str) -> Path:
    """The file of a system. Raises `KeyError` if the zoo does not have it."""
    with as_file(files(__name__).joinpath(f"{_known(name)}.rec")) as found:
        return found


def load(name: str) -> Recurrence:
    """A system of the zoo as a `recurc.Recurrence`. Raises `KeyError` if the zoo does not have it."""
    from recurc.api import Recurrence
    from recurc.frontend import load_text

    (rec,) = load_text(text(name), f"zoo/{name}.rec")
    return Recurrence(rec)


def _known(name: str) -> str:
    if name not in names():
        raise KeyError(f"the zoo has no {name!r}; it has {', '.join(names())}")
    return name


__all__ = ["load", "names", "path", "text"]
