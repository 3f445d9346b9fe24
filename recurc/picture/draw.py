"""The picture as SVG, PNG or PDF, with matplotlib."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from recurc.errors import BackendError
from recurc.formula import wrapped
from recurc.picture.layout import (
    LINE,
    LOOP_BEND,
    LOOP_HEIGHT,
    LOOP_SPAN,
    MONO,
    MONO_WIDTH,
    PAD,
    SMALL,
    TITLE,
    Layout,
    Rect,
    Route,
    arrange,
    pill_widths,
)
from recurc.picture.model import Box, Kind, Picture

Axes = Any  # matplotlib's own types are only partly known to strict checking

INK = "#1f2933"
FAINT = "#6b7785"
LINE_COLOUR = "#8a97a6"
FEEDBACK = "#c2410c"
FILL = {
    Kind.INPUT: ("#e0f0ff", "#3b82c4"),
    Kind.PARAM: ("#f2f2ee", "#9a9a8c"),
    Kind.BEFORE: ("#eef6ff", "#7fb0dc"),
    Kind.PARALLEL: ("#e3f6ea", "#2f9e62"),
    Kind.CHUNKED: ("#dcf3f4", "#1f8a94"),
    Kind.SERIAL: ("#fdf6cf", "#b39b12"),
    Kind.NONLINEAR: ("#fff1dc", "#e08a1e"),
    Kind.AFTER: ("#f5effc", "#a586d0"),
    Kind.OUTPUT: ("#7c5cb8", "#7c5cb8"),
}
WORDS = {
    Kind.INPUT: "input, one value per step",
    Kind.PARAM: "param, the same at every step",
    Kind.BEFORE: "hoisted: needs no state, done for all t at once or beside the states",
    Kind.PARALLEL: "states with an associative operator: may be scanned over t",
    Kind.CHUNKED: "states that may go in chunks of steps or as one convolution",
    Kind.SERIAL: "states that compose, but not cheaply: one step after another",
    Kind.NONLINEAR: "nonlinear states: one step after another",
    Kind.AFTER: "sunk: nobody feeds it back, leaves the recurrence",
    Kind.OUTPUT: "output",
}
MARGIN = 26.0


def draw(picture: Picture, path: Path) -> None:
    """Write the picture to `path`; the suffix (.svg, .png, .pdf) is the format.

    Raises `BackendError` where matplotlib is missing, `OSError` where the file cannot be written."""
    _figure(picture).savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def to_svg(picture: Picture) -> str:
    """The picture as an `<svg>` element for a page: text as outlines, no scripts, nothing from elsewhere.

    Raises `BackendError` where matplotlib is missing."""
    figure, written = _figure(picture), io.StringIO()
    import matplotlib

    settings: Any = matplotlib
    with settings.rc_context({"svg.fonttype": "path"}):
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", written.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]


def _figure(picture: Picture) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise BackendError(
            "drawing needs matplotlib: pip install 'recurc[plot]' (a .dot file needs nothing)"
        ) from missing
    layout = arrange(picture)
    footer = _footer(picture, max(layout.width, 560.0))
    width = max(layout.width, 560.0) + 2 * MARGIN
    below = 16.0 * (len(footer) + (len(_legend(picture)) + 1) // 2) + 30
    height = layout.height + below + 58 + 2 * MARGIN
    figure: Any = Figure(figsize=(width / 72, height / 72), dpi=144, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    left = MARGIN + (width - 2 * MARGIN - layout.width) / 2
    axes.set_xlim(-left, width - left)
    axes.set_ylim(-below - MARGIN, height - below - MARGIN)
    _text(axes, -left + MARGIN, layout.height + 44, picture.title, 17, weight="bold", va="center")
    _text(axes, -left + MARGIN, layout.height + 23, picture.subtitle, 9.5, colour=FAINT, va="center")
    _draw_routes(axes, layout)
    for box in picture.boxes:
        _draw_box(axes, box, layout.boxes[box.key])
    _draw_footer(axes, picture, footer, -left + MARGIN, width - 2 * MARGIN)
    return figure


def _text(
    axes: Axes, x: float, y: float, text: str, points: float, *, colour: str = INK, mono: bool = False, **style: Any
) -> None:
    family = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    axes.text(x, y, text, fontsize=points, color=colour, family=family, parse_math=False, zorder=5, **style)


def _round(axes: Axes, rect: Rect, fill: str, edge: str, radius: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={radius}"
    patch = FancyBboxPatch((rect.x, rect.y), rect.width, rect.height, style, fc=fill, ec=edge, lw=1.2, zorder=4)
    axes.add_patch(patch)


def _draw_box(axes: Axes, box: Box, rect: Rect) -> None:
    fill, edge = FILL[box.kind]
    if box.kind in (Kind.INPUT, Kind.PARAM, Kind.OUTPUT):
        _round(axes, rect, fill, edge, rect.height / 2)
        colour, second = ("white", "#e6dcf7") if box.kind is Kind.OUTPUT else (INK, FAINT)
        name, dims = pill_widths(box)
        x = rect.x + (rect.width - name - dims) / 2
        _text(axes, x, rect.middle, box.title, TITLE, colour=colour, mono=True, weight="bold", va="center_baseline")
        x += name + 5
        _text(axes, x, rect.middle, box.subtitle, SMALL, colour=second, mono=True, va="center_baseline")
        return
    _round(axes, rect, fill, edge, 9.0)
    x, y = rect.x + PAD, rect.top - PAD - 9
    _text(axes, x, y, box.title, TITLE, weight="bold")
    if box.subtitle:
        y -= 13
        _text(axes, x, y, box.subtitle, SMALL, colour=edge if box.kind is Kind.AFTER else _darker(edge))
    y -= 4
    for line in box.lines:
        y -= LINE
        _text(axes, x, y, line, MONO, mono=True)
    y -= 4
    for line in box.note.split("\n") if box.note else ():
        y -= 11
        _text(axes, x, y, line, SMALL, colour=FAINT, style="italic")
    if box.feedback:
        _draw_feedback(axes, box.feedback, rect)


def _darker(colour: str) -> str:
    r, g, b = (int(int(colour[i : i + 2], 16) * 0.7) for i in (1, 3, 5))
    return f"#{r:02x}{g:02x}{b:02x}"


def _draw_feedback(axes: Axes, label: str, rect: Rect) -> None:
    """An arrow out of the right end of the top, back into its left end: what the next step reads."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    middle, half = rect.x + rect.width / 2, rect.width * LOOP_SPAN / 2
    a, b = middle + half, middle - half
    up = rect.top + LOOP_HEIGHT * 0.62
    bend = min(LOOP_BEND, (a - b) / 3)
    points = [(a, rect.top), (a, up), (a - bend, up), (b + bend, up), (b, up), (b, rect.top + 1)]
    codes = [Curve.MOVETO, Curve.CURVE3, Curve.CURVE3, Curve.LINETO, Curve.CURVE3, Curve.CURVE3]
    axes.add_patch(
        FancyArrowPatch(
            path=Curve(points, codes), arrowstyle="-|>", mutation_scale=11, color=FEEDBACK, lw=1.5, fill=False, zorder=3
        )
    )
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"}
    _text(axes, middle, up, label, SMALL, colour=FEEDBACK, mono=True, ha="center", va="center", bbox=box)


