"""Systems of the zoo, drawn by the seed, in native code are what their papers say; the slow tests have all of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.zoo import cases
from tests.zoo.cases import LENGTHS, NAMES, call, check, draw, generator, looped, schedules

SOME = 24


@pytest.mark.parametrize("pick", range(SOME))
def test_native_code_is_what_the_paper_says(pick: int, session_seed: int) -> None:
    reason = cases.cpu_is_missing()
    if reason:
        pytest.skip(reason)
    name = str(np.random.default_rng(session_seed).permutation(NAMES)[pick])
    rng = generator(session_seed, name)
    schedule = str(rng.choice(schedules(name)))
    for steps in LENGTHS:
        inputs, params = draw(name, rng, steps)
        found = call(name, "cpu", schedule, inputs | params, **({} if inputs else {"steps": steps}))
        check(name, found, looped(name, inputs, params, steps), f"cpu by {schedule}, T {steps}")
