"""Linear state-space models, as loops over their equations."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid, silu, softplus


@oracle("selective_scan", sizes={"D": 4, "N": 3})
def selective_scan(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((4, 3))
    for x in xs:
        y = np.zeros(4)
        for d in range(4):
            dt = softplus(x.delta[d] + p.delta_bias[d])
            h[d] = np.exp(-dt * np.exp(p.A_log[d])) * h[d] + dt * x.B * x.x[d]
            y[d] = x.C @ h[d] + p.skip[d] * x.x[d]
        yield y * silu(x.z)


@oracle("s4d", sizes={"D": 4, "N": 3})
def s4d(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The convolution with the kernel 2 Re sum C B exp(dt lambda j)."""
    rate = -np.exp(p.A_log) + 1j * p.A_imag
    dt = np.exp(p.log_dt)[:, None]
    write = (np.exp(dt * rate) - 1) / rate
    kernel = [2 * (p.C * write * np.exp(dt * rate * j)).sum(1).real for j in range(len(xs))]
    for t in range(len(xs)):
        yield sum(kernel[t - s] * xs[s].u for s in range(t + 1)) + p.skip * xs[t].u


@oracle("s4d_real", sizes={"D": 4, "N": 3})
def s4d_real(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    s = np.zeros((4, 3))
    A = -np.exp(p.A_log)
    dA = np.exp(np.exp(p.log_dt)[:, None] * A)
    for x in xs:
        s = dA * s + (dA - 1) / A * x.u[:, None]
        yield (p.C * s).sum(1) + p.skip * x.u


@oracle("s5", sizes={"D": 4, "P": 3})
def s5(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    rate = np.diag(-np.exp(p.A_log) + 1j * p.A_imag)
    A = np.diag(np.exp(np.exp(p.log_dt) * np.diag(rate)))
    B = np.linalg.solve(rate, (A - np.eye(3)) @ p.B)
    s = np.zeros(3, complex)
    for x in xs:
        s = A @ s + B @ x.u
        yield 2 * (p.C @ s).real + p.skip * x.u


@oracle("lru", sizes={"D": 4, "N": 3})
def lru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3, complex)
    a = np.exp(-np.exp(p.nu) + 1j * np.exp(p.theta))
    for x in xs:
        h = a * h + np.exp(p.gamma_log) * (p.B @ x.x)
        yield (p.C @ h).real + p.skip * x.x


@oracle("lru_real", sizes={"D": 4, "N": 3})
def lru_real(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3, complex)
    a = np.exp(-np.exp(p.nu) + 1j * p.theta)
    for x in xs:
        h = a * h + np.sqrt(1 - abs(a) ** 2) * ((p.Br + 1j * p.Bi) @ x.x)
        yield ((p.Cr + 1j * p.Ci) @ h).real + p.skip * x.x


@oracle("mega_ema", sizes={"D": 4, "N": 3})
def mega_ema(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The convolution with the kernel sum eta alpha beta (1 - alpha delta)^j."""
    a, d = sigmoid(p.alpha), sigmoid(p.delta)
    kernel = [(p.eta * a * p.beta * (1 - a * d) ** j).sum(1) / np.sqrt(3) for j in range(len(xs))]
    for t in range(len(xs)):
        yield silu(sum(kernel[t - s] * xs[s].x for s in range(t + 1)) + p.omega * xs[t].x)


@oracle("rg_lru", sizes={"H": 2, "P": 3}, first="bool:0.2")
def rg_lru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((2, 3))
    for x in xs:
        for b in range(2):
            r = sigmoid(p.Wa[b] @ x.x[b] + p.ba[b])
            i = sigmoid(p.Wx[b] @ x.x[b] + p.bx[b])
            a = sigmoid(-p.lam[b]) ** (8 * r)
            h[b] = i * x.x[b] if x.first else a * h[b] + np.sqrt(1 - a**2) * (i * x.x[b])
        yield h.copy()


@oracle("hgrn", sizes={"D": 4}, low="gate")
def hgrn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4, complex)
    for x in xs:
        keep = p.low + (1 - p.low) * sigmoid(x.f)
        h = keep * np.exp(1j * p.theta) * h + (1 - keep) * (silu(x.re) + 1j * silu(x.im))
        yield sigmoid(x.g) * h.real, sigmoid(x.g) * h.imag


@oracle("hgrn_real", sizes={"D": 4}, low="gate")
def hgrn_real(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4)
    for x in xs:
        keep = p.low + (1 - p.low) * sigmoid(x.f)
        h = keep * h + (1 - keep) * silu(x.x)
        yield sigmoid(x.g) * h


@oracle("hgrn2", sizes={"K": 2, "V": 5}, low="gate")
def hgrn2(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((2, 5))
    for x in xs:
        keep = p.low + (1 - p.low) * sigmoid(x.f)
        S = np.diag(keep) @ S + np.outer(1 - keep, x.v)
        yield S.T @ x.q


@oracle("mamba2", sizes={"H": 3, "P": 5, "N": 2})
def mamba2(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        y = np.zeros((3, 5))
        for h in range(3):
            dt = softplus(x.dt[h] + p.dt_bias[h])
            S[h] = np.exp(dt * -np.exp(p.A_log[h])) * S[h] + dt * np.outer(x.B, x.x[h])
            y[h] = S[h].T @ x.C + p.skip[h] * x.x[h]
        y = y * silu(x.z)
        yield p.scale * y / np.sqrt((y**2).mean() + 1e-5)
