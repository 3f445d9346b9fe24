"""The five systems as hand-built IR and hand-built plans: what backends are tested with on their own,
apart from the front end and the passes."""

from __future__ import annotations

import math

import numpy as np

from recurc.build import matmul, unpack
from recurc.facts import Analysis, Component, Group, Monoid
from recurc.ir import Const, Equation, Expr, Input, Param, Read, Recurrence, State
from recurc.ops import add, apply, div, mul, neg, number, select, sub
from recurc.plan import Buffer, Carry, Loop, Map, Matmul, Plan, Role, Scan, Stage
from recurc.types import DimDecl, Dims, DType

REAL = DType.REAL
ONE = number(1.0)


def read(name: str, *dims: str, lag: int = 0) -> Read:
    return Read(name, lag, dims, REAL)


def _rec(name: str, dims: tuple[str, ...], inputs, params, states, equations, outputs) -> Recurrence:
    return Recurrence(
        name,
        tuple(DimDecl(d) for d in dims),
        tuple(Input(n, d) for n, d in inputs),
        tuple(Param(n, d) for n, d in params),
        tuple(State(n, d, REAL, Const(v, REAL)) for n, d, v in states),
        tuple(Equation(n, e) for n, e in equations),
        outputs,
    )


def ema() -> Recurrence:
    """h = (1 - alpha) h + alpha x, with `alpha` a scalar param."""
    alpha, x, h = read("alpha"), read("x", "D"), read("h", "D", lag=1)
    update = add(mul(sub(ONE, alpha), h), mul(alpha, x))
    return _rec("EMA", ("D",), [("x", ("D",))], [("alpha", ())], [("h", ("D",), 0.0)], [("h", update)], ("h",))


def lstm() -> Recurrence:
    """Gates in the order i, f, g, o."""
    gates = add(
        add(matmul(read("W", "4", "H", "D"), read("x", "D")), matmul(read("U", "4", "H", "H"), read("h", "H", lag=1))),
        read("b", "4", "H"),
    )
    i, f, g, o = unpack(Read("i_f_g_o", 0, ("4", "H"), REAL), 4)
    sig = lambda n: apply("sigmoid", read(n, "H"))  # noqa: E731
    c = add(mul(sig("f"), read("c", "H", lag=1)), mul(sig("i"), apply("tanh", read("g", "H"))))
    h = mul(sig("o"), apply("tanh", read("c", "H")))
    return _rec(
        "LSTM",
        ("D", "H"),
        [("x", ("D",))],
        [("W", ("4", "H", "D")), ("U", ("4", "H", "H")), ("b", ("4", "H"))],
        [("h", ("H",), 0.0), ("c", ("H",), 0.0)],
        [("i_f_g_o", gates), ("i", i), ("f", f), ("g", g), ("o", o), ("c", c), ("h", h)],
        ("h",),
    )


def gru() -> Recurrence:
    """Reset-after, gates in the order r, z, n, two biases."""
    a = add(matmul(read("W", "3", "H", "D"), read("x", "D")), read("b", "3", "H"))
    d = add(matmul(read("U", "3", "H", "H"), read("h", "H", lag=1)), read("d", "3", "H"))
    ar, az, an = unpack(Read("ar_az_an", 0, ("3", "H"), REAL), 3)
    hr, hz, hn = unpack(Read("hr_hz_hn", 0, ("3", "H"), REAL), 3)
    v = lambda n: read(n, "H")  # noqa: E731
    n = apply("tanh", add(v("an"), mul(v("r"), v("hn"))))
    h = add(mul(sub(ONE, v("z")), v("n")), mul(v("z"), read("h", "H", lag=1)))
    return _rec(
        "GRU",
        ("D", "H"),
        [("x", ("D",))],
        [("W", ("3", "H", "D")), ("U", ("3", "H", "H")), ("b", ("3", "H")), ("d", ("3", "H"))],
        [("h", ("H",), 0.0)],
        [
            ("ar_az_an", a), ("ar", ar), ("az", az), ("an", an),
            ("hr_hz_hn", d), ("hr", hr), ("hz", hz), ("hn", hn),
            ("r", apply("sigmoid", add(v("ar"), v("hr")))),
            ("z", apply("sigmoid", add(v("az"), v("hz")))), ("n", n), ("h", h),
        ],
        ("h",),
    )  # fmt: skip


def _s6_terms() -> dict[str, Expr]:
    dt = apply("softplus", add(read("delta", "D"), read("delta_bias", "D")))
    decay = apply("exp", mul(neg(read("dt", "D")), apply("exp", read("A_log", "D", "N"))))
    write = mul(mul(read("dt", "D"), read("B", "N")), read("x", "D"))
    emit = mul(
        add(matmul(read("h", "D", "N"), read("C", "N")), mul(read("skip", "D"), read("x", "D"))),
        mul(read("z", "D"), apply("sigmoid", read("z", "D"))),
    )
    return {"dt": dt, "decay": decay, "write": write, "y": emit}


