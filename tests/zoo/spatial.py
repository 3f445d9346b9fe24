"""Recurrences over images and graphs, as loops over places and nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid


def _conv2d(w: Any, x: Any) -> Any:
    """Weights (out, in, 3, 3) over an image (in, X, Y), zeros around it; nothing is turned around."""
    _, X, Y = x.shape
    out = np.zeros((len(w), X, Y))
    for i in range(X):
        for j in range(Y):
            for a in range(3):
                for b in range(3):
                    if 0 <= i + a - 1 < X and 0 <= j + b - 1 < Y:
                        out[:, i, j] += w[:, :, a, b] @ x[:, i + a - 1, j + b - 1]
    return out


IMAGE = {"D": 2, "H": 3, "X": 4, "Y": 5}


@oracle("conv_lstm", sizes=IMAGE)
def conv_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros((3, 4, 5)), np.zeros((3, 4, 5))
    for x in xs:
        i, f, g, o = (_conv2d(p.W[n], x.x) + _conv2d(p.U[n], h) + p.b[n][:, None, None] for n in range(4))
        c = sigmoid(f + p.peep[1] * c) * c + sigmoid(i + p.peep[0] * c) * np.tanh(g)
        h = sigmoid(o + p.peep[2] * c) * np.tanh(c)
        yield h


@oracle("conv_lstm_plain", sizes=IMAGE)
def conv_lstm_plain(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros((3, 4, 5)), np.zeros((3, 4, 5))
    for x in xs:
        i, f, g, o = (_conv2d(p.W[n], x.x) + _conv2d(p.U[n], h) + p.b[n][:, None, None] for n in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


@oracle("conv_gru", sizes=IMAGE)
def conv_gru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """One convolution of the input and the state on top of each other, as the paper has it."""
    h = np.zeros((3, 4, 5))

    def mixed(n: int, x: Any, state: Any) -> Any:
        return _conv2d(np.concatenate([p.W[n], p.U[n]], 1), np.concatenate([x, state])) + p.b[n][:, None, None]

    for x in xs:
        r, z = sigmoid(mixed(0, x.x, h)), sigmoid(mixed(1, x.x, h))
        h = (1 - z) * h + z * np.tanh(mixed(2, x.x, r * h))
        yield np.maximum(h, 0)


@oracle("scnn", sizes={"D": 3, "X": 6}, w="small")
def scnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    rows = [x.x.copy() for x in xs]
    for i in range(1, len(rows)):
        message = np.zeros((3, 6))
        for place in range(6):
            for tap in range(9):
                at = place + tap - 4
                if 0 <= at < 6:
                    message[:, place] += p.w[:, :, tap] @ rows[i - 1][:, at]
        rows[i] = rows[i] + np.maximum(message, 0)
    yield from rows


# --- graphs -----------------------------------------------------------------------------------------------------------


@oracle("graph_rnn", sizes={"N": 5, "D": 2, "H": 3}, A="small")
def graph_rnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((5, 3))
    for x in xs:
        heard = np.stack([sum(p.A[i, j] * h[j] for j in range(5)) for i in range(5)])
        h = np.tanh(np.stack([p.U.T @ heard[i] + p.W.T @ x.x[i] + p.b for i in range(5)]))
        yield h


def _averages(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@oracle("graph_diffusion", sizes={"N": 5, "D": 2}, A=_averages, rate="gate")
def graph_diffusion(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((5, 2))
    for x in xs:
        h = ((1 - p.rate) * np.eye(5) + p.rate * x.A) @ h + x.x
        yield h


def _graph_gru(basis: Callable[[SimpleNamespace], list[Any]]) -> Callable[..., Iterator[Any]]:
    def loop(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
        maps = basis(p)

        def spread(u: Any, weights: Any, gate: int) -> Any:
            return sum(maps[k] @ u @ weights[k][gate] for k in range(3))

        h = np.zeros((5, 3))
        for x in xs:
            r, z = (sigmoid(spread(x.x, p.W, g) + spread(h, p.U, g) + p.b[g]) for g in (0, 1))
            n = np.tanh(spread(x.x, p.W, 2) + spread(r * h, p.U, 2) + p.b[2])
            h = z * h + (1 - z) * n
            yield h

    return loop


oracle("graph_conv_gru", sizes={"N": 5, "D": 2, "H": 3}, A="small")(_graph_gru(lambda p: [np.eye(5), p.A, p.A @ p.A]))
oracle("graph_conv_gru_chebyshev", sizes={"N": 5, "D": 2, "H": 3}, L="small")(
    _graph_gru(lambda p: [np.eye(5), p.L, 2 * p.L @ p.L - np.eye(5)])
)
