"""Every construct of the language in a Python step: the same IR as its spelling in a `.rec` file."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Int, Param, State

CASES: dict[str, tuple[Callable[..., Any], str]] = {}


def case(text: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = recurc.jit(**options)(function), text
        return function

    return add


@case("""recurrence clocks(D, N):
    input x[D], c[N]
    state slow[D] = 0, held[D] = 0, fast[D] = 0
    fast = fast[t-1] + x
    every 4:
        slow = 0.5 * slow[t-1] + fast
        twice = 2 * slow
        held = twice
    every N:
        state last[D] = 1
        last = x
    output fast, slow, held, last
""")
def clocks(
    x: Input["D"],
    c: Input["N"],
    slow: State["D"],
    held: State["D"],
    fast: State["D"],
    last: State["D", 1.0],
):
    fast = fast + x
    slow = recurc.every(4, 0.5 * slow + fast, slow)
    twice = 2 * slow
    held = recurc.every(4, twice, held)
    last = recurc.every("N", x, last)
    return {"slow": slow, "held": held, "fast": fast, "last": last}, fast, slow, held, last


@case("""recurrence choice(D):
    input x[D]
    state peak[D] = 0
    fires = any(x > 1, D)
    peak = if fires then x else peak[t-1]
    output peak
""")
def choice(x: Input["D"], peak: State["D"]):
    fires = recurc.any(x > 1, "D")
    peak = recurc.where(fires, x, peak)
    return peak


@case("""recurrence episodes(D):
    input x[D] = 0, done: bool
    state h[D] = 0
    y = 2 * x
    h = h[t-1] + y - x[t-2]
    reset when done or t % 100 == 0
    output h
""")
def episodes(x: Input["D", 0.0], done: Input[bool], h: State["D"]):
    recurc.reset_when(done | recurc.every(100))
    y = 2 * x
    h = h + y - x.lag(2)
    return h


@case("""recurrence named_reset(D):
    input x[D]
    param limit
    state h[D] = 0
    h = h[t-1] + x
    total = sum(x, D)
    big = total > limit
    reset when big
    output h, big
""")
def named_reset(x: Input["D"], limit: Param[()], h: State["D"]):
    h = h + x
    total = recurc.sum(x, "D")
    big = total > limit
    recurc.reset_when(big)
    return h, h, big


@case("""recurrence tables(K, N, X):
    input i: int, x[K]
    param table[N, K], grid[X, N]
    state S[N, K] = 0
    row = lookup(table, i)
    S = 0.5 * S[t-1] + one_hot(i, N) * row
    first = lookup(broadcast(x, K, N), index(K))
    cell = lookup(grid, i, i + 1)
    output S, first, cell, place = index(N) + eye(N) @ index(N)
""")
def tables(i: Input[int], x: Input["K"], S: State["N", "K"], table: Param["N", "K"], grid: Param["X", "N"]):
    row = table[i]
    S = 0.5 * S + recurc.one_hot(i, "N") * row
    first = recurc.broadcast(x, "K", "N")[recurc.index("K")]
    cell = grid[i, i + 1]
    place = recurc.index("N") + recurc.eye("N") @ recurc.index("N")
    return S, S, first, cell, place


@case(
    """recurrence neighbours(X, Y, I, C, K = 5):
    input x[I, X, Y]
    param w[C, I, 3, 3], mix[C, C, 3, 3], blur[3], taps[K]
    state h[C, X, Y] = 0
    h = tanh(conv(w, x, X, Y) + conv(mix, h[t-1], X, Y))
    output per_channel = conv(blur, x, Y), turned = circular_conv(taps, h, X)
""",
    dims={"X": None, "Y": None, "I": None, "C": None, "K": 5},
)
def neighbours(
    x: Input["I", "X", "Y"],
    h: State["C", "X", "Y"],
    w: Param["C", "I", 3, 3],
    mix: Param["C", "C", 3, 3],
    blur: Param[3],
    taps: Param["K"],
):
    h = np.tanh(recurc.conv(w, x, "X", "Y") + mix.conv(h, "X", "Y"))
    return {"h": h, "per_channel": recurc.conv(blur, x, "Y"), "turned": recurc.circular_conv(taps, h, "X")}


@case("""recurrence by_position(D, E):
    input x[D, E], A[D, D]
    state g[D, E, 3] = 0
    g = 0.5 * g[t-1] + unfold(x, E, 3, circular = true, turned = true)
    output y = permute(x, E, D), z = einsum(A, A, ij, kj, ik), zero = einsum(A, x, ij, ik)
