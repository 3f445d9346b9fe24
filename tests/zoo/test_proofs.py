"""Every operator that a system of the zoo lifts to is proved within seconds; analysis alone is immediate."""

from __future__ import annotations

import time

import pytest

from recurc.passes import core_form
from recurc.passes.certify import certify
from recurc.passes.classify import classify
from tests.zoo.cases import NAMES, load

LIFTED = [name for name in NAMES if any(g.monoid is not None for g in load(name).analyze().groups)]


@pytest.mark.parametrize("name", LIFTED)
def test_every_operator_is_proved_within_five_seconds(name: str) -> None:
    core = core_form(load(name).ir)
    analysis = classify(core)
    start = time.process_time()
    certified = certify(core, analysis)
    assert time.process_time() - start < 5.0
    for before, group in zip(analysis.groups, certified.groups, strict=True):
        assert (group.schedules, group.on_request) == (before.schedules, before.on_request)
        if before.monoid is not None:
            found = group.certificate
            assert found.method in ("symbolic", "exact"), f"{group.states}: {found.details}"
            assert found.status == "proved", f"{group.states}: {found.details}"


@pytest.mark.parametrize("name", NAMES)
def test_analysis_takes_less_than_a_twentieth_of_a_second(name: str) -> None:
    core = core_form(load(name).ir)
    classify(core)  # imports
    times: list[float] = []
    for _ in range(3):
        start = time.process_time()
        classify(core)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
