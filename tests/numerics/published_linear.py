"""Linear attention, delta rules and state-space models: as `.rec` text, and as loops of plain NumPy (see
`published`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.numerics.published import Loop, Published, sigmoid
from tests.numerics.published import system as _system

LINEAR: dict[str, Published] = {}
system: Callable[..., Callable[[Loop], Loop]] = partial(_system, into=LINEAR)


@system(
    "SR1 EA",
    """
recurrence LinearAttention(K, V):
    input q[K], k[K], v[V]
    state S[K, V] = 0
    state z[K] = 0
    fn phi(u) = elu(u) + 1
    S = S[t-1] + phi(k) * v
    z = z[t-1] + phi(k)
    output o = phi(q) @ S / (phi(q) @ z + 1e-6)""",
)
def linear_attention(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    def phi(u: Any) -> Any:
        return np.where(u > 0, u, np.exp(u) - 1) + 1

    S, z = np.zeros((2, 5)), np.zeros(2)
    for x in xs:
        S, z = S + np.outer(phi(x.k), x.v), z + phi(x.k)
        yield S.T @ phi(x.q) / (z @ phi(x.q) + 1e-6)


@system(
    "SR1",
    """
recurrence RetNet(H, K, V):
    input q[H, K], k[H, K], v[H, V]
    param gamma[H]
    state S[H, K, V] = 0
    S = gamma * S[t-1] + k * v
    output o = (q / sqrt(K)) @ S""",
    gamma="unit",
)
def retnet(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        S = p.gamma[:, None, None] * S + x.k[:, :, None] * x.v[:, None, :]
        yield np.stack([S[h].T @ x.q[h] for h in range(3)]) / np.sqrt(2)


@system(
    "DR1",
    """
recurrence GLA(K, V):
    input q[K], k[K], v[V], g[K]
    state S[K, V] = 0
    S = exp(logsigmoid(g) / 16) * S[t-1] + k * v
    output o = S.T @ q""",
)
def gla(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        S = (sigmoid(x.g) ** (1 / 16))[:, None] * S + np.outer(x.k, x.v)
        yield S.T @ x.q


@system(
    "DR1",
    """
recurrence HGRN2(K, V):
    input q[K], f[K], v[V]
    param low[K]
    state S[K, V] = 0
    gate = sigmoid(low) + (1 - sigmoid(low)) * sigmoid(f)
    S = gate * S[t-1] + (1 - gate) * v
    output o = q @ S""",
)
def hgrn2(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        gate = sigmoid(p.low) + (1 - sigmoid(p.low)) * sigmoid(x.f)
        S = gate[:, None] * S + np.outer(1 - gate, x.v)
        yield S.T @ x.q


@system(
    "EA",
    """
recurrence HGRN(D):
    input x[D], f[D], o[D]
    param low
    state h[D] = 0
    gate = low + (1 - low) * sigmoid(f)
    h = gate * h[t-1] + (1 - gate) * silu(x)
    output y = sigmoid(o) * h""",
    low="unit",
)
def hgrn(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4)
    for x in xs:
        gate = p.low + (1 - p.low) * sigmoid(x.f)
        h = gate * h + (1 - gate) * x.x * sigmoid(x.x)
        yield sigmoid(x.o) * h


@system(
    "OS",
    """
recurrence RWKV4(D):
    input k[D], v[D]
    param w[D], u[D]
    state a[D] = 0, b[D] = 0
    state p[D] = -inf
    top = max(p[t-1], u + k)
    num = exp(p[t-1] - top) * a[t-1] + exp(u + k - top) * v
    den = exp(p[t-1] - top) * b[t-1] + exp(u + k - top)
    p = max(p[t-1] - exp(w), k)
    a = exp(p[t-1] - exp(w) - p) * a[t-1] + exp(k - p) * v
    b = exp(p[t-1] - exp(w) - p) * b[t-1] + exp(k - p)
    output y = num / den""",
)
def rwkv4(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    past: list[SimpleNamespace] = []
    for x in xs:
        weights = [np.exp(x_.k - (len(past) - 1 - s) * np.exp(p.w)) for s, x_ in enumerate(past)]
        weights.append(np.exp(p.u + x.k))
        past.append(x)
        yield sum(w * s.v for w, s in zip(weights, past, strict=True)) / sum(weights)


@system(
    "DR1",
    """
recurrence RWKV5(K, V):
    input r[K], k[K], v[V]
    param omega[K], u[K]
    state S[K, V] = 0
    S = exp(-exp(omega)) * S[t-1] + k * v
    output o = r @ (S[t-1] + u * k * v)""",
)
def rwkv5(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        kv = np.outer(x.k, x.v)
        yield (S + p.u[:, None] * kv).T @ x.r
        S = np.exp(-np.exp(p.omega))[:, None] * S + kv


@system(
    "DR1",
    """
recurrence RWKV6(K, V):
    input r[K], k[K], v[V], omega[K]
    param u[K]
    state S[K, V] = 0
    kv = k * v
    S = exp(-exp(omega)) * S[t-1] + kv
    output o = r @ S[t-1] + (r @ (u * k)) * v""",
)
def rwkv6(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        kv = np.outer(x.k, x.v)
        yield (S + p.u[:, None] * kv).T @ x.r
        S = np.exp(-np.exp(x.omega))[:, None] * S + kv


@system(
    "GH",
    """
