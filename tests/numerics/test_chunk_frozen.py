"""Chunks with frozen states against the float64 definition, from any step of a chunk on.

**The bounds** are those of `tests.numerics.cases`: `1e-9 (1 + |ref|)` in float64; in float32 `1e-6 (1 + log2 T)` of the
largest reference value: the states forget or are bounded at the values drawn, and what is reassociated are sums over a
dim, as everywhere."""

from __future__ import annotations

import math
import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import passes, targets, zoo
from recurc.errors import UnsupportedError
from recurc.plan import Frozen, Loop, Map, Matmul
from recurc.runtime.threads import thread_count
from recurc.types import DType, Kind

Arrays = dict[str, np.ndarray]
SYSTEMS = ("titans_linear_chunked", "titans_linear_previous_chunk", "titans_mlp_chunked", "ttt_linear", "ttt_mlp")
BACKENDS = ("numpy", "cpu")
SIZES = {"H": 3, "K": 5, "V": 7, "E": 6, "C": 4}
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 64, 257)  # C is 4: C - 1, C and C + 1 are among them

# Inputs k, q (K), v (V), a; all states are M[K, V] and whatever is declared.
TAKEN = "\n        state F[K, V] = 0\n        F = M[t-1]\n    "
HELD = f"every 4:{TAKEN}"
STEP = "M = sigmoid(a) * M[t-1] + k * (v - k @ F)\n    "
OWN = {
    "a chunk that starts at its third step": f"when t % 5 == 2:{TAKEN}{STEP}output y = q @ M",
    "a chunk as long as a dim": f"every V:{TAKEN}{STEP}output y = q @ M",
    "all states put out": f"{HELD}{STEP}output M, F",
    "what is frozen, by itself": f"{HELD}{STEP}output y = q @ F, z = F @ v, w = sum(F, K, V)",
    "a function of what is frozen": f"{HELD}G = F / (1 + sum(F**2, K, V))\n    "
    "M = sigmoid(a) * M[t-1] + k * (v - k @ G)\n    output y = q @ M, z = G @ v",
    "a number beside a matrix": f"state n = 0\n    {HELD}n = 0.9 * n[t-1] + sum(k @ F, V)\n"
    "    M = 0.9 * M[t-1] + k * (v - sigmoid(n) * (k @ F))\n    output y = q @ M / (1 + n**2)",
    "the step before": f"{HELD}M = sigmoid(a) * M[t-1] + k * (v[t-1] - k[t-1] @ F)\n    output y = q @ M[t-1]",
    "groups before and behind": "state g[K] = 0, h[V] = 0\n    g = 0.5 * tanh(g[t-1]) + k\n    "
    f"{HELD}M = sigmoid(a) * M[t-1] + g * (v - g @ F)\n    u = q @ M\n    "
    "h = 0.5 * tanh(h[t-1] + u)\n    output h, u",
    "a group that reads what is frozen": f"state h[V] = 0\n    {HELD}{STEP}"
    "h = tanh(0.5 * h[t-1] + k @ F)\n    output h",
    "a product with a param": f"param W[V, V]\n    {HELD}"
    "M = sigmoid(a) * M[t-1] + k * (W @ tanh(k @ F))\n    output y = W @ (q @ M)",
    "two that are frozen": "state N[K, V] = 0\n    every 3:\n        state F[K, V] = 0, G[K, V] = 0\n        "
    "F = M[t-1]\n        G = N[t-1]\n    M = sigmoid(a) * M[t-1] + k * (v - k @ G)\n    "
    "N = 0.5 * N[t-1] + q * tanh(q @ F)\n    output y = q @ M + k @ N",
}


def own(name: str) -> recurc.Recurrence:
    head = "recurrence R(K, V):\n    input k[K] = 0, q[K], v[V] = 0, a\n    state M[K, V] = 0\n    "
    return recurc.load(text=f"{head}{OWN[name]}\n")


def load(name: str) -> recurc.Recurrence:
    return own(name) if name in OWN else zoo.load(name)


def sizes_of(rec: recurc.Recurrence, sizes: dict[str, int]) -> dict[str, int]:
    found = {d.name: sizes[d.name] for d in rec.ir.dims}
    return found | {d.name: found[d.same_as] for d in rec.ir.dims if d.same_as is not None}


