"""Scans in one walk over t mean what the definition says, on every backend that fuses them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.ir import Expr, Read, rewrite
from recurc.passes import make_plan
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Fused
from recurc.types import DType
from tests.unit.test_passes_fuse import CHAIN


@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 37, 500])
def test_fused_scans_mean_what_the_definition_says(backend: str, steps: int, rng: np.random.Generator) -> None:
    """Four scans on three levels that read each other at this step and the one before; one starts anew at times, one is
    read by a loop."""
    rec = recurc.load(text=CHAIN)
    values: dict[str, Any] = {n: rng.standard_normal((3, steps, 5)) for n in ("x", "y")} | {
        n: rng.standard_normal(5) for n in "pq"
    }
    values["anew"] = rng.random((3, steps)) < 0.1
    compiled = rec.compile(backend=backend, schedule="scan", sizes={"D": 5})
    out, final = compiled(**values, return_final=True)
    wanted, last = rec.compile(backend="reference", sizes={"D": 5})(**values, return_final=True)
    (stage,) = (s for s in compiled.plan.stages if isinstance(s, Fused))
    assert stage.levels == (0, 0, 1, 2)
    for name, have, want in zip(rec.ir.outputs, out, wanted, strict=True):
        np.testing.assert_allclose(have, want, rtol=0, atol=1e-12 * (1 + steps), err_msg=name)
    for name in (s.name for s in rec.ir.states):
        np.testing.assert_allclose(final[name], last[name], rtol=0, atol=1e-12 * (1 + steps), err_msg=name)


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_a_name_that_means_different_values_in_two_parts(backend: str, rng: np.random.Generator) -> None:
    """Names that the compiler makes for one scan need not be unlike those of another."""
    rec = recurc.load(text=CHAIN)
    plan = make_plan(rec.ir, {"D": 5}, 2, 40, DType.F64, targets.named("cpu"), "scan")
    (number,) = (k for k, s in enumerate(plan.stages) if isinstance(s, Fused))
    stage = plan.stages[number]
    assert isinstance(stage, Fused)
    (first,), (second,) = ([e.name for e in part.pre] for part in stage.parts[:2])

    def renamed(expr: Expr) -> Expr:
        return rewrite(expr, lambda n: replace(n, name=first) if isinstance(n, Read) and n.name == second else n)

    other = stage.parts[1]
    monoid = replace(other.monoid, lift=tuple(map(renamed, other.monoid.lift)))
    other = replace(other, monoid=monoid, pre=(replace(other.pre[0], name=first),))
    alike = replace(stage, parts=(stage.parts[0], other, *stage.parts[2:]))
    made: list[dict[str, np.ndarray]] = []
    given: dict[str, Any] = {b.name: rng.standard_normal((2, 40, 5) if b.has_time else (2, 5)) for b in plan.buffers}
    given["anew"] = rng.random((2, 40)) < 0.1
    for stages in (plan.stages, (*plan.stages[:number], alike, *plan.stages[number + 1 :])):
        same = replace(plan, stages=stages)
        verify_plan(same)
        arrays = {n: a.copy() for n, a in given.items()}
        BACKEND.build(same, Specialization((("D", 5),), DType.F64))(arrays, 2, 40)
        made.append(arrays)
    assert all(np.array_equal(made[0][n], made[1][n]) for n in given)
    assert not np.array_equal(made[0]["third"], given["third"])
