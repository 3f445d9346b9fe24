"""Identifiers for generated code: validated source names made safe for C, CUDA and Python."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
import unicodedata

_RESERVED = frozenset(keyword.kwlist) | {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern",
    "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed",
    "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while", "bool",
    "class", "template", "typename", "namespace", "operator", "new", "delete", "this", "private", "public",
    "protected", "virtual", "try", "catch", "throw", "using", "asm", "main", "tl", "triton", "torch", "math",
    "NULL", "INFINITY", "NAN", "exp", "log", "sin", "cos", "tanh", "sqrt", "max", "min", "abs", "fabs", "floor",
    "round", "erf", "pow", "alignas", "alignof", "and", "and_eq", "assert", "bitand", "bitor", "char8_t", "char16_t",
    "char32_t", "co_await", "co_return", "co_yield", "compl", "concept", "const_cast", "consteval", "constexpr",
    "constinit", "decltype", "dynamic_cast", "errno", "explicit", "export", "friend", "mutable", "noexcept", "not_eq",
    "nullptr", "or_eq", "reinterpret_cast", "requires", "static_assert", "static_cast", "stderr", "stdin", "stdout",
    "thread_local", "typeid", "typeof", "wchar_t", "xor", "xor_eq", "EOF",
}  # fmt: skip

# Ours (also `h__3`, the h of row 3), a compiler's own (`__global__`, `_Complex`), and what macros of C headers look
# like (`M_PI`, `INT8_MAX`).
_TAKEN = re.compile(r"(?i:rc_)|__|_[A-Z]|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$|.*__([0-9]+|out)$")


def _ascii(character: str) -> str:
    """Letters and digits as they are; other letters by the last word of their Unicode name (`α` -> `alpha`)."""
    if character.isascii():
        return character if character.isalnum() else "_"
    words = unicodedata.name(character, f"U{ord(character):x}").split()
    spelled = "".join(c for c in words[-1] if c.isalnum())
    return spelled.capitalize() if "CAPITAL" in words else spelled.lower()


def safe_name(name: str) -> str:
    """An ASCII identifier for `name` (`α` becomes `alpha`, `h@initial` becomes `h_initial`). Not yet unique."""
    text = "".join(_ascii(c) for c in name) or "value"
    if text[0].isdigit():
        return f"n{text}"
    return f"{text}_" if text in _RESERVED or _TAKEN.match(text) else text


def module_name(name: str) -> str:
    """An identifier in small letters that is also good as the name of a Python file: it hides no module and no builtin
    from programs that stand next to it (a recurrence `Math` becomes `math_`)."""
    text = safe_name(safe_name(name).lower())
    hides = text in sys.stdlib_module_names or text in ("numpy", "torch", "triton", "cuda", "recurc")
    return f"{text}_" if hides or hasattr(builtins, text) else text


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
