"""Systems of the zoo as Python step functions, against the same loops over their equations as the files."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import math
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Param, State
from tests.zoo import cases


@recurc.jit
def min_gru(h: State["H", 0.5], x: Input["D"], Wz: Param["H", "D"], Wh: Param["H", "D"]):
    z, u = recurc.sigmoid(Wz @ x), Wh @ x
    h = (1 - z) * h + z * recurc.where(u >= 0, u + 0.5, recurc.sigmoid(u))
    return h


@recurc.jit
def delta_net(S: State["K", "V"], q: Input["K"], k: Input["K"], v: Input["V"], beta: Input[()]):
    key = recurc.l2norm(recurc.silu(k), "K")
    query = recurc.l2norm(recurc.silu(q), "K") / math.sqrt(2)
    S = S + recurc.sigmoid(beta) * key * (v - key @ S)
    return S, query @ S


@recurc.jit
def rwkv4(
    a: State["D"],
    b: State["D"],
    p: State["D", -math.inf],
    k: Input["D"],
    v: Input["D"],
    omega: Param["D"],
    u: Param["D"],
):
    top = np.maximum(p, u + k)
    num = np.exp(p - top) * a + np.exp(u + k - top) * v
    den = np.exp(p - top) * b + np.exp(u + k - top)
    new = np.maximum(p - np.exp(omega), k)
    a = np.exp(p - np.exp(omega) - new) * a + np.exp(k - new) * v
    b = np.exp(p - np.exp(omega) - new) * b + np.exp(k - new)
    return {"a": a, "b": b, "p": new}, num / den


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("step", [min_gru, delta_net, rwkv4], ids=lambda s: s.__name__)
def test_a_step_function_is_what_the_paper_says(step: Any, backend: str, rng: np.random.Generator) -> None:
    reason = cases.cpu_is_missing() if backend == "cpu" else None
    if reason:
        pytest.skip(reason)
    steps = cases.LENGTHS[-1]
    inputs, params = cases.draw(step.__name__, rng, steps)
    (want,) = cases.looped(step.__name__, inputs, params, steps)
    for group in step.recurrence.analyze().groups:
        for schedule in group.schedules:
            have = step.compile(backend=backend, schedule=schedule)(**inputs, **params)
            cases.same(have, want, f"{step.__name__} on {backend} by {schedule}")
