"""Spellings of updates that are linear over max, min or logaddexp: found as such, and scanned as they are stepped."""

from __future__ import annotations

import numpy as np
import pytest

import recurc

LINEAR = (
    "max(h[t-1], x)",
    "max(x, h[t-1] + a)",
    "max(h[t-1] - a, x)",
    "max(h[t-1] + a + b, x)",
    "max(b + (h[t-1] - a), x)",
    "max(max(h[t-1] + a, x) + b, y)",
    "max(max(h[t-1] + a, x) - b, y)",
    "max(max(h[t-1], x), max(y, h[t-1]))",
    "min(h[t-1] - a - b, x)",
    "min(min(h[t-1], y) + a, x)",
    "logaddexp(h[t-1] + a - b, x)",
    "logaddexp(logaddexp(h[t-1], y) - a, x)",
    "if h[t-1] > x then h[t-1] else x",
    "if h[t-1] >= x then h[t-1] else x",
    "if h[t-1] < x then h[t-1] else x",
    "if h[t-1] <= x then h[t-1] else x",
    "if x > h[t-1] then h[t-1] else x",
    "if x <= h[t-1] then h[t-1] else x",
    "if a > 0 then max(h[t-1] + a, x) else max(h[t-1] - b, y)",
    "if a > 0 then max(h[t-1], x) + b else max(h[t-1], y)",
    "max(0.5 * h[t-1], x)",
    "min(exp(a) * h[t-1] / (1 + b**2), x)",
    "max(abs(a) * max(0.5 * h[t-1], x), y)",
)
# A maximum of the negated or scaled state, or of both signs of choice, does not distribute.
OTHER = (
    "max(-h[t-1], x)",
    "max(a * h[t-1], x)",
    "min(max(h[t-1], x), logaddexp(h[t-1], y))",
    "max(a - h[t-1], x)",
)


def load(update: str) -> recurc.Recurrence:
    head = "recurrence R(D):\n    input  x[D], y[D], a[D], b[D]\n    state  h[D] = 0.3\n"
    return recurc.load(text=f"{head}    h = {update}\n    output h\n")


@pytest.mark.parametrize("update", LINEAR)
def test_a_linear_update_is_scanned_as_it_is_stepped(update: str, rng: np.random.Generator) -> None:
    rec = load(update)
    (group,) = rec.analyze().groups
    assert (group.cls in ("SL", "ID"), "scan" in group.schedules) == (True, True)
    arrays = {name: rng.standard_normal((3, 23, 5)) for name in rec.inputs}
    wanted = rec.compile(backend="reference")(**arrays)
    # sums of at most 23 shifts in another order, all of size about 1
    np.testing.assert_allclose(rec.compile(backend="numpy", schedule="scan")(**arrays), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("update", OTHER)
def test_what_does_not_distribute_runs_in_turn(update: str) -> None:
    (group,) = load(update).analyze().groups
    assert group.schedules == ("sequential",)
