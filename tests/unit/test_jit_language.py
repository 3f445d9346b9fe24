"""Every construct of the language in a Python step: the same IR as its spelling in a `.rec` file."""

# ruff: noqa: F821, RET504  (dims are names in quotes; a step binds its result to the name of its state)

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from recurc import Input, Int, Param, State
from recurc.errors import TraceError

CASES: dict[str, tuple[Callable[..., Any], str]] = {}


def case(text: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        CASES[function.__name__] = recurc.jit(**options)(function), text
        return function

    return add


@case("""recurrence clocks(D, N):
    input x[D], c[N]
    state slow[D] = 0, held[D] = 0, fast[D] = 0
    fast = fast[t-1] + x
    every 4:
        slow = 0.5 * slow[t-1] + fast
        twice = 2 * slow
        held = twice
    every N:
        state last[D] = 1
        last = x
    output fast, slow, held, last
""")
def clocks(
    x: Input["D"],
    c: Input["N"],
    slow: State["D"],
    held: State["D"],
    fast: State["D"],
    last: State["D", 1.0],
):
    fast = fast + x
    slow = recurc.every(4, 0.5 * slow + fast, slow)
    twice = 2 * slow
    held = recurc.every(4, twice, held)
    last = recurc.every("N", x, last)
    return {"slow": slow, "held": held, "fast": fast, "last": last}, fast, slow, held, last


@case("""recurrence choice(D):
    input x[D]
    state peak[D] = 0
    fires = any(x > 1, D)
    peak = if fires then x else peak[t-1]
    output peak
""")
def choice(x: Input["D"], peak: State["D"]):
    fires = recurc.any(x > 1, "D")
    peak = recurc.where(fires, x, peak)
    return peak


@case("""recurrence episodes(D):
    input x[D] = 0, done: bool
    state h[D] = 0
    y = 2 * x
    h = h[t-1] + y - x[t-2]
    reset when done or t % 100 == 0
    output h
""")
def episodes(x: Input["D", 0.0], done: Input[bool], h: State["D"]):
    recurc.reset_when(done | recurc.every(100))
    y = 2 * x
    h = h + y - x.lag(2)
    return h


@case("""recurrence named_reset(D):
    input x[D]
    param limit
    state h[D] = 0
    h = h[t-1] + x
    total = sum(x, D)
    big = total > limit
    reset when big
    output h, big
""")
def named_reset(x: Input["D"], limit: Param[()], h: State["D"]):
    h = h + x
    total = recurc.sum(x, "D")
    big = total > limit
    recurc.reset_when(big)
    return h, h, big


@case("""recurrence tables(K, N, X):
    input i: int, x[K]
    param table[N, K], grid[X, N]
    state S[N, K] = 0
    row = lookup(table, i)
    S = 0.5 * S[t-1] + one_hot(i, N) * row
    first = lookup(broadcast(x, K, N), index(K))
    cell = lookup(grid, i, i + 1)
    output S, first, cell, place = index(N) + eye(N) @ index(N)
""")
def tables(i: Input[int], x: Input["K"], S: State["N", "K"], table: Param["N", "K"], grid: Param["X", "N"]):
    row = table[i]
    S = 0.5 * S + recurc.one_hot(i, "N") * row
    first = recurc.broadcast(x, "K", "N")[recurc.index("K")]
    cell = grid[i, i + 1]
    place = recurc.index("N") + recurc.eye("N") @ recurc.index("N")
    return S, S, first, cell, place


@case(
    """recurrence neighbours(X, Y, I, C, K = 5):
    input x[I, X, Y]
    param w[C, I, 3, 3], mix[C, C, 3, 3], blur[3], taps[K]
    state h[C, X, Y] = 0
    h = tanh(conv(w, x, X, Y) + conv(mix, h[t-1], X, Y))
    output per_channel = conv(blur, x, Y), turned = circular_conv(taps, h, X)
""",
    dims={"X": None, "Y": None, "I": None, "C": None, "K": 5},
)
def neighbours(
    x: Input["I", "X", "Y"],
    h: State["C", "X", "Y"],
    w: Param["C", "I", 3, 3],
    mix: Param["C", "C", 3, 3],
    blur: Param[3],
    taps: Param["K"],
):
    h = np.tanh(recurc.conv(w, x, "X", "Y") + mix.conv(h, "X", "Y"))
    return {"h": h, "per_channel": recurc.conv(blur, x, "Y"), "turned": recurc.circular_conv(taps, h, "X")}


@case("""recurrence matrices(N):
    input x[N]
    param A[N, N]
    state P[N, N] = 1
    P = P[t-1] + outer(x, x) + 0.01 * eye(N)
    L = cholesky(P)
    output y = solve(P, x) + inv(P) @ x, L, z = phi1(A) @ stop_gradient(x)
""")
def matrices(x: Input["N"], A: Param["N", "N"], P: State["N", "N", 1.0]):
    P = P + recurc.outer(x, x) + 0.01 * recurc.eye("N")
    L = np.linalg.cholesky(P)
    y = recurc.solve(P, x) + np.linalg.inv(P) @ x
    z = recurc.phi1(A) @ recurc.stop_gradient(x)
    return P, y, L, z


@case(
    """recurrence lags(D, N):
    input x[D] = 0.5
    param W[2, D]
    state h[D] = 1, z: complex = 1, n: int = 1, up: bool = false
    one = part(W, 1)
    h = h[t-1] + 0.25 * h[t-3] * x[t-2] + one
    z = polar(1, 0.1 * t) * z[t-1]
    n = n[t-1] + N
    up = not up[t-1]
    output h, z, n, up, phase = atan2(imag(z), real(z)), kind = cast(h, int)
""",
    dims=["D", "N"],
)
def lags(
    x: Input["D", 0.5],
    W: Param[2, "D"],
    h: State["D", 1.0],
    z: State[complex, 1.0],
    n: State[int, 1],
    up: State[bool],
):
    one = W[1]
    h = h + 0.25 * h.lag(3) * recurc.lag(x, 2) + one
    z = recurc.polar(1, 0.1 * recurc.step_index()) * z
    n = n + recurc.size("N")
    up = ~up
    return {"h": h, "z": z, "n": n, "up": up}, h, z, n, up, {"phase": np.angle(z), "kind": recurc.cast(h, int)}


@case(
    """recurrence recent(D, W, M):
    input x[D] = 0.5, on: bool = true
    param h0[D]
    state h[D] = h0
    past = max(window(h[t-1], W), W)
    h = 0.5 * past + mean(window(x, W), W)
    y = mean(window(x, 4), 4) - mean(window(x[t-2], 4), 4) + sum(window(h, W), W)
    count = sum(if window(on, M) then 1 else 0, M)
    output y, count
""",
    dims=["D", "W", "M"],
)
def recent(x: Input["D", 0.5], on: Input[bool, True], h: State["D", lambda h0: h0], h0: Param["D"]):
    past = recurc.max(recurc.window(h, "W"), "W")
    h = 0.5 * past + recurc.window(x, "W").mean("W")
    y = recurc.window(x, 4).mean("4") - recurc.window(x.lag(2), 4).mean("4") + recurc.window(h, "W").sum("W")
    count = recurc.sum(recurc.where(recurc.window(on, "M"), 1, 0), "M")
    return h, y, count


@case(
    """recurrence pairs(D, E = D):
    input x[D]
    output y = x * (x as [E])
""",
    dims={"D": None, "E": "D"},
)
def pairs(x: Input["D"]):
    return x * x.rename("E")


@case("""recurrence last(D):
    input x[D]
    state S[D] = 0
    S = S[t-1] + x
    output y = x / S[T]
""")
def last(x: Input["D"], S: State["D"]):
    end = recurc.final(S)
    S = S + x
    y = x / end
    return S, y


@case(
    """recurrence automaton(Q, A = 3):
    input i: int(A), j: int(5) = 4
    param start: int(Q), ramp[A] ~ index(A) + 1
    state q: int(Q) = start, last: int(Q) = Q - 1
    state r[A]: int(4) = 3
    q = q[t-1] * 5 + i - j[t-1]
    r = r[t-1] - 1
    last = q[t-2]
    output q, r, last, y = ramp * r
""",
    dims={"Q": None, "A": 3},
)
def automaton(
    i: Input[Int("A")],
    j: Input[Int(5), 4],
    start: Param[Int("Q")],
    ramp: Param["A", recurc.index("A") + 1],
    q: State[Int("Q"), lambda start: start],
    last: State[Int("Q"), recurc.size("Q") - 1],
    r: State["A", Int(4), 3],
):
    last, q = q.lag(2), q * 5 + i - j.lag(1)
    r = r - 1
    return {"q": q, "last": last, "r": r}, q, r, last, {"y": ramp * r}


DECAY = """recurrence Decay(N):
    input x[N]
    param a
    state h[N] = a
    h = a * h[t-1] + x
    output h

recurrence Pair(D, K = 3):
    input x[D] = 0, y[D]
    param a
    state S[D, K] = 0
    S = a * S[t-1] + x[t-2] * index(K)
    total = sum(S, K)
    reset when sum(y, D) > 3
    output S, total

"""
decay, pair = (recurc.load(text=DECAY, name=n) for n in ("Decay", "Pair"))


@case(
    DECAY
    + """recurrence stacked(D):
    input x[D]
    param a, b
    state last[D] = 0
    low = Decay(x, a = a)
    high = Decay(low + 1, a = sigmoid(b), h = 0.5)
    S, total = Pair(low, high, a)
    every 3:
        state slow[D] = 0
        inner = Decay(x = high, a = 0.25)
        slow = inner
    last = Decay(total, a = b)
    output high, total, slow, last
"""
)
def stacked(x: Input["D"], a: Param[()], b: Param[()], last: State["D"], slow: State["D"]):
    low = decay(x, a=a)
    high = decay(low + 1, a=recurc.sigmoid(b), h=0.5)
    S, total = pair(low, high, a)  # noqa: RUF059  (a name for its equations)
    every_3 = recurc.every(3)
    inner = recurc.clocked(every_3, decay)(x=high, a=0.25)
    slow = recurc.where(every_3, inner, slow)
    last = decay(total, a=b)
    return {"slow": slow, "last": last}, high, total, slow, last


@pytest.mark.parametrize("name", CASES)
def test_both_spellings_are_one_recurrence(name: str) -> None:
    function, text = CASES[name]
    traced, written = function.recurrence.ir, recurc.load(text=text, name=name).ir
    assert [e.name for e in traced.equations] == [e.name for e in written.equations]
    for ours, theirs in zip(traced.equations, written.equations, strict=True):
        assert ours.expr == theirs.expr, ours.name
    assert traced.states == written.states
    assert (traced.dims, traced.inputs, traced.params) == (written.dims, written.inputs, written.params)
    assert traced == written


@pytest.mark.parametrize("name", CASES)
def test_the_text_of_a_traced_recurrence_loads_back(name: str) -> None:
    rec = CASES[name][0].recurrence
    assert recurc.load(text=rec.to_text()) == rec


# --- what has no meaning ---------------------------------------------------------------------------------------------


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