recurrence DeltaNet(K, V):
    input q[K], k[K], v[V], beta
    state S[K, V] = 0
    key = l2norm(k, K, eps = 0)
    b = sigmoid(beta)
    S = S[t-1] + b * key * (v - key @ S[t-1])
    output o = q @ S""",
)
def deltanet(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        k, b = x.k / np.linalg.norm(x.k), sigmoid(x.beta)
        S = (np.eye(2) - b * np.outer(k, k)) @ S + b * np.outer(k, x.v)
        yield S.T @ x.q


@system(
    "GH",
    """
recurrence GatedDeltaNet(H, K, V):
    input q[H, K], k[H, K], v[H, V], beta[H], g[H]
    state S[H, K, V] = 0
    key = k * rsqrt(sum(k * k, K))
    P = exp(-softplus(g)) * S[t-1]
    S = P + key * (sigmoid(beta) * (v - key @ P))
    output o = q @ S""",
)
def gated_deltanet(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        for h in range(3):
            k, b = x.k[h] / np.linalg.norm(x.k[h]), sigmoid(x.beta[h])
            S[h] = sigmoid(-x.g[h]) * (np.eye(2) - b * np.outer(k, k)) @ S[h] + b * np.outer(k, x.v[h])
        yield np.einsum("hkv,hk->hv", S, x.q)


@system(
    "GH",
    """
recurrence RWKV7(K, V):
    input r[K], w[K], k[K], v[V], kappa[K], a[K]
    state S[V, K] = 0
    kk = kappa * rsqrt(sum(kappa * kappa, K))
    S = S[t-1] * exp(-0.6 * sigmoid(w)) - (S[t-1] @ kk) * (kk * sigmoid(a)) + v * k
    output o = S @ r""",
)
def rwkv7(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((5, 2))
    for x in xs:
        kk = x.kappa / np.linalg.norm(x.kappa)
        move = np.diag(np.exp(-0.6 * sigmoid(x.w))) - np.outer(kk, kk * sigmoid(x.a))
        S = S @ move + np.outer(x.v, x.k)
        yield S @ x.r


# --- state-space models -----------------------------------------------------------------------------------------------


@system(
    "SR1",
    """
recurrence SSD(H, V, N):
    input x[H, V], dt[H], B[N], C[N]
    param A_log[H], skip[H], bias[H]
    state h[H, V, N] = 0
    step = softplus(dt + bias)
    h = exp(-step * exp(A_log)) * h[t-1] + (step * x) * B
    output y = h @ C + skip * x""",
)
def mamba2(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((3, 5, 3))
    for x in xs:
        step = np.log1p(np.exp(x.dt + p.bias))
        for i in range(3):
            h[i] = np.exp(-step[i] * np.exp(p.A_log[i])) * h[i] + step[i] * np.outer(x.x[i], x.B)
        yield np.stack([h[i] @ x.C + p.skip[i] * x.x[i] for i in range(3)])


@system(
    "EA",
    """
recurrence S4DReal(D, N):
    input u[D]
    param A_log[D, N], C[D, N], log_dt[D], skip[D]
    state s[D, N] = 0
    A = -exp(A_log)
    dA = exp(exp(log_dt) * A)
    s = dA * s[t-1] + (dA - 1) / A * u
    output y = sum(C * s, N) + skip * u""",
)
def s4d_real(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    s = np.zeros((4, 3))
    A = -np.exp(p.A_log)
    dA = np.exp(np.exp(p.log_dt)[:, None] * A)
    for x in xs:
        s = dA * s + (dA - 1) / A * x.u[:, None]
        yield (p.C * s).sum(1) + p.skip * x.u


@system(
    "BA",
    """
recurrence LRU(D, N):
    input u[D]
    param nu[N], theta[N], Br[N, D], Bi[N, D], Cr[D, N], Ci[D, N], skip[D]
    state a[N] = 0, b[N] = 0
    r = exp(-exp(nu))
    norm = sqrt(1 - r * r)
    a = r * (cos(theta) * a[t-1] - sin(theta) * b[t-1]) + norm * (Br @ u)
    b = r * (sin(theta) * a[t-1] + cos(theta) * b[t-1]) + norm * (Bi @ u)
    output y = Cr @ a - Ci @ b + skip * u""",
)
def lru(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3, complex)
    lam = np.exp(-np.exp(p.nu) + 1j * p.theta)
    for x in xs:
        h = lam * h + np.sqrt(1 - abs(lam) ** 2) * ((p.Br + 1j * p.Bi) @ x.u)
        yield ((p.Cr + 1j * p.Ci) @ h).real + p.skip * x.u


@system(
    "EA",
    """
recurrence RGLRU(D):
    input x[D], r[D], i[D]
    param lam[D]
    state h[D] = 0
    log_a = -8 * softplus(lam) * sigmoid(r)
    h = exp(log_a) * h[t-1] + sqrt(-expm1(2 * log_a)) * (sigmoid(i) * x)
    output h""",
)
def rg_lru(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4)
    for x in xs:
        a = sigmoid(-p.lam) ** (8 * sigmoid(x.r))
        h = a * h + np.sqrt(1 - a**2) * sigmoid(x.i) * x.x
        yield h
