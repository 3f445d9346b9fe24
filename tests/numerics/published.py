"""Published gated networks as a reader of the papers would write them, each with its definition a second time: a loop
of plain NumPy over one sequence, written from the equations and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

Loop = Callable[[SimpleNamespace, Iterable[SimpleNamespace]], Iterator[Any]]


@dataclass(frozen=True)
class Published:
    """`loop` takes the params and, step by step, the inputs; it yields the output of each step (a tuple, if there are
    several). `classes`: what the analysis must find, group by group. `draw`: how values that are not normal come."""

    text: str
    classes: str
    loop: Loop
    draw: dict[str, str] = field(default_factory=dict[str, str])


GATED: dict[str, Published] = {}
SIZES = {"D": 4, "H": 3, "K": 2, "V": 5, "N": 3, "R": 3}


def system(classes: str, text: str, into: dict[str, Published] = GATED, **draw: str) -> Callable[[Loop], Loop]:
    def keep(loop: Loop) -> Loop:
        into[loop.__name__] = Published(text, classes, loop, draw)
        return loop

    return keep


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@system(
    "NL-f",
    """
recurrence Elman(D, H):
    input x[D]
    param W[H, D], R[H, H], b[H]
    state h[H] = 0
    h = tanh(W @ x + R @ h[t-1] + b)
    output h""",
)
def elman(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.tanh(p.W @ x.x + p.R @ h + p.b)
        yield h


@system(
    "NL-d",
    """
recurrence IndRNN(D, H):
    input x[D]
    param W[H, D], r[H], b[H]
    state h[H] = 0
    h = relu(W @ x + r * h[t-1] + b)
    output h""",
)
def indrnn(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        h = np.maximum(p.W @ x.x + p.r * h + p.b, 0)
        yield h


@system(
    "EA",
    """
recurrence MinGRU(D, H):
    input x[D]
    param Wz[H, D], Wh[H, D]
    state h[H] = 0.5
    fn g(u) = if u >= 0 then u + 0.5 else sigmoid(u)
    z = sigmoid(Wz @ x)
    h = (1 - z) * h[t-1] + z * g(Wh @ x)
    output h""",
)
def mingru(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.full(3, 0.5)
    for x in xs:
        z, u = sigmoid(p.Wz @ x.x), p.Wh @ x.x
        h = (1 - z) * h + z * np.where(u >= 0, u + 0.5, sigmoid(u))
        yield h


@system(
    "EA",
    """
recurrence MinLSTM(D, H):
    input x[D]
    param W[3, H, D]
    state h[H] = 0
    a, b, c = W @ x
    f = sigmoid(a)
    i = sigmoid(b)
    h = f / (f + i) * h[t-1] + i / (f + i) * c
    output h""",
)
def minlstm(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        f, i, c = sigmoid(p.W[0] @ x.x), sigmoid(p.W[1] @ x.x), p.W[2] @ x.x
        h = (f * h + i * c) / (f + i)
        yield h


@system(
    "NL-d",
    """
recurrence SRU(D):
    input x[D]
    param W[3, D, D], vf[D], vr[D], bf[D], br[D]
    state c[D] = 0
    u, f_in, r_in = W @ x
    f = sigmoid(f_in + vf * c[t-1] + bf)
    r = sigmoid(r_in + vr * c[t-1] + br)
    c = f * c[t-1] + (1 - f) * u
    output h = r * c + (1 - r) * x""",
)
def sru(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    c = np.zeros(4)
    for x in xs:
        f, r = (sigmoid(p.W[i] @ x.x + v * c + b) for i, v, b in ((1, p.vf, p.bf), (2, p.vr, p.br)))
        c = f * c + (1 - f) * (p.W[0] @ x.x)
        yield r * c + (1 - r) * x.x


@system(
    "EA",
    """
recurrence QRNN(D, H):
    input x[D] = 0
    param Wz[2, H, D], Wf[2, H, D], Wo[2, H, D]
    state c[H] = 0
    fn both(W) = part(W, 0) @ x[t-1] + part(W, 1) @ x
    f = sigmoid(both(Wf))
    c = f * c[t-1] + (1 - f) * tanh(both(Wz))
    output h = sigmoid(both(Wo)) * c""",
)
def qrnn(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    c, before = np.zeros(3), np.zeros(4)
    for x in xs:
        z, f, o = (W[0] @ before + W[1] @ x.x for W in (p.Wz, p.Wf, p.Wo))
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        before = x.x
        yield sigmoid(o) * c


@system(
    "NL-f",
    """
