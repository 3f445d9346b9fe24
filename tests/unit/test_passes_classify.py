"""Every recurrence of the small zoo gets the class it has, and never a better one."""

from __future__ import annotations

import time

import pytest

from recurc.ir import Recurrence
from recurc.passes import analyze
from tests.passes_zoo import ZOO
from tests.systems import SYSTEMS


@pytest.mark.parametrize("name", ZOO)
def test_each_group_has_its_class_and_its_legal_schedules(name: str) -> None:
    build, classes, schedules = ZOO[name]
    analysis = analyze(build())
    assert tuple(g.cls for g in analysis.groups) == classes
    assert tuple(g.schedules for g in analysis.groups) == schedules
    for group in analysis.groups:
        assert group.reasons, "every class has a reason"
        assert (group.monoid is not None) == ("scan" in group.schedules)
