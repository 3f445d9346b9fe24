"""Derivatives of matrix memories without their value at every step, against the pass that keeps it.

Both are in float64 and round some hundred times per step; they agree to 1e-11 of the largest element. The pass that
keeps every state is held to differences of the definition and to torch's autograd by `test_gradients`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import recurc
from recurc.passes import matrix_backward
from recurc.passes.matrix_adjoint import MatrixAdjoint
from recurc.passes.verify import verify
from recurc.vjp import Differentiated
from tests.numerics import gradients
from tests.zoo import cases
from tests.zoo.oracle import ORACLES

NAMES = (
    "abc", "based", "comba", "delta_net", "dplr", "gated_delta_net", "gated_delta_product", "gdn2", "gla", "gsa",
    "hgrn2", "kda", "linear_attention", "mamba2", "mamba3", "mamba3_mimo", "mesa_net", "mlstm", "mlstm_sigmoid",
    "retnet", "rwkv5", "rwkv6", "rwkv7", "simple_gla",
)  # fmt: skip
BATCH, STEPS = 2, 37


def differentiated(rec: recurc.Recurrence, whole: bool, **options: Any) -> Differentiated:
    compiled = rec.compile(**{"dtype": "f64", "backend": "numpy"} | options)
    return Differentiated(compiled.recurrence, compiled.options, {}, whole=whole)


def one_side(monkeypatch: pytest.MonkeyPatch, chunks: bool) -> None:
    """The derivative by the matrix by two sweeps, or by one, whatever the sizes."""
    monkeypatch.setattr(Differentiated, "sweeps", lambda _, adj, of: adj.sides if chunks else (adj.back,))


def drawn(name: str, rng: np.random.Generator, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and initial states."""
    case = gradients.case(name, rng, steps)
    return case.arrays, case.initial


def pulled(
    of: Differentiated, arrays: dict[str, Any], initial: dict[str, Any], seed: int, **options: Any
) -> dict[str, Any]:
    """The derivatives of a random functional of all results, by name; those by initial states as `NAME@initial`."""
    options = {"reverse": False, "lengths": None, "cu_seqlens": None, "steps": None} | options
    (result, ends), pullback = of(arrays, initial, True, **options)
    rng = np.random.default_rng(seed)
    outputs = [gradients.normal(rng, np.asarray(o)) for o in cases.several(result)]
    last = {n: gradients.normal(rng, np.asarray(v)) for n, v in ends.items() if pullback.has_end(n)}
    found = pullback(outputs[0] if len(outputs) == 1 else outputs, last)
    return found | {f"{n}@initial": v for n, v in found.pop("initial").items()}


def agree(have: dict[str, Any], want: dict[str, Any], case: str, room: float = 1e-11) -> None:
    assert have.keys() == want.keys()
    for name, value in want.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        error = float(np.abs(have[name] - value).max(initial=0.0))
        assert np.isfinite(have[name]).all(), f"{case}: {name} is not finite"
        assert error <= room * scale, f"{case}: {name} is off by {error:.1e}, its largest element is {scale:.1e}"


def matrices(adj: Any) -> list[str]:
    """The memories that a pass does without."""
    if not isinstance(adj, MatrixAdjoint):
        return []
    return [adj.state, *matrices(adj.rear), *matrices(adj.front)]


