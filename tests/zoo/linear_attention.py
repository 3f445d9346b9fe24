"""Linear attention and its gated kin, as loops over their equations, or as the sums over the past they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid

KV, HKV, KMV = {"K": 2, "V": 5}, {"H": 3, "K": 2, "V": 5}, {"K": 2, "M": 3, "V": 5}


@oracle("linear_attention", sizes=KV)
def linear_attention(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    def phi(u: Any) -> Any:
        return np.where(u > 0, u, np.exp(u) - 1) + 1

    S, z = np.zeros((2, 5)), np.zeros(2)
    for x in xs:
        S, z = S + np.outer(phi(x.k), x.v), z + phi(x.k)
        yield S.T @ phi(x.q) / (z @ phi(x.q) + 1e-6)


@oracle("simple_gla", sizes=HKV, g="log_gate")
def simple_gla(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        S = np.exp(x.g)[:, None, None] * S + x.k[:, :, None] * x.v[:, None, :]
        yield np.stack([S[h].T @ x.q[h] for h in range(3)]) / np.sqrt(2)


@oracle("gla", sizes=KV)
def gla(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        S = np.diag(sigmoid(x.g) ** (1 / 16)) @ S + np.outer(x.k, x.v)
        yield S.T @ x.q / np.sqrt(2)


@oracle("based", sizes={"K": 3, "V": 5})  # with K = 2, 2 K and K^2 and 2 + K are one number
def based(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The attention whose weights are the polynomial."""
    for t, x in enumerate(xs):
        scores = [x.q @ y.k / np.sqrt(3) for y in xs[: t + 1]]
        weights = [1 + s + s**2 / 2 for s in scores]
        yield sum(w * y.v for w, y in zip(weights, xs, strict=False)) / (sum(weights) + 1e-12)


@oracle("rwkv4", sizes={"D": 4})
def rwkv4(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t, x in enumerate(xs):
        weights = [np.exp(xs[s].k - (t - 1 - s) * np.exp(p.omega)) for s in range(t)] + [np.exp(p.u + x.k)]
        yield sum(w * y.v for w, y in zip(weights, xs, strict=False)) / sum(weights)


def bonus_read(S: Any, r: Any, k: Any, v: Any, u: Any) -> Any:
    return np.stack([(S[h] + np.diag(u[h]) @ np.outer(k[h], v[h])).T @ r[h] for h in range(3)])


@oracle("rwkv5", sizes=HKV)
def rwkv5(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        yield bonus_read(S, x.r, x.k, x.v, p.u)
        S = np.stack([np.diag(np.exp(-np.exp(p.omega[h]))) @ S[h] + np.outer(x.k[h], x.v[h]) for h in range(3)])


@oracle("rwkv6", sizes=HKV)
def rwkv6(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        yield bonus_read(S, x.r, x.k, x.v, p.u)
        S = np.stack([np.diag(np.exp(-np.exp(x.omega[h]))) @ S[h] + np.outer(x.k[h], x.v[h]) for h in range(3)])


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


@oracle("gsa", sizes=KMV, alpha="log_gate")
def gsa(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    keys, values = np.zeros((2, 3)), np.zeros((3, 5))
    for x in xs:
        keep = np.exp(x.alpha)
        keys = keys @ np.diag(keep) + np.outer(x.k, 1 - keep)
        values = np.diag(keep) @ values + np.outer(1 - keep, x.v)
        yield values.T @ softmax(keys.T @ x.q / np.sqrt(2))


@oracle("abc", sizes=KMV)
def abc(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Every slot holds the average of keys and of values under the softmax of its scores over the past."""
    for t, x in enumerate(xs):
        weights = np.exp([y.s for y in xs[: t + 1]])
        weights = weights / weights.sum(0)
        keys = sum(np.outer(y.k, w) for w, y in zip(weights, xs, strict=False))
        values = sum(np.outer(w, y.v) for w, y in zip(weights, xs, strict=False))
        yield values.T @ softmax(keys.T @ x.q / np.sqrt(2))


@oracle("rwkv4_time_mixing", sizes={"D": 4, "E": 3})
def rwkv4_time_mixing(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    ks: list[Any] = []
    vs: list[Any] = []
    for t, x in enumerate(xs):
        before = xs[t - 1].x if t else np.zeros(4)
        r, k, v = (
            W @ (mix * x.x + (1 - mix) * before) for W, mix in ((p.Wr, p.mix_r), (p.Wk, p.mix_k), (p.Wv, p.mix_v))
        )
        weights = [np.exp(ks[s] - (t - 1 - s) * np.exp(p.omega)) for s in range(t)] + [np.exp(p.u + k)]
        ks.append(k)
        vs.append(v)
        wkv = sum(w * y for w, y in zip(weights, vs, strict=True)) / sum(weights)
        yield p.Wo @ (sigmoid(r) * wkv)


def turned(u: Any, angle: Any) -> Any:
    """Pairs `[2, M]` as complex numbers, turned; seen as one vector of 2 M numbers."""
    z = (u[0] + 1j * u[1]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag])


@oracle("retnet", sizes={"H": 3, "M": 4, "V": 5})
def retnet(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S, theta = np.zeros((3, 8, 5)), 10000.0 ** -np.array([0, 1 / 4, 2 / 4, 3 / 4])
    for t, x in enumerate(xs):
        out = []
        for h in range(3):
            S[h] = (1 - 2.0 ** (-5 - h)) * S[h] + np.outer(turned(x.k[:, h], t * theta), x.v[h])
            read = S[h].T @ turned(x.q[:, h], t * theta) / np.sqrt(8)
            out.append((read - read.mean()) / np.sqrt(read.var() + 1e-6))
        yield np.stack(out)


@oracle("mesa_net", sizes=KV, g="log_gate", lam="positive")
def mesa_net(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    A, B = np.zeros((2, 2)), np.zeros((2, 5))
    for x in xs:
        b = sigmoid(x.beta)
        A = np.exp(x.g) * A + b * np.outer(x.k, x.k)
        B = np.exp(x.g) * B + b * np.outer(x.k, x.v)
        yield B.T @ np.linalg.inv(A + np.diag(p.lam)) @ x.q


@oracle("jrt", sizes=KV)
def jrt(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    def phi(u: Any) -> Any:
        return np.where(u > 0, u, np.exp(u) - 1) + 1

    prefix = [x for x in xs if x.prefix]
    for t, x in enumerate(xs):
        pairs = [(phi(y.ke), y.ve) for y in prefix] + [(phi(y.k), y.v) for y in xs[: t + 1]]
        weights = [f @ phi(x.q) for f, _ in pairs]
        yield sum(w * v for w, (_, v) in zip(weights, pairs, strict=True)) / sum(weights)
