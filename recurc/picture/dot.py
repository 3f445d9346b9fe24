"""The picture in Graphviz's DOT language, for other programs to lay out."""

from __future__ import annotations

from recurc.picture.model import Box, Kind, Picture

_FILL = {
    Kind.INPUT: "#e0f0ff",
    Kind.PARAM: "#f2f2ee",
    Kind.BEFORE: "#eef6ff",
    Kind.PARALLEL: "#e3f6ea",
    Kind.CHUNKED: "#dcf3f4",
    Kind.SERIAL: "#fdf6cf",
    Kind.NONLINEAR: "#fff1dc",
    Kind.AFTER: "#f5effc",
    Kind.OUTPUT: "#d9ccf0",
}


def to_dot(picture: Picture) -> str:
    """A `digraph` of the picture; every text is quoted, so names cannot end a string."""
    lines = [
        f"digraph {_quoted(picture.title)} {{",
        "  rankdir=LR;",
        '  node [fontname="Helvetica", style="filled,rounded", shape=box];',
        '  edge [fontname="Courier", fontsize=10, color="#8a97a6"];',
    ]
    for box in picture.boxes:
        lines.append(f'  {_quoted(box.key)} [label={_label(box)}, fillcolor="{_FILL[box.kind]}"];')
        if box.feedback:
            lines.append(
                f'  {_quoted(box.key)} -> {_quoted(box.key)} [label={_quoted(box.feedback)}, color="#c2410c"];'
            )
    for a in picture.arrows:
        label = f" [label={_quoted(a.label)}]" if a.label else ""
        lines.append(f"  {_quoted(a.source)} -> {_quoted(a.target)}{label};")
    return "\n".join([*lines, "}", ""])


def _label(box: Box) -> str:
    if box.kind in (Kind.INPUT, Kind.PARAM, Kind.OUTPUT):
        return _quoted(f"{box.title} {box.subtitle}".strip())
    rows = [
        box.title,
        *([box.subtitle] if box.subtitle else []),
        *box.lines,
        *(box.note.split("\n") if box.note else []),
    ]
    return '"' + "".join(_escaped(row) + "\\l" for row in rows) + '"'


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
