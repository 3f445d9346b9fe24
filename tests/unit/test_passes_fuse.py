"""Scans in one walk over t: which of a plan's scans are fused and which not, and the rules of the stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import recurc
from recurc import explain, targets
from recurc.errors import CompilerBug
from recurc.ir import Expr, Read, rewrite
from recurc.irtext import plan_to_text
from recurc.passes import make_plan
from recurc.passes.cost import Shape
from recurc.passes.fuse import fuse, side_by_side
from recurc.passes.verify_plan import verify_plan
from recurc.picture.model import picture
from recurc.plan import Fused, Loop, Plan, Role, Scan, taken_apart
from recurc.types import DType
from tests.passes_zoo import agree, random_arrays

SIZES = {"D": 5, "K": 3, "V": 6, "M": 4, "N": 6, "W": 5, "H": 2}
CHAIN = """
recurrence Chain(D):
    input  x[D], y[D], anew: bool
    param  p[D], q[D]
    state  first[D] = 0.5
    state  other[D] = 0
    state  second[D] = 1
    state  third[D] = 0
    state  away[D] = 0
    first = (1 - sigmoid(x * p)) * first[t-1] + sigmoid(x * p) * y
    other = (1 - sigmoid(x * q)) * other[t-1] + sigmoid(x * q) * y
    angle = cos(first[t-1]) + first
    second = if anew then angle else 0.7 * second[t-1] + angle * other
    third = max(third[t-1] - 0.1, second * second[t-1])
    away = tanh(away[t-1] + first)
    output third, away, late = angle - second[t-1]
"""


def plan_of(text: str, schedule: str = "scan", sizes: dict[str, int] = SIZES) -> Plan:
    """Of a text, or of a system of the zoo by its name."""
    rec = recurc.load(text=text) if "\n" in text else recurc.zoo.load(text)
    return make_plan(rec.ir, sizes, 2, 64, DType.F32, targets.named("cpu"), schedule)


def fused(plan: Plan) -> list[list[str]]:
    """The states of each part, by stage."""
    return [[", ".join(p.monoid.states) for p in s.parts] for s in plan.stages if isinstance(s, Fused)]


def sequences(plan: Plan) -> set[str]:
    return {b.name for b in plan.buffers if b.role is Role.SEQUENCE}


@pytest.mark.parametrize(
    ("name", "parts", "levels", "between"),
    [
        ("adam", ["m", "v", "w"], (0, 0, 1), {"m", "v"}),
        ("welford", ["n", "mean", "m2"], (0, 1, 2), {"n"}),
        ("exponential_variance", ["mean", "var"], (0, 1), set[str]()),
        ("linear_attention", ["S", "z"], (0, 0), {"S"}),
        ("mlstm_sigmoid", ["S", "n"], (0, 0), {"S"}),
        ("biquad_cascade", ["first_z1, first_z2", "second_z1, second_z2"], (0, 1), {"first"}),
        ("past_time_logic", ["once", "historically", "since", "count", "run"], (0,) * 5, set[str]()),
    ],
)
def test_neighbouring_scans_run_in_one_pass(
    name: str, parts: list[str], levels: tuple[int, ...], between: set[str]
) -> None:
    plan = plan_of(name)
    (stage,) = (s for s in plan.stages if isinstance(s, Fused))
    assert fused(plan) == [parts] and stage.levels == levels
    assert {b.name for b in stage.between} == between and not between & sequences(plan)
    assert between <= sequences(taken_apart(plan)) and not fused(taken_apart(plan))


def test_what_a_loop_reads_of_a_fused_stage_is_stored_and_the_loop_may_stand_between() -> None:
    plan = plan_of(CHAIN)
    assert fused(plan) == [["first", "other", "second", "third"]]
    assert [type(s).__name__ for s in plan.stages] == ["Fused", "Loop"]
    (stage,) = (s for s in plan.stages if isinstance(s, Fused))
    assert "first" in stage.writes and {b.name for b in stage.between} == {"other", "second"}


def test_a_scan_that_needs_a_loop_behind_the_others_stays_behind_it() -> None:
    plan = plan_of(CHAIN.replace("second * second[t-1]", "second * away"))
    assert fused(plan) == [["first", "other", "second"]]
    assert [type(s) for s in plan.stages] == [Fused, Loop, Scan]


@pytest.mark.parametrize(
    ("name", "apart"),
    [("gsa", {"keys", "values"}), ("abc", {"keys", "values"}), ("dnc_memory", {"link", "M"})],
)
def test_scans_that_would_lose_what_runs_side_by_side_stay_apart(name: str, apart: set[str]) -> None:
    """A softmax over the slots between the two; a matrix of links between places, and one of places by width."""
    assert all(len(apart & set(run)) < 2 for run in fused(plan_of(name)))


def test_a_scan_without_the_dim_of_the_others_joins_them_if_it_is_small() -> None:
    text = """
