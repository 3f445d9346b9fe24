"""The program that `recurc compile --target numpy` writes, which runs without recurc, means what the paper says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from recurc.arguments import with_defaults
from recurc.backends.base import Specialization
from recurc.backends.emit.names import module_name
from recurc.backends.numpy_script import script
from recurc.passes import core_form
from recurc.types import DType
from tests.zoo.cases import NAMES, check, draw, generator, load, looped
from tests.zoo.oracle import ORACLES


@pytest.mark.parametrize("name", NAMES)
def test_the_numpy_program_of_a_system_is_what_its_paper_says(name: str, session_seed: int, tmp_path: Path) -> None:
    rec, steps = load(name).ir, 5
    spec = Specialization(tuple(sorted(with_defaults(rec, ORACLES[name].sizes).items())), DType.F64)
    path = tmp_path / "program.py"
    path.write_text(script(core_form(rec), spec), encoding="utf-8")
    inputs, params = draw(name, generator(session_seed, name, steps), steps)
    extent = () if inputs else (steps,)
    with np.errstate(all="ignore"):
        found = runpy.run_path(str(path))[module_name(rec.name)](*inputs.values(), *extent, *params.values())
    outputs = [found[output] if inputs else found[output][0] for output in rec.outputs]
    wanted = looped(name, inputs, params, steps)
    check(name, tuple(outputs) if len(outputs) > 1 else outputs[0], wanted, "the NumPy program")
