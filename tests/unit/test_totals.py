"""What the backward pass leaves to one product of matrices, and what it reads back instead of computing it anew."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from recurc.passes.adjoint import adjoint
from recurc.passes.residuals import keep_sums
from recurc.passes.totals import totals
from tests.zoo import cases

PLAIN = """
recurrence Plain(D, H):
    input  x[D]
    param  W[H, D]
    param  U[H, H]
    param  b[H]
    param  a[H]
    state  h[H] = 0

    h = tanh(W @ x + U @ h[t-1] + b) + a * h[t-1]
    output h
"""


def plain() -> recurc.Recurrence:
    return recurc.load(text=PLAIN)


def test_derivatives_of_weights_leave_the_loop() -> None:
    rec = plain().ir
    rest, found = totals(keep_sums(rec, adjoint(rec))[1].back)
    assert {t.name for t in found if t.over_time} == {"d_W", "d_U", "d_b"}
    assert {t.name for t in found if not t.over_time} == {"d_x"}
    assert [s.name for s in rest.states] == ["d_h", "d_a"]  # d_a adds up products of values as large as itself
    assert not {"x", "W"} & {r.name for e in rest.equations for r in recurc.ir.reads(e.expr)}


@pytest.mark.parametrize(
    "step",
    [
        "S = S[t-1] + outer(k, v)\n    y = S @ v",
        "S = 0.5 * S[t-1] + outer(k, v)\n    y = k",
        "S = S[t-1] * S[t-1]\n    y = k",
    ],
)
def test_what_is_read_or_forgets_stays(step: str) -> None:
    rec = recurc.load(
        text=f"recurrence Kept(K, V):\n    input  k[K], v[V]\n    state  S[K, V] = 0\n\n    {step}\n    output y\n"
    ).ir
    assert totals(rec) == (rec, ())


def test_a_sum_that_does_not_start_from_zero_stays() -> None:
    text = (
        "recurrence From(K, V):\n    input  k[K], v[V]\n    state  S[K, V] = 1\n\n"
        "    S = S[t-1] + outer(k, v)\n    output y = k\n"
    )
    rec = recurc.load(text=text).ir
    assert totals(rec) == (rec, ())


def test_sums_with_weights_are_read_back() -> None:
    rec = cases.load("lstm").ir
    source, kept = keep_sums(rec, adjoint(rec))
    assert source.outputs == ("h", "i_f_g_o")
    assert kept.saved == ("i_f_g_o", "h_prev", "c_prev")
    names = {r.name for e in kept.back.equations for r in recurc.ir.reads(e.expr)}
    assert "i_f_g_o" in names
    assert "b" not in names


def test_a_sum_inside_an_expression_gets_a_name() -> None:
    rec = plain().ir
    source, kept = keep_sums(rec, adjoint(rec))
    assert source.outputs == ("h", "h_sum")
    assert kept.saved == ("h_sum", "h_prev")


def test_what_resets_change_is_computed_anew() -> None:
    text = PLAIN.replace("    param  W", "    input  first: bool\n    param  W").replace(
        "    h = ", "    reset when first\n    h = "
    )
    rec = recurc.load(text=text).ir
    assert keep_sums(rec, adjoint(rec))[1].saved == ("h_prev",)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("layout", ["BT", "TB"])
def test_padding_of_ragged_rows_never_reaches_a_weight(backend: str, layout: str, rng: np.random.Generator) -> None:
    f = plain().compile(backend=backend, layout=layout)
    lengths, (b, t, d, h) = np.array([3, 0, 5]), (3, 5, 4, 2)
    x = rng.standard_normal((b, t, d))
    weights = {"W": rng.standard_normal((h, d)), "U": rng.standard_normal((h, h)), "b": np.ones(h), "a": np.ones(h)}
    wanted = {n: np.zeros_like(w) for n, w in weights.items()}
    for row, length in enumerate(lengths):
        one = x[row, :length]
        y, back = f.vjp(x=one, **weights)
        found = back(np.ones_like(y))
        wanted = {n: w + found[n] for n, w in wanted.items()}
    for row, length in enumerate(lengths):
        x[row, length:] = np.nan
    x = x.swapaxes(0, 1) if layout == "TB" else x
    y, back = f.vjp(x=x, lengths=lengths, **weights)
    found = back(np.ones_like(y))
    for name, want in wanted.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12)
    assert np.isfinite(found["x"]).all()


def test_sequences_may_have_weights_of_their_own(rng: np.random.Generator) -> None:
    f = plain().compile(backend="numpy")
    b, t, d, h = 3, 7, 4, 2
    x = rng.standard_normal((b, t, d))
    weights = {
        "W": rng.standard_normal((b, h, d)),
        "U": rng.standard_normal((1, h, h)),
        "b": np.ones(h),
        "a": np.ones(h),
    }
    y, back = f.vjp(x=x, **weights)
    given = rng.standard_normal(y.shape)
    found = back(given)
    assert {n: g.shape for n, g in found.items() if n in weights} == {n: w.shape for n, w in weights.items()}
    for row in range(b):
        own = {**weights, "W": weights["W"][row], "U": weights["U"][0]}
        y, back = f.vjp(x=x[row], **own)
        one = back(given[row])
        np.testing.assert_allclose(found["W"][row], one["W"], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found["x"][row], one["x"], rtol=1e-11, atol=1e-12)
        found["U"] -= one["U"]
    np.testing.assert_allclose(found["U"], 0, atol=1e-11)


@pytest.mark.parametrize("layout", ["BT", "TB"])
def test_several_products_add_up_in_tensors_as_in_arrays(layout: str, rng: np.random.Generator) -> None:
    """Derivatives of weights with heads, and of an input that two weights read: what a library adds in place, and takes
    turned as it lies, is the definition's sum, and nothing that the caller holds changes."""
    torch = pytest.importorskip("torch")
    text = (
        "recurrence Heads(D, N, P):\n    input x[D], y[N, P]\n    param A[3, N, P, D], B[2, D, D], R[3, N, P, P]\n"
        "    state h[N, P] = 0\n\n    a, b, c = A @ x + R @ h[t-1]\n    u, v = B @ x\n"
        "    h = tanh(a) * h[t-1] + b * c * y + sum(u * v, D)\n    output h\n"
    )
    f = recurc.load(text=text).compile(backend="numpy", layout=layout)
    steps, batch, d, n, p = 6, 3, 4, 2, 5
    lead = (batch, steps) if layout == "BT" else (steps, batch)
    arrays = {
        "x": rng.standard_normal((*lead, d)), "y": rng.standard_normal((*lead, n, p)) / 4,
        "A": rng.standard_normal((3, n, p, d)) / 4, "B": rng.standard_normal((2, d, d)) / 4,
        "R": rng.standard_normal((3, n, p, p)) / 4,
    }  # fmt: skip
    made, back = f.vjp(**arrays)
    given = rng.standard_normal(made.shape)
    want = back(given)
    tensors = {name: torch.from_numpy(a.copy()) for name, a in arrays.items()}
    _, back = f.vjp(**tensors)
    for _turn in range(2):
        found = back(torch.from_numpy(given))
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name].numpy(), want[name], rtol=1e-12, atol=1e-12)
            np.testing.assert_array_equal(tensors[name].numpy(), array)
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    by_autograd = torch.autograd.grad((f(**leaves) * torch.from_numpy(given)).sum(), list(leaves.values()))
    for name, gradient in zip(leaves, by_autograd, strict=True):
        np.testing.assert_allclose(gradient.numpy(), want[name], rtol=1e-12, atol=1e-12)
    step = {name: 1e-6 * rng.standard_normal(a.shape) for name, a in arrays.items()}
    above, below = (f(**{name: a + sign * step[name] for name, a in arrays.items()}) for sign in (1, -1))
    slope = sum(float((want[name] * s).sum()) for name, s in step.items())
    assert abs(float(((above - below) * given).sum()) / 2 - slope) < 1e-7 * (abs(slope) + 1e-6)


@pytest.mark.parametrize("real", ["float16", "bfloat16"])
def test_half_precision_adds_up_in_single(real: str, rng: np.random.Generator) -> None:
    """A thousand equal terms: added up in half precision they would stop growing."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(np.float16) if real == "float16" else np.dtype(ml_dtypes.bfloat16)
    text = (
        "recurrence Sum(D, H):\n    input x[D]\n    param W[H, D]\n    state h[H] = 0\n\n    h = W @ x\n    output h\n"
    )
    f = recurc.load(text=text).compile(backend="numpy")
    steps = 4096
    x, w = np.ones((1, steps, 3), kind), rng.standard_normal((2, 3)).astype(kind)
    y, back = f.vjp(x=x, W=w)
    found = back(np.ones_like(y))
    assert found["W"].dtype == kind
    np.testing.assert_array_equal(found["W"].astype(np.float64), steps)
