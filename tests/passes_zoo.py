"""Small recurrences for the passes: each with the classes and schedules the analysis must find, and a way to run a
plan of it and the definition side by side."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from recurc.backends import plan_numpy, reference
from recurc.backends.base import Specialization
from recurc.build import matmul, outer, reduce, rename, transpose
from recurc.ir import Const, Equation, Expr, Input, Param, Read, Recurrence, State, Step
from recurc.ops import add, apply, div, mul, neg, number, select, sub
from recurc.plan import Plan, Role
from recurc.types import DimDecl, Dims, DType

REAL = DType.REAL
SIZES = {"D": 5, "H": 3, "K": 2, "V": 4}


def v(name: str, *dims: str, lag: int = 0, dtype: DType = REAL) -> Read:
    return Read(name, lag, dims, dtype)


def old(name: str, *dims: str, k: int = 1) -> Read:
    return Read(name, k, dims, REAL)


def rec(
    name: str,
    inputs: dict[str, Dims],
    params: dict[str, Dims],
    states: dict[str, tuple[Dims, float]],
    equations: dict[str, Expr],
    outputs: tuple[str, ...],
    before: dict[str, float] | None = None,
) -> Recurrence:
    first = before or {}
    return Recurrence(
        name,
        tuple(DimDecl(d) for d in SIZES),
        tuple(Input(n, d, REAL, Const(first[n], REAL) if n in first else None) for n, d in inputs.items()),
        tuple(Param(n, d) for n, d in params.items()),
        tuple(State(n, d, REAL, Const(x, REAL)) for n, (d, x) in states.items()),
        tuple(Equation(n, e) for n, e in equations.items()),
        outputs,
    )


def one_state(
    update: Expr, inputs: dict[str, Dims], params: dict[str, Dims] | None = None, initial: float = 0.0
) -> Recurrence:
    return rec("One", inputs, params or {}, {"h": (("D",), initial)}, {"h": update}, ("h",))


ONE = number(1.0)
h, x, z, n = old("h", "D"), v("x", "D"), v("z", "D"), v("n", "D")
SQUARE: Dims = ("H", "H")
XZ: dict[str, Dims] = {"x": ("D",), "z": ("D",)}
BOTH = ("sequential", "scan")
ALL = ("sequential", "scan", "chunkwise")
LOOP = ("sequential",)
LTI = (*BOTH, "convolution")  # scans, and the same at every step


def sig(e: Expr) -> Expr:
    return apply("sigmoid", e)


def sru(v_f: bool) -> Recurrence:
    """SRU; with `v_f` the forget gate reads the cell, and the light recurrence is gone."""
    c = old("c", "D")
    gate = add(v("xf", "D"), mul(v("vf", "D"), c)) if v_f else v("xf", "D")
    f = sig(gate)
    return rec(
        "SRU", {"x": ("D",), "xf": ("D",)}, {"vf": ("D",)}, {"c": (("D",), 0.0)},
        {"f": f, "c": add(mul(v("f", "D"), c), mul(sub(ONE, v("f", "D")), x)), "y": apply("tanh", v("c", "D"))}, ("y",),
    )  # fmt: skip


def gru_reset_before() -> Recurrence:
    hh, xx = old("h", "H"), v("x", "H")

    def dot(w: str, e: Expr) -> Expr:
        return matmul(v(w, "H", "H"), e)

    return rec(
        "GRU", {"x": ("H",)}, {"R": ("H", "H"), "Z": ("H", "H"), "N": ("H", "H")}, {"h": (("H",), 0.0)},
        {
            "r": sig(add(xx, dot("R", hh))), "z": sig(add(xx, dot("Z", hh))),
            "n": apply("tanh", add(xx, dot("N", mul(v("r", "H"), hh)))),
            "h": add(mul(sub(ONE, v("z", "H")), v("n", "H")), mul(v("z", "H"), hh)),
        }, ("h",),
    )  # fmt: skip


def lif() -> Recurrence:
    """A leaky integrate-and-fire neuron: its derivative looks affine, its threshold is not."""
    u = old("u", "D")
    fired = apply("gt", v("p", "D"), ONE)
    return rec(
        "LIF", {"x": ("D",)}, {}, {"u": (("D",), 0.0)},
        {"p": add(mul(number(0.9), u), x), "u": select(fired, number(0.0), v("p", "D"))}, ("u",),
    )  # fmt: skip


def linear_attention(decay: Dims) -> Recurrence:
    S = old("S", "K", "V")
    update = add(mul(v("g", *decay), S), mul(v("k", "K"), v("val", "V")))
    emit = matmul(v("q", "K"), v("S", "K", "V"))
    return rec(
        "Attention", {"g": decay, "k": ("K",), "val": ("V",), "q": ("K",)}, {}, {"S": (("K", "V"), 0.0)},
        {"S": update, "y": emit}, ("y",),
    )  # fmt: skip


def delta_rule() -> Recurrence:
    P, k = v("P", "K", "V"), v("k", "K")
    write = mul(k, mul(v("beta"), sub(v("val", "V"), matmul(k, P))))
    return rec(
        "Delta", {"g": (), "beta": (), "k": ("K",), "val": ("V",)}, {}, {"S": (("K", "V"), 0.0)},
        {"P": mul(v("g"), old("S", "K", "V")), "S": add(P, write)}, ("S",),
    )  # fmt: skip


def moving_variance() -> Recurrence:
    """mu, then a variance that squares mu: polynomial as a whole, affine group by group."""
    mu, a = v("mu", "D"), v("a")
    gap = sub(x, old("mu", "D"))
    return rec(
        "Moving", {"x": ("D",)}, {"a": ()}, {"mu": (("D",), 0.0), "var": (("D",), 1.0)},
        {
            "gap": gap, "mu": add(mul(sub(ONE, a), old("mu", "D")), mul(a, x)),
            "var": add(mul(sub(ONE, a), old("var", "D")), mul(a, mul(v("gap", "D"), sub(x, mu)))),
            "y": div(sub(x, mu), apply("sqrt", add(v("var", "D"), number(1e-3)))),
        }, ("y",),
    )  # fmt: skip


def mlstm() -> Recurrence:
    """The matrix memory of xLSTM with its stabiliser: the OS operator with a log decay."""
    m, m1 = v("m"), old("m")
    keep, new = apply("exp", sub(add(m1, v("f")), m)), apply("exp", sub(v("i"), m))
    return rec(
        "MLSTM", {"i": (), "f": (), "q": ("K",), "k": ("K",), "val": ("V",)}, {},
        {"m": ((), -math.inf), "C": (("K", "V"), 0.0), "n": (("K",), 0.0)},
        {
            "m": apply("max", add(v("f"), m1), v("i")), "keep": keep, "new": new,
            "C": add(mul(v("keep"), old("C", "K", "V")), mul(v("new"), mul(v("k", "K"), v("val", "V")))),
            "n": add(mul(v("keep"), old("n", "K")), mul(v("new"), v("k", "K"))),
            "weight": apply("max", apply("abs", matmul(v("q", "K"), v("n", "K"))), apply("exp", neg(m))),
            "y": div(matmul(v("q", "K"), v("C", "K", "V")), v("weight")),
        }, ("y",),
    )  # fmt: skip


def value_reads_maximum() -> Recurrence:
    """Looks like accumulators, but the weighted value depends on the running maximum."""
    m, m1 = v("m"), old("m")
    return rec(
        "Odd", {"s": (), "x": ("D",)}, {}, {"m": ((), -3.0), "w": (("D",), 0.0)},
        {
            "m": apply("max", m1, v("s")),
            "new": mul(apply("exp", sub(v("s"), m)), mul(x, apply("tanh", m))),
            "w": add(mul(apply("exp", sub(m1, m)), old("w", "D")), v("new", "D")),
        }, ("w",),
    )  # fmt: skip


def momentum() -> Recurrence:
    return rec(
        "Momentum", {"x": ("D",)}, {"a": ()}, {"s": (("D",), 0.0), "w": (("D",), 0.0)},
        {
            "s": sub(mul(v("a"), old("s", "D")), mul(number(0.1), sub(old("w", "D"), x))),
            "w": add(mul(number(0.99), old("w", "D")), v("s", "D")),
        }, ("w",),
    )  # fmt: skip


def stacked() -> Recurrence:
    """Two layers: the second one's projection of the first runs between two loops."""

    def w(name: str) -> Expr:
        return v(name, "H", "H")

    return rec(
        "Stacked", {"x": ("D",)},
        {"W": ("H", "D"), "U": ("H", "H"), "W2": ("H", "H"), "U2": ("H", "H"), "out": ("V", "H")},
        {"h": (("H",), 0.0), "g": (("H",), 0.0)},
        {
            "h": apply("tanh", add(matmul(v("W", "H", "D"), x), matmul(w("U"), old("h", "H")))),
            "mid": apply("silu", v("h", "H")),
            "g": apply("tanh", add(matmul(w("W2"), v("mid", "H")), matmul(w("U2"), old("g", "H")))),
            "y": add(matmul(v("out", "V", "H"), v("g", "H")), number(1.0)),
            "both": mul(v("h", "H"), v("g", "H")),
        }, ("y", "both", "h"),
    )  # fmt: skip


