"""Small calls stay on one thread; large ones use what they are given."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import recurc
from recurc.backends.base import Specialization
from recurc.backends.cpu.kernel import differs_by_sequence
from recurc.backends.cpu.work import step_flops, useful_threads
from recurc.runtime.compiler import why_no_compiler
from recurc.types import DType
from tests.systems import plans


def test_a_step_counts_its_products_and_functions() -> None:
    spec = Specialization((("D", 3), ("H", 7)), DType.F32)
    flops = step_flops(plans()["lstm", "sequential"], spec)
    products = 2 * 4 * 7 * (3 + 7)
    gates = 7 * (3 * 16 + 2 * 18 + 4) + 2 * 4 * 7  # three sigmoids, two tanh, four products and sums, two bias sums
    assert flops == products + gates


def test_threads_follow_the_work() -> None:
    assert useful_threads(100, 1, 10, lambda: 16) == 1
    assert useful_threads(100, 4, 1000, lambda: 16) == 2
    assert useful_threads(10**6, 4, 1000, lambda: 16) == 16


def test_a_broadcast_param_does_not_split_the_batch() -> None:
    """Packing weights once for all sequences is what makes a recurrent cell fast; a param broadcast over the batch
    (stride 0) is one param."""
    param = np.ones((1, 7, 7), np.float32)
    assert not differs_by_sequence(np.broadcast_to(param, (4, 7, 7)))
    assert not differs_by_sequence(param)
    assert differs_by_sequence(np.ones((4, 7, 7), np.float32))


FORKED = """
import os, signal, sys
import numpy as np
import recurc

lstm = recurc.zoo.load("lstm")
params = lstm.init_params(rng=0, D=64, H=64)
run = lstm.compile(backend="cpu")
x = np.random.default_rng(0).standard_normal((8, 64, 64)).astype(np.float32)
before = run(x=x, **params)
child = os.fork()
if not child:
    signal.alarm(30)  # a child that waits for threads it does not have
    os._exit(0 if np.allclose(run(x=x, **params), before, atol=1e-5) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or why_no_compiler() is not None, reason="needs fork and a C compiler")
@pytest.mark.parametrize("blas", ["0", "1"])
def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent(blas: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "RECURC_BLAS": blas}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(why_no_compiler() is not None, reason="needs a C compiler")
@pytest.mark.parametrize("lanes", [16, 200])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_state_that_all_lanes_share_waits_unchanged_between_pieces_of_time(
    lanes: int, batch: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of the lanes computes it for itself, and one may be a piece ahead of another."""
    monkeypatch.setenv("RECURC_BLAS", "0")
    rec = recurc.load(text=SHARED)
    given = {"x": (batch, 5000, 3), "u": (batch, 5000), "W": (lanes, 3)}
    arrays = {n: rng.standard_normal(shape) for n, shape in given.items()} | {"a": rng.uniform(0, 0.9, lanes)}
    found, wanted = (rec.compile(backend=b, schedule="sequential")(**arrays) for b in ("cpu", "numpy"))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


SHARED = """recurrence Shared(D, E):
    input x[E], u
    param W[D, E], a[D]
    state c = 0, h[D] = 0
    c = 0.9 * c[t-1] + u
    h = a * h[t-1] + tanh(W @ x) * c
    output h
"""
