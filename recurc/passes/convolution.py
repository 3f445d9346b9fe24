"""The convolution schedule: a linear time-invariant group is known by its response to an impulse.

h_t = A h_{t-1} + G v_t and y_t = C h_t + D h_{t-1}, with A, G, C and D the same at every step, mean y = K * v with
K_j = C A^j G + D A^{j-1} G, and the initial state adds C A^{t+1} h_0 + D A^t h_0 (A. Gu et al. 2021, "Combining
Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers"). This file decides whether a group
is of this kind, and takes it apart: `step` is A, `enter` is G, `reads` are C and D, as equations that are linear and
say no more. Nothing here multiplies matrices: whoever runs the stage evaluates these equations on unit vectors.

Two choices are made by counting transforms. What enters may be the states' own offsets, or sources further up, of which
there may be fewer (one number of a channel drives all of its N states). What leaves may be the states, or what is read
of them (again one number for N). What is not linear in what leaves is computed from it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2, sqrt

from recurc.facts import Analysis, Group, Reason
from recurc.ir import Broadcast, Const, Expr, Read, Recurrence, State, Step, children, reads, walk, with_children
from recurc.ops import apply
from recurc.passes.affine import shown
from recurc.passes.cost import Shape
from recurc.passes.linear_parts import NotLinear, Splitter, depending, fit, never_stuck
from recurc.passes.nonlinear_rules import crossed
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names
from recurc.plan import drive_name, step_name
from recurc.types import Dims, Kind

CLASSES = ("EA", "CA", "BA", "DA", "GH")
_MEMORIES = ("SR1", "DR1")  # affine as well


def with_convolution(rec: Recurrence, analysis: Analysis) -> Analysis:
    """The analysis of `rec` (core form) with this schedule where it is legal, and else why it is not."""
    system = system_of(rec)
    groups: list[Group] = []
    for group in analysis.groups:
        why = refusal(system, group)
        if why is None:
            reason = Reason(f"the response of {', '.join(group.states)} to an impulse is the same at every step")
            group = replace(
                group,
                schedules=(*group.schedules, "convolution"),
                linear_time_invariant=True,
                reasons=(*group.reasons, reason),
            )
        elif group.cls in (*CLASSES, *_MEMORIES):
            group = replace(group, refused=(*group.refused, Reason(f"no convolution: {why.text}", why.span)))
        groups.append(group)
    return replace(analysis, groups=tuple(groups))


@dataclass(frozen=True)
class System:
    """Equations in an order in which each reads only earlier ones, and the names that have a value for every step."""

    equations: Mapping[str, Expr]
    states: Mapping[str, State]
    varying: frozenset[str]
    taken: frozenset[str]

    def steady(self, expr: Expr) -> bool:
        return not any(isinstance(n, Step) or (isinstance(n, Read) and n.name in self.varying) for n in walk(expr))

    @cached_property
    def _readers(self) -> dict[tuple[str, bool], list[str]]:
        """A name, and whether it is read at an earlier step -> the equations of no state that read it so."""
        found: dict[tuple[str, bool], list[str]] = {}
        for name, expr in self.equations.items():
            if name not in self.states:
                for key in dict.fromkeys((r.name, r.lag > 0) for r in reads(expr)):
                    found.setdefault(key, []).append(name)
        return found

    def touched(self, group: Group) -> frozenset[str]:
        """The equations of no state that read the group's states, directly or through others at the same step."""
        pending = [n for s in group.states for late in (False, True) for n in self._readers.get((s, late), ())]
        found: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending.extend(self._readers.get((name, False), ()))
        return frozenset(found)


def system_of(rec: Recurrence) -> System:
    """The equations of a recurrence in core form."""
    given = frozenset(i.name for i in rec.inputs)
    return make_system({e.name: e.expr for e in rec.equations}, rec, given, frozenset(used_names(rec)))


def make_system(
    equations: Mapping[str, Expr], rec: Recurrence, sequences: frozenset[str], taken: frozenset[str]
) -> System:
    """`equations` with the states of `rec`; `sequences` are further names with a value for every step."""
    states = {s.name: s for s in rec.states}
    known = sequences | states.keys()
    later = depending(equations, lambda n: isinstance(n, Step) or (isinstance(n, Read) and n.name in known))
    return System(equations, states, frozenset(known | later), taken)