recurrence GRUResetBefore(D, H):
    input x[D]
    param W[3, H, D], R[3, H, H], b[3, H]
    state h[H] = 0
    xr, xz, xn = W @ x + b
    r = sigmoid(xr + part(R, 0) @ h[t-1])
    z = sigmoid(xz + part(R, 1) @ h[t-1])
    n = tanh(xn + part(R, 2) @ (r * h[t-1]))
    h = (1 - z) * n + z * h[t-1]
    output h""",
)
def gru_reset_before(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        r = sigmoid(p.W[0] @ x.x + p.b[0] + p.R[0] @ h)
        z = sigmoid(p.W[1] @ x.x + p.b[1] + p.R[1] @ h)
        n = np.tanh(p.W[2] @ x.x + p.b[2] + p.R[2] @ (r * h))
        h = (1 - z) * n + z * h
        yield h


@system(
    "NL-f",
    """
recurrence PeepholeProjected(D, H, N):
    input x[D]
    param W[4, N, D], U[4, N, H], b[4, N], p[3, N], P[H, N]
    state h[H] = 0
    state c[N] = 0
    i, f, g, o = W @ x + U @ h[t-1] + b
    c = sigmoid(f + part(p, 1) * c[t-1]) * c[t-1] + sigmoid(i + part(p, 0) * c[t-1]) * tanh(g)
    h = P @ (sigmoid(o + part(p, 2) * c) * tanh(c))
    output h, c""",
)
def lstm_with_peepholes_and_projection(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h, c = np.zeros(3), np.zeros(3)
    for x in xs:
        i, f, g, o = (p.W[k] @ x.x + p.U[k] @ h + p.b[k] for k in range(4))
        c = sigmoid(f + p.p[1] * c) * c + sigmoid(i + p.p[0] * c) * np.tanh(g)
        h = p.P @ (sigmoid(o + p.p[2] * c) * np.tanh(c))
        yield h, c


@system(
    "NL-f",
    """
recurrence SLSTM(D, H):
    input x[D]
    param W[4, H, D], R[4, H, H], b[4, H]
    state h[H] = 0, c[H] = 0, n[H] = 0
    state m[H] = -inf
    i, f, z, o = W @ x + R @ h[t-1] + b
    log_f = logsigmoid(f)
    m = max(log_f + m[t-1], i)
    keep = exp(log_f + m[t-1] - m)
    write = exp(i - m)
    c = keep * c[t-1] + write * tanh(z)
    n = keep * n[t-1] + write
    h = sigmoid(o) * c / n
    output h""",
)
def slstm(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h, c, n = np.zeros(3), np.zeros(3), np.zeros(3)  # not stabilised: the stabiliser must not show
    for x in xs:
        i, f, z, o = (p.W[k] @ x.x + p.R[k] @ h + p.b[k] for k in range(4))
        c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
        n = sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        yield h


@system(
    "OS",
    """
recurrence MLSTM(K, V):
    input q[K], k[K], v[V], i, f, o[V]
    state S[K, V] = 0, n[K] = 0
    state m = -inf
    log_f = logsigmoid(f)
    m = max(log_f + m[t-1], i)
    S = exp(log_f + m[t-1] - m) * S[t-1] + exp(i - m) * (k / sqrt(K)) * v
    n = exp(log_f + m[t-1] - m) * n[t-1] + exp(i - m) * (k / sqrt(K))
    output h = sigmoid(o) * (q @ S) / max(abs(q @ n), exp(-m))""",
)
def mlstm(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    S, n = np.zeros((2, 5)), np.zeros(2)
    for x in xs:
        k = x.k / np.sqrt(2)
        S = sigmoid(x.f) * S + np.exp(x.i) * np.outer(k, x.v)
        n = sigmoid(x.f) * n + np.exp(x.i) * k
        yield sigmoid(x.o) * (x.q @ S) / max(abs(x.q @ n), 1.0)
