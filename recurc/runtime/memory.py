"""New arrays on cache lines: native kernels write large ones around the caches, a whole line at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LINE = 64


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> np.ndarray[Any, Any]:
    """Like `np.empty`, with the first element on a cache line if the array is larger than a page."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if size <= 4096:
        return np.empty(shape, kind)
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(kind).reshape(shape)
