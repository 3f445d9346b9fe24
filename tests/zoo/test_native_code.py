"""Every system of the zoo in native code is what its paper says; one legal schedule per run, drawn by the seed."""

from __future__ import annotations

import pytest

from tests.zoo import cases
from tests.zoo.cases import LENGTHS, NAMES, call, check, draw, generator, looped, schedules


@pytest.mark.parametrize("name", NAMES)
def test_native_code_is_what_the_paper_says(name: str, session_seed: int) -> None:
    reason = cases.cpu_is_missing()
    if reason:
        pytest.skip(reason)
    rng = generator(session_seed, name)
    schedule = str(rng.choice(schedules(name)))
    for steps in LENGTHS:
        inputs, params = draw(name, rng, steps)
        found = call(name, "cpu", schedule, inputs | params, **({} if inputs else {"steps": steps}))
        check(name, found, looped(name, inputs, params, steps), f"cpu by {schedule}, T {steps}")
