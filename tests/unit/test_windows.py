"""`window(x, W)`: the last W values, against slices of the whole sequence."""

from __future__ import annotations

import numpy as np
import pytest

import recurc

BACKENDS = ("reference", "numpy")


def windows(sequence: np.ndarray, before: np.ndarray | float, length: int, lag: int = 0) -> np.ndarray:
    """(B, T, W, ...) from (B, T, ...): the `length` values up to `lag` steps before each step."""
    front = np.broadcast_to(before, (sequence.shape[0], length - 1 + lag, *sequence.shape[2:]))
    padded = np.concatenate([front, sequence], axis=1)
    return np.stack([padded[:, t : t + length] for t in range(sequence.shape[1])], axis=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_window_of_an_input_ends_with_the_newest(rng: np.random.Generator, backend: str, steps: int) -> None:
    text = (
        "recurrence A(D, W):\n    input  x[D] = 0.5\n"
        "    output whole = window(x, W) + 0, earlier = window(x[t-2], W) + 0, four = window(x, 4) + 0\n"
    )
    x = rng.standard_normal((2, steps, 3))
    got = recurc.compile(recurc.load(text=text), backend=backend, sizes={"W": 3}, dtype="f64")(x=x)
    for found, (length, lag) in zip(got, ((3, 0), (3, 2), (4, 0)), strict=True):
        np.testing.assert_array_equal(found, windows(x, 0.5, length, lag))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_of_a_state_reads_itself_one_step_before(rng: np.random.Generator, backend: str) -> None:
    text = (
        "recurrence A(D, W = 3):\n    input  x[D]\n    param  h0[D]\n    state  h[D] = h0\n"
        "    h = x - 0.5 * max(window(h[t-1], W), W)\n    output h, now = window(h, W) + 0\n"
    )
    x, h0 = rng.standard_normal((2, 9, 4)), rng.standard_normal(4)
    last = [np.broadcast_to(h0, (2, 4))] * 3
    expected = []
    for t in range(9):
        h = x[:, t] - 0.5 * np.max(last, axis=0)
        last = [*last[1:], h]
        expected.append(h)
    h, now = recurc.compile(recurc.load(text=text), backend=backend, dtype="f64")(x=x, h0=h0)
    np.testing.assert_allclose(h, np.stack(expected, 1), rtol=1e-14)
    np.testing.assert_allclose(now, windows(np.stack(expected, 1), h0, 3), rtol=1e-14)


def test_one_window_serves_all_its_readers() -> None:
    text = (
        "recurrence A(D):\n    input  x[D] = 0\n    x_window = sum(x)\n"
        "    output a = window(x, 3) * x_window, b = window(x, 3) + window(x[t-1], 3), c = window(x, 2) + 0\n"
    )
    rec = recurc.load(text=text)
    assert [(s.name, s.dims) for s in rec.ir.states] == [("x_window_2", ("3", "D")), ("x_window_3", ("2", "D"))]
    assert recurc.load(text=rec.to_text()) == rec


def test_windows_hold_integers_and_truth_values() -> None:
    text = (
        "recurrence A:\n    input  i: int = 7, b: bool = true\n"
        "    output first = lookup(window(i, 3), 0), ever = any(window(b, 2), 2)\n"
    )
    run = recurc.compile(recurc.load(text=text), backend="reference")
    first, ever = run(i=np.array([[1, 2, 3, 4]]), b=np.array([[False, False, True, False]]))
    assert first.tolist() == [[7, 7, 1, 2]]
    assert ever.tolist() == [[True, False, True, True]]
