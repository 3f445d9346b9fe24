"""External memories, as loops over slots and heads."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid, softplus


def _softmax(u: Any) -> Any:
    weights = np.exp(u - np.max(u))
    return weights / weights.sum()


def _content(memory: Any, key: Any, strength: float) -> Any:
    """Softmax over slots of the cosine of each with the key."""
    lengths = [np.linalg.norm(row) * np.linalg.norm(key) for row in memory]
    return _softmax(strength * np.array([row @ key / (n + 1e-8) for row, n in zip(memory, lengths, strict=True)]))


# --- neural Turing machines -------------------------------------------------------------------------------------------

NTM = {"D": 3, "H": 6, "N": 5, "W": 4, "Y": 2}


def _address(p: SimpleNamespace, head: int, h: Any, memory: Any, before: Any) -> Any:
    content = _content(memory, p.to_key[head] @ h, softplus(p.to_beta[head] @ h))
    gate, shift = sigmoid(p.to_gate[head] @ h), _softmax(p.to_shift[head] @ h)
    mixed = gate * content + (1 - gate) * before
    n = len(mixed)
    shifted = np.array([sum(mixed[(i - j) % n] * shift[j + 1] for j in (-1, 0, 1)) for i in range(n)])
    sharp = shifted ** (1 + softplus(p.to_gamma[head] @ h))
    return sharp / sharp.sum()


def _ntm(p: SimpleNamespace, xs: list[SimpleNamespace], write_first: bool) -> Iterator[Any]:
    M, r, h = np.full((5, 4), 1e-6), np.zeros(4), np.zeros(6)
    weights = [np.eye(5)[0], np.eye(5)[0]]  # of the read head, of the write head
    for x in xs:
        h = np.tanh(p.Wx @ x.x + p.Wr @ r + p.U @ h + p.b)
        for head in (1, 0) if write_first else (0, 1):
            weights[head] = w = _address(p, head, h, M, weights[head])
            if head == 0:
                r = M.T @ w
            else:
                M = M * (1 - np.outer(w, sigmoid(p.to_erase @ h))) + np.outer(w, p.to_add @ h)
        yield p.Wy @ h + p.Vy @ r


@oracle("ntm", sizes=NTM)
def ntm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _ntm(p, xs, write_first=False)


@oracle("ntm_write_first", sizes=NTM)
def ntm_write_first(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _ntm(p, xs, write_first=True)


@oracle("ntm_memory", sizes={"N": 5, "W": 4}, reading="gate", writing="gate", erase="gate")
def ntm_memory(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    M = np.zeros((5, 4))
    for x in xs:
        for n in range(5):
            for w in range(4):
                M[n, w] = M[n, w] * (1 - x.writing[n] * x.erase[w]) + x.writing[n] * x.add[w]
        yield M.T @ x.reading


# --- the differentiable neural computer -------------------------------------------------------------------------------


def _linked(link: Any, writing: Any, precedence: Any) -> Any:
    n = len(writing)
    new = np.zeros_like(link)
    for i in range(n):
        for j in range(n):
            if i != j:
                new[i, j] = (1 - writing[i] - writing[j]) * link[i, j] + writing[i] * precedence[j]
    return new


def _allocation(usage: Any) -> Any:
    found, product = np.zeros_like(usage), 1.0
    for slot in np.argsort(usage, kind="stable"):
        found[slot] = (1 - usage[slot]) * product
        product *= usage[slot]
    return found


@oracle("dnc", sizes={"D": 8, "H": 7, "N": 5, "W": 4, "R": 2, "Y": 6})
def dnc(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    N, W, R, H = 5, 4, 2, 7
    h, c, M, usage, precedence = np.zeros(H), np.zeros(H), p.M0, np.zeros(N), np.zeros(N)
    link, writing, reading, read = np.zeros((N, N)), np.zeros(N), np.zeros((R, N)), np.zeros((R, W))
    for x in xs:
        i, f, g, o = (p.Wx[n] @ x.x + p.Wr[n].reshape(H, -1) @ read.reshape(-1) + p.U[n] @ h + p.b[n] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)

        retention = np.ones(N)
        for head in range(R):
            retention *= 1 - sigmoid(p.to_free[head] @ h) * reading[head]
        usage = (usage + (1 - usage) * writing) * retention
        strength, write_gate, share = p.to_scalars @ h
        found = _content(M, p.to_write_key @ h, 1 + softplus(strength))
        writing = sigmoid(write_gate) * (sigmoid(share) * _allocation(usage) + (1 - sigmoid(share)) * found)
        M = M * (1 - np.outer(writing, sigmoid(p.to_erase @ h))) + np.outer(writing, p.to_add @ h)
        link = _linked(link, writing, precedence)
        precedence = (1 - writing.sum()) * precedence + writing
        for head in range(R):
            wanted = _content(M, p.to_read_key[head] @ h, 1 + softplus(p.to_read_strength[head] @ h))
            backward, content, forward = _softmax(p.to_mode[:, head] @ h)
            before = reading[head]
            reading[head] = backward * link.T @ before + content * wanted + forward * link @ before
            read[head] = M.T @ reading[head]
        yield p.Wy @ h + sum(p.Vy[:, head] @ read[head] for head in range(R))


def _shares(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that sum to less than one."""
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]) * rng.uniform(0.3, 1, (*shape[:-1], 1))


@oracle("dnc_memory", sizes={"N": 5, "W": 4, "R": 2}, writing=_shares, reading=_shares, free="gate", erase="gate")
def dnc_memory(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    usage, precedence, link, M = np.zeros(5), np.zeros(5), np.zeros((5, 5)), np.zeros((5, 4))
    writing, reading = np.zeros(5), np.zeros((2, 5))
    for x in xs:
        retention = (1 - x.free[0] * reading[0]) * (1 - x.free[1] * reading[1])
        usage = (usage + (1 - usage) * writing) * retention
        writing, reading = x.writing, x.reading
        link = _linked(link, writing, precedence)
        precedence = (1 - writing.sum()) * precedence + writing
        M = M * (1 - np.outer(writing, x.erase)) + np.outer(writing, x.add)
        yield usage, precedence, link, reading @ M


# --- discrete key-value memories --------------------------------------------------------------------------------------


@oracle("key_value_bottleneck", sizes={"D": 4, "K": 3, "N": 5, "V": 2}, rate="gate")
def key_value_bottleneck(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    values = {slot: np.zeros(2) for slot in range(5)}
    for x in xs:
        slot = int(np.argmin([np.linalg.norm(p.P @ x.x - key) for key in p.keys]))
        yield values[slot], slot
        values[slot] = values[slot] - p.rate * (values[slot] - x.target)


@oracle("key_value_bottleneck_ema", sizes={"D": 4, "K": 3, "N": 5, "V": 2}, rate="gate", keep="gate")
def key_value_bottleneck_ema(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    values = {slot: np.zeros(2) for slot in range(5)}
    keys, count, total = p.keys, np.ones(5), p.keys.copy()
    for x in xs:
        z = p.P @ x.x
        slot = int(np.argmin([np.linalg.norm(z - key) for key in keys]))
        yield values[slot], slot
        values[slot] = values[slot] - p.rate * (values[slot] - x.target)
        count, total = p.keep * count, p.keep * total
        count[slot] += 1 - p.keep
        total[slot] += (1 - p.keep) * z
        smooth = (count + 1e-5) / (count.sum() + 5e-5) * count.sum()
        keys = total / smooth[:, None]
