"""`S[T]`: the value of a state after the last step, in outputs; of a row's own last step when lengths differ."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import recurc
from recurc.ir import Final, walk
from recurc.plan import Map

TEXT = """
recurrence Last(D, V, N):
    input  x[D], v[V]
    param  W[V, D], U[N, V]
    state  S[D, V] = 0, h[D] = 0

    S = 0.9 * S[t-1] + x * v
    h = tanh(h[t-1] + x)
    q = 2 * x + h
    late = sum(S[T] * (W @ h[T]), D)
    y = q @ S[T] + late
    output y, h
    output z = U @ y
    output end = h[T]
"""
SCHEDULES = ["auto", "sequential", "S=scan,h=sequential"]


def arrays(rng: np.random.Generator, *lead: int) -> dict[str, Any]:
    shapes = {"x": (*lead, 5), "v": (*lead, 3), "W": (3, 5), "U": (2, 3)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def loop(x: np.ndarray, v: np.ndarray, W: np.ndarray, U: np.ndarray) -> list[np.ndarray]:
    """One sequence, as the text says."""
    memory, h, hs = np.zeros((5, 3)), np.zeros(5), list[np.ndarray]()
    for now, value in zip(x, v, strict=True):
        memory = 0.9 * memory + np.outer(now, value)
        h = np.tanh(h + now)
        hs.append(h)
    rows = np.stack(hs)
    y = (2 * x + rows) @ memory + (memory * (W @ h)).sum(0)
    return [y, rows, y @ U.T, np.broadcast_to(h, x.shape)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_a_final_state_is_that_of_the_last_step(backend: str, schedule: str, rng: np.random.Generator) -> None:
    given = arrays(rng, 2, 17)
    f = recurc.load(text=TEXT).compile(backend=backend, schedule="auto" if backend == "reference" else schedule)
    found = f(**given)
    for row in range(2):
        want = loop(given["x"][row], given["v"][row], given["W"], given["U"])
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_allclose(got[row], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_every_sequence_has_a_last_step_of_its_own(backend: str, rng: np.random.Generator) -> None:
    given, lengths = arrays(rng, 7, 9), np.array([9, 1, 4, 5, 2, 7, 3])
    f = recurc.load(text=TEXT).compile(backend=backend)
    found = f(**given, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        want = loop(given["x"][row, :length], given["v"][row, :length], given["W"], given["U"])
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_allclose(got[row, :length], expected, rtol=1e-11, atol=1e-11)
            np.testing.assert_array_equal(got[row, length:], 0)
    bounds = [0, 4, 5, 9]
    packed = arrays(rng, 9)
    found = f(**packed, cu_seqlens=bounds)
    for begin, end in pairwise(bounds):
        want = loop(packed["x"][begin:end], packed["v"][begin:end], packed["W"], packed["U"])
        for got, expected in zip(found, want, strict=True):
            np.testing.assert_allclose(got[begin:end], expected, rtol=1e-11, atol=1e-11)


def test_the_plan_reads_the_buffer_of_the_final_state_behind_all_loops() -> None:
    f = recurc.load(text=TEXT).compile(backend="numpy", sizes={"D": 5, "V": 3, "N": 2})
    *_, last = f.plan.stages
    assert isinstance(last, Map)
    assert not any(isinstance(n, Final) for s in f.plan.stages for e in s.body for n in walk(e.expr))
    assert "not causal: y, z, end" in f.explain()


def test_one_step_at_a_time_knows_no_last_step() -> None:
    f = recurc.load(text=TEXT).compile(backend="numpy", sizes={"D": 5, "V": 3, "N": 2})
    with pytest.raises(recurc.UnsupportedError, match=r"`S\[T\]`, which is not known before the last step"):
        f.step(f.init_state(), x=np.zeros(5), v=np.zeros(3), W=np.zeros((3, 5)), U=np.zeros((2, 3)))
