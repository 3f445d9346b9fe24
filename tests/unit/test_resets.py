"""A reset starts the sequence anew: what follows is what a run of its own gives, at every lag and on every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import ir, passes
from recurc.api import Recurrence
from recurc.backends import reference
from recurc.frontend import load_text
from recurc.frontend.render import to_text
from recurc.types import DType
from tests.property import random_recurrences

LAGS = """
recurrence Lags(D, N):
    input  x[D] = 0.5, new: bool
    param  a[D], M[N, D]
    state  h[D] = tanh(a)
    state  S[D, N] = M, n: int = 0

    S = 0.5 * S[t-1] + sigmoid(h[t-3]) * 0.1
    h = 0.9 * h[t-1] + x + x[t-2] - 0.1 * h[t-3]
    n = n[t-1] + 1
    reset when new
    output h, n, S
"""
Values = dict[str, Any]


def in_segments(rec: ir.Recurrence, given: Values, new: np.ndarray, sizes: dict[str, int]) -> Values:
    """The definition without the reset, run anew from every step at which it fires."""
    plain = replace(rec, reset=None)
    batch, steps = new.shape
    rows: list[Values] = []
    for b in range(batch):
        starts = sorted({0, *np.flatnonzero(new[b]).tolist()})
        parts: list[Values] = []
        for begin, end in zip(starts, [*starts[1:], steps], strict=True):
            cut = {
                i.name: given[i.name][b : b + 1, begin:end] if i in rec.inputs else given[i.name]
                for i in (*rec.inputs, *rec.params)
            }
            parts.append(reference.run(plain, cut, 1, end - begin, sizes))
        rows.append({n: np.concatenate([p[n] for p in parts], 1) for n in rec.outputs})
    return {n: np.concatenate([r[n] for r in rows]) for n in rec.outputs}


@pytest.mark.parametrize("schedule", ["auto", "sequential", "scan"])
@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_earlier_steps_are_forgotten_at_every_lag(backend: str, schedule: str, rng: np.random.Generator) -> None:
    rec = recurc.load(text=LAGS)
    new = rng.random((3, 17)) < 0.3
    given: Values = {"x": rng.standard_normal((3, 17, 5)), "new": new}
    given |= {"a": rng.standard_normal(5), "M": rng.standard_normal((2, 5))}
    if schedule == "scan":
        groups = rec.analyze().groups
        schedule = ",".join(f"{s}=scan" for g in groups if "scan" in g.schedules for s in g.states)
    found = rec.compile(backend=backend, schedule=schedule if backend != "reference" else "auto")(**given)
    for name, value in in_segments(rec.ir, given, new, {}).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "numpy", "cpu"])
def test_a_reset_gives_the_declared_value_and_not_the_one_of_the_call(backend: str) -> None:
    text = "recurrence A:\n    input  x, new: bool\n    state  h = 1\n    h = h[t-1] + x\n"
    text += "    reset when new\n    output h\n"
    found = recurc.load(text=text).compile(backend=backend)(
        x=np.zeros(4), new=np.array([False, False, True, False]), initial={"h": 7.0}
    )
    np.testing.assert_array_equal(found, [7, 7, 1, 1])


def test_resets_of_random_recurrences(seed: int) -> None:
    checked = 0
    for offset in range(40):
        rec = random_recurrences.make(seed + offset)
        if any(isinstance(n, ir.Step) for e in rec.equations for n in ir.walk(e.expr)):
            continue  # t goes on counting
        condition = ir.Equation("restart", ir.Read("new", 0, (), DType.BOOL))
        rec = replace(
            rec,
            inputs=(*rec.inputs, ir.Input("new", (), DType.BOOL)),
            equations=(condition, *rec.equations),
            reset="restart",
        )
        assert load_text(to_text(rec)) == [rec]
        rng = np.random.default_rng(seed + offset)
        given = random_recurrences.arrays(replace(rec, inputs=rec.inputs[:-1]), rng, 2, 9)
        wide: Values = {n: a.astype(np.float64) for n, a in given.items()}
        wide["new"] = rng.random((2, 9)) < 0.3
        want = in_segments(rec, wide, wide["new"], random_recurrences.SIZES)
        groups = passes.analyze(rec).groups
        scans = ",".join(f"{s}=scan" for g in groups if "scan" in g.schedules for s in g.states)
        for schedule in ["sequential", *([scans] if scans else [])]:
            found = Recurrence(rec).compile("numpy", schedule, sizes=random_recurrences.SIZES)(
                **{n: a[0] if n in {p.name for p in rec.params} else a for n, a in wide.items()}
            )
            for name, value in want.items():
                np.testing.assert_allclose(
                    getattr(found, name), value, rtol=1e-9, atol=1e-9, err_msg=f"seed {seed + offset}, {schedule}"
                )
        checked += 1
    assert checked > 5
