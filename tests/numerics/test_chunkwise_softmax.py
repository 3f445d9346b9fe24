"""The chunkwise schedule of sums that a running maximum keeps in range (class OS), against the float64 definition.

**The bounds** are those of `test_chunkwise`, with one more thing to round: a maximum of size M is kept with an error of
u M (u the unit roundoff), and exp makes a relative error of it in every decay and weight. So the float32 bound is
multiplied by 1 + M, for the largest maximum that arises; the loop errs as much."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import zoo
from recurc.backends import plan_numpy, reference
from recurc.backends.base import Specialization
from recurc.errors import UnsupportedError
from recurc.passes import make_plan
from recurc.plan import JointChunk, Loop, Map, Scan
from recurc.targets import named
from recurc.types import DType
from tests.numerics.test_chunkwise import STEPS, Arrays, call, drawn, sizes_of

GAUGED = "S = exp(f + m[t-1] - m) * S[t-1] + exp(i - m) * (k * v)"
# States, equations and the states that go in chunks; inputs as in `own`.
OWN = {
    "weights where they are used": (
        "state m[H] = -inf\n    state S[H, K, V] = 0",
        f"m = max(f + m[t-1], i)\n    {GAUGED}\n    output o = q @ S",
        ("S",),
    ),
    "no decay": (
        "state m[H] = -inf\n    state S[H, K, V] = 0",
        "m = max(m[t-1], i)\n    S = exp(m[t-1] - m) * S[t-1] + exp(i - m) * (k * v)\n    output o = q @ S",
        ("S",),
    ),
    "a maximum for each row": (
        "state m[H, K] = -inf\n    state S[H, K, V] = 0",
        "m = max(r + m[t-1], k)\n    S = exp(r + m[t-1] - m) * S[t-1] + exp(k - m) * v\n    output o = q @ S",
        ("S",),
    ),
    "a maximum for each column": (
        "state m[H, V] = -inf\n    state S[H, K, V] = 0",
        "m = max(c + m[t-1], w)\n    S = exp(c + m[t-1] - m) * S[t-1] + exp(w - m) * k\n    output o = q @ S",
        ("S",),
    ),
    "two matrices and a vector": (
        "state m[H] = -inf\n    state S[H, K, V] = 0\n    state P[H, V, K] = 0\n    state n[H, K] = 0",
        f"m = max(f + m[t-1], i)\n    {GAUGED}\n"
        "    P = exp(m[t-1] + f - m) * P[t-1] + exp(i - m) * (w * r)\n"
        "    n = exp(m[t-1] + f - m) * n[t-1] + exp(i - m) * k\n"
        "    output o = q @ S + w * sum(v * (P @ q), V) / (1 + abs(sum(n * q, K)))",
        ("S", "P"),
    ),
    "one of the matrices is wanted whole": (
        "state m[H] = -inf\n    state S[H, K, V] = 0\n    state P[H, V, K] = 0",
        f"m = max(f + m[t-1], i)\n    {GAUGED}\n"
        "    P = exp(f + m[t-1] - m) * P[t-1] + exp(i - m) * (w * r)\n    output o = q @ S\n    output P",
        ("S",),
    ),
    "read before the update, and by a later state": (
        "state m[H] = -inf\n    state S[H, K, V] = 0\n    state y[H, V] = 0",
        f"m = max(f + m[t-1], i)\n    {GAUGED}\n    y = 0.5 * y[t-1] + tanh(q @ S[t-1])\n    output o = y + q @ S",
        ("S",),
    ),
}  # fmt: skip


def own(what: str) -> recurc.Recurrence:
    states, body, _ = OWN[what]
    inputs = "q[H, K], k[H, K], r[H, K], v[H, V], w[H, V], c[H, V], i[H], f[H]"
    return recurc.load(text=f"recurrence Own(H, K, V):\n    input  {inputs}\n    {states}\n    {body}\n")


def agree(rec: recurc.Recurrence, backend: str, arrays: Arrays, steps: int, what: str) -> None:
    """The chunkwise schedule in float64 and float32 is the definition, outputs and final states."""
    batch = len(next(iter(arrays.values())))
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    ref = reference.run(replace(rec.ir, outputs=tuple(dict.fromkeys((*rec.ir.outputs, "m")))), wide, batch, steps)
    largest = float(np.abs(ref["m"]).max(initial=0.0, where=np.isfinite(ref["m"])))
    compiled = rec.compile(backend=backend, schedule="chunkwise")
    for real in (np.float64, np.float32):
        for name, have in call(rec, arrays, real, compiled).items():
            want = ref[name]
            bound: Any = 1e-9 * (1 + np.abs(want))
            if real is np.float32:
                size = max(1.0, float(np.abs(want).max(initial=0.0, where=np.isfinite(want))))
                bound = 1e-6 * (1 + np.log2(max(steps, 1))) * size * (1 + largest)
            said = f"{what} on {backend}, T {steps}, {real.__name__}: {name}"
            assert have.shape == want.shape and not np.isnan(have).any(), said
            with np.errstate(invalid="ignore"):  # a final maximum may be -inf
                error = np.where(have == want, 0.0, np.abs(have.astype(np.float64) - want))
            worst = float(np.max(error / bound, initial=0.0))
            assert worst <= 1, f"{said} is off by {float(error.max()):.2e}, {worst:.2f} times the bound"


def values(rec: recurc.Recurrence, seed: int, steps: int, what: str, batch: int = 2) -> Arrays:
    return drawn(rec, np.random.default_rng([seed, steps, zlib.crc32(what.encode())]), batch, steps)


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_lengths(which: str, backend: str, session_seed: int) -> None:
    some = {0, 1, int(np.random.default_rng(session_seed).choice([2, 3, 7])), 257}
    rec = zoo.load("mlstm")
    for steps in STEPS if which == "all" else sorted(some):
        agree(rec, backend, values(rec, session_seed, steps, "mlstm"), steps, f"mlstm, seed {session_seed}")


def spellings(which: str, seed: int) -> list[str]:
    """Two of the systems above that have little in common, or all."""
    if which == "all":
        return list(OWN)
    return [str(w) for w in np.random.default_rng(seed).choice(sorted(OWN), 2, replace=False)]


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_spellings(which: str, backend: str, session_seed: int) -> None:
    for what in spellings(which, session_seed):
        rec = own(what)
        for steps in (7, 100):
            arrays = values(rec, session_seed, steps, what)
            agree(rec, backend, arrays, steps, f"{what}, seed {session_seed}")
        agree(rec, backend, {n: a for n, a in arrays.items() if "@" not in n}, steps, f"{what}, from -inf")


@pytest.mark.parametrize("what", OWN)
def test_the_states_that_go_in_chunks(what: str) -> None:
    (group,) = (g for g in own(what).analyze().groups if g.cls == "OS")
    assert "chunkwise" in group.schedules
    chunked = [s for p in group.parts if p.low_rank is not None for s in p.low_rank.states]
    assert tuple(chunked) == OWN[what][2], group.reasons
    assert group.parts[0].states == tuple(s for s in group.states if s not in OWN[what][2])


@pytest.mark.parametrize("shift", [300.0, -300.0, -1e4])
def test_scores_far_from_zero(shift: float, backend: str, session_seed: int) -> None:
    """In float32 a loop rounds the maximum to the same numbers, so that it agrees without regard to their size."""
    rec, steps = zoo.load("mlstm"), 100
    arrays = values(rec, session_seed, steps, "mlstm")
    arrays["i"] += np.float32(shift)
    given = {n: a for n, a in arrays.items() if "@" not in n}
    agree(rec, backend, given, steps, f"shifted by {shift:g}, seed {session_seed}")
    chunked, looped = (
        call(rec, given, np.float32, rec.compile(backend=backend, schedule=s)) for s in ("chunkwise", "sequential")
    )
    for name, have in chunked.items():
        size = max(1.0, float(np.abs(looped[name]).max()))
        assert np.abs(have - looped[name]).max() <= 1e-6 * (1 + np.log2(steps)) * size, f"{name}, shift {shift:g}"


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_gates_and_weights_that_are_zero(which: str, backend: str, session_seed: int) -> None:
    """A log decay of -inf forgets all, a log weight of -inf writes nothing."""
    for name in ["mlstm", *spellings(which, session_seed)]:
        rec = zoo.load(name) if name == "mlstm" else own(name)
        zeros(rec, name, backend, session_seed)


def zeros(rec: recurc.Recurrence, name: str, backend: str, seed: int) -> None:
    steps, rng = 70, np.random.default_rng([seed, zlib.crc32(name.encode())])
    gate = {"a maximum for each row": "r", "a maximum for each column": "c"}.get(name, "f")
    weight = {"r": "k", "c": "w", "f": "i"}[gate]
    arrays = {n: a for n, a in values(rec, seed, steps, name).items() if "@" not in n}
    forgets = rng.random(arrays[gate].shape) < 0.2
    nothing = rng.random(arrays[weight].shape) < 0.3
    nothing[:, 0] = False  # with neither a past nor a weight the definition has -inf - (-inf)
    arrays[gate][forgets], arrays[weight][nothing & ~forgets] = -np.inf, -np.inf
    agree(rec, backend, arrays, steps, f"{name}, seed {seed}")


def test_a_step_with_neither_past_nor_weight_is_no_number_from_there_on_only(backend: str, session_seed: int) -> None:
    rec, steps, at = zoo.load("mlstm"), 80, 41
    arrays = {n: a.astype(np.float64) for n, a in values(rec, session_seed, steps, "none").items() if "@" not in n}
    arrays["f"][1, at, 0], arrays["i"][1, at, 0] = -np.inf, -np.inf
    chunked, looped = (rec.compile(backend=backend, schedule=s)(**arrays) for s in ("chunkwise", "sequential"))
    assert np.isfinite(looped[1, :at]).all() and np.isnan(looped[1, at:, 0]).all()
    np.testing.assert_allclose(chunked, looped, rtol=1e-9, atol=1e-9)


def test_pieces_joined_by_the_final_state_are_the_whole(backend: str, session_seed: int) -> None:
    rec, steps = zoo.load("mlstm"), 150
    inputs = {i.name for i in rec.ir.inputs}
    given: dict[str, Any] = {
        n: a.astype(np.float64) for n, a in values(rec, session_seed, steps, "pieces").items() if "@" not in n
    }
    compiled = rec.compile(backend=backend, schedule="chunkwise")
    whole, last = compiled(**given, return_final=True)
    parts: list[np.ndarray] = []
    state: dict[str, np.ndarray] | None = None
    for piece in (slice(0, 1), slice(1, 70), slice(70, steps)):
        some = {n: a[:, piece] if n in inputs else a for n, a in given.items()}
        out, state = compiled(**some, initial=state, return_final=True)
        parts.append(out)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-9, atol=1e-9)
    assert state is not None
    for name, value in last.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_a_maximum_that_is_scanned(which: str, session_seed: int) -> None:
    """A plan for many steps of one sequence on a GPU, run by the interpreter on a few."""
    batch, steps = 2, 90
    for what in ["mlstm", *spellings(which, session_seed)]:
        rec = zoo.load(what) if what == "mlstm" else own(what)
        sizes = sizes_of(rec)
        plan = make_plan(rec.ir, sizes, 1, 1 << 17, DType.F64, named("sm_90"), "chunkwise")
        assert any(isinstance(s, Scan) and s.carries[0].name == "m" for s in plan.stages), what
        arrays = {n: a.astype(np.float64) for n, a in values(rec, session_seed, steps, what, batch).items()}
        arrays["m@initial"][...] = -np.inf
        ref = reference.run(rec.ir, arrays, batch, steps)
        given = {p.name: np.broadcast_to(arrays[p.name], (batch, *arrays[p.name].shape)) for p in rec.ir.params}
        made = {n: np.full_like(a, np.nan) for n, a in ref.items()}
        spec = Specialization(tuple(sorted(sizes.items())), DType.F64)
        plan_numpy.BACKEND.build(plan, spec)({**arrays, **given, **made}, batch, steps)
        for name, want in ref.items():
            np.testing.assert_allclose(made[name], want, rtol=1e-9, atol=1e-9, err_msg=f"{what}: {name}")


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_the_maximum_goes_before_the_chunks(target: str) -> None:
    sizes = {"H": 2, "K": 64, "V": 64}
    plan = make_plan(zoo.load("mlstm").ir, sizes, 2, 1024, DType.F32, named(target), "chunkwise")
    assert plan.schedules == ("chunkwise",)
    before, chunk = (s for s in plan.stages if not isinstance(s, Map))
    assert isinstance(before, Loop | Scan) and {c.name for c in before.carries} == {"m"}
    assert isinstance(chunk, JointChunk) and [c.name for c in chunk.carries] == ["S", "n"]
    assert all(p.form.decay_along == "none" and not p.form.corrects for p in chunk.parts)
    assert any("first, then S by products of matrices" in r.text for r in plan.reasons)


def test_a_matrix_that_is_wanted_whole_is_refused_in_words() -> None:
    rec = recurc.load(
        text="recurrence Whole(H, K, V):\n    input k[H, K], v[H, V], i[H], f[H]\n    state m[H] = -inf\n"
        f"    state S[H, K, V] = 0\n\n    m = max(f + m[t-1], i)\n    {GAUGED}\n    output S\n"
    )
    with pytest.raises(UnsupportedError, match="S is not chunkwise: S is an output, so every step needs all of it"):
        rec.compile(backend="numpy", schedule="chunkwise")
