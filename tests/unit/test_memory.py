"""Memory of large results is used again, and never while somebody can still see it."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest

from recurc.runtime.memory import Pool, empty

MB = 1 << 20


@pytest.mark.parametrize("shape", [(3,), (5, 7), (1024, 5), (3, MB)])
def test_results_start_on_a_cache_line(shape: tuple[int, ...]) -> None:
    array = empty(shape, np.float32)
    assert array.shape == shape
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.nbytes <= 4096 or array.ctypes.data % 64 == 0


def test_a_result_nobody_holds_leaves_its_memory_to_the_next() -> None:
    pool = Pool()
    first = empty((2 * MB,), np.float32, pool)
    place = first.ctypes.data
    assert pool.free_bytes == 0
    del first
    assert pool.free_bytes > 0
    assert empty((2 * MB,), np.float32, pool).ctypes.data == place


def test_views_keep_a_result_from_being_overwritten() -> None:
    pool = Pool()
    first = empty((4, MB), np.float32, pool)
    first[:] = 7
    view = first[1, ::3]
    also = np.asarray(memoryview(first))[2]
    del first
    second = empty((4, MB), np.float32, pool)
    second[:] = 1
    assert np.all(view == 7)
    assert np.all(also == 7)


def test_the_pool_keeps_no_more_than_its_limit_and_gives_no_block_that_is_far_too_large() -> None:
    pool = Pool(limit=10 * MB)
    arrays = [empty((4 * MB,), np.uint8, pool) for _ in range(5)]
    del arrays
    assert pool.free_bytes <= 10 * MB
    before = pool.free_bytes
    small = empty((2 * MB,), np.uint8, pool)
    assert pool.free_bytes == before
    assert small.nbytes == 2 * MB


def test_tensors_over_a_result_keep_it() -> None:
    torch = pytest.importorskip("torch")
    pool = Pool()
    array = empty((MB,), np.float32, pool)
    tensor = torch.from_numpy(array)
    tensor.fill_(3)
    del array
    other = empty((MB,), np.float32, pool)
    other[:] = 0
    assert bool((tensor == 3).all())


def test_results_may_die_while_another_is_being_given_back(seed: int) -> None:
    """The garbage collector runs whenever it likes, also inside the pool, and frees results in the middle of it."""
    draw, pool, before = random.Random(seed), Pool(), gc.get_threshold()
    try:
        for _ in range(3000):
            gc.set_threshold(draw.randint(1, 30))
            in_a_cycle, plain = empty((MB,), np.uint8, pool), empty((MB,), np.uint8, pool)
            cycle: list[object] = [in_a_cycle]
            cycle.append(cycle)
            del cycle, in_a_cycle
            noise = [[place] for place in range(draw.randint(0, 30))]
            del plain, noise
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert 0 < pool.free_bytes <= 256 * MB
