"""torch's eager loop, which `recurc bench` times beside the kernels, computes the same."""

from __future__ import annotations

import pytest
import torch

from recurc.arguments import with_defaults
from recurc.cli.eager import Eager
from recurc.errors import UnsupportedError
from recurc.passes import core_form
from tests.zoo.cases import NAMES, check, draw, generator, load, looped
from tests.zoo.oracle import ORACLES


@pytest.mark.parametrize("name", NAMES)
def test_the_eager_loop_of_a_system_is_what_its_paper_says(name: str, session_seed: int) -> None:
    rec, steps = load(name).ir, 5
    sizes = with_defaults(rec, ORACLES[name].sizes)
    if not rec.inputs:
        with pytest.raises(UnsupportedError, match="needs an input"):
            Eager(core_form(rec), sizes)
        return
    inputs, params = draw(name, generator(session_seed, name, steps), steps)
    found = Eager(core_form(rec), sizes)({n: torch.from_numpy(a) for n, a in (inputs | params).items()})
    outputs = [found[output].resolve_conj().numpy() for output in rec.outputs]
    wanted = looped(name, inputs, params, steps)
    check(name, tuple(outputs) if len(outputs) > 1 else outputs[0], wanted, "the eager loop")
