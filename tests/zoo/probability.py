"""Filters and dynamic programs of probability, as sums or solves over everything so far."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


def _covariance(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    a = rng.normal(0, 0.5, shape).astype(np.float32).astype(np.float64)
    whole = a @ np.swapaxes(a, -1, -2) + 0.3 * np.eye(shape[-1])
    return (whole + np.swapaxes(whole, -1, -2)) / 2


def _tame(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(-0.5, 0.5, shape)


def _posterior(p: SimpleNamespace, zs: list[Any], predict_first: bool) -> tuple[Any, Any]:
    """Mean and covariance of the last state given all observations, by conditioning one large Gaussian."""
    N, n = len(p.F), len(zs)
    mean, cov, states = np.zeros(N), np.eye(N), []
    for t in range(n):
        if t or predict_first:
            cov_with_past = [p.F @ c for c in states[-1][2]] if states else []
            mean, cov = p.F @ mean, p.F @ cov @ p.F.T + p.Q
            cross = [*cov_with_past, cov]
        else:
            cross = [cov]
        states.append((mean, cov, cross))
    # cross[s] of step t is the covariance of state t and state s <= t
    whole = np.zeros((n * N, n * N))
    for t, (_, _, cross) in enumerate(states):
        for s, c in enumerate(cross):
            whole[t * N : (t + 1) * N, s * N : (s + 1) * N] = c
            whole[s * N : (s + 1) * N, t * N : (t + 1) * N] = c.T
    see, noise = np.kron(np.eye(n), p.H), np.kron(np.eye(n), p.R)
    gain = np.linalg.solve(see @ whole @ see.T + noise, see @ whole).T
    centre = np.concatenate([m for m, _, _ in states])
    centre = centre + gain @ (np.concatenate(zs) - see @ centre)
    spread = whole - gain @ see @ whole
    return centre[-N:], spread[-N:, -N:]


KALMAN: dict[str, Any] = {"F": _tame, "Q": _covariance, "R": _covariance}


@oracle("kalman_filter", sizes={"N": 3, "M": 2}, **KALMAN)
def kalman_filter(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        yield _posterior(p, [x.z for x in xs[:t]], predict_first=True)


@oracle("kalman_filter_update_first", sizes={"N": 3, "M": 2}, **KALMAN)
def kalman_filter_update_first(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        yield _posterior(p, [x.z for x in xs[:t]], predict_first=False)


@oracle("kalman_filter_missing", sizes={"N": 3, "M": 2}, **KALMAN)
def kalman_filter_missing(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """In the form of information, where independent observations add up; what is missing adds nothing."""
    m, P = np.zeros(3), np.eye(3)
    for x in xs:
        m, P = x.F @ m, x.F @ P @ x.F.T + p.Q
        if x.seen:
            weight, known = p.H.T @ np.linalg.inv(p.R), np.linalg.inv(P)
            P = np.linalg.inv(known + weight @ p.H)
            m = P @ (known @ m + weight @ x.z)
        yield m, P


@oracle("kalman_scalar", F="gate", Q="gate", R="gate")
def kalman_scalar(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    m, P = 0.0, 1.0
    for x in xs:
        m, P = p.F * m, p.F**2 * P + p.Q
        K = P * p.H / (p.H**2 * P + p.R)
        m, P = m + K * (x.z - p.H * m), P - K * p.H * P
        yield m, P


@oracle("riccati", sizes={"N": 3, "M": 2}, F=_tame, Q=_covariance, R=_covariance)
def riccati(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The covariance form, which inverts what is observed and not what is estimated."""
    P = np.eye(3)
    for x in xs:
        gain = P @ x.H.T @ np.linalg.inv(x.H @ P @ x.H.T + p.R)
        P = p.F @ (P - gain @ x.H @ P) @ p.F.T + p.Q
        yield P


def _stochastic(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@oracle("hmm_forward", sizes={"N": 3}, e="gate", A=_stochastic, first=_stochastic)
def hmm_forward(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Without normalising: the joint probability of the observations and the state."""
    a = p.first
    for x in xs:
        a = np.array([sum(a[i] * p.A[i, j] for i in range(3)) * x.e[j] for j in range(3)])
        yield a / a.sum(), np.log(a.sum())


@oracle("hmm_forward_log", sizes={"N": 3}, e="log_gate", A="log_gate", first="log_gate")
def hmm_forward_log(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    a = np.exp(p.first)
    for x in xs:
        a = (np.exp(p.A).T @ a) * np.exp(x.e)
        yield np.log(a), np.log(a.sum())


@oracle("viterbi", sizes={"N": 3})
def viterbi(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The best of all paths, tried one by one, while there are few; the dynamic program after that."""
    score = p.first
    for t, x in enumerate(xs):
        into = [[score[i] + p.A[i, j] for i in range(3)] for j in range(3)]
        score = np.array([max(row) for row in into]) + x.e
        if t < 4:
            for end in range(3):
                paths = ((*path, end) for path in product(range(3), repeat=t + 1))
                best = max(_path_score(p, xs, path) for path in paths)
                assert abs(best - score[end]) < 1e-9
        yield score, [row.index(max(row)) for row in into]


def _path_score(p: SimpleNamespace, xs: list[SimpleNamespace], path: tuple[int, ...]) -> float:
    moves = sum(p.A[i, j] for i, j in pairwise(path))
    return p.first[path[0]] + moves + sum(x.e[s] for x, s in zip(xs, path[1:], strict=False))


def _labels(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Three labels of two kinds between four blanks."""
    found = np.zeros(shape, dtype=np.int64)
    found[1::2] = rng.integers(1, 3, shape[0] // 2)
    return found


@oracle("ctc_forward", sizes={"N": 7, "Q": 3}, logp="log_gate", label=_labels)
def ctc_forward(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Probabilities, carried from place to place as the paper's figure draws its arrows."""
    a = [1.0, *[0.0] * 6]
    for x in xs:
        new = [0.0] * 7
        for place, mass in enumerate(a):
            for to in (place, place + 1, place + 2):
                skip = to == place + 2
                if to < 7 and (not skip or (to % 2 == 1 and p.label[to] != p.label[place])):
                    new[to] += mass * np.exp(x.logp[p.label[to]])
        a = new
        with np.errstate(divide="ignore"):
            yield np.log(a), np.log(a[-1] + a[-2])
