"""`grad(loss, name)`: what it means on the backends, how it reads, and that dead branches stay dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import recurc

BACKENDS = ("reference", "numpy", "cpu")
HEAD = "recurrence A(D):\n    input  x[D], s\n    param  w[D]\n"


def derivative(loss: str, name: str = "x", **values: object) -> np.ndarray:
    """The derivative of one loss at one step, in f64."""
    text = f"{HEAD}    loss = {loss}\n    output y = grad(loss, {name}) + 0\n"
    given = {"x": np.ones((1, 1, 3)), "s": np.ones((1, 1)), "w": np.ones(3)} | {
        k: np.asarray(v, float) for k, v in values.items()
    }
    return recurc.compile(recurc.load(text=text), backend="reference")(**given)[0, 0]


def equations(text: str) -> dict[str, str]:
    lines = recurc.load(text=text).to_text().splitlines()
    return dict(line.strip().split(" = ", 1) for line in lines if " = " in line and "state" not in line)


def test_the_gradient_of_a_linear_memory_is_the_delta_rule() -> None:
    text = (
        "recurrence A(K, V):\n    input  k[K], v[V], beta\n    state  M[V, K] = 0\n"
        "    loss = 0.5 * sum((M[t-1] @ k - v)**2, V)\n    M = M[t-1] - beta * grad(loss, M[t-1])\n    output M\n"
    )
    assert equations(text)["M"] == "M[t-1] - beta * ((M[t-1] @ k - v) * k)"


def test_the_gradient_of_logsumexp_is_softmax_and_has_no_maximum_left() -> None:
    assert equations(f"{HEAD}    output y = grad(logsumexp(x, D), x)\n")["y"].startswith("exp(x - ")
    np.testing.assert_allclose(derivative("logsumexp(x, D)", x=[[[1.0, 2.0, 1001.0]]]), [0, 0, 1])


def test_two_gradients_of_one_loss_share_their_parts() -> None:
    text = (
        "recurrence A(K, H, V):\n    input  k[K], v[V]\n    state  W[H, K] = 0.1, U[V, H] = 0.1\n"
        "    hidden = silu(W[t-1] @ k)\n    loss = sum((U[t-1] @ hidden - v)**2, V)\n"
        "    W = W[t-1] - 0.1 * grad(loss, W[t-1])\n    U = U[t-1] - 0.1 * grad(loss, U[t-1])\n    output U\n"
    )
    shown = equations(text)
    assert len(set(shown.values())) == len(shown)
    assert not any(name.startswith("grad_U") for name in shown)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deep_memory_learns_as_torch_does(rng: np.random.Generator, backend: str) -> None:
    text = (
        "recurrence A(K, H, V):\n    input  k[K], v[V], q[K], theta\n    param  W0[H, K], U0[V, H]\n"
        "    state  W[H, K] = W0, U[V, H] = U0\n"
        "    e = l2norm(U[t-1] @ gelu(W[t-1] @ k), V) - v\n    loss = sum(e * e, V)\n"
        "    W = W[t-1] - theta * grad(loss, W[t-1])\n    U = U[t-1] - theta * grad(loss, U[t-1])\n"
        "    output y = U @ gelu(W @ q)\n"
    )
    k, v, q = (rng.standard_normal((2, 5, n)) for n in (3, 2, 3))
    theta, w0, u0 = rng.uniform(0, 0.2, (2, 5)), rng.standard_normal((4, 3)), rng.standard_normal((2, 4))
    gelu = torch.nn.functional.gelu
    expected = np.empty((2, 5, 2))
    for b in range(2):
        w, u = torch.tensor(w0, requires_grad=True), torch.tensor(u0, requires_grad=True)
        for t in range(5):
            key, value, query = (torch.tensor(a[b, t]) for a in (k, v, q))
            out = u @ gelu(w @ key)
            loss = ((out / torch.sqrt((out * out).sum() + 1e-6) - value) ** 2).sum()
            dw, du = torch.autograd.grad(loss, (w, u))
            w = (w - theta[b, t] * dw).detach().requires_grad_()
            u = (u - theta[b, t] * du).detach().requires_grad_()
            expected[b, t] = (u @ gelu(w @ query)).detach().numpy()
    run = recurc.compile(recurc.load(text=text), backend=backend, dtype="f64")
    # five steps of a smooth map of condition about 10
    np.testing.assert_allclose(run(k=k, v=v, q=q, theta=theta, W0=w0, U0=u0), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("sum(if x > 0 then sqrt(x) else 0, D)", [0, 0, 0.25]),
        ("sum(if x > 0 then x * log(x) else 0, D)", [0, 0, 1 + np.log(4)]),
        ("sum(where(x == 0, 1 + x / 2, expm1(x) / x), D)", [0.5, 0.2642411176571153, 10.299]),
        ("sum(max(sqrt(x), -1), D)", None),
        ("sum(where(x > 0, rsqrt(max(x, 0)), 1), D)", [0, 0, -1 / 16]),
        ("if s > 2 then sum(log(x), D) else sum(x, D)", [1, 1, 1]),
        ("sum(max(log(x), -2), D)", None),
    ],
)
def test_a_branch_that_is_not_taken_gives_no_nan(loss: str, expected: list[float] | None) -> None:
    found = derivative(loss, x=[[[0.0, -1.0, 4.0]]])
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    else:
        assert not np.isnan(found[2])


def test_dead_branches_stay_dead_through_named_equations() -> None:
    text = (
        "recurrence A(D):\n    input  x[D]\n    n = sqrt(sum(x * x, D))\n"
        "    loss = sum(if n > 0 then x / n else 0, D)\n"
        "    output y = grad(loss, x)\n"
    )
    found = recurc.compile(recurc.load(text=text), backend="reference")(x=np.zeros((1, 1, 3)))
    np.testing.assert_array_equal(found, np.zeros((1, 1, 3)))


def test_ties_belong_to_the_first() -> None:
    np.testing.assert_array_equal(derivative("max(x, D)"), [1, 0, 0])
    np.testing.assert_array_equal(derivative("min(x, D)"), [1, 0, 0])
    np.testing.assert_array_equal(derivative("sum(max(x, w), D)", "w"), [0, 0, 0])


def test_products_have_derivatives_where_factors_are_zero() -> None:
    np.testing.assert_array_equal(derivative("prod(x, D)", x=[[[0.0, 2.0, 3.0]]]), [6, 0, 0])
    np.testing.assert_array_equal(derivative("prod(x, D)", x=[[[0.0, 0.0, 3.0]]]), [0, 0, 0])
    np.testing.assert_array_equal(derivative("prod(x, D)", x=[[[5.0, 2.0, 3.0]]]), [6, 15, 10])


def test_nothing_flows_through_what_is_cut() -> None:
    np.testing.assert_array_equal(derivative("sum(stop_gradient(x) * x, D)", x=[[[1.0, 2.0, 3.0]]]), [1, 2, 3])
    np.testing.assert_array_equal(derivative("sum(floor(x) + stop_gradient(x), D)"), [0, 0, 0])


def test_a_derivative_of_a_derivative() -> None:
    found = derivative("sum(grad(sum(x**3 * w, D), x) * x, D)", x=[[[1.0, 2.0, 3.0]]], w=[1.0, 2.0, 1.0])
    np.testing.assert_allclose(found, [9, 72, 81])


def test_other_names_and_other_steps_are_constants() -> None:
    text = (
        "recurrence A(D):\n    input  x[D]\n    state  h[D] = 1\n"
        "    u = x * h[t-1] * h[t-2]\n    loss = sum(u * x, D)\n"
        "    h = 2 * h[t-1]\n    output by_h = grad(loss, h[t-1]), by_u = grad(loss, u), by_x = grad(loss, x)\n"
    )
    by_h, by_u, by_x = recurc.compile(recurc.load(text=text), backend="reference")(x=3 * np.ones((1, 2, 1)))
    assert (by_h.ravel().tolist(), by_u.ravel().tolist(), by_x.ravel().tolist()) == ([9, 9], [3, 3], [6, 12])


def test_names_of_parts_never_collide() -> None:
    text = (
        "recurrence A(D):\n    input  x[D], grad_x_2\n    grad_x = sum(x, D)\n"
        "    output y = grad(sum(sigmoid(x * grad_x * grad_x_2)**2, D), x)\n"
    )
    rec = recurc.load(text=text)
    names = [e.name for e in rec.ir.equations]
    assert len(set(names)) == len(names)
    assert recurc.load(text=rec.to_text()) == rec


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_derivative_of_cholesky_is_torchs(rng: np.random.Generator, backend: str) -> None:
    """Of several matrices at once, whose factor is used below, on and above the diagonal."""
    text = """recurrence A(K, D, E = D):
    input  G[K, D, D], w[K, D, E]
    L = cholesky(einsum(G, G, kij, klj, kil)) as [K, D, E]
    loss = sum(w * L, K, D, E) + sum(sin(L), K, D, E)
    output y = grad(loss, G)
