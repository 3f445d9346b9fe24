"""Derivatives of sums of exponentials beside running maxima: which maxima no result depends on, and what is found where
these are constants of the derivative. Exact at any score, by initial and final states too, and of second order.

Beside differences of the definition: softmax over every prefix as it is written for a matrix of scores, with torch's
`log_softmax` in float64."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.errors import ShapeError
from recurc.passes.expand import expand
from recurc.passes.gauges import gauges
from recurc.passes.with_maxima import with_maxima
from tests.numerics import gradients
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

torch = pytest.importorskip("torch")

EXPLICIT = {
    "aaren": ("m", {"u", "w"}), "aaren_multi_head": ("m", {"u", "w"}), "online_softmax": ("m", {"u", "w"}),
    "online_logsumexp": ("m", {"u"}), "rwkv4": ("p", {"a", "b"}), "rwkv4_time_mixing": ("p", {"a", "b"}),
    "mlstm": ("m", {"S", "n"}), "slstm": ("m", {"c", "n"}), "slstm_exponential": ("m", {"c", "n"}),
}  # fmt: skip
NAIVE = {"softmax_naive": {"u", "w"}, "mlstm_unstabilised": {"S", "n"}}

# With a decay that depends on the step; the maximum has another name, too.
FADING = """
recurrence Fading(H, V):
    input  s[H], g[H], v[H, V]
    state  m[H] = -inf
    state  u[H] = 0
    state  w[H, V] = 0

    top = max(m[t-1] + g, s)
    m = top
    u = exp(m[t-1] + g - top) * u[t-1] + exp(s - m)
    w = exp(m[t-1] + g - m) * w[t-1] + exp(s - top) * v
    output o = w / u, lse = m + log(u)
"""
RESTARTED = FADING.replace("v[H, V]\n", "v[H, V], r: bool\n").replace("\n\n", "\n    reset when r\n", 1)
SUMS = """
recurrence Sums(H, V):
    input  s[H], g[H], v[H, V]
    state  u[H] = 0
    state  w[H, V] = 0

    u = exp(g) * u[t-1] + exp(s)
    w = exp(g) * w[t-1] + exp(s) * v
    output o = w / u, lse = log(u)
