"""What one stage of checking has found so far; everything is reported together."""

from __future__ import annotations

from collections.abc import Mapping

from recurc.diagnostics import Diagnostic
from recurc.errors import RecError, UnsupportedError
from recurc.source import SourceFile, Span


class Stop(Exception):
    """The thing being lowered is wrong, and that has been reported."""


MAX_PROBLEMS = 50


class Enough(Exception):
    """More has been found than anyone reads in one go."""


class Problems:
    """`others`: the texts of all files that places may lie in, by name."""

    def __init__(self, source: SourceFile, others: Mapping[str, SourceFile] | None = None) -> None:
        self.source = source
        self.others: Mapping[str, SourceFile] = others or {}
        self.found: list[Diagnostic] = []
        self.steps = 0  # how much has been lowered so far; bounded, see lower.py

    # Raises `Enough` when the list is full, so that a hostile file cannot make it long.
    def report(
        self, code: str, message: str, span: Span, help: str = "", labels: tuple[tuple[Span, str], ...] = ()
    ) -> None:
        severity = "limitation" if code.startswith("E09") else "error"
        source = self.others.get(span.file, self.source)
        further = {s.file: self.others[s.file] for s, _ in labels if s.file != span.file and s.file in self.others}
        made = Diagnostic(code, severity, message, span, labels, help, source, tuple(further.values()))
        if made in self.found:
            return  # a function inlined twice is wrong once
        self.found.append(made)
        if len(self.found) >= MAX_PROBLEMS:
            raise Enough

    def stop(
        self, code: str, message: str, span: Span, help: str = "", labels: tuple[tuple[Span, str], ...] = ()
    ) -> Stop:
        """Reports, and returns what to raise."""
        self.report(code, message, span, help, labels)
        return Stop(message)

    def raise_if_any(self) -> None:
        """`RecError` if the user made errors, `UnsupportedError` if there are only limitations."""
        found = sorted(self.found, key=lambda d: (d.span.line, d.span.column))
        errors = [d for d in found if d.severity == "error"]
        if errors:
            raise RecError(errors)
        if found:
            raise UnsupportedError("\n\n".join(d.to_text() for d in found), found)
