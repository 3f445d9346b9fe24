"""Lowering: a recurrence, its analysis and the chosen schedules become a plan: stages over named buffers.

The stages in order are the hoisted `Matmul`s, one `Loop` per run of sequential groups, one `Scan`, `Chunk`, `Newton`
or `Frozen` per group of that schedule, one `Convolution` per group of that schedule between the `Map`s of what enters
it and what is made of what leaves it, the sunk `Matmul`s where their operands are ready, and `Map`s where a stage
needs a value no stage has made. Elementwise terms are never stored for their own sake: what reads no state is
computed inside each stage that uses it, what a later stage reads of a state is stored by the stage that has it.
Stages are filled from the last to the first, so that when a stage is filled, everything later stages want from it is
known. What reads a final state, `S[T]`, is a map behind all other stages, which reads the buffer `S@final`. A `Chunk`
reads and writes buffers only: the recurrence is restated first, so that its operands and what is read of its state
have names, and a `Map` before it makes the operands that no buffer holds. Sums over states of loops get names too: what
is made of a chunk's reads is a map.

Names of buffers: `STATE@initial`, `STATE@final`; `INPUT@initial` for an input read one step late; an output that is an
input is stored as `NAME@out`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recurc.errors import CompilerBug
from recurc.facts import Analysis, Group, LowRank, Monoid, Reason
from recurc.ir import (
    Contract,
    Equation,
    Expr,
    Final,
    Gather,
    Read,
    Recurrence,
    Reduce,
    State,
    late_equations,
    reads,
    rewrite,
    walk,
)
from recurc.passes.affine import Forms
from recurc.passes.classify import classify
from recurc.passes.convolution import make_system, respond
from recurc.passes.cost import Shape, function_depth
from recurc.passes.dependence import Dependence, dependence, topological
from recurc.passes.frozen import Chunks, chunks, inside
from recurc.passes.hoist import Hoisted, hoist
from recurc.passes.low_rank import Restated, column, low_rank, restated
from recurc.passes.named_sums import name_sums
from recurc.passes.newton import Surroundings, newton
from recurc.passes.schedule import Choice
from recurc.passes.sharing import share
from recurc.passes.stabilize import is_top
from recurc.passes.verify_plan import verify_plan
from recurc.plan import (
    Buffer,
    Carry,
    Chunk,
    Convolution,
    Frozen,
    Fused,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
)
from recurc.types import Dims, DType

OUT = "@out"


@dataclass(frozen=True)
class _Segment:
    """Groups that run in one stage."""

    groups: tuple[Group, ...]
    schedule: str

    @property
    def states(self) -> tuple[str, ...]:
        return tuple(s for g in self.groups for s in g.states)


def lower(rec: Recurrence, analysis: Analysis, choice: Choice, shape: Shape, apart: bool = False) -> Plan:
    """The plan of a recurrence in core form; with `apart`, sums and functions that need no state, or nothing but a few
    numbers made of it, are maps before and behind the loops. Raises `CompilerBug` if the plan breaks a rule of
    `plan.py`."""
    chunks: dict[str, Restated] = {}
    named, monoids = rec, {g.states: g.monoid for g, s in choice.runs if s == "scan" and g.monoid is not None}
    runs = replace(analysis, groups=tuple(group for group, _ in choice.runs))
    chunkwise = [group for group, schedule in choice.runs if schedule == "chunkwise"]
    forms = [group.low_rank for group in chunkwise if group.low_rank is not None]
    for form in sorted(forms, key=lambda f: not f.columns):  # a vector takes the names that its matrix has
        known = [c.form for c in chunks.values()]
        found = _restated(named, form, known, [e for m in monoids.values() for e in m.lift])
        chunks[form.states[0]], named, lifts = found, found.rec, iter(found.others)
        monoids = {n: replace(m, lift=tuple(next(lifts) for _ in m.lift)) for n, m in monoids.items()}
    if chunks:
        loops = (g for g, schedule in choice.runs if schedule == "sequential")
        named = name_sums(named, {s for g in loops for s in g.states})
    dep = dependence(named)
    hoisted = hoist(named, runs, dep, shape, {r for c in chunks.values() for r in c.reads})
    stages, buffers = _Lowering(named, choice, shape, hoisted, dep, chunks, monoids, apart).run()
    plan = Plan(rec, analysis, buffers, stages, choice.schedules, choice.candidates, choice.reasons)
    verify_plan(plan)
    return plan


def _restated(rec: Recurrence, form: LowRank, known: Sequence[LowRank], others: Sequence[Expr]) -> Restated:
    """Where an earlier group was restated too, the form is found again in what it has become; `known` are the forms
    of those."""
    found = low_rank(rec, form.states) if form.columns else _column(rec, form, known)
    if not isinstance(found, LowRank):
        raise CompilerBug(f"{', '.join(form.states)} is no longer chunkwise: {found}")
    return restated(rec, found, others)


def _column(rec: Recurrence, form: LowRank, known: Sequence[LowRank]) -> LowRank | Reason:
    """A vector as a column of one of the matrices that are `known`, or, where none fits, by its own keys."""
    found = [column(rec, form.states[0], f) for f in (*known, form)]
    return next((f for f in found if isinstance(f, LowRank)), found[-1])


class _Lowering:
    def __init__(
        self,
        rec: Recurrence,
        choice: Choice,
        shape: Shape,
        hoisted: Hoisted,
        dep: Dependence,
        chunks: dict[str, Restated],
        monoids: dict[tuple[str, ...], Monoid],
        apart: bool,
    ) -> None:
        self.rec, self.shape, self.hoisted, self.dep, self.chunks = rec, shape, hoisted, dep, chunks
        self.apart = apart
        self.states = {s.name: s for s in rec.states}
        self.spans = {e.name: e.span for e in rec.equations}
        self.late = late_equations(rec)
        # Coefficients may have brought new expressions of params: rewrite them before anything is placed.
        self.monoids = {states: _rewritten(monoid, hoisted) for states, monoid in monoids.items()}
        self.order = self._stage_order(self._segments(choice))
        self.place = {name: i for i, item in enumerate(self.order) for name in self._provides(item)}
        self.position = self._positions()
        self.wanted: list[dict[str, None]] = [{} for _ in self.order]  # values each stage stores
        self.materialised: dict[str, int] = {}  # values a Map stores, and before which stage
        self.used_once: dict[str, None] = {}
        self.used_matmuls: dict[str, None] = {}

    # --- the order of stages ----------------------------------------------------------------------------------------

    def _segments(self, choice: Choice) -> list[_Segment]:
        if self.apart:
            return self._independent(choice)
        segments: list[_Segment] = []
        for group, schedule in choice.runs:
            last = segments[-1] if segments else None
            joins = last is not None and schedule == last.schedule == "sequential" and not self._between(last, group)
            if last is not None and joins:
                segments[-1] = _Segment((*last.groups, group), schedule)
            else:
                segments.append(_Segment((group,), schedule))
        return segments

    def _independent(self, choice: Choice) -> list[_Segment]:
        """Groups that read each other's states, or are read together, in one loop; others in loops of their own."""
        segments: list[_Segment] = []
        together = [{r.name for r in reads(e) if r.name in self.states} for e in self.hoisted.equations.values()]
        for group, schedule in choice.runs:
            needs = {s for state in group.states for s in self.dep.on_states[state]}
            needs |= {s for names in together if names & set(group.states) for s in names}
            joined = [s for s in segments if needs & set(s.states)]
            rest = [s for s in segments if s not in joined]
            segments = [*rest, _Segment((*(g for s in joined for g in s.groups), group), schedule)]
        return segments

    def _between(self, segment: _Segment, group: Group) -> bool:
        """Whether `group` needs a matmul of something `segment` computes."""
        inside = set(segment.states)
        return any(self._behind(m) & inside for m in self._matmuls_behind(self._roots(group)))

    def _roots(self, group: Group) -> list[Expr]:
        return [self.hoisted.equations[s] for s in group.states]

    def _matmuls_behind(self, exprs: Iterable[Expr]) -> set[str]:
        return {n for n in self._names_behind(exprs) if n in self.hoisted.matmuls}

    def _behind(self, matmul: str) -> set[str]:
        """States a matmul's operand was computed from, within the step or before it."""
        names = self._names_behind([self.hoisted.matmuls[matmul]])
        return {n for n in names if n in self.states}

    def _names_behind(self, exprs: Iterable[Expr]) -> set[str]:
        """Names the expressions reach at this step or through states of earlier stages' values."""
        pending = [r.name for e in exprs for r in reads(e)]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.states:
                continue
            expr = self.hoisted.matmuls.get(name) or self.hoisted.equations.get(name)
            if expr is not None:
                pending.extend(r.name for r in reads(expr))
        return seen

    def _stage_order(self, segments: list[_Segment]) -> list[str | _Segment]:
        home = {s: i for i, segment in enumerate(segments) for s in segment.states}
        after = {m: max((home[s] for s in self._behind(m)), default=-1) for m in self.hoisted.matmuls}
        order: list[str | _Segment] = []
        for i in range(-1, len(segments)):
            if i >= 0:
                order.append(segments[i])
            order.extend(m for m in self.hoisted.matmuls if after[m] == i)
        return order

    def _provides(self, item: str | _Segment) -> tuple[str, ...]:
        if isinstance(item, str):
            return (item,)
        return item.states + tuple(r for s in item.states if s in self.chunks for r in self.chunks[s].reads)

    def _computes(self, at: int) -> bool:
        """Whether the stage at that place can compute equations of its own."""
        item = self.order[at] if at >= 0 else ""
        return isinstance(item, _Segment) and item.schedule != "chunkwise"

    def _positions(self) -> dict[str, int]:
        """Equation -> the last stage it waits for; -1 if it is computed from inputs and params alone."""
        found = dict(self.place)
        plain = [Equation(n, e) for n, e in self.hoisted.equations.items() if n not in found]
        for equation in topological(plain):
            found[equation.name] = max((found.get(r.name, -1) for r in reads(equation.expr)), default=-1)
        return found

    # --- filling stages, last to first ------------------------------------------------------------------------------

    def run(self) -> tuple[tuple[Stage, ...], tuple[Buffer, ...]]:
        end = len(self.order)
        tail: dict[str, Expr] = {}
        for item in reversed(range(end)):
            name = self.order[item]
            first = item if isinstance(name, str) else self._first_alike(item, name)
            for operand in (self.hoisted.operand_of[name],) if isinstance(name, str) else self._operands(name):
                self._materialise_operand(operand, item if self.position.get(operand, -1) >= first else first)
            if self.apart and not isinstance(name, str):
                for known in self._known(item):
                    self.materialised[known] = min(item, self.materialised.get(known, item))
        for output in self.rec.outputs:
            self._want_output(output, tail)
        filled: list[Stage] = []
        filled.extend(reversed(self._map(tail, end)))
        for index in reversed(range(end)):
            item = self.order[index]
            if isinstance(item, str):
                if item in self.used_matmuls or item in self.rec.outputs:
                    filled.append(self._matmul(item, index))
            else:
                filled.extend(reversed(self._segment(item, index)))
            before = {n: self.hoisted.equations[n] for n, at in self.materialised.items() if at == index}
            filled.extend(reversed(self._map(before, index)))
        once = self._once()
        stages = (*once, *reversed(filled))
        return stages, self._buffers(stages)

    def _operands(self, segment: _Segment) -> tuple[str, ...]:
        return tuple(n for s in segment.states if s in self.chunks for n in self.chunks[s].operands)

    def _first_alike(self, at: int, segment: _Segment) -> int:
        """The place of the first chunk with the keys of this one, before which its operands are best made: the two can
        be one stage then (`fuse`)."""
        own = [self.chunks[s].form for s in segment.states if s in self.chunks]
        for place, item in enumerate(self.order[:at]):
            states = () if isinstance(item, str) else item.states
            if any(self.chunks[s].form.alike(f) for s in states if s in self.chunks for f in own):
                return place
        return at

    def _materialise_operand(self, operand: str, index: int) -> None:
        plain = operand in self.hoisted.equations and operand not in self.place
        if plain and not self._computes(self.position[operand]):
            self.materialised[operand] = min(index, self.materialised.get(operand, index))

    def _known(self, index: int) -> list[str]:
        """What the equations of a stage read that can be made before it and is worth a place in memory."""
        waiting = [e for n, e in self.hoisted.equations.items() if self.position[n] == index]
        names = dict.fromkeys(r.name for e in waiting for r in reads(e) if not r.lag)
        plain = [n for n in names if n in self.hoisted.equations and n not in self.place]
        return [n for n in plain if self.position[n] < index and self._apart(n)]

    def _apart(self, name: str) -> bool:
        """Whether a value is better made outside of the loops, from a few numbers that they make of the states: it
        takes sums or costly functions."""
        if not self.apart or self._reads_state(name):
            return False
        pending, seen, cut, costly = [name], {name}, 0, False
        while pending:
            expr = self.hoisted.equations[pending.pop()]
            costly |= function_depth(expr) > 0 or any(isinstance(n, Reduce | Contract | Gather) for n in walk(expr))
            for read in reads(expr):
                if read.name not in self.hoisted.equations or read.name in seen:
                    continue
                seen.add(read.name)
                if self._reads_state(read.name):
                    cut += self.shape.elements(read.dims)
                else:
                    pending.append(read.name)
        return costly and cut <= 4 * self.shape.elements(self.hoisted.equations[name].dims)

    def _reads_state(self, name: str) -> bool:
        return name in self.states or any(r.name in self.states for r in reads(self.hoisted.equations[name]))

    def _want_output(self, output: str, tail: dict[str, Expr]) -> None:
        if output in self.hoisted.matmuls:
            self.used_matmuls[output] = None
        elif output in self.place:
            self.wanted[self.place[output]][output] = None
        elif output in self.late:
            tail[output] = _of_buffers(self.hoisted.equations[output])
        elif output in self.hoisted.equations:
            at = self.position[output]
            if self._computes(at) and not self._apart(output):
                self.wanted[at][output] = None
            elif output not in self.materialised:
                tail[output] = self.hoisted.equations[output]
        else:
            given = next(g for g in self.rec.inputs if g.name == output)
            tail[output + OUT] = Read(output, 0, given.dims, given.dtype, given.span)

    def _gather(self, roots: Iterable[Expr], index: int, available: set[str]) -> dict[str, Expr]:
        """The equations stage `index` computes for `roots`, besides `available`; asks earlier stages for the rest."""
        body: dict[str, Expr] = {}
        pending = [r for e in roots for r in reads(e)]
        while pending:
            read = pending.pop()
            name = read.name
            if name in body or name in available:
                continue
            if self._from_buffer(name, index):
                continue
            body[name] = (
                _of_buffers(self.hoisted.equations[name]) if name in self.late else self.hoisted.equations[name]
            )
            pending.extend(reads(body[name]))
        return body

    def _from_buffer(self, name: str, index: int) -> bool:
        """Whether stage `index` reads `name` from a buffer; if so, whoever makes the buffer is told."""
        if name in self.hoisted.once:
            self.used_once[name] = None
            return True
        if name in self.hoisted.matmuls:
            self.used_matmuls[name] = None
            return True
        if name in self.place:
            at = self.place[name]
            if at < index:
                self.wanted[at][name] = None
                return True
            return False
        if name not in self.hoisted.equations:
            return True  # an input, a param or a final state
        if name in self.late:
            return False
        if self.materialised.get(name, index + 1) <= index:
            return True
        at = self.position[name]
        if at < index and self._computes(at) and self.apart and not self._reads_state(name):
            return False
        if at < index and self._computes(at) and not self._cheaper_again(name, at):
            self.wanted[at][name] = None
            return True
        return False

    def _cheaper_again(self, name: str, at: int) -> bool:
        """Whether a later stage should recompute `name` from stored states rather than have it stored."""
        if name in self.wanted[at]:
            return False
        pending, seen, needed = [name], {name}, dict[str, int]()
        while pending:
            for read in reads(self.hoisted.equations[pending.pop()]):
                if read.name in self.states:
                    stored = read.name in self.wanted[self.place[read.name]]
                    needed[read.name] = 0 if stored else self.shape.elements(read.dims)
                elif read.name in self.hoisted.equations and read.name not in seen:
                    seen.add(read.name)
                    pending.append(read.name)
        return sum(needed.values()) < self.shape.elements(self.hoisted.equations[name].dims)

    # --- stages -----------------------------------------------------------------------------------------------------

    def _equations(self, body: dict[str, Expr]) -> tuple[Equation, ...]:
        order = {e.name: i for i, e in enumerate(self.rec.equations)}
        standing = sorted(body, key=lambda n: order.get(n, -1))
        return topological(Equation(n, body[n], self.spans.get(n) or body[n].span) for n in standing)

    def _map(self, targets: dict[str, Expr], index: int) -> list[Stage]:
        if not targets:
            return []
        body = targets | self._gather(targets.values(), index, set(targets))
        return [Map(self._equations(body), tuple(targets))]

    def _matmul(self, name: str, index: int) -> Matmul:
        expr = self.hoisted.matmuls[name]
        for read in reads(expr):
            self._stored(read.name, index)
        return Matmul(name, expr)

    def _stored(self, operand: str, index: int) -> None:
        """Sees to it that stage `index`, which reads buffers only, finds `operand` in one."""
        if self._from_buffer(operand, index):
            return
        at = self.position.get(operand, -1)
        if not (at < index and self._computes(at)):
            raise CompilerBug(f"the operand {operand} is in no buffer")
        self.wanted[at][operand] = None

    def _chunk(self, states: tuple[str, ...], carries: tuple[Carry, ...], index: int) -> Chunk:
        chunk, wanted = self.chunks[states[0]], self.wanted[index]
        for state in states:
            if state in wanted:
                raise CompilerBug(f"{state} is chunkwise, but a later stage wants all of it")
        for operand in chunk.operands:
            self._stored(operand, index)
        reads_ = tuple(Equation(r, self.hoisted.equations[r], self.spans.get(r)) for r in self._in_order(wanted))
        return Chunk(carries, chunk.form, chunk.updates, reads_)

    def _segment(self, segment: _Segment, index: int) -> list[Stage]:
        carries = tuple(Carry(s, self.states[s].dims, self.states[s].dtype) for s in segment.states)
        wanted = self.wanted[index]
        if segment.schedule in ("sequential", "newton", "chunk-frozen"):
            roots = {s: self.hoisted.equations[s] for s in segment.states}
            targets = roots | {n: self.hoisted.equations[n] for n in wanted}
            body = targets | self._gather(targets.values(), index, set(targets))
            loop = Loop(carries, self._equations(body), self._in_order(wanted))
            match segment.schedule:
                case "newton":
                    return [self._newton(loop, segment.groups[0].cls)]
                case "chunk-frozen":
                    return [self._frozen(loop)]
                case _:
                    return [loop]
        (group,) = segment.groups
        if segment.schedule == "convolution":
            return self._convolution(group, carries, index)
        if segment.schedule == "chunkwise":
            return [self._chunk(group.states, carries, index)]
        named, lift = share(self.monoids[group.states].lift, self._taken())
        monoid = replace(self.monoids[group.states], lift=lift)
        shared = {e.name: e.expr for e in named}
        pre = self._gather([*shared.values(), *lift], index, {*segment.states, *shared}) | shared
        targets = {n: self.hoisted.equations[n] for n in wanted if n not in segment.states and n not in pre}
        inside = {*segment.states, *pre, *targets}
        post = targets | self._gather(targets.values(), index, inside)
        return [Scan(carries, monoid, self._equations(pre), self._equations(post), self._in_order(wanted))]

    def _newton(self, loop: Loop, cls: str) -> Newton:
        steady = {*self.hoisted.once, *(p.name for p in self.rec.params)}
        stage, once = newton(loop, cls, Surroundings(self._taken(), steady))
        self.hoisted.once |= once
        self.used_once |= dict.fromkeys(once)
        return stage

    def _frozen(self, loop: Loop) -> Frozen:
        """The chunks of a loop, and the plan inside one: everything there goes step by step but what needs no state."""
        members = tuple(c.name for c in loop.carries)
        found = chunks(Forms(self.rec, self.dep, frozenset(members)), members)
        if not isinstance(found, Chunks):
            raise CompilerBug(f"{', '.join(members)} has no chunks: {found}")
        steady = {*self.hoisted.once, *(p.name for p in self.rec.params)}
        taken = {*self._taken(), *(s.name for s in self.rec.states)}
        rec = inside(loop, found, self.rec, steady, taken)
        analysis, clock = classify(rec), found.clock
        runs = tuple((group, "sequential") for group in analysis.groups)
        choice = Choice(tuple(schedule for _, schedule in runs), (), (), runs)
        plan = lower(rec, analysis, choice, self.shape, apart=True)
        return Frozen(loop, clock.every, clock.first, clock.start, found.held, plan)

    def _convolution(self, group: Group, carries: tuple[Carry, ...], index: int) -> list[Stage]:
        """What enters, as a map; the stage; and, as a map, what is made of what leaves it."""
        wanted = self._in_order(self.wanted[index])
        sequences = {*(i.name for i in self.rec.inputs), *self.hoisted.matmuls}
        system = make_system(self.hoisted.equations, self.rec, frozenset(sequences), frozenset(self._taken()))
        found = respond(system, group, wanted, self.shape)
        before = dict(found.before)
        made = tuple(n for n in found.sources if n in before)
        before |= self._gather(before.values(), index, set(before))
        for source in found.sources:
            if source not in before:
                self._from_buffer(source, index)
        parts = (found.enter, found.step, found.reads)
        known = {*found.sources, *(n for p in parts for n in p), *group.states}
        steady = self._gather([e for p in parts for e in p.values()], index, known)
        enter, step, read = (self._equations(dict(p)) for p in parts)
        stage = Convolution(
            carries, found.sources, self._equations(steady), enter, step, read, found.written, found.lanes, found.blocks
        )
        targets = tuple(n for n in wanted if n not in found.written)
        after = dict(found.after) | self._gather(found.after.values(), index, {*found.after, *found.written})
        maps = [Map(self._equations(b), w) for b, w in ((before, made), (after, targets)) if w]
        return [*maps[: bool(made)], stage, *maps[bool(made) :]]

    def _taken(self) -> set[str]:
        return {
            *self.hoisted.equations,
            *self.hoisted.matmuls,
            *self.hoisted.once,
            *(i.name for i in self.rec.inputs),
        } | {p.name for p in self.rec.params}

    def _in_order(self, wanted: Iterable[str]) -> tuple[str, ...]:
        order = {e.name: i for i, e in enumerate(self.rec.equations)}
        return tuple(sorted(wanted, key=lambda n: order.get(n, -1)))

    def _once(self) -> list[Stage]:
        if not self.used_once:
            return []
        body: dict[str, Expr] = {}
        pending = list(self.used_once)
        while pending:
            name = pending.pop()
            if name in body or not (name in self.hoisted.once or name in self.hoisted.equations):
                continue
            body[name] = self.hoisted.once.get(name) or self.hoisted.equations[name]
            pending.extend(r.name for r in reads(body[name]))
        return [Map(self._equations(body), tuple(self.used_once), over_time=False)]

    # --- buffers ----------------------------------------------------------------------------------------------------

    def _buffers(self, stages: tuple[Stage, ...]) -> tuple[Buffer, ...]:
        made: dict[str, tuple[Dims, DType, bool]] = {}
        read: dict[str, None] = {}
        late: dict[str, None] = {}
        for stage in stages:
            over_time = not isinstance(stage, Map) or stage.over_time
            kinds = {e.name: (e.expr.dims, e.expr.dtype) for e in stage.body}
            if isinstance(stage, Matmul):
                kinds[stage.target] = (stage.expr.dims, stage.expr.dtype)
            for name in stage.writes:
                state = self.states.get(name)
                dims, dtype = (state.dims, state.dtype) if state else kinds[name]
                made[name] = (dims, dtype, over_time)
            kept = stage.carries if isinstance(stage, Loop | Scan | Chunk | Newton | Convolution | Frozen) else ()
            own = {c.name for c in kept}
            for expr in stage_reads(stage):
                read[expr.name] = None
                if expr.lag and expr.name not in own and expr.name not in self.states:
                    late[expr.name] = None
        buffers = [Buffer(i.name, i.dims, i.dtype, Role.INPUT) for i in self.rec.inputs if i.name in read]
        buffers += [Buffer(p.name, p.dims, p.dtype, Role.PARAM) for p in self.rec.params if p.name in read]
        stored = {s.name: self._kept_as(s) for s in self.rec.states}
        buffers += [Buffer(f"{s.name}@initial", s.dims, stored[s.name], Role.INITIAL) for s in self.rec.states]
        buffers += [
            Buffer(f"{i.name}@initial", i.dims, i.dtype, Role.INITIAL) for i in self.rec.inputs if i.name in late
        ]
        outputs = {*self.rec.outputs, *(o + OUT for o in self.rec.outputs)}
        for name, (dims, dtype, over_time) in made.items():
            role = Role.OUTPUT if name in outputs else Role.SEQUENCE if over_time else Role.ONCE
            buffers.append(Buffer(name, dims, dtype, role))
        buffers += [Buffer(f"{s.name}@final", s.dims, stored[s.name], Role.FINAL) for s in self.rec.states]
        return tuple(buffers)

    def _kept_as(self, state: State) -> DType:
        """How a call keeps a state. The logarithm of a scale stays in f32 in half precision: its error is multiplied by
        its size where exp is taken of it."""
        top = state.dtype is DType.REAL and is_top(state.name) and self.shape.itemsize < DType.F32.itemsize
        return DType.F32 if top else state.dtype


def stage_reads(stage: Stage) -> list[Read]:
    """Every read of a stage from outside its monoid's operator."""
    exprs: list[Expr] = [stage.expr] if isinstance(stage, Matmul) else [e.expr for e in stage.body]
    for scan in stage.parts if isinstance(stage, Fused) else (stage,):
        exprs += scan.monoid.lift if isinstance(scan, Scan) else ()
    return [r for e in exprs for r in reads(e)]


def _of_buffers(expr: Expr) -> Expr:
    """`expr` with final states read from their buffers."""
    return rewrite(expr, lambda n: Read(f"{n.name}@final", 0, n.dims, n.dtype, n.span) if isinstance(n, Final) else n)


def _rewritten(monoid: Monoid, hoisted: Hoisted) -> Monoid:
    return replace(monoid, lift=tuple(hoisted.rewrite(e) for e in monoid.lift))
