"""Triton kernels, in the interpreter, agree with the definition for every length and batch shape of the grid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.grid import PAIRS, whole_grid

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


def _interpreted(seed: int, cache: Path, *pairs: str) -> list[dict[str, Any]]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.grid_interpreted", str(seed), *pairs],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_sample_of_the_grid_agrees_with_the_definition(seed: int, tmp_path: Path) -> None:
    calls = _interpreted(seed, tmp_path)
    assert {(c["name"], c["schedule"]) for c in calls if c["steps"] == 0} == set(PAIRS)
    assert {(c["name"], c["schedule"]) for c in calls if c["steps"] > 0} == set(PAIRS)
    wrong = [c["wrong"] for c in calls if c["wrong"]]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule"), PAIRS)
def test_the_whole_grid_agrees_with_the_definition(name: str, schedule: str, seed: int, tmp_path: Path) -> None:
    calls = _interpreted(seed, tmp_path, f"{name}:{schedule}")
    assert [c["steps"] for c in calls] == [point.steps for point in whole_grid()]
    wrong = [c["wrong"] for c in calls if c["wrong"]]
    assert not wrong, "\n".join(wrong)