def lags() -> Recurrence:
    """Reads of three steps before, of a state and of an input."""
    update = add(
        sub(mul(number(0.5), old("h", "D")), mul(number(0.25), old("h", "D", k=3))), add(x, old("x", "D", k=2))
    )
    return rec(
        "Lags", {"x": ("D",)}, {}, {"h": (("D",), 0.5)}, {"h": update, "d": old("x", "D")}, ("h", "d"), {"x": 2.0}
    )


def delay() -> Recurrence:
    return rec("Delay", {"x": ("D",)}, {}, {"h": (("D",), 1.5)}, {"h": mul(x, x), "y": sub(x, old("h", "D"))}, ("y",))


def stateless() -> Recurrence:
    y = matmul(v("W", "H", "D"), apply("gelu", x))
    return rec(
        "Plain", {"x": ("D",)}, {"W": ("H", "D")}, {}, {"y": y, "s": apply("silu", v("y", "H"))}, ("s", "y", "x")
    )


def normed() -> Recurrence:
    """A costly gate used twice inside one update, and an emit that reads old and new state."""
    gate = sig(add(x, v("p", "D")))
    return rec(
        "Normed", XZ, {"p": ("D",)}, {"h": (("D",), 0.0)},
        {"h": add(h, mul(gate, sub(z, h))), "y": mul(sub(v("h", "D"), h), apply("exp", v("p", "D")))}, ("y", "h"),
    )  # fmt: skip