def draw(rec: recurc.Recurrence, rng: np.random.Generator, sizes: dict[str, int], batch: int, steps: int) -> Any:
    """Inputs and params, and states to start from in the middle of a chunk, each sequence in its own. Values are those
    that float32 holds; long vectors have a length of about 1.5, so that a memory trained on them does not blow up."""

    def value(dims: tuple[str, ...], lead: tuple[int, ...], scale: float) -> np.ndarray:
        drawn = rng.standard_normal((*lead, *(sizes[d] for d in dims)))
        drawn *= scale / max(1.0, math.sqrt(max((sizes[d] for d in dims), default=1) / 16))
        return drawn.astype(np.float32).astype(np.float64)

    arrays: Arrays = {}
    for given in rec.ir.inputs:
        arrays[given.name] = value(given.dims, (batch, steps), 0.4)
        if given.name in ("alpha", "eta", "theta", "lr"):
            arrays[given.name] = np.float64(np.float32(0.4 / (1 + np.exp(-arrays[given.name]))))
    arrays |= {p.name: value(p.dims, (), 0.4) for p in rec.ir.params}
    initial = {s.name: value(s.dims, (batch,), 0.4) for s in rec.ir.states}
    initial["t"] = rng.integers(0, 9, batch) if rng.random() < 0.7 else np.full(batch, rng.integers(0, 9))
    return arrays, initial


def typed(arrays: Arrays, dtype: Any) -> Arrays:
    return {n: a if a.dtype.kind == "i" else a.astype(dtype) for n, a in arrays.items()}


def results(rec: recurc.Recurrence, called: Any) -> Arrays:
    outputs, last = called
    outputs = outputs if len(rec.ir.outputs) > 1 else (outputs,)
    return dict(zip(rec.ir.outputs, map(np.asarray, outputs), strict=True)) | {f"{n}[T]": a for n, a in last.items()}


def same(found: Arrays, wanted: Arrays, steps: int, dtype: Any, what: str) -> None:
    assert found.keys() == wanted.keys()
    for name, want in wanted.items():
        have = found[name].astype(np.float64)
        assert have.shape == want.shape, f"{what}: {name}"
        room = 1e-9 * (1 + np.abs(want))
        if dtype is np.float32:
            room = 1e-6 * (1 + np.log2(max(steps, 1))) * max(1.0, float(np.abs(want).max(initial=0.0)))
        assert (np.abs(have - want) <= room).all(), f"{what}: {name} is off by {np.abs(have - want).max():.3g}"


def check(
    name: str, backend: str, seed: int, steps: int, dtype: Any = np.float64, batch: int = 3, given: Any = None
) -> None:
    """One call, and the same steps in pieces, against the reference."""
    rec = load(name)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), steps])
    sizes = sizes_of(rec, SIZES | (given or {}))
    arrays, initial = draw(rec, rng, sizes, batch, steps)
    reference = rec.compile(backend="reference", sizes=sizes)
    wanted = results(rec, reference(**arrays, initial=initial, return_final=True))
    kernel = rec.compile(backend=backend, schedule="chunk-frozen", sizes=sizes)
    arrays, state = typed(arrays, dtype), typed(initial, dtype)
    what = f"{name} on {backend}, T = {steps}, from {initial['t']}"
    same(results(rec, kernel(**arrays, initial=state, return_final=True)), wanted, steps, dtype, what)
    cuts = sorted({0, steps, *rng.integers(0, steps + 1, 2).tolist()})
    pieces: list[Arrays] = []
    for begin, end in pairwise(cuts):
        part = {n: a[:, begin:end] if n in rec.inputs else a for n, a in arrays.items()}
        outputs, state = kernel(**part, initial=state, return_final=True)
        pieces.append(results(rec, (outputs, state)))
    if pieces:
        joined = {n: np.concatenate([p[n] for p in pieces], axis=1) for n in rec.ir.outputs}
        same(pieces[-1] | joined, wanted, steps, dtype, f"{what}, in pieces {cuts}")


def sample(seed: int, *names: str) -> list[tuple[str, str, int]]:
    rng = np.random.default_rng(seed)
    return [(str(rng.choice(names)), backend, int(rng.choice(LENGTHS[1:-1]))) for backend in BACKENDS]