recurrence Small(K, N, V):
    input  k[K], v[V], u[N]
    state  S[K, V] = 0
    state  n[N] = 0
    S = 0.9 * S[t-1] + k * v
    n = 0.9 * n[t-1] + u
    output o = k @ S, m = sum(n, N)
"""
    assert fused(plan_of(text, sizes={"K": 8, "V": 16, "N": 8})) == [["S", "n"]]
    assert fused(plan_of(text, sizes={"K": 8, "V": 16, "N": 9})) == []


def test_scans_of_matrices_stay_alone() -> None:
    plan = plan_of("hmm_forward")
    assert sum(isinstance(s, Scan) for s in plan.stages) == 2 and not fused(plan)


def test_people_are_told() -> None:
    plan = plan_of("adam")
    assert "m, v and w in one pass over time: m, v stay close and are never stored" in [r.text for r in plan.reasons]
    case = explain.Case({"D": 5}, 2, 64, DType.F32, targets.named("cpu"))
    assert "fused: m, v and w in one pass over t; m, v never stored" in explain.to_text(plan, case)
    assert explain.memory(plan, case)["between stages"] == 0
    assert explain.memory(taken_apart(plan), case)["between stages"] == 2 * 5 * 4 * 2 * 64
    text = plan_to_text(plan)
    assert "fused" in text and "between m" in text and "buffer m " not in text
    boxes = {b.title: b.subtitle for b in picture(plan).boxes}
    assert "in one pass with v, w" in boxes["state m"] and "in one pass with m, v" in boxes["state w"]


def test_the_verifier_knows_the_rules_of_the_stage() -> None:
    plan = plan_of("adam")
    (stage,) = plan.stages
    assert isinstance(stage, Fused)

    def changed(new: Fused, more: tuple[str, ...] = ()) -> Plan:
        return replace(plan, stages=(new,), buffers=(*plan.buffers, *(b for b in stage.between if b.name in more)))

    verify_plan(changed(stage))
    for wrong, why in (
        (changed(replace(stage, parts=stage.parts[::-1])), "part 0: reads"),
        (changed(replace(stage, parts=stage.parts[:1], between=stage.between[:1])), "fewer than two parts"),
        (changed(stage, more=("m",)), "a value between them is a buffer of the plan"),
        (changed(replace(stage, parts=(stage.parts[0], *stage.parts))), "cannot write m"),
        (changed(replace(stage, parts=(stage.parts[0], stage.parts[2]))), "part 1: reads v"),
        (changed(replace(stage, between=stage.between[:1])), "cannot write v"),
    ):
        with pytest.raises(CompilerBug, match=why):
            verify_plan(wrong)


def test_a_name_that_means_different_values_in_two_scans_becomes_two(rng: np.random.Generator) -> None:
    """Names that the compiler makes for one scan need not be unlike those of another."""
    rec = recurc.load(text=CHAIN)
    plan = make_plan(rec.ir, {"D": 5}, 2, 9, DType.F64, targets.named("cpu"), "scan")
    apart = taken_apart(plan)
    first, second, *others = apart.stages
    assert isinstance(first, Scan) and isinstance(second, Scan)
    (one,), (two,) = ([e.name for e in s.pre] for s in (first, second))

    def renamed(expr: Expr) -> Expr:
        return rewrite(expr, lambda n: replace(n, name=one) if isinstance(n, Read) and n.name == two else n)

    monoid = replace(second.monoid, lift=tuple(map(renamed, second.monoid.lift)))
    alike = replace(second, monoid=monoid, pre=(replace(second.pre[0], name=one),))
    again = fuse(replace(apart, stages=(first, alike, *others)), side_by_side(Shape({"D": 5}, 2, 9, 8)))
    stage = again.stages[0]
    assert isinstance(stage, Fused) and len({e.name for p in stage.parts[:2] for e in p.pre}) == 2
    arrays = random_arrays(rec.ir, rng, 2, 9, {"D": 5}) | {"anew": rng.random((2, 9)) < 0.5}
    agree(rec.ir, again, arrays, 2, 9, {"D": 5})
    unlike = replace(stage, parts=(first, alike, *stage.parts[2:]))
    with pytest.raises(CompilerBug, match="a name means another value"):
        verify_plan(replace(again, stages=(unlike, *again.stages[1:])))
