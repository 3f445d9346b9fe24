"""A step function in Python and the same equations in a `.rec` file are one and the same IR."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import recurc
from recurc import Input, Param, State, init

H = recurc.size("H")
SMALL = init.uniform(-1 / recurc.sqrt(H), 1 / recurc.sqrt(H))


@recurc.jit(name="EMA")
def ema(h: State["D"], x: Input["D"], alpha: Param[()]):
    h = (1 - alpha) * h + alpha * x
    return h


@recurc.jit(name="LSTM", dims=("D", "H"))
def lstm(
    h: State["H"],
    c: State["H"],
    x: Input["D"],
    W: Param[4, "H", "D", SMALL],
    U: Param[4, "H", "H", SMALL],
    b: Param[4, "H", init.zeros()],
):
    i, f, g, o = W @ x + U @ h + b
    c = recurc.sigmoid(f) * c + recurc.sigmoid(i) * np.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return {"h": h, "c": c}, h


@recurc.jit(name="GRU", dims=("D", "H"))
def gru(
    h: State["H"],
    x: Input["D"],
    W: Param[3, "H", "D", SMALL],
    U: Param[3, "H", "H", SMALL],
    b: Param[3, "H", SMALL],
    d: Param[3, "H", SMALL],
):
    ar, az, an = W @ x + b
    hr, hz, hn = np.matmul(U, h) + d
    r = recurc.sigmoid(ar + hr)
    z = recurc.sigmoid(az + hz)
    n = np.tanh(an + r * hn)
    h = (1 - z) * n + z * h
    return h


@recurc.jit(name="SelectiveScan", dims={"D": None, "N": 16})
def selective_scan(
    h: State["D", "N"],
    x: Input["D"],
    delta: Input["D"],
    B: Input["N"],
    C: Input["N"],
    z: Input["D"],
    A_log: Param["D", "N"],
    skip: Param["D"],
    delta_bias: Param["D"],
):
    dt = torch.nn.functional.softplus(delta + delta_bias)
    h = np.exp(-dt * np.exp(A_log)) * h + dt * B * x
    y = (h @ C + skip * x) * torch.nn.functional.silu(z)
    return h, y


@recurc.jit(name="Aaren")
def aaren(m: State[-math.inf], u: State[()], w: State["D"], s: Input[()], v: Input["D"]):
    before, m = m, np.maximum(m, s)
    u = u * recurc.exp(before - m) + np.exp(s - m)
    w = w * torch.exp(before - m) + recurc.exp(s - m) * v
    o = w / u
    return {"m": m, "u": u, "w": w}, o


CASES: dict[str, Callable[..., Any]] = {
    "ema": ema, "lstm": lstm, "gru": gru, "selective_scan": selective_scan, "aaren": aaren,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_ir_of_both_front_ends_is_equal(name: str) -> None:
    traced, written = CASES[name].recurrence.ir, recurc.zoo.load(name).ir
    assert [e.name for e in traced.equations] == [e.name for e in written.equations]
    for ours, theirs in zip(traced.equations, written.equations, strict=True):
        assert ours.expr == theirs.expr, ours.name
    assert (traced.dims, traced.inputs, traced.params) == (written.dims, written.inputs, written.params)
    assert traced == written


@pytest.mark.parametrize("name", CASES)
def test_a_traced_recurrence_is_printed_as_text_that_loads_back(name: str) -> None:
    rec = CASES[name].recurrence
    assert recurc.load(text=rec.to_text()) == rec


def test_a_traced_function_is_called_like_a_compiled_recurrence(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 7, 3))
    alpha = rng.uniform(0.1, 0.9)
    fast = ema.compile(backend="numpy")(x=x, alpha=alpha)
    h = np.zeros((2, 3))
    for t in range(7):
        h = ema.function(h, x[:, t], alpha)  # the function itself still works on arrays
        np.testing.assert_allclose(fast[:, t], h, rtol=1e-12)
    assert ema.__name__ == "ema"
