"""The exceptions users meet. A user's error, a limitation and a compiler bug are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recurc.diagnostics import Diagnostic


class RecurcError(Exception):
    """Base of everything recurc raises on purpose."""


class RecError(RecurcError):
    """The source of a recurrence is wrong; `.diagnostics` says where and why."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__("\n\n".join(d.to_text() for d in self.diagnostics))


class ShapeError(RecurcError, ValueError):
    """An array given to a recurrence has the wrong dims, size, dtype or name."""


class UnsupportedError(RecurcError, NotImplementedError):
    """A limitation: the construct is legal, this version does not do it. Names the construct."""

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic] = ()) -> None:
        self.diagnostics = list(diagnostics)
        super().__init__(message)


class BackendError(RecurcError, RuntimeError):
    """The machine let us down: no compiler, no GPU, an unwritable cache, a failed build."""


class CompilerBug(RecurcError, AssertionError):
    """An invariant of the compiler broke. Never the user's fault; please report it."""


class TraceError(RecurcError, TypeError):
    """A Python step function does something that has no meaning as a recurrence, such as `if` on a traced value."""
