"""The convolution schedule gives what the loop gives: for every length, from every start, in pieces and backwards.

**The bounds.** In float64 a transform errs by u log2(N) |K| |v| at every output (u = 1.1e-16; `plan.Convolution` has
the source), whatever the size of that output; with |K| |v| at most sqrt(T) times the largest output at the values
drawn here, 1e-13 (1 + log2 T) sqrt(T) of the largest leaves two digits. In float32 the transforms are in double
precision, and what is left is the rounding of the equations before and after: 2e-6 (1 + log2 T) of the largest, as for
scans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.backends.convolve import Convolver, fast_length
from recurc.plan import Convolution
from tests.zoo.cases import call, check, draw, generator, load, looped, several

ZOO = (
    "ema", "one_pole", "mega_ema", "s4d_real", "s4d", "s5", "lru", "lru_real", "lssl", "s4", "s4_zoh", "biquad",
    "biquad_cascade", "biquad_direct_form_1", "biquad_direct_form_2", "linear_recurrence", "ema_bias_corrected",
)  # fmt: skip

OWN = {
    "dense, K and V apart, with a bias, the state and a read of it": """recurrence Dense(H, D, V):
    input  x[D]
    param  A[H, H], B[H, D], C[V, H], b[H]
    state  h[H] = 0
    h = A @ h[t-1] + B @ x + b
    output y = C @ h + 0.5 * sum(x, D)
    output h
""",
    "a learned start, read one step late and by a nonlinearity": """recurrence Learned(H, D):
    input  x[D], g[D]
    param  A[H, H], c[D, H], h0[D, H]
    state  h[D, H] = h0
    drive = tanh(x) * g
    h = 0.5 * (h[t-1] @ A) + drive
    output y = sum(c * (h - h[t-1]), H)
    output z = exp(-abs(sum(h, H)))
""",
    "complex states that meet their conjugate": """recurrence Turned(H, M):
    input  x[H], z[H]: complex
    param  lam[H]: complex, B[M, H]: complex
    state  h[H]: complex = 0.5 - 0.25j
    h = 0.5 * lam * conj(h[t-1]) + 0.2j * h[t-1] + z * x
    output y = imag(h) + real(lam * h[t-1])
    output w = B @ h
""",
    "matrices of states under one map": """recurrence Panel(K, V):
    input  x[V]
    param  A[K, K], b[K], q[K]
    state  S[K, V] = 0
    S = A @ S[t-1] + b * x
    output o = q @ S
""",
    "two states, and one behind them": """recurrence Chain(D):
    input  x[D]
    param  a[D], w
    state  p[D] = 1, v[D] = 0, e[D] = 0
    v = 0.7 * v[t-1] - 0.1 * p[t-1] + x
    p = p[t-1] * 0.9 + 0.2 * v
    e = e[t-1] + 0.3 * (p * p - e[t-1])
    output p
    output e
    output speed = v[t-1] + w
""",
    "an input of every lane and one for all": """recurrence Shared(D):
    input  x[D], u
    state  p[D] = 0, v[D] = 0
    v = 0.7 * v[t-1] - 0.1 * p[t-1] + x
    p = 0.9 * p[t-1] + 0.2 * v[t-1] + u
    output p
""",
    "no input": """recurrence Free(N):
    param  A[N, N], c[N]
    state  s[N] = 1
    s = A @ s[t-1]
    output y = c @ s
