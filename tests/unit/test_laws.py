"""Continuous-time laws: each method against its formula in NumPy and SciPy, on the interpreters and in native code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import recurc

STEPS, H, N = 9, 3, 2
HEAD = "recurrence Law(H, N):\n"


def matrix_step(method: str, a: Any, h: Any, b: Any, old: Any, dt: float, lam: float) -> Any:
    """One step for a matrix, by the augmented exponential and plain inverses."""
    n = len(a)
    unit = np.eye(n)
    big = scipy.linalg.expm(dt * np.block([[a, unit], [np.zeros((n, 2 * n))]]))
    match method:
        case "euler":
            return h + dt * (a @ h + b)
        case "bilinear":
            return np.linalg.inv(unit - dt / 2 * a) @ ((unit + dt / 2 * a) @ h + dt * b)
        case "zoh":
            return big[:n, :n] @ h + big[:n, n:] @ b
        case _:
            decay = scipy.linalg.expm(dt * a)
            return decay @ h + (1 - lam) * dt * decay @ old + lam * dt * b


def run(text: str, reference: Callable[..., Any], rng: np.random.Generator, **arrays: Any) -> None:
    rec = recurc.load(text=HEAD + text)
    expected = reference(**arrays)
    for backend in ("reference", "numpy", "cpu"):
        found = np.asarray(rec.compile(backend=backend, dtype="f64", sizes={"H": H, "N": N})(**arrays))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11, err_msg=backend)
    again = recurc.load(text=rec.to_text())
    assert again.ir == rec.ir


@pytest.mark.parametrize("method", ["euler", "bilinear", "zoh", "exp_trapezoid"])
def test_a_matrix_law(method: str, rng: np.random.Generator) -> None:
    lam = 0.3

    def loop(u: Any, A: Any, B: Any, dt: Any) -> Any:
        h, old, out = np.ones(H), np.zeros(H), []
        for x in u:
            b = B @ x
            h = matrix_step(method, A, h, b, old, float(dt), lam)
            old = b
            out.append(h)
        return np.array(out)

    more = ", 0.3" if method == "exp_trapezoid" else ""
    text = f"""    input  u[N]
    param  A[H, H], B[H, N], dt
    state  h[H] = 1
    der(h) = A @ h + B @ u using {method}(dt{more})
    output h
"""
    run(
        text, loop, rng,
        u=rng.standard_normal((STEPS, N)), A=rng.standard_normal((H, H)), B=rng.standard_normal((H, N)),
        dt=np.array(0.2),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["euler", "bilinear", "zoh", "exp_trapezoid"])
def test_an_elementwise_law_is_the_matrix_law_of_its_diagonal(method: str, rng: np.random.Generator) -> None:
    """Also where the factor is 0 or tiny, and where it is hidden in a sum of terms."""

    def loop(u: Any, a: Any, dt: Any) -> Any:
        h, old, out = np.ones((N, H)), np.zeros((N, H)), []
        for x, step in zip(u, dt, strict=True):
            b = 2 * np.broadcast_to(x, (N, H))
            flat = matrix_step(method, np.diag((-a).ravel() / 3 + 0.25), h.ravel(), b.ravel(), old.ravel(), step, 0.5)
            h, old = flat.reshape(N, H), b
            out.append(h)
        return np.array(out)

    a = rng.standard_normal((N, H))
    a[0, 0], a[1, 1], a[0, 2] = 0.75, 0.75 + 1e-9, 0.75 - 2e-3  # a factor of 0, of almost 0, and near the threshold
    text = f"""    input  u[H], dt
    param  a[N, H]
    state  h[N, H] = 1
    der(h) = u - a * h / 3 + (0.25 * h + u) using {method}(dt)
    output h
"""
    run(text, loop, rng, u=rng.standard_normal((STEPS, H)), a=a, dt=rng.random(STEPS))


def test_a_complex_law_is_exact_for_held_inputs(rng: np.random.Generator) -> None:
    def loop(u: Any, re: Any, im: Any) -> Any:
        lam, h, out = re + 1j * im, np.zeros(H, complex), []
        for x in u:
            z = 0.1 * lam
            ratio = np.where(z == 0, 1, np.expm1(z) / np.where(z == 0, 1, z))
            h = np.exp(z) * h + 0.1 * ratio * x
            out.append(h.real)
        return np.array(out)

    text = """    input  u[H]
    param  re[H], im[H]
    state  h[H]: complex = 0
    der(h) = (re + 1j * im) * h + u using zoh(0.1)
    output y = real(h)
"""
    im = rng.standard_normal(H)
    im[0] = 0.0
    re = -np.abs(rng.standard_normal(H))
    re[0] = 0.0
    run(text, loop, rng, u=rng.standard_normal((STEPS, H)), re=re, im=im)


def test_matrices_side_by_side_and_a_common_factor(rng: np.random.Generator) -> None:
    def loop(u: Any, M: Any) -> Any:
        h, out = np.zeros((N, H)), []
        for x in u:
            h = np.stack([matrix_step("bilinear", 0.5 * M[n], h[n], x, None, 0.2, 0) for n in range(N)])
            out.append(h)
        return np.array(out)

    text = """    input  u[H]
    param  M[N, H, H]
    state  h[N, H] = 0
    der(h) = 0.5 * (M @ h) + u using bilinear(dt = 0.2)
    output h
"""
    run(text, loop, rng, u=rng.standard_normal((STEPS, H)), M=rng.standard_normal((N, H, H)))


def test_a_law_holds_in_a_block_and_may_read_what_other_equations_say(rng: np.random.Generator) -> None:
    def loop(u: Any) -> Any:
        h, g, out = np.zeros(H), np.zeros(H), []
        for t, x in enumerate(u):
            if t % 2 == 0:
                h = h + 0.5 * (np.tanh(g) - h)
            g = 0.9 * g + x
            out.append(h)
        return np.array(out)

    text = """    input  u[H]
    state  g[H] = 0
    every 2:
        state  h[H] = 0
        drive = tanh(g[t-1])
        der(h) = drive - h using euler(0.5)
    g = 0.9 * g[t-1] + u
    output h
"""
    run(text, loop, rng, u=rng.standard_normal((STEPS, H)))
