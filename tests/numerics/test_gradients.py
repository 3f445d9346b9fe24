"""Gradients of every system of the zoo: by inputs, params and initial states, of outputs and final states.

Against differences of the definition: to 1e-6 of what the terms of the derivative along a random direction add up to
without signs, and what rounding makes of a difference. Against torch's autograd: to 1e-9 of the largest element; both
are in float64 and round some thousand times.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recurc.errors import UnsupportedError
from tests.numerics import gradients
from tests.zoo import cases

# Of whole numbers and truth values alone.
DISCRETE = (
    "dfa", "edit_distance", "fibonacci", "lcg", "lfsr", "nfa", "past_time_logic", "permutation_words", "reachability",
)  # fmt: skip
NAMES = [n for n in cases.NAMES if n not in DISCRETE]
WITH_INPUTS = [n for n in NAMES if cases.load(n).ir.inputs]
# Whose loop has log 0 in it, of which torch makes derivatives that are no numbers.
NO_NUMBERS = ("ctc_forward",)
FIXED = {"echo_state": ("W", "R")}  # what `stop_gradient` keeps as it is
STEPS = (0, 1, 2, 5)


def agrees_with_differences(name: str, backend: str, steps: int, seed: int) -> None:
    rng = cases.generator(seed, name, steps)
    case = gradients.case(name, rng, steps)
    arguments, initial = case.found(backend)
    assert set(arguments) == {n for n, a in case.arrays.items() if gradients.is_real(a)}
    assert set(initial) == set(case.initial)
    for group, found in (("arrays", arguments), ("initial", initial)):
        for argument, gradient in found.items():
            assert gradient.shape == getattr(case, group)[argument].shape
            if argument in FIXED.get(name, ()):
                assert not gradient.any()
                continue
            along, wanted, room = case.by_differences(rng, group, argument)
            have = gradients.inner(gradient, along)
            scale = float(np.sum(np.abs(gradient) * np.abs(along)))
            assert abs(have - wanted) <= 1e-6 * max(scale, abs(wanted)) + room, (
                f"{name} on {backend}, T {steps}: along {argument} {have}, by differences {wanted}"
            )


def agrees_with_autograd(name: str, backend: str, seed: int) -> None:
    case = gradients.case(name, cases.generator(seed, name, 4), 4, starts=False)
    found, _ = replace(case, finals={}).found(backend)
    for argument, wanted in gradients.by_autograd(case).items():
        known = np.isfinite(wanted) if name in NO_NUMBERS else np.full(wanted.shape, True)
        error = np.abs(found[argument] - wanted)[known].max(initial=0.0)
        assert error <= 1e-9 * max(1.0, np.abs(wanted[known]).max(initial=0.0)), (
            f"{name} on {backend}: {argument} is off by {error:.1e}"
        )


@pytest.mark.parametrize("pick", range(12))
def test_systems_drawn_by_the_seed_have_the_derivatives_of_their_definitions(pick: int, session_seed: int) -> None:
    name = str(np.random.default_rng(session_seed).permutation(NAMES)[pick])
    for steps in STEPS[1:]:
        agrees_with_differences(name, "numpy", steps, session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_every_system_has_the_derivatives_of_its_definition(
    name: str, steps: int, backend: str, session_seed: int
) -> None:
    agrees_with_differences(name, backend, steps, session_seed)


@pytest.mark.parametrize("pick", range(12))
def test_systems_drawn_by_the_seed_have_the_derivatives_of_autograd(pick: int, session_seed: int) -> None:
    agrees_with_autograd(str(np.random.default_rng(session_seed).permutation(WITH_INPUTS)[pick]), "numpy", session_seed)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
@pytest.mark.parametrize("name", WITH_INPUTS)
def test_every_system_has_the_derivatives_of_autograd(name: str, backend: str, session_seed: int) -> None:
    agrees_with_autograd(name, backend, session_seed)


@pytest.mark.parametrize("name", DISCRETE)
def test_whole_numbers_have_no_derivatives(name: str) -> None:
    with pytest.raises(UnsupportedError, match="no real or complex numbers"):
        cases.load(name).adjoint()
