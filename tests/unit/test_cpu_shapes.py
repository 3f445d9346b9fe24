"""Values that move between places, and small matrices, in native code: against the definition, for every way in which
a body is printed (written out, lanes and their ragged rest, loops, scans, maps, once per call, products)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import recurc
from recurc import passes, targets
from recurc.backends import reference
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND
from recurc.build import (
    broadcast,
    conv,
    eye,
    gather,
    index,
    linalg,
    lookup,
    matmul,
    one_hot,
    reduce,
    rename,
    transpose,
    unfold,
)  # fmt: skip
from recurc.ir import Const, Equation, Expr, Input, Param, Read, Recurrence, Size, State, Step, reads
from recurc.ops import add, apply, cast, convert, mul, number, select
from recurc.plan import Role
from recurc.types import DimDecl, Dims, DType, Kind

pytestmark = pytest.mark.skipif(BACKEND.unavailable() is not None, reason="no C compiler here")

SIZES = {"D": 19, "N": 5, "K": 3, "X": 7, "Y": 21, "C": 2, "O": 4, "V": 11, "R": 5, "Q": 5}
REAL, INT, BOOL = DType.REAL, DType.I64, DType.BOOL
INPUTS: dict[str, tuple[str, DType]] = {
    "x": ("D", REAL), "n": ("N", REAL), "s": ("", REAL), "i": ("", INT), "j": ("N", INT), "d": ("D", INT),
    "m": ("N N", REAL), "dm": ("N D", REAL), "field": ("C X Y", REAL), "line": ("Y", REAL), "b": ("D", BOOL),
}  # fmt: skip
PARAMS: dict[str, str] = {
    "table": "V D", "four": "4 D", "W": "D D", "w3": "3", "wK": "O C K", "w33": "O C 3 3", "wide": "11", "A": "N N",
    "deep": "V D D", "each": "C 3",
}  # fmt: skip


def r(name: str, lag: int = 0) -> Read:
    if name in INPUTS:
        dims, dtype = INPUTS[name]
        return Read(name, lag, tuple(dims.split()), dtype)
    return Read(name, 0, tuple(PARAMS[name].split()), REAL)


def recurrence(name: str, outputs: dict[str, Expr], states: dict[str, tuple[Expr, Expr]]) -> Recurrence:
    """`states`: name -> (equation, initial value); states are read as `state(...)`."""
    read = {n.name for e in (*outputs.values(), *(u for u, _ in states.values())) for n in reads(e)}
    inputs = tuple(Input(n, tuple(d.split()), t, _zero(t)) for n, (d, t) in INPUTS.items() if n in read or n == "s")
    params = tuple(Param(n, tuple(d.split())) for n, d in PARAMS.items() if n in read)
    equations = [Equation(n, u) for n, (u, _) in states.items()] + [Equation(n, e) for n, e in outputs.items()]
    held = tuple(State(n, u.dims, u.dtype, start) for n, (u, start) in states.items())
    return Recurrence(
        name, tuple(DimDecl(d) for d in SIZES), inputs, params, held, tuple(equations), (*outputs, *states)
    )


def _zero(dtype: DType) -> Const:
    return {Kind.INT: Const(1, dtype), Kind.BOOL: Const(False, dtype)}.get(dtype.kind, number(0.5))


def state(name: str, dims: str, dtype: DType = REAL, lag: int = 1) -> Read:
    return Read(name, lag, tuple(dims.split()), dtype)


def shape(dims: Dims) -> tuple[int, ...]:
    return tuple(SIZES.get(d) or int(d) for d in dims)


def agree(
    rec: Recurrence, rng: np.random.Generator, reals: tuple[DType, ...] = (DType.F64, DType.F32),
    schedules: tuple[str, ...] = ("auto",), batch: int = 3, steps: int = 6, room: float = 64,
) -> dict[str, str]:  # fmt: skip
    """The native results against the reference's, within some units of rounding; gives the sources."""
    spec_sizes = tuple(sorted(SIZES.items()))
    given: dict[str, np.ndarray] = {}
    for i in rec.inputs:
        full = (batch, steps, *shape(i.dims))
        given[i.name] = {
            Kind.INT: rng.integers(-2, 9, full), Kind.BOOL: rng.random(full) < 0.5
        }.get(i.dtype.kind, rng.standard_normal(full).astype(np.float32))  # fmt: skip
    given |= {p.name: (0.4 * rng.standard_normal((1, *shape(p.dims)))).astype(np.float32) for p in rec.params}
    exact = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in given.items()}
    want = reference.run(rec, exact, batch, steps, dict(SIZES))
    sources: dict[str, str] = {}
    for real in reals:
        for schedule in schedules:
            plan = passes.make_plan(rec, dict(SIZES), batch, steps, real, targets.named("cpu"), schedule)
            spec = Specialization(spec_sizes, real)
            assert BACKEND.limitations(plan, spec) == []
            kernel = BACKEND.build(plan, spec)
            sources |= kernel.source
            arrays: dict[str, np.ndarray] = {}
            results: dict[str, np.ndarray] = {}
            for buffer in plan.buffers:
                dtype = real.to_numpy() if buffer.dtype.kind is Kind.REAL else buffer.dtype.to_numpy()
                match buffer.role:
                    case Role.INPUT | Role.PARAM:
                        arrays[buffer.name] = np.broadcast_to(
                            given[buffer.name].astype(dtype), (batch, *given[buffer.name].shape[1:])
                        )
                    case Role.INITIAL:
                        name = buffer.name.removesuffix("@initial")
                        start = next((s.initial for s in plan.recurrence.states if s.name == name), None)
                        start = start or next(i.before for i in rec.inputs if i.name == name)
                        assert start is not None
                        value = reference.evaluate(start, {(n, 0): a for n, a in exact.items()}, dict(SIZES))
                        arrays[buffer.name] = np.broadcast_to(value.astype(dtype), (batch, *shape(buffer.dims))).copy()
                    case Role.OUTPUT | Role.FINAL:
                        lead = (batch, steps) if buffer.has_time else (batch,)
                        results[buffer.name] = np.full((*lead, *shape(buffer.dims)), 99, dtype)
                    case _:
                        pass
            kernel(arrays | results, batch, steps)
            for name, found in results.items():
                if name not in want:
                    continue
                unit = 2.0**-53 if real is DType.F64 else 2.0**-24
                scale = max(1.0, float(np.nanmax(np.abs(want[name]), initial=0.0)))
                with np.errstate(invalid="ignore"):
                    near = np.abs(found.astype(np.float64) - want[name]) <= room * unit * scale
                fine = near | (found == want[name]) | (np.isnan(found) & np.isnan(want[name]))
                assert fine.all(), (
                    f"{rec.name}, {real!r}, {schedule}: {name}\n{found[~fine][:4]}\n{want[name][~fine][:4]}"
                )
    return sources


