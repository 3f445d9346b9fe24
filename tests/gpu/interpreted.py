"""How a process that runs cases in Triton's interpreter is started, and how it tells what became of one: a JSON object
on a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def interpreted(program: str, words: Sequence[str], seed: int, cache: Path, limit: float) -> list[dict[str, Any]]:
    """What `python -m tests.gpu.PROGRAM SEED WORDS...` tells, in `limit` seconds: in a process of its own, as the
    variable must be set before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"tests.gpu.{program}", str(seed), *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    return [json.loads(line) for line in run.stdout.splitlines()]


def report(what: str, run: Callable[[], None]) -> None:
    """Runs a case, whose assertions say what is wrong."""
    wrong = ""
    try:
        run()
    except AssertionError as far:
        wrong = str(far) or "a condition does not hold"
    print(json.dumps({"case": what, "wrong": wrong}), flush=True)
