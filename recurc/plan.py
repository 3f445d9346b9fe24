"""What a backend is given: stages over named buffers, on one page.

A stage body is a list of equations in an order in which each reads only earlier ones, carries and buffers.
A `Read` in a body means, in this order: a value the body defines (lag 0); a carry (lag 1: the value before this
step; lag 0: its new value, which the body's equation of that name defines); a buffer. A buffer with a time axis
read at lag 1 means the element one step before, and at the first step the buffer `NAME@initial`.
Only lags 0 and 1 occur: the expand pass turns longer ones into chains of states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from recurc.facts import Analysis, Group, LowRank, Monoid, Reason
from recurc.ir import Const, Contract, Equation, Expr, Read, Recurrence, Size, children, reads, walk
from recurc.ops import apply
from recurc.types import Dims, DType, Kind


class Role(Enum):
    INPUT = "input"  # (B, T, *dims)
    PARAM = "param"  # (B, *dims), usually with batch stride 0
    INITIAL = "initial"  # (B, *dims): a state's value before the first step, or an input's (`x@initial`)
    ONCE = "once"  # (*dims): computed once per call from params, by a `Map` with over_time=False
    SEQUENCE = "sequence"  # (B, T, *dims), made and used inside the plan
    OUTPUT = "output"  # (B, T, *dims)
    FINAL = "final"  # (B, *dims): a state's value after the last step, `STATE@final`


@dataclass(frozen=True, slots=True)
class Buffer:
    name: str
    dims: Dims
    dtype: DType
    role: Role
    part: tuple[str, int] | None = None  # 0, 1: the real, imaginary parts of a complex array of the caller, its name

    @property
    def spacing(self) -> int:
        """How many real elements apart neighbours along the last dim lie, in memory the caller gives."""
        return 1 if self.part is None else 2

    @property
    def has_time(self) -> bool:
        return self.role in (Role.INPUT, Role.SEQUENCE, Role.OUTPUT)


@dataclass(frozen=True, slots=True)
class Carry:
    """A state a stage keeps from step to step; it starts from the buffer `NAME@initial` and, after the last
    step, is stored to `NAME@final` if the plan has that buffer."""

    name: str
    dims: Dims
    dtype: DType


@dataclass(frozen=True, slots=True)
class Map:
    """Equations without feedback, for all t at once (or once per call, from params, if not `over_time`)."""

    body: tuple[Equation, ...]
    writes: tuple[str, ...]
    over_time: bool = True


@dataclass(frozen=True, slots=True)
class Matmul:
    """`target = expr` for all t, as one GEMM: one side of the contraction has no time axis (a param or ONCE
    buffer), the other is a buffer with time; both operands are `Read`s of buffers at lag 0."""

    target: str
    expr: Contract
    body: tuple[Equation, ...] = ()  # always empty; kept so that every stage has a body

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.target,)


@dataclass(frozen=True, slots=True)
class Loop:
    """Fused sequential: one pass over t, states kept close. `writes` are stored at every step."""

    carries: tuple[Carry, ...]
    body: tuple[Equation, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """The same meaning as a `Loop`, by an associative scan over t.

    `pre` (no carries read) feeds `monoid.lift`; the states are the inclusive prefix applied to the initial values;
    `post` may read them at lag 0 (after this step) and lag 1 (before it), and what `pre` defines."""

    carries: tuple[Carry, ...]
    monoid: Monoid
    pre: tuple[Equation, ...]
    post: tuple[Equation, ...]
    writes: tuple[str, ...]

    @property
    def body(self) -> tuple[Equation, ...]:
        return self.pre + self.post


START = 10.0  # a residual in units of 1 + |guess|; larger ones than 1 or so come from a guess that is no use


@dataclass(frozen=True, slots=True)
class Newton:
    """The same meaning as `loop`, by Newton's method on all steps at once (DEER, Lim et al. 2024; ParaRNN, Danieli et
    al. 2025). Names of the values, for every carry NAME: `NAME'guess` (of all steps, with a time axis; one step before
    the first it is `NAME@initial`), `NAME'update` and `NAME'next`.

    `first` makes the first guess. One round begins with `before`, which writes buffers of the stage's own: products of
    the guess with params, and what these are made of. Then comes `step`: a scan of the linearised equations, from zero,
    whose carries are the updates and which writes `NAME'next`, the guess plus its update; that is the next guess.
    `error` names a value of `step` whose largest element over all steps is the residual of a sequence: how large update
    and defect of a guess are, in units of 1 + |guess|. A sequence with a residual within `tolerance` is done: what the
    loop writes follows from its states `NAME'next` by `known`, the equations of the loop with the states one step
    before read from the guess (and the products from what `before` makes of that). One that is not after `most` rounds,
    or whose residual is not finite, is run by `loop`; with `falls` also one whose residual is above `limit` after some
    round.
    """

    loop: Loop
    first: Map
    step: Scan
    error: str
    known: tuple[Equation, ...]
    before: tuple[Map | Matmul, ...] = ()
    most: int = 32
    falls: float | None = None

    @property
    def carries(self) -> tuple[Carry, ...]:
        return self.loop.carries

    @property
    def body(self) -> tuple[Equation, ...]:
        return self.loop.body

    @property
    def writes(self) -> tuple[str, ...]:
        return self.loop.writes

    def values(self, kind: str) -> tuple[Buffer, ...]:
        """A buffer `NAME'KIND` for each carry, with a time axis."""
        return tuple(Buffer(f"{c.name}'{kind}", c.dims, c.dtype, Role.SEQUENCE) for c in self.carries)

    @property
    def products(self) -> tuple[Buffer, ...]:
        """What `before` writes."""
        found: list[Buffer] = []
        for stage in self.before:
            exprs = {e.name: e.expr for e in stage.body} if isinstance(stage, Map) else {stage.target: stage.expr}
            found += [Buffer(n, exprs[n].dims, exprs[n].dtype, Role.SEQUENCE) for n in stage.writes if n in exprs]
        return tuple(found)

    @property
    def whole_step(self) -> Scan:
        """`step` with all that `before` makes computed in it."""
        made: dict[str, Equation] = {}
        for stage in self.before:
            body = stage.body if isinstance(stage, Map) else (Equation(stage.target, stage.expr),)
            made |= {e.name: e for e in body}
        made |= {e.name: e for e in self.step.pre}
        return replace(self.step, pre=tuple(made.values()))

    def limit(self, turn: int) -> float:
        """The largest residual after so many rounds with which a sequence goes on: it may stay near 1 for the first ten
        rounds, and has to fall by `falls` in each."""
        return math.inf if self.falls is None else START * self.falls**turn

    def tolerance(self, arithmetic: Callable[[DType], DType]) -> float:
        """Of a residual: some thousand roundings of f64 if all of the step is computed in it, else some tens of f32.
        `arithmetic`: the type that numbers of a type are computed in."""
        nodes = (n for e in self.first.body for n in walk(e.expr) if children(n) and n.dtype.kind is Kind.REAL)
        types = {arithmetic(n.dtype) for n in nodes} | {arithmetic(c.dtype) for c in self.carries}
        return 1e-12 if types == {DType.F64} else 1e-6

    def starts(self) -> tuple[Buffer, ...]:
        """`NAME'guess@initial` for each carry, which is `NAME@initial` by another name."""
        return tuple(Buffer(f"{c.name}'guess@initial", c.dims, c.dtype, Role.INITIAL) for c in self.carries)


@dataclass(frozen=True, slots=True)
class Fused:
    """The meaning of scans one after another, in one walk over t: `parts` run in order, and each may read what earlier
    ones write at this step and the one before. What two parts call by one name is one value, and they compute it alike.

    `between` are the buffers that later parts alone read: whoever runs the parts together has these values at hand and
    needs no memory for them; `taken_apart` makes them buffers of the plan again."""

    parts: tuple[Scan, ...]
    between: tuple[Buffer, ...]

    @property
    def carries(self) -> tuple[Carry, ...]:
        return tuple(c for part in self.parts for c in part.carries)

    @property
    def body(self) -> tuple[Equation, ...]:
        return tuple(e for part in self.parts for e in part.body)

    @property
    def writes(self) -> tuple[str, ...]:
        inside = {b.name for b in self.between}
        return tuple(w for part in self.parts for w in part.writes if w not in inside)

    @property
    def levels(self) -> tuple[int, ...]:
        """Of each part: 0 if its elements need no value of another part, else one more than the highest level of those
        that it needs. Parts of one level can fold segments of time to elements side by side."""
        found: list[int] = []
        made: dict[str, int] = {}
        for part in self.parts:
            needed = {r.name for e in (*(p.expr for p in part.pre), *part.monoid.lift) for r in reads(e)}
            found.append(max((made[n] + 1 for n in needed if n in made), default=0))
            made |= dict.fromkeys((*(c.name for c in part.carries), *part.writes), found[-1])
        return tuple(found)


NO_TRANSFORM = "a convolution over all steps goes through a fast Fourier transform, which C and CUDA code do not have"


def drive_name(state: str) -> str:
    """What enters a state of a `Convolution` at this step."""
    return f"{state}'drive"


def step_name(state: str) -> str:
    """What one step of a `Convolution` makes of the states before it."""
    return f"{state}'step"


@dataclass(frozen=True, slots=True)
class Convolution:
    """The same meaning as a `Loop` whose step is linear and the same for every t, by the response to an impulse.

    Every equation but those of `steady` (of params alone) is linear in what may change: `enter` makes `drive_name(S)`
    of every carry S from the `sources` (buffers with time, read at lag 0); `step` makes `step_name(S)` from the carries
    at lag 1; the new S is the sum of the two; `reads` may read the carries at lags 0 and 1. Linear is over the real
    numbers: a complex carry may be read by its parts. `writes` are carries and values of `reads`.

    `lanes` are dims of every carry along which nothing mixes; along `blocks` steps do not mix, but `enter` and `reads`
    may. A backend that runs this by a transform leaves the small values of a sequence with an error that is small
    beside its large ones only: each of the convolutions K * v is off by about u log2(T) |K| |v| (Euclidean norms, u the
    unit roundoff of the transform; N. Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 24.1)."""

    carries: tuple[Carry, ...]
    sources: tuple[str, ...]
    steady: tuple[Equation, ...]
    enter: tuple[Equation, ...]
    step: tuple[Equation, ...]
    reads: tuple[Equation, ...]
    writes: tuple[str, ...]
    lanes: Dims = ()
    blocks: Dims = ()

    @property
    def body(self) -> tuple[Equation, ...]:
        """The equations of the loop this stands for."""
        joined: list[Equation] = []
        for c in self.carries:
            step, drive = (Read(n, 0, c.dims, c.dtype) for n in (step_name(c.name), drive_name(c.name)))
            joined.append(Equation(c.name, apply("add", step, drive)))
        return (*self.steady, *self.enter, *self.step, *joined, *self.reads)

    @property
    def loop(self) -> Loop:
        """The loop this stands for."""
        return Loop(self.carries, self.body, self.writes)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The same meaning as a `Loop` over matrix states whose new values are `updates`, which have the form `form`: by
    products of matrices over chunks of steps (chunkwise form).

    The operands of `form` and of the reads are `Read`s of buffers at lag 0, with or without a time axis; a factor or a
    value may be the number 1 instead. Keys, probes and queries have all rows, values all columns, all of them the whole
    rank of their write; each may lack shared dims. A read is `name = query . S` (this step) or `query . S[t-1]` (the
    step before), a `Contract` of `query` and one state over the rows; further dims of a query stand first in what is
    read.
    All of them are stored. Products of factors are formed inside a chunk and never divided by."""

    carries: tuple[Carry, ...]  # the states of the form
    form: LowRank
    updates: tuple[Expr, ...]
    reads: tuple[Equation, ...]

    @property
    def body(self) -> tuple[Equation, ...]:
        updates = (Equation(s, e) for s, e in zip(self.form.states, self.updates, strict=True))
        return (*updates, *self.reads)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(e.name for e in self.reads)

    @property
    def loop(self) -> Loop:
        """The loop this stands for."""
        return Loop(self.carries, self.body, self.writes)

    @property
    def readouts(self) -> tuple[Readout, ...]:
        found: list[Readout] = []
        for equation in self.reads:
            assert isinstance(equation.expr, Contract)
            query, state = equation.expr.left, equation.expr.right
            assert isinstance(query, Read) and isinstance(state, Read)
            known = {*self.form.shared, *self.form.rows}
            rank = tuple(d for d in query.dims if d not in known)
            found.append(Readout(equation.name, query, rank, self.form.states.index(state.name), not state.lag))
        return tuple(found)

    @property
    def operands(self) -> tuple[Read, ...]:
        """The buffers it takes in, each once."""
        form = self.form
        exprs = [*form.decays.values(), *(e for w in form.writes for e in (*w.keys, *w.probes, w.value))]
        queries = [r.query for r in self.readouts]
        return tuple(dict.fromkeys(e for e in (*exprs, *queries) if isinstance(e, Read)))


