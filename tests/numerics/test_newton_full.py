"""Newton's method over time where elements meet, by the diagonal of the Jacobian: what converges agrees with the
definition within its bound, and what does not comes from the loop."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import recurc
from recurc.plan import Newton
from tests.numerics.test_newton import SIZES, Arrays, by_name, definition, draw, off, ready, typed

STEPS = (0, 1, 2, 3, 7, 64, 257, 2048)
ZOO = ("elman", "gru", "gru_reset_before", "lstm", "lstm_peephole")
OWN = {
    "separate": """
    input x[D]
    param W[H, D], U[H, H], V[H, H], R[H, H], b[H]
    state h[H] = 0.1
    z = sigmoid(W @ x + U @ h[t-1] + b)
    n = tanh(W @ x + V @ (z * h[t-1]) + R @ h[t-1])
    h = (1 - z) * h[t-1] + z * n
    output h, before = sum(h[t-1], H)""",
    "meeting": """
    input x[D]
    state h[D] = 0.1
    p = softmax(h[t-1], D)
    g = 0.1 * mean(h[t-1], D) + 0.1 * max(h[t-1], D) + 0.05 * prod(1 + 0.1 * h[t-1], D)
    h = 0.5 * tanh(h[t-1] / (1 + norm(h[t-1], D)) + p * x) + g
    output h""",
    "heads": """
    input x[N, D]
    param R[2, N, D, D]
    state h[N, D] = 0, c[N, D] = 0.1
    a, b = R @ h[t-1] + x
    c = sigmoid(a) * c[t-1] + (1 - sigmoid(a)) * tanh(b)
    h = sigmoid(b) * tanh(c)
    output h, c""",
    "restarted": """
    input x[D], on: bool
    param U[D, D]
    state h[D] = 0.3
    reset when on
    h = tanh(U @ h[t-1] + x / (t + 1))
    output h""",
    "low rank": """
    input x[D]
    param M[H, N], V[N, H], I[H, D]
    state h[H] = 0.1
    h = 0.7 * h[t-1] + 0.3 * tanh(I @ x + M @ (V @ h[t-1]))
    output h""",
    "after": """
    input x[D]
    param U[H, H], V[D, H], W[H, D]
    state e[D] = 0, h[H] = 0, s[D] = 0
    e = 0.9 * e[t-1] + x
    u = U @ h[t-1]
    h = tanh(u + W @ e)
    s = 0.8 * s[t-1] + V @ h
    output s, u""",
}  # fmt: skip
NAMES = (*ZOO, *OWN)
RNN = """
recurrence Plain(H):
    input x[H], gain
    param U[H, H]
    state h[H] = 0.2
    h = tanh(gain * (U @ h[t-1]) + 0.1 * x)
    output h, before = h[t-1]
