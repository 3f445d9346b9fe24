"""The scheduler: a legal schedule for each group, by the cost model or as the caller forces it, and why, in words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recurc.errors import UnsupportedError
from recurc.facts import Analysis, Group, Reason
from recurc.ir import Contract, Equation, Expr, Read, Recurrence, reads, walk
from recurc.passes.convolution import respond, system_of
from recurc.passes.cost import (
    TYPICAL_ROUNDS,
    Estimate,
    Shape,
    Work,
    chunkwise,
    contract_flops,
    convolution,
    expr_flops,
    function_depth,
    map_seconds,
    matmul_seconds,
    newton,
    read_elements,
    scan,
    sequential,
)
from recurc.passes.linear_parts import depending
from recurc.passes.newton import refusal
from recurc.plan import Candidate, Map, Matmul, Plan
from recurc.targets import Target
from recurc.types import DType


class ScheduleError(UnsupportedError, ValueError):
    """A forced schedule that is not legal for the recurrence. The message lists the legal ones and why."""


@dataclass(frozen=True)
class Choice:
    """A schedule per group (in the order of the analysis), what was weighed, and why."""

    schedules: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    reasons: tuple[Reason, ...]


KNOWN = ("sequential", "scan", "chunkwise", "convolution", "newton")


def choose(
    rec: Recurrence,
    analysis: Analysis,
    shape: Shape,
    target: Target,
    schedule: str = "auto",
    without: Collection[str] = (),
) -> Choice:
    """`schedule`: "auto"; a schedule's name, for every group it is legal for; or `h=scan,c=sequential` per state.
    `without`: schedules that are weighed but not chosen unless asked for.

    Raises `ScheduleError` for a schedule no group allows, or a group that does not allow the one it is given."""
    forced = _forced(rec, analysis, schedule)
    schedules: list[str] = []
    candidates: list[Candidate] = []
    reasons: list[Reason] = []
    for group in analysis.groups:
        work = group_work(rec, group, shape)
        legal = (*group.schedules, *group.on_request)
        weighed = {name: _estimate(name, rec, work, group, shape, target) for name in legal}
        held_back = _held_back(rec, group, shape, target)
        free = [n for n in group.schedules if n not in held_back and n not in without]
        best = min(free, key=lambda name: weighed[name].seconds)
        chosen = forced.get(group.states) or best
        schedules.append(chosen)
        label = "" if len(analysis.groups) == 1 else f"{', '.join(group.states)}: "
        for name, estimate in weighed.items():
            why = _why(name, chosen, bool(forced.get(group.states)), weighed, group, held_back.get(name))
            candidates.append(
                Candidate(f"{label}{name}", estimate.seconds, estimate.bytes_moved, estimate.flops, why, name == chosen)
            )
        reasons.extend(_reasons(group, chosen, forced.get(group.states), work, shape, target))
        if schedule in KNOWN and schedule not in (*group.schedules, *group.on_request):
            states = ", ".join(group.states)
            reasons.append(Reason(f"{states} stays {chosen}: {_refusal(rec, group, schedule)}"))
    return Choice(tuple(schedules), tuple(candidates), tuple(reasons))


def _forced(rec: Recurrence, analysis: Analysis, schedule: str) -> dict[tuple[str, ...], str]:
    if schedule == "auto":
        return {}
    if "=" in schedule:
        return _per_group(rec, analysis, schedule)
    if schedule not in KNOWN:
        raise ScheduleError(f"there is no schedule `{schedule}`; {_legal(analysis)}")
    forced = {g.states: schedule for g in analysis.groups if schedule in (*g.schedules, *g.on_request)}
    if analysis.groups and not forced:
        why = "".join(f"; {_refusal(rec, g, schedule)}" for g in analysis.groups) if schedule == "newton" else ""
        raise ScheduleError(f"`{schedule}` is not legal here; {_legal(analysis)}{why}")
    if not analysis.groups and schedule != "sequential":
        raise ScheduleError(
            f"`{schedule}` needs a state; this recurrence has none, so every step is computed on its own"
        )
    return forced


def _per_group(rec: Recurrence, analysis: Analysis, schedule: str) -> dict[tuple[str, ...], str]:
    forced: dict[tuple[str, ...], str] = {}
    for part in schedule.split(","):
        state, _, name = (p.strip() for p in part.partition("="))
        group = next((g for g in analysis.groups if state in g.states), None)
        if group is None:
            known = ", ".join(s for g in analysis.groups for s in g.states)
            raise ScheduleError(f"`{part.strip()}`: there is no state `{state}`; there are: {known}")
        if name not in (*group.schedules, *group.on_request):
            why = f"; {_refusal(rec, group, name)}" if name == "newton" else ""
            raise ScheduleError(f"`{part.strip()}`: not legal; {_legal(Analysis((group,)))}{why}")
        if forced.setdefault(group.states, name) != name:
            states = ", ".join(group.states)
            raise ScheduleError(f"`{part.strip()}`: {states} cannot be {forced[group.states]} and {name} at once")
    return forced


def _refusal(rec: Recurrence, group: Group, schedule: str) -> str:
    """Why a group cannot have a schedule."""
    if schedule == "newton" and (why := refusal(rec, group)) is not None:
        return str(why)
    more = "".join(f"; {r}" for r in group.refused) if schedule == "convolution" else ""
    return f"{schedule} is not legal for class {group.cls}{more}"


def _legal(analysis: Analysis) -> str:
    if not analysis.groups:
        return "this recurrence has no states, so there is nothing to schedule"
    parts = [
        f"{', '.join(g.states)} (class {g.cls}) can be {' or '.join((*g.schedules, *g.on_request))}"
        + (f", because {'; '.join(str(r) for r in (*g.reasons, *g.refused))}" if g.reasons or g.refused else "")
        for g in analysis.groups
    ]
    return "legal: " + ". ".join(parts)


def group_work(rec: Recurrence, group: Group, shape: Shape) -> Work:
    """What one step of the group takes, with projections of inputs already hoisted."""
    states = {s.name: s for s in rec.states}
    equations = {e.name: e for e in rec.equations}
    members = set(group.states)
    needed = _needed(equations, group.states, set(states) - members)
    exprs = [e.expr for e in needed]
    moving = _moving(needed, members)
    recurrent = [c for e in exprs for c in _recurrent(e, moving)]
    heavy = sum(contract_flops(c, shape) for c in recurrent)
    contracted = sum(contract_flops(n, shape) for e in exprs for n in walk(e) if isinstance(n, Contract))
    inputs = {i.name for i in rec.inputs} | (set(states) - members)
    outputs = [o for o in rec.outputs if o in equations and (o in members or _reaches(equations, o, members))]
    written = sum(shape.elements(states[o].dims if o in states else equations[o].expr.dims) for o in outputs)
    read = read_elements([*exprs, *(equations[o].expr for o in outputs)], inputs, shape)
    weights = {p.name for p in rec.params}
    if group.low_rank is not None:  # rows of the state, summed over at vector rates
        contracted, heavy = contracted - heavy, 0.0
    return Work(
        max(1, sum(shape.elements(states[m].dims) for m in group.states)),
        (read + written) * shape.itemsize,
        sum(expr_flops(e, shape) for e in exprs)
        - contracted
        + sum(expr_flops(equations[o].expr, shape) for o in outputs if o not in members),
        heavy,
        read_elements(recurrent, weights, shape) * shape.itemsize,
        0 if group.monoid is not None and group.cls != "OS" else max((function_depth(e) for e in exprs), default=0),
    )


def _needed(equations: dict[str, Equation], roots: tuple[str, ...], known: set[str]) -> list[Equation]:
    pending, seen = list(roots), dict.fromkeys(roots)
    while pending:
        for read in reads(equations[pending.pop()].expr):
            if read.lag == 0 and read.name in equations and read.name not in seen and read.name not in known:
                seen[read.name] = None
                pending.append(read.name)
    return [e for name, e in equations.items() if name in seen]


def _recurrent(expr: Expr, moving: set[str]) -> list[Contract]:
    """Contractions of a value in `moving`: a state of the group reaches them, so they stay in the loop."""
    return [n for n in walk(expr) if isinstance(n, Contract) and any(r.name in moving for r in reads(n))]


def _moving(equations: list[Equation], members: set[str]) -> set[str]:
    """The group's states and the equations that read them, directly or through others."""
    moving = set(members)
    for equation in equations:
        if any(r.name in moving for r in reads(equation.expr)):
            moving.add(equation.name)
    return moving