@dataclass(frozen=True, slots=True)
class JointChunk:
    """The meaning of chunks one after another that have the same factors and keys, in one stage: what a chunk of steps
    makes of keys, factors and queries is made once for all `parts`. Each has one state, plain writes (no probes, no
    rank) and no decay along its columns. A part without columns is a vector, such as the normaliser beside a memory:
    what it reads are sums over the rows of the scores that the others weigh their values by."""

    parts: tuple[Chunk, ...]

    @property
    def carries(self) -> tuple[Carry, ...]:
        return tuple(c for part in self.parts for c in part.carries)

    @property
    def body(self) -> tuple[Equation, ...]:
        return tuple(e for part in self.parts for e in part.body)

    @property
    def writes(self) -> tuple[str, ...]:
        return tuple(w for part in self.parts for w in part.writes)


@dataclass(frozen=True, slots=True)
class Readout:
    """One read of a `Chunk`: `name = query . S`."""

    name: str
    query: Read
    rank: Dims  # what the query has beside shared dims and rows
    state: int  # its place among the states of the form
    now: bool  # of the state after the step, not before it


MATRIX_SCAN = "scan of matrices"  # among the names of schedules: a scan whose elements are matrices or tables

NO_FROZEN = "chunks with frozen states have no CUDA kernels"


