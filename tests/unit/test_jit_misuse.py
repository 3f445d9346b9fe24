"""What `@recurc.jit` says to a function that means no recurrence, and that it never freezes a number silently."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Param, State
from recurc.errors import RecurcError, ShapeError, TraceError

_GENERATOR = np.random.default_rng()
_COUNT = itertools.count()
_KEPT: list[Any] = []


def refused(function: Callable[..., Any], *words: str, error: type[RecurcError] = TraceError, **options: Any) -> None:
    with pytest.raises(error) as raised:
        _ = recurc.jit(**options)(function).recurrence
    for word in words:
        assert word in str(raised.value), str(raised.value)


# --- numbers that would be frozen


def test_a_draw_from_a_global_generator_is_refused() -> None:
    def from_numpy(h: State["D"], x: Input["D"]):
        return h + np.random.rand() * x

    refused(from_numpy, "from_numpy", "NumPy's global generator", "noise: recurc.Input")

    def from_python(h: State["D"], x: Input["D"]):
        return h + (x if random.random() < 0.5 else 2 * x)

    refused(from_python, "from_python", "Python's `random`", "noise: recurc.Input")


def test_a_draw_from_torch_is_refused() -> None:
    torch = pytest.importorskip("torch")

    def noisy(h: State["D"], x: Input["D"]):
        return h + torch.rand(()) * x

    refused(noisy, "noisy", "torch's generator", "noise: recurc.Input")


def test_whatever_changes_from_trace_to_trace_is_refused_with_the_place() -> None:
    def own_generator(h: State["D"], x: Input["D"]):
        return h + _GENERATOR.random() * x

    refused(own_generator, "another recurrence each time", "`h`", "line", "make it an input")

    def counted(h: State["D"], x: Input["D"]):
        y = h * float(next(_COUNT))
        return h + y * x

    refused(counted, "`y`", " and then ", "counter")

    def longer(h: State["D"], x: Input["D"]):
        _KEPT.append(0)
        y = x
        for _ in _KEPT:
            y = y * x
        return h + y

    refused(longer, "another recurrence each time")


def test_a_generator_made_inside_gives_the_same_number_at_every_step(rng: np.random.Generator) -> None:
    seed = int(rng.integers(1000))

    def seeded(h: State["D"], x: Input["D"]):
        return h + np.random.default_rng(seed).random() * x

    x = rng.standard_normal((4, 3))
    expected = np.cumsum(np.random.default_rng(seed).random() * x, 0)
    np.testing.assert_allclose(recurc.jit(backend="reference")(seeded)(x=x), expected, rtol=1e-13, atol=1e-13)


def test_a_traced_value_cannot_leave_its_trace() -> None:
    def leaves(h: State["D"], x: Input["D"]):
        _KEPT.append(x)
        return h + _KEPT[0]

    _KEPT.clear()
    refused(leaves, "belongs to another trace", "state")
    stale = _KEPT[0]

    def returns(h: State["D"], x: Input["D"]):
        return {"h": h + x}, stale

    refused(returns, "another trace")


# --- what is no step function


class _Model:
    gain = 0.25

    def step(self, h: State["D"], x: Input["D"]):
        return self.gain * h + x

    @recurc.jit
    def decorated(self, h: State["D"], x: Input["D"]):
        return h + x


async def _asynchronous(h: State["D"], x: Input["D"]):
    return h + x


def _generator(h: State["D"], x: Input["D"]):
    yield h + x


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "type int"),
        ("f", "type str"),
        (len, "builtin len"),
        (int, "class int"),
        (State, "class State"),
        (functools.partial(_generator, x=1), "type partial"),
        (lambda h: h, "a lambda"),
        (_asynchronous, "_asynchronous, which is async"),
        (_generator, "a generator"),
        (recurc.jit(_Model.step), "type Jitted"),
    ],
)
def test_what_is_no_function_is_refused_when_it_is_decorated(given: Any, words: str) -> None:
    with pytest.raises(TraceError, match=r"def step\(h: recurc\.State") as raised:
        recurc.jit(given)
    assert words in str(raised.value)


def test_arguments_without_a_fixed_meaning_are_named() -> None:
    def many(h: State["D"], *xs: Input["D"]):
        return h

    refused(many, "`*xs`")

    def keywords(h: State["D"], **xs: Input["D"]):
        return h

    refused(keywords, "`**xs`")

    def misspelt(h: State["D"], x):
        return h

    misspelt.__annotations__["x"] = 'Inptu["D"]'  # as under `from __future__ import annotations`
    refused(misspelt, "Inptu", "misspelt")
    with pytest.raises(TraceError, match=r"is a method.*recurc\.jit\(object\.decorated\)"):
        _Model().decorated(x=np.ones((2, 3)))


def test_dims_and_names_must_be_names_and_may_not_meet() -> None:
    def clash(D: State["D"], x: Input["D"]):
        return D + x

    refused(clash, "dim D", "an argument")

    def time(h: State["T"], x: Input["T"]):
        return h + x

    refused(time, "dim T", "number of steps")

    def fine(h: State["D"], x: Input["D"]):
        return h + x

    refused(fine, "'a b'", "recurrence", name="a b")
    refused(fine, "3", "dim", dims=[3])
    refused(fine, "default size", "0", dims={"D": 0})
    refused(fine, "dims='D'", dims="D")
    refused(fine, "no option `foo`", foo=1)

    def unknown_dim(h: State["D"], x: Input["D"]):
        y = x * recurc.size("Q")
        return h + y

    refused(unknown_dim, "'Q'", "`y`", "the dims are D")

    def odd_output(h: State["D"], x: Input["D"]):
        return {"h": h + x}, {"a b": x}

    refused(odd_output, "'a b'")

    def number_as_name(h: State["D"], x: Input["D"]):
        return {"h": h + x}, {3: x}

    refused(number_as_name, "under 3")


def test_lags_and_casts_are_checked() -> None:
    def half(h: State["D"], x: Input["D"]):
        return recurc.lag(h, 2.5) + x

    refused(half, "k = 2.5")

    def unstarted(h: State["D"], x: Input["D"]):
        return h + recurc.lag(x, 2)

    refused(unstarted, "`x` is read 2 steps back", "recurc.Input['D', 0.0]")

    def constant(h: State["D"], x: Input["D"], a: Param[()]):
        return h + recurc.lag(a, 1) * x

    refused(constant, "param `a` is the same at every step")

    def unknown_type(h: State["D"], x: Input["D"]):
        return recurc.cast(h, "foo") + x

    refused(unknown_type, "'foo'", "bf16")


def test_sizes_of_traced_values_and_formats_say_why_not() -> None:
    def shape(h: State["D"], x: Input["D"]):
        return h + x.shape[0]

    with pytest.raises(AttributeError, match=r"recurc\.size"):
        _ = recurc.jit(shape).recurrence

    def printed(h: State["D"], x: Input["D"]):
        assert f"{h}" == "<traced [D]: real>"
        return h + x + float(f"{h:.3f}")

    refused(printed, "no number yet")

    def nested(h: State["D"], x: Input["D"]):
        return h + recurc.zoo.load("ema").compile()(x=x, alpha=0.5)

    refused(nested, "argument of a compiled recurrence")


# --- what is one


def test_bound_methods_and_arguments_by_position_are_fine(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 2))
    method = recurc.jit(_Model().step)
    assert repr(method) == "<jit of step>"
    np.testing.assert_allclose(method(x=x)[1], 0.25 * x[0] + x[1], rtol=1e-12)
    assert "recurrence step(D)" in repr(method)

    @recurc.jit
    def by_position(h: State["D"], /, x: Input["D"], *, gain: Param[()]):
        return gain * h + x

    np.testing.assert_allclose(by_position(x=x, gain=0.25), method(x=x), rtol=1e-12)


def test_a_default_fills_in_for_a_param_that_is_not_given(rng: np.random.Generator) -> None:
    weights = rng.standard_normal(3)

    @recurc.jit
    def ema(h: State["D"], x: Input["D"], alpha: Param[()] = 0.75, w: Param["D"] = weights):
        h = alpha * h + w * x
        return h

    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    full = ema(x=x, alpha=0.75, w=weights)
    assert full.dtype == np.float32
    for call in (ema, ema.compile(backend="reference"), ema.recurrence.compile(backend="numpy")):
        np.testing.assert_allclose(call(x=x), full, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(call(x=x, alpha=0.5), ema(x=x, alpha=0.5, w=weights), rtol=1e-5, atol=1e-5)
    y, state = ema.step(ema.init_state(2), x=x[:, 0])
    np.testing.assert_allclose(y, full[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ema.step(state, x=x[:, 1])[0], full[:, 1], rtol=1e-5, atol=1e-5)
    made = ema.recurrence.init_params(D=3)
    assert made["alpha"] == np.float32(0.75)
    np.testing.assert_allclose(made["w"], weights, rtol=1e-6)
    with pytest.raises(ShapeError, match="default of param `w`"):
        ema.recurrence.init_params(D=4)


def test_defaults_of_other_arguments_say_where_their_value_belongs() -> None:
    def state(x: Input["D"], h: State["D"] = 1.0):
        return h + x

    refused(state, "h: recurc.State['D', 1.0]")

    def inputs(h: State["D"], x: Input["D"] = 0.0):
        return h + x

    refused(inputs, "input `x`", "Param")

    def nothing(h: State["D"], x: Input["D"], a: Param[()] = None):
        return a * h + x

    refused(nothing, "param `a`", "NoneType")


def test_words_of_the_language_may_be_variables() -> None:
    @recurc.jit
    def step(h: State["D"], x: Input["D"]):
        output = h + x
        pi = output * 2
        h = h + pi
        return h

    text = step.recurrence.to_text()
    assert "output_ = h[t-1] + x" in text
    assert recurc.load(text=text) == step.recurrence


def test_expressions_may_be_of_any_height(rng: np.random.Generator) -> None:
    @recurc.jit
    def tall(h: State["D"], x: Input["D"]):
        return 0.5 * h + functools.reduce(lambda a, b: 0.5 * a + b, [x] * 1000)

    x = rng.standard_normal((1, 3))
    np.testing.assert_allclose(tall(x=x), 2 * x, rtol=1e-12)
