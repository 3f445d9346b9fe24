"""Random recurrences of several states, with projections, lags and emits in between: every plan computes what the
definition says, whichever legal schedule each group is given and wherever the projections go."""

from __future__ import annotations

import random

import numpy as np
import pytest

from recurc import targets
from recurc.build import matmul
from recurc.ir import Expr, Read, Recurrence
from recurc.ops import add, apply, mul, number, sub
from recurc.passes import analyze, make_plan
from recurc.plan import Loop, Matmul, Scan
from recurc.types import DType
from tests.passes_zoo import agree, random_arrays, rec, v

SMALL, LARGE = {"D": 5, "H": 3, "K": 2, "V": 4}, {"D": 5, "H": 23, "K": 2, "V": 4}


def program(dice: random.Random) -> Recurrence:
    """Up to four states and some equations between them, over one dim."""
    count = dice.randint(1, 4)
    states = {f"s{i}": (("H",), 0.25 * i) for i in range(count)}
    equations: dict[str, Expr] = {}
    known: list[str] = ["x", "u", "p"]  # readable at this step

    def leaf() -> Expr:
        kind = dice.random()
        if kind < 0.25:
            return Read(f"s{dice.randrange(count)}", dice.choice((1, 1, 1, 2)), ("H",), DType.REAL)
        if kind < 0.3:
            return Read("x", dice.choice((1, 2)), ("H",), DType.REAL)
        return v(dice.choice(known), "H")

    def value(depth: int) -> Expr:
        if depth == 0:
            return leaf()
        match dice.randrange(7):
            case 0:
                return matmul(v(dice.choice(("W", "U")), "H", "H"), mul(number(0.1), value(depth - 1)))
            case 1:
                return matmul(v(dice.choice(("W", "U")), "H", "H"), leaf())
            case 2:
                return apply("tanh", value(depth - 1))
            case 3:
                return mul(apply("sigmoid", v(dice.choice(known), "H")), value(depth - 1))
            case 4:
                return sub(value(depth - 1), leaf())
            case 5:
                return mul(apply("exp", mul(number(-1.0), v("p", "H"))), value(depth - 1))
            case _:
                return add(value(depth - 1), value(depth - 1))

    def update(name: str) -> Expr:
        own = Read(name, 1, ("H",), DType.REAL)
        now = [n for n in known if n not in ("p",)]
        match dice.randrange(4):
            case 0:
                return add(mul(apply("sigmoid", v("x", "H")), own), mul(number(0.2), v(dice.choice(now), "H")))
            case 1:
                return apply("max", sub(own, number(0.1)), v(dice.choice(now), "H"))
            case 2:
                return add(mul(number(0.5), own), apply("tanh", value(2)))
            case _:
                return apply("tanh", value(2))

    for i in range(count):
        for k in range(dice.randint(0, 2)):
            equations[f"e{i}_{k}"] = apply("tanh", value(2))
            known.append(f"e{i}_{k}")
        equations[f"s{i}"] = update(f"s{i}")
        known.append(f"s{i}")
    equations["y"] = value(3)
    outputs = dict.fromkeys(["y", *dice.sample([n for n in known if n != "p"], dice.randint(0, 2))])
    shapes = {"W": ("H", "H"), "U": ("H", "H"), "p": ("H",)}
    return rec("Random", {"x": ("H",), "u": ("H",)}, shapes, states, equations, tuple(outputs), {"x": 0.5})


@pytest.mark.parametrize("turn", range(60))
def test_any_mixture_of_schedules_means_the_same(turn: int, seed: int) -> None:
    dice = random.Random(seed + turn)
    source = program(dice)
    rng = np.random.default_rng(seed + turn)
    for sizes in (SMALL, LARGE):
        arrays = random_arrays(source, rng, 2, 5, sizes)
        for name in ("W", "U"):
            arrays[name] = arrays[name] / sizes["H"]
        groups = analyze(source).groups
        forced = ",".join(f"{g.states[0]}={dice.choice((*g.schedules, *g.on_request))}" for g in groups)
        for schedule in ("auto", forced):
            plan = make_plan(source, sizes, 2, 5, DType.F64, targets.named("cpu"), schedule)
            agree(source, plan, arrays, 2, 5, sizes)


def test_the_random_programs_cover_every_kind_of_stage() -> None:
    met: set[type] = set()
    for turn in range(60):
        source = program(random.Random(turn))
        plan = make_plan(source, LARGE, 2, 4096, DType.F64, targets.named("sm_90"))
        met |= {type(s) for s in plan.stages}
    assert {Loop, Matmul, Scan} <= met