def held_name(state: str) -> str:
    """A held state of a `Frozen` stage, as the plan inside reads it."""
    return f"{state}'held"


@dataclass(frozen=True, slots=True)
class Frozen:
    """The same meaning as `loop`, in chunks of steps within which some of its states, the held ones, do not change
    (test-time training by mini-batches: Sun et al. 2024; Behrouz et al. 2025).

    A chunk starts at each step t with (t + start) mod `every` = `first`, where `start` names a buffer of one integer
    per sequence, or is None for 0. There each pair (F, M) of `held` makes F what M was before this step. `inside` is
    the plan of the steps up to the next such place or the last step: its states are the carries but the held ones, and
    it has a param `held_name(F)` for each of those. Of its other buffers, those without a maker are this plan's, what
    it puts out are the `writes`, and the rest are its own, by names that this plan does not have. It has maps, matmuls
    and loops only, and its `t` counts as that of the whole call."""

    loop: Loop
    every: Const | Size
    first: int
    start: str | None
    held: tuple[tuple[str, str], ...]
    inside: Plan

    @property
    def carries(self) -> tuple[Carry, ...]:
        return self.loop.carries

    @property
    def body(self) -> tuple[Equation, ...]:
        return self.loop.body

    @property
    def writes(self) -> tuple[str, ...]:
        return self.loop.writes

    def length(self, size: Callable[[str], int]) -> int:
        """The steps of a whole chunk."""
        return size(self.every.dim) if isinstance(self.every, Size) else int(self.every.value.real)

    @property
    def spelled(self) -> str:
        """That length as a person writes it: a number or a dim."""
        return self.every.dim if isinstance(self.every, Size) else str(self.every.value)

    @property
    def own(self) -> tuple[Buffer, ...]:
        """What exists inside only, besides the held states."""
        return tuple(b for b in self.inside.buffers if b.role in (Role.ONCE, Role.SEQUENCE))


