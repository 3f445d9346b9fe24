"""A recurrence and a compiled one in a notebook: source, picture and plan, as HTML that stands alone.

Every text that comes from a source (names, comments, messages) is escaped, the picture is inline SVG with its text as
outlines, and nothing is loaded from elsewhere. Colours are those of the notebook, dark or light; the picture has a
ground of its own. What cannot be shown (a picture without matplotlib, a plan of what no pass can do yet) is said in its
place, and the rest stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recurc.errors import RecurcError
from recurc.explain import Case, to_text
from recurc.facts import CLASSES
from recurc.ir import Recurrence
from recurc.plan import Plan

USUAL_SIZE, USUAL_BATCH, USUAL_STEPS = 64, 8, 4096
_FRAME = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:8px 12px;margin:4px 0"
_PRE = (
    "background:rgba(128,128,128,.12);color:inherit;border-radius:4px;padding:8px;margin:4px 0;overflow-x:auto;"
    "white-space:pre;text-align:left;font-size:12px;line-height:1.35"
)
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def usual_case(rec: Recurrence) -> Case:
    """What a plan is shown for before there was a call: default sizes, 64 for dims without one, on this CPU."""
    from recurc.arguments import with_defaults
    from recurc.runtime.machine import cpu_target
    from recurc.types import DType

    given = with_defaults(rec, {})
    free = {d.name: USUAL_SIZE for d in rec.dims if d.name not in given and d.same_as is None}
    known = with_defaults(rec, given | free)
    return Case({d.name: known[d.name] for d in rec.dims}, USUAL_BATCH, USUAL_STEPS, DType.F32, cpu_target(), rec)


def recurrence_html(rec: Recurrence, source: str) -> str:
    """Source, picture, groups and plan of a recurrence, for sizes as `usual_case` assumes them."""
    from recurc.passes import make_plan

    parts = [_folded("Source", _pre(source), opened=True)]
    try:
        case = usual_case(rec)
        plan = make_plan(rec, case.sizes, case.batch, case.steps, case.real, case.target)
    except RecurcError as refused:
        parts.append(_note(f"no plan: {refused}"))
    else:
        parts += _planned(plan, case)
    return _framed(rec.name, "recurrence", parts)


def compiled_html(rec: Recurrence, about: str, plan: Plan | None, case: Case | None, notes: Sequence[str] = ()) -> str:
    """Picture, groups and plan of what runs; `about` says on which backend. Without a plan, the notes alone."""
    parts = [_note(note) for note in notes]
    if plan is not None and case is not None:
        parts += _planned(plan, case)
    return _framed(rec.name, about, parts)


def _planned(plan: Plan, case: Case) -> list[str]:
    return [
        _folded("Picture", _picture(plan, case), opened=True),
        _folded("Groups of states", _groups(plan), opened=True),
        _folded("Plan", _pre(to_text(plan, case)), opened=False),
    ]


def _picture(plan: Plan, case: Case) -> str:
    from recurc.picture.draw import to_svg
    from recurc.picture.model import picture

    try:
        drawn = to_svg(picture(plan, str(case)))
    except RecurcError as missing:
        return _note(f"no picture: {missing}")
    return f'<div style="overflow-x:auto;background:#fff;border-radius:4px">{drawn}</div>'


def _groups(plan: Plan) -> str:
    if not plan.analysis.groups:
        return _note("no states: nothing feeds back, every step is computed on its own")
    rows = [_row("th", ("states", "class", "legal", "chosen", "because"))]
    for group, chosen in zip(plan.analysis.groups, plan.schedules, strict=True):
        legal = [*group.schedules, *(f"{name} (when asked for)" for name in group.on_request)]
        kind = f"{group.cls}, {CLASSES.get(group.cls, 'unnamed')}"
        why = "; ".join(map(str, group.reasons))
        rows.append(_row("td", (", ".join(group.states), kind, ", ".join(legal), chosen, why)))
    for title, names in (("hoisted", plan.analysis.hoisted), ("sunk", plan.analysis.sunk)):
        if names:
            rows.append(_row("td", (", ".join(names), title, "", "", "")))
    return f'<table style="border-collapse:collapse;font-size:12px">{"".join(rows)}</table>'


def _row(tag: str, texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{tag} style="{_CELL}">{escape(text)}</{tag}>' for text in texts) + "</tr>"


def _framed(name: str, about: str, parts: Sequence[str]) -> str:
    head = f"<div><b>{escape(name)}</b> <span>{escape(about)}</span></div>"
    return f'<div class="recurc" style="{_FRAME}">{head}{"".join(parts)}</div>'


def _folded(title: str, inside: str, opened: bool) -> str:
    return f"<details{' open' * opened}><summary>{escape(title)}</summary>{inside}</details>"


def _pre(text: str) -> str:
    return f'<pre style="{_PRE}">{escape(text)}</pre>'


def _note(text: str) -> str:
    return f'<div style="opacity:.75;white-space:pre-wrap">{escape(text)}</div>'
