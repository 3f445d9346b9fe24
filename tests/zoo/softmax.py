"""Softmax as a recurrence, as sums over all steps so far."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


def _attention(scores: list[Any], values: list[Any]) -> Any:
    """The average of the values `(..., V)` weighted by the exponentials of the scores `(...)`."""
    weights = np.exp(np.array(scores))
    weights = weights / weights.sum(0)
    return sum(w[..., None] * v for w, v in zip(weights, values, strict=True))


@oracle("aaren", sizes={"D": 4})
def aaren(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        yield _attention([x.s for x in xs[:t]], [x.v for x in xs[:t]])


@oracle("aaren_multi_head", sizes={"H": 3, "K": 2, "V": 5})
def aaren_multi_head(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    scores = [np.array([p.q[h] @ x.k[h] for h in range(3)]) / np.sqrt(2) for x in xs]
    for t in range(1, len(xs) + 1):
        yield _attention(scores[:t], [x.v for x in xs[:t]])


@oracle("online_logsumexp", sizes={"D": 4})
def online_logsumexp(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        yield np.log(sum(np.exp(x.x) for x in xs[:t]))


@oracle("logsumexp_scan", sizes={"D": 4})
def logsumexp_scan(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from online_logsumexp(p, xs)


@oracle("online_softmax", sizes={"V": 4})
def online_softmax(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        seen = xs[:t]
        yield _attention([x.x for x in seen], [x.v for x in seen]), np.log(sum(np.exp(x.x) for x in seen))


@oracle("softmax_naive", sizes={"V": 4})
def softmax_naive(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from (o for o, _ in online_softmax(p, xs))


@oracle("softmax_mean", sizes={"V": 4})
def softmax_mean(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from (o for o, _ in online_softmax(p, xs))
