"""How a process that runs cases in Triton's interpreter tells what became of one: a JSON object on a line."""

from __future__ import annotations

import json
from collections.abc import Callable


def report(what: str, run: Callable[[], None]) -> None:
    """Runs a case, whose assertions say what is wrong."""
    wrong = ""
    try:
        run()
    except AssertionError as far:
        wrong = str(far) or "a condition does not hold"
    print(json.dumps({"case": what, "wrong": wrong}), flush=True)