def _draw_routes(axes: Axes, layout: Layout) -> None:
    from matplotlib.patches import FancyArrowPatch

    for route in layout.routes:
        axes.add_patch(
            FancyArrowPatch(
                path=_curve(route), arrowstyle="-|>", mutation_scale=9, color=LINE_COLOUR, lw=1.1, fill=False, zorder=2
            )
        )
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none"}
    for label in layout.labels:
        _text(axes, label.x, label.y, label.text, SMALL, mono=True, ha="center", va="center", bbox=box)


def _curve(route: Route) -> Any:
    from matplotlib.path import Path as Curve

    points, codes = [route.points[0]], [Curve.MOVETO]
    for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(route.points)):
        if i % 2:  # straight through a column
            points.append((x1, y1))
            codes.append(Curve.LINETO)
        else:
            middle = (x0 + x1) / 2
            points += [(middle, y0), (middle, y1), (x1, y1)]
            codes += [Curve.CURVE4] * 3
    return Curve(points, codes)


def _legend(picture: Picture) -> list[Kind]:
    present = {b.kind for b in picture.boxes}
    return [k for k in Kind if k in present]


def _footer(picture: Picture, width: float) -> list[tuple[str, str]]:
    """Lines of (bold part, rest): why each group has its schedule."""
    per_line = int(width / (0.56 * 8.5))
    lines: list[tuple[str, str]] = []
    for name, why in picture.why:
        first, *rest = wrapped(f"{name}: {why}", per_line)
        lines.append((name, first[len(name) + 1 :]))
        lines += [("", line) for line in rest]
    return lines


def _draw_footer(axes: Axes, picture: Picture, footer: list[tuple[str, str]], x: float, width: float) -> None:
    y = -34.0
    kinds = _legend(picture)
    for i, kind in enumerate(kinds):
        left = x + (width / 2) * (i % 2)
        fill, edge = FILL[kind]
        _round(axes, Rect(left, y - 2, 16, 9), fill, edge, 3.5)
        _text(axes, left + 23, y, WORDS[kind], 8.5, colour=INK)
        y -= 16 * (i % 2 == 1 or i == len(kinds) - 1)
    y -= 4
    for name, rest in footer:
        if name:
            _text(axes, x, y, name, 8.5, mono=True, weight="bold")
        _text(axes, x + (MONO_WIDTH * 8.5 * len(name) + 6) * bool(name), y, rest.strip(), 8.5, colour=FAINT)
        y -= 16
