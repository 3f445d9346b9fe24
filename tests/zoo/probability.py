"""Filters and dynamic programs of probability, as sums or solves over everything so far."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


@oracle("kalman_scalar", F="gate", Q="gate", R="gate")
def kalman_scalar(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    m, P = 0.0, 1.0
    for x in xs:
        m, P = p.F * m, p.F**2 * P + p.Q
        K = P * p.H / (p.H**2 * P + p.R)
        m, P = m + K * (x.z - p.H * m), P - K * p.H * P
        yield m, P


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
