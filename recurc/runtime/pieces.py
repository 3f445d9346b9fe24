"""Plans that need a library between kernels: native pieces before and after each `Convolution`, which NumPy runs.

A backend that prints C has no fast Fourier transform, and a well-kept library has a better one than we would write. So
a plan is cut where a convolution stands. What one piece makes and another reads becomes an output of the one and an
input of the other, in memory that is made for the call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recurc.backends.base import Arrays, Backend, Kernel, Specialization
from recurc.backends.plan_numpy import PlanKernel
from recurc.backends.storage import loaded, store
from recurc.errors import UnsupportedError
from recurc.ir import Equation, Read, reads
from recurc.passes.complex_parts import split_complex
from recurc.passes.lower import OUT, stage_reads
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Buffer, Chunk, Convolution, Frozen, Loop, Map, Newton, Plan, Role, Scan, Stage
from recurc.runtime.memory import empty
from recurc.types import DType

_HALF = (DType.F16, DType.BF16)
_KEEPING = Loop | Scan | Chunk | Newton | Convolution | Frozen


def needs_library(plan: Plan) -> bool:
    """Whether a stage of the plan is a library's business."""
    return any(isinstance(s, Convolution) for s in plan.stages)


def build_pieces(backend: Backend, plan: Plan, spec: Specialization) -> PiecedKernel:
    """The plan as a kernel of pieces, the native ones built by `backend`. Raises what building raises.

    Half precisions are kept in float32 between the pieces, as a kernel of one piece keeps them."""
    inside = replace(spec, real=spec.real.accumulator)
    made: list[tuple[Plan, Kernel]] = []
    for piece in cut(plan):
        if needs_library(piece):
            made.append((piece, PlanKernel(piece, inside, _StepByStep(backend, piece, inside))))
        else:
            made.append((piece, _native(backend, piece, inside)))
    return PiecedKernel(plan, spec, made)


def _native(backend: Backend, piece: Plan, spec: Specialization) -> Kernel:
    real = split_complex(piece, spec.real) if backend.real_only else piece
    limits = backend.limitations(real, spec)
    if limits:
        raise UnsupportedError("; ".join(limits))
    return backend.build(real, spec)


class _StepByStep:
    """The loop a convolution stands for, for numbers that a transform would spoil; built when first needed."""

    def __init__(self, backend: Backend, piece: Plan, spec: Specialization) -> None:
        self.source: dict[str, str] = {}
        self._backend, self._piece, self._spec = backend, piece, spec
        self._kernel: Kernel | None = None

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        if self._kernel is None:
            stages = tuple(s.loop if isinstance(s, Convolution) else s for s in self._piece.stages)
            self._kernel = _native(self._backend, replace(self._piece, stages=stages), self._spec)
        self._kernel(arrays, batch, steps)


@dataclass(frozen=True)
class _Crossing:
    """A value that one piece makes and another reads."""

    shape: tuple[int, ...]
    dtype: DType


class PiecedKernel:
    """Runs pieces one after the other. Called as `backends.base.Kernel` says."""

    def __init__(self, plan: Plan, spec: Specialization, pieces: list[tuple[Plan, Kernel]]) -> None:
        self.source: dict[str, str] = {}
        for _, kernel in pieces:
            self.source |= kernel.source
        self._pieces = [([b.name for b in piece.buffers if _external(b)], kernel) for piece, kernel in pieces]
        inside = replace(spec, real=spec.real.accumulator)
        given = {b.name for b in plan.buffers if _external(b)}
        self._crossing = {
            b.name: _Crossing(tuple(spec.size(d) for d in b.dims), inside.dtype(b.dtype))
            for piece, _ in pieces
            for b in piece.buffers
            if _external(b) and b.name not in given
        }
        self._half = {
            b.name: b.role in (Role.OUTPUT, Role.FINAL)
            for b in plan.buffers
            if _external(b) and spec.real in _HALF and b.dtype is DType.REAL
        }

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        known = dict(arrays)
        for name, is_result in self._half.items():
            array = arrays[name]
            known[name] = np.empty(array.shape, np.float32) if is_result else loaded(array).astype(np.float32)
        for name, value in self._crossing.items():
            known[name] = empty((batch, steps, *value.shape), value.dtype.to_numpy())
        for names, kernel in self._pieces:
            kernel({n: known[n] for n in names}, batch, steps)
        for name, is_result in self._half.items():
            if is_result:
                store(arrays[name], known[name])


