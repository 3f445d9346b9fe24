"""Tracing Python step functions: what they may do, what they become, and what they are told when they may not."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

import math

import numpy as np
import pytest
import torch

import recurc
from recurc import Input, Param, State
from recurc.api import Recurrence as Public
from recurc.errors import ShapeError, TraceError
from recurc.frontend.trace import trace
from recurc.ir import Apply, Const, Equation, Read, Recurrence, walk
from recurc.types import DType


def equation(rec: Recurrence, name: str) -> Equation:
    return next(e for e in rec.equations if e.name == name)


def test_local_variables_name_the_equations_and_the_rest_is_inlined() -> None:
    def step(h: State["D"], x: Input["D"]):
        gate = recurc.sigmoid(x + 1)
        h = gate * h + (1 - gate) * np.tanh(x)
        return h

    rec = trace(step)
    assert [e.name for e in rec.equations] == ["gate", "h"]
    assert rec.outputs == ("h",)
    assert rec.states[0].initial == Const(0.0, DType.REAL)


def test_a_value_that_is_returned_without_a_name_is_the_states_equation() -> None:
    rec = trace(_unnamed)
    assert [e.name for e in rec.equations] == ["h"]


def _unnamed(h: State["D"], x: Input["D"]):
    return 0.5 * h + x


def test_a_name_bound_twice_makes_two_equations() -> None:
    def step(h: State["D"], x: Input["D"]):
        x = x * 2
        x = x + 1
        h = h + x
        h = h * 0.5
        return h

    rec = trace(step)
    names = [e.name for e in rec.equations]
    assert len(set(names)) == 4 and names[-1] == "h" and "x" not in names
    x = np.ones((3, 2))
    y = Public(rec).compile(backend="reference")(x=x)
    np.testing.assert_allclose(y[:, 0], [1.5, 2.25, 2.625])


def test_helpers_are_inlined_and_their_variables_are_their_own() -> None:
    def mix(a, b):
        inner = a * b
        return inner + 1

    def step(h: State["D"], x: Input["D"]):
        h = mix(h, x)
        return h

    assert [e.name for e in trace(step).equations] == ["h"]


def test_a_swap_reads_the_old_values() -> None:
    def step(a: State["D", 1.0], b: State["D", 2.0], x: Input["D"]):
        a, b = b, a + x
        return a, b

    rec = trace(step)
    assert equation(rec, "a").expr == Read("b", 1, ("D",), DType.REAL)
    first, second = Public(rec).compile(backend="reference")(x=np.zeros((3, 1)))
    assert first[:, 0].tolist() == [2.0, 1.0, 2.0]
    assert second[:, 0].tolist() == [1.0, 2.0, 1.0]


def test_states_inputs_and_outputs_may_be_returned_in_every_documented_form() -> None:
    def both(h: State["D"], c: State["D"], x: Input["D"]):
        c = c + x
        h = h + c
        return {"h": h, "c": c}, h * c

    def mixed(h: State["D"], c: State["D"], x: Input["D"]):
        c = c + x
        h = h + c
        return {"h": h, "c": c, "out": h * c, "again": h}

    def mapped(x: Input["D"]):
        return {"y": x * x}

    assert trace(both).outputs == ("y",)
    assert trace(mixed).outputs == ("out", "again")
    assert trace(mapped).outputs == ("y",) and not trace(mapped).states


def test_numpy_and_torch_and_recurc_functions_mean_the_same() -> None:
    def step(x: Input["D"]):
        a = np.maximum(np.exp(x), 0.5) + np.where(x > 0, x, -x) + np.sum(x, axis="D") + np.clip(x, -1, 1)
        return a

    def torch_step(x: Input["D"]):
        a = (
            torch.maximum(torch.exp(x), torch.tensor(0.5))
            + torch.where(x > 0, x, -x)
            + x.sum(dim="D")
            + 0 * torch.sum(x)
        )
        a = a + torch.clamp(x, -1, 1)
        return a

    def own_step(x: Input["D"]):
        a = recurc.max(recurc.exp(x), 0.5) + recurc.where(x > 0, x, -x) + recurc.sum(x, "D") + recurc.clamp(x, -1, 1)
        return a

    ours = trace(own_step).equations[0].expr
    assert trace(step).equations[0].expr == ours
    x = np.random.default_rng(1).standard_normal((4, 3))
    run = lambda f: Public(trace(f)).compile(backend="reference")(x=x)  # noqa: E731
    np.testing.assert_allclose(run(torch_step), run(step), rtol=1e-15)


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "elu", "softplus", "sigmoid", "logsigmoid"])
def test_torch_activations_are_those_of_the_language(name: str) -> None:
    def step(x: Input["D"]):
        return getattr(torch.nn.functional, name)(x)

    expr = trace(step).equations[0].expr
    assert isinstance(expr, Apply) and expr.op == name


def test_functions_also_work_on_plain_arrays(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4))
    tensor = torch.tensor(x)
    np.testing.assert_allclose(recurc.silu(x), torch.nn.functional.silu(tensor), rtol=1e-12)
    np.testing.assert_allclose(recurc.softplus(tensor), recurc.softplus(x), rtol=1e-12)
    np.testing.assert_allclose(recurc.softmax(x, 1), torch.softmax(tensor, 1), rtol=1e-12)
    np.testing.assert_allclose(recurc.layernorm(tensor, 1), recurc.layernorm(x, 1), rtol=1e-12)
    np.testing.assert_allclose(recurc.max(x, 1), x.max(axis=1))
    np.testing.assert_allclose(recurc.max(x, 0.0), np.maximum(x, 0))
    np.testing.assert_allclose(recurc.where(tensor > 0, tensor, -tensor), abs(x))
    np.testing.assert_allclose(recurc.sum(x), x.sum())


def test_lags_types_and_initial_values_can_be_declared() -> None:
    p = Param["D"]

    def step(h: State["D", -math.inf], n: State[(), int], x: Input["D", 0.5], q: p):
        n = n + 1
        h = recurc.max(h, recurc.lag(h, 3) + recurc.lag(x, 2) * q)
        return {"h": h, "n": n}

    rec = trace(step)
    assert rec.states[0].initial == Const(-math.inf, DType.REAL)
    assert rec.states[1].dtype is DType.I64
    assert rec.inputs[0].before == Const(0.5, DType.REAL)
    assert Read("h", 3, ("D",), DType.REAL) in list(walk(equation(rec, "h").expr))


def test_a_new_value_in_another_order_of_dims_is_put_into_the_states() -> None:
    def step(S: State["K", "V"], k: Input["K"], v: Input["V"]):
        S = v * k + 0.5 * recurc.transpose(S)
        return S

    rec = trace(step)
    assert equation(rec, "S").expr.dims == ("K", "V")


# --- what is refused, and how it is said --------------------------------------------------------------------------


def refused(function, *words: str, error: type[Exception] = TraceError) -> None:
    with pytest.raises(error) as raised:
        trace(function)
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_python_control_flow_is_refused_with_the_line_and_the_way_out() -> None:
    def branch(h: State["D"], x: Input["D"]):
        y = h + x
        if y > 0:
            h = y
        return h

    refused(branch, "recurc.where", "line", "branch")

    def chain(h: State["D"], x: Input["D"]):
        return h if (x > 0) and (h > 0) else x

    refused(chain, "recurc.where", "`&`")


def test_conversions_to_numbers_are_refused() -> None:
    def number(h: State["D"], x: Input["D"]):
        return h + math.exp(x)

    refused(number, "np.*")

    def array(h: State["D"], x: Input["D"]):
        return h + np.asarray(x)

    refused(array, "NumPy array")

    def changed(h: State["D"], x: Input["D"]):
        h[0] = x
        return h

    refused(changed, "in place")


def test_dims_that_do_not_fit_name_both_sides() -> None:
    def product(h: State["H"], W: Param["H", "D"]):
        h = W @ h
        return h

    refused(product, "[H, D]", "[H]", "D", error=ShapeError)

    def grown(h: State["D"], x: Input["D", "N"]):
        h = h + x
        return h

    refused(grown, "state `h` is [D]", "[D, N]", error=ShapeError)


def test_arrays_from_outside_must_become_arguments() -> None:
    weights = np.ones((3, 3))

    def captured(h: State["D"], x: Input["D"]):
        return weights @ h + x

    refused(captured, "(3, 3)", "recurc.Param")

    def tensor(h: State["D"], x: Input["D"]):
        return torch.ones(3) * h + x

    refused(tensor, "recurc.Param")


def test_axes_are_named_not_numbered() -> None:
    def numbered(h: State["D"], x: Input["D"]):
        return h + np.sum(x, axis=-1)

    refused(numbered, '"D"', "-1")


def test_arguments_say_what_they_are() -> None:
    def bare(h, x: Input["D"]):
        return x

    refused(bare, "`h`", "recurc.Input")

    def step_index(t: Input["D"]):
        return t

    refused(step_index, "`t`")
    with pytest.raises(TraceError, match="dim"):
        State.__class_getitem__("not a dim")


def test_every_state_needs_a_new_value() -> None:
    def forgotten(h: State["D"], c: State["D"], x: Input["D"]):
        return {"h": h + x}, x

    refused(forgotten, "`c`", "forgotten")


def test_unpacking_needs_a_literal_dim_and_the_right_count() -> None:
    def vague(h: State["D"], x: Input["D"]):
        a, b = x
        return h + a + b

    refused(vague, "[D]")

    def short(h: State["H"], b: Param[3, "H"]):
        a, c = b
        return h + a + c

    with pytest.raises(ValueError, match="unpack"):
        trace(short)


def test_unknown_functions_are_named() -> None:
    def unknown(h: State["D"], x: Input["D"]):
        return h + np.sinh(x)

    refused(unknown, "np.sinh")

    def optional(h: State["D"], x: Input["D"]):
        return h + torch.nn.functional.elu(x, alpha=2.0)

    refused(optional, "alpha")


def test_python_numbers_that_mean_nothing_are_refused() -> None:
    def nan(h: State["D"], x: Input["D"]):
        return h + x * float("nan")

    refused(nan, "NaN")

    def huge(h: State["D"], x: Input["D"]):
        return h + x * 2**70

    refused(huge, "64 bits")


def test_string_annotations_are_understood_where_they_are_defined() -> None:
    def step(h, x):
        return h + x

    step.__annotations__ = {"h": 'State["D"]', "x": 'Input["D"]'}  # as under `from __future__ import annotations`
    assert trace(step).states[0].dims == ("D",)