def counter() -> Recurrence:
    """An integer state, and the index of the step."""
    count = Read("n", 0, (), DType.I64)
    return Recurrence(
        "Counter", (DimDecl("D"),), (Input("x", ("D",)),), (), (State("n", (), DType.I64, Const(0, DType.I64)),),
        (
            Equation("n", add(Read("n", 1, (), DType.I64), Const(1, DType.I64))),
            Equation("y", mul(x, add(count, Step()))),
        ), ("y",),
    )  # fmt: skip


def resets() -> Recurrence:
    cond = apply("gt", z, number(0.5))
    return one_state(add(select(cond, number(0.0), mul(number(0.9), h)), x), XZ)


def dense(square: Expr) -> Recurrence:
    return rec("Dense", {"x": ("H",)}, {"A": ("H", "H")}, {"h": (("H",), 0.0)}, {"h": add(square, v("x", "H"))}, ("h",))


def ema() -> Recurrence:
    return one_state(add(mul(sub(ONE, v("a")), h), mul(v("a"), x)), {"x": ("D",)}, {"a": ()})


def summed() -> Expr:
    """A scalar state spread over a dim and summed over it again."""
    return reduce("sum", mul(mul(old("h"), v("w", "D")), number(0.2)), ("D",))


def flipped() -> Expr:
    return mul(number(0.5), transpose(old("h", "H", "H")))


def state_rate() -> Recurrence:
    """An EMA whose rate depends on the state."""
    return one_state(add(mul(sub(ONE, sig(h)), h), mul(sig(h), x)), {"x": ("D",)})


