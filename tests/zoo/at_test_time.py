"""Memories that learn at test time, as loops over their equations: gradients by hand, chunks taken whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid, silu

# --- TTT --------------------------------------------------------------------------------------------------------------


def _chunks(xs: list[SimpleNamespace], size: int) -> Iterator[SimpleNamespace]:
    """The inputs of `size` steps at a time, stacked: `(C, ...)`, the last chunk shorter."""
    for begin in range(0, len(xs), size):
        part = xs[begin : begin + size]
        yield SimpleNamespace(**{name: np.stack([vars(x)[name] for x in part]) for name in vars(part[0])})


def _layer_norm(z: Any, scale: Any, shift: Any) -> Any:
    return scale * (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6) + shift


def _gradient_through_norm(z: Any, scale: Any, shift: Any, target: Any) -> Any:
    """Of half the squared distance of the layer norm of z to the target, with respect to z."""
    size, std = z.shape[-1], np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    hat = (z - z.mean(-1, keepdims=True)) / std
    g = scale * (scale * hat + shift - target)
    return (size * g - g.sum(-1, keepdims=True) - hat * (g * hat).sum(-1, keepdims=True)) / (size * std)


def _eta(p: SimpleNamespace, lr: Any) -> Any:
    """`(reading token, learning token)`, zero above the diagonal."""
    return np.tril(np.maximum(1 / np.arange(1, len(lr) + 1) + p.offset[: len(lr)], 0)[:, None] * lr[None, :])


@oracle("ttt_linear", sizes={"H": 2, "K": 5, "C": 3}, k="small", q="small", lr="gate", offset="small", scale="positive")
def ttt_linear(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The dual form: inside a chunk no memory is made, tokens look at tokens."""
    W, b = p.W0.copy(), p.b0.copy()
    for c in _chunks(xs, 3):
        out = np.zeros(c.v.shape)
        for h in range(2):
            q, k, v, eta = c.q[:, h], c.k[:, h], c.v[:, h], _eta(p, c.lr[:, h])
            grad = _gradient_through_norm(k @ W[h] + b[h], p.scale[h], p.shift[h], v - k)
            read = q @ W[h] + b[h] - (eta * (q @ k.T)) @ grad - eta @ grad
            out[:, h] = q + _layer_norm(read, p.scale[h], p.shift[h])
            W[h] -= k.T @ (eta[-1][:, None] * grad)
            b[h] -= eta[-1] @ grad
        yield from out


def _gelu(u: Any) -> Any:
    return 0.5 * u * (1 + np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))


def _gelu_slope(u: Any) -> Any:
    inner = np.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3))
    return 0.5 * (1 + inner) + 0.5 * u * (1 - inner**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * u**2)


