"""Scans in one walk over t mean what the definition says, on every backend that fuses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import recurc
from recurc.plan import Fused
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
