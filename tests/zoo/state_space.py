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


@oracle("selective_scan_complex", sizes={"D": 4, "N": 3})
def selective_scan_complex(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Both of each pair of eigenvalues, as the sum that it is."""
    h = np.zeros((4, 6), complex)
    for x in xs:
        y = np.zeros(4)
        B, C = np.concatenate([x.B, x.B.conj()]), np.concatenate([x.C, x.C.conj()])
        for d in range(4):
            dt, half = softplus(x.delta[d] + p.delta_bias[d]), -np.exp(p.A_log[d]) + 1j * p.A_imag[d]
            h[d] = np.exp(dt * np.concatenate([half, half.conj()])) * h[d] + dt * B * x.x[d]
            both = C @ h[d]
            assert abs(both.imag) < 1e-9
            y[d] = both.real + p.skip[d] * x.x[d]
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


def _some_far(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A few step sizes beyond the clamp."""
    return np.where(rng.random(shape) < 0.1, 130, rng.normal(0, 0.7, shape))


@oracle("mamba2", sizes={"H": 3, "P": 5, "N": 2}, dt=_some_far)
def mamba2(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S = np.zeros((3, 2, 5))
    for x in xs:
        y = np.zeros((3, 5))
        for h in range(3):
            dt = min(softplus(x.dt[h] + p.dt_bias[h]), 100)
            S[h] = np.exp(dt * -np.exp(p.A_log[h])) * S[h] + dt * np.outer(x.B, x.x[h])
            y[h] = S[h].T @ x.C + p.skip[h] * x.x[h]
        y = y * silu(x.z)
        yield p.scale * y / np.sqrt((y**2).mean() + 1e-5)


# alpha from 1/2 on: below it the transform of a stable A grows without bound where dt is large
@oracle("lssl", sizes={"D": 4, "N": 3}, A="stable", alpha=lambda rng, shape: rng.uniform(0.5, 0.95, shape))
def lssl(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    dt, one = np.exp(p.log_dt), np.eye(3)
    left = np.linalg.inv(one - p.alpha * dt * p.A)
    A, B = left @ (one + (1 - p.alpha) * dt * p.A), left @ (dt * p.B)
    yield from convolved(p, xs, [A] * 4, [B] * 4)


def convolved(p: SimpleNamespace, xs: list[SimpleNamespace], As: list[Any], Bs: list[Any]) -> Iterator[Any]:
    """Channel by channel the convolution with the kernel C A^j B."""
    kernel = [[p.C[d] @ np.linalg.matrix_power(As[d], j) @ Bs[d] for d in range(4)] for j in range(len(xs))]
    for t in range(len(xs)):
        yield sum(np.array(kernel[t - s]) * xs[s].u for s in range(t + 1)) + p.skip * xs[t].u


@oracle("s4", sizes={"D": 4, "N": 3}, A="stable")
def s4(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    As, Bs = [], []
    for dt in np.exp(p.log_dt):
        left = np.linalg.inv(np.eye(3) - dt / 2 * p.A)
        As.append(left @ (np.eye(3) + dt / 2 * p.A))
        Bs.append(left @ (dt * p.B))
    yield from convolved(p, xs, As, Bs)


def exponential(A: Any) -> Any:
    """By its series, after halving often enough."""
    small, term = np.eye(len(A)), np.eye(len(A))
    for n in range(1, 20):
        term = term @ A / 1024 / n
        small = small + term
    return np.linalg.matrix_power(small, 1024)


@oracle("s4_zoh", sizes={"D": 4, "N": 3}, A="stable")
def s4_zoh(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The exponential of the matrix [[A, B], [0, 0]] holds both factors, whether A has an inverse or not."""
    As, Bs = [], []
    for dt in np.exp(p.log_dt):
        both = np.zeros((4, 4))
        both[:3, :3], both[:3, 3] = dt * p.A, dt * p.B
        both = exponential(both)
        As.append(both[:3, :3])
        Bs.append(both[:3, 3])
    yield from convolved(p, xs, As, Bs)


def turned(u: Any, angle: Any) -> Any:
    """Pairs `[2, M]` as complex numbers, turned; seen as one vector of 2 M numbers."""
    z = (u[0] + 1j * u[1]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag])


def rms(u: Any) -> Any:
    return u / np.sqrt((u**2).mean() + 1e-6)


MAMBA3 = {"dt_bias": "small", "rate": "positive"}


@oracle("mamba3", sizes={"H": 3, "M": 4, "P": 5}, **MAMBA3)
def mamba3(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """As one sum over the past: every pair is written at its own step and, by the trapezoid, at the next one."""
    for t, now in enumerate(xs):
        y = np.zeros((3, 5))
        for h in range(3):
            dts = [softplus(x.dt[h] + p.dt_bias[h]) for x in xs[: t + 1]]
            angles = np.cumsum([dt * np.pi * np.tanh(x.angle[h]) for dt, x in zip(dts, xs, strict=False)], 0)
            keep = [np.exp(-dt * x.rate[h]) for dt, x in zip(dts, xs, strict=False)]
            lam = [sigmoid(x.trap[h]) for x in xs[: t + 1]]
            q = turned(rms(now.q[:, h]) + p.q_bias[:, h], angles[t])
            for s, x in enumerate(xs[: t + 1]):
                k = turned(rms(x.k[:, h]) + p.k_bias[:, h], angles[s])
                weight = lam[s] * dts[s] * np.prod(keep[s + 1 :])
                if s < t:
                    weight += (1 - lam[s + 1]) * dts[s + 1] * np.prod(keep[s + 1 :])
                y[h] += weight * (q @ k) * x.v[h]
            y[h] += p.skip[h] * now.v[h]
        yield y * silu(now.z)


@oracle("mamba3_mimo", sizes={"H": 3, "M": 4, "P": 5, "R": 2}, **MAMBA3)
def mamba3_mimo(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    theta, S, stored = np.zeros((3, 4)), np.zeros((3, 8, 5)), np.zeros((3, 8, 5))
    for x in xs:
        o = np.zeros((3, 5))
        for h in range(3):
            dt, lam = softplus(x.dt[h] + p.dt_bias[h]), sigmoid(x.trap[h])
            theta[h] += dt * np.pi * np.tanh(x.angle[h])
            alpha = np.exp(-dt * x.rate[h])
            keys = [turned(rms(x.k[:, h, r]) + p.k_bias[:, h, r], theta[h]) for r in range(2)]
            written = sum(np.outer(keys[r], p.in_[h, r] * x.v[h]) for r in range(2))
            S[h] = alpha * S[h] + (1 - lam) * dt * alpha * stored[h] + lam * dt * written
            stored[h] = written
            for r in range(2):
                y = S[h].T @ turned(rms(x.q[:, h, r]) + p.q_bias[:, h, r], theta[h])
                y = y + p.skip[h] * p.in_[h, r] * x.v[h]
                o[h] += p.out[h, r] * y * silu(p.gate[h, r] * x.z[h])
        yield o


@oracle("mamba", sizes={"D": 5, "E": 6, "R": 2, "N": 3})
def mamba(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((6, 3))
    inner = np.stack([np.zeros(6)] * 3 + [p.Wx @ x.u for x in xs])  # padded on the left
    for t, now in enumerate(xs):
        x = silu((p.taps * inner[t : t + 4]).sum(0) + p.taps_bias)
        dt = softplus(p.Wdt @ p.Wr @ x + p.dt_bias)
        B, C = p.WB @ x, p.WC @ x
        y = np.zeros(6)
        for e in range(6):
            h[e] = np.exp(-dt[e] * np.exp(p.A_log[e])) * h[e] + dt[e] * B * x[e]
            y[e] = C @ h[e] + p.skip[e] * x[e]
        yield p.Wo @ (y * silu(p.Wz @ now.u))
