"""Small recurrences, one for each construct that moves values between places, works on matrices or counts in integers:
what the GPU backends must agree on with the definition. Built by hand, apart from the front ends; and the updates of
`lifted_cases`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import recurc
from recurc import build
from recurc.backends import reference
from recurc.build import broadcast, conv, gather, index, linalg, lookup, matmul, one_hot, reduce, transpose
from recurc.ir import Const, Equation, Expr, Input, Param, Read, Recurrence, State
from recurc.ops import add, apply, cast, convert, mul, number, select, sub
from recurc.types import DimDecl, Dims, DType
from tests import lifted_cases

REAL, INT, BOOL = DType.REAL, DType.I64, DType.BOOL
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Kinds = dict[str, tuple[str, DType]]
SIZES = {"D": 3, "N": 5, "M": 5, "V": 7, "X": 6, "Y": 4, "C": 2, "O": 3, "W": 4, "K": 4, "S": 2, "R": 2}


@dataclass(frozen=True)
class Case:
    """A recurrence over the sizes above; `lengths` are the T it runs for."""

    rec: Recurrence
    schedules: tuple[str, ...] = ("sequential",)
    draw: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = field(
        default_factory=dict[str, Any]
    )
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))


CASES: dict[str, Case] = {}


def _name(dims: str) -> Dims:
    return tuple(dims.split())


def _case(
    name: str,
    inputs: Kinds,
    params: Kinds,
    states: dict[str, tuple[str, DType, float | int | bool]],
    equations: dict[str, Expr],
    outputs: str,
    **more: Any,
) -> None:
    used = {d for k in (inputs, params) for dims, _ in k.values() for d in dims.split()}
    used |= {d for dims, _, _ in states.values() for d in dims.split()}
    used |= {d for e in equations.values() for n in recurc.ir.walk(e) for d in n.dims}
    rec = Recurrence(
        "".join(w.capitalize() for w in name.replace(",", "").split()),
        tuple(DimDecl(d) for d in SIZES if d in used),
        tuple(Input(n, _name(d), t) for n, (d, t) in inputs.items()),
        tuple(Param(n, _name(d), t) for n, (d, t) in params.items()),
        tuple(State(n, _name(d), t, Const(v, t)) for n, (d, t, v) in states.items()),
        tuple(Equation(n, e) for n, e in equations.items()),
        tuple(outputs.split()),
    )
    CASES[name] = Case(rec, **more)


def r(name: str, dims: str = "", lag: int = 0, dtype: DType = REAL) -> Read:
    return Read(name, lag, _name(dims), dtype)


def i(name: str, dims: str = "", lag: int = 0) -> Read:
    return r(name, dims, lag, INT)


def whole(value: int) -> Const:
    return Const(value, INT)


def _tokens(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-2, 9, shape)  # some outside of the table: they mean its ends


def _definite(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    a = 0.4 * rng.standard_normal(shape)
    return a @ np.swapaxes(a, -1, -2) + np.eye(shape[-1])


def _near_identity(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return 0.4 * rng.standard_normal(shape) + 2 * np.eye(shape[-1])[:, rng.permutation(shape[-1])]


def _wide(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-(2**63), 2**63 - 1, shape)


half = number(0.5)
x, h = r("x", "D"), r("h", "D", 1)
_x, _h = {"x": ("D", REAL)}, {"h": ("D", REAL, 0.0)}

# --- places and repeats ---
_case("places along lanes", _x, {}, _h, {"h": add(mul(half, h), mul(x, convert(index("D"), REAL)))}, "h",
      schedules=("sequential", "scan"))  # fmt: skip
_case("a place as an output", _x, {}, {}, {"y": mul(index("D"), index("D")), "z": add(x, index("D"))}, "y z")
_case("a value repeated", {"s": ("", REAL), "x": ("D", REAL)}, {}, {"h": ("N D", REAL, 0.0)},
      {"h": add(mul(half, r("h", "N D", 1)), broadcast(mul(r("s"), x), ("N", "D"))),
       "y": broadcast(r("s"), ("N",)), "z": matmul(r("h", "N D"), broadcast(r("s"), ("D",)))}, "y z h",
      schedules=("sequential", "scan"))  # fmt: skip

# --- gathers ---
_token = {"token": ("", INT)}
_embedded = lookup(r("E", "V D"), i("token"))
_case("a row of a table", _token, {"E": ("V D", REAL)}, _h, {"h": add(mul(half, h), apply("tanh", _embedded))}, "h",
      schedules=("sequential", "scan"), draw={"token": _tokens})  # fmt: skip
_case("a place in a matrix of params", {"i": ("", INT), "j": ("", INT)}, {"P": ("V N", REAL)}, {"h": ("", REAL, 0.0)},
      {"h": add(mul(half, r("h", "", 1)), lookup(r("P", "V N"), i("i"), i("j")))}, "h",
      draw={"i": _tokens, "j": _tokens})  # fmt: skip
_case("a place in an input, by a state", {"x": ("N D", REAL)}, {}, {"p": ("", INT, 0), "h": ("D", REAL, 0.0)},
      {"p": apply("mod", add(i("p", "", 1), whole(3)), whole(5)),
       "h": add(mul(half, h), lookup(r("x", "N D"), i("p")))}, "h p")  # fmt: skip
_case("a pointer into a memory", {"x": ("D", REAL), "move": ("", INT)}, {},
      {"m": ("N D", REAL, 0.0), "p": ("", INT, 0)},
      {"p": apply("mod", add(i("p", "", 1), i("move")), convert(recurc.ir.Size("N"), INT)),
       "m": add(r("m", "N D", 1), mul(one_hot(i("p"), "N"), sub(x, lookup(r("m", "N D", 1), i("p"))))),
       "y": lookup(r("m", "N D"), apply("mod", add(i("p"), whole(1)), convert(recurc.ir.Size("N"), INT)))}, "y p",
      draw={"move": lambda rng, shape: rng.integers(0, 5, shape)})  # fmt: skip
_shifted = select(apply("eq", index("W"), whole(3)), broadcast(x, ("W", "D")),
                  lookup(r("w", "W D", 1), add(index("W"), whole(1))))  # fmt: skip
_case("a window of the last inputs", _x, {"k": ("W D", REAL)}, {"w": ("W D", REAL, 0.0)},
      {"w": _shifted, "y": reduce("sum", mul(r("k", "W D"), r("w", "W D")), ("W",))}, "y w")  # fmt: skip
_case("a place of its own for every lane", {"x": ("D N", REAL), "at": ("D", INT)}, {"P": ("D N", REAL)}, _h,
      {"h": add(mul(half, h), mul(gather(r("P", "D N"), 1, i("at", "D")), gather(r("x", "D N"), 1, i("at", "D")))),
       "y": gather(mul(r("x", "D N"), r("h", "D")), 1, i("at", "D"))}, "h y", draw={"at": _tokens})  # fmt: skip
_case("several places at once", {"x": ("N D", REAL), "at": ("X", INT)}, {}, {"m": ("N D", REAL, 0.0)},
      {"m": add(mul(half, r("m", "N D", 1)), r("x", "N D")), "y": lookup(r("m", "N D"), i("at", "X")),
       "z": lookup(r("m", "N D", 1), i("at", "X"))}, "y z", draw={"at": _tokens})  # fmt: skip
_case("a place in what is computed once", _token, {"E": ("V D", REAL)}, _h,
      {"t": apply("tanh", apply("exp", r("E", "V D"))),
       "h": add(mul(half, h), lookup(r("t", "V D"), i("token")))}, "h", draw={"token": _tokens})  # fmt: skip
_case("a true value at a place", {"ok": ("N", BOOL), "at": ("", INT)}, {}, {"f": ("N", BOOL, False)},
      {"f": apply("or", r("f", "N", 1, BOOL), r("ok", "N", 0, BOOL)), "y": lookup(r("f", "N", 0, BOOL), i("at")),
       "z": lookup(r("ok", "N", 0, BOOL), i("at"))}, "y z",
      draw={"at": _tokens, "ok": lambda rng, shape: rng.random(shape) < 0.2})  # fmt: skip

_case("a count by choice", {"ok": ("D", BOOL)}, {}, {"n": ("D", INT, 0)},
      {"n": add(i("n", "D", 1), select(r("ok", "D", 0, BOOL), whole(1), whole(0)))}, "n",
      schedules=("sequential", "scan"), draw={"ok": lambda rng, shape: rng.random(shape) < 0.5})  # fmt: skip

# --- neighbours ---
_grid = {"g": ("C X", REAL, 0.0)}
_case("neighbours of a state", {"x": ("C X", REAL)}, {"w": ("C C 3", REAL)}, _grid,
      {"g": apply("tanh", add(conv(r("w", "C C 3"), r("g", "C X", 1), ["X"]), r("x", "C X")))}, "g")  # fmt: skip
_case("neighbours around a ring", {"x": ("X", REAL), "s": ("W", REAL)}, {}, {"a": ("X", REAL, 0.5)},
      {"a": apply("tanh", add(conv(r("s", "W"), r("a", "X", 1), ["X"], True), r("x", "X"))),
       "y": conv(r("s", "W"), r("a", "X"), ["X"], True)}, "a y")  # fmt: skip
_case("neighbours in an image", {"x": ("C X Y", REAL)}, {"w": ("O C 3 3", REAL), "u": ("O O 3 2", REAL)},
      {"g": ("O X Y", REAL, 0.0)},
      {"g": apply("tanh", add(conv(r("w", "O C 3 3"), r("x", "C X Y"), ["X", "Y"]),
                              conv(r("u", "O O 3 2"), r("g", "O X Y", 1), ["X", "Y"])))}, "g")  # fmt: skip
_case("neighbours outside of a product", {"x": ("X", REAL)}, {}, {"a": ("X", REAL, 0.0)},
      {"a": reduce("max", build.unfold(add(mul(half, r("a", "X", 1)), r("x", "X")), ["X"], ("3",)), ("3",))},
      "a")  # fmt: skip

# --- states that have a dim twice ---
_outer = {"M": add(mul(half, r("M", "N N", 1)), build.outer(r("x", "N"), r("z", "N")))}
for _what, _size in (("", 5), (" in several tiles", 19)):
    _case(f"outer products of one dim{_what}", {"x": ("N", REAL), "z": ("N", REAL)}, {}, {"M": ("N N", REAL, 0.25)},
          _outer | {"y": add(r("M", "N N"), mul(half, r("M", "N N", 1)))}, "M y",
          schedules=("sequential", "scan"), sizes=SIZES | {"N": _size})  # fmt: skip
_case("outer products and what crosses them", {"x": ("N", REAL), "z": ("N", REAL)}, {}, {"M": ("N N", REAL, 0.25)},
      _outer | {"y": matmul(r("M", "N N", 1), r("x", "N")), "w": sub(r("M", "N N"), transpose(r("M", "N N", 1)))},
      "y w", schedules=("sequential", "scan"))  # fmt: skip

# --- small matrices ---
_kalman_gain = linalg("solve", add(r("Q", "N N"), r("P", "N N", 1)), matmul(r("P", "N N", 1), r("x", "N")))
for _n, _size in (("small", 3), ("larger", 6)):
    _sizes = SIZES | {"N": _size, "M": _size}
    _case(f"solving with a {_n} state", {"x": ("N", REAL)}, {"Q": ("N N", REAL)}, {"P": ("N N", REAL, 0.25)},
          {"z": _kalman_gain,
           "P": add(mul(half, r("P", "N N", 1)), mul(number(0.1), build.outer(r("z", "N"), r("z", "N"))))}, "z P",
          sizes=_sizes, draw={"Q": _near_identity})  # fmt: skip
    _case(f"inverses of {_n} matrices", {"A": ("D N M", REAL)}, {}, {"S": ("D M N", REAL, 0.0)},
          {"S": add(mul(half, r("S", "D M N", 1)), linalg("inv", r("A", "D N M"))),
           "y": reduce("sum", r("S", "D M N"), ("N",))}, "S y", sizes=_sizes,
          draw={"A": _near_identity})  # fmt: skip
    _case(f"factors of {_n} matrices", {"A": ("N N", REAL)}, {}, {"L": ("N N", REAL, 0.0)},
          {"L": add(mul(half, r("L", "N N", 1)), linalg("cholesky", r("A", "N N"))),
           "y": matmul(r("L", "N N"), build.eye("N"))}, "L y", sizes=_sizes, draw={"A": _definite})  # fmt: skip
    _case(f"a {_n} system in continuous time", {"u": ("", REAL)}, {"A": ("N N", REAL), "b": ("N", REAL)},
          {"h": ("N", REAL, 0.0)},
          {"F": linalg("phi1", r("A", "N N")),
           "h": add(add(r("h", "N", 1), matmul(matmul(r("A", "N N"), r("F", "N N")), r("h", "N", 1))),
                    mul(matmul(r("F", "N N"), r("b", "N")), r("u")))}, "h", sizes=_sizes,
          draw={"A": lambda rng, shape: rng.standard_normal(shape) - 2 * np.eye(shape[-1])})  # fmt: skip
    _case(f"exponentials of {_n} inputs", {"A": ("N N", REAL), "x": ("N", REAL)}, {}, {"h": ("N", REAL, 1.0)},
          {"h": add(mul(half, r("h", "N", 1)), matmul(linalg("phi1", r("A", "N N")), r("x", "N")))}, "h", sizes=_sizes,
          draw={"A": lambda rng, shape: 2 * rng.standard_normal(shape)})  # fmt: skip
    _case(f"derivatives of {_n} exponentials", {"A": ("D N N", REAL), "E": ("N N", REAL)}, {},
          {"S": ("D N N", REAL, 0.0)},
          {"S": add(mul(half, r("S", "D N N", 1)),
                    linalg("dphi1", r("A", "D N N"), r("A", "D N N"))),
           "y": linalg("dphi1", r("E", "N N"), r("E", "N N"))}, "S y", sizes=_sizes,
          draw={"A": lambda rng, shape: 2 * rng.standard_normal(shape)})  # fmt: skip
_case("solving for several sides, permuted", {"A": ("D N M", REAL), "b": ("K N D S", REAL)}, {}, {},
      {"y": linalg("solve", r("A", "D N M"), r("b", "K N D S"))}, "y", draw={"A": _near_identity})  # fmt: skip
_case("solving for each lane, permuted", {"A": ("N N", REAL), "x": ("D", REAL), "w": ("N", REAL)}, {},
      {"h": ("D N", REAL, 0.0)},
      {"h": add(mul(half, r("h", "D N", 1)), linalg("solve", r("A", "N N"), mul(r("w", "N"), r("x", "D"))))}, "h",
      schedules=("sequential", "scan"), sizes=SIZES | {"N": 3}, draw={"A": _near_identity})  # fmt: skip
_case("a matrix without an inverse", {"A": ("N N", REAL), "b": ("N", REAL)}, {}, {},
      {"y": linalg("solve", r("A", "N N"), r("b", "N"))}, "y",
      draw={"A": lambda rng, shape: np.zeros(shape)})  # fmt: skip
_case("a matrix solved with once", _x, {"A": ("D D", REAL)}, _h,
      {"h": add(mul(half, h), linalg("solve", r("A", "D D"), x)), "y": transpose(linalg("inv", r("A", "D D")))}, "h y",
      draw={"A": _near_identity})  # fmt: skip

# --- integers and truth values ---
_lcg = add(mul(i("s", "D", 1), whole(6364136223846793005)), whole(1442695040888963407))
_case("integers wrap around", {"q": ("D", INT)}, {}, {"s": ("D", INT, 42)},
      {"s": sub(_lcg, i("q", "D")), "y": mul(i("q", "D"), i("q", "D")), "z": reduce("sum", i("q", "D"), ("D",)),
       "n": apply("neg", i("q", "D")), "p": reduce("prod", i("q", "D"), ("D",))}, "s y z n p",
      draw={"q": _wide})  # fmt: skip
_case("products of integers", {"q": ("D", INT), "M": ("D N", INT)}, {"B": ("N D", INT)}, {"s": ("N", INT, 1)},
      {"s": apply("mod", add(matmul(i("B", "N D"), i("q", "D")), mul(i("s", "N", 1), i("s", "N", 1))), whole(1000003)),
       "y": matmul(i("M", "D N"), i("s", "N"))}, "s y",
      draw={n: (lambda rng, shape: rng.integers(-(10**9), 10**9, shape)) for n in ("q", "B", "M")})  # fmt: skip
_case("products of integers for all steps", {"q": ("D", INT)}, {"B": ("N D", INT)}, {"s": ("N", INT, 1)},
      {"s": add(mul(i("s", "N", 1), whole(3)), matmul(i("B", "N D"), i("q", "D")))}, "s",
      sizes=SIZES | {"D": 24, "N": 27}, draw={"q": _wide, "B": _wide})  # fmt: skip
_case("a loop over integers with weights", {"q": ("N", INT)}, {"B": ("N N", INT)}, {"s": ("N", INT, 1)},
      {"s": add(matmul(i("B", "N N"), i("s", "N", 1)), i("q", "N"))}, "s",
      sizes=SIZES | {"N": 27}, draw={"q": _wide, "B": _wide})  # fmt: skip
_case("remainders and quotients", {"q": ("D", INT), "d": ("D", INT)}, {}, {"s": ("D", INT, 7)},
      {"s": apply("mod", add(i("s", "D", 1), i("q", "D")), whole(11)), "y": apply("floordiv", i("q", "D"), i("d", "D")),
       "z": apply("mod", i("q", "D"), i("d", "D")), "big": apply("max", i("q", "D"), i("d", "D")),
       "where": build.reduce("argmax", i("q", "D"), ("D",))}, "s y z big where",
      draw={n: (lambda rng, shape: rng.integers(-9, 10, shape)) for n in ("q", "d")})  # fmt: skip
_case("narrow integers", {"q": ("D", DType.I32)}, {}, {"s": ("D", DType.I32, 1)},
      {"s": add(mul(r("s", "D", 1, DType.I32), r("q", "D", 0, DType.I32)), Const(1, DType.I32)),
       "y": cast(reduce("sum", r("s", "D", 0, DType.I32), ("D",)), INT)}, "s y",
      draw={"q": lambda rng, shape: rng.integers(-6, 7, shape).astype(np.int32)})  # fmt: skip
_case("truth values as states", {"x": ("D", REAL)}, {}, {"on": ("D", BOOL, False), "odd": ("", BOOL, True)},
      {"on": apply("or", r("on", "D", 1, BOOL), apply("gt", x, number(1.0))),
       "odd": apply("ne", cast(r("odd", "", 1, BOOL), INT), cast(reduce("any", r("on", "D", 0, BOOL), ("D",)), INT)),
       "n": reduce("sum", r("on", "D", 0, BOOL), ("D",)),
       "every": reduce("all", apply("not", r("on", "D", 1, BOOL)), ("D",))}, "on odd n every")  # fmt: skip

_case("numbers of narrower types", {"x": ("D", REAL), "q": ("D", INT)}, {}, {},
      {"y": mul(x, cast(number(0.1), DType.BF16)), "z": mul(x, cast(number(0.1), DType.F32)),
       "n": add(i("q", "D"), cast(cast(whole(3000000001), DType.I32), INT))}, "y z n",
      draw={"q": _tokens})  # fmt: skip

# --- what only derivatives see ---
_case("a gradient stopped", _x, {}, _h,
      {"h": add(mul(apply("stop_gradient", add(x, number(0.25))), number(0.5)), mul(half, h))}, "h",
      schedules=("sequential", "scan"))  # fmt: skip

# --- operators that are no weighted sums ---
for _what, _update in lifted_cases.CASES.items():
    CASES[_what] = Case(_update.rec.ir, ("sequential", "scan"), dict(lifted_cases.DRAW))

PAIRS = [(name, schedule) for name, case in CASES.items() for schedule in case.schedules]


def values(case: Case, rng: np.random.Generator, batch: int, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs (B, T, *dims) and params (*dims)."""

    def drawn(v: Input | Param, lead: tuple[int, ...]) -> np.ndarray:
        shape = (*lead, *(int(d) if d.isdigit() else case.sizes[d] for d in v.dims))
        return case.draw.get(v.name, lambda g, s: 0.6 * g.standard_normal(s))(rng, shape)

    inputs = {v.name: drawn(v, (batch, steps)) for v in case.rec.inputs}
    return inputs, {v.name: drawn(v, ()) for v in case.rec.params}


