"""Delta rules, as loops over their equations with the transition as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid, silu, softplus

KV, HKV = {"K": 2, "V": 5}, {"H": 3, "K": 2, "V": 5}
I2 = np.eye(2)


def unit(x: Any) -> Any:
    """Of length 1, but for the 1e-6 that keeps the zero vector."""
    return x / np.sqrt(x @ x + 1e-6)


@oracle("delta_net", sizes=KV)
def delta_net(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        k, b = unit(silu(x.k)), sigmoid(x.beta)
        S = (I2 - b * np.outer(k, k)) @ S + b * np.outer(k, x.v)
        yield S.T @ unit(silu(x.q)) / np.sqrt(2)


@oracle("gated_delta_net", sizes=HKV)
def gated_delta_net(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        out = []
        for h in range(3):
            k, b = unit(x.k[h]), sigmoid(x.beta[h])
            alpha = np.exp(-np.exp(p.A_log[h]) * softplus(x.a[h] + p.dt_bias[h]))
            S[h] = alpha * (I2 - b * np.outer(k, k)) @ S[h] + b * np.outer(k, x.v[h])
            out.append(S[h].T @ unit(x.q[h]) / np.sqrt(2))
        yield np.stack(out)


@oracle("kda", sizes=HKV)
def kda(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        out = []
        for h in range(3):
            k, b = unit(x.k[h]), sigmoid(x.beta[h])
            alpha = np.exp(-np.exp(p.A_log[h]) * softplus(x.a[h] + p.dt_bias[h]))
            S[h] = (I2 - b * np.outer(k, k)) @ np.diag(alpha) @ S[h] + b * np.outer(k, x.v[h])
            out.append(S[h].T @ unit(x.q[h]) / np.sqrt(2))
        yield np.stack(out)


@oracle("gated_delta_product", sizes=HKV, g="log_gate")
def gated_delta_product(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        for h in range(3):
            S[h] = np.exp(x.g[h]) * S[h]
            for j in range(2):
                k, b = unit(x.k[j, h]), 2 * sigmoid(x.beta[j, h])
                S[h] = (I2 - b * np.outer(k, k)) @ S[h] + b * np.outer(k, x.v[j, h])
        yield np.stack([S[h].T @ x.q[h] for h in range(3)])


@oracle("gdn2", sizes=KV, k="unit", alpha="log_gate", erase="gate", write="gate")
def gdn2(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        S = (I2 - np.outer(x.k, x.erase * x.k)) @ np.diag(np.exp(x.alpha)) @ S + np.outer(x.k, x.write * x.v)
        yield S.T @ x.q / np.sqrt(2)


@oracle("comba", sizes=KV, k="unit", p="unit", g="log_gate")
def comba(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        b = sigmoid(x.beta)
        S = np.exp(x.g) * (I2 - b * np.outer(x.k, x.p)) @ S + b * np.outer(x.k, x.v)
        yield S.T @ x.q / np.sqrt(2)


@oracle("rwkv7", sizes=HKV)
def rwkv7(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 5, 2))  # transposed, as in the authors' program
    for x in xs:
        out = []
        for h in range(3):
            a, kappa = sigmoid(x.a[h]), x.k[h] * p.xi[h]
            kappa = kappa / np.sqrt(kappa @ kappa + 1e-12)
            key = x.k[h] * (1 + (a - 1) * p.mix[h])
            decay = np.exp(-sigmoid(x.w[h]) / np.sqrt(np.e))
            S[h] = S[h] @ (np.diag(decay) - np.outer(kappa, a * kappa)) + np.outer(x.v[h], key)
            y = S[h] @ x.r[h]
            y = (y - y.mean()) / np.sqrt(y.var() + 64e-5) * p.scale[h] + p.shift[h]
            out.append(y + (x.r[h] @ (p.bonus[h] * key)) * x.v[h])
        yield np.stack(out)


@oracle("dplr", sizes=KV, alpha="log_gate", a="small", b="small")
def dplr(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        S = (np.diag(np.exp(x.alpha)) + np.outer(x.b, x.a)) @ S + np.outer(x.k, x.v)
        yield S.T @ x.q / np.sqrt(2)


@oracle("longhorn", sizes={"D": 4, "N": 3})
def longhorn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((4, 3))
    for x in xs:
        y = np.zeros(4)
        for d in range(4):
            b = sigmoid(x.beta[d])
            rate = b / (1 + b * (x.k @ x.k))
            S[d] = np.diag(1 - rate * x.k * x.k) @ S[d] + rate * x.x[d] * x.k
            y[d] = S[d] @ x.q + p.skip[d] * x.x[d]
        yield y * silu(x.z)


@oracle("longhorn_exact", sizes={"D": 4, "N": 3})
def longhorn_exact(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Each row is the minimum of |s - s_before|^2 + b (s k - x)^2."""
    S = np.zeros((4, 3))
    for x in xs:
        b = sigmoid(x.beta)
        S = np.stack(
            [np.linalg.solve(np.eye(3) + b[d] * np.outer(x.k, x.k), S[d] + b[d] * x.x[d] * x.k) for d in range(4)]
        )
        yield (S @ x.q + p.skip * x.x) * silu(x.z)
