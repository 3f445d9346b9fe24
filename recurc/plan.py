"""What a backend is given: stages over named buffers, on one page.

A stage body is a list of equations in an order in which each reads only earlier ones, carries and buffers.
A `Read` in a body means, in this order: a value the body defines (lag 0); a carry (lag 1: the value before this
step; lag 0: its new value, which the body's equation of that name defines); a buffer. A buffer with a time axis
read at lag 1 means the element one step before, and at the first step the buffer `NAME@initial`.
Only lags 0 and 1 occur: the expand pass turns longer ones into chains of states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from recurc.facts import Analysis, Monoid, Reason
from recurc.ir import Contract, Equation, Recurrence
from recurc.types import Dims, DType


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


Stage = Map | Matmul | Loop | Scan


@dataclass(frozen=True, slots=True)
class Candidate:
    """A schedule that was weighed: its estimated cost, and why it won or lost."""

    schedule: str
    seconds: float
    bytes_moved: float
    flops: float
    reason: str
    chosen: bool = False


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
