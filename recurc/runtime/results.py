"""Several outputs of one call: a named tuple whose fields are known only once a source is read, and that pickles."""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=256)
def result_type(name: str, outputs: tuple[str, ...]) -> Any:
    """The type of the results of recurrence `name`: a named tuple with a field for each output, in source order."""
    plain: Any = namedtuple(name, outputs, rename=True)  # pyright: ignore[reportUntypedNamedTuple]

    def reduced(result: tuple[Any, ...]) -> tuple[Any, ...]:
        return restored, (name, outputs, tuple(result))

    plain.__reduce__ = reduced  # the class itself cannot be found by name in another process
    return plain


def restored(name: str, outputs: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """A result, unpickled."""
    return result_type(name, outputs)(*values)
