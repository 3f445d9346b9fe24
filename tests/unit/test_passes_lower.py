"""Plans mean what the definition says, for every small recurrence, legal schedule and size, and look as they should."""

from __future__ import annotations

import numpy as np
import pytest

from recurc import targets
from recurc.passes import analyze, make_plan
from recurc.plan import Loop, Map, Matmul, Plan, Role, Scan
from recurc.types import DType
from tests.passes_zoo import SIZES, ZOO, agree, random_arrays
from tests.systems import SYSTEMS

CASES = [(name, s) for name, (_, _, legal) in ZOO.items() for s in sorted({x for group in legal for x in group} or {"auto"})]
BIG = {"D": 40, "H": 24, "K": 18, "V": 34}


def plan_of(name: str, schedule: str, sizes: dict[str, int], batch: int = 2, steps: int = 9, target: str = "cpu") -> Plan:
    build = ZOO[name][0] if name in ZOO else SYSTEMS[name]
    return make_plan(build(), sizes, batch, steps, DType.F64, targets.named(target), schedule)


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
@pytest.mark.parametrize(("name", "schedule"), CASES)
def test_a_plan_means_what_the_definition_says(name: str, schedule: str, steps: int, rng: np.random.Generator) -> None:
    recurrence = ZOO[name][0]()
    for sizes in (SIZES, BIG):
        plan = plan_of(name, schedule, sizes, 3, steps)
        agree(recurrence, plan, random_arrays(recurrence, rng, 3, steps, sizes), 3, steps, sizes)