def refusal(system: System, group: Group) -> NotLinear | None:
    """Why the group is not linear and time-invariant, or None."""
    if group.cls in _MEMORIES:
        names = ", ".join(group.states)
        return NotLinear(f"{names} is a matrix memory, whose value at every step would have to be stored", None)
    if group.cls not in CLASSES:
        return NotLinear(f"class {group.cls} has no fixed linear step", None)
    for name in group.states:
        if system.states[name].dtype.kind not in (Kind.REAL, Kind.COMPLEX):
            return NotLinear(f"{name} is a whole number, which a transform cannot keep exact", system.states[name].span)
    try:
        _split_step(system, group)
    except NotLinear as why:
        return why
    return None


def _split_step(system: System, group: Group) -> Splitter:
    """The group's equations, each as linear part and rest."""
    own = frozenset(group.states)
    equations = {
        n: fit(e, _of_state(system.states[n])) if n in own else e
        for n, e in system.equations.items()
        if n in own or n not in system.states
    }
    touched = system.touched(group) | own
    found = Splitter(
        equations,
        touched,
        lambda r: r.name in own and r.lag == 1,
        system.steady,
        set(system.taken),
        " and ".join(f"`{shown(s)}`" for s in group.states),
        never_stuck,
        {s: (step_name(s), drive_name(s)) for s in own},
    )
    for state in group.states:
        found.parts(_of_state(system.states[state]))
    return found


def _of_state(state: State) -> Read:
    return Read(state.name, 0, state.dims, state.dtype, state.span)


# --- the forms a group can take --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """One way to run a group by convolution. All equations but those of `before` and `after` are linear.

    `before` makes the sources that no buffer has, with what they read; `sources` are all of them. `enter` defines
    `drive_name(S)` and `step` `step_name(S)` for every state S. `written` are the states and the `reads` that leave;
    `after` computes from them what is wanted otherwise. `lanes` are the dims along which nothing mixes, and `blocks`
    those along which only entering and reading does. `transforms` and `flops` are per call."""

    before: Mapping[str, Expr]
    sources: tuple[str, ...]
    enter: Mapping[str, Expr]
    step: Mapping[str, Expr]
    reads: Mapping[str, Expr]
    written: tuple[str, ...]
    after: Mapping[str, Expr]
    lanes: Dims
    blocks: Dims
    transforms: float
    flops: float
    elements: float  # what enters and leaves per step and sequence


@dataclass(frozen=True)
class _Entry:
    sources: Mapping[str, Expr]  # name -> what it is, which is a read of itself where a buffer has it
    enter: Mapping[str, Expr]
    support: Mapping[str, Expr]  # equations that sources may read and the system does not have


@dataclass(frozen=True)
class _Exit:
    reads: Mapping[str, Expr]
    written: tuple[str, ...]
    after: Mapping[str, Expr]


def respond(system: System, group: Group, wanted: tuple[str, ...], shape: Shape) -> Response:
    """The form with the least arithmetic, for a group this schedule is legal for. `wanted` are the group's states and
    equations that read them (and no later state) which someone else needs."""
    step = _split_step(system, group)
    entries = [e for e in (_by_sources(system, group, step), _by_drives(group, step)) if e is not None]
    exits = [_by_reads(system, group, wanted, step), _by_states(system, group, wanted)]
    found = [_weighed(system, group, step, entry, leave, shape) for entry in entries for leave in exits]
    return min(found, key=lambda r: r.flops)


def _by_drives(group: Group, step: Splitter) -> _Entry:
    """Every state's offset is a source."""
    sources: dict[str, Expr] = {}
    enter: dict[str, Expr] = {}
    for state in group.states:
        drive = step.rest[drive_name(state)]
        if not _is_zero(drive, step.rest):
            name = fresh(f"{state}_drive", {*step.taken, *sources})
            sources[name] = Read(drive_name(state), 0, drive.dims, drive.dtype, drive.span)
            enter[drive_name(state)] = replace(sources[name], name=name)
        else:
            enter[drive_name(state)] = drive
    return _Entry(sources, enter, step.rest)


