"""New params follow their `~` initialisers."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from recurc import ShapeError

TEXT = """recurrence R(D, N = 6):
    input x[D]
    param a[D, N] ~ uniform(-1/sqrt(D), 1/sqrt(D))
    param b[D, N] ~ normal(2, 0.5)
    param c[D]    ~ log_uniform(0.001, 0.1)
    param d[2, D, N] ~ orthogonal
    param e[N, N] ~ hippo
    param f[N]    ~ hippo
    param g[D, N] ~ s4d_real
    param h[D, N]: complex ~ s4d_lin
    param i[D]    ~ ones
    param j[D]    ~ zeros
    param k[D, N]
    param l
    output y = x
"""


def test_an_initialiser_may_be_an_expression_of_sizes_and_places() -> None:
    text = """recurrence Ramp(N, D):
    input  x[N]
    param  a[N] ~ 1/N, b[N, D] ~ 0.5*index(D) - index(N), e[N, N] ~ 2*eye(N), i[N]: int ~ index(N) % 3, s ~ -1
    output y = a * x + sum(b, D) + e @ x + i + s
"""
    made = recurc.load(text=text).init_params(0, N=4, D=3)
    np.testing.assert_array_equal(made["a"], np.full(4, 0.25, np.float32))
    np.testing.assert_array_equal(made["b"], 0.5 * np.arange(3) - np.arange(4)[:, None])
    np.testing.assert_array_equal(made["e"], 2 * np.eye(4))
    np.testing.assert_array_equal(made["i"], [0, 1, 2, 0])
    assert made["s"] == -1


def test_each_initialiser_fills_as_the_language_says(rng: np.random.Generator) -> None:
    params = recurc.load(text=TEXT).init_params(rng, D=400)
    assert list(params) == list("abcdefghijkl")
    assert all(v.dtype == (np.complex64 if n == "h" else np.float32) for n, v in params.items())
    assert np.abs(params["a"]).max() <= 1 / 20 and np.abs(params["a"]).max() > 0.9 / 20
    # 2,400 draws: the mean is within 6 standard errors of 2, the deviation within 15 percent of 0.5
    assert abs(params["b"].mean() - 2) < 6 * 0.5 / np.sqrt(2400) and abs(params["b"].std() - 0.5) < 0.075
    assert params["c"].min() >= 0.001 and params["c"].max() <= 0.1 and np.median(params["c"]) < 0.03
    for q in params["d"].astype(float):
        np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-5)
    matrix = params["e"].astype(float)
    np.testing.assert_allclose(np.diag(matrix), -np.arange(1, 7))
    assert matrix[2, 1] == pytest.approx(-np.sqrt(15)) and matrix[1, 2] == 0
    np.testing.assert_allclose(params["f"], np.sqrt([1, 3, 5, 7, 9, 11]), rtol=1e-6)
    np.testing.assert_allclose(params["g"][3], -np.arange(1, 7))
    np.testing.assert_allclose(params["h"][3], -0.5 + 1j * np.pi * np.arange(6), rtol=1e-6)
    assert (params["i"] == 1).all() and (params["j"] == 0).all()
    assert np.abs(params["k"]).max() <= 1 / np.sqrt(6) and 0 <= params["l"] <= 1


def test_the_seed_decides_and_a_generator_goes_on() -> None:
    rec = recurc.zoo.load("lstm")
    first, again, other = (rec.init_params(seed, D=3, H=4)["W"] for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(rec.init_params(rng, D=3, H=4)["W"], first)
    assert (rec.init_params(rng, D=3, H=4)["W"] != first).any()
    assert first.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("p[D] ~ orthogonal", "orthogonal needs two dims"),
        ("p[D, N] ~ hippo", "square"),
        ("p ~ s4d_real", "needs a dim"),
        ("p[D] ~ log_uniform(-1, 1)", "above 0"),
    ],
)
def test_an_initialiser_that_does_not_fit_names_the_param(declared: str, message: str) -> None:
    rec = recurc.load(text=f"recurrence R(D, N):\n    input x[D]\n    param {declared}\n    output y = x\n")
    with pytest.raises(ShapeError, match=message) as raised:
        rec.init_params(0, D=3, N=4)
    assert "`p`" in str(raised.value)
