"""Every legal schedule of every system of the zoo gives what the definition gives, at lengths from none to thousands.

**The bounds.** Both sides see the same values, which float32 holds. In float64 `1e-9 (1 + |ref|)`. In float32, relative
to the largest reference value, `1e-6 (1 + log2 T)` for loops, scans and convolutions and `5e-6` by chunks of steps;
ten times that where a chunk solves a triangular system (its inverse has entries of the size of the keys' condition);
2e-6 more by Newton's method, whose last guess may be off by 1e-6 (1 + |ref|). These hold where the system forgets
its errors and nothing cancels.

Where it does not, rounding itself says how far results may be apart: the definition runs three times more with every
operation rounded to float32 at random (`tests.numerics.rounding`), and the largest deviation of these runs, times 4,
is allowed as well; 2^-29 of it in float64. A schedule is one more such run, in another order; 4, because elementary
functions are good to two units in the last place where a sampled operation rounds within one, and because the largest
of three samples is within a factor of two of the largest of many. The rule is the same for all systems.

A choice between two numbers as near as rounding (of two ways into a state, when scores are in the thousands) is not
determined in float32: integers are compared where none of twelve rounded runs has another (three miss one step in four
that a further run turns), which must be 99 % of the steps; in float64 everywhere.

Systems that are chaotic at the values drawn, named in `AMPLIFIES`, double every error in a few steps; no two orders of
operations agree for long. They are compared as long as the rounded runs stay within 1 % of the largest value so
far, and no other system may leave that.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends import reference
from tests.numerics import rounding
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

STEPS = (0, 1, 2, 3, 7, 64, 257, 4096)
SHORT = STEPS[:-2]
SOME = [*(("numpy", pick) for pick in range(6)), ("cpu", 0), ("cpu", 1)]
# At the values drawn: random networks whose recurrent weights are far from small, and least squares that forget, whose
# covariance is a difference that loses its symmetry (the classical instability of that form). And a choice among keys
# that follow what they attract: over thousands of steps two of them are once as near as rounding tells apart.
AMPLIFIES = ("conv_gru", "dnc", "key_value_bottleneck_ema", "recursive_least_squares")
Arrays = dict[str, np.ndarray]


def legal(rec: recurc.Recurrence) -> list[str]:
    """Every schedule that some group may have, asked for or not."""
    groups = rec.analyze().groups
    return sorted({s for g in groups for s in (*g.schedules, *g.on_request)}) or ["auto"]


def usual(rec: recurc.Recurrence, schedule: str, steps: int, ref: np.ndarray) -> float:
    """What float32 may be off by where the system forgets its errors."""
    scale = float(np.abs(ref[np.isfinite(ref)]).max(initial=0.0))
    loop = 1e-6 * (1 + math.log2(max(steps, 1))) * scale
    match schedule:
        case "chunkwise":
            solves = any(g.low_rank is not None and g.low_rank.corrects for g in rec.analyze().groups)
            return max(loop, 5e-6 * scale * (10 if solves else 1))
        case "newton":
            return loop + 2e-6 * (1 + scale)
        case _:
            return loop


def agree(
    rec: recurc.Recurrence, backend: str, schedule: str, steps: int, arrays: Arrays, run: rounding.Run,
    sizes: dict[str, int] | None = None, amplifies: bool = False, reals: tuple[str, ...] = ("f64", "f32"),
    reverse: bool = False,
) -> None:  # fmt: skip
    """In float64 and in float32, outputs and final states. With `reverse`, a call that goes backwards in time; `arrays`
    and `run` are in the order in which steps are taken, and may have initial states `NAME@initial`."""
    compiled = rec.compile(backend=backend, schedule=schedule, sizes=sizes)
    exact = {n: _by_time(a if rec.ir.inputs else a[0], rec, n) for n, a in run.exact.items()}
    outputs = np.max([_sizes(exact[o]) for o in rec.ir.outputs], axis=0)
    for real in reals:
        types: Any = {"f64": (np.float64, np.complex128), "f32": (np.float32, np.complex64)}[real]
        typed = {n: a.astype(types[a.dtype.kind == "c"]) if a.dtype.kind in "fc" else a for n, a in arrays.items()}
        if reverse:
            typed |= {i.name: typed[i.name][:, ::-1] for i in rec.ir.inputs}
        initial = {n.removesuffix("@initial"): typed.pop(n) for n in [*typed] if n.endswith("@initial")}
        options: dict[str, Any] = {"reverse": reverse} | ({} if rec.ir.inputs else {"steps": steps})
        out, final = compiled(**typed, initial=initial, return_final=True, **options)
        found = dict(zip(rec.ir.outputs, cases.several(out), strict=True))
        if reverse:
            found = {n: np.flip(a, rec.ir.inputs != ()) for n, a in found.items()}
        found |= {f"{s.name}@final": final[s.name] for s in rec.ir.states}
        for value, made in found.items():
            have, want = _by_time(np.asarray(made), rec, value), exact[value]
            what = f"{rec.ir.name} on {backend} by {schedule}, T {steps}, {real}: {value}"
            assert have.shape == want.shape, f"{what} has shape {have.shape}, expected {want.shape}"
            if want.dtype.kind in "bi" and not amplifies:
                moved = run.spread[value] > 0
                assert moved.sum() <= 1e-2 * len(want), f"{what}: rounding alone moves {moved.sum()} of {len(want)}"
                sure = ~moved if real == "f32" else np.full(len(want), True)
                np.testing.assert_array_equal(have[sure], want[sure], err_msg=what)
                continue
            known = _known(want, run.spread[value], outputs)
            assert known == len(want) or amplifies, f"{what}: rounding alone moves it at step {known}"
            spread = float(run.spread[value][:known].max(initial=0.0))
            _same(have[:known], want[:known], spread, usual(rec, schedule, steps, want[:known]), real, what)


def _by_time(value: np.ndarray, rec: recurc.Recurrence, name: str) -> np.ndarray:
    """`(T, ...)`; a final state is one step."""
    return value[np.newaxis] if "@" in name else np.moveaxis(value, 1, 0) if rec.ir.inputs else value


def _sizes(value: np.ndarray) -> np.ndarray:
    """The largest value up to each step."""
    size = np.where(np.isfinite(value), np.abs(value), 0.0).max(axis=tuple(range(1, value.ndim)), initial=0.0)
    return np.maximum.accumulate(size)


def _known(want: np.ndarray, spread: np.ndarray, outputs: np.ndarray) -> int:
    """How many steps rounding leaves as they are: within 1 % of the largest value so far, and no integer another. What
    is next to nothing may be a difference of numbers as large as the `outputs` (`_sizes`), which each rounding moves by
    up to a unit in the last place, 2^-23 of them: four of those."""
    if want.dtype.kind in "bi":
        moved = spread > 0
    else:
        near = outputs[-1:] if len(want) == 1 else outputs
        moved = spread > np.maximum(1e-2 * _sizes(want), np.maximum(1e-5, 4 * 2.0**-23 * near))
    return int(moved.argmax()) if moved.any() else len(want)


def _same(have: np.ndarray, want: np.ndarray, spread: float, room: float, real: str, what: str) -> None:
    if want.dtype.kind in "bi":
        np.testing.assert_array_equal(have, want, err_msg=what)
        return
    finite = np.isfinite(want)
    np.testing.assert_array_equal(have[~finite], want[~finite].astype(have.dtype), err_msg=f"{what}: inf and NaN")
    error = np.abs(have[finite].astype(np.complex128) - want[finite])
    if real == "f32":
        allowed: Any = max(room, 4 * spread)
    else:
        allowed = np.maximum(1e-9 * (1 + np.abs(want[finite])), 4 * spread * 2.0**-29)
    assert np.all(error <= allowed), f"{what} is off by {error.max():.1e}; allowed {np.max(allowed):.1e}"


@lru_cache(maxsize=2)
def _case(seed: int, name: str, steps: int) -> tuple[Arrays, rounding.Run]:
    """Values for a system of the zoo and what the definition makes of them, once for all backends; over seven steps
    that is also what the loop over the equations of its paper makes of them."""
    rng, rec, sizes = cases.generator(seed, name, steps), cases.load(name), ORACLES[name].sizes
    inputs, params = cases.draw(name, rng, steps)
    batch = cases.BATCH if inputs else 1
    run = rounding.run(rec.ir, inputs | params, batch, steps, rng, sizes)
    choices = [n for n, v in run.exact.items() if v.dtype.kind in "bi"]
    if choices:
        more = rounding.run(rec.ir, inputs | params, batch, steps, rng, sizes, samples=12)
        run = rounding.Run(run.exact, run.spread | {n: more.spread[n] for n in choices})
    if steps == 7:
        outputs = [run.exact[o] if inputs else run.exact[o][0] for o in rec.ir.outputs]
        wanted = cases.looped(name, inputs, params, steps)
        cases.check(name, tuple(outputs) if len(outputs) > 1 else outputs[0], wanted, f"the definition, T {steps}")
    return inputs | params, run


def _alike(name: str, backend: str, steps: int, seed: int) -> None:
    rec, sizes = cases.load(name), dict(ORACLES[name].sizes)
    for schedule in legal(rec):
        agree(rec, backend, schedule, steps, *_case(seed, name, steps), sizes, name in AMPLIFIES)


@pytest.mark.parametrize(("backend", "pick"), SOME, indirect=["backend"])
def test_systems_drawn_by_the_seed_by_every_legal_schedule(backend: str, pick: int, session_seed: int) -> None:
    """The sweep has all systems and lengths. Fewer in native code, which has to be built."""
    name = str(np.random.default_rng(session_seed).permutation(cases.NAMES)[pick])
    for steps in SHORT if backend == "numpy" else SHORT[-2:]:
        _alike(name, backend, steps, session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)  # first, so that it changes with every test
@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_every_system_by_every_legal_schedule(name: str, steps: int, backend: str, session_seed: int) -> None:
    _alike(name, backend, steps, session_seed)


@pytest.mark.parametrize("name", ["bidirectional_rnn", "cusum", "episodic_lstm", "mamba3", "past_time_logic", "s5"])
def test_a_definition_in_parts_is_the_definition(name: str, rng: np.random.Generator) -> None:
    """With final states, a reset, flags, complex numbers. Wider batches may sum in another order: 1e-12."""
    rec, steps, sizes = cases.load(name).ir, 6, ORACLES[name].sizes
    inputs, params = cases.draw(name, rng, steps)
    want = reference.run(rec, inputs | params, cases.BATCH, steps, sizes)
    found = rounding.run(rec, inputs | params, cases.BATCH, steps, rng, sizes).exact
    assert set(found) <= set(want)
    for value, exact in found.items():
        assert exact.dtype == want[value].dtype
        np.testing.assert_allclose(exact, want[value], rtol=1e-12, atol=1e-12, err_msg=value)


def test_rounding_alone_tells_a_system_that_forgets_from_chaos(rng: np.random.Generator) -> None:
    """At r = 4 the logistic map doubles an error at every step: after 40 no digit of float32 is left. At r = 2.5 it
    settles. And a sum of halves is exact, however it is rounded."""
    rec, steps = cases.load("logistic_map").ir, 40
    found = {r: rounding.run(rec, {"r": np.full((2, steps, 3), r)}, 2, steps, rng).spread["x"] for r in (2.5, 4.0)}
    assert found[2.5][-1] < 2e-6
    assert found[4.0][9] < 1e-3 and found[4.0][-1] > 1e-2
    sums = {"a": np.ones((2, steps, 3)), "b": rng.integers(-9, 9, (2, steps, 3)) / 2}
    exact = rounding.run(cases.load("diagonal_affine").ir, sums, 2, steps, rng).spread
    assert not exact["h"].any() and not exact["h@final"].any()
