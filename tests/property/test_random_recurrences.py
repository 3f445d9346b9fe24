"""Whatever recurrence one writes, every schedule on every backend means what the definition says, and its texts
read back to it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recurc import passes, targets
from recurc.backends import plan_numpy, reference
from recurc.backends.base import Backend, Specialization
from recurc.errors import UnsupportedError
from recurc.ir import Recurrence
from recurc.irtext import parse, plan_to_text, to_text
from recurc.passes.complex_parts import split_complex
from recurc.plan import Plan, Role
from recurc.types import DType
from tests.property import random_recurrences

SPEC = tuple(sorted(random_recurrences.SIZES.items()))
BATCH, STEPS = 3, 11


def _schedules(rec: Recurrence) -> list[str]:
    """`auto`, and each legal schedule wherever it is legal."""
    legal = [(g.states, (*g.schedules, *g.on_request)) for g in passes.analyze(rec).groups]
    names = sorted({n for _, schedules in legal for n in schedules})
    forced = [",".join(f"{s}={n}" for states, schedules in legal if n in schedules for s in states) for n in names]
    return ["auto", *forced]


def _run(
    backend: Backend, plan: Plan, real: DType, given: dict[str, np.ndarray], starts: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    dtype, sizes = real.to_numpy(), random_recurrences.SIZES
    shape = lambda dims: tuple(int(d) if d.isdigit() else sizes[d] for d in dims)  # noqa: E731
    buffers = {n: np.broadcast_to(a.astype(dtype), (BATCH, *a.shape[1:])) for n, a in given.items()}
    results: dict[str, np.ndarray] = {}
    for b in plan.buffers:
        match b.role:
            case Role.INITIAL:
                buffers[b.name] = np.broadcast_to(starts[b.name].astype(dtype), (BATCH, *shape(b.dims))).copy()
            case Role.OUTPUT:
                results[b.name] = np.full((BATCH, STEPS, *shape(b.dims)), np.nan, dtype)
            case Role.FINAL:
                results[b.name] = np.full((BATCH, *shape(b.dims)), np.nan, dtype)
            case _:
                pass
    backend.build(plan, Specialization(SPEC, real))(buffers | results, BATCH, STEPS)
    return results


def _starts(plan: Plan, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The declared values before the first step, of the plan's core states and inputs."""
    wide = {(n, 0): a.astype(np.float64) for n, a in given.items()}
    rec = plan.recurrence
    declared = {f"{s.name}@initial": s.initial for s in rec.states}
    declared |= {f"{i.name}@initial": i.before for i in rec.inputs if i.before is not None}
    shapes = {b.name: len(b.dims) for b in plan.buffers if b.role is Role.INITIAL}
    values = {n: reference.evaluate(declared[n], wide, dict(SPEC)) for n in shapes}
    return {n: v.reshape(v.shape + (1,) * (1 + shapes[n] - v.ndim)) for n, v in values.items()}


def _agree(seed: int, backend: Backend, reals: tuple[DType, ...]) -> int:
    rec = random_recurrences.make(seed)
    given = random_recurrences.arrays(rec, np.random.default_rng(seed), BATCH, STEPS)
    ref = reference.run(rec, {n: a.astype(np.float64) for n, a in given.items()}, BATCH, STEPS, dict(SPEC))
    checked = 0
    for schedule in _schedules(rec):
        for real in reals:
            plan = passes.make_plan(rec, dict(SPEC), BATCH, STEPS, real, targets.named("cpu"), schedule)
            try:
                plan = split_complex(plan, real) if backend.real_only else plan
            except UnsupportedError as limit:
                assert "newton" in plan.schedules and "complex numbers" in str(limit), limit
                continue
            limits = backend.limitations(plan, Specialization(SPEC, real))
            if limits:
                assert all(isinstance(words, str) and words for words in limits)
                continue
            found = _run(backend, plan, real, given, _starts(plan, given))
            for name, have in found.items():
                if name not in ref:
                    continue  # a state the expand pass added for a longer lag
                room = 1e-10 if real is DType.F64 else 4e-6 * (1 + math.log2(STEPS))
                error = np.abs(have - ref[name]) / (1 + np.abs(ref[name]))
                same = np.isfinite(have) | (have == ref[name]) | (np.isnan(have) & np.isnan(ref[name]))
                assert same.all(), f"seed {seed}, {schedule}, {real!r}: {name} is not finite\n{to_text(rec)}"
                worst = float(np.nanmax(error, initial=0.0))
                assert worst < room, f"seed {seed}, {schedule}, {real!r}: {name} off by {worst:.1e}\n{to_text(rec)}"
                checked += 1
    return checked


def test_random_recurrences_mean_the_same_by_every_schedule(seed: int) -> None:
    assert sum(_agree(seed % 10**6 + k, plan_numpy.BACKEND, (DType.F64,)) for k in range(60)) > 100


def test_random_recurrences_mean_the_same_in_c(seed: int) -> None:
    from recurc.backends.cpu import BACKEND

    reason = BACKEND.unavailable()
    if reason:
        pytest.skip(reason)
    assert sum(_agree(seed % 10**6 + k, BACKEND, (DType.F64, DType.F32)) for k in range(4)) > 4


# Each was wrong once: values for each `D'1` read along lanes `D`; packed weights that are computed once per call.
@pytest.mark.parametrize("drawn", [2003, 5044])
def test_random_recurrences_that_were_wrong_in_c(drawn: int) -> None:
    from recurc.backends.cpu import BACKEND

    reason = BACKEND.unavailable()
    if reason:
        pytest.skip(reason)
    assert _agree(drawn, BACKEND, (DType.F64, DType.F32)) > 0


@pytest.mark.slow
def test_many_random_recurrences_mean_the_same_in_c(seed: int) -> None:
    from recurc.backends.cpu import BACKEND

    reason = BACKEND.unavailable()
    if reason:
        pytest.skip(reason)
    assert sum(_agree(seed % 10**6 + k, BACKEND, (DType.F64, DType.F32)) for k in range(60)) > 60


def test_random_recurrences_survive_the_text_of_the_ir(seed: int) -> None:
    for k in range(60):
        rec = random_recurrences.make(seed % 10**6 + k)
        assert parse(to_text(rec)) == rec
        core = passes.core_form(rec)
        assert parse(to_text(core)) == core


def test_random_recurrences_survive_their_source_text(seed: int) -> None:
    """IR -> .rec -> IR, for what the language can spell (an expression over literal-dim params included)."""
    from recurc.frontend import load_text
    from recurc.frontend.render import to_text as to_rec

    for k in range(40):
        rec = random_recurrences.make(seed % 10**6 + k)
        assert load_text(to_rec(rec), "random.rec") == [rec], to_rec(rec)


def test_plans_of_random_recurrences_print(seed: int) -> None:
    for k in range(20):
        rec = random_recurrences.make(seed % 10**6 + k)
        try:
            plan = passes.make_plan(rec, dict(SPEC), 2, 100, DType.F32, targets.named("sm_90"))
        except UnsupportedError as refused:
            assert str(refused)
            continue
        assert plan_to_text(plan).count("buffer ") == len(plan.buffers)