""")
def by_position(x: Input["D", "E"], A: Input["D", "D"], g: State["D", "E", 3]):
    g = 0.5 * g + recurc.unfold(x, "E", 3, circular=True, turned=True)
    y = recurc.permute(x, "E", "D")
    z = recurc.einsum(A, A, "ij", "kj", "ik")
    zero = recurc.einsum(A, x, "ij", "ik")
    return g, y, z, zero


@case("""recurrence matrices(N):
    input x[N]
    param A[N, N]
    state P[N, N] = 1
    P = P[t-1] + outer(x, x) + 0.01 * eye(N)
    L = cholesky(P)
    output y = solve(P, x) + inv(P) @ x, L, z = phi1(A) @ stop_gradient(x) + dphi1(A, A.T) @ x
""")
def matrices(x: Input["N"], A: Param["N", "N"], P: State["N", "N", 1.0]):
    P = P + recurc.outer(x, x) + 0.01 * recurc.eye("N")
    L = np.linalg.cholesky(P)
    y = recurc.solve(P, x) + np.linalg.inv(P) @ x
    z = recurc.phi1(A) @ recurc.stop_gradient(x) + recurc.dphi1(A, A.T) @ x
    return P, y, L, z


@case(
    """recurrence lags(D, N):
    input x[D] = 0.5
    param W[2, D]
    state h[D] = 1, z: complex = 1, n: int = 1, up: bool = false
    one = part(W, 1)
    h = h[t-1] + 0.25 * h[t-3] * x[t-2] + one
    z = polar(1, 0.1 * t) * z[t-1]
    n = n[t-1] + N
    up = not up[t-1]
    output h, z, n, up, phase = atan2(imag(z), real(z)), kind = cast(h, int)
""",
    dims=["D", "N"],
)
def lags(
    x: Input["D", 0.5],
    W: Param[2, "D"],
    h: State["D", 1.0],
    z: State[complex, 1.0],
    n: State[int, 1],
    up: State[bool],
):
    one = W[1]
    h = h + 0.25 * h.lag(3) * recurc.lag(x, 2) + one
    z = recurc.polar(1, 0.1 * recurc.step_index()) * z
    n = n + recurc.size("N")
    up = ~up
    return {"h": h, "z": z, "n": n, "up": up}, h, z, n, up, {"phase": np.angle(z), "kind": recurc.cast(h, int)}


@case(
    """recurrence recent(D, W, M):
    input x[D] = 0.5, on: bool = true
    param h0[D]
    state h[D] = h0
    past = max(window(h[t-1], W), W)
    h = 0.5 * past + mean(window(x, W), W)
    y = mean(window(x, 4), 4) - mean(window(x[t-2], 4), 4) + sum(window(h, W), W)
    count = sum(if window(on, M) then 1 else 0, M)
    output y, count
""",
    dims=["D", "W", "M"],
)
def recent(x: Input["D", 0.5], on: Input[bool, True], h: State["D", lambda h0: h0], h0: Param["D"]):
    past = recurc.max(recurc.window(h, "W"), "W")
    h = 0.5 * past + recurc.window(x, "W").mean("W")
    y = recurc.window(x, 4).mean("4") - recurc.window(x.lag(2), 4).mean("4") + recurc.window(h, "W").sum("W")
    count = recurc.sum(recurc.where(recurc.window(on, "M"), 1, 0), "M")
    return h, y, count


@case(
    """recurrence pairs(D, E = D):
    input x[D]
    output y = x * (x as [E])
""",
    dims={"D": None, "E": "D"},
)
def pairs(x: Input["D"]):
    return x * x.rename("E")


@case("""recurrence last(D):
    input x[D]
    state S[D] = 0
    S = S[t-1] + x
    output y = x / S[T]
""")
def last(x: Input["D"], S: State["D"]):
    end = recurc.final(S)
    S = S + x
    y = x / end
    return S, y


@case(
    """recurrence automaton(Q, A = 3):
    input i: int(A), j: int(5) = 4
    param start: int(Q), ramp[A] ~ index(A) + 1
    state q: int(Q) = start, last: int(Q) = Q - 1
    state r[A]: int(4) = 3
    q = q[t-1] * 5 + i - j[t-1]
    r = r[t-1] - 1
    last = q[t-2]
    output q, r, last, y = ramp * r
