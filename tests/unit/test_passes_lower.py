"""Plans mean what the definition says, for every small recurrence, legal schedule and size, and look as they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.errors import CompilerBug
from recurc.ir import Expr, Read, reads
from recurc.passes import make_plan
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Fused, Loop, Map, Matmul, Plan, Role, Scan, Stage, taken_apart
from recurc.types import DType
from tests.passes_zoo import SIZES, ZOO, agree, random_arrays
from tests.systems import SYSTEMS

CASES = [
    (name, s) for name, (_, _, legal) in ZOO.items() for s in sorted({x for group in legal for x in group} or {"auto"})
]
BIG = {"D": 40, "H": 24, "K": 18, "V": 34}


def plan_of(
    name: str, schedule: str, sizes: dict[str, int], batch: int = 2, steps: int = 9, target: str = "cpu"
) -> Plan:
    build = ZOO[name][0] if name in ZOO else SYSTEMS[name]
    return make_plan(build(), sizes, batch, steps, DType.F64, targets.named(target), schedule)


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
@pytest.mark.parametrize(("name", "schedule"), CASES)
def test_a_plan_means_what_the_definition_says(name: str, schedule: str, steps: int, rng: np.random.Generator) -> None:
    recurrence = ZOO[name][0]()
    for sizes in (SIZES, BIG):
        plan = plan_of(name, schedule, sizes, 3, steps)
        agree(recurrence, plan, random_arrays(recurrence, rng, 3, steps, sizes), 3, steps, sizes)


def kinds(plan: Plan) -> list[str]:
    return [type(s).__name__ for s in plan.stages]


def of_role(plan: Plan, role: Role) -> list[str]:
    return [b.name for b in plan.buffers if b.role is role]


def test_input_projections_leave_the_loop_as_one_matmul() -> None:
    plan = plan_of("lstm", "auto", {"D": 40, "H": 24})
    assert kinds(plan) == ["Matmul", "Loop"]
    matmul, loop = plan.stages
    assert isinstance(matmul, Matmul) and isinstance(loop, Loop)
    assert of_role(plan, Role.SEQUENCE) == [matmul.target]
    assert [c.name for c in loop.carries] == ["h", "c"]
    assert loop.writes == ("h",)


def test_a_tiny_projection_stays_in_the_loop() -> None:
    assert kinds(plan_of("lstm", "auto", {"D": 3, "H": 7})) == ["Loop"]


def test_the_selective_scan_stores_no_value_of_the_size_of_its_state() -> None:
    plan = plan_of("selective_scan", "scan", {"D": 64, "N": 16})
    assert kinds(plan) == ["Map", "Scan"]
    once, scan = plan.stages
    assert isinstance(once, Map) and not once.over_time
    assert isinstance(scan, Scan) and [e.name for e in scan.pre] == ["dt"] and [e.name for e in scan.post] == ["y"]
    assert of_role(plan, Role.SEQUENCE) == []


def test_an_expression_of_params_is_computed_once_per_call() -> None:
    plan = plan_of("selective_scan", "sequential", {"D": 64, "N": 16})
    assert of_role(plan, Role.ONCE) == ["exp_A_log"]
    assert isinstance(plan.stages[0], Map) and plan.stages[0].writes == ("exp_A_log",)


def test_a_weight_that_is_a_named_slice_of_a_param_is_stored_for_the_matmul(rng: np.random.Generator) -> None:
    rec = recurc.load(
        text="""
recurrence Sliced(D, H):
    input x[D]
    param W[2, H, D]
    state h[H] = 0
    a, b = W
    h = 0.5 * h[t-1] + a @ x
    output h, a, y = b @ x
