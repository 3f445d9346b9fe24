"""Updates that look linear, or nearly, and are not: none is scanned, and the refusal says what stands in the way."""

from __future__ import annotations

import pytest

import recurc
from recurc.errors import UnsupportedError
from tests.zoo.cases import NAMES

HEAD = "recurrence R(D):\n    input  x[D], z[D]\n    param  a[D], v[D]\n"


def system(states: str, *equations: str) -> recurc.Recurrence:
    body = "".join(f"    {line}\n" for line in equations)
    return recurc.load(text=f"{HEAD}    state  {states}\n{body}    output out = h\n")


SYSTEMS = {
    "a light recurrence whose gate reads its cell": (
        system("h[D] = 0", "f = sigmoid(z + v * h[t-1])", "h = f * h[t-1] + (1 - f) * x"),
        "sigmoid",
    ),
    "a neuron with a soft reset": (
        system("h[D] = 0", "h = a * h[t-1] + x - (if h[t-1] > 1 then 1 else 0)"), "threshold",
    ),
    "a neuron with a hard reset": (
        system("h[D] = 0", "h = if h[t-1] > 1 then 0 else a * h[t-1] + x"), "threshold",
    ),
    "a neuron with a threshold by heaviside": (
        system("h[D] = 0", "s = cast(h[t-1] > 1, real)", "h = a * h[t-1] * (1 - s) + x"), "threshold",
    ),
    "the logistic map": (system("h[D] = 0.3", "h = a * h[t-1] * (1 - h[t-1])"), "depends on the state"),
    "a square": (system("h[D] = 0.3", "h = a * h[t-1]**2 + x"), "h[t-1]"),
    "a maximum of the negated past": (system("h[D] = 0", "h = max(-h[t-1], x)"), "max"),
    "an average of the absolute value": (system("h[D] = 0", "h = a * abs(h[t-1]) + x"), "abs"),
    "a sum that keeps its rounding errors": (
        system(
            "s[D] = 0, lost[D] = 0", "y = x - lost[t-1]", "s = s[t-1] + y", "lost = (s - s[t-1]) - y", "h = s"
        ),
        "rounding errors",
    ),
    "an average whose rate is read from the state": (
        system("h[D] = 0", "r = 1 / (1 + h[t-1]**2)", "h = (1 - r) * h[t-1] + r * x"), "h[t-1]",
    ),
    "a state that is cut to whole numbers": (
        system("h[D]: int = 0", "h = cast(0.5 * cast(h[t-1], real) + x, i64)"), "rounded to i64",
    ),
    "a state that is rounded down": (system("h[D] = 0", "h = floor(0.5 * h[t-1] + x)"), "floor"),
    "a memory read by its content": (
        recurc.load(
            text="recurrence R(N, W):\n    input  k[W], v[W]\n    state  M[N, W] = 1e-6\n"
            "    w = softmax(M[t-1] @ k, N)\n    M = M[t-1] + w * v\n    output r = w @ M\n"
        ),
        "exp",
    ),
    "a gated unit that resets before its matrix": (
        recurc.load(
            text="recurrence R(H):\n    input  x[H], y[H], w[H]\n    param  U[H, H], V[H, H], W[H, H]\n"
            "    state  h[H] = 0\n    r = sigmoid(x + U @ h[t-1])\n    z = sigmoid(y + V @ h[t-1])\n"
            "    n = tanh(w + W @ (r * h[t-1]))\n    h = (1 - z) * n + z * h[t-1]\n    output h\n"
        ),
        "sigmoid",
    ),
    "a sign that flips the past": (system("h[D] = 0", "h = if x * h[t-1] > 0 then h[t-1] else -h[t-1] + x"), "`>`"),
    "a remainder of a real product": (system("h[D] = 0", "h = (a * h[t-1] + x) % 1"), "`%`"),
}  # fmt: skip
PARALLEL = {"scan", "convolution", "chunkwise"}


@pytest.mark.parametrize("what", SYSTEMS)
def test_it_is_nonlinear_runs_as_a_loop_and_says_why(what: str) -> None:
    rec, word = SYSTEMS[what]
    for group in rec.analyze().groups:
        if group.states == ("h",) and "lost" in rec.states:
            continue  # a copy of the sum
        assert group.cls in ("NL-d", "NL-b", "NL-f", "QP"), group
        assert not PARALLEL & {*group.schedules, *group.on_request}
        assert group.monoid is None and group.low_rank is None
        assert any(word in r.text for r in group.reasons), group.reasons
        assert all(r.span is not None for r in group.reasons[:1]), "the first reason has a place"


@pytest.mark.parametrize("what", SYSTEMS)
def test_a_scan_that_is_asked_for_is_refused_with_the_reason(what: str) -> None:
    rec, word = SYSTEMS[what]
    with pytest.raises(UnsupportedError) as refused:
        rec.compile(schedule="scan")
    assert word in str(refused.value)


IN_THE_ZOO = {"sru", "lif_neuron", "lif_neuron_hard_reset", "logistic_map", "kahan_sum", "ntm", "ntm_write_first",
              "gru_reset_before"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(IN_THE_ZOO))
def test_nor_is_one_of_the_zoo_scanned(name: str) -> None:
    assert name in NAMES
    for group in recurc.zoo.load(name).analyze().groups:
        assert group.cls in ("NL-d", "NL-b", "NL-f", "QP") and not PARALLEL & {*group.schedules, *group.on_request}


def test_the_light_recurrence_is_a_scan_only_without_its_peephole() -> None:
    """The two differ by one term; a param that happens to be zero does not make the first one a scan."""
    assert "scan" not in recurc.zoo.load("sru").analyze().groups[0].schedules
    assert "scan" in recurc.zoo.load("sru_v0").analyze().groups[0].schedules
