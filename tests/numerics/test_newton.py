"""Newton's method over time means what the loop means: within its bound where it converges; elsewhere the loop runs."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import recurc

STEPS = (0, 1, 2, 3, 7, 64, 257, 4096)
SIZES = {"D": 5, "H": 37, "N": 3}
Arrays = dict[str, np.ndarray]

# Steps of class NL-d and NL-b: what Newton's method is for. Gains below 1, so that all of them forget.
OWN = {
    "scalar": """
    input x
    state h = 0.1
    h = tanh(0.8 * h[t-1] + x)
    output h""",
    "matrix": """
    input x[D], z[N]
    param a[D, N]
    state h[D, N] = 0.2
    h = a * sin(h[t-1]) + sigmoid(x) * z
    output y = sum(h * z, N), before = sum(h[t-1], D)""",
    "literal": """
    input x[D]
    state h[2] = 0
    h = 0.5 * tanh(h[t-1]) + broadcast(mean(x, D), 2)
    output h""",
    "lags": """
    input x[D] = 0.1
    state h[D] = 0.5
    h = 0.4 * tanh(h[t-2] + x[t-1]) + 0.3 * h[t-1]
    output h""",
    "three": """
    input x[D]
    param w[D]
    state a[D] = 0.1, b[D] = 0, c[D] = -0.1
    a = 0.5 * tanh(b[t-1] + x)
    b = 0.5 * sigmoid(w * c[t-1]) + 0.2 * a
    c = 0.4 * a[t-1] * b[t-1] + 0.1 * x
    output a, c""",
    "exponential": """
    input x[D], g[D]
    param r[D], w[D]
    state c[D] = 0, n[D] = 1, m[D] = 0, h[D] = 0
    i = x + 0.3 * r * h[t-1]
    f = logsigmoid(g + 0.3 * w * h[t-1])
    m = max(f + m[t-1], i)
    c = exp(f + m[t-1] - m) * c[t-1] + exp(i - m) * tanh(x + 0.2 * h[t-1])
    n = exp(f + m[t-1] - m) * n[t-1] + exp(i - m)
    h = c / n
    output h""",
    "clipped": """
    input x[D]
    state h[D] = 0
    h = 0.5 * abs(h[t-1]) - clamp(0.9 * h[t-1] * x, -1, 1) * 0.4 + x
    output h""",
    "stopped": """
    input x[D]
    state h[D] = 0
    h = 0.7 * sin(stop_gradient(h[t-1])) + x
    output h""",
    "counted": """
    input x[D], on: bool
    state h[D] = 0.3
    reset when on
    h = h[t-1] - h[t-1] * h[t-1] / (t + 2) + 0.1 * x * sigmoid(h[t-1])
    output h""",
    "after": """
    input x[D]
    param w[D, D]
    state e[D] = 0, h[D] = 0, s[D] = 0
    e = 0.9 * e[t-1] + x
    h = tanh(0.6 * h[t-1] + w @ e)
    s = 0.8 * s[t-1] + h
    output s, y = w @ h""",
}  # fmt: skip
ZOO = ("indrnn", "gru_diagonal", "sru", "lstm_cifg_diagonal")
NAMES = (*ZOO, *OWN)

LOGISTIC = """
recurrence Logistic(D):
    input r[D]
    state h[D] = 0.37
    h = r * h[t-1] * (1 - h[t-1])
    output h, twice = h + h[t-1]
