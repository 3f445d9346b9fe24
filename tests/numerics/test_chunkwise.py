"""The chunkwise schedule of matrix states against the float64 definition.

**The bounds** are those of `tests.numerics.cases`: `1e-9 (1 + |ref|)` in float64; in float32 `1e-6 (1 + log2 T)` of
the largest reference value, ten times that where a triangular system is solved (its inverse has entries up to the
condition of the keys; they are normalised here, and the steps at most 1)."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import zoo
from recurc.backends import reference
from recurc.errors import BackendError, UnsupportedError
from recurc.types import Dims

Arrays = dict[str, np.ndarray]
STEPS = (0, 1, 2, 3, 7, 64, 257, 4096)
SIZES = {"H": 3, "K": 5, "V": 4, "M": 2, "N": 6, "P": 4, "J": 5, "C": 3, "R": 2}

SYSTEMS = (
    "simple_gla", "retnet", "mamba2", "mamba3", "linear_attention", "based", "mesa_net", "mlstm_unstabilised",  # SR1
    "gla", "hgrn2", "rwkv5", "rwkv6", "gsa", "abc",  # DR1
    "delta_net", "gated_delta_net", "gated_delta_product", "kda", "gdn2", "comba", "dplr", "rwkv7",  # GH
    "mlstm",  # OS
    "omega_net_linear", "titans_linear",  # several rows per step, two states
)  # fmt: skip
MORE_SYSTEMS = ("mamba3_mimo", "omega_net", "omega_net_powers")

# One state S[H, K, V] each, with inputs q, k, p (rows), v, w (columns), a (a number), r (rows), c (columns), h (heads).
OWN = {
    "no decay": "S = S[t-1] + k * v\n    output o = q @ S",
    "decay by step, zero at times": "S = gate(a) * S[t-1] + k * v\n    output o = q @ S",
    "negative decays": "S = -0.9 * S[t-1] + k * v\n    output o = q @ S",
    "decays of both signs by rows": "S = tanh(r) * S[t-1] + k * v\n    output o = q @ S",
    "zero decays by rows": "S = gate(r) * S[t-1] + k * v\n    output o = q @ S",
    "decay by columns": "S = tanh(c) * S[t-1] + k * v\n    output o = q @ S",
    "zero decays by columns": "S = gate(c) * S[t-1] + k * v\n    output o = q @ S",
    "decays that vanish": "S = 1e-30 * sigmoid(r) * S[t-1] + k * v\n    output o = q @ S",
    "decay per head": "S = tanh(h) * S[t-1] + k * v\n    output o = q @ S",
    "a decay that is a param": "S = fixed * S[t-1] + k * v\n    output o = q @ S",
    "two writes": "S = sigmoid(a) * S[t-1] + k * v - p * w\n    output o = q @ S",
    "a sum that is written": "S = sigmoid(r) * S[t-1] + (k * v + p * w) / 2\n    output o = q @ S",
    "a key the same for all heads": "S = sigmoid(h) * S[t-1] + one * v\n    output o = q @ S",
    "read before the update": "S = sigmoid(r) * S[t-1] + k * v\n    output o = q @ S[t-1] + sum(q * k, K) * v",
    "read twice": "S = tanh(c) * S[t-1] + k * v\n    output o = tanh(q @ S) + p @ S[t-1]",
    "rows read from the right": "S = sigmoid(a) * S[t-1] + k * v\n    output o = sum(S * q, K)",
    "read along the other dim": "S = sigmoid(a) * S[t-1] + k * v\n    output o = S @ w",
    "only the final state is wanted": "S = sigmoid(r) * S[t-1] + k * v\n    output o = v",
    "an outer product": "S = sigmoid(a) * S[t-1] + one_head(k) * v\n    output o = q @ S",
    "a learned initial state": "S = sigmoid(r) * S[t-1] + k * v\n    output o = q @ S + q @ S0",
    "a delta rule": "error = v - k @ S[t-1]\n    S = S[t-1] + sigmoid(a) * (k * error)\n    output o = q @ S",
    "a delta rule after decay": "P = sigmoid(r) * S[t-1]\n    S = P + k * (sigmoid(a) * (v - k @ P))"
    "\n    output o = q @ S",
    "a delta rule with reflections": "S = S[t-1] + k * (2 * sigmoid(a) * (v - k @ S[t-1]))\n    output o = q @ S",
    "a delta rule that reads elsewhere": "S = gate(r) * S[t-1] + k * (v - p @ S[t-1]) / 2\n    output o = q @ S",
    "a reading of the half-written memory": "P = tanh(a) * S[t-1] + k * v\n    S = P + p * (w - p @ P) / 2"
    "\n    output o = q @ S + q @ P",
    "nothing written but what was read": "S = S[t-1] - k * (k @ S[t-1])\n    output o = q @ S",
    "a choice of what is written": "S = if a > 0 then tanh(r) * S[t-1] + k * v else 0.5 * S[t-1]\n    output o = q @ S",
    "keys from the step before": "S = sigmoid(a) * S[t-1] + k[t-1] * v + k * w\n    output o = q @ S",
    "a projection as key": "S = sigmoid(a) * S[t-1] + (W @ x) * v\n    output o = q @ S",
}  # fmt: skip


# States S[H, K, V], M[H, K, V] and N[H, K, V], with the same inputs and rows of one step:
# Q[C, H, K], Y[C, H, K], U[C, H, V], y[C].
COUPLED = {
    "momentum": "S = sigmoid(a) * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = sigmoid(h) * M[t-1] + S\n    output o = q @ M",
    "momentum with factors zero at times": "S = gate(a) * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = gate(-a) * M[t-1] + gate(h) * S\n    output o = q @ M",
    "momentum with factors of exactly one": "S = unit(a) * S[t-1] / 2 + k * (v - k @ M[t-1]) / 2"
    "\n    M = unit(h) * M[t-1] + unit(-h) * S\n    output o = q @ M",
    "negative factors": "S = -0.8 * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = tanh(h) * M[t-1] - S\n    output o = q @ M",
    "a memory that keeps nothing of its own": "S = sigmoid(a) * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = S / 2\n    output o = q @ M",
    "a step that looks ahead": "S = sigmoid(a) * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = M[t-1] / 2 + sigmoid(h) * S + p * w\n    output o = q @ M + q @ S[t-1]",
    "two states that correct each other": "S = sigmoid(a) * S[t-1] + k * (v - k @ M[t-1]) / 2"
    "\n    M = sigmoid(h) * M[t-1] + p * (w - p @ S[t-1]) / 4\n    output o = q @ M + p @ S",
    "one error for two memories": "e = v - k @ S[t-1] - p @ M[t-1]\n    S = sigmoid(a) * S[t-1] + k * e / 4"
    "\n    M = sigmoid(h) * M[t-1] + p * e / 4\n    output o = q @ (M + S)",
    "factors that turn": "S = cos(a) * S[t-1] - sin(a) * M[t-1] + k * v"
    "\n    M = sin(a) * S[t-1] + cos(a) * M[t-1] + p * w\n    output o = q @ M",
    "three states in a row": "S = sigmoid(a) * S[t-1] + k * (v - k @ M[t-1]) / 2\n    N = tanh(h) * N[t-1] + S / 2"
    "\n    M = sigmoid(h) * M[t-1] + N\n    output o = q @ M + p @ N[t-1]",
    "several rows written": "M = sigmoid(a) * M[t-1] + sum(Q * U, C) / 4\n    output o = q @ M",
    "several rows read": "M = sigmoid(a) * M[t-1] + k * v\n    output o = Q @ M + Y @ M[t-1]",
    "a correction on several rows": "M = tanh(a) * M[t-1] + sum(Q * (y * (U - Q @ M[t-1])), C) / 16"
    "\n    output o = q @ M",
    "a correction on several rows that reads elsewhere": "M = M[t-1] + sum(Q * (U - Y @ M[t-1]), C) / 16 + k * v"
    "\n    output o = Q @ M",
    "momentum of several rows": "S = sigmoid(a) * S[t-1] + sum(Q * (U - Q @ M[t-1]), C) / 16"
    "\n    M = sigmoid(h) * M[t-1] + S\n    output o = q @ M",
}  # fmt: skip


def own(body: str) -> recurc.Recurrence:
    text = (
        "recurrence Own(H, K, V, D):\n"
        "    input  q[H, K], k[H, K] = 0, p[H, K], v[H, V], w[H, V], a, r[H, K], c[H, V], h[H], one[K], x[D]\n"
        "    param  fixed[K] ~ uniform(0.1, 0.9)\n"
        "    param  W[K, D] ~ uniform(-0.4, 0.4)\n"
        "    param  S0[H, K, V] ~ normal(0, 1)\n"
        "    state  S[H, K, V] = S0\n"
        "    fn gate(u) = if u > 0.3 then 0 else sigmoid(u)\n"
        "    fn one_head(u) = u\n"
        f"    {body}\n"
    )
    return recurc.load(text=text)


def coupled(body: str) -> recurc.Recurrence:
    states = "".join(f"    state  {s}[H, K, V] = {s}0\n" for s in ("S", "M", "N") if f"    {s} =" in f"    {body}")
    starts = "".join(f"    param  {s}0[H, K, V] ~ normal(0, 1)\n" for s in ("S", "M", "N") if f"state  {s}[" in states)
    return recurc.load(
        text="recurrence Own(H, K, V, C):\n"
        "    input  q[H, K], k[H, K], p[H, K], v[H, V], w[H, V], a, h[H]\n"
        "    input  Q[C, H, K], Y[C, H, K], U[C, H, V], y[C]\n"
        f"{starts}{states}"
        "    fn gate(u) = if u > 0.3 then 0 else sigmoid(u)\n"
        "    fn unit(u) = if u > 0 then 1 else 0.5\n"
        f"    {body}\n"
    )


def sizes_of(rec: recurc.Recurrence) -> dict[str, int]:
    if rec.ir.name == "OmegaNet":  # all monomials of degree 2 or less of K coordinates
        return {"K": 3, "V": 4, "C": 3, "P": 10}
    return {d.name: SIZES.get(d.same_as or d.name, 7) for d in rec.ir.dims}


def drawn(
    rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int, sizes: dict[str, int] | None = None
) -> Arrays:
    """Inputs `(B, T, *dims)`, params and initial states; keys of delta rules have length 1."""
    sizes = sizes or sizes_of(rec)

    def shape(dims: Dims) -> tuple[int, ...]:
        return tuple(int(d) if d.isdigit() else sizes[d] for d in dims)

    arrays = {i.name: rng.standard_normal((batch, steps, *shape(i.dims))) for i in rec.ir.inputs}
    for name in ("k", "p", "a", "b"):
        if name in arrays and arrays[name].ndim > 3 - (rec.ir.name not in ("Own", "RWKV7")):
            arrays[name] /= 1e-3 + np.sqrt((arrays[name] ** 2).sum(axis=-1, keepdims=True))
    for name, most in (("alpha", 1.0), ("eta", 1.0), ("theta", 0.5), ("gamma", 0.15)):
        if name in arrays and rec.ir.name.startswith(("Titans", "Omega")):
            arrays[name] = rng.uniform(0.0, most, arrays[name].shape)
    for name in ("alpha", "g", "rate"):
        if name in arrays and not rec.ir.name.startswith(("Titans", "Omega")):
            arrays[name] = (1 if name == "rate" else -1) * np.abs(arrays[name])
    arrays |= {p.name: rng.uniform(0.1, 0.9, shape(p.dims)) for p in rec.ir.params}
    arrays |= {f"{s.name}@initial": np.abs(rng.normal(0, 0.5, (batch, *shape(s.dims)))) for s in rec.ir.states}
    if rec.ir.name == "MesaNet":  # a sum of squares and a ridge, as it is of keys: no other matrix need be invertible
        arrays["A@initial"] = np.einsum("bij,bkj->bik", start := arrays["A@initial"], start)
        arrays["lam"] += 1
    arrays |= {
        f"{i.name}@initial": rng.standard_normal((batch, *shape(i.dims))) for i in rec.ir.inputs if i.before is not None
    }
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def call(rec: recurc.Recurrence, arrays: Arrays, real: Any, compiled: Any) -> Arrays:
    typed = {n: a.astype(real) for n, a in arrays.items()}
    initial = {n.partition("@")[0]: a for n, a in typed.items() if "@" in n}
    out, final = compiled(**{n: a for n, a in typed.items() if "@" not in n}, initial=initial, return_final=True)
    names = rec.ir.outputs
    found = {names[0]: out} if len(names) == 1 else dict(zip(names, out, strict=True))
    return found | {f"{s.name}@final": final[s.name] for s in rec.ir.states}


def agree(found: Arrays, ref: Arrays, real: Any, steps: int, corrects: bool, what: str) -> None:
    for name, have in found.items():
        want = ref[name]
        error = np.abs(have.astype(np.float64) - want)
        bound: Any = 1e-9 * (1 + np.abs(want))
        if real is np.float32:
            bound = (
                1e-6 * (1 + np.log2(max(steps, 1))) * max(1.0, np.abs(want).max(initial=0)) * (10 if corrects else 1)
            )
        assert have.shape == want.shape and not np.isnan(have).any(), f"{what}: {name}"
        worst = float(np.max(error / bound, initial=0.0))
        assert worst <= 1, f"{what}: {name} is off by {float(error.max()):.2e}, {worst:.2f} times the bound"


def check(rec: recurc.Recurrence, backend: str, steps: int, seed: int) -> None:
    rng = np.random.default_rng([seed, steps, zlib.crc32(rec.ir.name.encode())])
    batch = 2 if steps < 4096 else 1
    arrays = drawn(rec, rng, batch, steps)
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    ref = reference.run(rec.ir, wide, batch, steps)
    corrects = any(g.low_rank is not None and g.low_rank.corrects for g in rec.analyze().groups)
    for real in (np.float64, np.float32):
        compiled = rec.compile(backend=backend, schedule="chunkwise")
        found = call(rec, arrays, real, compiled)
        agree(found, ref, real, steps, corrects, f"{rec.ir.name} on {backend}, T {steps}, {real.__name__}, seed {seed}")


@pytest.mark.parametrize("name", [*SYSTEMS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_SYSTEMS)])
def test_systems_of_the_zoo_agree_with_the_definition(name: str, backend: str, session_seed: int) -> None:
    rng = np.random.default_rng([session_seed, zlib.crc32(name.encode())])
    for steps in sorted({0, 1, int(rng.integers(2, 8)), 64, int(rng.integers(65, 257))}):
        check(zoo.load(name), backend, steps, session_seed)


@pytest.mark.parametrize("name", ["simple_gla", "gla", "gated_delta_net", "rwkv7"])
@pytest.mark.parametrize("steps", STEPS)
def test_lengths(name: str, steps: int, backend: str, session_seed: int) -> None:
    check(zoo.load(name), backend, steps, session_seed)


@pytest.mark.parametrize("name", ["titans_linear", "omega_net_linear"])
@pytest.mark.parametrize("steps", [pytest.param(n, marks=pytest.mark.slow if n == 4096 else ()) for n in STEPS])
def test_lengths_of_several_states_and_of_several_rows(name: str, steps: int, backend: str, session_seed: int) -> None:
    check(zoo.load(name), backend, steps, session_seed)


def coupled_agrees(what: str, backend: str, seed: int) -> None:
    rec = coupled(COUPLED[what])
    groups = [g for g in rec.analyze().groups if "chunkwise" in g.schedules]
    assert groups, [str(r) for g in rec.analyze().groups for r in g.reasons]
    for steps in (1, 7, 150):
        check(rec, backend, steps, seed)


def test_some_coupled_states_agree_with_the_definition(backend: str, session_seed: int) -> None:
    for what in np.random.default_rng(session_seed).choice(sorted(COUPLED), 2, replace=False):
        coupled_agrees(str(what), backend, session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("what", COUPLED)
def test_coupled_states_agree_with_the_definition(what: str, backend: str, session_seed: int) -> None:
    coupled_agrees(what, backend, session_seed)


@pytest.mark.parametrize("what", OWN)
def test_updates_agree_with_the_definition(what: str, backend: str, session_seed: int) -> None:
    rec = own(OWN[what])
    assert "chunkwise" in rec.analyze().groups[0].schedules, rec.analyze().groups[0].reasons
    for steps in (1, 7, 150):
        check(rec, backend, steps, session_seed)


@pytest.mark.parametrize("name", ["retnet", "gla", "gsa", "gated_delta_product", "titans_linear", "omega_net_linear"])
def test_pieces_joined_by_the_final_state_are_the_whole(name: str, backend: str, session_seed: int) -> None:
    rec, steps = zoo.load(name), 150
    arrays = drawn(rec, np.random.default_rng(session_seed), 2, steps)
    inputs = {i.name for i in rec.ir.inputs}
    compiled = rec.compile(backend=backend, schedule="chunkwise")
    values: dict[str, Any] = {n: a.astype(np.float64) for n, a in arrays.items() if "@" not in n}
    whole, last = compiled(**values, return_final=True)
    parts: list[np.ndarray] = []
    state: dict[str, np.ndarray] | None = None
    for piece in (slice(0, 1), slice(1, 70), slice(70, steps)):
        some = {n: a[:, piece] if n in inputs else a for n, a in values.items()}
        out, state = compiled(**some, initial=state, return_final=True)
        parts.append(out)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-9, atol=1e-9)
    assert state is not None
    for state_name, value in last.items():
        np.testing.assert_allclose(state[state_name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["simple_gla", "gla", "delta_net", "gsa"])
def test_rows_of_a_batch_may_end_before_others(name: str, backend: str, session_seed: int) -> None:
    rec, steps = zoo.load(name), 90
    arrays = drawn(rec, np.random.default_rng(session_seed), 3, steps)
    values: dict[str, Any] = {n: a.astype(np.float64) for n, a in arrays.items() if "@" not in n}
    lengths = np.array([90, 0, 37])
    results = [
        rec.compile(backend=backend, schedule=s)(**values, lengths=lengths, return_final=True)
        for s in ("chunkwise", "sequential")
    ]
    (out, final), (other, last) = results
    np.testing.assert_allclose(out, other, rtol=1e-9, atol=1e-9)
    for state in final:
        np.testing.assert_allclose(final[state], last[state], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("what", ["decay by step, zero at times", "decay by columns", "a delta rule after decay"])
def test_an_infinity_reaches_no_step_before_it(what: str, backend: str, session_seed: int) -> None:
    """Products with zeros of the steps before would make NaNs of it."""
    rec, steps, at = own(OWN[what]), 80, 41
    arrays = drawn(rec, np.random.default_rng(session_seed), 2, steps)
    values: dict[str, Any] = {n: a.astype(np.float64) for n, a in arrays.items() if "@" not in n}
    values["v"][1, at, 0, 1] = np.inf
    chunkwise, looped = (rec.compile(backend=backend, schedule=s)(**values) for s in ("chunkwise", "sequential"))
    assert np.isfinite(looped[1, :at]).all() and not np.isfinite(looped[1, at:]).all()
    np.testing.assert_allclose(chunkwise, looped, rtol=1e-9, atol=1e-9)


def test_a_backend_without_the_schedule_says_so() -> None:
    from recurc.backends.base import Specialization
    from recurc.passes import make_plan
    from recurc.runtime.choose import backend as load
    from recurc.targets import named
    from recurc.types import DType

    sizes = {"K": 4, "V": 6}
    plan = make_plan(zoo.load("gla").ir, sizes, 1, 64, DType.F32, named("sm_90"), "chunkwise")
    spec = Specialization(tuple(sizes.items()), DType.F32)
    assert any("chunkwise" in limit for limit in load("cuda").limitations(plan, spec))


def test_a_forced_schedule_is_refused_in_words_where_it_cannot_be() -> None:
    rec = recurc.load(
        text="recurrence Whole(K, V):\n    input k[K], v[V]\n    state S[K, V] = 0\n\n"
        "    S = 0.9 * S[t-1] + k * v\n    output S\n"
    )
    with pytest.raises((UnsupportedError, BackendError), match="S is an output, so every step needs all of it"):
        rec.compile(backend="numpy", schedule="chunkwise")
