"""What the picture says, apart from how it is drawn: boxes and arrows, from a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from recurc.facts import CLASSES, NONLINEAR, Group
from recurc.formula import equation_lines, formula, wrapped
from recurc.ir import Equation, Expr, Recurrence, reads
from recurc.plan import (
    Chunk,
    Convolution,
    Frozen,
    Fused,
    JointChunk,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
    taken_apart,
)
from recurc.types import Dims, show_dims


class Kind(Enum):
    """What a box stands for; drawings give each kind its colour."""

    INPUT = "input"
    PARAM = "param"
    BEFORE = "needs no state: leaves the recurrence"
    PARALLEL = "states that may be scanned"
    CHUNKED = "states that are parallel over t without a scan"
    SERIAL = "states that go one step after another"
    NONLINEAR = "nonlinear states, which go one step after another"
    AFTER = "fed back by nobody: leaves the recurrence"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Box:
    """One node: a heading, lines of equations, and a footnote."""

    key: str
    kind: Kind
    title: str
    subtitle: str = ""
    lines: tuple[str, ...] = ()
    note: str = ""
    feedback: str = ""  # the label of the arrow from the box to itself


@dataclass(frozen=True, slots=True)
class Arrow:
    """`target` reads what `source` makes; `names` says what, where the source is no input or param."""

    source: str
    target: str
    names: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return some(list(self.names))


@dataclass(frozen=True, slots=True)
class Picture:
    """The whole picture. `why` holds a sentence or two for each group of states."""

    title: str
    subtitle: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    why: tuple[tuple[str, str], ...]


SCHEDULES = {
    "sequential": "one step after another",
    "scan": "parallel scan over t",
    "chunkwise": "chunks of steps as matrix products",
    "convolution": "one convolution over t",
    "chunk-frozen": "chunks of steps with frozen states",
    "newton": "Newton iterations over all t",
    "map": "all t at once",
    "matmul": "all t at once",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """Equations that stand in one box, and what they read from elsewhere."""

    box: Box
    defines: frozenset[str]
    reads: tuple[str, ...]


def picture(plan: Plan, subtitle: str = "") -> Picture:
    """The picture of `plan`: inputs and params, what is hoisted, the groups of states, what is sunk, outputs."""
    rec, fused = plan.recurrence, [s for s in plan.stages if isinstance(s, Fused | JointChunk)]
    plan = taken_apart(plan, lambda stage: isinstance(stage, Fused))
    parts = [part for number, stage in enumerate(plan.stages) for part in _parts(plan, stage, number)]
    parts = [_beside(part, stage) for part in parts for stage in [_home(part, fused)]]
    boxes = [Box(f"in:{i.name}", Kind.INPUT, i.name, _dims(i.dims)) for i in rec.inputs]
    boxes += [Box(f"param:{p.name}", Kind.PARAM, p.name, _dims(p.dims)) for p in rec.params]
    made = {i.name: f"in:{i.name}" for i in rec.inputs} | {p.name: f"param:{p.name}" for p in rec.params}
    for part in parts:
        boxes.append(part.box)
        made |= dict.fromkeys(part.defines, part.box.key)
    arrows: list[Arrow] = []
    for part in parts:
        by_source: dict[str, list[str]] = {}
        for name in part.reads:
            source = made.get(name)
            if source is not None and source != part.box.key:
                by_source.setdefault(source, []).append(name)
        arrows += [Arrow(source, part.box.key, _names(source, names)) for source, names in by_source.items()]
    for name in rec.outputs:
        if name in made:
            dims = next((b.dims for b in plan.buffers if b.name == name and b.role is Role.OUTPUT), ())
            boxes.append(Box(f"out:{name}", Kind.OUTPUT, name, _dims(dims)))
            arrows.append(Arrow(made[name], f"out:{name}"))
    used = {a.source for a in arrows}
    kept = tuple(b for b in boxes if b.kind not in (Kind.INPUT, Kind.PARAM) or b.key in used)
    why = tuple((_group_name(g), _why(g)) for g in plan.analysis.groups)
    return Picture(rec.name, subtitle, kept, tuple(arrows), why)


def _home(part: _Part, fused: Iterable[Fused | JointChunk]) -> Fused | JointChunk | None:
    """The stage that runs a group of states in one pass with others."""
    return next((s for s in fused if any(c.name in part.defines for c in s.carries)), None)


def _beside(part: _Part, stage: Fused | JointChunk | None) -> _Part:
    """The box of a group, which says with which others it runs in one pass over t."""
    others = [c.name for c in stage.carries if c.name not in part.defines] if stage else []
    if not others:
        return part
    return replace(part, box=replace(part.box, subtitle=f"{part.box.subtitle} · in one pass with {some(others)}"))


def _dims(dims: Dims) -> str:
    return show_dims(dims) if dims else ""


def _names(source: str, names: list[str]) -> tuple[str, ...]:
    return () if source.startswith(("in:", "param:")) else tuple(dict.fromkeys(names))


def some(names: list[str]) -> str:
    """The first four names."""
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _parts(plan: Plan, stage: Stage, number: int) -> list[_Part]:
    match stage:
        case Map(body=body, over_time=over_time):
            what = "all t at once" if over_time else "once per call"
            return [_plain(f"stage{number}", _side(plan, body), what, body, "")]
        case Matmul(target=target, expr=expr):
            body = (Equation(target, expr),)
            return [_plain(f"stage{number}", _side(plan, body), "all t at once", body, "one matrix product")]
        case Loop(body=body):
            return _split(plan, number, body, "loop", {})
        case Newton(body=body):
            return _split(plan, number, body, "stage", {})
        case Chunk(body=body):
            return _split(plan, number, body, "chunk", {})
        case JointChunk(body=body):
            return _split(plan, number, body, "chunk", {})
        case Frozen(body=body):
            return _split(plan, number, body, "stage", {})
        case Scan(pre=pre, post=post, monoid=monoid):
            own = {e.name: e for e in plan.recurrence.equations if e.name in monoid.states}
            lifted: dict[str, Equation] = dict(own)
            if monoid.cls in ("EA", "CA"):
                lifted = {s: Equation(s, e) for s, e in zip(monoid.states, monoid.apply, strict=True)}
                lifted |= {c.name: Equation(c.name, e) for c, e in zip(monoid.components, monoid.lift, strict=True)}
            extra = {name: tuple(r.name for e in monoid.lift for r in reads(e)) for name in monoid.states[:1]}
            return _split(plan, number, (*pre, *lifted.values(), *post), "scan", extra)
        case Convolution(body=body):
            return _split(plan, number, body, "convolution", {})
        case Fused():
            raise TypeError("fused scans are taken apart before")


def _side(plan: Plan, body: Iterable[Equation]) -> Kind:
    """Before the states or after them, by whether the equations depend on a state."""
    return Kind.AFTER if _stateful(plan, body) else Kind.BEFORE


def _stateful(plan: Plan, body: Iterable[Equation]) -> set[str]:
    """The names among `body` that depend on a state, directly or through others."""
    known = {s.name for s in plan.recurrence.states}
    everything = [*_all_equations(plan), *body]
    changed = True
    while changed:
        changed = False
        for e in everything:
            if e.name not in known and any(r.name.removesuffix("@final") in known for r in reads(e.expr)):
                known.add(e.name)
                changed = True
    return {e.name for e in body} & known


def _all_equations(plan: Plan) -> list[Equation]:
    found = list(plan.recurrence.equations)
    for stage in plan.stages:
        if isinstance(stage, Matmul):
            found.append(Equation(stage.target, stage.expr))
        else:
            found += stage.body
    return found


def _plain(key: str, kind: Kind, title: str, body: tuple[Equation, ...], note: str) -> _Part:
    box = Box(key, kind, title, "", tuple(equation_lines(body)), note)
    defines = frozenset(e.name for e in body)
    return _Part(box, defines, _reads(body, defines))


def _reads(body: Iterable[Equation], defines: frozenset[str], extra: Iterable[str] = ()) -> tuple[str, ...]:
    names = [r.name.removesuffix("@final") for e in body for r in reads(e.expr)]
    return tuple(dict.fromkeys(n for n in (*names, *extra) if n not in defines))


def _split(
    plan: Plan, number: int, body: tuple[Equation, ...], stage: str, extra: Mapping[str, tuple[str, ...]]
) -> list[_Part]:
    """A loop or scan as boxes: terms without a state, each group of states, terms nobody feeds back."""
    states = {s.name for s in plan.recurrence.states}
    stateful = _stateful(plan, body)
    lifted = _lifted(plan.stages[number])
    owner: dict[str, int] = {}
    names = {e.name for e in body}  # a group may be taken apart: its states that are in this stage
    here = [replace(g, states=tuple(s for s in g.states if s in names)) for g in plan.analysis.groups]
    groups = [(i, g) for i, g in enumerate(here) if g.states]
    for i, group in groups:
        for name in _needed(body, set(group.states), states):
            if name in stateful or name in group.states or name in lifted:
                owner.setdefault(name, i)
    how = f"in the same {stage}"
    parts: list[_Part] = []
    before = tuple(e for e in body if e.name not in owner and e.name not in stateful)
    if before:
        parts.append(_plain(f"stage{number}:before", Kind.BEFORE, "hoisted: needs no state", before, how))
    for i, group in groups:
        inside = tuple(e for e in body if owner.get(e.name) == i)
        defines = frozenset(e.name for e in inside)
        starts = (r.name for s in plan.recurrence.states if s.name in group.states for r in reads(s.initial))
        wanted = _reads(inside, defines, (*(n for s in group.states for n in extra.get(s, ())), *starts))
        parts.append(_Part(_group_box(plan, number, i, group, inside), defines, wanted))
    after = tuple(e for e in body if e.name not in owner and e.name in stateful)
    if after:
        parts.append(_plain(f"stage{number}:after", Kind.AFTER, "sunk: fed back by nobody", after, how))
    return parts


def _lifted(stage: Stage) -> set[str]:
    return {c.name for c in stage.monoid.components} if isinstance(stage, Scan) else set()


def _needed(body: tuple[Equation, ...], roots: set[str], stop: set[str]) -> set[str]:
    """The names of `body` the roots read at this step, through others, without passing through other states."""
    by_name = {e.name: e for e in body}
    found, todo = set(roots), list(roots)
    while todo:
        name = todo.pop()
        if name not in by_name:
            continue
        for r in reads(by_name[name].expr):
            if r.name in by_name and r.name not in found and r.name not in stop and r.lag == 0:
                found.add(r.name)
                todo.append(r.name)
    return found


def _group_box(plan: Plan, number: int, index: int, group: Group, inside: tuple[Equation, ...]) -> Box:
    rec = plan.recurrence
    schedule = plan.schedules[index] if index < len(plan.schedules) else "sequential"
    starts = [f"{s.name} = {formula(s.initial)}" for s in rec.states if s.name in group.states]
    fed_back = _fed_back(rec, group)
    others = [SCHEDULES.get(s, s) for s in group.schedules if s not in (schedule, "sequential")]
    if group.parts and isinstance(plan.stages[number], Loop | Scan):
        how = SCHEDULES["sequential" if isinstance(plan.stages[number], Loop) else "scan"]
    else:
        how = SCHEDULES.get(schedule, schedule)
    how += f" (legal too: {', '.join(others)})" if others else ""
    note = wrapped("before the first step: " + ", ".join(starts), 52)
    return Box(
        f"stage{number}:group{index}",
        _kind(group),
        ("states " if len(group.states) > 1 else "state ") + _group_name(group),
        f"{group.cls}, {CLASSES.get(group.cls, 'unnamed class')} · {how}",
        tuple(equation_lines(inside)),
        "\n".join(line.strip() for line in note),
        some([f"{n}[t-1]" for n in fed_back]),
    )


def _kind(group: Group) -> Kind:
    """The colour of a group: by what its class allows, not by what was chosen."""
    if group.cls in NONLINEAR:
        return Kind.NONLINEAR
    if "scan" in group.schedules:
        return Kind.PARALLEL
    return Kind.CHUNKED if {*group.schedules} - {"sequential"} else Kind.SERIAL


def _fed_back(rec: Recurrence, group: Group) -> list[str]:
    exprs: list[Expr] = [e.expr for e in rec.equations]
    lagged = {r.name for e in exprs for r in reads(e) if r.lag}
    return [s for s in group.states if s in lagged]


def _group_name(group: Group) -> str:
    return ", ".join(group.states)


def _why(group: Group) -> str:
    told = (*group.reasons[:1], *group.reasons[-1:]) if group.cls in NONLINEAR else group.reasons[:2]
    reasons = "; ".join(r.text.rstrip(".").replace("`", "") for r in dict.fromkeys(told))
    return f"{group.cls}, {CLASSES.get(group.cls, 'unnamed class')}" + (f": {reasons}" if reasons else "")
