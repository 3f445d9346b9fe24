"""Identifiers of one generated module or kernel, and the lines being written."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from recurc.backends.emit.names import safe_name
from recurc.ir import Equation

_RESERVED = frozenset(
    [
        "tl",
        "triton",
        "torch",
        "range",
        "min",
        "max",
        "abs",
        "sum",
        "float",
        "int",
        "bool",
        "len",
        "str",
        "type",
        "print",
        "launch",
        "k",
        "k0",
        "in_k",
        "data",
        "now",
        "place",
        "tile",
        "_stride",
        "_segments",
        "combine",
        "device",
        "batch",
        "steps",
        "seq",
        "own",
        "pid",
        "t",
        "t0",
        "step",
        "rows",
        "rows_k",
        "segments",
        "segment",
        "segment_steps",
        "part",
        "first",
        "past",
        "is_last",
        "in_seq",
        "in_t",
        "in_row",
        "row",
    ]
)


class Scope:
    """Gives each key one identifier, no two keys the same one. Keys are whatever tells values apart; hints are
    validated source names (or parts of them) and pass through `safe_name`."""

    def __init__(self, taken: frozenset[str] = frozenset()) -> None:
        self._taken: set[str] = set(_RESERVED | taken)
        self._given: dict[Hashable, str] = {}

    def __call__(self, key: Hashable, hint: str) -> str:
        if key not in self._given:
            base = candidate = safe_name(hint)
            number = 2
            while candidate in self._taken:
                candidate, number = f"{base}_{number}", number + 1
            self._taken.add(candidate)
            self._given[key] = candidate
        return self._given[key]


@dataclass
class Lines:
    """Text lines under a common indentation."""

    indent: int = 1
    lines: list[str] = field(default_factory=list[str])

    def add(self, text: str, comment: str = "") -> None:
        self.lines.append("    " * self.indent + text + (f"  # {comment}" if comment else ""))


def plain(text: str) -> str:
    """`text` fit for a comment or a docstring of a generated file: one line of printable ASCII without escapes."""
    kept = "".join(c if c.isascii() and c.isprintable() and c not in "\\\"'" else "?" for c in text)
    return kept if len(kept) <= 160 else kept[:157] + "..."


def place(equation: Equation) -> str:
    """Where an equation stands in its source, for a comment; empty when it has no source."""
    span = equation.span or equation.expr.span
    return plain(str(span)) if span else ""
