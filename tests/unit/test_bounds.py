"""`int(Q)`: states are taken modulo Q on every backend; what a call gives is checked, place by place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import recurc
from recurc import ir, passes

TEXT = """
recurrence Automaton(Q, A = 3):
    input  i: int(A), j: int(5) = 4
    param  start: int(Q)
    state  q: int(Q) = start, last: int(Q) = Q - 1
    state  r[A]: int(4) = 3

    q = q[t-1] * 5 + i - j[t-1]
    last = q[t-2]
    r = r[t-1] - 1
    output q, r, last
"""
SIZES = {"Q": 7}


def loop(i: np.ndarray, j: np.ndarray, start: int, size: int) -> tuple[np.ndarray, ...]:
    q, before, r, given = start, start, 3, 4
    rows: list[tuple[int, int, int]] = []
    for now, after in zip(i.tolist(), j.tolist(), strict=True):
        last = before
        before, q, r, given = q, (q * 5 + now - given) % size, (r - 1) % 4, after
        rows.append((q, r, last))
    return tuple(np.array(c) for c in zip(*rows, strict=True))


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_a_bounded_state_is_taken_modulo_its_bound(backend: str, rng: np.random.Generator) -> None:
    i, j = rng.integers(0, 3, 23), rng.integers(0, 5, 23)
    f = recurc.load(text=TEXT).compile(backend=backend, sizes=SIZES)
    q, r, last = f(i=i, j=j, start=5)
    want = loop(i, j, 5, 7)
    np.testing.assert_array_equal(q, want[0])
    np.testing.assert_array_equal(r, np.repeat(want[1][:, None], 3, 1))
    np.testing.assert_array_equal(last, want[2])


def test_the_bound_stays_a_fact_and_remainders_are_written_once() -> None:
    rec = recurc.load(
        text="recurrence A(Q):\n    input  i: int\n    state  q: int(Q) = 0\n    q = (q[t-1] + i) % Q\n    output q\n"
    )
    core = passes.core_form(rec.ir)
    assert core.states[0].bound == "Q"
    assert [n.op for n in ir.walk(core.equations[0].expr) if isinstance(n, ir.Apply)] == ["mod", "add"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"i": [[0, 1, 2], [0, 3, 9]]}, r"input `i` is int\(A\): integers from 0 to 2, got 3 at \[1, 1\]"),
        ({"j": [[0, 1, 2], [-1, 3, 4]]}, r"input `j` is int\(5\): integers from 0 to 4, got -1 at \[1, 0\]"),
        ({"start": 7}, r"param `start` is int\(Q\): integers from 0 to 6, got 7 at the only place"),
        ({"start": [0, 8]}, r"param `start` is int\(Q\): .* got 8 at \[1\]"),
        ({"initial": {"r": [0, 5, 1]}}, r"the initial value of `r` is int\(4\): .* got 5 at \[1\]"),
        ({"initial": {"j": 5}}, r"the initial value of `j` is int\(5\)"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_number_outside_the_range_is_named_with_its_place(backend: str, change: dict[str, Any], message: str) -> None:
    f = recurc.load(text=TEXT).compile(backend=backend, sizes=SIZES)
    given: dict[str, Any] = {"i": np.zeros((2, 3), int), "j": np.zeros((2, 3), int), "start": 0}
    f(**given)
    f(**given)
    with pytest.raises(recurc.ShapeError, match=message):
        f(**(given | {n: np.array(v) if n != "initial" else v for n, v in change.items()}))


def test_what_lies_behind_the_end_of_a_row_may_be_anything() -> None:
    f = recurc.load(text=TEXT).compile(backend="numpy", sizes=SIZES)
    i = np.array([[0, 1, -1], [2, -1, -1]])
    f(i=i, j=np.zeros((2, 3), int), start=0, lengths=[2, 1])
    with pytest.raises(recurc.ShapeError, match=r"got -1 at \[0, 2\]"):
        f(i=i, j=np.zeros((2, 3), int), start=0, lengths=[3, 1])
    g = recurc.load(text=TEXT).compile(backend="numpy", sizes=SIZES, layout="TB")
    with pytest.raises(recurc.ShapeError, match=r"got -1 at \[1, 1\]"):
        g(i=i.T, j=np.zeros((3, 2), int), start=0, lengths=[2, 2])


def test_tensors_are_checked_too() -> None:
    torch = pytest.importorskip("torch")
    f = recurc.load(text=TEXT).compile(backend="numpy", sizes=SIZES)
    with pytest.raises(recurc.ShapeError, match=r"got 3 at \[1\]"):
        f(i=torch.tensor([0, 3]), j=torch.zeros(2, dtype=torch.int64), start=0)