"""
    given, weights = rng.standard_normal((2, 3, 2, 5, 5)) + 3 * np.eye(5), rng.standard_normal((2, 3, 2, 5, 5))
    run = recurc.compile(recurc.load(text=text), backend=backend, dtype="f64")
    g = torch.tensor(given, requires_grad=True)
    factor = torch.linalg.cholesky(g @ g.mT)
    ((torch.tensor(weights) * factor).sum() + torch.sin(factor).sum()).backward()
    assert g.grad is not None
    # the condition of these matrices is below 1e4
    np.testing.assert_allclose(run(G=given, w=weights), g.grad.numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_derivative_of_phi1_is_torchs(rng: np.random.Generator, backend: str) -> None:
    """Of several matrices at once, small and large (whose phi1 is of the order of 10000: a large angle)."""
    text = """recurrence A(K, D, E = D):
    input  G[K, D, D], w[K, D, E]
    loss = sum(w * (phi1(G) as [K, D, E]), K, D, E) + sum(sin((phi1(3 * G) as [K, D, E]) / 10000), K, D, E)
    output y = grad(loss, G)
"""
    given, weights = rng.standard_normal((2, 3, 2, 5, 5)), rng.standard_normal((2, 3, 2, 5, 5))
    run = recurc.compile(recurc.load(text=text), backend=backend, dtype="f64")
    g = torch.tensor(given, requires_grad=True)

    def phi1(a: torch.Tensor) -> torch.Tensor:
        top = torch.cat([a, torch.eye(5, dtype=a.dtype).expand(a.shape)], -1)
        return torch.linalg.matrix_exp(torch.cat([top, torch.zeros_like(top)], -2))[..., :5, 5:]

    ((torch.tensor(weights) * phi1(g)).sum() + torch.sin(phi1(3 * g) / 10000).sum()).backward()
    assert g.grad is not None
    size = float(g.grad.abs().max())
    np.testing.assert_allclose(run(G=given, w=weights), g.grad.numpy(), rtol=1e-10, atol=1e-12 * size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_by_and_through_complex_numbers_are_torchs(rng: np.random.Generator, backend: str) -> None:
    """By complex and by real values, through what is holomorphic and what is not, and 0 where a modulus is 0."""
    text = """recurrence A(D, E):
    input  z[D]: complex, w[E, D]: complex, a[D], r[E]
    p = z * a + conj(z) / 3
    q = w @ p + r
    u = exp(0.1 * q) * sqrt(q + 4)
    s = prod(1 + 0.1j * p, D)
    v = where(a > 0, z * z, z / (2 + z))
    loss = sum(abs(u)) + sum(real(v * 1j), D) + imag(s) ** 2 + real(conj(s) * s) + sum(abs(z - z), D)
    output gz = grad(loss, z), gw = grad(loss, w), ga = grad(loss, a), gr = grad(loss, r), gp = grad(loss, p)
