"""New arrays for results: on cache lines, and, when large, in memory that earlier results have given back.

Native kernels write large results around the caches, a whole line at a time, so lines must not be shared. And the
operating system hands out fresh memory page by page, cleared: for a kernel that is bound by memory this costs more
than the kernel. A large result that nobody holds any more therefore leaves its memory to the next one.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np

from recurc.errors import BackendError

_LINE, _PAGE = 64, 4096
_LARGE = 1 << 20  # bytes from which on memory is kept
_KEPT = 256 << 20  # bytes kept at most, all free blocks together


@contextmanager
def enough(what: str) -> Generator[None]:
    """Says in words of the caller's that memory does not suffice: raises `BackendError`."""
    try:
        yield
    except MemoryError as trouble:
        raise BackendError(f"{what} needs more memory than there is: {trouble}") from trouble


Block = np.ndarray[Any, np.dtype[np.uint8]]


class Pool:
    """Blocks of memory that are free again, the oldest given back to the system first. Safe between threads.

    Nobody ever waits for the lock. A result may die at any moment, also in the middle of `take` or `give` when the
    garbage collector runs there, and a forked child may have been copied while it was held; who does not get it goes
    to the system instead."""

    def __init__(self, limit: int = _KEPT) -> None:
        self._limit = limit
        self._free: list[Block] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Block:
        """A block of at least `size` bytes, and not much more."""
        if self._lock.acquire(blocking=False):
            try:
                for place in range(len(self._free) - 1, -1, -1):
                    if size <= self._free[place].size <= size + size // 4:
                        return self._free.pop(place)
            finally:
                self._lock.release()
        return np.empty(size, np.uint8)

    def give(self, block: Block) -> None:
        if self._lock.acquire(blocking=False):
            try:
                self._free.append(block)
                while self.free_bytes > self._limit:
                    self._free.pop(0)
            finally:
                self._lock.release()

    @property
    def free_bytes(self) -> int:
        return sum(b.size for b in tuple(self._free))


_POOL = Pool()


def allocator(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[..., np.ndarray[Any, Any]]:
    """What makes arrays of such a size: `empty`, or `np.empty` itself where `empty` would call it."""
    return np.empty if math.prod(shape) * dtype.itemsize <= _PAGE else empty


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type, pool: Pool = _POOL) -> np.ndarray[Any, Any]:
    """Like `np.empty`, with the first element on a cache line if the array is larger than a page."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size <= _PAGE:
        return np.empty(shape, kind)
    if size < _LARGE:
        room = np.empty(size + _LINE, np.uint8)
    else:
        block = pool.take(size + _LINE)
        room = np.frombuffer(block.data, np.uint8)  # every view of the result keeps `room` alive, not `block`
        weakref.finalize(room, pool.give, block).atexit = False
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(kind).reshape(shape)