Z01 = sig(z)
Case = tuple[Callable[[], Recurrence], tuple[str, ...], tuple[tuple[str, ...], ...]]
ZOO: dict[str, Case] = {
    "ema": (ema, ("EA",), (LTI,)),
    "gate": (lambda: one_state(add(mul(sub(ONE, Z01), h), mul(Z01, x)), XZ), ("EA",), (BOTH,)),
    "lerp": (lambda: one_state(add(h, mul(Z01, sub(x, h))), XZ), ("EA",), (BOTH,)),
    "quotient": (lambda: one_state(add(div(mul(h, Z01), number(2.0)), x), XZ), ("EA",), (BOTH,)),
    "negated": (lambda: one_state(sub(x, neg(neg(h))), XZ), ("EA",), (LTI,)),
    "alternating": (lambda: one_state(sub(x, h), XZ), ("EA",), (LTI,)),
    "choice": (lambda: one_state(select(apply("gt", z, number(0.0)), h, x), XZ), ("EA",), (BOTH,)),
    "resets": (resets, ("EA",), (BOTH,)),
    "summed": (
        lambda: rec("Summed", {"w": ("D",), "x": ()}, {}, {"h": ((), 0.0)}, {"h": add(summed(), v("x"))}, ("h",)),
        ("EA",), (BOTH,),
    ),
    "normed": (normed, ("EA",), (BOTH,)),
    "sru": (lambda: sru(False), ("EA",), (BOTH,)),
    "running_max": (lambda: one_state(apply("max", h, x), XZ, initial=-math.inf), ("ID",), (BOTH,)),
    "running_min": (lambda: one_state(apply("min", x, h), XZ), ("ID",), (BOTH,)),
    "max_by_choice": (lambda: one_state(select(apply("gt", h, x), h, x), XZ), ("ID",), (BOTH,)),
    "masked_max": (lambda: one_state(select(apply("gt", z, number(0.0)), apply("max", h, x), h), XZ), ("ID",), (BOTH,)),
    "max_plus": (lambda: one_state(apply("max", add(h, z), x), XZ), ("SL",), (BOTH,)),
    "log_sum_exp": (lambda: one_state(apply("logaddexp", sub(h, number(0.1)), x), XZ), ("SL",), (BOTH,)),
    "clamped": (lambda: one_state(apply("clamp", add(h, x), number(-1.0), number(1.0)), XZ), ("CL",), (BOTH,)),
    "vector_attention": (lambda: linear_attention(("K", "V")), ("EA",), (BOTH,)),
    "scalar_decay": (lambda: linear_attention(()), ("SR1",), (ALL,)),
    "row_decay": (lambda: linear_attention(("K",)), ("DR1",), (ALL,)),
    "moving_variance": (moving_variance, ("EA", "EA"), (LTI, LTI)),
    "mlstm": (mlstm, ("OS",), (ALL,)),
    "value_reads_maximum": (value_reads_maximum, ("ID", "EA"), (BOTH, BOTH)),
    "counter": (counter, ("EA",), (BOTH,)),
    "delta_rule": (delta_rule, ("GH",), (LOOP,)),
    "momentum": (momentum, ("BA",), (LTI,)),
    "moebius": (lambda: one_state(div(add(h, x), add(number(2.0), mul(z, h))), XZ), ("MB",), (BOTH,)),
    "dense": (lambda: dense(matmul(v("A", "H", "H"), old("h", "H"))), ("DA",), (LTI,)),
    "transposed": (
        lambda: rec("T", {"x": SQUARE}, {}, {"h": (SQUARE, 0.0)}, {"h": add(flipped(), v("x", *SQUARE))}, ("h",)),
        ("DA",), ((*LOOP, "convolution"),),  # rows and columns of the same name: no matrix is read off
    ),
    "lags": (lags, ("SH", "BA"), (LOOP, LTI)),
    "delay": (delay, ("SH",), (LOOP,)),
    "stateless": (stateless, (), ()),
    "stacked": (stacked, ("NL-f", "NL-f"), (LOOP, LOOP)),
    "sru_v": (lambda: sru(True), ("NL-d",), (LOOP,)),
    "gru_reset_before": (gru_reset_before, ("NL-f",), (LOOP,)),
    "lif": (lif, ("NL-d",), (LOOP,)),
    "abs_ema": (lambda: one_state(add(mul(number(0.9), apply("abs", h)), x), XZ), ("NL-d",), (LOOP,)),
    "max_of_minus": (lambda: one_state(apply("max", neg(h), x), XZ), ("NL-d",), (LOOP,)),
    "max_of_product": (lambda: one_state(apply("max", mul(h, z), x), XZ), ("NL-d",), (LOOP,)),
    "state_rate": (state_rate, ("NL-d",), (LOOP,)),
    "squared": (lambda: one_state(mul(number(0.1), add(mul(h, h), x)), XZ), ("QP",), (LOOP,)),
    "floored": (lambda: one_state(add(apply("floor", h), x), XZ), ("NL-d",), (LOOP,)),
    "normalised": (lambda: one_state(add(div(h, add(ONE, reduce("sum", mul(h, h)))), x), XZ), ("NL-f",), (LOOP,)),
}  # fmt: skip


