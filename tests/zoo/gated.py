"""Gated recurrent networks, as loops over their equations."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid

DH = {"D": 4, "H": 3}


@oracle("elman", sizes=DH)
def elman(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.tanh(p.W @ x.x + p.U @ h + p.b)
        yield h


@oracle("indrnn", sizes=DH, u="gate")
def indrnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.maximum(p.W @ x.x + p.u * h + p.b, 0)
        yield h


def gates(p: SimpleNamespace, x: Any, h: Any) -> list[Any]:
    return [W @ x + U @ h + b for W, U, b in zip(p.W, p.U, p.b, strict=True)]


@oracle("lstm", sizes=DH)
def lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        i, f, g, o = gates(p, x.x, h)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h


@oracle("lstm_peephole", sizes=DH)
def lstm_peephole(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    p_i, p_f, p_o = (np.diag(row) for row in p.peep)
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        i, f, g, o = gates(p, x.x, h)
        c = sigmoid(f + p_f @ c) * c + sigmoid(i + p_i @ c) * np.tanh(g)
        h = sigmoid(o + p_o @ c) * np.tanh(c)
        yield h


@oracle("lstm_projected", sizes={"D": 4, "H": 3, "P": 2})
def lstm_projected(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(2), np.zeros(3)
    for x in xs:
        i, f, g, o = gates(p, x.x, h)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = p.R @ (sigmoid(o) * np.tanh(c))
        yield h


@oracle("lstm_projected_peephole", sizes={"D": 4, "H": 3, "P": 2})
def lstm_projected_peephole(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(2), np.zeros(3)
    for x in xs:
        i, f, g, o = gates(p, x.x, h)
        c = sigmoid(f + p.peep[1] * c) * c + sigmoid(i + p.peep[0] * c) * np.tanh(g)
        h = p.R @ (sigmoid(o + p.peep[2] * c) * np.tanh(c))
        yield h, c


@oracle("lstm_cifg", sizes=DH)
def lstm_cifg(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        f, g, o = gates(p, x.x, h)
        c = c + sigmoid(-f) * (np.tanh(g) - c)
        h = sigmoid(o) * np.tanh(c)
        yield h


@oracle("lstm_cifg_diagonal", sizes=DH)
def lstm_cifg_diagonal(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        f, g, o = (W @ x.x + u * h + b for W, u, b in zip(p.W, p.u, p.b, strict=True))
        f = sigmoid(f + p.pf * c)
        c = f * c + (1 - f) * np.tanh(g)
        h = sigmoid(o + p.po * c) * np.tanh(c)
        yield h


@oracle("lstm_zoneout", sizes=DH, mask="gate")
def lstm_zoneout(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        i, f, g, o = gates(p, x.x, h)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = (1 - x.mask) * h + x.mask * sigmoid(o) * np.tanh(c)
        yield h


@oracle("gru", sizes=DH)
def gru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        r = sigmoid(p.W[0] @ x.x + p.b[0] + p.U[0] @ h + p.d[0])
        z = sigmoid(p.W[1] @ x.x + p.b[1] + p.U[1] @ h + p.d[1])
        n = np.tanh(p.W[2] @ x.x + p.b[2] + r * (p.U[2] @ h + p.d[2]))
        h = (1 - z) * n + z * h
        yield h


@oracle("gru_reset_before", sizes=DH)
def gru_reset_before(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        r = sigmoid(p.W[0] @ x.x + p.b[0] + p.U[0] @ h)
        z = sigmoid(p.W[1] @ x.x + p.b[1] + p.U[1] @ h)
        n = np.tanh(p.W[2] @ x.x + p.b[2] + p.U[2] @ (r * h))
        h = (1 - z) * n + z * h
        yield h


@oracle("gru_diagonal", sizes=DH)
def gru_diagonal(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    R = [np.diag(u) for u in p.u]
    h = np.zeros(3)
    for x in xs:
        r = sigmoid(p.W[0] @ x.x + p.b[0] + R[0] @ h)
        z = sigmoid(p.W[1] @ x.x + p.b[1] + R[1] @ h)
        n = np.tanh(p.W[2] @ x.x + p.b[2] + R[2] @ (r * h))
        h = h + z * (n - h)
        yield h


def convolved(W: Any, xs: list[SimpleNamespace], t: int) -> Any:
    """A causal convolution, the latest tap last, over zeros before the first step."""
    past = [xs[s].x if s >= 0 else np.zeros(4) for s in range(t - len(W) + 1, t + 1)]
    return sum(tap @ x for tap, x in zip(W, past, strict=True))


@oracle("qrnn", sizes=DH | {"L": 5})
def qrnn(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    c = np.zeros(3)
    for t in range(len(xs)):
        z, f, o = (convolved(W, xs, t) for W in (p.Wz, p.Wf, p.Wo))
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        yield sigmoid(o) * c


@oracle("qrnn_f", sizes=DH | {"L": 5})
def qrnn_f(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for t in range(len(xs)):
        z, f = (convolved(W, xs, t) for W in (p.Wz, p.Wf))
        h = sigmoid(f) * h + (1 - sigmoid(f)) * np.tanh(z)
        yield h


@oracle("qrnn_ifo", sizes=DH | {"L": 5})
def qrnn_ifo(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    c = np.zeros(3)
    for t in range(len(xs)):
        z, f, i, o = (convolved(W, xs, t) for W in (p.Wz, p.Wf, p.Wi, p.Wo))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
        yield sigmoid(o) * c


@oracle("sru", sizes={"D": 4})
def sru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    c = np.zeros(4)
    for x in xs:
        f, r = (sigmoid(p.W[i] @ x.x + v * c + b) for i, v, b in ((1, p.vf, p.bf), (2, p.vr, p.br)))
        c = f * c + (1 - f) * (p.W[0] @ x.x)
        yield r * c + (1 - r) * x.x


@oracle("sru_v0", sizes={"D": 4})
def sru_v0(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    c = np.zeros(4)
    for x in xs:
        f, r = sigmoid(p.W[1] @ x.x + p.bf), sigmoid(p.W[2] @ x.x + p.br)
        c = f * c + (1 - f) * (p.W[0] @ x.x)
        yield r * np.tanh(c) + (1 - r) * x.x


@oracle("min_gru", sizes=DH)
def min_gru(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.full(3, 0.5)
    for x in xs:
        z, u = sigmoid(p.Wz @ x.x), p.Wh @ x.x
        h = (1 - z) * h + z * np.where(u >= 0, u + 0.5, sigmoid(u))
        yield h


@oracle("min_lstm", sizes=DH)
def min_lstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        f, i, c = sigmoid(p.W[0] @ x.x), sigmoid(p.W[1] @ x.x), p.W[2] @ x.x
        h = (f * h + i * c) / (f + i)
        yield h


@oracle("slstm", sizes={"D": 4, "H": 3, "P": 2})
def slstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c, n = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))  # not stabilised: the stabiliser must not show
    for x in xs:
        i, f, z, o = (np.stack([p.W[k, a] @ x.x + p.U[k, a] @ h[a] + p.b[k, a] for a in range(3)]) for k in range(4))
        c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
        n = sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        yield h


@oracle("slstm_exponential", sizes={"D": 4, "H": 3, "P": 2})
def slstm_exponential(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h, c, n = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((3, 2))
    for x in xs:
        i, f, z, o = (np.stack([p.W[k, a] @ x.x + p.U[k, a] @ h[a] + p.b[k, a] for a in range(3)]) for k in range(4))
        c = np.exp(f) * c + np.exp(i) * np.tanh(z)
        n = np.exp(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        yield h


def layer_norm(x: Any) -> Any:
    return (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6)


@oracle("mlstm_unstabilised", sizes={"H": 3, "K": 2, "V": 5})
@oracle("mlstm", sizes={"H": 3, "K": 2, "V": 5})
def mlstm(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S, n = np.zeros((3, 2, 5)), np.zeros((3, 2))
    for x in xs:
        out = []
        for a in range(3):
            k = x.k[a] / np.sqrt(2)
            S[a] = sigmoid(x.f[a]) * S[a] + np.exp(x.i[a]) * np.outer(k, x.v[a])
            n[a] = sigmoid(x.f[a]) * n[a] + np.exp(x.i[a]) * k
            read = S[a].T @ x.q[a] / max(abs(n[a] @ x.q[a]), 1.0)
            out.append(sigmoid(x.o[a]) * p.scale[a] * layer_norm(read))
        yield np.stack(out)


@oracle("mlstm_sigmoid", sizes={"H": 3, "K": 2, "V": 5})
def mlstm_sigmoid(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    S, n = np.zeros((3, 2, 5)), np.zeros((3, 2))
    for x in xs:
        out = []
        for a in range(3):
            k = x.k[a] / np.sqrt(2)
            S[a] = sigmoid(x.f[a]) * S[a] + sigmoid(x.i[a]) * np.outer(k, x.v[a])
            n[a] = sigmoid(x.f[a]) * n[a] + sigmoid(x.i[a]) * k
            read = S[a].T @ x.q[a] / max(abs(n[a] @ x.q[a]), 1.0)
            out.append(sigmoid(x.o[a]) * p.scale[a] * layer_norm(read))
        yield np.stack(out)
