"""Random programs from their text to their numbers: every legal schedule, whole, ragged and packed batches, backwards,
step by step, in two halves, from any strides. The reference, run on each sequence alone, says what is right.

How far off a result may be is measured: the reference runs again on arguments that are a little off, and a result may
move by so many roundings as that moved it. Where a whole number or an infinity comes out otherwise, or the difference
grows without bound, the program decides on a knife's edge and its numbers say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends import reference
from recurc.ir import Step, reads, walk
from recurc.types import DType, literal_size
from tests.property.random_programs import draw

Arrays = dict[str, np.ndarray]
NUDGE = {"f64": 1e-10, "f32": 1e-6}
ROUNDING = {"f64": 2.0**-53, "f32": 2.0**-24}
MODES = ("whole", "reverse", "lengths", "packed", "steps", "halves", "strided", "time first")


@dataclass(frozen=True)
class Drawn:
    """A program with arguments: `inputs (*batch, T, *dims)`, `params (*dims)`, `initial (*batch, *dims)`."""

    seed: int
    rec: recurc.Recurrence
    sizes: dict[str, int]
    batch: tuple[int, ...]
    steps: int
    inputs: Arrays
    params: Arrays
    initial: Arrays

    @property
    def remembers(self) -> bool:
        """Whether something is read more than one step back, which an initial value of a state alone cannot give."""
        return any(r.lag > 1 for e in self.rec.ir.equations for r in reads(e.expr))


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    match dtype.kind.name:
        case "INT":
            return rng.integers(-3, 6, shape)
        case "BOOL":
            return rng.random(shape) < 0.5
        case _:
            return rng.uniform(-1, 1, shape).astype(np.float32).astype(np.float64)


def _drawn(seed: int) -> Drawn:
    text, sizes = draw(seed)
    rng, rec = np.random.default_rng(seed), recurc.load(text=text)
    batch: tuple[int, ...] = ((), (1,), (3,), (2, 2))[int(rng.integers(4))]
    steps = int(rng.choice([1, 2, 3, 7, 20, 40]))

    def some(signatures: Mapping[str, Any], lead: tuple[int, ...]) -> Arrays:
        shapes = {n: tuple(literal_size(d) or sizes[d] for d in s.dims) for n, s in signatures.items()}
        return {n: _values(rng, (*lead, *shapes[n]), s.dtype) for n, s in signatures.items()}

    found = Drawn(
        seed, rec, sizes, batch, steps,
        some(rec.inputs, (*batch, steps)), some(rec.params, ()), some(rec.states, batch),
    )  # fmt: skip
    return replace(found, initial={}) if found.remembers or rng.random() < 0.4 else found


def _alone(case: Drawn, inputs: Arrays, params: Arrays, initial: Arrays) -> Arrays:
    """The reference on one sequence `(T, *dims)`."""
    arrays = {n: a[None] for n, a in inputs.items()} | params
    arrays |= {f"{n}@initial": a[None] for n, a in initial.items()}
    steps = next(iter(inputs.values())).shape[0]
    found = reference.run(case.rec.ir, arrays, 1, steps, case.sizes)
    return {n: a[0] for n, a in found.items() if "@lag" not in n}


def _expected(case: Drawn, mode: str, cuts: list[int], nudge: float) -> Arrays:
    """What the call of `_called` should give, one sequence at a time, on arguments off by `nudge`."""
    rng = np.random.default_rng(case.seed)

    def moved(arrays: Arrays) -> Arrays:
        return {
            n: a * (1 + nudge * rng.uniform(-1, 1, a.shape)) if a.dtype.kind == "f" else a for n, a in arrays.items()
        }

    inputs, params, initial = moved(case.inputs), moved(case.params), moved(case.initial)
    if mode == "packed":
        parts = [_alone(case, {n: a[i:j] for n, a in inputs.items()}, params, {}) for i, j in pairwise(cuts)]
        return {n: (np.stack if n.endswith("@final") else np.concatenate)([p[n] for p in parts]) for n in parts[0]}
    back, rows = slice(None, None, -1 if mode == "reverse" else 1), list[Arrays]()
    flat = int(np.prod(case.batch, dtype=int))
    for b in range(flat):
        length = cuts[b] if mode == "lengths" else case.steps
        own = {n: a.reshape(flat, *a.shape[len(case.batch) :])[b][:length][back] for n, a in inputs.items()}
        start = {n: a.reshape(flat, *a.shape[len(case.batch) :])[b] for n, a in initial.items()}
        row = _alone(case, own, params, start)
        for name in set(case.rec.ir.outputs):
            full = np.zeros((case.steps, *row[name].shape[1:]), row[name].dtype)
            full[:length] = row[name][back]
            row[name] = full
        rows.append(row)
    return {n: np.stack([r[n] for r in rows]).reshape((*case.batch, *rows[0][n].shape)) for n in rows[0]}


def _strided(array: np.ndarray) -> np.ndarray:
    if array.ndim == 0:
        return array
    wide = np.zeros([2 * n for n in array.shape], array.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _called(case: Drawn, mode: str, cuts: list[int], real: str, **options: Any) -> Arrays:
    dtype, axis, outputs = {"f64": np.float64, "f32": np.float32}[real], len(case.batch), case.rec.ir.outputs

    def typed(arrays: Arrays) -> Any:
        cast = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in arrays.items()}
        return {n: _strided(a) for n, a in cast.items()} if mode == "strided" else cast

    def named(result: Any) -> Arrays:
        return {outputs[0]: result} if len(outputs) == 1 else dict(zip(outputs, result, strict=True))

    inputs, params, initial = typed(case.inputs), typed(case.params), typed(case.initial)
    layout = "TB" if mode == "time first" else "BT"
    f = case.rec.compile(sizes=case.sizes, layout=layout, **options)
    if mode == "steps":
        state: Any = f.init_state(batch=case.batch, dtype=dtype, **params) | initial
        each: list[Arrays] = []
        for t in range(case.steps):
            y, state = f.step(state, **{n: a.take(t, axis) for n, a in inputs.items()}, **params)
            each.append(named(y))
        finals = {n: a for n, a in state.items() if n in case.rec.states}
        return {n: np.stack([y[n] for y in each], axis) for n in each[0]} | {f"{n}@final": a for n, a in finals.items()}
    if mode == "halves":
        half, parts, final = case.steps // 2, list[Arrays](), initial
        for part in (range(half), range(half, case.steps)):
            y, final = f(
                **{n: a.take(part, axis) for n, a in inputs.items()}, **params, initial=final, return_final=True
            )
            parts.append(named(y))
        results = {n: np.concatenate([p[n] for p in parts], axis) for n in parts[0]}
        return results | {f"{n}@final": a for n, a in final.items() if n in case.rec.states}
    how: dict[str, Any] = {"reverse": mode == "reverse", "initial": initial}
    if mode == "time first":
        inputs = {n: np.moveaxis(a, axis, 0) for n, a in inputs.items()}
    if mode == "lengths":
        how["lengths"] = np.array(cuts).reshape(case.batch)
    if mode == "packed":
        how = {"cu_seqlens": np.array(cuts)}
    y, final = f(**inputs, **params, return_final=True, **how)
    results = {n: np.moveaxis(a, 0, axis) if mode == "time first" else a for n, a in named(y).items()}
    return results | {f"{n}@final": a for n, a in final.items() if n in case.rec.states}


def _check(seed: int, backend: str, reals: tuple[str, ...] = ("f64", "f32")) -> int:
    """How many results were compared."""
    case = _drawn(seed)
    text = draw(seed)[0]
    assert recurc.load(text=case.rec.to_text()).ir == case.rec.ir, text
    rng = np.random.default_rng([seed, 1])
    modes = [m for m in MODES if not (m == "packed" and case.batch) and not (m == "lengths" and not case.batch)]
    if any(isinstance(node, Step) for e in case.rec.ir.equations for node in walk(e.expr)):
        modes = [m for m in modes if m not in ("steps", "halves")]  # each call counts t from 0
    mode = str(rng.choice(modes))
    if mode == "packed":
        cuts = sorted([0, case.steps, *(int(c) for c in rng.integers(0, case.steps + 1, 2))])
    else:
        cuts = [int(n) for n in rng.integers(0, case.steps + 1, max(1, int(np.prod(case.batch, dtype=int))))]
    want = _expected(case, mode, cuts, 0.0)
    compared = 0
    schedules = sorted({s for g in case.rec.analyze().groups for s in g.schedules})
    for real in reals:
        nudged = _expected(case, mode, cuts, NUDGE[real])
        for schedule in schedules:
            have = _called(case, mode, cuts, real, backend=backend, schedule=schedule)
            what = f"seed {seed}, {mode} {cuts}, {real}, {schedule} on {backend}, T {case.steps}, {case.batch}\n{text}"
            compared += sum(_near(have[n], want[n], nudged[n], real, f"{n}: {what}") for n in have)
    return compared


def _near(have: np.ndarray, want: np.ndarray, nudged: np.ndarray, real: str, what: str) -> bool:
    """Whether the result says something; fails if it says something wrong."""
    assert have.shape == want.shape, what
    if want.dtype.kind in "bi":
        stable = np.array_equal(want, nudged)
        assert not stable or np.array_equal(have, want), what
        return stable
    finite = np.isfinite(want)
    largest = float(np.max(np.abs(want[finite]), initial=0.0))
    if not np.array_equal(finite, np.isfinite(nudged)) or (real == "f32" and largest > 1e30):
        return False
    growth = float(np.max(np.abs(want[finite] - nudged[finite]), initial=0.0)) / NUDGE[real]
    if growth * NUDGE[real] > 1e-3 * (1 + largest):
        return False
    # About a thousand roundings, of which the nudge of every argument stands for one.
    room = 1000 * ROUNDING[real] * (1 + largest + growth)
    np.testing.assert_array_equal(have[~finite], want[~finite], err_msg=what)
    worst = float(np.max(np.abs(have[finite].astype(np.float64) - want[finite]), initial=0.0))
    assert worst <= room, f"off by {worst:.1e}, allowed {room:.1e}: {what}"
    return True


def test_random_programs_mean_what_the_reference_says(seed: int) -> None:
    assert sum(_check(seed % 10**6 + k, "numpy") for k in range(40)) > 60


@pytest.fixture
def native() -> str:
    from recurc.backends.cpu import BACKEND

    reason = BACKEND.unavailable()
    if reason:
        pytest.skip(reason)
    return "cpu"


def test_random_programs_mean_the_same_in_c(seed: int, native: str) -> None:
    assert sum(_check(seed % 10**6 + k, native, ("f64",)) for k in range(3)) >= 0


@pytest.mark.slow
def test_many_random_programs_mean_the_same(seed: int) -> None:
    assert sum(_check(seed % 10**6 + k, "numpy") for k in range(600)) > 600


@pytest.mark.slow
def test_many_random_programs_mean_the_same_in_c(seed: int, native: str) -> None:
    assert sum(_check(seed % 10**6 + k, native, ("f64", "f32")[k % 2 : k % 2 + 1]) for k in range(60)) > 60