"""

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    given = {"z": draw(2, 3, 4), "w": draw(2, 3, 5, 4)}
    given |= {"a": rng.standard_normal((2, 3, 4)), "r": rng.standard_normal((2, 3, 5))}
    got = recurc.compile(recurc.load(text=text), backend=backend, dtype="f64")(**given)
    z, w, a, r = (torch.tensor(given[name], requires_grad=True) for name in "zwar")
    p = z * a + z.conj() / 3
    p.retain_grad()
    q = (w @ p[..., None])[..., 0] + r
    u, s = torch.exp(0.1 * q) * torch.sqrt(q + 4), torch.prod(1 + 0.1j * p, -1)
    v = torch.where(a > 0, z * z, z / (2 + z))
    loss = u.abs().sum() + (v * 1j).real.sum() + (s.imag**2).sum() + (s.conj() * s).real.sum()
    loss.backward()
    for mine, value in zip(got, (z, w, a, r, p), strict=True):
        assert value.grad is not None
        np.testing.assert_allclose(mine, value.grad.numpy(), rtol=1e-9, atol=1e-9)  # conditions below 1e4


def test_a_complex_memory_descends_along_its_gradient() -> None:
    text = """recurrence A:
    input  k: complex, v: complex
    state  m: complex = 0
    m = m[t-1] - 0.5 * grad(0.5 * abs(m[t-1] * k - v) ** 2, m[t-1])
    output m
"""
    k = np.full(60, 0.6 + 0.8j)
    got = recurc.compile(recurc.load(text=text), backend="reference")(k=k, v=np.full(60, 2 - 1j))
    np.testing.assert_allclose(got[-1], (2 - 1j) / (0.6 + 0.8j), atol=1e-12)
