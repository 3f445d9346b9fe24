"""Identifiers for generated code: validated source names made safe for C, CUDA and Python."""

from __future__ import annotations

import keyword
import unicodedata

_RESERVED = frozenset(keyword.kwlist) | frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while bool class "
    "template typename namespace operator new delete this private public protected virtual try catch throw using "
    "asm main tl triton torch math NULL INFINITY NAN exp log sin cos tanh sqrt max min abs fabs floor round erf pow".split()
)


def safe_name(name: str) -> str:
    """An ASCII identifier for `name` (`α` becomes `alpha`, `h@initial` becomes `h_initial`). Not yet unique."""
    out = []
    for ch in name:
        if ch.isascii() and (ch.isalnum() or ch == "_"):
            out.append(ch)
        elif ch == "@":
            out.append("_")
        elif ch == "'":
            out.append("_")
        else:
            words = unicodedata.name(ch, f"u{ord(ch):x}").split()
            upper = "CAPITAL" in words
            word = words[-1] if len(words[-1]) > 1 else words[-1]
            out.append(word.capitalize() if upper else word.lower())
    text = "".join(c if c.isalnum() or c == "_" else "_" for c in "".join(out)) or "value"
    if text[0].isdigit() or text in _RESERVED or text.startswith(("rc_", "__")):
        text = f"{text}_" if not text[0].isdigit() else f"n{text}"
    return text


class Names:
    """A scope of generated identifiers: the same source name always gets the same one, different names never share."""

    def __init__(self, reserved: frozenset[str] = frozenset()) -> None:
        self._given: dict[str, str] = {}
        self._taken: set[str] = set(reserved)

    def __call__(self, name: str) -> str:
        if name not in self._given:
            base = candidate = safe_name(name)
            number = 2
            while candidate in self._taken:
                candidate = f"{base}_{number}"
                number += 1
            self._taken.add(candidate)
            self._given[name] = candidate
        return self._given[name]

    def fresh(self, hint: str) -> str:
        """A new identifier that no source name has."""
        base, number = safe_name(hint), 1
        while f"{base}_{number}" in self._taken:
            number += 1
        self._taken.add(f"{base}_{number}")
        return f"{base}_{number}"