def random_arrays(
    recurrence: Recurrence, rng: np.random.Generator, batch: int, steps: int, sizes: dict[str, int] | None = None
) -> dict[str, np.ndarray]:
    """float64 inputs `(B, T, *dims)`, params `(1, *dims)`, initial values `(B, *dims)` of states and delayed inputs."""
    known = sizes or SIZES

    def shape(dims: Dims) -> tuple[int, ...]:
        return tuple(int(d) if d.isdigit() else known[d] for d in dims)

    arrays = {i.name: rng.standard_normal((batch, steps, *shape(i.dims))) for i in recurrence.inputs}
    arrays |= {p.name: rng.uniform(0.1, 0.9, (1, *shape(p.dims))) for p in recurrence.params}
    for s in recurrence.states:
        if s.dtype is REAL:
            arrays[f"{s.name}@initial"] = np.abs(rng.standard_normal((batch, *shape(s.dims))))
    for i in recurrence.inputs:
        if i.before is not None:
            arrays[f"{i.name}@initial"] = rng.standard_normal((batch, *shape(i.dims)))
    return arrays


def agree(
    recurrence: Recurrence,
    plan: Plan,
    arrays: dict[str, np.ndarray],
    batch: int,
    steps: int,
    sizes: dict[str, int] | None = None,
) -> None:
    """Runs the plan in the plan interpreter and the recurrence by its definition, in float64, and compares everything.

    The bound is 2^10 roundings of values of order one: sums of up to 64 terms, 64 steps, a few functions each."""
    known = sizes or SIZES
    spec = Specialization(tuple(sorted(known.items())), DType.F64)
    given: dict[str, np.ndarray] = {}
    for buffer in plan.buffers:
        shape = (batch, *((steps,) if buffer.has_time else ()), *(spec.size(d) for d in buffer.dims))
        kind = spec.dtype(buffer.dtype).to_numpy()
        if buffer.role in (Role.INPUT, Role.PARAM):
            given[buffer.name] = np.broadcast_to(arrays[buffer.name], shape)
        elif buffer.role is Role.INITIAL:
            given[buffer.name] = np.broadcast_to(_initial(buffer.name, plan.recurrence, arrays), shape).astype(kind)
        elif buffer.role in (Role.OUTPUT, Role.FINAL):
            given[buffer.name] = np.zeros(shape, kind)
    plan_numpy.BACKEND.build(plan, spec)(given, batch, steps)
    expected = reference.run(recurrence, arrays, batch, steps, known)
    for output in recurrence.outputs:
        got = given.get(output) if output not in arrays else given[f"{output}@out"]
        _close(got, expected[output], output)
    for state in recurrence.states:
        _close(given[f"{state.name}@final"], expected[f"{state.name}@final"], state.name)


def _close(got: np.ndarray | None, expected: np.ndarray, name: str) -> None:
    assert got is not None, name
    finite = expected[np.isfinite(expected)]
    scale = max(1.0, float(np.abs(finite).max(initial=0.0)))
    np.testing.assert_allclose(got, expected, rtol=2e-10, atol=2e-10 * scale, err_msg=name)


def _initial(name: str, core: Recurrence, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The array of an INITIAL buffer: a shift state starts as what it delays does."""
    given = name.removesuffix("@initial")
    origin = given.partition("@lag")[0]
    if f"{origin}@initial" in arrays:
        return arrays[f"{origin}@initial"]
    state = next(s for s in core.states if s.name == given)
    assert isinstance(state.initial, Const)
    return np.asarray(state.initial.value)


__all__ = ["SIZES", "ZOO", "agree", "one_state", "outer", "random_arrays", "rec", "rename"]
