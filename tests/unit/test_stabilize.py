"""Sums of exponentials that are read as ratios only: they become an online softmax, and nothing else does."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import recurc
from recurc.passes import core_form
from recurc.passes.stabilize import stabilize, stabilized_states

_HEAD = """recurrence R(D):
    input k[D], v[D]
    state a[D] = 0, b[D] = 0
"""
_SUMS = """    a = a[t-1] + exp(k) * v
    b = b[t-1] + exp(k)
"""
_TWO = f"{_HEAD}{_SUMS}"

# Each is read as a ratio (or by its logarithm), whatever the spelling.
RATIOS = {
    "plain": f"{_TWO}    output o = a / b\n",
    "decay": f"{_HEAD}    a = 0.9 * a[t-1] + v * exp(k)\n    b = 0.9 * b[t-1] + exp(k)\n    output o = a / b\n",
    "gated": f"{_HEAD}    e = exp(k)\n    f = sigmoid(v)\n    a = f * a[t-1] + e * v\n    b = f * b[t-1] + e\n"
    "    output o = a / b\n",
    "exponential gate": f"{_HEAD}    a = exp(-v * v) * a[t-1] + exp(k) * v\n    b = exp(-v * v) * b[t-1] + exp(k)\n"
    "    output o = a / b\n",
    "two factors": f"{_HEAD}    a = a[t-1] + exp(k) * v * exp(v)\n    b = b[t-1] + exp(k) * exp(v)\n"
    "    output o = a / b\n",
    "a quotient of exponentials": f"{_HEAD}    a = a[t-1] - exp(k) * v / 3\n    b = b[t-1] + exp(k)\n"
    "    output o = a / b\n",
    "small term below": f"{_TWO}    output o = a / (b + 1e-6)\n",
    "at least one": f"{_TWO}    output o = a / max(abs(b), 1)\n",
    "before this step": f"{_HEAD}    o = (a[t-1] + exp(1 + k) * v) / (b[t-1] + exp(1 + k))\n{_SUMS}    output o\n",
    "logarithm": f"{_TWO}    output o = log(b), p = a / b\n",
    "choices": f"{_TWO}    output o = (if k > 0 then a else b) / b - 2 * a / max(b, 0.5)\n",
    "more made of it": f"{_TWO}    o = a / b\n    output y = tanh(o) + mean(o, D)\n",
    "fed to another state": f"{_HEAD}    state h[D] = 0\n{_SUMS}    h = tanh(h[t-1] + a / b)\n    output h\n",
    "reset": "recurrence R(D):\n    input k[D], v[D], start: bool\n    state a[D] = 0, b[D] = 1\n    reset when start\n"
    f"{_SUMS}    output o = a / b\n",
    "matrices": "recurrence R(H, D, V):\n    input q[H, D], k[H, D], v[H, V], s[H]\n"
    "    state a[H, D, V] = 0, b[H, D] = 0\n"
    "    a = a[t-1] + exp(s) * k * v\n    b = b[t-1] + exp(s) * k * k\n    output o = (q @ a) / (abs(q) @ b)\n",
    "one after another": f"{_HEAD}    state c[D] = 0, d[D] = 0\n{_SUMS}    o = a / b\n    c = c[t-1] + exp(3 * o) * v\n"
    "    d = d[t-1] + exp(3 * o)\n    output y = c / d\n",
}  # fmt: skip

# Each has something that is not a ratio, or needs no help.
OTHERS = {
    "a sum is an output": f"{_TWO}    output o = a / b, b\n",
    "a sum is read": f"{_TWO}    output o = a / b, p = b + 0\n",
    "a sum is compared": f"{_TWO}    output o = if b > 3 then a / b else 0\n",
    "a square below": f"{_TWO}    output o = a / b ** 2\n",
    "nothing below": f"{_TWO}    output o = a * 0.5, p = v / k\n",
    "upside down": f"{_TWO}    output o = 1 / (b + 1)\n",
    "weights of their own": f"{_HEAD}    a = a[t-1] + exp(k) * v\n    b = b[t-1] + exp(v)\n    output o = a / b\n",
    "another decay": f"{_HEAD}    a = 0.5 * a[t-1] + exp(k) * v\n    b = b[t-1] + exp(k)\n    output o = a / b\n",
    "a decay of either sign": f"{_HEAD}    a = v * a[t-1] + exp(k) * v\n    b = v * b[t-1] + exp(k)\n"
    "    output o = a / b\n",
    "bounded scores": f"{_HEAD}    a = a[t-1] + exp(tanh(k)) * v\n    b = b[t-1] + exp(tanh(k))\n"
    "    output o = a / b\n",
    "the last value": f"{_TWO}    output o = a[T] / b[T]\n",
    "two steps before": f"{_TWO}    output o = a[t-2] / (b[t-1] + 1)\n",
    "fed to a state as it is": f"{_HEAD}    state h[D] = 0\n{_SUMS}    h = tanh(h[t-1] + b)\n"
    "    output o = h, p = a / b\n",
    "summed over where scores differ": f"{_TWO}    output o = sum(a, D) / sum(b, D)\n",
    "stabilised already": "recurrence R(D):\n    input k[D], v[D]\n    state m[D] = -inf\n"
    "    state a[D] = 0, b[D] = 0\n"
    "    m = max(m[t-1], k)\n    a = exp(m[t-1] - m) * a[t-1] + exp(k - m) * v\n"
    "    b = exp(m[t-1] - m) * b[t-1] + exp(k - m)\n    output o = a / b\n",
}  # fmt: skip

SIZES = {"D": 5, "H": 2, "V": 3}


def _arrays(rec: recurc.Recurrence, rng: np.random.Generator, batch: int, steps: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, kind in rec.inputs.items():
        shape = (batch, steps, *(SIZES[d] for d in kind.dims))
        made[name] = rng.random(shape) < 0.2 if kind.dtype.value == "bool" else rng.standard_normal(shape)
    return made


@pytest.mark.parametrize("name", RATIOS)
def test_ratios_are_recognised(name: str) -> None:
    rec = recurc.load(text=RATIOS[name])
    core = core_form(rec.ir)
    assert {"a", "b"} <= set(stabilized_states(core))
    assert stabilize(core) == core, "what is in range stays as it is"
    classes = {g.cls for g in rec.analyze().groups}
    assert classes & {"OS", "SEG"}
    text = " ".join(str(r) for g in rec.analyze().groups for r in g.reasons)
    assert "the source has no" in text or classes == {"SEG"}


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_else_is(name: str) -> None:
    assert stabilized_states(core_form(recurc.load(text=OTHERS[name]).ir)) == {}


@pytest.mark.parametrize(
    ("name", "backend"), [*((n, b) for n in RATIOS for b in ("numpy", "cpu")), *((n, "numpy") for n in OTHERS)]
)
def test_the_meaning_is_that_of_the_source(name: str, backend: str, rng: np.random.Generator) -> None:
    """In f64, where sums of exp(k) of these sizes are exact to roundings: 40 steps, a few functions each."""
    rec = recurc.load(text=(RATIOS | OTHERS)[name])
    sizes = {d: SIZES[d] for d in rec.dims}
    reference = rec.compile(backend="reference", sizes=sizes)
    schedules = ["auto", *(["scan"] if all("scan" in g.schedules for g in rec.analyze().groups) else [])]
    for steps in (0, 1, 2, 3, 33):
        arrays = _arrays(rec, rng, 3, steps)
        begin = {n: rng.uniform(0.5, 2, (3, *(SIZES[d] for d in s.dims))) for n, s in rec.states.items() if n != "m"}
        for initial in (None, begin, {"a": begin["a"]}):
            wanted, last = reference(**arrays, initial=initial, return_final=True)
            for schedule in schedules:
                compiled = rec.compile(backend=backend, schedule=schedule, sizes=sizes)
                got, ends = compiled(**arrays, initial=initial, return_final=True)
                for one, other in zip(_each(got), _each(wanted), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)
                assert list(ends) == list(last)
                for state, value in last.items():
                    np.testing.assert_allclose(ends[state], value, rtol=1e-11, atol=1e-11, err_msg=state)


def _each(result: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("offset", [-500.0, 0.0, 500.0])
@pytest.mark.parametrize("name", ["plain", "decay", "gated", "before this step", "one after another"])
def test_scores_beyond_the_range_of_exp(name: str, offset: float, rng: np.random.Generator) -> None:
    """The ratio does not depend on what is added to every score, so f32 has it where exp(k) is 0 or infinite. The
    rounding of a score of that size, 2^-15, is the relative error of a weight; k is a multiple of 2^-10 here."""
    rec = recurc.load(text=RATIOS[name])
    arrays = _arrays(rec, rng, 2, 40)
    arrays["k"] = np.round(arrays["k"] * 1024) / 1024
    wanted = rec.compile(backend="reference")(**arrays)
    arrays["k"] = arrays["k"] + offset
    moved: dict[str, Any] = {n: np.asarray(a, np.float32) for n, a in arrays.items()}
    got = rec.compile(backend="cpu")(**moved)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_from_its_last_values(rng: np.random.Generator) -> None:
    rec = recurc.load(text=RATIOS["gated"])
    f = rec.compile(backend="cpu", sizes={"D": 5})
    arrays = _arrays(rec, rng, 3, 20)
    whole, last = f(**arrays, return_final=True)
    first, middle = f(**{n: a[:, :7] for n, a in arrays.items()}, return_final=True)
    second, end = f(**{n: a[:, 7:] for n, a in arrays.items()}, initial=middle, return_final=True)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-12)
    state = f.init_state(batch=(3,), dtype="f64")
    assert set(state) == {"a", "b"}, "what recurc adds is not the caller's business"
    for t in range(20):
        step, state = f.step(state, **{n: a[:, t] for n, a in arrays.items()})
        np.testing.assert_allclose(step, whole[:, t], rtol=1e-12)
    for name in last:
        np.testing.assert_allclose(end[name], last[name], rtol=1e-12)
        np.testing.assert_allclose(state[name], last[name], rtol=1e-12)


def test_rows_of_different_lengths(rng: np.random.Generator) -> None:
    rec = recurc.load(text=RATIOS["decay"])
    arrays = _arrays(rec, rng, 6, 19)
    lengths = np.array([19, 0, 1, 7, 8, 13])
    wanted, last = rec.compile(backend="reference")(**arrays, lengths=lengths, return_final=True)
    got, ends = rec.compile(backend="cpu")(**arrays, lengths=lengths, return_final=True)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    for name in last:
        np.testing.assert_allclose(ends[name], last[name], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision_keeps_the_scale(dtype: str, rng: np.random.Generator) -> None:
    """Final values are exp(m) times a mantissa: m must not be rounded to half precision, where it would be off by
    |m| 2^-8. A final value is right to two roundings of what it is stored in."""
    rec = recurc.zoo.load("softmax_naive")
    arrays: dict[str, Any] = {"x": rng.standard_normal((2, 21)) + 4, "v": rng.standard_normal((2, 21, 3))}
    arrays = {n: np.asarray(a, np.float32) for n, a in arrays.items()}
    _, last = rec.compile(backend="cpu", dtype=dtype)(**arrays, return_final=True)
    stored: dict[str, Any] = {n: np.asarray(a.astype(last["u"].dtype), np.float64) for n, a in arrays.items()}
    _, wanted = rec.compile(backend="reference")(**stored, return_final=True)
    unit = 2.0**-10 if dtype == "f16" else 2.0**-7
    for name, value in wanted.items():
        scale = np.abs(wanted["u"]).max()
        assert np.abs(np.asarray(last[name], np.float64) - value).max() <= unit * scale
