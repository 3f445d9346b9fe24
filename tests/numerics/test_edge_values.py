"""Values at the edges, by every legal schedule: scores far out, gates of exactly 0 and 1, numbers below the normal
range, and what is not finite before a reset.

The definition gets the same values; the bounds are those of `tests.numerics.test_schedules`. Numbers below the normal
range of float32 lie 1.4e-45 apart, which the rounded runs of the definition know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import recurc
from recurc.backends import reference
from tests.numerics import rounding
from tests.numerics.test_schedules import Arrays, agree, legal, usual
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

STEPS = 70  # more than a chunk of any backend
SOME = 10
Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def shifted(by: float) -> Change:
    return lambda rng, a: a + by


def often(*values: float) -> Change:
    """Half of the values become some of these."""
    return lambda rng, a: np.where(rng.random(a.shape) < 0.5, rng.choice(values, a.shape), a)


def scaled(by: float) -> Change:
    return lambda rng, a: a * by


@dataclass(frozen=True)
class Edge:
    system: str
    value: str  # an input or param
    change: Change


SCORES = {
    "aaren": "s",
    "rwkv4": "k",
    "mlstm": "i",
    "online_softmax": "x",
    "online_logsumexp": "x",
    "logsumexp_scan": "x",
}
GATES = (  # the number that makes a gate 0, and the one that makes it 1
    ("diagonal_affine", "a", 0, 1), ("ema", "alpha", 0, 1), ("one_pole", "a", 0, -1), ("mega_ema", "alpha", -1e4, 1e4),
    ("min_gru", "x", -1e4, 1e4), ("sru_v0", "x", -1e4, 1e4), ("simple_gla", "g", -1e4, 0), ("gla", "g", -1e6, 1e6),
    ("rwkv6", "omega", -1e4, 1e1), ("gated_delta_net", "a", -1e4, 1e4), ("delta_net", "beta", -1e4, 1e4),
    ("kda", "beta", -1e4, 1e4), ("mlstm", "f", -1e4, 1e4),
)  # fmt: skip
TINY = {
    "diagonal_affine": "b", "ema": "x", "lru": "x", "s4d": "u", "simple_gla": "v", "gla": "v", "gated_delta_net": "v",
    "aaren": "v",
}  # fmt: skip
EDGES = {
    **{f"{n}, scores shifted by {by:g}": Edge(n, v, shifted(by)) for n, v in SCORES.items() for by in (-300, 300)},
    **{f"{n}, some scores of -1e4": Edge(n, v, often(-1e4)) for n, v in SCORES.items()},
    **{f"{n}, gates of 0 and 1": Edge(n, v, often(zero, one)) for n, v, zero, one in GATES},
    **{f"{n}, tiny": Edge(n, v, scaled(1e-40)) for n, v in TINY.items()},
}


def check(what: str, backend: str, seed: int) -> None:
    edge = EDGES[what]
    rec, sizes, rng = cases.load(edge.system), dict(ORACLES[edge.system].sizes), cases.generator(seed, edge.system)
    inputs, params = cases.draw(edge.system, rng, STEPS)
    arrays = inputs | params
    with np.errstate(under="ignore"):
        arrays[edge.value] = edge.change(rng, arrays[edge.value]).astype(np.float32).astype(np.float64)
    run = rounding.run(rec.ir, arrays, cases.BATCH, STEPS, rng, sizes)
    assert all(np.isfinite(run.exact[o]).all() for o in rec.ir.outputs), f"{what}: what is right is not finite"
    for schedule in legal(rec):
        agree(rec, backend, schedule, STEPS, arrays, run, sizes)


@pytest.mark.parametrize("pick", range(SOME))
def test_edges_drawn_by_the_seed(pick: int, session_seed: int) -> None:
    check(str(np.random.default_rng(session_seed).permutation(list(EDGES))[pick]), "numpy", session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("what", EDGES)
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_every_edge(what: str, backend: str, session_seed: int) -> None:
    check(what, backend, session_seed)


# A state each with a reset; what the analysis finds legal for it is what is tested.
RESETS = {
    "EA": "state h[D] = 1\n    reset when new\n    h = sigmoid(x) * h[t-1] + y\n    output h",
    "EA, time invariant": "state h[D] = 0\n    reset when new\n    h = 0.9 * h[t-1] + y\n    output h",
    "CA": "state h[D]: complex = 1j\n    reset when new\n    h = polar(0.9, x) * h[t-1] + y\n    output h",
    "SR1": "state S[K, D] = 0\n    reset when new\n    S = sigmoid(g) * S[t-1] + k * y\n    output o = k @ S",
    "DR1": "state S[K, D] = 0.5\n    reset when new\n    S = sigmoid(k) * S[t-1] + k * y\n    output o = k @ S",
    "GH": "state S[K, D] = 0\n    reset when new\n    S = S[t-1] + 0.3 * (k * (y - k @ S[t-1]))\n    output o = k @ S",
    "OS": "state m = -inf, u = 0, w[D] = 0\n    reset when new\n    m = max(m[t-1], g)\n"
    "    u = u[t-1] * exp(m[t-1] - m) + exp(g - m)\n    w = w[t-1] * exp(m[t-1] - m) + exp(g - m) * y\n"
    "    output o = w / u",
    "SL": "state h[D] = 0\n    reset when new\n    h = max(h[t-1] + x, y)\n    output h",
}  # fmt: skip


@pytest.mark.parametrize("what", RESETS)
@pytest.mark.parametrize("backend", ["numpy", pytest.param("cpu", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_nothing_before_a_reset_is_left(what: str, backend: str, poison: float, rng: np.random.Generator) -> None:
    text = f"recurrence Own(K, D):\n    input  x[D], y[D], k[K], g, new: bool\n    {RESETS[what]}\n"
    rec, dims = recurc.load(text=text), {"x": (3,), "y": (3,), "k": (4,), "g": ()}
    arrays: Arrays = {n: rng.normal(0, 0.5, (2, STEPS, *d)).astype(np.float32).astype(float) for n, d in dims.items()}
    arrays["new"] = rng.random((2, STEPS)) < 0.05
    arrays["new"][0, 29] = True
    arrays["y"][0, 23], arrays["y"][0, 24], arrays["g"][0, 25] = poison, np.nan, poison
    wanted = reference.run(rec.ir, arrays, 2, STEPS)
    (output,) = rec.ir.outputs
    want = wanted[output]
    assert not np.isfinite(want[0, 24:29]).all() and np.isfinite(want[0, 29:]).all() and np.isfinite(want[1]).all()
    kept = np.r_[:23, 29:STEPS]  # between, 0 times infinity is one thing by steps and may be another by parts
    for schedule in legal(rec):
        compiled = rec.compile(backend=backend, schedule=schedule)
        for real, room in ((np.float64, 1e-9), (np.float32, usual(rec, schedule, STEPS, want))):
            out, final = compiled(
                **{n: a if a.dtype == bool else a.astype(real) for n, a in arrays.items()}, return_final=True
            )
            said = f"{what} by {schedule}, {real.__name__}"
            np.testing.assert_allclose(out[:, kept], want[:, kept], rtol=0, atol=room, err_msg=said)
            for name, value in final.items():
                np.testing.assert_allclose(value, wanted[f"{name}@final"], rtol=0, atol=room, err_msg=said)
