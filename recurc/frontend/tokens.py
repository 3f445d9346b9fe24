"""The names of the tokens, their spelling, and how a message speaks of them."""

from __future__ import annotations

KEYWORDS = {
    word: word.upper()
    for line in (
        "recurrence input param state const output fn use every when reset der using",
        "if then else and or not as true false",
    )
    for word in line.split()
}
# Longest first: `**` before `*`.
SYMBOLS = {
    "**": "DOUBLE_STAR",
    "//": "DOUBLE_SLASH",
    "<=": "LESS_EQUAL",
    ">=": "GREATER_EQUAL",
    "==": "EQUALS",
    "!=": "DIFFERS",
    "<": "LESS",
    ">": "GREATER",
    "+": "PLUS",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "@": "AT",
    "%": "PERCENT",
    "~": "TILDE",
    "=": "EQUAL",
    ":": "COLON",
    ",": "COMMA",
    "(": "LPAR",
    ")": "RPAR",
    "[": "LSQB",
    "]": "RSQB",
}
_SPELLING = {kind: text for text, kind in (KEYWORDS | SYMBOLS).items()}
_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": 'a file name in "quotes"',
    "NEWLINE": "the end of the line",
    "INDENT": "an indented block",
    "DEDENT": "the end of the block",
    "TRANSPOSE": "`.T`",
    "$END": "the end of the file",
}
_DECLARATIONS = {
    "INPUT",
    "PARAM",
    "STATE",
    "CONST",
    "OUTPUT",
    "FN",
    "EVERY",
    "WHEN",
    "RESET",
    "DER",
    "USE",
    "RECURRENCE",
}
_OPERATORS = {
    "DOUBLE_STAR", "DOUBLE_SLASH", "LESS_EQUAL", "GREATER_EQUAL", "EQUALS", "DIFFERS", "LESS", "GREATER", "PLUS",
    "MINUS", "STAR", "SLASH", "AT", "PERCENT", "AND", "OR", "AS", "TRANSPOSE",
}  # fmt: skip
_EXPRESSION = {"IF", "NOT", "TRUE", "FALSE", "LPAR", "NUMBER", "NAME", "PLUS", "MINUS"}


def in_words(kind: str) -> str:
    """One token kind as a message names it: `COMMA` is "`,`", `NAME` is "a name"."""
    return _WORDS.get(kind) or f"`{_SPELLING[kind]}`"


def expected_in_words(kinds: set[str]) -> str:
    """What may stand here, grouped so that a person can read it: "an operator, `)` or the end of the line"."""
    rest = set(kinds)
    words: list[str] = []
    if {"NUMBER", "LPAR", "NAME"} <= rest:
        words.append("an expression")
        rest -= _EXPRESSION
    if len(rest & _DECLARATIONS) > 2:
        words.append("a declaration or an equation" if "NAME" in kinds else "a declaration")
        rest -= _DECLARATIONS | {"NAME"}
        words = [w for w in words if w != "an expression"] or words
    if len(rest & _OPERATORS) > 3:
        words.append("an operator")
        rest -= _OPERATORS
    if "INDENT" in rest:
        rest.discard("NEWLINE")
    words += sorted((in_words(kind) for kind in rest), key=lambda w: (w.startswith("the end"), w))
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "nothing more"
