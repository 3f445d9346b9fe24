"""Writing generated text: lines, comments, parentheses."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


def commented(text: str) -> str:
    """Safe inside a comment of one line: nothing in a stranger's file, nor its name, ends it or takes the next line."""
    return "".join(c if c.isprintable() and c != "\\" else "?" for c in text.expandtabs(4))


def bare(text: str) -> str:
    """Without the parentheses around the whole."""
    depth = 0
    for place, letter in enumerate(text if text.startswith("(") else ""):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else text
    return text


class Text:
    """Lines of code under a current indentation."""

    def __init__(self, depth: int = 0) -> None:
        self.lines: list[str] = []
        self._depth = depth

    def __call__(self, *lines: str) -> None:
        for line in lines:
            self.lines.append("    " * self._depth + line if line and not line.startswith("#") else line)

    def block(self, other: Text) -> None:
        """Lines written elsewhere, at this indentation."""
        self(*other.lines)

    @contextmanager
    def braces(self, head: str, tail: str = "}") -> Generator[None]:
        """`head {`, an indented body, `}`."""
        self(f"{head} {{".strip())
        self._depth += 1
        yield
        self._depth -= 1
        self(tail)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def wrapped_names(head: str, names: list[str], tail: str, width: int = 112) -> list[str]:
    """A list of names behind `head`, in lines of about `width` characters."""
    lines: list[str] = []
    line = head
    for k, name in enumerate(names):
        word = name + (tail if k == len(names) - 1 else ",")
        if len(line) + len(word) + 1 > width:
            lines.append(line.rstrip())
            line = "    "
        line += word + " "
    if names:
        lines.append(line.rstrip())
    return lines
