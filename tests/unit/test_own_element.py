"""The diagonal of a Jacobian by forward mode along one element: against differences of the definition where it is
exact, and what is left out where it is not."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from recurc.backends import reference
from recurc.calculus.dag import Graph
from recurc.calculus.products import spread
from recurc.ir import Read, reads
from recurc.passes import core_form
from recurc.passes.own_element import own_element

SIZES = {"D": 4, "H": 5, "N": 3, "X": 6}
Values = dict[tuple[str, int], np.ndarray]

EXACT = {
    "rnn": "h[H]: tanh(U @ h[t-1] + x)",
    "turned": "h[H]: tanh(U.T @ h[t-1] + x)",
    "left": "h[H]: tanh(h[t-1] @ U + x)",
    "gate": "h[H]: sigmoid(U @ h[t-1]) * tanh(x + V @ h[t-1]) + (1 - sigmoid(U @ h[t-1])) * h[t-1]",
    "stacked": "h[H]: sum(tanh(G @ h[t-1] + x), N)",
    "low rank": "h[H]: tanh(0.5 * h[t-1] + A @ (B @ h[t-1]))",
    "norm": "h[H]: h[t-1] / (1 + norm(h[t-1], H)) + mean(h[t-1] ** 2, H) * x",
    "largest": "h[H]: x * max(sin(h[t-1]), H) - min(h[t-1], H)",
    "product": "h[H]: x * prod(1 + 0.3 * h[t-1], H)",
    "score": "h[H]: x * tanh(0.1 * sum(x * h[t-1], H))",
    "renamed": "h[H]: tanh(C @ (h[t-1] as [N2]) + x)",
    "heads": "h[N, H]: tanh(G @ h[t-1] + x)",
    "picked": "h[N, H]: h[t-1] * tanh(x) + sum(h[t-1], N)",
    "branches": "h[H]: if x > 0 then log(abs(U @ h[t-1]) + 1) else sqrt(1 + h[t-1] ** 2)",
    "capped": "h[H]: min(relu(U @ h[t-1]), 0.5) + 0.1 * h[t-1]",
}  # fmt: skip
MISSES = {
    "shifted by the largest": "h[H]: x * softmax(h[t-1], H)",
    "back through others": "h[H]: U @ tanh(V @ h[t-1])",
    "through all": "h[H]: x * sum(tanh(U @ h[t-1]), H)",
}


def step(text: str) -> recurc.Recurrence:
    state, update = text.split(": ", 1)
    return recurc.load(
        text="recurrence One(H, N, N2=H):\n    input x[H]\n"
        "    param U[H, H], V[H, H], G[N, H, H], A[H, N], B[N, H], C[H, N2]\n"
        f"    state {state} = 0.1\n    h = {update}\n    output h\n"
    )


def both(text: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The derivative of each element of the new state by the old one at its place: as found, and by differences."""
    rec = core_form(step(text).ir)
    sizes = SIZES | {"N2": SIZES["H"]}
    shape = lambda dims: tuple(sizes[d] for d in dims)  # noqa: E731
    given: Values = {(i.name, 0): rng.standard_normal((1, *shape(i.dims))) for i in rec.inputs}
    given |= {(p.name, 0): rng.standard_normal((1, *shape(p.dims))) for p in rec.params}
    (state,) = rec.states
    old = rng.standard_normal((1, *shape(state.dims)))

    def new(value: np.ndarray) -> Values:
        values = given | {(state.name, 1): value}
        for e in rec.equations:
            values[e.name, 0] = reference.evaluate(e.expr, values, sizes)
        return values

    steady = {p.name for p in rec.params}
    value = Read(state.name, 1, state.dims, state.dtype)
    slopes = own_element(rec.equations, value, Graph(), lambda e: all(r.name in steady for r in reads(e)))
    slope = spread(slopes[state.name], state.dims)
    found = np.broadcast_to(reference.evaluate(slope, new(old), sizes), old.shape)
    wanted = np.empty_like(old)
    for at in np.ndindex(old.shape):
        moved = np.zeros_like(old)
        moved[at] = 1e-6
        up, down = (new(old + s * moved)[state.name, 0] for s in (1, -1))
        wanted[at] = (up[at] - down[at]) / 2e-6
    return found, wanted


@pytest.mark.parametrize("name", EXACT)
def test_it_is_the_diagonal_where_elements_meet_once(name: str, rng: np.random.Generator) -> None:
    found, wanted = both(EXACT[name], rng)
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MISSES)
def test_what_comes_back_by_way_of_others_is_left_out(name: str, rng: np.random.Generator) -> None:
    found, wanted = both(MISSES[name], rng)
    assert np.isfinite(found).all() and not np.allclose(found, wanted, rtol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "h[H]: solve(eye(H) + outer(x, x), h[t-1])",
        "h[H]: x * sum(outer(h[t-1], h[t-1]) @ x, H)",
        "h[H]: sum(C * tanh(h[t-1] as [N2]), N2) + x",
    ],
)
def test_through_matrices_and_other_names_nothing_flows(text: str) -> None:
    rec = core_form(step(text).ir)
    (state,) = rec.states
    value = Read(state.name, 1, state.dims, state.dtype)
    assert state.name not in own_element(rec.equations, value, Graph(), lambda e: False)