"""


# --- what is a gauge


@pytest.mark.parametrize("name", cases.NAMES)
def test_maxima_of_the_zoo_that_no_output_depends_on(name: str) -> None:
    found = gauges(expand(cases.load(name).ir))
    assert {g.name: {*g.members} for g in found} == (dict([EXPLICIT[name]]) if name in EXPLICIT else {})
    made = with_maxima(cases.load(name).ir)
    assert {*made.tops} == NAIVE.get(name, set())
    if made.tops:
        assert {g.name: {*g.members} for g in gauges(made.rec)} == {next(iter({*made.tops.values()})): {*made.tops}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("output o = w / u", "output o = w"),
        ("output o = w / u", "output o = w / u, m"),
        ("output o = w / u", "output o = w / (u + 0.001)"),
        ("output o = w / u", "output o = w / max(u, 1)"),
        ("lse = m + log(u)", "lse = m - log(u)"),
        ("lse = m + log(u)", "lse = 2 * m + log(u)"),
        ("exp(s - m)\n", "exp(s - stop_gradient(m))\n"),
        ("exp(s - top) * v", "exp(s - top) * (v + 0.1 * m)"),
        ("output o = w / u", "output o = sum(w, H) / sum(u, H)"),
        ("state  u[H] = 0", "state  u[H] = 1"),
        ("max(m[t-1] + g, s)", "max(0.9 * m[t-1] + g, s)"),
    ],
)
def test_what_depends_on_its_maximum_is_no_gauge(old: str, new: str) -> None:
    assert {g.name for g in gauges(recurc.load(text=FADING).ir)} == {"m"}
    assert old in FADING
    assert not gauges(recurc.load(text=FADING.replace(old, new)).ir)


def test_a_gauge_costs_its_derivative_nothing() -> None:
    """No comparison of scores is left, no state of its own, and the outputs stand for the sums."""
    f = cases.load("aaren").compile(backend="numpy").differentiated
    assert {s.name for s in f.light.back.states} == {"d_u", "d_w"}
    assert {*f.adjoint.saved} == {"m_prev", "u_prev"}
    assert "select" not in str(f.light.back) and "select" in str(f.adjoint.back)


# --- at both ends


def _drawn(rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Any]:
    sizes = {"H": 2, "V": 3}
    arrays = {i: rng.standard_normal((batch, steps, *(sizes[d] for d in v.dims))) for i, v in rec.inputs.items()}
    truths = {"r": rng.random((batch, steps)) < 0.2} if "r" in rec.inputs else {}
    return arrays | {"g": -np.abs(arrays["g"])} | truths


@pytest.mark.parametrize("memory", ["fast", "balanced", "minimal"])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"lengths": np.array([2, 0, 7])}], ids=str)
@pytest.mark.parametrize("given", ["all", "gauge", "members", "none"])
@pytest.mark.parametrize("text", [FADING, RESTARTED, SUMS], ids=["explicit", "restarted", "naive"])
def test_initial_and_final_states_have_derivatives(
    text: str, given: str, options: dict[str, Any], memory: Any, rng: np.random.Generator
) -> None:
    rec = recurc.load(text=text)
    arrays = _drawn(rec, rng, 3, 7)
    start = {"m": rng.standard_normal((3, 2)), "u": rng.uniform(0.5, 2, (3, 2)), "w": rng.standard_normal((3, 2, 3))}
    kept = {"all": "muw", "gauge": "m", "members": "uw", "none": ""}[given]
    start = {n: start[n] for n in kept if n in rec.states}
    plain = rec.compile(backend="reference", dtype="f64")
    f = rec.compile(backend="numpy", dtype="f64", memory=memory)
    made, ends = plain(initial=start, return_final=True, **options, **arrays)
    d_made = [np.where(np.isfinite(y), rng.standard_normal(y.shape), 0) for y in made]
    d_ends = {n: np.where(np.isfinite(y), rng.standard_normal(y.shape), 0) for n, y in ends.items()}
    (have, last), pullback = f.vjp(initial=start, return_final=True, **options, **arrays)
    assert {*last} == {*ends}
    for a, b in zip((*have, *last.values()), (*made, *(ends[n] for n in last)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)

    def loss(arrays: Any, start: Any, d_ends: Any) -> float:
        made, ends = plain(initial=start, return_final=True, **options, **arrays)
        pairs = [*zip(d_made, made, strict=True), *((d, ends[n]) for n, d in d_ends.items())]
        return sum(gradients.inner(d, y) for d, y in pairs)

    for by_ends in (d_ends, {}, {n: d for n, d in d_ends.items() if n == "w"}):
        found = pullback(d_made, by_ends)
        initial = found.pop("initial")
        assert {*initial} == {*start}
        for name, gradient in (found | initial).items():
            value = start[name] if name in initial else arrays[name]
            along, h = rng.standard_normal(value.shape), 1e-6
            losses = [
                loss(arrays, start | {name: v}, by_ends)
                if name in initial
                else loss(arrays | {name: v}, start, by_ends)
                for v in (value + h * along, value - h * along)
            ]
            scale = np.abs(gradient * along).sum() + sum(np.abs(d).sum() for d in (*d_made, *by_ends.values()))
            error = abs(np.sum(gradient * along) - (losses[0] - losses[1]) / (2 * h))
            assert error <= 1e-6 * np.abs(gradient * along).sum() + 10 * 2.0**-52 / h * max(1.0, scale), name


@pytest.mark.parametrize("text", [FADING, SUMS], ids=["explicit", "naive"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_second_derivatives_through_both_ends(text: str, steps: int, rng: np.random.Generator) -> None:
    rec = recurc.load(text=text)
    arrays = _drawn(rec, rng, 2, steps)
    start = {"m": rng.standard_normal((2, 2)), "u": rng.uniform(0.5, 2, (2, 2)), "w": rng.standard_normal((2, 2, 3))}
    start = {n: v for n, v in start.items() if n in rec.states}
    f = rec.compile(backend="numpy")
    tensors = {n: torch.from_numpy(v) for n, v in (arrays | start).items()}
    names = [n for n, v in tensors.items() if v.numel()]  # differences take no others
    values = [tensors[n].requires_grad_() for n in names]

    def function(*values: Any) -> tuple[Any, ...]:
        given = tensors | dict(zip(names, values, strict=True))
        made, last = f(**{n: given[n] for n in arrays}, initial={n: given[n] for n in start}, return_final=True)
        return (*made, *last.values())

    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


@pytest.mark.parametrize("name", ["mlstm", "mlstm_unstabilised", "rwkv4", "slstm"])
def test_second_derivatives_of_systems(name: str, session_seed: int) -> None:
    """Among them memories that are differentiated by sweeps, without their value at every step."""
    rng = cases.generator(session_seed, name, 3)
    inputs, params = cases.draw(name, rng, 3)
    given = {n: torch.from_numpy(a).requires_grad_() for n, a in (inputs | params).items()}
    f = cases.load(name).compile(backend="numpy", sizes=ORACLES[name].sizes)

    def function(*values: Any) -> tuple[Any, ...]:
        made, last = f(**dict(zip(given, values, strict=True)), return_final=True)
        return (*cases.several(made), *last.values())

    assert torch.autograd.gradcheck(function, [*given.values()], fast_mode=True)
    assert torch.autograd.gradgradcheck(function, [*given.values()], fast_mode=True)


@pytest.mark.parametrize("shift", [0.0, 600.0, -600.0])
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_memories_with_large_gates(shift: float, backend: Any, rng: np.random.Generator) -> None:
    """With and without the maximum written out, the same in f64, and numbers in f32."""
    arrays = {n: rng.standard_normal((2, 40, 2, 4)) for n in "qkvo"} | {"f": rng.standard_normal((2, 40, 2))}
    arrays |= {"i": shift + 30 * rng.standard_normal((2, 40, 2)), "scale": np.ones((2, 4))}
    given = rng.standard_normal((2, 40, 2, 4))
    found: list[dict[str, Any]] = []
    for name in ("mlstm", "mlstm_unstabilised"):
        f = cases.load(name).compile(backend=backend)
        _, pullback = f.vjp(**{n: a.astype(np.float32) for n, a in arrays.items()})
        assert all(np.isfinite(d).all() for n, d in pullback(given.astype(np.float32)).items() if n != "initial")
        found.append(f.vjp(**arrays)[1](given))
    for name in arrays:
        scale = max(1.0, np.abs(found[0][name]).max())
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("name", [*EXPLICIT, *NAIVE])
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_calls_without_final_states_have_the_same_derivatives(name: str, backend: str, session_seed: int) -> None:
    """The pass without derivatives by the gauges finds what the whole pass does for zeros."""
    case = replace(gradients.case(name, cases.generator(session_seed, name, 5), 5), finals={})
    found, initial = case.found(backend)
    zeros = {n: np.zeros((cases.BATCH, *_shape(name, n))) for n in cases.load(name).states}
    whole, first = replace(case, finals=zeros).found(backend)
    for argument, gradient in (found | initial).items():
        wanted = (whole | first)[argument]
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-10 * max(1.0, np.abs(wanted).max(initial=0)))


def _shape(name: str, state: str) -> tuple[int, ...]:
    run = cases.load(name).compile(backend="reference", dtype="f64", sizes=ORACLES[name].sizes)
    return tuple(run.init_state()[state].shape)


# --- at any score


def by_softmax(s: np.ndarray, v: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Averages over every prefix, `s (B, T)`, `v (B, T, D)`, and the derivatives of <given, averages>, in float64."""
    scores, values = (torch.from_numpy(np.asarray(a, np.float64)).requires_grad_() for a in (s, v))
    steps = s.shape[1]
    past = torch.ones(steps, steps, dtype=torch.bool).tril()
    weights = torch.log_softmax(torch.where(past, scores[:, None, :], -torch.inf), -1).exp()
    made = weights @ values
    (made * torch.from_numpy(np.asarray(given, np.float64))).sum().backward()
    return made.detach().numpy(), scores.grad.numpy(), values.grad.numpy()