def test_a_system_of_the_zoo_agrees_from_any_step_on(seed: int) -> None:
    for name, backend, steps in sample(seed, *SYSTEMS[:4]):
        check(name, backend, seed, steps)


def test_a_recurrence_of_ones_own_agrees_from_any_step_on(seed: int) -> None:
    for name in OWN:
        check(name, "numpy", seed, 14)
    for name, _, steps in sample(seed, *OWN):
        check(name, "cpu", seed, steps)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*SYSTEMS, *OWN])
def test_every_length(name: str, backend: str, dtype: Any, seed: int) -> None:
    for steps in LENGTHS:
        check(name, backend, seed, steps, dtype)


def test_threads_share_the_stages_of_a_chunk(seed: int) -> None:
    """One sequence, and work enough for every thread."""
    name = "a number beside a matrix" if seed % 2 else "a function of what is frozen"
    check(name, "cpu", seed, 6, batch=1, given={"K": 3, "V": 60000 * thread_count()})


def test_a_chunk_goes_on_in_the_next_piece_of_time(seed: int) -> None:
    """Rows so large that the steps go through memory in pieces of 24."""
    check("a number beside a matrix", "cpu", seed, 29, batch=4 * thread_count(), given={"K": 3, "V": 1500})


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SYSTEMS[:4], *OWN])
def test_every_one_with_threads_and_pieces_of_time(name: str, seed: int) -> None:
    for batch in (1, 3, 4 * thread_count()):
        rows = 400 if "param" in name else 1500  # a param of V by V
        check(name, "cpu", seed, 29, batch=batch, given={"K": 3, "V": rows, "E": 17, "H": 2})


# --- what the plan is -------------------------------------------------------------------------------------------------


def plan_of(rec: recurc.Recurrence, sizes: dict[str, int]) -> Frozen:
    plan = passes.make_plan(rec.ir, sizes, 8, 64, DType.F32, targets.named("cpu"), "chunk-frozen")
    (stage,) = (s for s in plan.stages if isinstance(s, Frozen))
    return stage


def test_products_with_what_is_frozen_are_made_for_the_whole_chunk() -> None:
    rec = zoo.load("ttt_linear")
    stage = plan_of(rec, sizes_of(rec, SIZES | {"K": 64, "C": 16}))
    kinds = [type(s) for s in stage.inside.stages]
    assert kinds == [Matmul, Map, Loop, Map], "the product, the gradient, the loop of the weights, the norm behind it"
    (loop,) = (s for s in stage.inside.stages if isinstance(s, Loop))
    assert {c.name for c in loop.carries} == {"W", "b", "dW", "db"}


# --- what it is not for -----------------------------------------------------------------------------------------------

REFUSED = {
    "takes over what is computed": HELD.replace("F = M[t-1]", "F = 2 * M[t-1]") + STEP + "output y = q @ M",
    "is read as it was a step before": HELD + STEP + "output y = q @ F[t-1]",
    "change at different steps": HELD + "when t % 4 == 1:\n        state G[K, V] = 0\n        G = M[t-1]\n    "
    "M = sigmoid(a) * M[t-1] + k * (v - k @ F - k @ G)\n    output y = q @ M",
    "may never change": HELD.replace("every 4", "when t % 4 == 7") + STEP + "output y = q @ M",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_refusal_says_why(word: str) -> None:
    head = "recurrence R(K, V):\n    input k[K], q[K], v[V], a\n    state M[K, V] = 0\n    "
    rec = recurc.load(text=f"{head}{REFUSED[word]}\n")
    (group,) = rec.analyze().groups
    assert group.schedules == ("sequential",)
    assert group.cls == "CF"
    assert any(word in str(reason) for reason in group.refused)
    with pytest.raises(UnsupportedError, match="not legal here"):
        rec.compile(backend="numpy", schedule="chunk-frozen")


def test_complex_numbers_go_step_by_step() -> None:
    rec = recurc.load(
        text="recurrence R(K):\n    input x[K]: complex\n    state M[K]: complex = 0\n    every 4:\n"
        "        state F[K]: complex = 0\n        F = M[t-1]\n    M = 0.5 * M[t-1] + x * sum(F, K)\n    output M\n"
    )
    assert all("chunk-frozen" not in g.schedules for g in rec.analyze().groups)
    assert rec.ir.states[0].dtype.kind is Kind.COMPLEX
