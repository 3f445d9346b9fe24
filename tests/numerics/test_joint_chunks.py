"""Chunks with the same keys in one stage mean what the definition says: vectors beside matrices, several matrices.

The bounds are those of `test_chunkwise`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import recurc
from recurc import zoo
from recurc.plan import JointChunk
from tests.numerics.test_chunkwise import check, drawn

STEPS = (0, 1, 2, 3, 17, 257)
SYSTEMS = ("linear_attention", "mlstm_sigmoid", "mlstm", "based")

# States S[H, K, V], Z[H, K, V], n[H, K] and m[H, K], with inputs q, k, p (rows), v, w (columns), a (a number),
# r (rows), h (heads); the states of each stage.
JOINT = {
    "a normaliser": ("S = S[t-1] + k * v\n    n = n[t-1] + k\n    output o = q @ S + sum(q * n, K)", ["Sn"]),
    "a decay by step": (
        "S = gate(a) * S[t-1] + k * v\n    n = gate(a) * n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a decay per head, of both signs": (
        "S = tanh(h) * S[t-1] + k * v\n    n = tanh(h) * n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a decay by rows": (
        "S = gate(r) * S[t-1] + k * v\n    n = gate(r) * n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a decay of zero": (
        "S = 0 * S[t-1] + k * v\n    n = 0 * n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "read before the step": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k"
        "\n    output o = q @ S[t-1], d = sum(q * n[t-1], K)",
        ["Sn"],
    ),
    "read before and after, by other queries": (
        "S = sigmoid(r) * S[t-1] + k * v\n    n = sigmoid(r) * n[t-1] + k"
        "\n    output o = q @ S + p @ S[t-1], d = sum(q * n[t-1], K) + sum(tanh(p) * n, K)",
        ["Sn"],
    ),
    "a vector that is read of alone": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k\n    output o = v, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a vector of which only the end is wanted": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k\n    output o = q @ S",
        ["Sn"],
    ),
    "numbers beside the keys": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + a * (h * k) / 2"
        "\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a number beside both": (
        "S = sigmoid(a) * S[t-1] + h * (k * v)\n    n = sigmoid(a) * n[t-1] - h * k"
        "\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "two writes": (
        "S = sigmoid(a) * S[t-1] + k * v - p * w\n    n = sigmoid(a) * n[t-1] + h * p + k"
        "\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "a vector that comes first": (
        "n = sigmoid(a) * n[t-1] + k\n    S = sigmoid(a) * S[t-1] + k * v\n    output o = q @ S, d = sum(q * n, K)",
        ["Sn"],
    ),
    "two vectors": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k\n    m = sigmoid(a) * m[t-1] + a * k"
        "\n    output o = q @ S, d = sum(q * n, K), e = sum(p * m, K)",
        ["Snm"],
    ),
    "two matrices": (
        "S = sigmoid(a) * S[t-1] + k * v\n    Z = sigmoid(a) * Z[t-1] + k * w\n    output o = q @ S, e = q @ Z",
        ["SZ"],
    ),
    "two matrices read in other ways, and a vector": (
        "S = sigmoid(r) * S[t-1] + tanh(k) * v\n    Z = sigmoid(r) * Z[t-1] + tanh(k) * w"
        "\n    n = sigmoid(r) * n[t-1] + tanh(k)\n    output o = q @ S + p @ S[t-1], e = q @ Z, d = sum(p * n[t-1], K)",
        ["SZn"],
    ),
    "values of one by what was read of the other": (
        "S = sigmoid(a) * S[t-1] + k * v\n    Z = sigmoid(a) * Z[t-1] + k * tanh(q @ S)\n    output o = q @ Z",
        [],
    ),
    "a number by what was read of the matrix": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + sum(tanh(q @ S), V) * k"
        "\n    output o = q @ S, d = sum(q * n, K)",
        [],
    ),
    "other keys": ("S = S[t-1] + k * v\n    n = n[t-1] + p\n    output o = q @ S, d = sum(q * n, K)", []),
    "one key more": ("S = S[t-1] + k * v\n    n = n[t-1] + k + p\n    output o = q @ S, d = sum(q * n, K)", []),
    "other decays": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(h) * n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        [],
    ),
    "a decay and none": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        [],
    ),
    "a vector that is wanted whole": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k\n    output o = q @ S, n",
        [],
    ),
    "a vector whose elements are read": (
        "S = sigmoid(a) * S[t-1] + k * v\n    n = sigmoid(a) * n[t-1] + k\n    output o = q @ S, d = max(n, K)",
        [],
    ),
    "two matrices with other keys": (
        "S = sigmoid(a) * S[t-1] + k * v\n    Z = sigmoid(a) * Z[t-1] + p * w\n    output o = q @ S, e = q @ Z",
        [],
    ),
    "a decay along the columns": (
        "S = sigmoid(v) * S[t-1] + k * v\n    Z = sigmoid(v) * Z[t-1] + k * w\n    output o = q @ S, e = q @ Z",
        [],
    ),
    "corrections": (
        "S = S[t-1] + k * (v - k @ S[t-1])\n    n = n[t-1] + k\n    output o = q @ S, d = sum(q * n, K)",
        [],
    ),
}


def system(body: str) -> recurc.Recurrence:
    states = [f"    state  {s}[H, K, V] = {s}0\n" for s in "SZ" if f"{s} = " in body]
    states += [f"    state  {s}[H, K] = {s}0\n" for s in "nm" if f"{s} = " in body]
    starts = [line.replace("state ", "param ").replace(f" = {line[11]}0", " ~ normal(0, 1)") for line in states]
    starts = [line.replace(f"{line[11]}[", f"{line[11]}0[") for line in starts]
    return recurc.load(
        text="recurrence Own(H, K, V):\n"
        "    input  q[H, K], k[H, K], p[H, K], v[H, V], w[H, V], a, r[H, K], h[H]\n"
        f"{''.join(starts)}{''.join(states)}"
        "    fn gate(u) = if u > 0.3 then 0 else sigmoid(u)\n"
        f"    {body}\n"
    )


def stages(compiled: Any) -> list[str]:
    return ["".join(c.name for c in s.carries) for s in compiled.plan.stages if isinstance(s, JointChunk)]


@pytest.mark.parametrize("what", JOINT)
def test_which_run_in_one_stage_and_what_they_mean(what: str, backend: str, session_seed: int) -> None:
    body, wanted = JOINT[what]
    rec = system(body)
    compiled = rec.compile(backend=backend, schedule="chunkwise", sizes={"H": 3, "K": 5, "V": 4})
    arrays = drawn(rec, np.random.default_rng(session_seed), 2, 9)
    compiled(**{n: a for n, a in arrays.items() if "@" not in n})
    assert sorted(map(sorted, stages(compiled))) == sorted(map(sorted, wanted))
    for steps in (1, 7, 150):
        check(rec, backend, steps, session_seed)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("steps", STEPS)
def test_lengths(name: str, steps: int, backend: str, session_seed: int) -> None:
    check(zoo.load(name), backend, steps, session_seed)


def test_pieces_joined_by_the_final_state_are_the_whole(backend: str, session_seed: int) -> None:
    rec, steps = system(JOINT["two matrices read in other ways, and a vector"][0]), 150
    arrays = drawn(rec, np.random.default_rng(session_seed), 2, steps)
    inputs = {i.name for i in rec.ir.inputs}
    compiled = rec.compile(backend=backend, schedule="chunkwise")
    values: dict[str, Any] = {n: a.astype(np.float64) for n, a in arrays.items() if "@" not in n}
    whole, last = compiled(**values, return_final=True)
    assert stages(compiled) == ["SZn"]
    parts: list[Any] = []
    state: dict[str, np.ndarray] | None = None
    for piece in (slice(0, 1), slice(1, 70), slice(70, steps)):
        some = {n: a[:, piece] if n in inputs else a for n, a in values.items()}
        out, state = compiled(**some, initial=state, return_final=True)
        parts.append(out)
    for number, value in enumerate(whole):
        joined = np.concatenate([p[number] for p in parts], axis=1)
        np.testing.assert_allclose(joined, value, rtol=1e-9, atol=1e-9)
    assert state is not None
    for name, value in last.items():
        np.testing.assert_allclose(state[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("what", ["a decay by step", "a decay by rows", "two matrices"])
@pytest.mark.parametrize("where", ["k", "v", "a"])
def test_an_infinity_reaches_no_step_before_it(what: str, where: str, backend: str, session_seed: int) -> None:
    """Nor another head, or another state."""
    rec, steps, at = system(JOINT[what][0]), 80, 41
    arrays = drawn(rec, np.random.default_rng(session_seed), 2, steps)
    values: dict[str, Any] = {n: a.astype(np.float64) for n, a in arrays.items() if "@" not in n}
    values[where][(1, at, 1, 1)[: values[where].ndim]] = np.inf if where != "a" else np.nan
    chunkwise, looped = (rec.compile(backend=backend, schedule=s)(**values) for s in ("chunkwise", "sequential"))
    for have, want in zip(chunkwise, looped, strict=True):
        assert np.isfinite(want[1, :at]).all()
        np.testing.assert_allclose(have, want, rtol=1e-9, atol=1e-9)