""",
}
SIZES = {"H": 5, "D": 3, "V": 4, "M": 2, "K": 6, "N": 4}
STEPS = (0, 1, 2, 3, 7, 64, 257, 1000)
Arrays = dict[str, np.ndarray]


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each convolution of the test went through a transform, in order."""
    seen: list[bool] = []
    run = Convolver.__call__

    def watched(self: Convolver, *args: Any) -> Any:
        found = run(self, *args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(Convolver, "__call__", watched)
    return seen


def drawn(rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int) -> tuple[Arrays, Arrays, Arrays]:
    """Inputs `(B, T, *dims)`, params `(*dims)` with maps that forget, and states `(B, *dims)`; float32 holds them."""

    def value(lead: tuple[int, ...], dims: tuple[str, ...], is_complex: bool, scale: float) -> np.ndarray:
        shape = (*lead, *(SIZES[d] for d in dims))
        real = scale * rng.standard_normal(shape)
        if is_complex:
            return np.asarray(real + 1j * scale * rng.standard_normal(shape), np.complex64).astype(np.complex128)
        return np.asarray(real, np.float32).astype(np.float64)

    ir = rec.ir
    kind = {v.name: v.dtype.value == "complex" for v in (*ir.inputs, *ir.params, *ir.states)}
    inputs = {i.name: value((batch, steps), i.dims, kind[i.name], 1.0) for i in ir.inputs}
    params = {p.name: value((), p.dims, kind[p.name], 0.3) for p in ir.params}
    if "A" in params:
        scaled = params["A"] * 0.9 / np.abs(np.linalg.eigvals(params["A"])).max()
        params["A"] = scaled.astype(np.float32).astype(np.float64)
    states = {s.name: value((batch,), s.dims, kind[s.name], 1.0) for s in ir.states}
    return inputs, params, states


def typed(arrays: Mapping[str, np.ndarray], real: str) -> Arrays:
    plain, pairs = (np.float32, np.complex64) if real == "f32" else (np.float64, np.complex128)
    return {n: a.astype(pairs if np.iscomplexobj(a) else plain) for n, a in arrays.items()}


def close(found: Any, wanted: Any, real: str, steps: int, what: str) -> None:
    found, wanted = several(found), several(wanted)
    assert len(found) == len(wanted)
    for got, ref in zip(found, wanted, strict=True):
        assert got.shape == ref.shape and np.iscomplexobj(got) == np.iscomplexobj(ref), what
        if not ref.size:
            continue
        depth = 1 + math.log2(max(steps, 1))
        bound = (1e-13 * math.sqrt(max(steps, 1)) if real == "f64" else 2e-6) * depth * max(1.0, np.abs(ref).max())
        error = np.abs(got - ref).max()
        assert error <= bound, f"{what}: off by {error:.1e}, {bound:.1e} allowed"


@pytest.mark.parametrize("name", ZOO)
def test_systems_of_the_zoo_are_what_their_papers_say(
    name: str, backend: str, session_seed: int, transformed: list[bool]
) -> None:
    for steps in (1, 2, 3, 29, 100):
        inputs, params = draw(name, generator(session_seed, name, steps), steps)
        wanted = looped(name, inputs, params, steps)
        for real in ("f64", "f32"):
            found = call(name, backend, "convolution", inputs | params, real)
            check(name, found, wanted, f"{backend}, T {steps}, {real}", real)
    assert any(transformed)  # where what is drawn grows too fast, the steps are taken one by one


@pytest.mark.parametrize("what", OWN)
def test_every_length_from_every_start(
    what: str, backend: str, rng: np.random.Generator, transformed: list[bool]
) -> None:
    rec = recurc.load(text=OWN[what])
    for steps in STEPS:
        inputs, params, states = drawn(rec, rng, 2, steps)
        options: dict[str, Any] = {"return_final": True} | ({} if inputs else {"steps": steps})
        for initial in (None, states):
            wanted, ends = rec.compile(backend="reference")(**inputs, **params, initial=initial, **options)
            for real in ("f64", "f32"):
                native = rec.compile(backend=backend, schedule="convolution")
                start = None if initial is None else typed(initial, real)
                found, last = native(**typed(inputs, real), **typed(params, real), initial=start, **options)
                close(found, wanted, real, steps, f"T {steps}, {real}")
                close(
                    tuple(last[s] for s in ends), tuple(ends.values()), real, steps, f"T {steps}, {real}, last states"
                )
                if steps:
                    assert any(isinstance(s, Convolution) for s in native.plan.stages)
    assert transformed and all(transformed)


@pytest.mark.parametrize("what", [w for w in OWN if w != "no input"])
def test_ragged_backwards_and_in_pieces(
    what: str, backend: str, rng: np.random.Generator, transformed: list[bool]
) -> None:
    rec = recurc.load(text=OWN[what])
    inputs, params, _ = drawn(rec, rng, 4, 41)
    reference = rec.compile(backend="reference")
    native = rec.compile(backend=backend, schedule="convolution")
    close(native(**inputs, **params, reverse=True), reference(**inputs, **params, reverse=True), "f64", 41, "backwards")
    lengths = np.array([41, 0, 7, 40])
    wanted, ends = reference(**inputs, **params, lengths=lengths, return_final=True)
    found, last = native(**inputs, **params, lengths=lengths, return_final=True)
    close(found, wanted, "f64", 41, "ragged")
    close(tuple(last[s] for s in ends), tuple(ends.values()), "f64", 41, "ragged, last states")
    whole, ends = reference(**inputs, **params, return_final=True)
    parts: list[tuple[Any, ...]] = []
    states: Any = None
    for piece in (slice(0, 1), slice(1, 18), slice(18, 41)):
        part = {n: a[:, piece] for n, a in inputs.items()}
        made, states = native(**part, **params, initial=states, return_final=True)
        parts.append(several(made))
    close(tuple(np.concatenate(p, 1) for p in zip(*parts, strict=True)), whole, "f64", 41, "in pieces")
    close(tuple(states[s] for s in ends), tuple(ends.values()), "f64", 41, "in pieces, last states")
    assert all(transformed)


def test_params_of_each_sequence_its_own(backend: str, rng: np.random.Generator, transformed: list[bool]) -> None:
    rec = recurc.load(text=OWN["dense, K and V apart, with a bias, the state and a read of it"])
    rows = [drawn(rec, rng, 1, 33)[:2] for _ in range(3)]
    together = {n: np.concatenate([r[0][n] for r in rows]) for n in rows[0][0]}
    own = {n: np.stack([r[1][n] for r in rows]) for n in rows[0][1]}
    reference, native = rec.compile(backend="reference"), rec.compile(backend=backend, schedule="convolution")
    close(native(**together, **own), reference(**together, **own), "f64", 33, "own params")
    assert all(transformed)


def test_beside_a_state_in_chunks(backend: str, rng: np.random.Generator, transformed: list[bool]) -> None:
    rec, steps = recurc.zoo.load("linear_attention"), 37
    arrays = {n: rng.standard_normal((2, steps, width)) for n, width in zip("qkv", (5, 5, 3), strict=True)}
    wanted = rec.compile(backend="reference")(**arrays)
    for real in ("f64", "f32"):
        native = rec.compile(backend=backend, schedule="S=chunkwise,z=convolution")
        close(native(**typed(arrays, real)), wanted, real, steps, real)
    assert all(transformed) and len(transformed) == 2


@pytest.mark.parametrize("real", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(real: str, backend: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    rec, kind = recurc.load(text=OWN["a learned start, read one step late and by a nonlinearity"]), getattr(torch, real)
    inputs, params, _ = drawn(rec, rng, 2, 50)
    given = {n: torch.from_numpy(a).to(kind) for n, a in (inputs | params).items()}
    wanted = rec.compile(backend="reference")(**{n: a.double().numpy() for n, a in given.items()})
    found = rec.compile(backend=backend, schedule="convolution")(**given)
    for got, ref in zip(found, wanted, strict=True):
        unit = 2.0**-10 if real == "float16" else 2.0**-7
        assert np.abs(got.double().numpy() - ref).max() <= unit * (1 + np.abs(ref).max())


def test_the_error_keeps_the_bound_of_the_transform(backend: str, rng: np.random.Generator) -> None:
    """One channel, so that K is the output for a single 1; the bound of `plan.Convolution`, with room of two."""
    steps, rec = 3000, load("lssl")
    params = {n: np.asarray(p, np.float64) for n, p in rec.init_params(rng, D=1, N=12).items()}
    native, reference = rec.compile(backend=backend, schedule="convolution"), rec.compile(backend="reference")
    impulse = np.zeros((1, steps, 1))
    impulse[0, 0] = 1
    response = np.linalg.norm(reference(u=impulse, **params))
    u = rng.standard_normal((1, steps, 1)) * np.exp(rng.uniform(-10, 0, (1, steps, 1)))
    error = np.abs(native(u=u, **params) - reference(u=u, **params)).max()
    assert error <= 2 * 2.0**-53 * math.log2(fast_length(2 * steps)) * response * np.linalg.norm(u)


GROWING = """recurrence Growing(N):
    input  x[N]
    param  A[N, N]
    state  s[N] = 0
    s = A @ s[t-1] + x
    output y = sum(s, N)
"""


def test_what_a_transform_would_spoil_goes_step_by_step(
    backend: str, rng: np.random.Generator, transformed: list[bool]
) -> None:
    """A response that grows, or overflows, and inputs that are not numbers must not reach steps before their own."""
    rec = recurc.load(text=GROWING)
    native, reference = rec.compile(backend=backend, schedule="convolution"), rec.compile(backend="reference")
    x = rng.standard_normal((2, 400, 3))
    a = rng.standard_normal((3, 3))
    for radius in (1.3, 40.0):
        grown = a * radius / np.abs(np.linalg.eigvals(a)).max()
        found, wanted = native(x=x, A=grown), reference(x=x, A=grown)
        assert not transformed[-1]
        finite = np.isfinite(wanted) & (np.abs(wanted) < 1e300)
        scale = np.maximum.accumulate(np.where(finite, np.abs(wanted), 0), 1)  # of what came before: no later step
        assert np.all(np.abs(found - wanted)[finite] <= 1e-9 * (1 + scale[finite]))
    small = a * 0.8 / np.abs(np.linalg.eigvals(a)).max()
    for odd in (np.nan, np.inf):
        spoiled = x.copy()
        spoiled[1, 200] = odd
        found, wanted = native(x=spoiled, A=small), reference(x=spoiled, A=small)
        assert not transformed[-1]
        np.testing.assert_allclose(found[:, :200], wanted[:, :200], rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-11, atol=1e-11)
        assert not np.isfinite(found[1, 200:]).any()
    close(native(x=x, A=small), reference(x=x, A=small), "f64", 400, "and then as before")
    assert transformed[-1]


def test_lengths_of_transforms_are_products_of_small_primes() -> None:
    for least in (1, 2, 3, 7, 11, 97, 1025, 131071):
        found = fast_length(least)
        rest = found
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1 and least <= found <= max(2 * least - 1, 1)