"""
    ).ir
    plan = make_plan(rec, BIG, 3, 9, DType.F64, targets.named("cpu"), "auto")
    assert kinds(plan).count("Matmul") == 2
    agree(rec, plan, random_arrays(rec, rng, 3, 9, BIG), 3, 9, BIG)


def test_a_projection_between_two_layers_splits_the_loop_and_an_output_projection_is_sunk() -> None:
    plan = plan_of("stacked", "auto", BIG)
    assert kinds(plan) == ["Matmul", "Loop", "Matmul", "Loop", "Matmul", "Map"]
    first, second = (s for s in plan.stages if isinstance(s, Loop))
    assert set(first.writes) == {"h", "mid"} and set(second.writes) == {"g", "both"}
    small = plan_of("stacked", "auto", SIZES)
    assert kinds(small) == ["Loop"], "tiny projections are not worth a second pass"


def test_adjacent_sequential_groups_share_one_loop_and_scans_one_fused_stage() -> None:
    assert kinds(plan_of("moving_variance", "sequential", SIZES)) == ["Loop"]
    plan = plan_of("moving_variance", "scan", SIZES)
    assert kinds(plan) == ["Fused"] and of_role(plan, Role.SEQUENCE) == []
    apart = taken_apart(plan)
    assert kinds(apart) == ["Scan", "Scan"]
    assert of_role(apart, Role.SEQUENCE) == ["mu"], "the second scan reads the first one's state, also one step back"


def test_a_schedule_can_be_forced_per_group() -> None:
    plan = plan_of("moving_variance", "mu=scan, var=sequential", SIZES)
    assert plan.schedules == ("scan", "sequential") and kinds(plan) == ["Scan", "Loop"]


def test_mixed_schedules_mean_the_same(rng: np.random.Generator) -> None:
    for schedule in ("mu=scan,var=sequential", "mu=sequential,var=scan"):
        recurrence = ZOO["moving_variance"][0]()
        agree(recurrence, plan_of("moving_variance", schedule, SIZES), random_arrays(recurrence, rng, 2, 9), 2, 9)


def test_a_costly_gate_is_computed_once_per_step_of_a_scan() -> None:
    plan = plan_of("normed", "scan", SIZES)
    scan = next(s for s in plan.stages if isinstance(s, Scan))
    text = repr((scan.pre, scan.monoid.lift))
    assert text.count("op='sigmoid'") == 1


def test_a_recurrence_without_states_is_maps_and_matmuls() -> None:
    plan = plan_of("stateless", "auto", BIG)
    assert kinds(plan) == ["Map", "Matmul", "Map"]
    assert set(of_role(plan, Role.OUTPUT)) == {"y", "s", "x@out"}
    assert not of_role(plan, Role.INITIAL) and not of_role(plan, Role.FINAL)


def test_every_state_has_an_initial_and_a_final_buffer_also_those_a_lag_adds() -> None:
    plan = plan_of("lags", "auto", SIZES)
    states = {"h", "h@lag1", "h@lag2", "x@lag1"}
    assert set(of_role(plan, Role.FINAL)) == {f"{s}@final" for s in states}
    assert set(of_role(plan, Role.INITIAL)) == {f"{s}@initial" for s in states} | {"x@initial"}
    assert {s.name for s in plan.recurrence.states} == states


@pytest.mark.parametrize("name", [*SYSTEMS, *ZOO])
def test_nothing_in_a_plan_is_computed_for_no_one(name: str) -> None:
    sizes = {"D": 40, "H": 24, "N": 16, "K": 18, "V": 34}
    plan = plan_of(name, "auto", sizes)
    read = {r.name for s in plan.stages for e in _exprs(s) for r in reads(e)}
    for stage in plan.stages:
        carries = {c.name for c in stage.carries} if isinstance(stage, Loop | Scan | Fused) else set[str]()
        for equation in stage.body:
            assert equation.name in read or equation.name in stage.writes or equation.name in carries, equation.name


def _exprs(stage: Stage) -> list[Expr]:
    own = [stage.expr] if isinstance(stage, Matmul) else [e.expr for e in stage.body]
    scans = stage.parts if isinstance(stage, Fused) else (stage,) if isinstance(stage, Scan) else ()
    return own + [e for scan in scans for e in scan.monoid.lift]


def test_the_verifier_catches_a_plan_that_reads_what_nothing_made() -> None:
    plan = plan_of("lstm", "auto", {"D": 40, "H": 24})
    with pytest.raises(CompilerBug, match="reads W_x"):
        verify_plan(replace(plan, stages=plan.stages[::-1]))
    with pytest.raises(CompilerBug, match="no stage"):
        verify_plan(replace(plan, stages=plan.stages[:1]))
    wrong = tuple(replace(b, role=Role.SEQUENCE) if b.role is Role.OUTPUT else b for b in plan.buffers)
    with pytest.raises(CompilerBug, match="output h"):
        verify_plan(replace(plan, buffers=wrong))


def test_the_verifier_catches_a_scan_whose_element_reads_its_own_state() -> None:
    plan = plan_of("ema", "scan", SIZES)
    (scan,) = plan.stages
    assert isinstance(scan, Scan)
    bad = replace(scan.monoid, lift=(scan.monoid.lift[0], Read("h", 1, ("D",), DType.REAL)))
    with pytest.raises(CompilerBug, match="reads h"):
        verify_plan(replace(plan, stages=(replace(scan, monoid=bad),)))


def test_a_reset_forgets_an_infinite_past_in_a_scan_too(rng: np.random.Generator) -> None:
    recurrence = ZOO["resets"][0]()
    arrays = random_arrays(recurrence, rng, 2, 9)
    arrays["z"][:, :5] = 0.0
    arrays["z"][:, 5] = 1.0
    arrays["x"][:, 2] = np.inf
    for schedule in ("sequential", "scan"):
        agree(recurrence, plan_of("resets", schedule, SIZES), arrays, 2, 9)


def test_scores_of_minus_infinity_weigh_nothing_in_a_scan(rng: np.random.Generator) -> None:
    recurrence = SYSTEMS["aaren"]()
    arrays = random_arrays(recurrence, rng, 2, 9)
    arrays["s"][:, 3:6] = -np.inf
    plan = plan_of("aaren", "scan", SIZES)
    agree(recurrence, plan, arrays, 2, 9)