def hidden(step: Expr) -> dict[str, tuple[Expr, Expr]]:
    """A nonlinear state over D, so that the plan is a loop."""
    return {"h": (apply("tanh", add(mul(number(0.5), state("h", "D")), step)), number(0.1))}


def test_places_along_dims(rng: np.random.Generator) -> None:
    count = convert(index("D"), REAL)
    outputs = {
        "along": mul(count, r("x")),
        "hot": one_hot(r("i"), "N"),
        "hots": one_hot(r("j"), "D"),
        "seen": select(apply("lt", index("D"), add(r("i"), Const(4, INT))), r("x"), number(-1.0)),
        "parity": apply("mod", index("D"), Const(2, INT)),
        "mask": apply("le", index("N"), index("D")),
        "corner": broadcast(r("s"), ("N", "4", "D")),
        "eye": mul(r("s"), eye("N")),
        "ring": select(apply("eq", index("N"), apply("mod", Step(), Size("N"))), r("s"), state("ring", "N")),
    }
    ring = outputs.pop("ring")
    agree(recurrence("Places", outputs, {"ring": (ring, number(0.0)), **hidden(r("x"))}), rng)


def test_gathers_and_tables(rng: np.random.Generator) -> None:
    outputs = {
        "row": lookup(r("table"), r("i")),
        "rows": lookup(r("table"), r("j")),
        "element": lookup(r("table"), r("i"), r("i")),
        "each": lookup(r("table"), r("d")),
        "own": gather(r("dm"), 0, r("d")),
        "late": lookup(r("x", 1), r("j")),
        "literal": lookup(r("four"), r("i")),
        "literals": gather(r("four"), 0, r("d")),
        "computed": lookup(apply("tanh", mul(r("table"), r("s"))), r("i")),
        "of sums": lookup(matmul(r("W"), r("x")), r("i")),
        "place of largest": lookup(r("x"), reduce("argmax", r("n"))),
        "product": matmul(r("W"), lookup(r("table"), r("i"))),
        "expert": matmul(lookup(r("deep"), r("i")), r("x")),
        "reversed": lookup(r("x"), apply("sub", apply("sub", Size("D"), Const(1, INT)), index("D"))),
    }
    outputs = {n.replace(" ", "_"): e for n, e in outputs.items()}
    agree(recurrence("Gathers", outputs, {}), rng)
    four = Equation("f", mul(r("four"), r("s")))
    made = Read("f", 0, ("4", "D"), REAL)
    rec = recurrence("Local", {"f": four.expr, "y": lookup(made, r("i")), "z": lookup(made, Const(2, INT))}, {})
    agree(rec, rng)
    scan = {"h": (add(mul(number(0.9), state("h", "D")), lookup(r("table"), r("i"))), number(0.1))}
    rec = recurrence("GatherScan", {"y": lookup(state("h", "D", lag=0), r("j"))}, scan)
    agree(rec, rng, schedules=("sequential", "scan"), steps=33)
    loop = hidden(add(lookup(r("table"), r("i")), matmul(r("W"), state("h", "D"))))
    agree(recurrence("GatherLoop", {"y": lookup(state("h", "D", lag=0), r("j"))}, loop), rng)


