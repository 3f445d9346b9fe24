"""Classical recurrences of signals, estimation, probability and arithmetic: as `.rec` text, and as loops of plain NumPy
(see `published`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.numerics.published import Loop, Published
from tests.numerics.published import system as _system

SIGNALS: dict[str, Published] = {}
system: Callable[..., Callable[[Loop], Loop]] = partial(_system, into=SIGNALS)


@system(
    "NL-d EA",
    """
recurrence Kalman:
    input z
    param F, Q, R, H
    state P = 1
    state m = 0
    ahead = F * P[t-1] * F + Q
    gain = ahead * H / (H * ahead * H + R)
    m = F * m[t-1] + gain * (z - H * F * m[t-1])
    P = (1 - gain * H) * ahead
    output m, P""",
    F="unit",
    Q="unit",
    R="unit",
)
def kalman(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    m, P = 0.0, 1.0
    for x in xs:
        m, P = p.F * m, p.F**2 * P + p.Q
        K = P * p.H / (p.H**2 * P + p.R)
        m, P = m + K * (x.z - p.H * m), P - K * p.H * P
        yield m, P


@system(
    "SH BA",
    """
recurrence DirectFormOne(D):
    input x[D] = 0
    param b0, b1, b2, a1, a2
    state y[D] = 0
    y = b0 * x + b1 * x[t-1] + b2 * x[t-2] - a1 * y[t-1] - a2 * y[t-2]
    output y""",
    a1="small",
    a2="small",
)
def biquad_direct_form_1(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    u, y = [np.zeros(4)] * 2, [np.zeros(4)] * 2
    for x in xs:
        new = p.b0 * x.x + p.b1 * u[-1] + p.b2 * u[-2] - p.a1 * y[-1] - p.a2 * y[-2]
        u, y = [u[-1], x.x], [y[-1], new]
        yield new


@system(
    "BA",
    """
recurrence DirectFormTwo(D):
    input x[D]
    param b0, b1, b2, a1, a2
    state w[D] = 0
    w = x - a1 * w[t-1] - a2 * w[t-2]
    output y = b0 * w + b1 * w[t-1] + b2 * w[t-2]""",
    a1="small",
    a2="small",
)
def biquad_direct_form_2(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    yield from biquad_direct_form_1(p, xs)


@system(
    "BA",
    """
recurrence TransposedFormTwo(D):
    input x[D]
    param b0, b1, b2, a1, a2
    state z1[D] = 0, z2[D] = 0
    y = b0 * x + z1[t-1]
    z1 = b1 * x - a1 * y + z2[t-1]
    z2 = b2 * x - a2 * y
    output y""",
    a1="small",
    a2="small",
)
def biquad_transposed_form_2(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    yield from biquad_direct_form_1(p, xs)


@system(
    "BA",
    """
recurrence HoltWinters(D):
    input x[D]
    param alpha, beta, gamma
    state level[D] = 1, trend[D] = 0, season[D] = 0
    level = alpha * (x - season[t-4]) + (1 - alpha) * (level[t-1] + trend[t-1])
    trend = beta * (level - level[t-1]) + (1 - beta) * trend[t-1]
    season = gamma * (x - level) + (1 - gamma) * season[t-4]
    output f = level + 2 * trend + season[t-2]""",
    alpha="unit",
    beta="unit",
    gamma="unit",
)
def holt_winters(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    level, trend, seasons = np.ones(4), np.zeros(4), [np.zeros(4)] * 4
    for x in xs:
        old = level
        level = p.alpha * (x.x - seasons[-4]) + (1 - p.alpha) * (level + trend)
        trend = p.beta * (level - old) + (1 - p.beta) * trend
        new = p.gamma * (x.x - level) + (1 - p.gamma) * seasons[-4]
        yield level + 2 * trend + seasons[-2]
        seasons = [*seasons[1:], new]


@system(
    "EA EA",
    """
recurrence WeightedVariance(D):
    input x[D]
    param alpha
    state mean[D] = 0, var[D] = 1
    d = x - mean[t-1]
    mean = mean[t-1] + alpha * d
    var = (1 - alpha) * (var[t-1] + alpha * d**2)
    output mean, sd = sqrt(var)""",
    alpha="unit",
)
def weighted_variance(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    seen: list[Any] = []
    for x in xs:
        weight = (1 - p.alpha) ** (len(seen) + 1)  # of the prior: mean 0, variance 1
        seen.append(x.x)
        ws = [p.alpha * (1 - p.alpha) ** (len(seen) - 1 - s) for s in range(len(seen))]
        mean = sum(w * s for w, s in zip(ws, seen, strict=True))
        second = weight * 1 + sum(w * s**2 for w, s in zip(ws, seen, strict=True))
        yield mean, np.sqrt(second - mean**2)


@system(
    "EA EA",
    """