@pytest.mark.parametrize("name", cases.NAMES)
def test_which_systems_go_without_their_matrix(name: str) -> None:
    rec = cases.load(name).ir
    try:
        found = matrix_backward(rec, keep=True)
    except recurc.errors.UnsupportedError:
        assert name not in NAMES
        return
    assert (found is not None) == (name in NAMES)
    if found is None:
        return
    assert not {f"{state}_prev" for state in matrices(found)} & {*found.saved}
    for sweep in (found.back, *found.sides, found.again, found.decays):
        if sweep is not None:
            verify(sweep.rec, "core")


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "loop"])
@pytest.mark.parametrize("name", NAMES)
def test_the_derivatives_are_those_of_the_whole_pass(
    name: str, chunks: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = cases.generator(seed, name, chunks)
    options = {
        "memory": str(rng.choice(["fast", "balanced"])), "sizes": ORACLES[name].sizes,
        "backend": str(rng.choice(["numpy", "cpu"], p=[0.7, 0.3])),
    }  # fmt: skip
    arrays, initial = drawn(name, rng, steps := int(rng.choice([1, 2, STEPS])))
    call: dict[str, Any] = {"reverse": bool(rng.integers(2))}
    if rng.integers(2):
        call["lengths"] = rng.integers(0, steps + 1, cases.BATCH)
    one_side(monkeypatch, chunks)
    rec = cases.load(name)
    have, want = (pulled(differentiated(rec, w, **options), arrays, initial, seed, **call) for w in (False, True))
    agree(have, want, f"{name}, {options}, T {steps}, {call}")


def test_stacks_of_memories() -> None:
    found = {n: matrices(matrix_backward(cases.load(n).ir, keep=True)) for n in ("gsa", "abc", "based", "gla")}
    assert {n: len(f) for n, f in found.items()} == {"gsa": 2, "abc": 2, "based": 2, "gla": 1}


@pytest.mark.parametrize("name", ["gla", "gsa", "abc", "kda"])
def test_what_is_made_again_is_not_saved(name: str) -> None:
    """Also of a memory that lies before or behind another."""
    made = matrix_backward(cases.load(name).ir, keep=False)
    pending, found = [made], set[str]()
    while pending:
        adj = pending.pop()
        if isinstance(adj, MatrixAdjoint):
            found |= {*(() if adj.making is None else adj.making.outputs)}
            pending += [adj.rear, adj.front]
    assert made is not None and found
    assert not found & {*made.saved}
    assert len(made.saved) < len(getattr(matrix_backward(cases.load(name).ir, keep=True), "saved", ()))


@pytest.mark.parametrize("chunks", [True, False], ids=["chunks", "loop"])
@pytest.mark.parametrize("name", ["gla", "kda", "rwkv6", "mamba2", "gsa"])
def test_spans_of_long_sequences(name: str, chunks: bool, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More steps than the sum of the decays goes on for: spans, of which the last is a part, forwards and backwards,
    time first, with lengths that end inside of them, and packed, where there are none."""
    rng = cases.generator(seed, name, chunks)
    steps = int(rng.integers(600, 700))
    arrays, initial = drawn(name, rng, steps)
    inputs = {i.name for i in cases.load(name).ir.inputs}
    rec, sizes = cases.load(name), ORACLES[name].sizes
    one_side(monkeypatch, chunks)
    for layout, call in (
        ("BT", {}),
        ("BT", {"reverse": True, "lengths": np.array([steps, int(rng.integers(300, 400))])}),
        ("TB", {"lengths": np.array([int(rng.integers(1, 256)), steps])}),
        ("BT", {"cu_seqlens": np.array([0, 290, 290, steps])}),
    ):
        given, first = dict(arrays), dict(initial)
        if layout == "TB":
            given |= {n: np.moveaxis(a, 1, 0) for n, a in arrays.items() if n in inputs}
        if "cu_seqlens" in call:
            given |= {n: a[0] for n, a in arrays.items() if n in inputs}
            first = {n: np.concatenate([v, v[:1]]) for n, v in initial.items()}
        have, want = (
            pulled(differentiated(rec, w, layout=layout, sizes=sizes), given, first, seed, **call)
            for w in (False, True)
        )
        agree(have, want, f"{name}, T {steps}, {layout}, {call}", 1e-10)


LONG = {"gla": ("g",), "gated_delta_net": ("a", "A_log", "dt_bias"), "kda": ("a", "A_log", "dt_bias")}


@pytest.mark.parametrize("name", LONG)
def test_decays_in_single_precision_do_not_drift(name: str, seed: int) -> None:
    """The sum that finds derivatives by decays errs by a rounding of its terms per step, and begins anew each span: so
    by at most some 256 roundings of the largest, however long the sequence is. Terms are products of K elements each
    of an operand and its derivative. A param adds up all steps: its error relative to the sum of their sizes is that
    of a step."""
    rng, steps = cases.generator(seed, name), 20_000
    rec, sizes = cases.load(name), {"H": 1, "K": 8, "V": 6}
    own = {d.name: sizes[d.name] for d in rec.ir.dims}

    def size(dim: str) -> int:
        return int(dim) if dim.isdigit() else sizes[dim]

    arrays = {i.name: rng.standard_normal((steps, *map(size, i.dims))) for i in rec.ir.inputs}
    arrays |= {n: np.asarray(v, np.float64) for n, v in rec.init_params(rng, **own).items()}
    found = {}
    for dtype in ("f32", "f64"):
        of = differentiated(rec, dtype == "f64", dtype=dtype, sizes=own, backend="cpu")
        given = {n: a.astype(np.float32 if dtype == "f32" else np.float64) for n, a in arrays.items()}
        found[dtype] = pulled(of, given, {}, seed)
    each, *params = LONG[name]
    scale = np.abs(found["f64"][each]).max()
    room = 256 * 2.0**-24 * 8
    error = np.abs(found["f32"][each] - found["f64"][each]).max()
    assert error <= room * scale, f"{name}: {each} is off by {error / scale:.1e} of the largest"
    total = np.abs(found["f64"][each]).sum()
    for param in params:
        error = np.abs(found["f32"][param] - found["f64"][param]).max()
        assert error <= room * total, f"{name}: {param} is off by {error / total:.1e} of what the steps add up to"


GATED = """
recurrence Gated(K, V):
    input  q[K], k[K], v[V], g[K]
    state  S[K, V] = 0

    S = {decay} * S[t-1] + k * v
    output o = q @ S
"""


def gated(decay: str) -> recurc.Recurrence:
    return recurc.load(text=GATED.format(decay=decay))


def arguments(rng: np.random.Generator, steps: int) -> dict[str, Any]:
    sizes = {"q": 3, "k": 3, "v": 4, "g": 3}
    return {n: rng.standard_normal((BATCH, steps, s)) for n, s in sizes.items()}


@pytest.mark.parametrize(
    "decay",
    [
        "exp(g)", "sigmoid(g)", "(1 - sigmoid(g))", "exp(-softplus(g)) ** 0.5", "(if g > 0 then 0.5 else exp(g))",
        "sqrt(sigmoid(g))", "exp(g) / (exp(g) * 2)", "rsqrt(exp(g))", "0.5 * exp(-abs(g))",
    ],
)  # fmt: skip
def test_logarithms_of_decays(decay: str, seed: int) -> None:
    rng = cases.generator(seed, decay)
    rec, arrays = gated(decay), arguments(rng, 11)
    assert matrix_backward(rec.ir, keep=True) is not None
    initial = {"S": rng.standard_normal((BATCH, 3, 4))}
    have, want = (pulled(differentiated(rec, w), arrays, initial, seed) for w in (False, True))
    agree(have, want, decay)


@pytest.mark.parametrize("decay", ["g", "(1 - g)", "tanh(g)", "(0.1 + 0.9 * sigmoid(g))"])
def test_decays_without_a_logarithm_keep_the_states(decay: str) -> None:
    """The derivative by a number that may be 0 or negative takes the state itself."""
    assert matrix_backward(gated(decay).ir, keep=True) is None
    assert "S_prev" in differentiated(gated(decay), whole=False).adjoint.saved


def test_nothing_comes_through_a_decay_of_nothing(seed: int) -> None:
    """exp(-inf) is 0 and so is its derivative; the state starts anew there."""
    rng = np.random.default_rng(seed)
    arrays = arguments(rng, 9)
    arrays["g"][0, 4], arrays["g"][1, 2, 1], arrays["g"][1, 6] = -np.inf, -np.inf, -800.0
    have, want = (pulled(differentiated(gated("exp(g)"), w), arrays, {}, seed) for w in (False, True))
    agree(have, want, "decays of 0")
    assert not have["g"][0, 4].any() and not have["g"][1, 6].any()


ANEW = """
recurrence Anew(K, V):
    input  q[K], k[K], v[V], g[K], first: bool
    state  S[K, V] = 0

    P = (if first then 0 else exp(g)) * S[t-1]
    S = P + k * (v - k @ P)
    output o = q @ S
"""


def test_sequences_that_start_anew(seed: int) -> None:
    rec = recurc.load(text=ANEW)
    assert matrix_backward(rec.ir, keep=True) is not None
    rng = np.random.default_rng(seed)
    arrays = arguments(rng, STEPS) | {"first": rng.random((BATCH, STEPS)) < 0.2}
    initial = {"S": rng.standard_normal((BATCH, 3, 4))}
    have, want = (pulled(differentiated(rec, w), arrays, initial, seed) for w in (False, True))
    agree(have, want, "resets")


@pytest.mark.parametrize("name", ["gla", "gated_delta_net", "gsa"])
def test_second_derivatives(name: str, seed: int) -> None:
    rec, rng = cases.load(name), cases.generator(seed, name)
    arrays, initial = drawn(name, rng, 3)
    f = rec.compile(backend="cpu", dtype="f64", sizes=ORACLES[name].sizes)
    real = {n: torch.from_numpy(a).requires_grad_() for n, a in arrays.items()}
    first = {n: torch.from_numpy(v).requires_grad_() for n, v in initial.items()}

    def run(*tensors: torch.Tensor) -> Any:
        given = dict(zip([*real, *first], tensors, strict=True))
        out, ends = f(initial={n: given.pop(n) for n in first}, return_final=True, **given)
        return (out, *ends.values())

    assert isinstance(f.differentiated.adjoint, MatrixAdjoint)
    assert torch.autograd.gradcheck(run, (*real.values(), *first.values()), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (*real.values(), *first.values()), fast_mode=True)
