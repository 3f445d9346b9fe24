"""What recurc says unasked: a warning at the line of the caller that led to it, not at one of ours."""

from __future__ import annotations

import inspect
import warnings


def notice(text: str) -> None:
    """Warns of something that works, but otherwise than asked or hoped for."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "recurc":
        frame, level = frame.f_back, level + 1
    warnings.warn(text, RuntimeWarning, stacklevel=level)