"""


@cache
def load(name: str) -> recurc.Recurrence:
    return recurc.zoo.load(name) if name in ZOO else recurc.load(text=f"recurrence Own(D, N, H):{OWN[name]}\n")


@cache
def case(name: str, steps: int, seed: int) -> tuple[Arrays, Arrays]:
    """Arrays of three sequences, with weights of a loop that forgets, and what the definition makes of them."""
    arrays = draw(load(name), np.random.default_rng(seed), 3, steps, largest=0.12)
    return arrays, definition(load(name), arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_cells_that_forget_agree_with_the_definition(name: str, steps: int, backend: str, session_seed: int) -> None:
    """The bounds are those of `test_newton`: the last guess is off by some times its residual, which is 1e-12 at most
    (1e-6 in float32), by how the residuals fall."""
    rec = load(name)
    arrays, wanted = case(name, steps, session_seed)
    f = ready(rec, backend)
    assert [g.cls for g, s in zip(rec.analyze().groups, f.plan.schedules, strict=True) if s == "newton"] == ["NL-f"]
    assert off(by_name(rec, f(**arrays, return_final=True)), wanted) < 1e-9
    if steps:
        (rounds,) = f.rounds.values()
        assert rounds.shape == (3,) and np.all(rounds > 0), f"{name} does not converge in float64: {rounds}"
        assert np.all(rounds <= min(steps + 1, 60))
    single = by_name(rec, f(**typed(arrays, np.float32), return_final=True))
    assert off(single, wanted) < 1e-6 * (1 + np.log2(max(steps, 1))) * 2
    if steps:
        assert np.all(next(iter(f.rounds.values())) > 0)


def plain(rng: np.random.Generator, gains: list[float], steps: int) -> Arrays:
    """Sequences of different gains; `U` has a spectral radius near 1."""
    size = SIZES["H"]
    gain = np.repeat(np.array(gains)[:, np.newaxis], steps, axis=1)
    return {
        "x": rng.standard_normal((len(gains), steps, size)),
        "gain": gain,
        "U": rng.standard_normal((size, size)) / np.sqrt(size),
    }


def same_as_the_loop(found: Arrays, wanted: Arrays, arrays: Arrays, row: int, backend: str) -> None:
    """What no round solved is the loop's to the last bit. Native code packs its weights in a loop of its own and not in
    the one behind rounds, which sums in another order; there every step follows from the one before, to within the
    rounding of a sum of products: some u times gain * sum |U h|, u the unit roundoff."""
    one, other = ({n: v[row] for n, v in values.items()} for values in (found, wanted))
    if backend != "cpu":
        assert all(np.array_equal(one[n], other[n]) for n in other)
        return
    wide: Arrays = {n: v.astype(np.float64) for n, v in (one | {"U": arrays["U"]}).items()}
    gain, x = arrays["gain"][row].astype(np.float64)[:, np.newaxis], arrays["x"][row].astype(np.float64)
    step = np.tanh(gain * (wide["before"] @ wide["U"].T) + 0.1 * x)
    u = np.finfo(found["h"].dtype).eps
    bound = u * (len(arrays["U"]) * gain * (np.abs(wide["before"]) @ np.abs(wide["U"]).T) + 4)
    assert np.all(np.abs(one["h"] - step) <= bound)
    np.testing.assert_array_equal(one["before"][1:], one["h"][:-1])
    np.testing.assert_array_equal(one["h@final"], one["h"][-1])


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_chaos_is_given_up_and_comes_from_the_loop(real: type, backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=RNN)
    arrays = typed(plain(rng, [6.0, 8.0], 300), real)
    f, loop = ready(rec, backend), ready(rec, backend, "sequential")
    found, wanted = (by_name(rec, g(**arrays, return_final=True)) for g in (f, loop))
    assert f.rounds["h"].tolist() == [0, 0]
    for row in range(2):
        same_as_the_loop(found, wanted, arrays, row, backend)


def test_each_sequence_converges_by_itself(backend: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=RNN)
    arrays = plain(rng, [0.4, 9.0, 0.1, 9.0, 0.5], 300)
    f = ready(rec, backend)
    found = by_name(rec, f(**arrays, return_final=True))
    loop = by_name(rec, ready(rec, backend, "sequential")(**arrays, return_final=True))
    rounds = f.rounds["h"]
    assert (rounds > 0).tolist() == [True, False, True, False, True]
    assert rounds[2] < rounds[0] < rounds[4]  # the more it forgets, the fewer rounds
    for row in range(5):
        if rounds[row]:
            assert off(*({n: v[row] for n, v in values.items()} for values in (found, loop))) < 1e-9
        else:
            same_as_the_loop(found, loop, arrays, row, backend)


@pytest.mark.parametrize("calm", [0, 30, 200])
def test_a_stretch_that_does_not_forget_is_left_to_the_loop(calm: int, backend: str, rng: np.random.Generator) -> None:
    """Sixty steps that amplify, between calm ones: a scan of the diagonal does not see what they make of rounding, and
    later steps forget it; so it is the rounds it takes to make those steps exact by which it is found out."""
    rec = recurc.load(text=RNN)
    arrays = plain(rng, [0.4, 0.4], 400)
    arrays["gain"][1, calm : calm + 60] = 8.0
    f, loop = ready(rec, backend), ready(rec, backend, "sequential")
    found, wanted = (by_name(rec, g(**arrays, return_final=True)) for g in (f, loop))
    assert (f.rounds["h"] > 0).tolist() == [True, False]
    assert off(*({n: v[0] for n, v in values.items()} for values in (found, wanted))) < 1e-9
    same_as_the_loop(found, wanted, arrays, 1, backend)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_few_steps_that_amplify_are_made_exact_one_by_one_or_left(
    steps: int, backend: str, rng: np.random.Generator
) -> None:
    """Errors grow at most by the norm of gain * U in a step; a hundred roundings of a step's sums begin it."""
    rec = recurc.load(text=RNN)
    arrays = plain(rng, [8.0] * 4, steps)
    f, loop = ready(rec, backend), ready(rec, backend, "sequential")
    found, wanted = (by_name(rec, g(**arrays, return_final=True)) for g in (f, loop))
    grows = float(np.linalg.norm(8.0 * arrays["U"], 2))
    assert off(found, wanted) < 100 * 2.0**-53 * max(1.0, grows) ** steps