recurrence Welford(D):
    input x[D]
    state mean[D] = 0, m2[D] = 0
    d = x - mean[t-1]
    mean = mean[t-1] + d / (t + 1)
    m2 = m2[t-1] + d * (x - mean)
    output mean, variance = m2 / (t + 1)""",
)
def welford(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    seen: list[Any] = []
    for x in xs:
        seen.append(x.x)
        yield np.mean(seen, 0), np.var(seen, 0)


@system(
    "NL-f",
    """
recurrence Viterbi(N, R = N):
    input e[N]
    param A[R, N], first[N]
    state d[N] = first
    best = max(A + d[t-1], N) as [N]
    d = best + e
    output d, back = argmax(A + d[t-1], N)""",
)
def viterbi(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    d = p.first
    for x in xs:
        scores = [[p.A[to, of] + d[of] for of in range(3)] for to in range(3)]
        d = np.array([max(row) for row in scores]) + x.e
        yield d, [row.index(max(row)) for row in scores]


@system(
    "NL-f",
    """
recurrence Forward(N, R = N):
    input e[N]
    param A[R, N]
    state a[N] = 0
    rows = logsumexp((A as [R, N]) + a[t-1], N)
    a = (rows as [N]) + e
    output a, evidence = logsumexp(a)""",
)
def hmm_forward(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    a = np.ones(3)
    for x in xs:
        a = (np.exp(p.A) @ a) * np.exp(x.e)
        yield np.log(a), np.log(a.sum())


@system(
    "NL-d",
    """
recurrence Neuron(D):
    input x[D]
    param leak
    state u[D] = 0
    v = leak * u[t-1] + x
    spike = v >= 0.7
    u = if spike then 0 else v
    output u, count = cast(spike, int)""",
    leak="unit",
)
def integrate_and_fire(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    u = np.zeros(4)
    for x in xs:
        u = p.leak * u + x.x
        spikes = (u >= 0.7).astype(int)
        u[spikes > 0] = 0
        yield u.copy(), spikes


@system(
    "EA EA EA",
    """
recurrence Adam(D):
    input g[D]
    const b1 = 0.9, b2 = 0.99
    param lr
    state m[D] = 0, v[D] = 0, w[D] = 1
    m = b1 * m[t-1] + (1 - b1) * g
    v = b2 * v[t-1] + (1 - b2) * g**2
    w = w[t-1] - lr * (m / (1 - b1**(t + 1))) / (sqrt(v / (1 - b2**(t + 1))) + 1e-8)
    output w""",
    lr="unit",
)
def adam(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    m, v, w = np.zeros(4), np.zeros(4), np.ones(4)
    for n, x in enumerate(xs, start=1):
        m, v = 0.9 * m + 0.1 * x.g, 0.99 * v + 0.01 * x.g * x.g
        w = w - p.lr * m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.99**n)) + 1e-8)
        yield w


@system(
    "EA CL",
    """
recurrence PID:
    input error = 0
    param kp, ki, kd
    state total = 0, held = 0
    total = total[t-1] + error
    held = clamp(held[t-1] + error, -1, 1)
    output u = kp * error + ki * total + kd * (error - error[t-1]), held""",
)
def pid(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    total = held = before = 0.0
    for x in xs:
        total, held = total + x.error, min(max(held + x.error, -1), 1)
        yield p.kp * x.error + p.ki * total + p.kd * (x.error - before), held
        before = x.error


@system(
    "NL-d",
    """
recurrence Logistic(D):
    input r[D]
    state x[D] = 0.3
    x = (2.5 + 0.5 * sigmoid(r)) * x[t-1] * (1 - x[t-1])
    output x""",
)
def logistic_map(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    h = np.full(4, 0.3)
    for x in xs:
        r = 2.5 + 0.5 / (1 + np.exp(-x.r))
        h = r * h - r * h**2
        yield h


@system(
    "NL-b",
    """
recurrence Fibonacci:
    input n: int
    state a: int = 1, b: int = 0
    a = (a[t-1] + b[t-1]) % 1000007
    b = a[t-1]
    output b""",
)
def fibonacci(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    a, b = 1, 0
    for _ in xs:
        a, b = (a + b) % 1000007, a
        yield b


@system(
    "ID EA",
    """
