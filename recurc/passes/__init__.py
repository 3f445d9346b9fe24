"""The passes, as four questions: the core form of a recurrence, what is true of it, how to run it, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recurc.facts import Analysis
from recurc.ir import Recurrence
from recurc.passes.advice import with_advice
from recurc.passes.backward import Backward, backward
from recurc.passes.bounds import BOUNDS
from recurc.passes.canonicalize import CANONICALIZE, DROP_DEAD, SHARE
from recurc.passes.classify import classify
from recurc.passes.convolution import with_convolution
from recurc.passes.cost import Shape
from recurc.passes.expand import EXPAND
from recurc.passes.filters import FILTERS, without_filters
from recurc.passes.fuse import fuse, side_by_side
from recurc.passes.gauges import Gauge, detached, gauges
from recurc.passes.low_rank import with_products
from recurc.passes.lower import lower
from recurc.passes.manager import Pass, Record, run_passes
from recurc.passes.matrix_adjoint import MatrixAdjoint, matrix_adjoint
from recurc.passes.resets import RESETS
from recurc.passes.schedule import choose, stage_costs
from recurc.passes.stabilize import STABILIZE
from recurc.plan import Plan
from recurc.targets import Target
from recurc.types import DType


def core_form(rec: Recurrence) -> Recurrence:
    """`rec` with core operators and lags 0 and 1 only, canonicalised; the meaning is the same.

    Raises `UnsupportedError` for what has no core form yet."""
    return run_core(rec).result


def run_core(rec: Recurrence, dump_after: Sequence[str] = ()) -> Record:
    """Like `core_form`, with timings and the dumps asked for (see `manager.run_passes`)."""
    return run_passes(rec, core_passes(), dump_after)


def core_passes() -> tuple[Pass, ...]:
    """The pipeline to core form, in order."""
    return (EXPAND, STABILIZE, RESETS, BOUNDS, FILTERS, CANONICALIZE, SHARE, DROP_DEAD)


def analyze(rec: Recurrence, prove: bool = False) -> Analysis:
    """Groups of states, their classes, legal schedules and reasons. `prove` adds a symbolic proof (SymPy, seconds)."""
    return _analysis(core_form(rec), prove)


def _analysis(core: Recurrence, prove: bool) -> Analysis:
    analysis = with_advice(core, with_convolution(core, with_products(core, classify(core))))
    if not prove:
        return analysis
    from recurc.passes.certify import certify  # brings SymPy, which nobody else needs

    return certify(core, analysis)


def matrix_backward(rec: Recurrence, keep: bool) -> MatrixAdjoint | None:
    """The backward pass of `rec` without the value of its matrix memory at every step, if it is one that needs none;
    `keep`: what is costly to make again is saved. Raises `UnsupportedError` for an operation without a derivative."""
    core = core_form(rec)
    if [s.name for s in core.states] != [s.name for s in rec.states]:  # the caller gives and takes those of `rec`
        return None
    return matrix_adjoint(core, lambda rec: _analysis(rec, False), keep)


def backward_pass(
    rec: Recurrence, memory: str, whole: bool = False
) -> tuple[Backward | MatrixAdjoint, tuple[Gauge, ...]]:
    """What a call of `rec` that is differentiated runs backwards, by the policy `memory` ("fast" or "balanced"), and
    the running maxima that it takes for constants; with `whole` one recurrence that reads the states before each step,
    and none of those. Raises `UnsupportedError` for an operation without a derivative."""
    held = () if whole else gauges(rec)
    found = None if whole else matrix_backward(detached(rec, held, moving=True), memory == "fast")
    return found or backward(rec, memory, held), held


def make_plan(
    rec: Recurrence,
    sizes: Mapping[str, int],
    batch: int,
    steps: int,
    real: DType,
    target: Target,
    schedule: str = "auto",
    prove: bool = False,
    without: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for dims of `sizes`, `batch` sequences of `steps` steps, reals stored as `real`, on `target`.

    `schedule`: "auto", a schedule's name, or `h=scan,c=sequential` per state; `without` names schedules that are not
    chosen unless asked for (or `plan.MATRIX_SCAN`), and why. Raises `ScheduleError` (an `UnsupportedError`) for an
    illegal one, naming the reason and the legal ones."""
    core = core_form(rec)
    analysis, core = _analysis(core, prove), without_filters(core)
    shape = Shape(dict(sizes), batch, steps, real.itemsize)
    plan = lower(core, analysis, choose(core, analysis, shape, target, schedule, without), shape)
    plan = fuse(plan, side_by_side(shape))
    return replace(plan, candidates=plan.candidates + stage_costs(plan, shape, target))
