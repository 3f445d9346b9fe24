"""Clocked blocks: states hold their values between ticks; blocks nest; the meaning is that of a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from recurc.frontend import load_text
from recurc.frontend.render import to_text

SOURCE = """
recurrence Clockwork(D, C = 3):
    input  x[D], on: bool
    state  fast[D] = 0
    every C:
        state  slow[D] = 1
        u = 2 * x
        when on:
            state  rare[D] = 0
            rare = 0.5 * rare[t-1] + u + slow[t-2]
        slow = 0.9 * slow[t-1] + u
    fast = 0.8 * fast[t-1] + slow + rare
    output fast, slow, rare
"""


def loop(x: np.ndarray, on: np.ndarray, period: int) -> tuple[np.ndarray, ...]:
    batch, steps, size = x.shape
    fast, rare = np.zeros((batch, size)), np.zeros((batch, size))
    slow = before = np.ones((batch, size))
    out: list[list[np.ndarray]] = [[], [], []]
    for t in range(steps):
        last = slow
        if t % period == 0:
            new = 0.5 * rare + 2 * x[:, t] + before
            rare = np.where(on[:, t, None], new, rare)
            slow = 0.9 * slow + 2 * x[:, t]
        before = last
        fast = 0.8 * fast + slow + rare
        for kept, value in zip(out, (fast, slow, rare), strict=True):
            kept.append(value)
    return tuple(np.stack(o, 1) for o in out)


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_a_clocked_state_holds_its_value_between_ticks(backend: str, period: int, rng: np.random.Generator) -> None:
    x, on = rng.standard_normal((2, 13, 5)), rng.random((2, 13)) > 0.5
    f = recurc.load(text=SOURCE).compile(backend=backend, sizes={"C": period})
    for got, want in zip(f(x=x, on=on), loop(x, on, period), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_hidden_names_are_never_those_of_the_source() -> None:
    text = """
recurrence A(D):
    input  x[D], fires: bool
    state  h[D] = 0, every_2[D] = 0
    when fires:
        h = h[t-1] + x
    every 2:
        every_2 = every_2[t-1] + x
    every 2:
        state  g[D] = 0
        g = g[t-1] + x
    output h, every_2, g
"""
    (rec,) = load_text(text)
    assert [e.name for e in rec.equations] == ["fires_2", "h", "every_2_2", "every_2", "every_2_3", "g"]
    assert load_text(to_text(rec)) == [rec]
    with pytest.raises(recurc.RecError, match="`fires_2` is not defined"):
        load_text(text.replace("output h", "output y = h * fires_2, h"))
