"""The scheduler: a legal schedule for each group, by the cost model or as the caller forces it, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from recurc.errors import UnsupportedError
from recurc.facts import Analysis, Group, LowRank, Reason
from recurc.ir import Expr, Recurrence, reads
from recurc.passes import cost_cpu, cost_gpu
from recurc.passes.beside import Neighbours
from recurc.passes.convolution import System, respond, system_of
from recurc.passes.cost import (
    Estimate,
    Shape,
    contract_flops,
    convolution,
    expr_flops,
    map_seconds,
    matmul_seconds,
    one_after_another,
    typical_rounds,
)
from recurc.passes.newton import refusal
from recurc.passes.work import Steps, Work
from recurc.plan import MATRIX_SCAN, Candidate, Map, Matmul, Plan, candidate_name
from recurc.targets import Target
from recurc.types import DType


class ScheduleError(UnsupportedError, ValueError):
    """A forced schedule that is not legal for the recurrence. The message lists the legal ones and why."""


@dataclass(frozen=True)
class Choice:
    """A schedule per group (in the order of the analysis), what was weighed, and why. `runs` are the groups that are
    lowered, each with its schedule: a group itself, or its parts."""

    schedules: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    reasons: tuple[Reason, ...]
    runs: tuple[tuple[Group, str], ...]


KNOWN = ("sequential", "scan", "chunkwise", "convolution", "chunk-frozen", "newton")


def choose(
    rec: Recurrence,
    analysis: Analysis,
    shape: Shape,
    target: Target,
    schedule: str = "auto",
    without: Mapping[str, str] | None = None,
) -> Choice:
    """`schedule`: "auto"; a schedule's name, for every group it is legal for; or `h=scan,c=sequential` per state.
    `without`: schedules that are weighed but not chosen unless asked for, and why; `MATRIX_SCAN` stands for scans of
    matrices and tables.

    Raises `ScheduleError` for a schedule no group allows, or a group that does not allow the one it is given."""
    forced = _forced(rec, analysis, schedule)
    candidates: list[Candidate] = []
    reasons: list[Reason] = []
    runs: list[tuple[Group, str]] = []
    weighing = _Weighing(rec, shape, target)
    neighbours = Neighbours(weighing.steps)
    decided: list[_Decision] = []
    for group in analysis.groups:
        work = weighing.steps.work(group)
        legal = (*group.schedules, *group.on_request)
        weighed = {name: weighing.estimate(name, neighbours.work(group, name, work), group) for name in legal}
        held_back = _held_back(rec, group, shape, target) | _left_out(group, without or {})
        decided.append(_Decision(group, work, weighed, held_back, forced.get(group.states)))
        neighbours.take(group, decided[-1].chosen)
    final = _by_the_same_keys(decided, weighing)
    for one in final:
        group, work, weighed, chosen = one.group, one.work, one.weighed, one.chosen
        parts = weighing.parts(work, group) if chosen == "chunkwise" else ()
        runs += [(part, name) for part, name, _ in parts] or [(group, chosen)]
        for name, estimate in weighed.items():
            why = _why(name, chosen, bool(one.asked), weighed, group, one.held_back.get(name))
            cost = (estimate.seconds, estimate.bytes_moved, estimate.flops, estimate.depth)
            candidates.append(Candidate(candidate_name(analysis, group, name), *cost, why, name == chosen))
        reasons.extend(_reasons(group, chosen, one.asked, work, shape, target))
        if parts:
            reasons.append(Reason(_order(parts)))
        if schedule in KNOWN and schedule not in (*group.schedules, *group.on_request):
            states = ", ".join(group.states)
            reasons.append(Reason(f"{states} stays {chosen}: {_refusal(rec, group, schedule)}"))
    return Choice(tuple(d.chosen for d in final), tuple(candidates), tuple(reasons), tuple(runs))


@dataclass(frozen=True)
class _Decision:
    """A group, what each of its schedules takes, and those that are not taken unless asked for."""

    group: Group
    work: Work
    weighed: Mapping[str, Estimate]
    held_back: Mapping[str, str]
    asked: str | None

    @property
    def chosen(self) -> str:
        free = (n for n in self.group.schedules if n not in self.held_back)
        return self.asked or min(free, key=lambda name: self.weighed[name].seconds)


def _by_the_same_keys(decided: Sequence[_Decision], weighing: _Weighing) -> list[_Decision]:
    """The decisions, of which those are weighed again that can run by chunks in one stage with a matrix: it has made
    what they share. A matrix is decided alone, or beside one before it."""
    done = list(decided)
    for place in sorted(range(len(done)), key=lambda n: _is_vector(done[n].group)):
        old = done[place]
        form = old.group.low_rank
        others = done if _is_vector(old.group) else done[:place]
        forms = [
            d.group.low_rank for d in others if d is not old and d.chosen == "chunkwise" and not _is_vector(d.group)
        ]
        if form is not None and any(f is not None and f.alike(form) for f in forms):
            beside = weighing.estimate("chunkwise", weighing.steps.column(old.work, old.group), old.group)
            held_back = {n: why for n, why in old.held_back.items() if n != "chunkwise"}
            done[place] = replace(old, weighed={**old.weighed, "chunkwise": beside}, held_back=held_back)
    return done


def _is_vector(group: Group) -> bool:
    return group.low_rank is not None and not group.low_rank.columns


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
    more = "".join(f"; {r}" for r in group.refused) if schedule in ("convolution", "chunk-frozen") else ""
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


class _Weighing:
    """Estimates of the schedules of a recurrence's groups."""

    def __init__(self, rec: Recurrence, shape: Shape, target: Target) -> None:
        self.rec, self.shape, self.target = rec, shape, target
        self.steps = Steps(rec, shape)
        self.costs = cost_cpu if target.kind == "cpu" else cost_gpu

    @cached_property
    def system(self) -> System:
        return system_of(self.rec)

    def estimate(self, name: str, work: Work, group: Group) -> Estimate:
        shape, target = self.shape, self.target
        match name:
            case "convolution":
                found = respond(self.system, group, self.steps.wanted(group), shape)
                return convolution(found.flops, found.elements, shape, target)
            case "scan":
                return self.costs.scan(work, group, shape, target)
            case "chunkwise" if group.parts:
                return one_after_another([e for _, _, e in self.parts(work, group)])
            case "chunkwise":
                return self.costs.chunkwise(work, group, shape, target)
            case "newton":
                return self.costs.newton(work, group, shape, target)
            case "chunk-frozen":
                return self.costs.frozen(work, self.steps.frozen(group), shape, target)
            case _:
                return self.costs.sequential(work, shape, target)

    def parts(self, work: Work, group: Group) -> tuple[tuple[Group, str, Estimate], ...]:
        """The parts of a group that is taken apart, the cheapest schedule of each, and its estimate. `work` is that of
        the whole group, whose inputs and outputs are counted with the chunks; decays, keys and values go through memory
        between the parts."""
        between = {
            part.states: self.shape.itemsize * sum(self.shape.elements(e.dims) for e in _taken_in(part.low_rank))
            for part in group.parts
            if part.low_rank is not None and part.low_rank.columns
        }
        found: list[tuple[Group, str, Estimate]] = []
        for part in group.parts:
            moved = sum(between.values())
            if part.states in between:
                moved = between[part.states] + work.bytes_per_step / len(between)
            own = replace(self.steps.work(part), bytes_per_step=moved)
            if _is_vector(part):
                own = self.steps.column(own, part)
            weighed = {name: self.estimate(name, own, part) for name in part.schedules}
            best = min(weighed, key=lambda name: weighed[name].seconds)
            found.append((part, best, weighed[best]))
        return tuple(found)