def test_places_that_wrap_around_mean_an_end_of_the_axis(rng: np.random.Generator) -> None:
    """Places up to 16e9 as narrow integers: this one is -296, and nothing lies there."""
    k = Read("k", 0, (), DType.I32)
    bounded = apply("mod", k, cast(Const(16_000_000, INT), DType.I32))
    place = apply("mul", bounded, cast(Const(1000, INT), DType.I32))
    table = Input("table", ("N",))
    rec = Recurrence(
        "Far", (DimDecl("N"),), (Input("k", (), DType.I32), table), (), (),
        (Equation("y", lookup(Read("table", 0, ("N",), REAL), place)),), ("y",),
    )  # fmt: skip
    values = rng.standard_normal((1, 200, 5))
    found = recurc.Recurrence(rec).compile(backend="cpu")(k=np.full((1, 200), 4_294_967, np.int32), table=values)
    np.testing.assert_array_equal(found, values[..., 0])


@pytest.mark.parametrize("window", ["4", "N"])
def test_windows_shift(window: str, rng: np.random.Generator) -> None:
    dims = f"{window} D"
    size = Const(4, INT) if window == "4" else Size("N")
    last = apply("sub", size, Const(1, INT))
    shifted = lookup(state("kept", dims), add(index(window), Const(1, INT)))
    kept = select(apply("eq", index(window), last), r("x"), shifted)
    first = mul(number(0.1), mul(convert(index(window), REAL), broadcast(number(1.0), ("D",))))
    outputs = {"oldest": lookup(state("kept", dims, lag=0), Const(0, INT))}
    outputs["mean"] = reduce("sum", state("kept", dims, lag=0), (window,))
    agree(recurrence("Window", outputs, {"kept": (kept, first)}), rng)


def test_memories_are_written_and_read_at_computed_places(rng: np.random.Generator) -> None:
    """A ring buffer read behind its head, and a stack."""
    head = apply("mod", Step(), Size("N"))
    memory = select(apply("eq", index("N"), head), r("x"), state("memory", "N D"))
    behind = apply("mod", apply("sub", head, Const(2, INT)), Size("N"))
    pointer = apply("clamp", add(state("p", "", INT), r("i")), Const(0, INT), Const(4, INT))
    stack = select(apply("eq", index("N"), state("p", "", INT, 0)), r("n"), state("stack", "N"))
    rec = recurrence(
        "Memory",
        {"read": lookup(state("memory", "N D", lag=0), behind), "top": lookup(state("stack", "N", lag=0), r("i"))},
        {
            "memory": (memory, broadcast(number(0.0), ("N", "D"))), "p": (pointer, Const(0, INT)),
            "stack": (stack, number(0.0)),
        },
    )  # fmt: skip
    agree(rec, rng, steps=9)


