"""Recurrences, compiled recurrences, steps and results are copied and pickled as their owners copy anything else."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc


@recurc.jit
def leaky(h: recurc.State["D"], x: recurc.Input["D"], a: recurc.Param[()]) -> Any:
    """A step at module level, where pickle finds it."""
    h = a * h + x
    return h


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


WAYS = pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _pickled], ids=["copy", "deepcopy", "pickle"])


@WAYS
def test_a_compiled_recurrence(copied: Callable[[Any], Any], rng: np.random.Generator) -> None:
    f = recurc.zoo.load("ema").compile()
    x = rng.standard_normal((2, 5, 3))
    wanted = f(x=x, alpha=0.5)
    other = copied(f)
    assert other is not f
    assert other.init_state(2)["h"].shape == (2, 3)  # it knows the sizes of earlier calls
    np.testing.assert_array_equal(other(x=x, alpha=0.5), wanted)


@WAYS
def test_a_step_function(copied: Callable[[Any], Any], rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 3))
    wanted = leaky(x=x, a=0.5)
    np.testing.assert_array_equal(copied(leaky)(x=x, a=0.5), wanted)


@WAYS
def test_results_by_name(copied: Callable[[Any], Any]) -> None:
    source = "recurrence R(D):\n    input x[D]\n    output y = 2 * x\n    output class_ = 3 * x"
    made = recurc.load(text=source).compile(backend="numpy")(x=np.ones((2, 1)))
    other = copied(made)
    assert type(other) is type(made) and type(made).__name__ == "R" and other._fields == ("y", "class_")
    np.testing.assert_array_equal(other.class_, made.class_)
