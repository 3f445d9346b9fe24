"""Numbers of the generated Triton kernels without a GPU: every form of kernel, in Triton's interpreter, against the
float64 reference; and every operator against its NumPy meaning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One process for all cases: the interpreter is chosen before Triton is imported."""
    seed = os.environ.get("RECURC_TEST_SEED") or str(int.from_bytes(os.urandom(4), "little"))
    print(f"seed: RECURC_TEST_SEED={seed}")
    cache = tmp_path_factory.mktemp("kernels")
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.triton_interpreted", seed],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize(
    "kind", ["ema", "lstm", "gru", "selective_scan", "aaren", "op", "random", "scan", "expression"]
)
def test_kernels_compute_what_the_reference_defines(results: list[dict[str, Any]], kind: str) -> None:
    cases = [r for r in results if r["kind"] == kind]
    assert len(cases) >= (4 if kind == "scan" else 10)
    assert any(not r.get("limitation") for r in cases)
    wrong = [r for r in cases if not max(r["errors"].values()) <= r["tolerance"]]
    assert not wrong, "\n".join(f"{r['case']}: {r['errors']} > {r['tolerance']:.1e}" for r in wrong)