Stage = Map | Matmul | Loop | Scan | Fused | Chunk | JointChunk | Newton | Convolution | Frozen


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule that was weighed: its estimated cost, and why it won or lost.

    `depth`: how many steps, chunks of steps or levels of a tree follow each other, each waiting for the one before."""

    schedule: str
    seconds: float
    bytes_moved: float
    flops: float
    depth: int
    reason: str
    chosen: bool = False


def candidate_name(analysis: Analysis, group: Group, schedule: str) -> str:
    """What the candidate of a group's schedule is called: with its states, where there are several groups."""
    return schedule if len(analysis.groups) == 1 else f"{', '.join(group.states)}: {schedule}"


@dataclass(frozen=True, slots=True)
class Plan:
    recurrence: Recurrence  # in core form
    analysis: Analysis
    buffers: tuple[Buffer, ...]
    stages: tuple[Stage, ...]
    schedules: tuple[str, ...]  # the chosen schedule of each group, in the order of `analysis.groups`
    candidates: tuple[Candidate, ...] = ()
    reasons: tuple[Reason, ...] = field(default=(), compare=False)

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name; `KeyError` if there is none."""
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise KeyError(name)

    def has(self, name: str) -> bool:
        return any(b.name == name for b in self.buffers)


def taken_apart(plan: Plan, which: Callable[[Fused | JointChunk | Chunk], bool] = lambda stage: True) -> Plan:
    """The plan with the parts of stages that run several at once (those of which `which` is true) as stages of their
    own. A vector in chunks goes step by step then: without a matrix beside it chunks only add work."""
    gone = [s for s in plan.stages if isinstance(s, Fused | JointChunk | Chunk) and _parts(s) != (s,) and which(s)]
    if not gone:
        return plan
    stages = (part for s in plan.stages for part in (_parts(s) if s in gone else (s,)))
    between = (b for s in gone if isinstance(s, Fused) for b in s.between)
    return replace(plan, stages=tuple(stages), buffers=(*plan.buffers, *between))


def _parts(stage: Stage) -> tuple[Stage, ...]:
    match stage:
        case Fused(parts=parts):
            return parts
        case JointChunk(parts=parts):
            return tuple(p if p.form.columns else p.loop for p in parts)
        case Chunk(form=form) if not form.columns:
            return (stage.loop,)
        case _:
            return (stage,)
