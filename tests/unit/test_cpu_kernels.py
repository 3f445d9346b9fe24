"""Native kernels against the reference: the five systems, and bodies of every other shape."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recurc import targets
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.frontend import load_text
from recurc.passes import core_form, make_plan
from recurc.passes.complex_parts import split_complex
from recurc.plan import Plan, Role
from recurc.types import DType, Kind
from tests.systems import SIZES, SYSTEMS, plans, random_arrays

pytestmark = pytest.mark.skipif(BACKEND.unavailable() is not None, reason="no C compiler here")

PLANS = plans()
ODD = {
    "ema": {"D": 37},
    "lstm": {"D": 9, "H": 35},
    "gru": {"D": 18, "H": 33},
    "selective_scan": {"D": 35, "N": 3},
    "aaren": {"D": 67},
}
EVEN = {
    "ema": {"D": 64},
    "lstm": {"D": 16, "H": 48},
    "gru": {"D": 5, "H": 32},
    "selective_scan": {"D": 48, "N": 16},
    "aaren": {"D": 32},
}


def bound(real: DType, steps: int) -> float:
    """Units of rounding, a few for each of the roughly 30 dependent operations of a step; gates forget older errors,
    so the length of the sequence only enters through its logarithm."""
    unit = 2.0**-24 if real is DType.F32 else 2.0**-53
    return unit * 64 * (2 + math.log2(1 + steps))


def shape(dims: tuple[str, ...], spec: Specialization) -> tuple[int, ...]:
    return tuple(spec.size(d) for d in dims)


def results(plan: Plan, spec: Specialization, batch: int, steps: int, dtype: type) -> dict[str, np.ndarray]:
    out = {}
    for b in plan.buffers:
        if b.role in (Role.OUTPUT, Role.FINAL):
            lead = (batch, steps) if b.has_time else (batch,)
            kind = dtype if b.dtype.kind is Kind.REAL else b.dtype.to_numpy()
            out[b.name] = np.full((*lead, *shape(b.dims, spec)), 99, kind)
    return out


def compare(got: dict[str, np.ndarray], want: dict[str, np.ndarray], limit: float) -> None:
    for name, array in got.items():
        scale = max(1.0, float(np.max(np.abs(want[name]), initial=0.0)))
        error = float(np.max(np.abs(array - want[name]), initial=0.0)) / scale
        assert error < limit, f"{name}: error {error:.2e} over {limit:.2e}"


@pytest.mark.parametrize("real", [DType.F32, DType.F64], ids=str)
@pytest.mark.parametrize("key", list(PLANS), ids="-".join)
def test_systems_agree_with_the_reference(key: tuple[str, str], real: DType, rng: np.random.Generator) -> None:
    dtype = np.float32 if real is DType.F32 else np.float64
    for sizes in (SIZES[key[0]], ODD[key[0]], EVEN[key[0]]):
        spec = Specialization(tuple(sorted(sizes.items())), real)
        kernel = BACKEND.build(PLANS[key], spec)
        for batch, steps in ((1, 1), (1, 2), (2, 3), (13, 7), (3, 64), (1, 257)):
            arrays = {n: a.astype(dtype) for n, a in random_arrays(key[0], rng, batch, steps, sizes).items()}
            exact = {n: a.astype(np.float64) for n, a in arrays.items()}
            want = reference.run(SYSTEMS[key[0]](), exact, batch, steps)
            got = results(PLANS[key], spec, batch, steps, dtype)
            kernel({**arrays, **got}, batch, steps)
            compare(got, want, bound(real, steps))


BODIES = {
    "matrix memory with a delta rule": (
        """recurrence GatedDelta(K, V):
    input q[K], k[K], v[V], beta, g
    state S[K, V] = 0
    P = exp(-softplus(g)) * S[t-1]
    S = P + 0.2 * k * (beta * (v - k @ P))
    output o = q @ S
""",
        {"K": 5, "V": 19},
    ),
    "a product with a value of the same step": (
        """recurrence GRUBefore(D, H):
    input x[D]
    param W[3, H, D], U[2, H, H], Un[H, H], b[3, H]
    state h[H] = 0.1
    wr, wz, wn = W @ x + b
    ur, uz = U @ h[t-1]
    r = sigmoid(wr + ur)
    z = sigmoid(wz + uz)
    n = tanh(wn + Un @ (r * h[t-1]))
    h = (1 - z) * n + z * h[t-1]
    output h
""",
        {"D": 6, "H": 21},
    ),
    "reductions over the lanes": (
        """recurrence Soft(D):
    input x[D]
    param A[D, D]
    state h[D] = 0
    h = softmax(x + A @ h[t-1], D)
    output y = h * norm(x, D) + max(x, D)
