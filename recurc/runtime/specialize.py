"""From a recurrence and the sizes of a call to a kernel: planned, built and checked once, then kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recurc import ir
from recurc.arguments import Settled, check_renames
from recurc.backends.base import Kernel, Specialization
from recurc.errors import BackendError, UnsupportedError
from recurc.passes import resume
from recurc.passes.schedule import ScheduleError
from recurc.passes.stabilize import Stabilized, stabilized_states
from recurc.runtime import choose
from recurc.types import Dims, DType

if TYPE_CHECKING:
    from recurc.facts import Analysis
    from recurc.plan import Plan
    from recurc.targets import Target

STEP = "t"  # among the states of a run: how many steps there were, the index of the next one
_TYPICAL_STEPS = 1024  # what a plan is made for before any call says how long sequences are


@dataclass(frozen=True)
class Value:
    """A value a kernel writes or starts from: dims, and the type the recurrence gives it."""

    dims: Dims
    dtype: DType
    bound: str | None = None  # of an `int(Q)`


@dataclass(frozen=True)
class Built:
    """A kernel with what it was built from. `outputs` maps the recurrence's outputs to kernel buffers."""

    kernel: Kernel
    spec: Specialization
    backend: str
    plan: Plan | None  # None for the reference, which has none
    outputs: Mapping[str, str]
    initial: Mapping[str, Value]  # what the kernel needs a value of before the first step: states, delayed inputs
    finals: tuple[str, ...]  # those whose last value the kernel writes to `NAME@final`
    # States that the kernel holds in two parts, which take their places in `initial` and `finals`.
    stabilized: Mapping[str, Stabilized] = field(default_factory=dict[str, Stabilized])
    target: Target | None = None
    batch: int = 1  # what the plan was weighed for
    steps: int = 1