recurrence RunningArgmax(D):
    input x[D]
    state top[D] = -inf
    state at[D]: int = -1
    top = max(top[t-1], x)
    at = if x > top[t-1] then t else at[t-1]
    output top, at""",
)
def running_argmax(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    seen: list[Any] = []
    for x in xs:
        seen.append(x.x)
        yield np.max(seen, 0), np.argmax(seen, 0)


@system(
    "EA EA NL-d NL-d",
    """
recurrence Counters(D):
    input x[D]
    state high[D]: int = 0, run[D]: int = 0
    state ever[D]: bool = false, always[D]: bool = true
    big = x > 0.5
    high = high[t-1] + (if big then 1 else 0)
    run = if big then run[t-1] + 1 else 0
    ever = ever[t-1] or big
    always = always[t-1] and x > -1.5
    output high, run, ever, always""",
)
def counters(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    seen: list[Any] = []
    for x in xs:
        seen.append(x.x)
        run = [next((n for n, s in enumerate(reversed(seen)) if s[i] <= 0.5), len(seen)) for i in range(4)]
        yield (
            sum(s > 0.5 for s in seen),
            run,
            np.any([s > 0.5 for s in seen], 0),
            np.all([s > -1.5 for s in seen], 0),
        )


@system(
    "EA EA ID ID SL EA",
    """
recurrence Running(D):
    input x[D]
    state total[D] = 0, product[D] = 1, low[D] = inf, high[D] = -inf, soft[D] = -inf
    state held[D] = 0
    total = total[t-1] + x
    product = product[t-1] * sigmoid(x)
    low = min(low[t-1], x)
    high = if x > high[t-1] then x else high[t-1]
    soft = logaddexp(soft[t-1] - 0.1, x)
    held = if x > 0 then x else held[t-1]
    output total, product, low, high, soft, held""",
)
def running(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    seen: list[Any] = []
    held = np.zeros(4)
    for x in xs:
        seen.append(x.x)
        held = np.where(x.x > 0, x.x, held)
        faded = [np.exp(s - 0.1 * k) for k, s in enumerate(reversed(seen))]
        yield (
            np.sum(seen, 0),
            np.prod([1 / (1 + np.exp(-s)) for s in seen], 0),
            np.min(seen, 0),
            np.max(seen, 0),
            np.log(sum(faded)),
            held,
        )


@system(
    "SL CL",
    """
recurrence Queue:
    input x
    state w = 0, best = 0
    w = max(0, w[t-1] + x)
    best = max(min(best[t-1] + x, 2), -1)
    output w, best""",
)
def lindley_queue(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    w = best = 0.0
    for x in xs:
        w, best = max(0, w + x.x), max(min(best + x.x, 2), -1)
        yield w, best


@system(
    "NL-d",
    """
recurrence Congruential:
    input u
    state s: int = 12345
    s = (1103 * s[t-1] + 4321) % 65537
    output r = s / 65537 + 0 * u""",
)
def congruential(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    s = 12345
    for _ in xs:
        s = (1103 * s + 4321) % 65537
        yield s / 65537


@system(
    "GH",
    """
recurrence LeastMeanSquares(D):
    input x[D], d
    param rate
    state w[D] = 0
    err = d - w[t-1] @ x
    w = w[t-1] + rate * err * x / (1 + x @ x)
    output err""",
    rate="unit",
)
def normalised_lms(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    w = np.zeros(4)
    for x in xs:
        err = x.d - sum(w * x.x)
        w = w + p.rate * err * x.x / (1 + sum(x.x**2))
        yield err


@system(
    "NL-f GH",
    """
recurrence RecursiveLeastSquares(D, E = D):
    input x[D], d
    param forget
    state P[D, E] = 0.5
    state w[D] = 0
    u = (x as [E])
    Px = P[t-1] @ u
    gain = Px / (forget + x @ Px)
    err = d - x @ w[t-1]
    w = w[t-1] + gain * err
    P = (P[t-1] - gain * (Px as [E])) / forget
    output err, w""",
    forget="unit",
)
def recursive_least_squares(p: SimpleNamespace, xs: Iterable[SimpleNamespace]) -> Iterator[Any]:
    P, w = np.full((4, 4), 0.5), np.zeros(4)
    for x in xs:
        K = P @ x.x / (p.forget + x.x @ P @ x.x)
        err = x.d - x.x @ w
        w, P = w + K * err, (P - np.outer(K, x.x @ P)) / p.forget
        yield err, w