def test_convolutions(rng: np.random.Generator) -> None:
    field = r("field")
    outputs = {
        "same": conv(r("w3"), r("line"), ["Y"]),
        "ring": conv(r("w3"), r("line"), ["Y"], True),
        "many taps": conv(r("wide"), r("n"), ["N"], True),
        "many zero": conv(r("wide"), r("n"), ["N"]),
        "channels": conv(r("wK"), field, ["Y"]),
        "planes": conv(r("w33"), field, ["X", "Y"]),
        "ring planes": conv(r("w33"), apply("tanh", field), ["X", "Y"], True),
        "summed channels": conv(r("each"), field, ["Y"]),
        "of sums": conv(r("w3"), reduce("sum", field, ("C", "X")), ["Y"]),
        "twice": conv(r("w3"), conv(r("w3"), r("line"), ["Y"]), ["Y"]),
        "depthwise": reduce("sum", mul(rename(r("each"), ("C", "K")), _near(field)), ("K",)),
        "literal": conv(r("w3"), lookup(r("four"), Const(0, INT)), ["D"]),
    }
    outputs = {n.replace(" ", "_"): e for n, e in outputs.items()}
    agree(recurrence("Conv", outputs, {}), rng)
    cell = apply("tanh", add(conv(r("w33"), field, ["X", "Y"]), mul(number(0.3), state("h", "O X Y"))))
    near = conv(r("w3"), state("h", "O X Y"), ["Y"])
    agree(recurrence("ConvLoop", {}, {"h": (apply("tanh", add(cell, near)), number(0.0))}), rng)


def _near(field: Expr) -> Expr:
    return unfold(field, ["Y"], ("K",))


def test_matrix_operations(rng: np.random.Generator) -> None:
    well = add(mul(number(0.2), r("m")), mul(number(2.0), _eye()))
    spd = add(matmul(r("m"), rename(transpose(r("m")), ("N", "N"))), _eye())
    outputs = {
        "inv": linalg("inv", well),
        "solve": linalg("solve", well, r("n")),
        "solve many": linalg("solve", well, r("dm")),
        "cholesky": linalg("cholesky", spd),
        "phi1": linalg("phi1", r("m")),
        "dphi1": linalg("dphi1", mul(number(3.0), r("m")), transpose(r("m"))),
        "zero": linalg("phi1", mul(number(0.0), r("m"))),
        "batch": linalg("inv", add(mul(number(0.1), mul(r("x"), rename(r("m"), ("R", "Q")))), _eye("R", "Q"))),
        "singular": linalg("inv", mul(number(0.0), r("m"))),
        "indefinite": linalg("cholesky", mul(number(-1.0), spd)),
        "of a step": lookup(linalg("solve", well, r("n")), r("i")),
        "param": matmul(linalg("inv", add(r("A"), mul(number(3.0), _eye()))), r("n")),
    }
    outputs = {n.replace(" ", "_"): e for n, e in outputs.items()}
    agree(recurrence("Matrices", outputs, {}), rng, room=4096)
    kalman = linalg("inv", add(mul(number(0.5), state("P", "N N")), add(spd, _eye())))
    agree(
        recurrence("Riccati", {"y": matmul(state("P", "N N", lag=0), r("n"))}, {"P": (kalman, _eye())}), rng, room=4096
    )


def _eye(rows: str = "N", columns: str = "") -> Expr:
    unit = eye(rows)
    return rename(unit, (rows, columns)) if columns else unit


def test_integers_wrap_and_long_products_are_exact(rng: np.random.Generator) -> None:
    modulus = Const(2**31 - 1, INT)
    seed = state("seed", "", INT)
    next_seed = apply("mod", add(mul(Const(48271, INT), seed), r("i")), modulus)
    mixed = add(mul(Const(6364136223846793005, INT), state("mix", "D", INT)), Const(1442695040888963407, INT))
    flips = apply("or", apply("and", state("flip", "D", BOOL), r("b")), apply("gt", r("x"), number(1.0)))
    rec = recurrence(
        "Integers",
        {"uniform": apply("div", convert(state("seed", "", INT, 0), REAL), convert(modulus, REAL)),
         "total": reduce("sum", state("mix", "D", INT, 0), ("D",))},
        {"seed": (next_seed, Const(12345, INT)), "mix": (apply("sub", mixed, r("d")), Const(7, INT)),
         "flip": (flips, Const(True, BOOL))},
    )  # fmt: skip
    agree(rec, rng, steps=40)


def test_generated_code_is_clean(rng: np.random.Generator, tmp_path: Path) -> None:
    outputs = {
        "y": conv(r("w33"), r("field"), ["X", "Y"]),
        "z": linalg("phi1", r("m")),
        "v": linalg("dphi1", r("m"), r("m")),
        "u": lookup(r("table"), r("i")),
    }
    for name, text in agree(recurrence("Clean", outputs, hidden(r("x"))), rng).items():
        (tmp_path / name).write_text(text)
        command = ["gcc", "-std=gnu11", "-march=native", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-c"]
        done = subprocess.run([*command, name, "-o", "a.o"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