"""


@cache
def load(name: str) -> recurc.Recurrence:
    if name in ZOO:
        return recurc.zoo.load(name)
    return recurc.load(text=f"recurrence Own(D, N):{OWN[name]}\n")


def draw(rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int, largest: float = 0.5) -> Arrays:
    """Inputs `(batch, T, *dims)` and params `(*dims)` up to `largest`, as float32 numbers in float64."""

    def shape(dims: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(int(d) if d.isdigit() else SIZES[d] for d in dims)

    arrays: Arrays = {}
    for i in rec.ir.inputs:
        values = rng.standard_normal((batch, steps, *shape(i.dims)))
        arrays[i.name] = values > 1.5 if i.dtype is recurc.types.DType.BOOL else values.astype(np.float32)
    arrays |= {p.name: rng.uniform(-largest, largest, shape(p.dims)).astype(np.float32) for p in rec.ir.params}
    return {n: a if a.dtype == bool else a.astype(np.float64) for n, a in arrays.items()}


def ready(rec: recurc.Recurrence, backend: str, schedule: str = "newton") -> Any:
    options = {} if backend == "reference" else {"schedule": schedule}
    return rec.compile(backend=backend, sizes={d.name: SIZES[d.name] for d in rec.ir.dims}, **options)


def typed(arrays: Arrays, real: type) -> Arrays:
    return {n: a if a.dtype == bool else a.astype(real) for n, a in arrays.items()}


def by_name(rec: recurc.Recurrence, result: tuple[Any, dict[str, Any]]) -> Arrays:
    outputs, finals = result
    several = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(rec.ir.outputs, several, strict=True)) | {f"{s}@final": v for s, v in finals.items()}


def definition(rec: recurc.Recurrence, arrays: Arrays) -> Arrays:
    return by_name(rec, ready(rec, "reference")(**arrays, return_final=True))


def off(found: Arrays, wanted: Arrays) -> float:
    """The largest difference, in units of 1 + |wanted|."""
    assert found.keys() == wanted.keys()
    return max(
        float(np.max(np.abs(np.asarray(found[n], np.float64) - w) / (1 + np.abs(w)), initial=0.0))
        for n, w in wanted.items()
    )


@cache
def case(name: str, steps: int, seed: int) -> tuple[Arrays, Arrays]:
    """Arrays of three sequences and what the definition makes of them, for all backends."""
    arrays = draw(load(name), np.random.default_rng(seed), 3, steps)
    return arrays, definition(load(name), arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_newton_agrees_with_the_definition(name: str, steps: int, backend: str, session_seed: int) -> None:
    """float64 as every schedule. float32 by twice the bound of `cases`, for its reasons, and because the last guess is
    off by up to 1e-6 (1 + |h|), which is of that size."""
    rec = load(name)
    arrays, wanted = case(name, steps, session_seed)
    f = ready(rec, backend)
    assert "newton" in f.plan.schedules
    assert off(by_name(rec, f(**arrays, return_final=True)), wanted) < 1e-9
    if steps:
        (rounds,) = f.rounds.values()
        assert rounds.shape == (3,) and rounds.dtype == np.int32
        assert np.all(rounds > 0), f"{name} does not converge in float64: {rounds}"
        assert np.all(rounds <= steps + 1)  # every round makes one more step exact
    single = by_name(rec, f(**typed(arrays, np.float32), return_final=True))
    assert off(single, wanted) < 1e-6 * (1 + np.log2(max(steps, 1))) * 2


@pytest.mark.parametrize("real", [np.float64, np.float32])
@pytest.mark.parametrize("steps", [64, 257, 4096])
def test_chaos_does_not_converge_and_gets_what_the_loop_gives(steps: int, real: type, backend: str) -> None:
    """r = 4 doubles every error, roughly: after 64 steps no rounding is small, whatever the residual."""
    rec = recurc.load(text=LOGISTIC)
    r = np.full((1, steps, SIZES["D"]), 4.0, real)
    f, loop = ready(rec, backend), ready(rec, backend, "sequential")
    found, wanted = (by_name(rec, g(r=r, return_final=True)) for g in (f, loop))
    assert f.rounds["h"].tolist() == [0]
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 16, 24, 40])
def test_chaos_over_few_steps_is_solved_or_left_to_the_loop(steps: int, backend: str, rng: np.random.Generator) -> None:
    """The errors of a loop grow up to fourfold at every step; those of a solution are no larger than its bound."""
    rec = recurc.load(text=LOGISTIC)
    r = rng.uniform(3.9, 4.0, (8, steps, SIZES["D"]))
    f = ready(rec, backend)
    found = by_name(rec, f(r=r, return_final=True))
    wanted = by_name(rec, ready(rec, backend, "sequential")(r=r, return_final=True))
    for b, rounds in enumerate(f.rounds["h"]):
        one, other = ({n: v[b] for n, v in values.items()} for values in (found, wanted))
        assert off(one, other) <= (1e-9 if rounds else 0.0)


def test_each_sequence_converges_by_itself(backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=LOGISTIC)
    steps = 500
    r = np.full((5, steps, SIZES["D"]), 4.0)
    r[1] = 2.7
    r[3] = rng.uniform(1.5, 2.9, (steps, SIZES["D"]))
    r[4, :, 1] = 0.5  # one element of several
    f = ready(rec, backend)
    found = by_name(rec, f(r=r, return_final=True))
    loop = by_name(rec, ready(rec, backend, "sequential")(r=r, return_final=True))
    rounds = f.rounds["h"]
    assert (rounds > 0).tolist() == [False, True, False, True, False]
    assert off(found, loop) < 1e-9
    for b in (0, 2, 4):
        assert all(np.array_equal(found[n][b], loop[n][b]) for n in loop)
    assert f"of 5 sequences of the last run, 2 solved in {rounds[[1, 3]].min()} to" in f.explain()
    assert "3 by the loop" in f.explain()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_a_number_comes_out_as_from_the_loop(poison: float, backend: str, rng: np.random.Generator) -> None:
    rec = load("gru_diagonal")
    arrays = draw(rec, rng, 3, 50)
    arrays["x"][1, 20, 0] = poison
    f = ready(rec, backend)
    found = by_name(rec, f(**arrays, return_final=True))
    loop = by_name(rec, ready(rec, backend, "sequential")(**arrays, return_final=True))
    if np.isnan(poison):
        assert (f.rounds["h"] > 0).tolist() == [True, False, True]
    for name, value in loop.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)


def test_a_slow_step_is_given_up_after_the_last_round(backend: str) -> None:
    """A neuron that switches: every round moves the switch by few steps, and none diverges."""
    rec = recurc.load(
        text="recurrence Switch(D):\n    input x[D]\n    state h[D] = 0.5\n"
        "    h = tanh(3 * h[t-1] + 0.9 * sin(9 * h[t-1]) + x)\n    output h\n"
    )
    x = np.sin(np.arange(3000.0))[np.newaxis, :, np.newaxis] * 2 * np.ones((2, 1, 5))
    f = ready(rec, backend)
    found = f(x=x)
    loop = ready(rec, backend, "sequential")(x=x)
    solved = f.rounds["h"] > 0
    np.testing.assert_allclose(found, loop, rtol=1e-9, atol=1e-9)
    if not solved.any():
        np.testing.assert_array_equal(found, loop)


@pytest.mark.parametrize("name", ["gru_diagonal", "three", "lags", "counted", "after"])
def test_runs_that_are_ragged_packed_reversed_or_go_on(name: str, backend: str, rng: np.random.Generator) -> None:
    rec = load(name)
    arrays = draw(rec, rng, 7, 40)
    f, reference_ = ready(rec, backend), ready(rec, "reference")
    lengths = rng.integers(0, 41, 7)
    timed = {i.name for i in rec.ir.inputs}
    packed = {n: a.reshape(1, -1, *a.shape[2:])[0] if n in timed else a for n, a in arrays.items()}
    bounds = np.array([0, 17, 17, 100, 101, 280])
    for given, options in (
        (arrays, {"lengths": lengths}),
        (arrays, {"reverse": True}),
        (arrays, {"lengths": lengths, "reverse": True}),
        (packed, {"cu_seqlens": bounds}),
    ):
        found, wanted = (by_name(rec, g(**given, **options, return_final=True)) for g in (f, reference_))
        assert off(found, wanted) < 1e-9, options
    whole, state = f(**arrays, return_final=True)
    first, middle = f(**{n: a[:, :23] if n in timed else a for n, a in arrays.items()}, return_final=True)
    rest = {n: a[:, 23:] if n in timed else a for n, a in arrays.items()}
    second, last = f(**rest, initial=middle, return_final=True)
    for one, two, all_ in zip(*(v if isinstance(v, tuple) else (v,) for v in (first, second, whole)), strict=True):
        np.testing.assert_allclose(np.concatenate([one, two], axis=1), all_, rtol=1e-9, atol=1e-9)
    for key, value in state.items():
        np.testing.assert_allclose(last[key], value, rtol=1e-9, atol=1e-9)
    held = f.init_state(batch=7, dtype="f64")
    for t in range(3):
        now, held = f.step(held, **{n: a[:, t] if n in timed else a for n, a in arrays.items()})
        for one, all_ in zip(*(v if isinstance(v, tuple) else (v,) for v in (now, whole)), strict=True):
            np.testing.assert_allclose(one, all_[:, t], rtol=1e-9, atol=1e-9)


def test_params_of_each_sequence_and_given_states(backend: str, rng: np.random.Generator) -> None:
    rec = load("lstm_cifg_diagonal")
    arrays = draw(rec, rng, 4, 30)
    for p in rec.ir.params:
        arrays[p.name] = rng.uniform(-0.5, 0.5, (4, *arrays[p.name].shape))
    initial = {"h": rng.standard_normal((4, SIZES["H"])), "c": rng.standard_normal((4, SIZES["H"]))}
    f = ready(rec, backend)
    for _ in range(2):  # the second call takes the fast way
        found = by_name(rec, f(**arrays, initial=initial, return_final=True))
        wanted = by_name(rec, ready(rec, "reference")(**arrays, initial=initial, return_final=True))
        assert off(found, wanted) < 1e-9
        assert f.rounds["h, c"].shape == (4,) and np.all(f.rounds["h, c"] > 0)


@pytest.mark.parametrize(("batch", "steps"), [(1, 9), (1, 1000), (2, 700), (64, 33)])
def test_one_thread_and_many_give_the_same_within_rounding(
    batch: int, steps: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads split time into other segments, of which the last ones may be empty."""
    from recurc.backends.cpu import BACKEND, kernel

    if BACKEND.unavailable():
        pytest.skip(str(BACKEND.unavailable()))
    rec = load("sru")
    arrays = draw(rec, rng, batch, steps)
    wanted = definition(rec, arrays)
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(kernel, "useful_threads", partial(_as_told, threads))
        f = ready(rec, "cpu")
        assert off(by_name(rec, f(**arrays, return_final=True)), wanted) < 1e-9
        assert np.all(f.rounds["c"] > 0)