def selective_scan() -> Recurrence:
    """Mamba's S6."""
    e = _s6_terms()
    h = add(mul(e["decay"], read("h", "D", "N", lag=1)), e["write"])
    return _rec(
        "SelectiveScan",
        ("D", "N"),
        [("x", ("D",)), ("delta", ("D",)), ("B", ("N",)), ("C", ("N",)), ("z", ("D",))],
        [("A_log", ("D", "N")), ("skip", ("D",)), ("delta_bias", ("D",))],
        [("h", ("D", "N"), 0.0)],
        [("dt", e["dt"]), ("h", h), ("y", e["y"])],
        ("y",),
    )


def aaren() -> Recurrence:
    """Attention as an RNN: a running maximum m, a normaliser u, a weighted sum w."""
    s, m, m1 = read("s"), read("m"), read("m", lag=1)
    keep, new = apply("exp", sub(m1, m)), apply("exp", sub(s, m))
    return _rec(
        "Aaren",
        ("D",),
        [("s", ()), ("v", ("D",))],
        [],
        [("m", (), -math.inf), ("u", (), 0.0), ("w", ("D",), 0.0)],
        [
            ("m", apply("max", m1, s)),
            ("u", add(mul(read("u", lag=1), keep), new)),
            ("w", add(mul(read("w", "D", lag=1), keep), mul(new, read("v", "D")))),
            ("o", div(read("w", "D"), read("u"))),
        ],
        ("o",),
    )


SYSTEMS = {"ema": ema, "lstm": lstm, "gru": gru, "selective_scan": selective_scan, "aaren": aaren}


# --- plans ------------------------------------------------------------------------------------------------------


def ea_monoid(state: str, dims: Dims, a: Expr, b: Expr) -> Monoid:
    """h = a h + b: (a, b) with combine (a2 a1, a2 b1 + b2)."""
    one, two = (lambda n: Read(f"1.{n}", 0, dims, REAL)), (lambda n: Read(f"2.{n}", 0, dims, REAL))
    return Monoid(
        "EA",
        (state,),
        (Component("a", dims), Component("b", dims)),
        (ONE, number(0.0)),
        (a, b),
        (mul(two("a"), one("a")), add(mul(two("a"), one("b")), two("b"))),
        (add(mul(Read("a", 0, dims, REAL), Read(state, 1, dims, REAL)), Read("b", 0, dims, REAL)),),
    )


def os_monoid() -> Monoid:
    """(m, u, w) of the online softmax, with the -inf of the identity guarded."""
    low = number(-math.inf)

    def merge(earlier: str, later: str, lag: int) -> tuple[Expr, ...]:
        m1, u1, w1 = (
            Read(f"{earlier}m", lag, (), REAL),
            Read(f"{earlier}u", lag, (), REAL),
            Read(f"{earlier}w", lag, ("D",), REAL),
        )
        m2, u2, w2 = Read(f"{later}m", 0, (), REAL), Read(f"{later}u", 0, (), REAL), Read(f"{later}w", 0, ("D",), REAL)
        m = apply("max", m1, m2)
        f1 = select(apply("eq", m1, low), number(0.0), apply("exp", sub(m1, m)))
        f2 = select(apply("eq", m2, low), number(0.0), apply("exp", sub(m2, m)))
        return m, add(mul(u1, f1), mul(u2, f2)), add(mul(w1, f1), mul(w2, f2))

    return Monoid(
        "OS",
        ("m", "u", "w"),
        (Component("e_m", ()), Component("e_u", ()), Component("e_w", ("D",))),
        (low, number(0.0), number(0.0)),
        (read("s"), ONE, read("v", "D")),
        merge("1.e_", "2.e_", 0),
        merge("", "e_", 1),
    )


def _plan(
    rec: Recurrence,
    stages: tuple[Stage, ...],
    schedules: tuple[str, ...],
    extra: tuple[Buffer, ...] = (),
    monoid: Monoid | None = None,
) -> Plan:
    cls = monoid.cls if monoid else "NL-f"
    group = Group(
        tuple(s.name for s in rec.states), cls, ("sequential", "scan") if monoid else ("sequential",), monoid=monoid
    )
    dims = {e.name: e.expr.dims for e in rec.equations}
    buffers = (
        *(Buffer(i.name, i.dims, i.dtype, Role.INPUT) for i in rec.inputs),
        *(Buffer(p.name, p.dims, p.dtype, Role.PARAM) for p in rec.params),
        *(Buffer(f"{s.name}@initial", s.dims, s.dtype, Role.INITIAL) for s in rec.states),
        *(Buffer(f"{s.name}@final", s.dims, s.dtype, Role.FINAL) for s in rec.states),
        *(Buffer(o, dims[o], REAL, Role.OUTPUT) for o in rec.outputs),
        *extra,
    )
    return Plan(rec, Analysis((group,)), buffers, stages, schedules)


