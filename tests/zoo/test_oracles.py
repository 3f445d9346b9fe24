"""Every system of the zoo means what its paper says: the definition and the interpreter against a loop that shares
nothing with recurc. `tests.numerics.test_schedules` has native code, and every schedule in float32."""

from __future__ import annotations

import numpy as np
import pytest

import recurc
from tests.zoo import cases
from tests.zoo.cases import LENGTHS, NAMES, call, check, draw, generator, looped, schedules
from tests.zoo.oracle import ORACLES


def test_every_system_has_an_oracle_and_every_oracle_a_system() -> None:
    assert set(ORACLES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_dims_have_different_sizes(name: str) -> None:
    """A transpose shows only where K is not V."""
    rec = recurc.zoo.load(name)
    free = [d for d, s in rec.dims.items() if s.same_as is None]
    sizes = [ORACLES[name].sizes.get(d, rec.dims[d].default) for d in free]
    assert None not in sizes, f"the oracle of {name} gives no size for one of {free}"
    assert len(set(sizes)) == len(sizes), f"{dict(zip(free, sizes, strict=True))}"


@pytest.mark.parametrize("name", NAMES)
def test_text_made_from_a_system_loads_back_equal(name: str) -> None:
    rec = cases.load(name)
    assert recurc.load(text=rec.to_text()).ir == rec.ir


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["reference", "numpy"])
def test_a_system_is_what_its_paper_says(name: str, backend: str, session_seed: int) -> None:
    for steps in LENGTHS:
        inputs, params = draw(name, generator(session_seed, name, steps), steps)
        wanted = looped(name, inputs, params, steps)
        for schedule in ("auto",) if backend == "reference" else schedules(name):
            found = call(name, backend, schedule, inputs | params, **_count(name, steps))
            check(name, found, wanted, f"{backend} by {schedule}, T {steps}")


@pytest.mark.parametrize("name", NAMES)
def test_params_made_anew_give_numbers(name: str, session_seed: int) -> None:
    rec, steps = cases.load(name), LENGTHS[-1]
    rng = generator(session_seed, name)
    inputs, _ = draw(name, rng, steps)
    params = rec.init_params(rng, **ORACLES[name].sizes)
    for output in cases.several(call(name, "numpy", "auto", inputs | params, "f64", **_count(name, steps))):
        assert not np.isnan(output).any()


def _count(name: str, steps: int) -> dict[str, int]:
    return {} if recurc.zoo.load(name).inputs else {"steps": steps}


def test_systems_that_differ_in_a_letter_are_different() -> None:
    """An oracle that is never wrong tests nothing: one that forgets a gate is told apart."""
    inputs, params = draw("lstm", np.random.default_rng(0), 5)
    wanted = looped("lstm", inputs, params, 5)
    swapped = params | {"W": params["W"][[1, 0, 2, 3]], "U": params["U"][[1, 0, 2, 3]], "b": params["b"][[1, 0, 2, 3]]}
    with pytest.raises(AssertionError, match="is off by"):
        check("lstm", call("lstm", "numpy", "sequential", inputs | swapped), wanted, "gates i and f swapped")
