"""Classical recurrences of signal processing, statistics and control, as loops over their definitions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, sigmoid


@oracle("diagonal_affine", sizes={"D": 4}, a="gate")
def diagonal_affine(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4)
    for x in xs:
        h = np.diag(x.a) @ h + x.b
        yield h


@oracle("input_gated_cell", sizes={"D": 4, "H": 3})
def input_gated_cell(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(3)
    for x in xs:
        f, i, z = (p.W[n] @ x.x + p.b[n] for n in range(3))
        h = sigmoid(f) * h + sigmoid(i) * np.tanh(z)
        yield h


# --- averages and filters ---------------------------------------------------------------------------------------------


@oracle("ema", sizes={"D": 4}, alpha="gate")
def ema(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield sum(p.alpha * (1 - p.alpha) ** (t - s) * x.x for s, x in enumerate(xs[: t + 1]))


@oracle("ema_first_value", sizes={"D": 4}, alpha="gate")
def ema_first_value(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        first = (1 - p.alpha) ** t * xs[0].x
        yield first + sum(p.alpha * (1 - p.alpha) ** (t - s) * xs[s].x for s in range(1, t + 1))


@oracle("ema_bias_corrected", sizes={"D": 4}, alpha="gate")
def ema_bias_corrected(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        weights = [(1 - p.alpha) ** (t - s) for s in range(t + 1)]
        yield sum(w * xs[s].x for s, w in enumerate(weights)) / sum(weights)


@oracle("one_pole", sizes={"D": 4}, a="small")
def one_pole(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield sum(p.b * (-p.a) ** (t - s) * xs[s].x for s in range(t + 1))


def _filtered(xs: list[Any], b: Any, a: Any) -> list[Any]:
    """The difference equation, a0 = 1."""
    ys: list[Any] = []
    for t, x in enumerate(xs):
        y = b[0] * x
        for k in (1, 2):
            if t >= k:
                y = y + b[k] * xs[t - k] - a[k - 1] * ys[t - k]
        ys.append(y)
    return ys


def _biquad(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from _filtered([x.x for x in xs], (p.b0, p.b1, p.b2), (p.a1, p.a2))


for _name in ("biquad", "biquad_direct_form_1", "biquad_direct_form_2"):
    oracle(_name, sizes={"D": 4}, a1="small", a2="small")(_biquad)


@oracle("biquad_cascade", sizes={"D": 4}, a="small")
def biquad_cascade(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    once = _filtered([x.x for x in xs], p.b[0], p.a[0])
    yield from _filtered(once, p.b[1], p.a[1])


@oracle("linear_recurrence", sizes={"K": 3}, c="small")
def linear_recurrence(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    ys: list[Any] = []
    for x in xs:
        ys.append(x.x + sum(c * y for c, y in zip(p.c, reversed(ys), strict=False)))
        yield ys[-1]


@oracle("holt_winters", sizes={"D": 4}, alpha="gate", beta="gate", gamma="gate")
def holt_winters(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    level, trend, seasons = np.ones(4), np.zeros(4), [np.zeros(4)] * 4
    for x in xs:
        old = level
        level = p.alpha * (x.x - seasons[-4]) + (1 - p.alpha) * (level + trend)
        trend = p.beta * (level - old) + (1 - p.beta) * trend
        new = p.gamma * (x.x - level) + (1 - p.gamma) * seasons[-4]
        yield level + 2 * trend + seasons[-2]
        seasons = [*seasons[1:], new]


# --- products, powers and norms ---------------------------------------------------------------------------------------


@oracle("horner", sizes={"D": 4}, x=lambda rng, shape: rng.uniform(-0.9, 0.9, shape))
def horner(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        yield np.polyval([x.c for x in xs[:t]], p.x)


@oracle("cumulative_product", sizes={"D": 4}, restart="bool:0.2", x=lambda rng, shape: rng.normal(0, 1, shape).round(1))
def cumulative_product(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    begin = 0
    for t, x in enumerate(xs):
        begin = t if x.restart else begin
        yield np.prod([y.x for y in xs[begin : t + 1]], 0)


@oracle("hypot_accumulator", sizes={"D": 4}, decay="gate")
def hypot_accumulator(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield np.sqrt(sum(p.decay ** (t - s) * xs[s].x ** 2 for s in range(t + 1)))


@oracle("p_norm_accumulator", sizes={"D": 4}, decay="gate", x="positive")
def p_norm_accumulator(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield sum(p.decay ** (t - s) * abs(xs[s].x) ** 3 for s in range(t + 1)) ** (1 / 3)


@oracle("decayed_logsumexp", sizes={"D": 4}, rate="gate")
def decayed_logsumexp(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield np.log(sum(np.exp(xs[s].x - p.rate * (t - s)) for s in range(t + 1)))


# --- order, queues and control ----------------------------------------------------------------------------------------


@oracle("running_max", sizes={"D": 4})
def running_max(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from (np.max([x.x for x in xs[:t]], 0) for t in range(1, len(xs) + 1))


@oracle("running_min", sizes={"D": 4})
def running_min(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from (np.min([x.x for x in xs[:t]], 0) for t in range(1, len(xs) + 1))


@oracle("running_argmax", sizes={"D": 4}, x="halves")
def running_argmax(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        seen = np.array([x.x for x in xs[:t]])
        yield seen.max(0), seen.argmax(0)


@oracle("running_argmin", sizes={"D": 4}, x="halves")
def running_argmin(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        seen = np.array([x.x for x in xs[:t]])
        yield seen.min(0), t - 1 - seen[::-1].argmin(0)


@oracle("top_k", sizes={"D": 5, "K": 3}, x="halves")
def top_k(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        seen = [np.full(5, -np.inf)] * 3 + [x.x for x in xs[:t]]
        yield np.sort(seen, 0)[::-1][:3]


@oracle("decayed_max", sizes={"D": 4}, decay="gate")
def decayed_max(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield np.max([p.decay ** (t - s) * abs(xs[s].x) for s in range(t + 1)], 0)


@oracle("segmented_sum", sizes={"D": 4}, start="bool:0.2")
def segmented_sum(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    begin = 0
    for t, x in enumerate(xs):
        begin = t if x.start else begin
        yield np.sum([y.x for y in xs[begin : t + 1]], 0)


@oracle("segmented_max", sizes={"D": 4}, start="bool:0.2")
def segmented_max(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    begin = 0
    for t, x in enumerate(xs):
        begin = t if x.start else begin
        yield np.max([y.x for y in xs[begin : t + 1]], 0)


def _worst_sum(steps: list[Any]) -> Any:
    """The largest sum over the last few steps, or 0 over none: what max(0, w + x) unrolls to."""
    return np.max([np.sum(steps[len(steps) - n :], 0) if n else 0 * steps[0] for n in range(len(steps) + 1)], 0)


@oracle("cusum", sizes={"D": 4}, x="halves", target="halves", slack="at:0.5", threshold="at:1")
def cusum(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        up = _worst_sum([x.x - p.target - p.slack for x in xs[:t]])
        down = _worst_sum([p.target - x.x - p.slack for x in xs[:t]])
        yield up, down, (up > p.threshold) | (down > p.threshold)


@oracle("lindley_queue")
def lindley_queue(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    yield from (_worst_sum([x.x for x in xs[:t]]) for t in range(1, len(xs) + 1))


@oracle("clipped_integrator", sizes={"D": 4}, low=lambda rng, shape: -rng.uniform(0.5, 1.5, shape), high="positive")
def clipped_integrator(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = [0.0] * 4
    for x in xs:
        for i in range(4):
            h[i] += x.x[i]
            if h[i] < p.low[i]:
                h[i] = p.low[i]
            elif h[i] > p.high[i]:
                h[i] = p.high[i]
        yield np.array(h)


@oracle("pid")
def pid(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    total = before = 0.0
    for x in xs:
        total = min(max(total + x.error, -1), 1)
        yield p.kp * x.error + p.ki * total + p.kd * (x.error - before)
        before = x.error


# --- statistics and optimisers ----------------------------------------------------------------------------------------


@oracle("welford", sizes={"D": 4})
def welford(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(1, len(xs) + 1):
        seen = np.array([x.x for x in xs[:t]])
        yield seen.mean(0), seen.var(0)


@oracle("exponential_variance", sizes={"D": 4}, alpha="gate")
def exponential_variance(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The weights of a mean that starts at the first value, and the variance under the same weights."""
    for t in range(len(xs)):
        weights = [(1 - p.alpha) ** t, *(p.alpha * (1 - p.alpha) ** (t - s) for s in range(1, t + 1))]
        mean = sum(w * x.x for w, x in zip(weights, xs, strict=False))
        yield mean, sum(w * (x.x - mean) ** 2 for w, x in zip(weights, xs, strict=False))