def _carries(rec: Recurrence) -> tuple[Carry, ...]:
    return tuple(Carry(s.name, s.dims, s.dtype) for s in rec.states)


def _hoisted_gates(rec: Recurrence, packed: str, gates: int, rest: Expr) -> Plan:
    """W @ x as one Matmul over all t into the buffer `Wx`; the loop reads it."""
    wx = matmul(read("W", str(gates), "H", "D"), read("x", "D"))
    body = tuple(Equation(packed, rest) if e.name == packed else e for e in rec.equations)
    stages = (Matmul("Wx", wx), Loop(_carries(rec), body, rec.outputs))
    return _plan(rec, stages, ("sequential",), (Buffer("Wx", wx.dims, REAL, Role.SEQUENCE),))


def plans() -> dict[tuple[str, str], Plan]:
    """(system, schedule) -> a plan as the scheduler would make it."""
    out: dict[tuple[str, str], Plan] = {}

    rec = ema()
    monoid = ea_monoid("h", ("D",), sub(ONE, read("alpha")), mul(read("alpha"), read("x", "D")))
    out["ema", "sequential"] = _plan(rec, (Loop(_carries(rec), rec.equations, ("h",)),), ("sequential",), monoid=monoid)
    out["ema", "scan"] = _plan(rec, (Scan(_carries(rec), monoid, (), (), ("h",)),), ("scan",), monoid=monoid)

    rec = lstm()
    gates = add(add(read("Wx", "4", "H"), matmul(read("U", "4", "H", "H"), read("h", "H", lag=1))), read("b", "4", "H"))
    out["lstm", "sequential"] = _hoisted_gates(rec, "i_f_g_o", 4, gates)

    rec = gru()
    out["gru", "sequential"] = _hoisted_gates(rec, "ar_az_an", 3, add(read("Wx", "3", "H"), read("b", "3", "H")))

    rec, e = selective_scan(), _s6_terms()
    rate = Equation("A", apply("exp", read("A_log", "D", "N")))
    decay = apply("exp", mul(neg(read("dt", "D")), read("A", "D", "N")))
    once = Buffer("A", ("D", "N"), REAL, Role.ONCE)
    h = Equation("h", add(mul(decay, read("h", "D", "N", lag=1)), e["write"]))
    dt, y = Equation("dt", e["dt"]), Equation("y", e["y"])
    setup = Map((rate,), ("A",), over_time=False)
    monoid = ea_monoid("h", ("D", "N"), decay, e["write"])
    out["selective_scan", "sequential"] = _plan(
        rec, (setup, Loop(_carries(rec), (dt, h, y), ("y",))), ("sequential",), (once,), monoid
    )
    out["selective_scan", "scan"] = _plan(
        rec, (setup, Scan(_carries(rec), monoid, (dt,), (y,), ("y",))), ("scan",), (once,), monoid
    )

    rec, monoid = aaren(), os_monoid()
    emit = rec.equations[-1]
    out["aaren", "sequential"] = _plan(
        rec, (Loop(_carries(rec), rec.equations, ("o",)),), ("sequential",), monoid=monoid
    )
    out["aaren", "scan"] = _plan(rec, (Scan(_carries(rec), monoid, (), (emit,), ("o",)),), ("scan",), monoid=monoid)
    return out


# --- inputs ------------------------------------------------------------------------------------------------------

SIZES = {
    "ema": {"D": 5},
    "lstm": {"D": 3, "H": 7},
    "gru": {"D": 3, "H": 7},
    "selective_scan": {"D": 6, "N": 5},
    "aaren": {"D": 5},
}


def random_arrays(
    name: str, rng: np.random.Generator, batch: int, steps: int, sizes: dict[str, int] | None = None
) -> dict[str, np.ndarray]:
    """float64 inputs (B, T, *dims), params (B=1, *dims) and initial states (B, *dims), in sensible ranges."""
    rec, sizes = SYSTEMS[name](), sizes or SIZES[name]
    shape = lambda dims: tuple(int(d) if d.isdigit() else sizes[d] for d in dims)  # noqa: E731
    arrays = {i.name: rng.standard_normal((batch, steps, *shape(i.dims))) for i in rec.inputs}
    for p in rec.params:
        arrays[p.name] = rng.standard_normal((1, *shape(p.dims))) / math.sqrt(max(sizes.values()))
    if name == "ema":
        arrays["alpha"] = rng.uniform(0.05, 0.95, (1,))
    for s in rec.states:
        arrays[f"{s.name}@initial"] = 0.5 * rng.standard_normal((batch, *shape(s.dims)))
    if name == "aaren":  # the state of a softmax over something: u > 0
        arrays["u@initial"] = np.abs(arrays["u@initial"]) + 0.1
    return arrays