def _external(buffer: Buffer) -> bool:
    return buffer.role not in (Role.ONCE, Role.SEQUENCE)


# --- cutting --------------------------------------------------------------------------------------------------------


def cut(plan: Plan) -> list[Plan]:
    """The pieces of a plan in order, each a plan of its own; every convolution is one."""
    once = [s for s in plan.stages if _is_once(s)]
    runs: list[list[Stage]] = []
    for stage in (s for s in plan.stages if not _is_once(s)):
        if runs and not isinstance(stage, Convolution) and not isinstance(runs[-1][-1], Convolution):
            runs[-1].append(stage)
        else:
            runs.append([stage])
    read_by = [{r.name for r in _reads(run)} for run in runs]
    found: list[Plan] = []
    for k, run in enumerate(runs):
        elsewhere = set[str]().union(*(names for j, names in enumerate(read_by) if j != k))
        found.append(_piece(plan, k, [*_pruned(once, read_by[k]), *run], elsewhere))
    return found


def _is_once(stage: Stage) -> bool:
    return isinstance(stage, Map) and not stage.over_time


def _reads(stages: list[Stage]) -> list[Read]:
    """What the stages read that is not made in the same stage."""
    return [
        r for s in stages for own in [{e.name for e in s.body}] for r in stage_reads(s) if r.lag or r.name not in own
    ]


def _pruned(once: list[Stage], wanted: set[str]) -> list[Stage]:
    """What is computed once per call, as far as a piece reads it: each piece computes its own."""
    kept: list[Stage] = []
    wanted = set(wanted)
    for stage in reversed(once):
        assert isinstance(stage, Map)
        writes = tuple(w for w in stage.writes if w in wanted)
        needed, body = set(writes), list[Equation]()
        for equation in reversed(stage.body):
            if equation.name in needed:
                names = {r.name for r in reads(equation.expr)}
                needed |= names
                wanted |= names
                body.append(equation)
        if writes:
            kept.append(Map(tuple(reversed(body)), writes, over_time=False))
    return kept[::-1]


def _piece(plan: Plan, number: int, stages: list[Stage], elsewhere: set[str]) -> Plan:
    """These stages as a plan; `elsewhere` are the names that other pieces read."""
    carried = {c.name for s in stages if isinstance(s, _KEEPING) for c in s.carries}
    made = {w for s in stages for w in s.writes}
    all_reads = _reads(stages)
    read = {r.name for r in all_reads}
    starts = {f"{n}@initial" for n in (*carried, *(r.name for r in all_reads if r.lag))}
    buffers: list[Buffer] = []
    for b in plan.buffers:
        if b.name in made:
            buffers.append(replace(b, role=Role.OUTPUT) if b.role is Role.SEQUENCE and b.name in elsewhere else b)
        elif b.role is Role.FINAL and b.name.removesuffix("@final") in carried:
            buffers.append(b)
        elif (b.role is Role.INITIAL and b.name in starts) or b.name in read:
            role = Role.INPUT if b.has_time else Role.PARAM if b.role is Role.FINAL else b.role
            buffers.append(replace(b, role=role))
    outputs = tuple(b.name.removesuffix(OUT) for b in buffers if b.role is Role.OUTPUT)
    rec = plan.recurrence
    states = tuple(s for s in rec.states if s.name in carried)
    kept = [(g, s) for g, s in zip(plan.analysis.groups, plan.schedules, strict=True) if set(g.states) & carried]
    piece = replace(
        plan,
        recurrence=replace(rec, name=f"{rec.name}{number + 1}", states=states, outputs=outputs),
        analysis=replace(plan.analysis, groups=tuple(g for g, _ in kept)),
        buffers=tuple(buffers),
        stages=tuple(stages),
        schedules=tuple(s for _, s in kept),
    )
    verify_plan(piece)
    return piece


__all__ = ["PiecedKernel", "build_pieces", "cut", "needs_library"]
