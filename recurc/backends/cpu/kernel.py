"""Calling a built library: arrays become pointers and strides, the workspace is kept between calls."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recurc.backends.base import Arrays, Specialization
from recurc.backends.cpu.module import Module
from recurc.plan import Buffer, Plan, Role
from recurc.runtime.threads import thread_count
from recurc.types import DType


class _Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("time", ctypes.c_int64), ("origin", ctypes.c_int64)]


class CpuKernel:
    """A plan built for one specialization; see `recurc.backends.base.Kernel` for the arrays it takes.

    Half-precision arrays are converted to f32 before and back after a call. Calls from several threads at once are
    safe: the first uses the kept workspace, the others bring their own."""

    def __init__(self, plan: Plan, spec: Specialization, module: Module, library: Path, file: str) -> None:
        self.source = {file: module.text}
        self.library = library
        self._names = module.arrays
        self._buffers = {name: plan.buffer(name) for name in module.arrays}
        self._half = spec.real in (DType.F16, DType.BF16) or any(
            b.dtype in (DType.F16, DType.BF16) for b in self._buffers.values()
        )
        self._spec = spec
        loaded = ctypes.CDLL(str(library))
        self._run = loaded.recurc_run
        self._run.restype = None
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
        self._room = loaded.recurc_workspace
        self._room.restype = ctypes.c_int64
        self._room.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        self._kept = np.empty(0, np.uint8)
        self._lock = threading.Lock()
        self._type = _Array * len(self._names)

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        if self._half:
            arrays, finish = self._widened(arrays)
            self.bind(arrays, batch, steps)()
            finish()
            return
        self.bind(arrays, batch, steps)()

    def bind(self, arrays: Arrays, batch: int, steps: int) -> Callable[[], None]:
        """The call with everything but the work done; it may be repeated while the arrays live where they are."""
        packed = self._type()
        for slot, name in zip(packed, self._names, strict=True):
            array = arrays[name]
            slot.data, strides = _address(array)
            if self._buffers[name].has_time:
                slot.batch, slot.time = strides[0], strides[1]
            else:
                slot.batch = strides[0]
            if array.shape[0] == 1:
                slot.batch = 0
        threads = thread_count()
        size = self._room(batch, steps, threads)

        def call() -> None:
            if self._lock.acquire(blocking=False):
                try:
                    if self._kept.size < size + 64:
                        self._kept = np.empty(size + 64, np.uint8)
                    self._run(packed, batch, steps, threads, _aligned(self._kept))
                finally:
                    self._lock.release()
            else:
                own = np.empty(size + 64, np.uint8)
                self._run(packed, batch, steps, threads, _aligned(own))

        return call

    def _widened(self, arrays: Arrays) -> tuple[dict[str, Any], Callable[[], None]]:
        """f32 copies of half-precision arrays, and what brings the results back."""
        wide: dict[str, Any] = {}
        back: list[tuple[Any, Any]] = []
        for name, buffer in self._buffers.items():
            array = arrays[name]
            if self._spec.dtype(buffer.dtype) not in (DType.F16, DType.BF16):
                wide[name] = array
                continue
            copy = _to_f32(array)
            wide[name] = copy
            if buffer.role in (Role.OUTPUT, Role.FINAL):
                back.append((array, copy))

        def finish() -> None:
            for target, source in back:
                target[...] = source

        return wide, finish


def _to_f32(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array.astype(np.float32)
    return array.float().contiguous()  # a torch tensor


def _aligned(room: np.ndarray[Any, Any]) -> int:
    address = room.ctypes.data
    return address + (-address) % 64


def _address(array: Any) -> tuple[int, tuple[int, ...]]:
    """The address of the first element and the strides in elements, of a NumPy array or torch tensor."""
    if isinstance(array, np.ndarray):
        size = array.itemsize
        return array.__array_interface__["data"][0], tuple(s // size for s in array.strides)
    return array.data_ptr(), tuple(array.stride())


def external(buffer: Buffer) -> bool:
    return buffer.role not in (Role.ONCE, Role.SEQUENCE)
