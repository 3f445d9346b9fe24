"""What `recurc compile --target cpu` writes, which runs without recurc, means what the paper says. The fast test takes
a few systems, drawn by the seed; the slow one all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recurc.arguments import with_defaults
from recurc.cli.compile import export_kernels
from recurc.passes import core_form
from recurc.passes.stabilize import stabilized_states
from tests.zoo import cases
from tests.zoo.cases import NAMES, check, draw, generator, load, looped
from tests.zoo.oracle import ORACLES

STEPS, SOME = 5, 3
CALL = """
import sys
import numpy as np
sys.path.insert(0, ".")
import {module} as program
found = program.run({extent}**np.load("given.npz"))
np.savez("found.npz", *(found[name] for name in sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def compiler() -> None:
    reason = cases.cpu_is_missing()
    if reason:
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_c_program_of_a_system_is_what_its_paper_says(name: str, session_seed: int, tmp_path: Path) -> None:
    by_the_program(name, session_seed, tmp_path)


@pytest.mark.parametrize("pick", range(SOME))
def test_the_c_programs_of_some_systems(pick: int, session_seed: int, tmp_path: Path) -> None:
    by_the_program(str(np.random.default_rng(session_seed).permutation(NAMES)[pick]), session_seed, tmp_path)


def by_the_program(name: str, seed: int, folder: Path) -> None:
    """Writes it, which runs its self-test, and runs it on other inputs in a process that cannot see recurc."""
    rec = load(name)
    sizes = with_defaults(rec.ir, ORACLES[name].sizes)
    manifest = export_kernels(rec.ir, "cpu", sizes, folder, dtype="f64", batch=cases.BATCH, steps=STEPS)
    assert manifest["self_test"]["status"] == "passed"
    inputs, params = draw(name, generator(seed, name, STEPS), STEPS)
    f = rec.compile(backend="reference", sizes=ORACLES[name].sizes)
    starts = f.init_state(batch=cases.BATCH if inputs else 1, dtype="f64", **params)
    values = inputs | params | {f"{n}@initial": np.asarray(a) for n, a in starts.items()}
    for state, parts in stabilized_states(core_form(rec.ir)).items():  # a program takes the parts of a state
        values |= {f"{parts.mantissa}@initial": starts[state], f"{parts.top}@initial": np.zeros(cases.BATCH)}
    named = {a["name"]: a["argument"] for a in manifest["arrays"]}
    np.savez(folder / "given.npz", **{named[n]: a for n, a in values.items() if n in named})
    script = CALL.format(module=Path(manifest["runner"]).stem, extent="" if inputs else f"{STEPS}, ")
    command = [sys.executable, "-I", "-c", script, *(named[output] for output in rec.ir.outputs)]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    with np.load(folder / "found.npz") as stored:
        found = [a if inputs else a[0] for a in stored.values()]
    check(name, tuple(found) if len(found) > 1 else found[0], looped(name, inputs, params, STEPS), "the C program")