def _taken_in(form: LowRank) -> list[Expr]:
    return [*form.decays.values(), *(e for w in form.writes for e in (*w.keys, w.value) if e is not None)]


def _order(parts: Sequence[tuple[Group, str, Estimate]]) -> str:
    """How the parts of a group run, in words."""
    ways = {"sequential": "in a loop", "scan": "by a scan", "chunkwise": "by products of matrices over chunks of steps"}
    column = "as one more column of that"
    said = [f"{', '.join(part.states)} {column if _is_vector(part) else ways[name]}" for part, name, _ in parts]
    return f"{said[0]} first, then {', '.join(said[1:])}"


def _held_back(rec: Recurrence, group: Group, shape: Shape, target: Target) -> dict[str, str]:
    """Legal schedules that are taken only when they are asked for, and why."""
    if _is_vector(group):
        return {"chunkwise": "no matrix with its keys goes by chunks beside it"}
    if "convolution" not in group.schedules:
        return {}
    if not target.fft_flops:
        return {"convolution": f"the {target.name} target has no transforms between its kernels"}
    double = any(s.name in group.states and s.dtype in (DType.F64, DType.C128) for s in rec.states)
    if double or shape.itemsize > 4:
        return {"convolution": "in f64 a transform would lose what small values keep beside large ones"}
    read = {r.name for e in rec.equations if e.name not in group.states for r in reads(e.expr)}
    if not {*group.states} & (read | {*rec.outputs}):
        names = ", ".join(group.states)
        return {"convolution": f"only the last value of {names} counts, and a transform makes those of all steps"}
    return {}


def _left_out(group: Group, without: Mapping[str, str]) -> dict[str, str]:
    """Those of `without` that the group has."""
    multiplies = group.monoid is not None and group.monoid.multiplies
    names = {n: without[n] for n in group.schedules if n in without}
    return names | ({"scan": without[MATRIX_SCAN]} if multiplies and MATRIX_SCAN in without else {})


def _why(
    name: str, chosen: str, forced: bool, weighed: Mapping[str, Estimate], group: Group, held_back: str | None
) -> str:
    estimate = weighed[name]
    text = f"limited by {estimate.limit}"
    if name == "newton":
        text = f"{text}, if {typical_rounds(group.cls)} rounds suffice"
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
        return f"{text}; {1 / max(ratio, 1e-9):.1f}x cheaper by the model, but {chosen} was asked for"
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
        ways["chunk-frozen"] = "chunks with frozen states"
        others = " or ".join(ways[s] for s in group.schedules if s != chosen)
        text = f"{side_by_side} ({room}) leave some idle, but {others} over T = {shape.steps:,} steps would not pay"
        return [Reason(text)]
    if chosen == "chunk-frozen":
        text = f"{states}: products with what is frozen are made for all steps of a chunk together"
        return [Reason(f"{text}, and nothing keeps it from step to step")]
    if chosen == "chunkwise" and _is_vector(group):
        return [Reason(f"{states}: a matrix in chunks of steps has its keys at hand")]
    if chosen == "chunkwise":
        forms = [g.low_rank for g in (group, *group.parts) if g.low_rank is not None]
        over = ", ".join(dict.fromkeys(d for f in forms for d in (*f.rows, *f.columns)))
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
                found.append(Candidate(f"matmul {name}", seconds, moved, flops, 1, why, True))
            case Map(body=body, writes=writes, over_time=over_time):
                flops = sum(expr_flops(e.expr, shape) for e in body) * (times if over_time else 1)
                moved = _moved(stage, plan, shape)
                why = "all t at once" if over_time else "params only, once per call"
                name = f"map {', '.join(writes)}"
                found.append(Candidate(name, map_seconds(flops, moved, target), moved, flops, 1, why, True))
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


__all__ = ["Choice", "ScheduleError", "choose", "stage_costs"]
