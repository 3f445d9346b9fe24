"""Masks, ranks, stacks, clocks, feedback and thresholds, as loops over the equations."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid


@oracle("sparse_rnn", sizes={"D": 4, "H": 3}, mask=lambda rng, shape: rng.integers(0, 2, shape).astype(float))
def sparse_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        felt = [sum(p.R[i, j] * h[j] for j in range(3) if p.mask[i, j]) for i in range(3)]
        h = np.tanh(p.W @ x.x + felt + p.b)
        yield h


@oracle("low_rank_rnn", sizes={"D": 4, "H": 3, "R": 2})
def low_rank_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.tanh(p.W @ x.x + (p.P @ p.Q) @ h + p.b)
        yield h


@oracle("bidirectional_rnn", sizes={"D": 4, "H": 3})
def bidirectional_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.tanh(p.W @ x.x + p.R @ h + p.b)
        yield h


def _lstm(W: Any, U: Any, b: Any, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    i, f, g, o = (W[n] @ x + U[n] @ h + b[n] for n in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@oracle("stacked_lstm", sizes={"D": 4, "H": 3, "R": 5})
def stacked_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """A whole layer after the other."""
    h, c, seen = np.zeros(3), np.zeros(3), [x.x for x in xs]
    lower = []
    for x in seen:
        h, c = _lstm(p.W1, p.U1, p.b1, x, h, c)
        lower.append(h)
    h, c = np.zeros(5), np.zeros(5)
    for x in lower:
        h, c = _lstm(p.W2, p.U2, p.b2, x, h, c)
        yield h


@oracle("skewed_lstm", sizes={"D": 4, "H": 3, "R": 5})
def skewed_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    lower = [h]
    for x in xs[:-1]:
        h, c = _lstm(p.W1, p.U1, p.b1, x.x, h, c)
        lower.append(h)
    h, c = np.zeros(5), np.zeros(5)
    for x in lower:
        h, c = _lstm(p.W2, p.U2, p.b2, x, h, c)
        yield h


# --- feedback ---------------------------------------------------------------------------------------------------------


@oracle("seq2seq_decoder", sizes={"C": 4, "H": 3, "V": 5})
def seq2seq_decoder(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, y = np.zeros(3), np.zeros(5)
    for x in xs:
        h = np.tanh(p.Wc @ x.context + p.Wy @ y + p.U @ h + p.b)
        y = np.exp(p.E @ h) / np.exp(p.E @ h).sum()
        yield y


@oracle("greedy_decoder", sizes={"C": 4, "H": 3, "V": 5})
def greedy_decoder(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, word = np.zeros(3), 0
    for x in xs:
        h = np.tanh(p.Wc @ x.context + p.embed[word] + p.U @ h)
        word = int(np.argmax(p.E @ h))
        yield word, p.E @ h


@oracle("auto_conditioned_lstm", sizes={"D": 4, "H": 3})
def auto_conditioned_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c, y = np.zeros(3), np.zeros(3), np.zeros(4)
    for t, x in enumerate(xs):
        own = (t // 5) % 2 == 1
        h, c = _lstm(p.W, p.U, p.b, y if own else x.x, h, c)
        y = p.E @ h
        yield y


@oracle("gradient_refined_rnn", sizes={"D": 4, "H": 3, "V": 5}, y=lambda rng, s: rng.dirichlet(np.ones(s[-1]), s[:-1]))
def gradient_refined_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.tanh(p.W @ x.x + p.U @ h)
        for _ in range(2):
            guess = np.exp(p.E @ h) / np.exp(p.E @ h).sum()
            h = h - p.rate * p.E.T @ (guess - x.y * 1.0)
        yield h


@oracle("gradient_refined_linear", sizes={"H": 3}, decay="gate", rate="gate", p="unit")
def gradient_refined_linear(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = (np.eye(3) - p.rate * np.outer(x.p, x.p)) @ (p.decay * h) + p.rate * x.y * x.p
        yield h


# --- clocks -----------------------------------------------------------------------------------------------------------


@oracle("clockwork_rnn", sizes={"D": 4, "H": 3})
def clockwork_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """All groups as one network with a block-triangular matrix, of which the rows that do not tick are left alone."""
    ff, fm, fs, mm, ms, ss = p.U
    none = np.zeros((3, 3))
    whole, W = np.block([[ff, fm, fs], [none, mm, ms], [none, none, ss]]), np.concatenate(list(p.W))
    h = np.zeros(9)
    for t, x in enumerate(xs):
        new = np.tanh(W @ x.x + np.concatenate(list(p.b)) + whole @ h)
        ticks = np.repeat([True, t % 2 == 0, t % 4 == 0], 3)
        h = np.where(ticks, new, h)
        yield h[:3], h[3:6], h[6:]


@oracle("multirate_rnn", sizes={"D": 4, "H": 3, "R": 2})
def multirate_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, slow = np.zeros(3), np.zeros(2)
    for t, x in enumerate(xs):
        if t % 4 == 0:
            slow = np.tanh(p.Wr @ h + p.Ur @ slow)
        h = np.tanh(p.W @ x.x + p.U @ h + p.V @ slow)
        yield h, slow


@oracle("boundary_rnn", sizes={"D": 4, "H": 3, "R": 2}, boundary="bool:0.3")
def boundary_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, context = np.zeros(3), np.zeros(2)
    for x in xs:
        h = np.tanh(p.W @ x.x + p.U @ h)
        if x.boundary:
            context = np.tanh(p.Wr @ h + p.Ur @ context)
        yield h, context
        h = np.zeros(3) if x.boundary else h


# --- thresholds -------------------------------------------------------------------------------------------------------


def _leak(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice([0.5, 1.0], shape)


# potentials are exact, some at the threshold
MEETS: dict[str, Any] = {"x": "halves", "leak": _leak, "threshold": "at:1"}


@oracle("lif_neuron", sizes={"D": 4}, **MEETS)
def lif_neuron(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    v = np.zeros(4)
    for x in xs:
        above = v > p.threshold
        v = p.leak * v + x.x
        v[above] -= p.threshold
        yield v.copy(), v > p.threshold


@oracle("lif_neuron_hard_reset", sizes={"D": 4}, **MEETS)
def lif_neuron_hard_reset(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    u = np.zeros(4)
    for x in xs:
        u = p.leak * u + x.x
        spikes = u >= p.threshold
        u[spikes] = 0
        yield u.copy(), spikes


@oracle("echo_state", sizes={"D": 4, "H": 3}, leak="gate")
def echo_state(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = h + p.leak * (np.tanh(p.W @ x.x + 0.9 * p.R @ h) - h)
        yield h


@oracle("episodic_lstm", sizes={"D": 4, "H": 3}, first="bool:0.2")
def episodic_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Every episode by itself."""
    begins = sorted({0, *(t for t, x in enumerate(xs) if x.first)})
    for begin, end in zip(begins, [*begins[1:], len(xs)], strict=True):
        h, c = np.zeros(3), np.zeros(3)
        for x in xs[begin:end]:
            h, c = _lstm(p.W, p.U, p.b, x.x, h, c)
            yield h
