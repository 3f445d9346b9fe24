"""What the head of a zoo file says: the comment lines before its first recurrence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """`about`: one sentence. `paper`: where the system was published. `classes`: what theory says it is, in
    the codes of `recurc.facts.CLASSES`. `notes`: the other lines."""

    about: str
    paper: str
    classes: str
    notes: tuple[str, ...]


def header(text: str) -> Header:
    """The header of a zoo file's `text`. Lines `Paper: ...` and `Class: ...` have a meaning, and go on in lines
    that are indented further."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.removeprefix("#")
        if words.startswith("   ") and lines:
            lines[-1] += " " + words.strip()
        else:
            lines.append(words.strip())
    named = {key: next((t for line in lines if (t := _after(line, key)) is not None), "") for key in ("Paper", "Class")}
    rest = [line for line in lines if line and not any(_after(line, key) is not None for key in named)]
    return Header(rest[0] if rest else "", named["Paper"], named["Class"], tuple(rest[1:]))


def _after(line: str, key: str) -> str | None:
    start = f"{key}: "
    return line.removeprefix(start) if line.startswith(start) else None
