"""Published systems as Python step functions, against the same loops over their equations as the text."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import math
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Param, State
from tests.numerics.test_published import _arrays, _looped


@recurc.jit
def mingru(h: State["H", 0.5], x: Input["D"], Wz: Param["H", "D"], Wh: Param["H", "D"]):
    z, u = recurc.sigmoid(Wz @ x), Wh @ x
    h = (1 - z) * h + z * recurc.where(u >= 0, u + 0.5, recurc.sigmoid(u))
    return h


@recurc.jit
def deltanet(S: State["K", "V"], q: Input["K"], k: Input["K"], v: Input["V"], beta: Input[()]):
    key = recurc.l2norm(k, "K", eps=0)
    S = S + recurc.sigmoid(beta) * key * (v - key @ S)
    return S, q @ S


@recurc.jit
def rwkv4(
    a: State["D"],
    b: State["D"],
    p: State["D", -math.inf],
    k: Input["D"],
    v: Input["D"],
    w: Param["D"],
    u: Param["D"],
):
    top = np.maximum(p, u + k)
    num = np.exp(p - top) * a + np.exp(u + k - top) * v
    den = np.exp(p - top) * b + np.exp(u + k - top)
    new = np.maximum(p - np.exp(w), k)
    a = np.exp(p - np.exp(w) - new) * a + np.exp(k - new) * v
    b = np.exp(p - np.exp(w) - new) * b + np.exp(k - new)
    return {"a": a, "b": b, "p": new}, num / den


@recurc.jit
def adam(m: State["D"], v: State["D"], w: State["D", 1.0], g: Input["D"], lr: Param[()]):
    n = recurc.step_index(g) + 1
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
    w = w - lr * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.99**n)) + 1e-8)
    return {"m": m, "v": v, "w": w}, w


@pytest.mark.parametrize("step", [mingru, deltanet, rwkv4, adam], ids=lambda s: s.__name__)
def test_a_published_step_function_is_what_its_equations_say(step: Any, backend: str, rng: np.random.Generator) -> None:
    inputs, params = _arrays(step.__name__, rng)
    (want,) = _looped(step.__name__, inputs, params)
    for group in step.recurrence.analyze().groups:
        for schedule in group.schedules:
            have = step.compile(backend=backend, schedule=schedule)(**inputs, **params)
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-11 * (1 + np.abs(want).max()))