""",
    dims={"Q": None, "A": 3},
)
def automaton(
    i: Input[Int("A")],
    j: Input[Int(5), 4],
    start: Param[Int("Q")],
    ramp: Param["A", recurc.index("A") + 1],
    q: State[Int("Q"), lambda start: start],
    last: State[Int("Q"), recurc.size("Q") - 1],
    r: State["A", Int(4), 3],
):
    last, q = q.lag(2), q * 5 + i - j.lag(1)
    r = r - 1
    return {"q": q, "last": last, "r": r}, q, r, last, {"y": ramp * r}


@case(
    """recurrence online(K, V):
    input k[K], v[V]
    param rate
    state M[V, K] = 0, S[V, K] = 0
    error = M[t-1] @ k - v
    loss = 0.5 * sum(error**2, V)
    S = 0.9 * S[t-1] - rate * grad(loss, M[t-1])
    M = M[t-1] + S
    by_error = grad(loss, error) + grad(loss, v)
    by_key = grad(loss, k)
    output M, by_error, by_key
""",
    dims=["K", "V"],
)
def online(k: Input["K"], v: Input["V"], rate: Param[()], M: State["V", "K"], S: State["V", "K"]):
    error = M @ k - v
    loss = 0.5 * recurc.sum(error**2, "V")
    S = 0.9 * S - rate * recurc.grad(loss, M)
    M = M + S
    by_error = recurc.grad(loss, error) + recurc.grad(loss, v)
    by_key = recurc.grad(loss, k)
    return {"M": M, "S": S}, M, by_error, by_key


@case("""recurrence deep(K, H):
    input x[K]
    state W[H, K] = 0.1, u[H] = 0.1
    z = W[t-1] @ x
    loss = sum(u[t-1] * tanh(z), H)**2
    slope = grad(loss, z)
    W = W[t-1] - grad(loss, W[t-1])
    u = u[t-1] - grad(loss, u[t-1])
    output slope, W
""")
def deep(x: Input["K"], W: State["H", "K", 0.1], u: State["H", 0.1]):
    z = W @ x
    loss = recurc.sum(u * np.tanh(z), "H") ** 2
    slope = recurc.grad(loss, z)
    W = W - recurc.grad(loss, W)
    u = u - recurc.grad(loss, u)
    return {"W": W, "u": u}, slope, W


DECAY = """recurrence Decay(N):
    input x[N]
    param a
    state h[N] = a
    h = a * h[t-1] + x
    output h

recurrence Pair(D, K = 3):
    input x[D] = 0, y[D]
    param a
    state S[D, K] = 0
    S = a * S[t-1] + x[t-2] * index(K)
    total = sum(S, K)
    reset when sum(y, D) > 3
    output S, total

"""
decay, pair = (recurc.load(text=DECAY, name=n) for n in ("Decay", "Pair"))


@case(
    DECAY
    + """recurrence stacked(D):
    input x[D]
    param a, b
    state last[D] = 0
    low = Decay(x, a = a)
    high = Decay(low + 1, a = sigmoid(b), h = 0.5)
    S, total = Pair(low, high, a)
    every 3:
        state slow[D] = 0
        inner = Decay(x = high, a = 0.25)
        slow = inner
    last = Decay(total, a = b)
    output high, total, slow, last
"""
)
def stacked(x: Input["D"], a: Param[()], b: Param[()], last: State["D"], slow: State["D"]):
    low = decay(x, a=a)
    high = decay(low + 1, a=recurc.sigmoid(b), h=0.5)
    S, total = pair(low, high, a)  # noqa: RUF059  (a name for its equations)
    every_3 = recurc.every(3)
    inner = recurc.clocked(every_3, decay)(x=high, a=0.25)
    slow = recurc.where(every_3, inner, slow)
    last = decay(total, a=b)
    return {"slow": slow, "last": last}, high, total, slow, last


@pytest.mark.parametrize("name", CASES)
def test_both_spellings_are_one_recurrence(name: str) -> None:
    function, text = CASES[name]
    traced, written = function.recurrence.ir, recurc.load(text=text, name=name).ir
    assert [e.name for e in traced.equations] == [e.name for e in written.equations]
    for ours, theirs in zip(traced.equations, written.equations, strict=True):
        assert ours.expr == theirs.expr, ours.name
    assert traced.states == written.states
    assert (traced.dims, traced.inputs, traced.params) == (written.dims, written.inputs, written.params)
    assert traced == written


@pytest.mark.parametrize("name", CASES)
def test_the_text_of_a_traced_recurrence_loads_back(name: str) -> None:
    rec = CASES[name][0].recurrence
    assert recurc.load(text=rec.to_text()) == rec