""",
        {"D": 23},
    ),
    "a normalised cell": (
        """recurrence LN(D, H):
    input x[D]
    param W[H, D], U[H, H]
    state h[H] = 0
    h = tanh(layernorm(W @ x + U @ h[t-1], H))
    output h
""",
        {"D": 5, "H": 35},
    ),
    "conditions, a counter and the step index": (
        """recurrence Cond(D):
    input x[D]
    state h[D] = 1
    state n = 0
    n = n[t-1] + 1
    h = if x > 0 then 0.5 * h[t-1] + x else h[t-1] - 0.1 * max(x, D)
    output y = h + n * t
""",
        {"D": 20},
    ),
    "block-diagonal weights": (
        """recurrence Mat(N, P):
    input x[N, P]
    param R[N, P, P], W[N, P]
    state h[N, P] = 0
    h = tanh(R @ h[t-1] + W * x)
    output y = sum(h, P)
    output h
""",
        {"N": 3, "P": 18},
    ),
    "no dims at all": (
        """recurrence Counter():
    input x
    state c = 0
    state best = -inf
    c = 0.9 * c[t-1] + x
    best = max(best[t-1], x)
    output y = c + best
""",
        {},
    ),
    "the input of the step before": (
        """recurrence Lag(D):
    input x[D] = 0.5
    state h[D] = 0
    h = 0.5 * h[t-1] + x - x[t-1]
    output y = h + x[t-1]
""",
        {"D": 9},
    ),
    "an integer from argmax": (
        """recurrence Arg(D, K):
    input x[K], v[D]
    state h[D] = 0
    j = argmax(x, K)
    h = 0.9 * h[t-1] + v * j
    output h
""",
        {"D": 17, "K": 4},
    ),
    "every function": (
        """recurrence F(D):
    input x[D]
    state h[D] = 0
    a = sin(x) + cos(x) * erf(x) + log1p(abs(x)) - expm1(-abs(x)) + sqrt(abs(x)) + atan2(x, 1 + abs(x))
    b = floor(x) + round(x) + sign(x) + logaddexp(x, 0.5) + gelu(x) + elu(x) + x % 3 + log(1 + x * x)
    h = 0.5 * h[t-1] + a + b + (1 + abs(x)) ** 1.5 + silu(x) + clamp(x, -1, 1)
    output h
