"""The shim that runs CUDA C++ on the CPU sees what it is there to see."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurc.backends.cuda.emit import prelude
from recurc.backends.cuda.program import Launch, Program, Step
from tests.gpu.cuda_shim import build_library, has_compiler

pytestmark = pytest.mark.skipif(not has_compiler(), reason="g++ is not on PATH")

SOURCE = """
extern "C" __global__ void turn(float* x, const i64 barrier) {  // reverses 64 numbers through shared memory
    RC_DYNAMIC_SHARED(memory);
    float* const held = (float*)memory;
    held[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    x[threadIdx.x] = held[63 - threadIdx.x];
}
extern "C" __global__ void half_a_barrier(float* x, const i64 barrier) {
    if (threadIdx.x < 32) { __syncthreads(); __syncthreads(); } else { while (x[0] == 0) RC_SPIN_WAIT(); }
}
extern "C" __global__ void sums(float* x, const i64 barrier) {
    float part[4];
    for (int i = 0; i < 4; ++i) part[i] = x[threadIdx.x] * (i + 1);
    x[threadIdx.x] = rc_warp_sum_split(part);
}
extern "C" __global__ void halves(float* x, const i64 barrier) {
    x[threadIdx.x] = barrier ? rc_round_bf16(x[threadIdx.x]) : rc_round_f16(x[threadIdx.x]);
}
"""
KERNELS = ("turn", "half_a_barrier", "sums", "halves")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("shim") / "kernel.so"
    launches = tuple(Launch(name, (), ()) for name in KERNELS)
    build_library(Program(prelude() + SOURCE, (Step("", launches),), ()), Path(path))
    return ctypes.CDLL(str(path))


def _run(library: ctypes.CDLL, kernel: str, x: np.ndarray, flag: int = 0, seed: int = 1) -> int:
    cells: list[Any] = [ctypes.c_void_p(x.ctypes.data), ctypes.c_longlong(flag)]
    pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(c) for c in cells))
    return library[f"run_{kernel}"](pointers, 1, 1, x.size, ctypes.c_size_t(512), 0, ctypes.c_uint64(seed))


def test_a_missing_barrier_gives_wrong_numbers(library: ctypes.CDLL) -> None:
    good, bad = np.arange(64, dtype=np.float32), np.arange(64, dtype=np.float32)
    assert _run(library, "turn", good, 1) == 0
    np.testing.assert_array_equal(good, np.arange(64)[::-1])
    assert _run(library, "turn", bad, 0) == 0
    assert np.isnan(bad).any()


def test_a_barrier_that_some_threads_never_reach_is_a_deadlock(library: ctypes.CDLL) -> None:
    assert _run(library, "half_a_barrier", np.zeros(64, np.float32)) == 1


def test_sums_of_several_values_land_in_their_lanes(library: ctypes.CDLL, rng: np.random.Generator, seed: int) -> None:
    x = rng.integers(-9, 9, 64).astype(np.float32)
    want = np.repeat(np.outer(x.reshape(2, 32).sum(1), [1, 2, 3, 4]).reshape(-1), 8)
    assert _run(library, "sums", x, seed=seed) == 0
    np.testing.assert_array_equal(x, want)


def test_rounding_to_half_precisions_is_exact(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    spread = rng.standard_normal(960) * 2.0 ** rng.integers(-30, 20, 960)
    edges = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        65504,
        65519.9,
        65520,
        65536,
        6e-8,
        2.9e-8,
        2.98023224e-8,
        6.1e-5,
        1e-40,
    ]
    ties = 1 + np.arange(18) * 2.0**-11
    x = np.concatenate([spread, edges, -np.asarray(edges), ties, 1 + np.arange(18) * 2.0**-8]).astype(np.float32)[:1024]
    for flag, dtype in ((0, np.float16), (1, ml_dtypes.bfloat16)):
        found = x.copy()
        assert _run(library, "halves", found, flag) == 0
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found, x.astype(dtype).astype(np.float32))
