"""A recurrence as a cell of another means what it means alone: as a whole, at the ticks of a clock, with resets, with
dims that become one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import recurc
from recurc import ir
from recurc.backends import reference
from recurc.frontend import load_text
from recurc.frontend.inline import Caller, CellProblem, arguments, inline
from recurc.frontend.render import to_text
from recurc.passes import core_form
from recurc.types import DimDecl, DType
from tests.property import random_recurrences

LSTM = """
recurrence LSTM(D, H):
    input  x[D]
    param  W[4, H, D], U[4, H, H], b[4, H]
    state  h[H] = 0, c[H] = 0

    i, f, g, o = W @ x + U @ h[t-1] + b
    c = sigmoid(f) * c[t-1] + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    output h
"""
MEMORY = """
recurrence Memory(K, V, N = 2):
    input  k[K] = 0, v[V] = 0.5, new: bool
    param  a, M[K, V]
    state  S[K, V] = a * M, n[N] = 1

    S = a * S[t-1] + k[t-1] * v + 0.1 * S[t-3]
    n = n[t-1] + sum(k) / N
    reset when new
    output S
    output y = k @ S
    output m = sum(n)
"""
Values = dict[str, Any]
BACKENDS = ["reference", "numpy", "cpu"]


def same(got: object, want: object) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-11, atol=1e-11)


def lstm_params(rng: np.random.Generator, size: int, inside: int) -> Values:
    shapes = {"W": (4, size, inside), "U": (4, size, size), "b": (4, size)}
    return {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stack_of_cells_is_one_after_the_other(backend: str, rng: np.random.Generator) -> None:
    text = (
        LSTM
        + """
recurrence Stack(D, H):
    input  x[D]
    param  W1[4, H, D], U1[4, H, H], b1[4, H], start[H]
    param  W2[4, H, H], U2[4, H, H], b2[4, H]

    h1 = LSTM(x, W = W1, U = U1, b = b1, h = start)
    output h2 = LSTM(h1, W2, U2, b2, c = 0.25)
"""
    )
    x, start = rng.standard_normal((2, 9, 3)), rng.standard_normal(5)
    one, two = lstm_params(rng, 5, 3), lstm_params(rng, 5, 5)
    alone = recurc.load(text=LSTM).compile(backend="reference")
    middle = alone(x=x, **one, initial={"h": start})
    want = alone(x=middle, **two, initial={"c": np.full(5, 0.25)})
    stack = recurc.load(text=text, name="Stack").compile(backend=backend)
    given: Values = {f"{n}1": v for n, v in one.items()} | {f"{n}2": v for n, v in two.items()}
    same(stack(x=x, start=start, **given), want)
    state = stack.init_state(batch=2, start=start, dtype="float64")
    assert set(state) == {"h1_h", "h1_c", "h2_h", "h2_c"}
    for t in range(9):
        y, state = stack.step(state, x=x[:, t], start=start, **given)
        same(y, want[:, t])


OUTER = (
    MEMORY
    + """
recurrence Outer(D, R = D):
    input  x[D], z[R], new: bool
    param  a, M[D, R], g
    state  last[D] = 0

    S, y, m = Memory(v = z, k = 2 * x, a = a, M = M, new = new)
    T1, last, u = Memory(x, x + 1, new, 0.5, M = M as [D, D], S = g)
    output S, y, m, last
    output both = T1
"""
)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_at_earlier_steps_resets_and_dims_of_one_name(backend: str, rng: np.random.Generator) -> None:
    x, z, new = rng.standard_normal((2, 11, 3)), rng.standard_normal((2, 11, 3)), rng.random((2, 11)) < 0.3
    a, M, g = np.float64(0.4), rng.standard_normal((3, 3)), np.float64(0.3)
    found = recurc.load(text=OUTER, name="Outer").compile(backend=backend)(x=x, z=z, new=new, a=a, M=M, g=g)
    alone = recurc.load(text=MEMORY).compile(backend="reference")
    for got, want in zip(found, alone(k=2 * x, v=z, new=new, a=a, M=M), strict=False):
        same(got, want)
    other = recurc.load(text=MEMORY.replace("= a * M", "= 0.3")).compile(backend="reference")
    want = other(k=x, v=x + 1, new=new, a=np.float64(0.5), M=M)
    same(found.last, want.y)
    same(found.both, want.S)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_in_a_block_goes_on_at_the_ticks(backend: str, rng: np.random.Generator) -> None:
    text = (
        MEMORY
        + """
recurrence Slow(D, V):
    input  x[D], z[V], new: bool, on: bool
    param  a, M[D, V]
    state  held[V] = 0

    when on:
        S, held, m = Memory(x, z, new, a, M)
    output held
"""
    )
    x, z, new = rng.standard_normal((13, 3)), rng.standard_normal((13, 4)), rng.random(13) < 0.3
    on = rng.random(13) < 0.6
    on[0] = True
    params: Values = {"a": np.float64(0.4), "M": rng.standard_normal((3, 4))}
    found = recurc.load(text=text, name="Slow").compile(backend=backend)(x=x, z=z, new=new, on=on, **params)
    want = recurc.load(text=MEMORY).compile(backend="reference")(k=x[on], v=z[on], new=new[on], **params).y
    same(found, want[np.cumsum(on) - 1])


def test_weights_of_a_cell_may_change_from_step_to_step(rng: np.random.Generator) -> None:
    text = """