def _by_sources(system: System, group: Group, step: Splitter) -> _Entry | None:
    """The values the offsets are linear in; None where an offset has a constant part."""
    equations = {n: e for n, e in step.equations.items() if n not in step.touched} | step.rest
    varying = depending(equations, lambda n: isinstance(n, Step) or (isinstance(n, Read) and n.name in system.varying))
    sources: dict[str, Expr] = {}
    taken = set(step.taken)

    def leaf(read: Read) -> bool:
        known = not read.lag and read.name not in equations and read.dtype.kind in (Kind.REAL, Kind.COMPLEX)
        if known and read.name in system.varying:
            sources[read.name] = replace(read, span=None)
            return True
        return False

    def stuck(expr: Expr, why: NotLinear) -> Read:
        name = next((n for n, e in sources.items() if e == expr), None) or fresh(f"{group.states[0]}_source", taken)
        taken.add(name)
        sources[name] = expr
        return Read(name, 0, expr.dims, expr.dtype, expr.span)

    split = Splitter(
        equations,
        varying,
        leaf,
        lambda e: system.steady(e) and not any(r.name in varying for r in reads(e)),
        taken,
        "a source",
        stuck,
        all_moves=True,
    )
    enter: dict[str, Expr] = {}
    try:
        for state in group.states:
            drive = step.rest[drive_name(state)]
            linear, rest = split.parts(Read(drive_name(state), 0, drive.dims, drive.dtype, drive.span))
            if rest is not None and not _is_zero(rest, step.rest):
                return None
            enter[drive_name(state)] = drive if linear is None else linear
    except NotLinear:
        return None
    if not sources or any(n in {drive_name(s) for s in group.states} for n in sources):
        return None
    return _Entry(sources, split.linear | enter, step.rest)


def _is_zero(rest: Expr, equations: Mapping[str, Expr]) -> bool:
    """Whether `rest` is the zero that stands for a drive there is none of."""
    while isinstance(rest, Broadcast) or (isinstance(rest, Read) and rest.name in equations):
        rest = rest.arg if isinstance(rest, Broadcast) else equations[rest.name]
    return isinstance(rest, Const) and rest.value == 0


def _by_states(system: System, group: Group, wanted: tuple[str, ...]) -> _Exit:
    """The states leave; everything else is computed from them."""
    after: dict[str, Expr] = {}
    states: dict[str, None] = {}
    touched = system.touched(group)
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in group.states:
            states[name] = None
        elif name in touched and name not in after:
            after[name] = system.equations[name]
            pending.extend(r.name for r in reads(after[name]) if not (r.lag and r.name not in group.states))
    return _Exit({}, tuple(s for s in group.states if s in states), after)


def _by_reads(system: System, group: Group, wanted: tuple[str, ...], step: Splitter) -> _Exit:
    """What is linear in the states leaves as it is read, the largest expressions that are."""
    plain = {n: e for n, e in system.equations.items() if n not in system.states}
    split = Splitter(
        plain, system.touched(group), lambda r: r.name in group.states, system.steady, set(step.taken), "the states",
        never_stuck,
    )  # fmt: skip
    linear: dict[str, Expr] = {}
    after: dict[str, Expr] = {}
    states: dict[str, None] = {s: None for s in wanted if s in group.states}
    pending = [n for n in wanted if n not in group.states]

    def rewritten(expr: Expr) -> Expr:
        if not split.moves(expr):
            return expr
        if isinstance(expr, Read) and split.leaf(expr):
            states[expr.name] = None
            return expr
        if isinstance(expr, Read) and expr.name in linear:
            return expr
        try:
            part, rest = split.parts(expr)
        except NotLinear:
            if isinstance(expr, Read):
                pending.append(expr.name)
                return expr
            return with_children(expr, tuple(rewritten(c) for c in children(expr)))
        assert part is not None
        part = fit(part, expr)
        name = next((n for n, e in linear.items() if e == part), None) or fresh(f"{group.states[0]}_read", split.taken)
        split.taken.add(name)
        linear[name] = part
        read = Read(name, 0, expr.dims, expr.dtype, expr.span)
        return read if rest is None else apply("add", read, fit(rest, expr), span=expr.span)

    for name in pending:  # what is linear as a whole needs no equation behind the stage
        try:
            part, rest = split.parts(plain[name])
        except NotLinear:
            continue
        if part is not None and rest is None:
            linear[name] = fit(part, plain[name])
    while pending:
        name = pending.pop()
        if name not in after and name not in linear:
            after[name] = rewritten(plain[name])
    written = (*(s for s in group.states if s in states), *linear)
    support = {n: e for n, e in split.rest.items() if n in _behind(after, split.rest)}
    return _Exit(split.linear | linear, written, support | after)


# --- counting --------------------------------------------------------------------------------------------------------