@pytest.mark.parametrize("name", ["gru_reset_before", "heads", "restarted", "after"])
def test_runs_that_are_ragged_or_go_on(name: str, backend: str, rng: np.random.Generator) -> None:
    rec = load(name)
    arrays = draw(rec, rng, 5, 40, largest=0.12)
    f, reference_ = ready(rec, backend), ready(rec, "reference")
    timed = {i.name for i in rec.ir.inputs}
    for options in ({"lengths": rng.integers(0, 41, 5)}, {"reverse": True}):
        found, wanted = (by_name(rec, g(**arrays, **options, return_final=True)) for g in (f, reference_))
        assert off(found, wanted) < 1e-9, options
    whole, state = f(**arrays, return_final=True)
    first, middle = f(**{n: a[:, :23] if n in timed else a for n, a in arrays.items()}, return_final=True)
    rest = {n: a[:, 23:] if n in timed else a for n, a in arrays.items()}
    second, last = f(**rest, initial=middle, return_final=True)
    for one, two, all_ in zip(*(v if isinstance(v, tuple) else (v,) for v in (first, second, whole)), strict=True):
        if name != "restarted":  # t begins anew with each call
            np.testing.assert_allclose(np.concatenate([one, two], axis=1), all_, rtol=1e-9, atol=1e-9)
    if name != "restarted":
        for key, value in state.items():
            np.testing.assert_allclose(last[key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["lstm", "gru_reset_before", "separate"])
def test_params_of_each_sequence_and_given_states(name: str, backend: str, rng: np.random.Generator) -> None:
    rec = load(name)
    arrays = draw(rec, rng, 4, 30)
    for p in rec.ir.params:
        arrays[p.name] = rng.uniform(-0.1, 0.1, (4, *arrays[p.name].shape))
    initial = {s.name: rng.standard_normal((4, SIZES["H"])) for s in rec.ir.states}
    f = ready(rec, backend)
    for _ in range(2):  # the second call takes the fast way
        found = by_name(rec, f(**arrays, initial=initial, return_final=True))
        wanted = by_name(rec, ready(rec, "reference")(**arrays, initial=initial, return_final=True))
        assert off(found, wanted) < 1e-9
        (rounds,) = f.rounds.values()
        assert rounds.shape == (4,) and np.all(rounds > 0)


def test_products_with_weights_are_stages_of_a_round() -> None:
    for name, size, many in (("lstm", 37, 1), ("gru_reset_before", 37, 3), ("separate", 5, 3), ("meeting", 5, 0)):
        rec = load(name)
        sizes = {d.name: {"D": 3, "N": 2, "H": size}[d.name] for d in rec.ir.dims}
        f = rec.compile(backend="numpy", schedule="newton", sizes=sizes)
        (stage,) = (s for s in f.plan.stages if isinstance(s, Newton))
        assert len([s for s in stage.before if s.writes[0].endswith("'product")]) == many, name