recurrence Decay(D):
    input  x[D]
    param  a[D]
    state  h[D] = 0
    h = a * h[t-1] + x
    output h

recurrence Hyper(D):
    input  x[D], z[D]
    y = Decay(x, a = sigmoid(z))
    output y
"""
    x, z = rng.standard_normal((7, 3)), rng.standard_normal((7, 3))
    h, rows = np.zeros(3), list[np.ndarray]()
    for now, gate in zip(x, z, strict=True):
        h = h / (1 + np.exp(-gate)) + now
        rows.append(h)
    same(recurc.load(text=text, name="Hyper").compile(backend="numpy")(x=x, z=z), np.stack(rows))


def test_a_dim_that_nothing_has_takes_its_default_and_a_literal_stays_one() -> None:
    text = (
        MEMORY
        + """
recurrence Outer:
    input  x[4], new: bool
    param  M[4, 4]
    S, y, m = Memory(x, x, new, 1, M)
    output S, m
"""
    )
    rec = load_text(text)[-1]
    assert load_text(to_text(rec)) == [rec]
    assert rec.dims == (DimDecl("S_N", 2), DimDecl("S_V", 4))
    assert {e.name: e.expr.dims for e in rec.equations}["S"] == ("4", "4")


def merged(cell: ir.Recurrence) -> ir.Recurrence:
    """A recurrence that is nothing but the cell, in which all dims are one."""
    caller = Caller(
        (DimDecl("X"),), [p.name for p in cell.params], {"X", *(i.name for i in (*cell.inputs, *cell.params))}
    )
    given: dict[str, ir.Expr] = {}
    inputs: list[ir.Input] = []
    params: list[ir.Param] = []
    for slot in (*cell.inputs, *cell.params):
        dims = tuple(d if d.isdigit() else "X" for d in slot.dims)
        given[slot.name] = ir.Read(slot.name, 0, dims, slot.dtype)
        if isinstance(slot, ir.Input):
            inputs.append(ir.Input(slot.name, dims, slot.dtype))
        else:
            params.append(ir.Param(slot.name, dims, slot.dtype))
    made = inline(cell, "cell", given, caller, sizes={d.name: "X" for d in cell.dims})
    outputs = [ir.Equation(f"out{i}", e) for i, e in enumerate(made.outputs)]
    return ir.Recurrence(
        "Outer",
        (DimDecl("X"), *made.dims),
        tuple(inputs),
        tuple(params),
        made.states,
        (*made.equations, *outputs),
        tuple(e.name for e in outputs),
    )


def test_random_cells_whose_dims_become_one(seed: int) -> None:
    for offset in range(30):
        cell = random_recurrences.make(seed + offset)
        rec = merged(cell)
        core_form(rec)
        assert load_text(to_text(rec)) == [rec], f"seed {seed + offset}"
        rng = np.random.default_rng(seed + offset)
        sizes: dict[str, int] = dict.fromkeys(("D", "N", "K", "M", "X"), 4)
        shape = {s.name: tuple(2 if d == "2" else 4 for d in s.dims) for s in (*cell.inputs, *cell.params)}
        given: Values = {i.name: rng.uniform(-1, 1, (2, 6, *shape[i.name])) for i in cell.inputs}
        given |= {p.name: rng.uniform(-0.4, 0.4, (1, *shape[p.name])) for p in cell.params}
        want = reference.run(cell, given, 2, 6, sizes)
        found = reference.run(rec, given, 2, 6, sizes)
        for i, output in enumerate(cell.outputs):
            np.testing.assert_array_equal(found[f"out{i}"], want[output], err_msg=f"seed {seed + offset}")


def test_what_does_not_fit_is_said_in_words() -> None:
    (cell,) = load_text(LSTM)
    x, w = ir.Read("x", 0, ("D",), DType.REAL), ir.Read("w", 0, ("D", "D"), DType.REAL)
    with pytest.raises(CellProblem, match="`LSTM` needs `U`, `b`"):
        arguments(cell, [x, w], {})
    with pytest.raises(CellProblem, match="`W` of `LSTM` is given twice"):
        arguments(cell, [x, w], {"W": w})
    with pytest.raises(CellProblem, match=r"`W` of `LSTM` is \[4, H, D\], and \[D, D\] is given") as caught:
        inline(cell, "y", {"x": x, "W": w, "U": x, "b": x}, Caller((DimDecl("D"),), [], set()))
    assert caught.value.argument == "W"


@pytest.mark.parametrize("held", ["every 2:", "when on:"])
def test_longer_lags_of_a_held_cell_are_not_taken_for_states_of_like_names(held: str, rng: np.random.Generator) -> None:
    text = """recurrence Cell(D):
    input  x[D]
    state  h[D] = 0, NAME[D] = 5

    h = 0.5 * h[t-1] + x
    NAME = 0.5 * NAME[t-1]
    output y = h[t-2] + NAME

recurrence Main(D):
    input  x[D], on: bool
    HELD
        state  z[D] = 0
        y = Cell(x)
        z = y
    output z
""".replace("HELD", held)
    given = {"x": rng.standard_normal((9, 3)), "on": rng.random(9) < 0.5}
    odd, plain = (
        recurc.load(text=text.replace("NAME", name), name="Main").compile("reference")(**given)
        for name in ("h_lag1", "other")
    )
    np.testing.assert_array_equal(odd, plain)