def _weighed(system: System, group: Group, step: Splitter, entry: _Entry, leave: _Exit, shape: Shape) -> Response:
    own = {s: system.states[s] for s in group.states}
    reads_ = _needed(leave.reads, leave.written)
    enter = _needed(entry.enter, [drive_name(s) for s in own])
    steps = _needed(step.linear, [step_name(s) for s in own])
    apart = _uncrossed(steps, own, {})
    lanes = _uncrossed(reads_, {}, {s: own[s].dims for s in own})
    lanes &= _uncrossed(enter, {}, {n: e.dims for n, e in entry.sources.items()})
    every = [s.dims for s in own.values()]
    shared = [d for d in every[0] if all(d in dims for dims in every) and every[0].count(d) == 1]
    blocks = tuple(d for d in shared if d in apart)
    leaving = {n: reads_[n].dims for n in leave.written if n in reads_}
    kept = tuple(d for d in blocks if d in lanes and all(d in dims for dims in leaving.values()))
    blocks = tuple(d for d in blocks if d not in kept)

    def width(dims: Dims, kind: Kind) -> int:
        return shape.elements(tuple(d for d in dims if d not in kept)) * (2 if kind is Kind.COMPLEX else 1)

    sources = [(e.dims, e.dtype.kind) for e in entry.sources.values()]
    kinds = {n: (s.dims, s.dtype.kind) for n, s in own.items()}
    kinds |= {n: (e.dims, e.dtype.kind) for n, e in reads_.items()}
    written = [kinds[n] for n in leave.written]
    n = sum(width(s.dims, s.dtype.kind) for s in own.values())
    r, m = sum(width(*s) for s in sources), sum(width(*w) for w in written)
    count, steps_, batch = shape.elements(kept), shape.steps, shape.batch
    entering = sum(shape.elements(d) * (2 if k is Kind.COMPLEX else 1) for d, k in sources)
    length = 2.0 * steps_
    transforms = batch * (entering + count * m) + count * m * r
    width_of_block = n / max(1, shape.elements(blocks))
    flops = 2.5 * length * log2(max(2.0, length)) * transforms  # real transforms
    flops += 4 * length * batch * count * m * r  # products of spectra
    flops += 2.0 * count * n * r * steps_ * (m + batch)  # kernels; last states
    flops += 4.0 * count * n * width_of_block * (r + m) * sqrt(steps_) + count * n * width_of_block**2 * log2(
        max(2.0, length)
    )
    before = {name: e for name, e in entry.sources.items() if e != Read(name, 0, e.dims, e.dtype)}
    supporting = _behind(before, entry.support)
    before |= {k: v for k, v in entry.support.items() if k in supporting}
    return Response(
        before,
        tuple(entry.sources),
        enter,
        steps,
        reads_,
        leave.written,
        leave.after,
        kept,
        blocks,
        transforms,
        flops,
        entering + count * m,
    )


def _behind(roots: Mapping[str, Expr], equations: Mapping[str, Expr]) -> set[str]:
    """The names of `equations` that the roots read at the same step, directly or through others."""
    found: set[str] = set()
    pending = list(roots.values())
    while pending:
        for read in reads(pending.pop()):
            if not read.lag and read.name in equations and read.name not in found:
                found.add(read.name)
                pending.append(equations[read.name])
    return found


def _needed(equations: Mapping[str, Expr], roots: tuple[str, ...] | list[str]) -> dict[str, Expr]:
    """`roots` (those that are equations) and what they read, in the order of `equations`."""
    first = {n: equations[n] for n in roots if n in equations}
    names = first.keys() | _behind(first, equations)
    return {n: e for n, e in equations.items() if n in names}


def _uncrossed(equations: Mapping[str, Expr], states: Mapping[str, State], values: Mapping[str, Dims]) -> set[str]:
    """All dims of the equations and values but those along which a linear value moves between positions."""
    moving = equations.keys() | states.keys() | values.keys()

    def free(expr: Expr) -> bool:
        return not any(r.name in moving for r in reads(expr))

    nodes = [n for e in equations.values() for n in walk(e)]
    dims = {d for e in nodes for d in e.dims} | {d for s in states.values() for d in s.dims}
    dims |= {d for v in values.values() for d in v}
    mixed = {d for n in nodes for d in crossed(n, free)}
    mixed |= {d for n in nodes if not free(n) and len(set(n.dims)) < len(n.dims) for d in n.dims if n.dims.count(d) > 1}
    return dims - mixed


__all__ = ["Response", "System", "make_system", "refusal", "respond", "system_of", "with_convolution"]