def _as_told(threads: int, *_: object) -> int:
    return threads


def test_halves_are_storage(backend: str, rng: np.random.Generator) -> None:
    rec = load("gru_diagonal")
    arrays = typed(draw(rec, rng, 2, 100), np.float16)
    found = by_name(rec, ready(rec, backend)(**arrays, return_final=True))
    wanted = definition(rec, typed(arrays, np.float64))
    assert next(iter(found.values())).dtype == np.float16
    assert off(found, wanted) < 2e-3  # two roundings to 11 bits


@pytest.mark.parametrize(
    ("update", "bound"), [("0.9 * tanh(h[t-1]) + x", 1e-5), ("sin(h[t-1]) * cast(tanh(x), f64)", 1e-9)]
)
def test_a_state_in_float64_among_float32(update: str, bound: float, backend: str, rng: np.random.Generator) -> None:
    """Numbers of the call's type make the arithmetic float32; without them it is float64, and solved as such."""
    rec = recurc.load(
        text=f"recurrence Wide(D):\n    input x[D]\n    state h[D]: f64 = 0.5\n    h = {update}\n    output h\n"
    )
    arrays = draw(rec, rng, 2, 300)
    f = ready(rec, backend)
    given = typed(arrays, np.float32)
    found = by_name(rec, f(**given, return_final=True))
    loop = by_name(rec, ready(rec, backend, "sequential")(**given, return_final=True))
    assert found["h"].dtype == np.float64 and np.all(f.rounds["h"] > 0)
    assert off(found, loop) < bound


def test_only_some_groups(backend: str, rng: np.random.Generator) -> None:
    rec = load("after")
    arrays = draw(rec, rng, 2, 90)
    f = ready(rec, backend, "e=scan,h=newton,s=scan")
    assert f.plan.schedules == ("scan", "newton", "scan")
    assert off(by_name(rec, f(**arrays, return_final=True)), definition(rec, arrays)) < 1e-9