def _away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A first gradient near 0 leaves a v near 0, whose root is taken: a transform keeps v to what is small beside its
    largest value, so by a convolution that root would be noise."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.2, 1.5, shape)


@oracle("adam", sizes={"D": 4}, g=_away_from_zero, lr="gate")
def adam(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    m, v, w = np.zeros(4), np.zeros(4), np.ones(4)
    for n, x in enumerate(xs, start=1):
        m, v = 0.9 * m + 0.1 * x.g, 0.99 * v + 0.01 * x.g * x.g
        w = w - p.lr * m / (1 - 0.9**n) / (np.sqrt(v / (1 - 0.99**n)) + 1e-8)
        yield w


@oracle("normalised_lms", sizes={"D": 4}, rate="gate")
def normalised_lms(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    w = np.zeros(4)
    for x in xs:
        err = x.d - sum(w * x.x)
        w = w + p.rate * err * x.x / (1 + sum(x.x**2))
        yield err


@oracle("recursive_least_squares", sizes={"D": 4}, forget=lambda rng, shape: rng.uniform(0.85, 0.98, shape))
def recursive_least_squares(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The weighted normal equations, solved from the beginning at every step."""
    w = np.zeros(4)
    for t, x in enumerate(xs):
        err = x.d - x.x @ w
        fade = [p.forget ** (t - s) for s in range(t + 1)]
        moment = p.forget ** (t + 1) * 2 * np.eye(4)
        moment = moment + sum(f * np.outer(y.x, y.x) for f, y in zip(fade, xs, strict=False))
        w = np.linalg.solve(moment, sum(f * y.d * y.x for f, y in zip(fade, xs, strict=False)))
        yield err, w


# --- maps without a scan, and fractions -------------------------------------------------------------------------------


@oracle("logistic_map", sizes={"D": 4}, r=lambda rng, shape: rng.uniform(2.5, 3.0, shape))
def logistic_map(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.full(4, 0.3)
    for x in xs:
        h = x.r * h - x.r * h**2
        yield h


@oracle("mobius", sizes={"D": 4}, a="positive", b="positive", c="positive", d="positive")
def mobius(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The product of 2x2 matrices, applied to the start."""
    product = [np.eye(2)] * 4
    for x in xs:
        product = [np.array([[x.a[i], x.b[i]], [x.c[i], x.d[i]]]) @ product[i] for i in range(4)]
        product = [m / np.abs(m).max() for m in product]
        yield np.array([m[0].sum() / m[1].sum() for m in product])


@oracle("continued_fraction", sizes={"D": 4}, a="positive", b="positive")
def continued_fraction(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """Two three-term recurrences: the numerators and the denominators."""
    above, below = np.ones(4), np.ones(4)
    for x in xs:
        above, below = x.a * above + x.b * below, above
        yield above / below


@oracle("kahan_sum", sizes={"D": 4})
def kahan_sum(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    """The sum without rounding, rounded once."""
    for t in range(1, len(xs) + 1):
        yield np.array([math.fsum(x.x[i] for x in xs[:t]) for i in range(4)])


@oracle("moving_average", sizes={"D": 4, "W": 3})
def moving_average(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield sum(x.x for x in xs[max(0, t - 2) : t + 1]) / 3
