"""Names that mean something in generated CUDA C++ or Triton stay ordinary names in a recurrence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.cuda_shim import ShimKernel, has_compiler
from tests.odd_names import Call, Case, run_on

ROOT = Path(__file__).parents[2]
_CUDA = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")


def _on_cpu(case: Case) -> tuple[Call, str]:
    kernel = ShimKernel(case.plan, case.spec, 1)
    return lambda arrays: kernel(arrays, case.batch, case.steps), "\n".join(kernel.source.values())


@_CUDA
def test_words_of_every_language_mean_the_same_in_cuda(rng: np.random.Generator) -> None:
    assert run_on(_on_cpu, rng, 1) == 2


@_CUDA
@pytest.mark.slow
def test_every_word_of_generated_cuda_is_an_ordinary_name(rng: np.random.Generator) -> None:
    assert run_on(_on_cpu, rng, None) > 40


def _interpreted(seed: int, cache: Path, count: int) -> int:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "RECURC_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.gpu.names_interpreted", str(seed), str(count)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, f"seed {seed}\n{run.stdout[-500:]}\n{run.stderr[-4000:]}"
    return int(run.stdout.split()[-1])


def test_words_of_every_language_mean_the_same_in_triton(seed: int, tmp_path: Path) -> None:
    assert _interpreted(seed, tmp_path, 2) == 8


@pytest.mark.slow
def test_every_word_of_generated_triton_is_an_ordinary_name(seed: int, tmp_path: Path) -> None:
    assert _interpreted(seed, tmp_path, 0) > 80