@pytest.mark.parametrize("memory", ["fast", "balanced", "minimal"])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize("name", ["softmax_naive", "online_softmax", "aaren"])
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_large_scores_in_f32(
    name: str, shift: float, spread: float, memory: Any, backend: Any, rng: np.random.Generator
) -> None:
    """To 200 roundings of the largest element: some of each step, of 40, and differences of terms that cancel."""
    score = next(iter(cases.load(name).inputs))
    s = (shift + spread * rng.standard_normal((2, 40))).astype(np.float32)
    v = rng.standard_normal((2, 40, 3)).astype(np.float32)
    given = rng.standard_normal((2, 40, 3)).astype(np.float32)
    made, d_s, d_v = by_softmax(s, v, given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, pullback = cases.load(name).compile(backend=backend, memory=memory).vjp(**{score: s, "v": v})
        outputs = given if name != "online_softmax" else [given, np.zeros_like(s)]
        found = pullback(outputs)
    for have, want in ((y if name != "online_softmax" else y.o, made), (found[score], d_s), (found["v"], d_v)):
        assert have.dtype == np.float32
        np.testing.assert_allclose(have, want, rtol=0, atol=200 * 2.0**-24 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("masked", [-np.inf, -1e30])
@pytest.mark.parametrize("text", [FADING, SUMS], ids=["explicit", "naive"])
@pytest.mark.parametrize("where", ["first", "some", "last"])
def test_masked_steps_add_nothing(masked: float, text: str, where: str, rng: np.random.Generator) -> None:
    """A masked step changes no other's derivatives. As long as all are -inf, the sums are 0, and what they are divided
    to is no number by its definition, nor what is handed back to these steps."""
    rec = recurc.load(text=text.replace("= -inf", "= -1e30"))
    arrays = _drawn(rec, rng, 2, 8)
    out = np.zeros(8, bool)
    out[{"first": [0, 1, 2], "some": [3, 5], "last": [6, 7]}[where]] = True
    arrays["g"][:] = 0.0
    arrays["s"][:, out] = masked
    f = rec.compile(backend="numpy", dtype="f64")
    made, pullback = f.vjp(**arrays)
    given = [rng.standard_normal(y.shape) for y in made]
    for d in given:
        d[:, out] = 0.0
    found = pullback(given)
    short = {n: a[:, ~out] for n, a in arrays.items()}
    same, pull = f.vjp(**short)
    wanted = pull([d[:, ~out] for d in given])
    for y, z in zip(made, same, strict=True):
        np.testing.assert_allclose(y[:, ~out], z, rtol=1e-12, atol=1e-12)
    for name in ("s", "v"):
        np.testing.assert_allclose(found[name][:, ~out], wanted[name], rtol=1e-12, atol=1e-12)
        if not (where == "first" and masked == -np.inf):
            assert not found[name][:, out].any()


def test_sums_that_begin_at_zeros_of_the_caller(rng: np.random.Generator) -> None:
    rec = recurc.load(text=SUMS)
    arrays = _drawn(rec, rng, 2, 4)
    f = rec.compile(backend="numpy", dtype="f64")
    made, pullback = f.vjp(**arrays)
    given = [rng.standard_normal(y.shape) for y in made]
    wanted = pullback(given)
    same, pull = f.vjp(initial={"u": np.zeros((2, 2)), "w": np.zeros((2, 2, 3))}, **arrays)
    found = pull(given)
    for a, b in zip(same, made, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    for name in arrays:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-10, atol=1e-12)
    assert all(np.isfinite(d).all() for d in found["initial"].values())


@pytest.mark.parametrize("text", [FADING, SUMS], ids=["explicit", "naive"])
@pytest.mark.parametrize("memory", ["balanced", "minimal"])
def test_long_calls_with_a_decay_in_f32(text: str, memory: Any, rng: np.random.Generator) -> None:
    """Against the same in f64. What a step hands back fades within some ten steps, and so does what rounding adds."""
    rec, steps = recurc.load(text=text), 100_000
    arrays = {n: a.astype(np.float32) for n, a in _drawn(rec, rng, 1, steps).items()}
    arrays["s"] *= 20
    wide = {n: a.astype(np.float64) for n, a in arrays.items()}
    made, pullback = rec.compile(backend="cpu", memory=memory).vjp(**arrays)
    given = [rng.standard_normal(y.shape).astype(np.float32) for y in made]
    _, pull = rec.compile(backend="cpu", dtype="f64").vjp(**wide)
    found, wanted = pullback(given), pull([d.astype(np.float64) for d in given])
    for name in arrays:
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-4 * scale)


# --- in torch


def test_maxima_that_are_not_the_callers_are_no_states_of_his(rng: np.random.Generator) -> None:
    rec = recurc.load(text=SUMS)
    arrays, top = _drawn(rec, rng, 2, 3), np.zeros((2, 2))
    f = rec.compile(backend="numpy")
    (_, last), pullback = f.vjp(return_final=True, **arrays)
    assert {*last} == {"u", "w"}
    with pytest.raises(ShapeError, match=r"no final state `u_max`.*u, w"):
        pullback(None, {"u_max": top})
    with pytest.raises(ShapeError, match="`u_max`"):
        f.vjp(initial={"u_max": top}, **arrays)
    with pytest.raises(ShapeError, match="derivative by the final state `u`"):
        pullback(None, {"u": np.zeros(3)})


@pytest.mark.parametrize("text", [FADING, SUMS], ids=["explicit", "naive"])
def test_one_graph_of_torch_compile(text: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=text)
    arrays = {n: torch.from_numpy(a) for n, a in _drawn(rec, rng, 2, 5).items()}
    start = {"u": torch.from_numpy(rng.uniform(0.5, 2, (2, 2))).requires_grad_()}
    if "m" in rec.states:
        start["m"] = torch.from_numpy(rng.standard_normal((2, 2))).requires_grad_()
    f = rec.compile(backend="numpy")

    def loss(s: Any, v: Any, start: Any) -> Any:
        made, last = f(s=s, g=arrays["g"], v=v, initial=start, return_final=True)
        return made.o.sin().sum() + made.lse.sum() + sum(x.square().sum() for x in last.values())

    leaves = [arrays["s"].requires_grad_(), arrays["v"].requires_grad_(), *start.values()]
    wanted = torch.autograd.grad(loss(arrays["s"], arrays["v"], start), leaves)
    graph = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(graph(arrays["s"], arrays["v"], start), leaves)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
