"""Schedules: the cheapest legal one by default, a forced one if legal, and reasons a person can follow."""

from __future__ import annotations

import re
import time

import pytest

from recurc import targets
from recurc.errors import RecurcError, UnsupportedError
from recurc.ir import Recurrence
from recurc.passes import analyze, make_plan
from recurc.plan import Map, Matmul, Plan
from recurc.types import DType
from tests.passes_zoo import ZOO
from tests.systems import SYSTEMS

SMALL = {"D": 4, "H": 3, "N": 2, "K": 2, "V": 4}
CPU = targets.cpu(cores=8, simd_bytes=32, bandwidth=5e10)


def build(name: str) -> Recurrence:
    return SYSTEMS[name]() if name in SYSTEMS else ZOO[name][0]()


def plan(
    name: str,
    target: targets.Target,
    schedule: str = "auto",
    batch: int = 1,
    steps: int = 4096,
    sizes: dict[str, int] | None = None,
) -> Plan:
    return make_plan(build(name), sizes or SMALL, batch, steps, DType.F32, target, schedule)


def text(found: Plan) -> str:
    return " | ".join([*(c.reason for c in found.candidates), *map(str, found.reasons)])


def test_a_cpu_with_busy_lanes_stays_sequential_and_says_so() -> None:
    found = plan("selective_scan", CPU, batch=4, sizes={"D": 512, "N": 16})
    assert found.schedules == ("sequential",)
    assert re.search(r"batch x lanes = 32,768 keep .* busy", text(found))


def test_a_cpu_with_idle_lanes_scans_a_long_sequence_and_says_so() -> None:
    found = plan("selective_scan", CPU, sizes={"D": 2, "N": 2}, steps=100_000)
    assert found.schedules == ("scan",)
    assert "On a CPU time-parallelism pays only when batch x lanes leaves cores or SIMD lanes idle" in text(found)


def test_one_core_never_scans() -> None:
    one = targets.cpu(cores=1)
    for name in ("ema", "selective_scan", "aaren", "max_plus"):
        assert plan(name, one, steps=100_000).schedules == ("sequential",)


def test_a_gpu_scans_few_lanes_and_loops_over_many() -> None:
    sm_90 = targets.named("sm_90")
    assert plan("ema", sm_90, steps=65_536, sizes={"D": 16}).schedules == ("scan",)
    assert plan("ema", sm_90, batch=256, steps=512, sizes={"D": 4096}).schedules == ("sequential",)


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", [*SYSTEMS, *ZOO])
def test_every_legal_schedule_is_weighed_and_exactly_one_is_chosen_per_group(name: str, target: str) -> None:
    found = plan(name, targets.named(target))
    groups = found.analysis.groups
    weighed = [c for c in found.candidates if not c.schedule.startswith(("matmul ", "map "))]
    assert len(weighed) == sum(len(g.schedules) + len(g.on_request) for g in groups)
    assert sum(c.chosen for c in weighed) == len(groups)
    assert len(found.candidates) - len(weighed) == sum(isinstance(s, Map | Matmul) for s in found.stages)
    assert all(c.seconds > 0 and c.flops >= 0 and c.bytes_moved >= 0 and c.reason for c in found.candidates)


def test_costs_grow_with_the_work() -> None:
    for schedule in ("sequential", "scan"):
        times = [
            min(c.seconds for c in plan("ema", CPU, schedule, 8, t).candidates if c.chosen)
            for t in (1000, 10_000, 100_000)
        ]
        assert times == sorted(times) and times[2] > times[0]


@pytest.mark.parametrize("name", ["lstm", "gru", "lif", "sru_v", "delta_rule"])
def test_an_illegal_schedule_is_refused_with_the_legal_ones_and_the_reason(name: str) -> None:
    with pytest.raises(RecurcError) as refused:
        plan(name, CPU, "scan")
    message = str(refused.value)
    assert "`scan` is not legal" in message and "sequential" in message and "because" in message


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("chunky", "no schedule `chunky`"),
        ("chunkwise", "`chunkwise` is not legal here"),
        ("", "no schedule"),
        ("q=scan", "no state `q`"),
        ("h=newton", "not legal"),
        ("h=", "not legal"),
        ("h=scan,h", "not legal"),
        ("h=scan, h=sequential", "h cannot be scan and sequential at once"),
    ],
)
def test_a_misspelt_schedule_is_refused_by_name(schedule: str, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        plan("ema", CPU, schedule)


def test_a_schedule_for_a_recurrence_without_states_is_refused_kindly() -> None:
    with pytest.raises(UnsupportedError, match="needs a state"):
        plan("stateless", CPU, "scan")


def test_forcing_scan_leaves_a_group_that_cannot_scan_sequential_and_says_so() -> None:
    found = plan("lags", CPU, "sequential")
    assert set(found.schedules) == {"sequential"}
    found = plan("lags", CPU, "scan")
    assert found.schedules == ("sequential", "scan")
    assert any("stays sequential: scan is not legal for class SH" in str(r) for r in found.reasons)


def test_unknown_targets_are_refused_and_variants_found() -> None:
    assert targets.named("sm_90a") is targets.named("sm_90")
    with pytest.raises(UnsupportedError, match="no target `sm_12`"):
        targets.named("sm_12")


@pytest.mark.parametrize("name", SYSTEMS)
def test_analysis_is_quick(name: str) -> None:
    recurrence = build(name)
    analyze(recurrence)  # imports
    start = time.process_time()
    analyze(recurrence)
    assert time.process_time() - start < 0.05
