"""`recurc.der` in a Python step: the same equations as in the text, and its misuse."""

# ruff: noqa: F821  (dims are names in quotes; a step binds its result to the name of its state)

import pytest

import recurc


@pytest.mark.parametrize("method", ["euler", "bilinear", "zoh"])
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
        return {"h": h, "g": g}, h + g

    made = recurc.jit(moves).recurrence.ir
    assert [e.expr for e in made.equations if e.name in "hg"] == [e.expr for e in text.ir.equations if e.name in "hg"]


def test_misuse_of_a_law_in_python_is_named() -> None:
    def trapezoid(h: recurc.State["D"], u: recurc.Input["D"]):
        return recurc.der(h, u - h, using="exp_trapezoid", dt=0.5)

    def nonlinear(h: recurc.State["D"], u: recurc.Input["D"]):
        return recurc.der(h, u - h * h, using="zoh", dt=0.5)

    for step, words in ((trapezoid, "exp_trapezoid"), (nonlinear, "not of the form")):
        with pytest.raises(recurc.RecurcError, match=words):
            _ = recurc.jit(step).recurrence