class Builder:
    """Plans and kernels of one recurrence, cached by sizes, dtype and the order of magnitude of B and T."""

    def __init__(self, rec: ir.Recurrence, backend: str, schedule: str, device: str | None) -> None:
        self._rec, self._backend, self._schedule, self._device = rec, backend, schedule, device
        self._built: dict[object, Built] = {}
        self._checked: set[tuple[tuple[str, int], ...]] = set()  # sizes whose renamed dims agree
        self._initial: dict[object, NDArray[Any]] = {}
        self.announced: dict[str, None] = {}

    @cached_property
    def core(self) -> ir.Recurrence:
        from recurc.passes import core_form

        return core_form(self._rec)

    @cached_property
    def analysis(self) -> Analysis:
        from recurc.passes import analyze

        return analyze(self._rec)

    @cached_property
    def expressions(self) -> dict[str, ir.Expr]:
        """What every continuable value is before the first step."""
        found = {s.name: s.initial for s in self._states}
        found |= {i.name: i.before for i in self._rec.inputs if i.before is not None}
        return found | ({STEP: ir.Const(0, DType.I64)} if self.counts_steps else {})

    @cached_property
    def initial_reads(self) -> dict[str, tuple[str, ...]]:
        """The params that each of those reads; none where the value is a constant."""
        return {name: tuple(dict.fromkeys(r.name for r in ir.reads(e))) for name, e in self.expressions.items()}

    @cached_property
    def continuable(self) -> dict[str, Value]:
        """What a later call can start from: states, what longer lags remember, inputs read one step back, and the
        number of steps so far where `t` is read."""
        found = {s.name: Value(s.dims, s.dtype, s.bound) for s in self._states}
        found |= {i.name: Value(i.dims, i.dtype, i.bound) for i in self._rec.inputs if i.before is not None}
        return found | ({STEP: Value((), DType.I64)} if self.counts_steps else {})

    @cached_property
    def counts_steps(self) -> bool:
        """Whether the recurrence reads `t`, so that a run goes on from a step other than the first."""
        return resume.reads_step(self._rec)

    @cached_property
    def started(self) -> Builder:
        """Kernels whose `t` counts from the argument `t@initial`."""
        return self._variant(resume.started(self._rec))

    @cached_property
    def held(self) -> Builder:
        """Kernels whose states stay as they are from the step on that the argument `T@row` tells."""
        return self._variant(resume.held(self.core))

    def _variant(self, rec: ir.Recurrence) -> Builder:
        made = Builder(rec, self._backend, self._schedule, self._device)
        made.announced = self.announced
        return made

    @cached_property
    def remembered(self) -> dict[str, str]:
        """A value kept for a longer lag -> what it is a delayed copy of."""
        return {name: name.partition("@lag")[0] for name in self.continuable if "@lag" in name}

    @cached_property
    def _states(self) -> tuple[ir.State, ...]:
        """The states a run carries: only lags above 1 need further ones than those of the source."""
        longest = max((r.lag for e in self._rec.equations for r in ir.reads(e.expr)), default=0)
        known = {s.name for s in self._rec.states}
        chains = [s for s in self.core.states if "@lag" in s.name and s.name not in known] if longest > 1 else []
        return (*self._rec.states, *chains)

    def build(self, settled: Settled, on_device: bool) -> Built:
        """The kernel for a call; `BackendError` or `UnsupportedError` if no candidate can run it."""
        batch = _batch(settled)
        key = (settled.sizes, settled.real, on_device, batch.bit_length(), settled.steps.bit_length())
        found = self._built.get(key)
        if found is None:
            check_renames(self._rec, dict(settled.sizes))
            found = choose.first_able(
                self._backend, on_device, lambda name: self._attempt(name, settled, batch), self.announced
            )
            self._built[key] = found
        return found

    def build_held(self, settled: Settled, on_device: bool) -> Built | None:
        """The kernel of `held`; None where it has to be forced into a schedule that is not legal for it, and for the
        reference, which runs nothing but the source's equations."""
        if self._backend == "reference":
            return None
        try:
            return self.held.build(settled, on_device)
        except ScheduleError:
            return None

    def plan_for(self, sizes: Mapping[str, int], real: DType) -> Built:
        """What a call of typical length would run, before there was one."""
        return self.build(Settled(tuple(sorted(sizes.items())), (1,), _TYPICAL_STEPS, real), False)

    def check_schedule(self) -> None:
        """Raises what the scheduler says to a forced schedule that is not legal for any sizes."""
        if self._backend == "reference":
            raise UnsupportedError("the reference has no schedules: it evaluates the equations step by step")
        sizes = {d.name: d.default or 16 for d in self._rec.dims}
        sizes |= {d.name: sizes[d.same_as] for d in self._rec.dims if d.same_as is not None}
        self._plan(sizes, 1, 64, DType.F32, choose.target_for(choose.candidates(self._backend, False)[0], None))

    def _plan(
        self,
        sizes: Mapping[str, int],
        batch: int,
        steps: int,
        real: DType,
        target: Target,
        without: Mapping[str, str] | None = None,
    ) -> Plan:
        from recurc.passes import make_plan

        return make_plan(self._rec, sizes, batch, steps, real, target, self._schedule, without=without)

    def schedules(self, settled: Settled, on_device: bool) -> tuple[str, ...]:
        """The schedules of the groups of states in a call, without building it; none for the reference."""
        name = choose.candidates(self._backend, on_device)[0]
        return () if name == "reference" else self._able(name, settled, _batch(settled))[0].schedules

    def _able(self, name: str, settled: Settled, batch: int) -> tuple[Plan, Plan]:
        """A plan that the backend `name` is able to run, and the form of it that reaches the backend."""
        backend, spec = choose.backend(name), Specialization(settled.sizes, settled.real)
        target, steps = choose.target_for(name, self._device), max(settled.steps, 1)
        try:
            plan, real, limits = choose.able_plan(
                backend, spec, self._schedule,
                lambda without: self._plan(dict(settled.sizes), batch, steps, settled.real, target, without),
                in_pieces=name == "cpu",
            )  # fmt: skip
        except UnsupportedError as reason:
            if isinstance(reason, ScheduleError):
                raise
            raise UnsupportedError(f"the `{name}` backend cannot run {self._rec.name}: {reason}") from reason
        if limits:
            raise UnsupportedError(f"the `{name}` backend cannot run {self._rec.name}: {'; '.join(limits)}")
        return plan, real

    def _attempt(self, name: str, settled: Settled, batch: int) -> Built:
        backend = choose.backend(name)
        reason = backend.unavailable()
        if reason is not None:
            raise BackendError(f"the `{name}` backend cannot run here: {reason}")
        spec = Specialization(settled.sizes, settled.real)
        if name == "reference":
            return self._reference(spec)
        from recurc.runtime.pieces import build_pieces, needs_library

        plan, real = self._able(name, settled, batch)
        target, steps = choose.target_for(name, self._device), max(settled.steps, 1)
        twin = next((b for b in self._built.values() if _same(b, name, plan, spec)), None)
        make = build_pieces if name == "cpu" and needs_library(plan) else type(backend).build
        kernel = twin.kernel if twin is not None else make(backend, real, spec)
        inside = stabilized_states(plan.recurrence)
        built = Built(
            kernel, spec, name, plan, _outputs(plan), _initial(plan), _finals(plan), inside, target, batch, steps
        )
        if twin is None and os.environ.get("RECURC_VERIFY", "0") not in ("", "0"):
            from recurc.runtime.verify import verify

            verify(self._rec, built, choose.takes_tensors(name), self.default_initial)
        return built

    def _reference(self, spec: Specialization) -> Built:
        from recurc.backends.reference import BACKEND

        kernel = BACKEND.build_recurrence(self._rec, spec)
        states = tuple(s.name for s in self._states)
        inputs = {i.name for i in self._rec.inputs}
        outputs = {o: f"{o}@out" if o in inputs else o for o in self._rec.outputs}
        return Built(kernel, spec, "reference", None, outputs, self.continuable, states)

    def default_initial(self, name: str, spec: Specialization, params: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The value of a state before the first step, `(1 or B, *dims)` as stored.

        `params` holds those it reads, `(1 or B, *dims)` in host memory, as stored."""
        from recurc.backends.evaluator import Evaluator, Frame
        from recurc.backends.storage import bf16_bits, loaded
        from recurc.runtime.host import storage

        expr = self.expressions[name]
        reads = self.initial_reads[name]
        if not reads and (name, spec) in self._initial:
            return self._initial[name, spec]
        if spec.sizes not in self._checked:
            check_renames(self._rec, dict(spec.sizes))
            self._checked.add(spec.sizes)
        value, evaluator = self.continuable[name], Evaluator(spec)
        frame = Frame(
            {(p, 0): loaded(params[p])[:, np.newaxis].astype(evaluator.dtype(self._param_dtype(p))) for p in reads}
        )
        with np.errstate(all="ignore"):
            result = evaluator.aligned(expr, value.dims, full=True)(frame)[:, 0]
        dtype = spec.dtype(value.dtype)
        stored = bf16_bits(result) if dtype is DType.BF16 else np.ascontiguousarray(result, storage(dtype))
        if not reads:
            self._initial[name, spec] = stored
        return stored

    def _param_dtype(self, name: str) -> DType:
        return next(p.dtype for p in self._rec.params if p.name == name)


def _batch(settled: Settled) -> int:
    """How many sequences a plan is made for: at least one."""
    return max(int(np.prod(settled.batch, dtype=np.int64)), 1)


def _same(built: Built, name: str, plan: Plan, spec: Specialization) -> bool:
    """Whether a kernel was already built from this plan (the figures of its candidates aside)."""
    if built.plan is None or built.backend != name or built.spec != spec:
        return False
    return replace(built.plan, candidates=()) == replace(plan, candidates=())


def _outputs(plan: Plan) -> dict[str, str]:
    return {o: f"{o}@out" if plan.has(f"{o}@out") else o for o in plan.recurrence.outputs}


def _initial(plan: Plan) -> dict[str, Value]:
    return {b.name.removesuffix("@initial"): Value(b.dims, b.dtype) for b in plan.buffers if b.role.value == "initial"}


def _finals(plan: Plan) -> tuple[str, ...]:
    return tuple(b.name.removesuffix("@final") for b in plan.buffers if b.role.value == "final")
