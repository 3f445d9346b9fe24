"""Calls that look like an earlier one take a shorter way to a native kernel: it must never show in the results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recurc.api import Recurrence
from recurc.backends.cpu import BACKEND
from tests.systems import SYSTEMS, random_arrays

pytestmark = pytest.mark.skipif(
    BACKEND.unavailable() is not None, reason=f"no native kernels here: {BACKEND.unavailable()}"
)


def given(system: str, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    rec = SYSTEMS[system]()
    flat = {n: a.astype(np.float32) for n, a in random_arrays(system, rng, 3, 6).items()}
    arrays = {i.name: flat[i.name] for i in rec.inputs} | {p.name: flat[p.name][0] for p in rec.params}
    return arrays, {s.name: flat[f"{s.name}@initial"] for s in rec.states}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", ["BT", "TB"])
@pytest.mark.parametrize("system", ["ema", "selective_scan", "aaren"])
def test_the_second_call_is_right_for_other_numbers(
    system: str, layout: str, reverse: bool, rng: np.random.Generator
) -> None:
    rec = Recurrence(SYSTEMS[system]())
    f, slow = rec.compile(backend="cpu", layout=layout), rec.compile(backend="reference", layout=layout)
    for _ in range(3):
        arrays, initial = given(system, rng)
        if layout == "TB":
            arrays |= {n: arrays[n].swapaxes(0, 1).copy() for n in rec.inputs}
        y, final = f(**arrays, initial=initial, reverse=reverse, return_final=True)
        z, last = slow(**arrays, initial=initial, reverse=reverse, return_final=True)
        np.testing.assert_allclose(y, z, rtol=2e-4, atol=2e-5)
        for name in last:
            np.testing.assert_allclose(final[name], last[name], rtol=2e-4, atol=2e-5)
    assert len(f._fast) == 1


def test_every_way_to_lay_out_the_same_array_is_a_call_of_its_own(rng: np.random.Generator) -> None:
    rec = Recurrence(SYSTEMS["ema"]())
    f, slow = rec.compile(backend="cpu"), rec.compile(backend="reference")
    x = rng.standard_normal((4, 6, 5)).astype(np.float32)
    wide = np.zeros((8, 12, 5), np.float32)
    wide[::2, ::2] = x
    alpha: float = 0.25
    want = slow(x=x, alpha=alpha)
    ways = [
        x,
        wide[::2, ::2],
        np.asfortranarray(x),
        x.astype(np.float64).astype(np.float32)[::-1][::-1],
        torch.tensor(x),
    ]
    for way in [*ways, *ways]:
        np.testing.assert_allclose(np.asarray(f(x=way, alpha=alpha)), want, rtol=1e-5, atol=1e-6)
    for other in (0.5, 0.75):  # a Python number is read anew in every call
        np.testing.assert_allclose(f(x=x, alpha=other), slow(x=x, alpha=other), rtol=1e-5, atol=1e-6)
    for dtype in (np.float64, np.float32, np.float64):
        y = f(x=x.astype(dtype), alpha=np.asarray(alpha, np.float64))
        assert y.dtype == dtype
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)


def test_results_of_different_calls_do_not_share_memory(rng: np.random.Generator) -> None:
    f = Recurrence(SYSTEMS["ema"]()).compile(backend="cpu")
    arrays, _ = given("ema", rng)
    first, state = f(**arrays, return_final=True)
    kept, held = first.copy(), state["h"].copy()
    more = {"x": arrays["x"] + 1, "alpha": arrays["alpha"]}
    for _ in range(3):
        f(**more, return_final=True)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(state["h"], held)


def test_a_state_fed_back_takes_the_short_way_too(rng: np.random.Generator) -> None:
    rec = Recurrence(SYSTEMS["ema"]())
    f = rec.compile(backend="cpu", sizes={"D": 5})
    x = rng.standard_normal((2, 9, 5)).astype(np.float32)
    want = rec.compile(backend="reference")(x=x, alpha=0.3)
    state = f.init_state(batch=2)
    for t in range(9):
        y, state = f.step(state, x=x[:, t], alpha=0.3)
        np.testing.assert_allclose(y, want[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision_arrays_with_shared_params(system: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    rec = Recurrence(SYSTEMS[system]())
    arrays = {n: torch.tensor(a).to(dtype) for n, a in given(system, rng)[0].items()}
    want = rec.compile(backend="reference")(**{n: a.double() for n, a in arrays.items()})
    got = rec.compile(backend="cpu")(**arrays)
    assert got.dtype == dtype
    bound = {torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]  # results are rounded once, arithmetic is f32
    assert ((got.double() - want).abs() <= bound * (want.abs() + 1)).all()
