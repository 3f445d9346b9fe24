"""Constructs of the language in a Python step that have no meaning there, and what they compute where they have."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Int, Param, State
from recurc.errors import TraceError

DECAY = """recurrence Decay(N):
    input x[N]
    param a
    state h[N] = a
    h = a * h[t-1] + x
    output h
"""
decay = recurc.load(text=DECAY)


def refusal(function: Callable[..., Any], kind: type[Exception] = TraceError) -> str:
    with pytest.raises(kind) as caught:
        recurc.jit(function).recurrence  # noqa: B018
    return str(caught.value)


def test_clocks_count_whole_steps() -> None:
    def half(x: Input["D"]):
        return recurc.where(recurc.every(0.5), x, 0)  # pyright: ignore

    def lone(x: Input["D"]):
        return recurc.every(4, x)  # pyright: ignore

    assert "positive whole number or the name of a dim, got 0.5" in refusal(half)
    assert "every(k, new, old) chooses" in refusal(lone)
    with pytest.raises(TraceError, match="only inside a step function"):
        recurc.every(4, 1.0, 2.0)


def test_a_reset_is_decided_before_the_step() -> None:
    def by_state(x: Input["D"], h: State[()]):
        h = h + 1
        recurc.reset_when(h > 5)
        return h

    def by_past(x: Input[0.0], h: State[()]):
        recurc.reset_when(x.lag(1) > 5)
        h = h + x
        return h

    def by_vector(x: Input["D"], h: State["D"]):
        recurc.reset_when(x > 5)
        h = h + x
        return h

    def by_number(x: Input[()], h: State[()]):
        recurc.reset_when(x)
        h = h + x
        return h

    def twice(x: Input[()], h: State[()]):
        recurc.reset_when(x > 1)
        recurc.reset_when(x < -1)
        h = h + x
        return h

    assert "depends on h, a state" in refusal(by_state)
    assert "depends on an earlier step of x" in refusal(by_past)
    assert "one truth value for the whole step, and this is [D]" in refusal(by_vector)
    assert "takes a truth value" in refusal(by_number)
    assert "one reset_when: join the conditions" in refusal(twice)


def test_derivatives_are_of_scalars_by_what_they_depend_on() -> None:
    def vector(x: Input["D"]):
        return recurc.grad(2 * x, x)

    def other(x: Input["D"], y: Input["D"]):
        return recurc.grad(recurc.sum(x * x, "D"), y)

    assert "takes a scalar loss, and this is [D]" in refusal(vector, recurc.ShapeError)
    assert "the loss does not depend on" in refusal(other, recurc.ShapeError)


def test_a_derivative_looks_through_windows(rng: np.random.Generator) -> None:
    @recurc.jit
    def step(x: Input["D", 0.0]):
        loss = recurc.sum(recurc.window(x, 3) ** 2) + recurc.sum(x)
        return recurc.grad(loss, x)

    x = rng.standard_normal((2, 5, 3))
    np.testing.assert_allclose(step.compile(backend="reference")(x=x), 2 * x + 1, rtol=1e-12)


def test_final_states_are_those_of_states() -> None:
    def of_input(x: Input["D"]):
        return recurc.final(x)

    def of_new(x: Input["D"], h: State["D"]):
        h = h + x
        y = recurc.final(h)
        return h, y

    def by_name(x: Input["D"], h: State["D"]):
        h = h + x
        y = recurc.final("h")
        return h, y

    assert "takes a state" in refusal(of_input)
    assert "by its name (h)" in refusal(of_new)
    assert recurc.jit(by_name).recurrence.ir.equations[1].expr.name == "h"


@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_final_state_may_be_read_before_it_is_made(backend: str, rng: np.random.Generator) -> None:
    @recurc.jit
    def share(x: Input["D"], S: State["D"]):
        y = x / recurc.final("S")
        S = S + x
        return S, y

    x = rng.uniform(1, 2, (2, 7, 3))
    np.testing.assert_allclose(share.compile(backend=backend)(x=x), x / x.sum(1, keepdims=True), rtol=1e-12)


def test_cells_are_given_what_they_take() -> None:
    def unknown(x: Input["D"]):
        return decay(x, alpha=0.5)

    def missing(x: Input["D"]):
        return decay(x)

    def wide(x: Input["D", "E"]):
        return decay(x, a=0.5)

    @recurc.jit
    def itself(x: Input["D"], h: State["D"]):
        h = itself(x, h=0.5) + h
        return h

    assert "has no input, param or state `alpha`" in refusal(unknown)
    assert "needs `a`" in refusal(missing)
    assert "`x` of `Decay` is [N], and [D, E] is given" in refusal(wide, recurc.ShapeError)
    with pytest.raises(TraceError, match="uses itself as a cell"):
        itself.recurrence  # noqa: B018
    with pytest.raises(recurc.RecurcError, match="called with arrays once it is compiled"):
        decay(x=np.ones((2, 3)), a=0.5)


def test_cells_compute_what_they_compute_alone(rng: np.random.Generator) -> None:
    @recurc.jit
    def leaky(h: State["D"], x: Input["D"], a: Param[()] = 0.5):
        h = a * h + x
        return h

    @recurc.jit
    def two(x: Input["D"]):
        return leaky(decay(x, a=0.25), h=1.0)

    x = rng.standard_normal((2, 6, 3))
    low = decay.compile(backend="numpy")(x=x, a=0.25)
    wanted = leaky.compile(backend="numpy")(x=low, initial={"h": np.ones((2, 3))})
    np.testing.assert_allclose(two.compile(backend="numpy")(x=x), wanted, rtol=1e-12)


def test_values_before_the_first_step_have_the_type_of_their_argument() -> None:
    def whole(h: State[int, 1.5]):
        return h + 1

    def truth(h: State["D", bool, 1]):
        return ~h

    assert "`h` holds i64, but its value before the first step is 1.5" in refusal(whole, recurc.ShapeError)
    assert "`h` holds bool, but its value before the first step is 1" in refusal(truth, recurc.ShapeError)


def test_integers_below_a_dim_are_declared_with_it() -> None:
    def automaton(i: Input[Int("Q")], q: State["D", 2, Int("Q")], k: Input[Int(4)], table: Param["Q", "Q"]):
        q = recurc.cast(table[q, i], int) + k
        return q

    rec = recurc.jit(automaton).recurrence.ir
    assert [d.name for d in rec.dims] == ["Q", "D"]
    assert [(i.bound, i.dtype.value) for i in rec.inputs] == [("Q", "i64"), ("4", "i64")]
    assert (rec.states[0].bound, rec.states[0].dims) == ("Q", ("D", "2"))

    def outside(q: State[Int(4), 4]):
        return q + 1

    assert "`q` is Int(4): it begins with a number from 0 on" in refusal(outside, recurc.ShapeError)
    with pytest.raises(TraceError, match="give the name of a dim or a positive integer"):
        Int(0)


def test_a_number_of_the_module_has_its_name_in_every_trace() -> None:
    scale = 1 / recurc.sqrt(recurc.size("D"))

    def step(x: Input["D"]):
        local = scale
        return local * x

    rec = recurc.jit(step).recurrence
    assert [e.name for e in rec.ir.equations] == ["local", "y"]
    np.testing.assert_allclose(rec.compile(backend="reference")(x=np.ones((1, 4))), np.full((1, 4), 0.5))


def test_windows_are_of_states_and_inputs() -> None:
    def of_expression(x: Input["D", 0.0]):
        return recurc.window(2 * x, "W")

    def of_value(x: Input["D", 0.0]):
        y = 2 * x
        z = recurc.window(y, 3)
        return z

    def of_param(p: Param["D"]):
        return recurc.window(p, 3)

    def without_past(x: Input["D"]):
        return recurc.window(x, 3)

    def over_own_dim(x: Input["D", 0.0]):
        return recurc.window(x, "D")

    def of_length(x: Input["D", 0.0]):
        return recurc.window(x, -1)

    assert "this is an expression" in refusal(of_expression)
    assert "another value of the step: return it as the new value of a state" in refusal(of_value)
    assert "this is a param" in refusal(of_param)
    assert "write `x: recurc.Input['D', 0.0]`" in refusal(without_past)
    assert "which D is meant" in refusal(over_own_dim, recurc.ShapeError)
    assert "positive integer, got -1" in refusal(of_length)


def test_values_before_the_first_step_are_functions_of_params() -> None:
    def other(h: State["D", lambda x: x], x: Input["D"]):
        return h + x

    def wide(h: State[lambda p: p], p: Param["D"]):
        return h + 1

    assert "a function of `x`, which is no param of other" in refusal(other)
    assert "its value before the first step is [D]" in refusal(wide, recurc.ShapeError)


def test_a_second_name_of_a_dim_names_another_dim() -> None:
    def step(x: Input["D"]):
        return x

    for alias in ("E", "X"):
        with pytest.raises(TraceError, match="should be of the size of another dim"):
            recurc.jit(dims={"D": None, "E": alias})(step).recurrence  # noqa: B018


def test_values_are_indexed_by_places_only() -> None:
    def sliced(x: Input["D"]):
        return x[1:]

    def outside(W: Param[2, "D"]):
        return W[2]

    def real(x: Input["D"], i: Input[()]):
        return x[i]

    assert "no positions to index with slice(1, None, None)" in refusal(sliced)
    assert "no positions to index with 2" in refusal(outside)
    assert "a place along a dim is an integer" in refusal(real, recurc.ShapeError)


def test_numpy_and_torch_spellings() -> None:
    import torch

    def numpy_step(A: Param["N", "N"], i: Input[int], b: Input["N"]):
        x = np.linalg.solve(A, b) + np.linalg.inv(A) @ np.zeros_like(b) + np.take(A, i, "N")
        y = np.take(A, i, axis=0) + np.linalg.cholesky(A) @ np.ones_like(b)
        return x, y

    def torch_step(A: Param["N", "N"], i: Input[int], b: Input["N"]):
        x = torch.linalg.solve(A, b) + torch.linalg.inv(A) @ torch.zeros_like(b) + torch.index_select(A, 0, i)
        y = torch.nn.functional.embedding(i, A) + torch.linalg.cholesky(A) @ torch.ones_like(b)
        return x, y

    assert recurc.jit(name="S")(numpy_step).recurrence == recurc.jit(name="S")(torch_step).recurrence


def test_functions_of_places_and_matrices_work_on_plain_arrays(rng: np.random.Generator) -> None:
    import torch

    A, b, i = rng.standard_normal((3, 3)) + 4 * np.eye(3), rng.standard_normal((3, 1)), np.array([2, 7, -1])
    P, tA = A @ A.T, torch.from_numpy(A)
    np.testing.assert_allclose(A @ recurc.solve(A, b), b, atol=1e-12)
    np.testing.assert_allclose(recurc.inv(tA), recurc.inv(A), atol=1e-12)
    np.testing.assert_allclose(recurc.cholesky(P) @ recurc.cholesky(P).T, P, atol=1e-12)
    np.testing.assert_allclose(recurc.phi1(tA), recurc.phi1(A), atol=1e-9)
    np.testing.assert_allclose(recurc.dphi1(tA, 2 * tA.T), 2 * recurc.dphi1(A, A.T), rtol=1e-9)
    np.testing.assert_array_equal(recurc.lookup(A, i), A[[2, 2, 0]])
    np.testing.assert_array_equal(recurc.lookup(tA, torch.from_numpy(i)), A[[2, 2, 0]])
    np.testing.assert_array_equal(recurc.one_hot(np.array([0, 2]), 3), np.eye(3)[[0, 2]])
    np.testing.assert_array_equal(recurc.index(3), [0, 1, 2])
    np.testing.assert_array_equal(recurc.stop_gradient(A), A)
    assert not recurc.stop_gradient(tA.clone().requires_grad_()).requires_grad
    with pytest.raises(recurc.ShapeError, match="names of dims"):
        recurc.conv(b, A, 0)
    with pytest.raises(TraceError, match="takes two values, got 1"):
        recurc.solve(A)


def test_a_step_function_cannot_know_the_last_step_either() -> None:
    @recurc.jit
    def ahead(x: recurc.Input["D"], h: recurc.State["D"]) -> object:
        late = 0.5 * recurc.final(h)
        return h + x + late

    @recurc.jit
    def restart(x: recurc.Input["D"], h: recurc.State["D"]) -> object:
        recurc.reset_when(recurc.sum(recurc.final(h), "D") > 0)
        return h + x

    with pytest.raises(recurc.TraceError, match=r"new value of state `h` depends on final\(h\)"):
        _ = ahead.recurrence
    with pytest.raises(recurc.TraceError, match=r"condition of reset_when depends on final\(h\)"):
        _ = restart.recurrence