def agree(name: str, schedule: str, backend: str, rng: np.random.Generator) -> None:
    """Two sequences, continued from values of the caller's, against the definition in float64.

    The bound: a step of these rounds some tens of times, matrices have condition numbers below about 20, states forget
    half at every step: a thousand units of rounding of the largest value."""
    case = CASES[name]
    for batch, steps in ((2, 1), (2, 7)):
        inputs, params = values(case, rng, batch, steps)
        f = recurc.Recurrence(case.rec).compile(
            backend=backend, schedule=schedule, sizes={d.name: case.sizes[d.name] for d in case.rec.dims}
        )
        found, final = f(**inputs, **params, return_final=True)
        wanted = reference.run(case.rec, inputs | params, batch, steps, case.sizes)
        outputs = found if isinstance(found, tuple) else (found,)
        have = dict(zip(case.rec.outputs, outputs, strict=True)) | {f"{n}@final": a for n, a in final.items()}
        for key, value in have.items():
            compare(np.asarray(value), wanted[key], f"{name} by {schedule}, T {steps}: {key}")


def compare(have: np.ndarray, want: np.ndarray, what: str) -> None:
    assert have.shape == want.shape, f"{what}: {have.shape}, expected {want.shape}"
    if want.dtype.kind in "bi":
        np.testing.assert_array_equal(have, want, err_msg=what)
        return
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    np.testing.assert_allclose(have, want, rtol=0, atol=1000 * 2.0**-53 * scale, err_msg=what)
