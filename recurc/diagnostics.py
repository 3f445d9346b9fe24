"""One diagnostic: a code, a message, the places involved, one line of help. Rendered as text or JSON.

The codes themselves, with their long explanations, are data: `error_codes.toml`, read by `recurc.error_index`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recurc.source import SourceFile, Span

_TAB = 4
_MAX_LINE = 200  # characters of a source line that a message shows


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What is wrong (`message`), where (`span`, and `labels`: further places with a word on each), what to do (`help`).

    `severity` is "error" (the user's), "limitation" (legal, not supported yet) or "warning". `source` is the text that
    the spans refer to; without it only the places are printed."""

    code: str
    severity: str
    message: str
    span: Span
    labels: tuple[tuple[Span, str], ...] = ()
    help: str = ""
    source: SourceFile | None = field(default=None, compare=False, repr=False)
    others: tuple[SourceFile, ...] = field(default=(), compare=False, repr=False)  # of labels in other files

    def to_text(self) -> str:
        """The message for a person: headline, place, source lines with carets, one line of help."""
        places = list(self.labels)
        if all(span != self.span for span, _ in places):
            places.insert(0, (self.span, ""))
        lines = [f"{self.severity}[{self.code}]: {self.message}", f"  --> {self.span}"]
        if self.source is not None:
            lines += _excerpt(self.source, [p for p in places if p[0].file == self.span.file])
            for other in self.others:
                inside = [p for p in places if p[0].file == other.name]
                lines += [f"  ::: {inside[0][0]}", *_excerpt(other, inside)] if inside else []
        else:
            lines += [f"   = {span}: {text}" for span, text in places if text]
        if self.help:
            lines.append(f"   = help: {self.help}")
        return "\n".join(_expand(line) for text in lines for line in text.split("\n"))

    def to_json(self) -> dict[str, Any]:
        """The same as data, with the field names of the command line's `--json`."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            **_place(self.span),
            "labels": [{"message": text, **_place(span)} for span, text in self.labels],
            "help": self.help,
        }


def _place(span: Span) -> dict[str, Any]:
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


def _excerpt(source: SourceFile, places: Sequence[tuple[Span, str]]) -> list[str]:
    """Each line involved once, in order, with a row of carets for every place on it."""
    by_line: dict[int, list[tuple[Span, str]]] = {}
    for span, text in places:
        by_line.setdefault(span.line, []).append((span, text))
    width = len(str(max(by_line)))
    rows = [" " * width + " |"]
    previous = None
    for number in sorted(by_line):
        if previous is not None and number > previous + 1:
            rows.append("...")
        previous = number
        line = source.line(number)
        first = min(span.column for span, _ in by_line[number])
        cut = max(0, first - _MAX_LINE // 2) if len(line) > _MAX_LINE else 0
        shown = line[cut : cut + _MAX_LINE]
        rows.append(f"{number:>{width}} | {_expand(shown)}")
        for span, text in sorted(by_line[number], key=lambda p: p[0].column):
            start = max(0, span.column - 1 - cut)
            end = max(start + 1, (span.end_column - 1 if span.end_line == number else len(line)) - cut)
            before = _columns(shown[:start])
            carets = max(1, _columns(shown[:end]) - before) if start < len(shown) else 1
            rows.append(f"{'':>{width}} | {' ' * before}{'^' * carets}{' ' + text if text else ''}")
    return rows


def _expand(text: str) -> str:
    """Tabs as spaces, control characters as a visible mark, so that carets stand under their characters."""
    out = ""
    for ch in text:
        out += " " * _TAB if ch == "\t" else ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}"
    return out


def _columns(text: str) -> int:
    """Terminal columns that `_expand(text)` takes: wide characters two, combining ones none."""
    total = 0
    for ch in text:
        if ch == "\t":
            total += _TAB
        elif ch.isprintable() and unicodedata.combining(ch):
            continue
        else:
            total += 2 if unicodedata.east_asian_width(ch) in "WF" else 1
    return total
