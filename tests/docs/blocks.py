"""Runs the Python blocks of a page, and compares what each prints with the text block below it."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path
from typing import Any


def check(page: Path) -> int:
    """Runs the blocks of `page` in order, in one scope; the number of outputs that were compared."""
    blocks = re.findall(r"^```(python|text)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {"__name__": "page"}
    compared = 0
    for i, (kind, code) in enumerate(blocks):
        if kind == "text":
            assert blocks[i - 1][0] == "python", "a text block stands below the code that prints it"
            continue
        name = f"<{page.name}, block {i}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # tracing reads the source
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, name, "exec"), scope)  # a page of this repository
        shown = blocks[i + 1][1] if blocks[i + 1 : i + 2] and blocks[i + 1][0] == "text" else ""
        assert out.getvalue() == shown
        compared += bool(shown)
    return compared
