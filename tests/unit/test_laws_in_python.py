"""`recurc.der` in a Python step: the same equations as in the text, and its misuse."""

# ruff: noqa: F821  (dims are names in quotes; a step binds its result to the name of its state)

import pytest

import recurc


@pytest.mark.parametrize("method", ["euler", "bilinear", "zoh", "exp_trapezoid"])
def test_a_law_in_python_is_that_of_the_text(method: str) -> None:
    text = recurc.load(
        text=f"""recurrence moves(D):
    input  u[D]
    param  A[D, D], a[D]
    state  h[D] = 0, g[D] = 0
    der(h) = A @ h + u using {method}(0.5)
    der(g) = u - a * g / 3 using {method}(0.1)
    output y = h + g
"""
    )

    def moves(
        h: recurc.State["D"], g: recurc.State["D"], u: recurc.Input["D"], A: recurc.Param["D", "D"],
        a: recurc.Param["D"],
    ):  # fmt: skip
        h = recurc.der(h, A @ h + u, using=method, dt=0.5)
        g = recurc.der(g, u - a * g / 3, using=method, dt=0.1)
        y = h + g
        return {"h": h, "g": g}, y

    made = recurc.jit(moves).recurrence.ir
    wanted = {(e.name, e.expr) for e in text.ir.equations}
    assert {(e.name, e.expr) for e in made.equations} == wanted
    assert {(v.name, v.dims, v.initial) for v in made.states} == {(v.name, v.dims, v.initial) for v in text.ir.states}


def test_the_weight_of_exp_trapezoid() -> None:
    text = recurc.load(
        text="""recurrence moves(D):
    input  u[D], dt[D], lam[D]
    param  a[D]
    state  h[D] = 0
    der(h) = u - a * h using exp_trapezoid(dt, lam)
    output h
"""
    )

    def moves(
        h: recurc.State["D"], u: recurc.Input["D"], dt: recurc.Input["D"], lam: recurc.Input["D"], a: recurc.Param["D"]
    ):
        return recurc.der(h, u - a * h, using="exp_trapezoid", dt=dt, lam=lam)

    made = recurc.jit(moves).recurrence
    assert [(e.name, e.expr) for e in made.ir.equations] == [(e.name, e.expr) for e in text.ir.equations]


def test_misuse_of_a_law_in_python_is_named() -> None:
    def weighed(h: recurc.State["D"], u: recurc.Input["D"]):
        return recurc.der(h, u - h, using="zoh", dt=0.5, lam=0.5)

    def unknown(h: recurc.State["D"], u: recurc.Input["D"]):
        return recurc.der(h, u - h, using="rk4", dt=0.5)

    def nonlinear(h: recurc.State["D"], u: recurc.Input["D"]):
        return recurc.der(h, u - h * h, using="zoh", dt=0.5)

    for step, words in ((weighed, "no weight lam"), (unknown, "exp_trapezoid"), (nonlinear, "not of the form")):
        with pytest.raises(recurc.RecurcError, match=words):
            _ = recurc.jit(step).recurrence