@oracle(
    "ttt_mlp",
    sizes={"H": 2, "K": 5, "E": 4, "C": 3},
    k="small", q="small", lr="gate", offset="small", scale="positive",
)  # fmt: skip
def ttt_mlp(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    W, b, P, d = p.W0.copy(), p.b0.copy(), p.P0.copy(), p.d0.copy()
    for c in _chunks(xs, 3):
        out = np.zeros(c.v.shape)
        for h in range(2):
            q, k, v, eta = c.q[:, h], c.k[:, h], c.v[:, h], _eta(p, c.lr[:, h])
            Z1 = k @ W[h] + b[h]
            X2 = _gelu(Z1)
            grad2 = _gradient_through_norm(X2 @ P[h] + d[h], p.scale[h], p.shift[h], v - k)
            grad1 = (grad2 @ P[h].T) * _gelu_slope(Z1)
            read1 = _gelu(q @ W[h] + b[h] - (eta * (q @ k.T)) @ grad1 - eta @ grad1)
            read2 = read1 @ P[h] + d[h] - (eta * (read1 @ X2.T)) @ grad2 - eta @ grad2
            out[:, h] = q + _layer_norm(read2, p.scale[h], p.shift[h])
            W[h] -= k.T @ (eta[-1][:, None] * grad1)
            b[h] -= eta[-1] @ grad1
            P[h] -= X2.T @ (eta[-1][:, None] * grad2)
            d[h] -= eta[-1] @ grad2
        yield from out


# --- Titans -----------------------------------------------------------------------------------------------------------

GATES: dict[str, Any] = {"alpha": "gate", "eta": "gate", "theta": lambda rng, shape: rng.uniform(0.02, 0.1, shape)}


@oracle("titans_linear", sizes={"K": 3, "V": 4}, **GATES)
def titans_linear(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """One affine map of (S, M), with blocks."""
    K = len(p.M0)
    both = np.concatenate([np.zeros_like(p.M0), p.M0])
    for x in xs:
        kk, eye = 2 * x.theta * np.outer(x.k, x.k), np.eye(K)
        move = np.block([[x.eta * eye, -kk], [x.eta * eye, (1 - x.alpha) * eye - kk]])
        write = 2 * x.theta * np.outer(x.k, x.v)
        both = move @ both + np.concatenate([write, write])
        yield both[K:].T @ x.q


def _titans_frozen(p: SimpleNamespace, xs: list[SimpleNamespace], read_frozen: bool) -> Iterator[Any]:
    """A chunk as sums over its tokens with the products of gates written out."""
    M, S = p.M0.copy(), np.zeros_like(p.M0)
    for c in _chunks(xs, 4):
        n = len(c.alpha)
        keep = 1 - c.alpha
        u = 2 * c.theta[:, None] * (c.v - c.k @ M)
        out = []
        for t in range(n):
            end = np.prod(keep[: t + 1]) * M
            momentum = [np.prod(c.eta[: i + 1]) * S for i in range(t + 1)]
            for i in range(t + 1):
                momentum[i] = momentum[i] + sum(
                    np.prod(c.eta[j + 1 : i + 1]) * np.outer(c.k[j], u[j]) for j in range(i + 1)
                )
                end = end + np.prod(keep[i + 1 : t + 1]) * momentum[i]
            out.append((c.q[t] @ (M if read_frozen else end), end, momentum[-1]))
        yield from (y for y, _, _ in out)
        M, S = out[-1][1], out[-1][2]


@oracle("titans_linear_chunked", sizes={"K": 3, "V": 5}, **GATES)
def titans_linear_chunked(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _titans_frozen(p, xs, read_frozen=False)


@oracle("titans_linear_previous_chunk", sizes={"K": 3, "V": 5}, **GATES)
def titans_linear_previous_chunk(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _titans_frozen(p, xs, read_frozen=True)


def _titans_mlp(p: SimpleNamespace, xs: list[SimpleNamespace], chunk: int) -> Iterator[Any]:
    A, B = frozen_A, frozen_B = p.A0, p.B0
    SA, SB = np.zeros_like(A), np.zeros_like(B)
    for t, x in enumerate(xs):
        if t % chunk == 0:
            frozen_A, frozen_B = A, B
        z = x.k @ frozen_A
        miss = 2 * (silu(z) @ frozen_B - x.v)
        slope = sigmoid(z) * (1 + z * (1 - sigmoid(z)))
        SA = x.eta * SA - x.theta * np.outer(x.k, slope * (frozen_B @ miss))
        SB = x.eta * SB - x.theta * np.outer(silu(z), miss)
        A, B = (1 - x.alpha) * A + SA, (1 - x.alpha) * B + SB
        yield silu(x.q @ A) @ B


@oracle("titans_mlp", sizes={"K": 3, "E": 5, "V": 4}, **GATES)
def titans_mlp(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _titans_mlp(p, xs, 1)


@oracle("titans_mlp_chunked", sizes={"K": 3, "E": 5, "V": 2}, **GATES)
def titans_mlp_chunked(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _titans_mlp(p, xs, 4)


# --- the Omega rule and ATLAS -----------------------------------------------------------------------------------------


def _few(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.01, 0.08, shape)


OMEGA: dict[str, Any] = {"gamma": _few, "alpha": "gate"}


@oracle("omega_net_linear", sizes={"K": 3, "V": 5, "C": 4}, **OMEGA)
def omega_net_linear(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """One matrix of rank C per step."""
    M = p.M0
    for t, x in enumerate(xs):
        span = range(max(0, t - 3), t + 1)
        keys, values = np.stack([xs[i].k for i in span], 1), np.stack([xs[i].v for i in span], 1)
        weights = np.diag(x.gamma[4 - len(span) :])
        M = (x.alpha * np.eye(3) - 2 * keys @ weights @ keys.T) @ M + 2 * keys @ weights @ values.T
        yield x.q @ M


def _monomials(u: Any, coef: Any) -> Any:
    """1; u0, u0 u0; u1, u1 u0, u1 u1; ...: all of degree 2 or less, times the coefficient of their degree."""
    found = [coef[0]]
    for i in range(len(u)):
        found += [coef[1] * u[i], *(coef[2] / 2 * u[i] * u[j] for j in range(i + 1))]
    return np.array(found)


def _window_gradient(M: Any, x: SimpleNamespace, past: list[tuple[Any, Any]], size: int) -> Any:
    grad = np.zeros_like(M)
    for back, (f, v) in enumerate(reversed(past[-size:])):
        grad = grad + 2 * x.gamma[size - 1 - back] * np.outer(f, f @ M - v)
    return grad


@oracle("omega_net", sizes={"K": 3, "V": 2, "P": 10, "C": 4}, **OMEGA)
def omega_net(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    M, past = p.M0, []
    for x in xs:
        past.append((_monomials(x.k, p.coef), x.v))
        M = x.alpha * M - _window_gradient(M, x, past, 4)
        yield _monomials(x.q, p.coef) @ M


@oracle("omega_net_powers", sizes={"K": 3, "V": 5, "C": 4}, **OMEGA)
def omega_net_powers(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    def features(u: Any) -> Any:
        return np.concatenate([p.coef[0] * u, p.coef[1] / 2 * u * u])

    M, past = np.zeros((6, 5)), []
    for x in xs:
        past.append((features(x.k), x.v))
        M = x.alpha * M - _window_gradient(M, x, past, 4)
        yield features(x.q) @ M


def _newton_schulz(S: Any) -> Any:
    X = S / np.sqrt((S * S).sum())
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * (A @ A)) @ X
    return X.T if tall else X


def _atlas(frozen_for: int) -> Callable[[SimpleNamespace, list[SimpleNamespace]], Iterator[Any]]:
    def loop(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
        M, S, at, past = p.M0, np.zeros_like(p.M0), p.M0, []
        for t, x in enumerate(xs):
            past.append((_monomials(x.k, p.coef), x.v))
            at = at if t % frozen_for else M
            S = x.theta * S + _window_gradient(at, x, past, 4)
            M = x.alpha * M - x.eta * _newton_schulz(S)
            yield _monomials(x.q, p.coef) @ M

    return loop


ATLAS: dict[str, Any] = {**OMEGA, "theta": "gate", "eta": "small"}
oracle("atlas", sizes={"K": 3, "V": 2, "P": 10, "C": 4}, **ATLAS)(_atlas(1))
oracle("atlas_chunked", sizes={"K": 3, "V": 2, "P": 10, "C": 4}, **ATLAS)(_atlas(4))