def _reaches(equations: dict[str, Equation], name: str, members: set[str]) -> bool:
    return any(r.name in members for e in _needed(equations, (name,), set()) for r in reads(e.expr))


def _estimate(name: str, rec: Recurrence, work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    match name:
        case "scan":
            return scan(work, group, shape, target)
        case "chunkwise":
            return chunkwise(work, group, shape, target)
        case "newton":
            return newton(work, len(group.states), shape, target)
        case "convolution":
            found = respond(system_of(rec), group, _wanted(rec, group), shape)
            return convolution(found.flops, found.elements, shape, target)
        case _:
            return sequential(work, shape, target)


def _wanted(rec: Recurrence, group: Group) -> tuple[str, ...]:
    """What others read of a group: outputs that see its states and no later one's, and states that later ones read."""
    equations, members = {e.name: e for e in rec.equations}, set(group.states)
    others = {s.name for s in rec.states} - members
    plain = [o for o in rec.outputs if o in equations and o not in members | others]
    behind = _needed(equations, tuple(plain), others)
    later = _needed(equations, tuple(others), others)
    read = {r.name for e in (*behind, *later) for r in reads(e.expr)}
    direct = depending(
        {n: e.expr for n, e in equations.items() if n not in members | others},
        lambda n: isinstance(n, Read) and n.name in members,
    )
    return (
        *(s for s in group.states if s in rec.outputs or (others and s in read)),
        *(o for o in plain if o in direct),
    )


def _held_back(rec: Recurrence, group: Group, shape: Shape, target: Target) -> dict[str, str]:
    """Legal schedules that are taken only when they are asked for, and why."""
    found: dict[str, str] = {}
    if group.monoid is not None and group.monoid.multiplies and target.kind != "cpu":
        found["scan"] = "on a GPU a scan combines single values; matrices and tables only where a backend can"
    if "convolution" not in group.schedules:
        return found
    if not target.fft_flops:
        return found | {"convolution": f"the {target.name} target has no transforms between its kernels"}
    double = any(s.name in group.states and s.dtype in (DType.F64, DType.C128) for s in rec.states)
    if double or shape.itemsize > 4:
        return found | {"convolution": "in f64 a transform would lose what small values keep beside large ones"}
    return found


def _why(
    name: str, chosen: str, forced: bool, weighed: dict[str, Estimate], group: Group, held_back: str | None
) -> str:
    estimate = weighed[name]
    text = f"limited by {estimate.limit}"
    if name in group.on_request:
        text = f"{text}, if {TYPICAL_ROUNDS} rounds suffice"
    if name == chosen:
        if forced:
            return f"asked for; {text}"
        only = "the only one taken unasked" if group.on_request else "the only legal one"
        return f"{text}; {only}" if len(group.schedules) == 1 else f"{text}; the cheapest"
    if name in group.on_request and not forced:
        return f"{text}; opt-in: taken only when asked for"
    ratio = estimate.seconds / max(weighed[chosen].seconds, 1e-12)
    if held_back is not None and not forced:
        return f"{text}; only when asked for: {held_back}"
    if ratio < 1:
        return f"{text}; {1 / ratio:.1f}x cheaper by the model, but {chosen} was asked for"
    return f"{text}; {ratio:.1f}x the cost of {chosen}"


def _reasons(group: Group, chosen: str, forced: str | None, work: Work, shape: Shape, target: Target) -> list[Reason]:
    states = ", ".join(group.states)
    lanes = work.lanes * shape.batch
    if forced:
        return [Reason(f"{states}: {chosen}, as asked")]
    if len(group.schedules) == 1:
        which = "schedule taken unasked" if group.on_request else "legal schedule"
        return [Reason(f"{states}: {chosen}, the only {which} of class {group.cls}")]
    place = "cores and SIMD lanes" if target.kind == "cpu" else "the device"
    if chosen == "convolution":
        text = f"{states}: T = {shape.steps:,} steps of its linear map cost more than transforms of the whole sequence"
        return [Reason(f"{text}, which run in f64: what is 1e-7 of the largest value still has the digits of f32")]
    side_by_side = f"{states}: batch x lanes = {lanes:,}"
    room = f"the {target.name} target runs {target.lanes:,} side by side"
    if chosen == "sequential" and lanes >= target.lanes:
        return [Reason(f"{side_by_side} keep {place} busy ({room}), so splitting time would only add work")]
    if chosen == "sequential":
        ways = {"scan": "a scan", "chunkwise": "chunks", "convolution": "the response to an impulse"}
        others = " or ".join(ways[s] for s in group.schedules if s != chosen)
        text = f"{side_by_side} ({room}) leave some idle, but {others} over T = {shape.steps:,} steps would not pay"
        return [Reason(text)]
    if chosen == "chunkwise":
        form = group.low_rank
        assert form is not None
        over = ", ".join((*form.rows, *form.columns))
        return [Reason(f"{states}: products of matrices over chunks of steps reach more of {place} than updates of "
                       f"{over} at each step")]  # fmt: skip
    rule = f"{states}: "
    if target.kind == "cpu":
        rule += "On a CPU time-parallelism pays only when batch x lanes leaves cores or SIMD lanes idle: here "
    text = f"{rule}batch x lanes = {lanes:,} ({room}), so the T = {shape.steps:,} steps are split"
    return [Reason(text)]


def stage_costs(plan: Plan, shape: Shape, target: Target) -> tuple[Candidate, ...]:
    """What the stages cost that no group owns: hoisted and sunk matmuls, maps."""
    found: list[Candidate] = []
    times = shape.batch * shape.steps
    for stage in plan.stages:
        match stage:
            case Matmul(target=name, expr=expr):
                flops = contract_flops(expr, shape) * times
                moved = _moved(stage, plan, shape)
                seconds = matmul_seconds(flops, moved, target)
                inside = _scaled_time(flops / target.flops / seconds)
                why = f"one matrix product for all t; inside the loop the same work would take {inside} at vector rates"
                found.append(Candidate(f"matmul {name}", seconds, moved, flops, why, True))
            case Map(body=body, writes=writes, over_time=over_time):
                flops = sum(expr_flops(e.expr, shape) for e in body) * (times if over_time else 1)
                moved = _moved(stage, plan, shape)
                why = "all t at once" if over_time else "params only, once per call"
                name = f"map {', '.join(writes)}"
                found.append(Candidate(name, map_seconds(flops, moved, target), moved, flops, why, True))
            case _:
                pass
    return tuple(found)


def _moved(stage: Map | Matmul, plan: Plan, shape: Shape) -> float:
    """Bytes a stage reads and writes, each buffer once."""
    exprs = [stage.expr] if isinstance(stage, Matmul) else [e.expr for e in stage.body]
    names = {r.name for e in exprs for r in reads(e)} | set(stage.writes)
    total = 0
    for buffer in plan.buffers:
        if buffer.name in names:
            total += shape.elements(buffer.dims) * (shape.batch * shape.steps if buffer.has_time else 1)
    return float(total * shape.itemsize)


def _scaled_time(ratio: float) -> str:
    return f"{ratio:.1f} times that" if ratio >= 1 else "no longer"


__all__ = ["Choice", "ScheduleError", "choose", "group_work", "stage_costs"]