""",
        {"D": 19},
    ),
}


@pytest.mark.parametrize("name", list(BODIES))
def test_bodies_agree_with_the_reference(name: str, rng: np.random.Generator) -> None:
    text, sizes = BODIES[name]
    rec = core_form(load_text(text)[0])
    for real, dtype in ((DType.F32, np.float32), (DType.F64, np.float64)):
        spec = Specialization(tuple(sorted(sizes.items())), real)
        for batch, steps in ((1, 1), (2, 3), (9, 5)):
            plan = make_plan(rec, sizes, batch, steps, real, targets.named("cpu"))
            kernel = BACKEND.build(plan, spec)
            arrays = {}
            for b in plan.buffers:
                lead = {Role.INPUT: (batch, steps), Role.PARAM: (1,), Role.INITIAL: (batch,)}.get(b.role)
                if lead is not None:
                    arrays[b.name] = (rng.standard_normal((*lead, *shape(b.dims, spec))) / 2).astype(
                        dtype if b.dtype.kind is Kind.REAL else b.dtype.to_numpy()
                    )
            exact = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
            want = reference.run(rec, exact, batch, steps)
            got = results(plan, spec, batch, steps, dtype)
            kernel({**arrays, **got}, batch, steps)
            compare(got, want, 4 * bound(real, steps))


def lstm_case(rng: np.random.Generator, batch: int, steps: int) -> tuple[Plan, Specialization, dict[str, np.ndarray]]:
    sizes = {"D": 6, "H": 20}
    spec = Specialization(tuple(sorted(sizes.items())), DType.F64)
    return PLANS["lstm", "sequential"], spec, random_arrays("lstm", rng, batch, steps, sizes)


def test_any_batch_and_time_strides(rng: np.random.Generator) -> None:
    """Time first, reversed time and a batch that is broadcast reach the kernel as strides."""
    plan, spec, arrays = lstm_case(rng, 3, 8)
    time_first = np.ascontiguousarray(arrays["x"].swapaxes(0, 1)).swapaxes(0, 1)
    backwards = np.ascontiguousarray(arrays["x"][:, ::-1])[:, ::-1]
    broadcast = np.broadcast_to(arrays["x"][:1], arrays["x"].shape)
    kernel = BACKEND.build(plan, spec)
    for x in (time_first, backwards, broadcast):
        given = {**arrays, "x": x}
        want = reference.run(SYSTEMS["lstm"](), given, 3, 8)
        got = results(plan, spec, 3, 8, np.float64)
        kernel({**given, **got}, 3, 8)
        compare(got, want, bound(DType.F64, 8))


def test_params_of_their_own_for_each_sequence(rng: np.random.Generator) -> None:
    plan, spec, arrays = lstm_case(rng, 3, 5)
    arrays["U"] = rng.standard_normal((3, *arrays["U"].shape[1:])) / 5
    want = reference.run(SYSTEMS["lstm"](), arrays, 3, 5)
    got = results(plan, spec, 3, 5, np.float64)
    BACKEND.build(plan, spec)({**arrays, **got}, 3, 5)
    compare(got, want, bound(DType.F64, 5))


@pytest.mark.parametrize("sizes", [{"K": 512, "V": 520}, {"K": 2, "V": 400_000}], ids=str)
def test_states_larger_than_a_stack(sizes: dict[str, int], rng: np.random.Generator) -> None:
    """Large states, and values kept between two nests of a step, live in the workspace, one for each thread."""
    text = (
        "recurrence Large(K, V):\n    input k[K], v[V]\n    state S[K, V] = 0\n"
        "    S = tanh(S[t-1]) + k * v + 0.01 * mean(S[t-1], K)\n    e = softmax(v, V)\n    output o = k @ S + e\n"
    )
    rec = core_form(load_text(text)[0])
    plan = make_plan(rec, sizes, 2, 2, DType.F64, targets.named("cpu"))
    spec = Specialization(tuple(sorted(sizes.items())), DType.F64)
    kernel = BACKEND.build(plan, spec)
    assert "too large for the stack" in next(iter(kernel.source.values()))
    arrays = {n: rng.standard_normal((2, 2, sizes[n.upper()])) for n in ("k", "v")}
    arrays["S@initial"] = rng.standard_normal((2, sizes["K"], sizes["V"]))
    got = results(plan, spec, 2, 2, np.float64)
    kernel({**arrays, **got}, 2, 2)
    compare(got, reference.run(rec, arrays, 2, 2), 32 * bound(DType.F64, sizes["K"]))


def test_params_of_their_own_reach_what_is_computed_once(rng: np.random.Generator) -> None:
    """A decay computed once per call is computed for each sequence where its param differs by sequence."""
    text = (
        "recurrence Decay(D):\n    input x[D]\n    param a[D]\n    state h[D] = 0\n"
        "    h = exp(-softplus(a)) * h[t-1] + x\n    output h\n"
    )
    rec = core_form(load_text(text)[0])
    plan = make_plan(rec, {"D": 21}, 3, 5, DType.F64, targets.named("cpu"))
    assert any(b.role is Role.ONCE for b in plan.buffers)
    spec = Specialization((("D", 21),), DType.F64)
    arrays = {"x": rng.standard_normal((3, 5, 21)), "a": rng.standard_normal((3, 21)), "h@initial": np.zeros((3, 21))}
    want = reference.run(rec, arrays, 3, 5)
    got = results(plan, spec, 3, 5, np.float64)
    BACKEND.build(plan, spec)({**arrays, **got}, 3, 5)
    compare(got, want, bound(DType.F64, 5))


def test_same_bits_for_any_number_of_threads(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed number of threads gives the same bits again, and loops do not depend on it at all."""
    plan, spec, arrays = lstm_case(rng, 3, 40)
    kernel = BACKEND.build(plan, spec)
    seen = []
    for threads in (1, 2, 3, 2):
        monkeypatch.setattr("recurc.backends.cpu.kernel.thread_count", lambda n=threads: n)
        got = results(plan, spec, 3, 40, np.float64)
        kernel({**arrays, **got}, 3, 40)
        seen.append(got["h"])
    assert all(np.array_equal(seen[0], other) for other in seen[1:])


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_every_way_to_share_out_the_work(name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few sequences, whose steps the threads take together, and many, which they share out; tiles of all sizes."""
    sizes, steps = ODD[name], 5
    spec = Specialization(tuple(sorted(sizes.items())), DType.F32)
    kernel = BACKEND.build(PLANS[name, "sequential"], spec)
    for batch in (*range(1, 15), 19, 26, 37):
        arrays = {n: a.astype(np.float32) for n, a in random_arrays(name, rng, batch, steps, sizes).items()}
        want = reference.run(SYSTEMS[name](), {n: a.astype(np.float64) for n, a in arrays.items()}, batch, steps)
        for threads in (1, 2, 3, 5):
            monkeypatch.setattr("recurc.backends.cpu.kernel.thread_count", lambda n=threads: n)
            monkeypatch.setattr("recurc.backends.cpu.kernel.useful_threads", lambda *_, n=threads: n)
            got = results(PLANS[name, "sequential"], spec, batch, steps, np.float32)
            kernel({**arrays, **got}, batch, steps)
            compare(got, want, bound(DType.F32, steps))


@pytest.mark.parametrize("size", [16, 21, 32, 35, 48, 80])
def test_tiles_of_two_vectors(size: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with one sum per row take two vectors of outputs at a time: an odd or a broken one may be left over, at
    the end or where a thread's share ends."""
    rec = core_form(
        load_text("""recurrence Two(H):
    input x[H]
    param U[H, H], P[2, H, H]
    state h[H] = 0.1
    a, b = P @ h[t-1]
    r = sigmoid(U @ h[t-1])
    h = tanh(x + U @ (r * h[t-1]) + U.T @ (a * b))
    output h
""")[0]
    )
    spec, steps = Specialization((("H", size),), DType.F32), 3
    plan = make_plan(rec, {"H": size}, 40, steps, DType.F32, targets.named("cpu"))
    kernel = BACKEND.build(plan, spec)
    assert "const long width" in next(iter(kernel.source.values())) or size == 16
    for batch in (1, 2, 5, 9, 12, 13, 40):
        arrays = {
            "x": rng.standard_normal((batch, steps, size)), "U": rng.standard_normal((1, size, size)) / size**0.5,
            "P": rng.standard_normal((1, 2, size, size)) / size**0.5, "h@initial": rng.standard_normal((batch, size)),
        }  # fmt: skip
        given = {n: a.astype(np.float32) for n, a in arrays.items()}
        want = reference.run(rec, {n: a.astype(np.float64) for n, a in given.items()}, batch, steps)
        for threads in (1, 2, 3):
            monkeypatch.setattr("recurc.backends.cpu.kernel.thread_count", lambda n=threads: n)
            monkeypatch.setattr("recurc.backends.cpu.kernel.useful_threads", lambda *_, n=threads: n)
            got = results(plan, spec, batch, steps, np.float32)
            kernel({**given, **got}, batch, steps)
            compare(got, want, 4 * bound(DType.F32, steps))


def test_results_larger_than_the_caches_are_whole(rng: np.random.Generator) -> None:
    """Outputs that are written around the caches arrive complete."""
    sizes, batch, steps = {"D": 512}, 2, 4500
    spec = Specialization((("D", 512),), DType.F32)
    arrays = {n: a.astype(np.float32) for n, a in random_arrays("ema", rng, batch, steps, sizes).items()}
    room = np.full(batch * steps * 512 + 16, 99, np.float32)
    start = (-room.ctypes.data % 64) // 4
    got = results(PLANS["ema", "sequential"], spec, batch, 1, np.float32)
    got["h"] = room[start : start + batch * steps * 512].reshape(batch, steps, 512)
    BACKEND.build(PLANS["ema", "sequential"], spec)({**arrays, **got}, batch, steps)
    h, alpha = arrays["h@initial"].astype(np.float64), float(arrays["alpha"][0])
    for t in range(steps):
        h = (1 - alpha) * h + alpha * arrays["x"][:, t]
        assert np.max(np.abs(h - got["h"][:, t])) < 1e-5


def test_half_precision_computes_in_f32(rng: np.random.Generator) -> None:
    spec = Specialization(tuple(sorted(SIZES["gru"].items())), DType.F16)
    plan = PLANS["gru", "sequential"]
    arrays = {n: a.astype(np.float16) for n, a in random_arrays("gru", rng, 2, 9).items()}
    want = reference.run(SYSTEMS["gru"](), {n: a.astype(np.float64) for n, a in arrays.items()}, 2, 9)
    got = results(plan, spec, 2, 9, np.float16)
    BACKEND.build(plan, spec)({**arrays, **got}, 2, 9)
    compare(got, want, 2.0**-11 * 1.5)  # one rounding to f16 at the end


def test_a_plan_whose_complex_numbers_were_not_split_is_refused() -> None:
    text = (
        "recurrence C(D):\n    input x[D]: complex\n    state h[D]: complex = 0\n"
        "    h = 0.5 * h[t-1] + x\n    output y = real(h)\n"
    )
    rec = core_form(load_text(text)[0])
    plan = make_plan(rec, {"D": 3}, 1, 4, DType.F32, targets.named("cpu"))
    spec = Specialization((("D", 3),), DType.F32)
    assert any("complex" in words for words in BACKEND.limitations(plan, spec))
    assert BACKEND.limitations(split_complex(plan, DType.F32), spec) == []
