"""Calling a built library: arrays become pointers and strides, the workspace is kept between calls."""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from recurc.backends.base import Arrays, Specialization
from recurc.backends.cpu import blas
from recurc.backends.cpu.entry import external_buffers
from recurc.backends.cpu.module import Module
from recurc.backends.cpu.work import step_flops, useful_threads
from recurc.backends.storage import loaded, store
from recurc.ir import reads
from recurc.plan import Buffer, Map, Plan, Role
from recurc.runtime.threads import team_starts, thread_count
from recurc.types import DType


class CpuKernel:
    """A plan built for one specialization; see `recurc.backends.base.Kernel` for the arrays it takes.

    Half-precision arrays are converted to f32 before and back after a call. Calls from several threads at once are
    safe: the first uses the kept workspace, the others bring their own."""

    def __init__(self, plan: Plan, spec: Specialization, module: Module, library: Path, file: str) -> None:
        self.source = {file: module.text}
        self.library = library
        self.arguments = tuple(module.arrays)
        self._step_flops = step_flops(plan, spec)
        self._buffers = external_buffers(plan)
        # Params of which the kernel makes one packed copy, or one value per call, for all sequences.
        homes = {b.name: b.part[0] for b in plan.buffers if b.part is not None}
        self._made_once = frozenset({homes.get(n, n) for n in module.packed | _read_once(plan)} & self._buffers.keys())
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
        self._products = module.products
        if module.products:
            self._hoists = loaded.recurc_hoists
            self._hoists.restype = ctypes.c_int
            self._hoists.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        # By the states that Newton's method solves: how many rounds each sequence took in the last call, 0 if none
        # sufficed and the loop ran.
        self.rounds: dict[str, np.ndarray[Any, np.dtype[np.int32]]] = {}
        self._solved = {states: _rounds_of(loaded, number) for number, states in enumerate(module.solved)}
        self._chosen: dict[str, bool] = {}  # kind of call -> whether a BLAS makes the products
        self._kept, self._kept_at = _workspace(64)
        self._lock = threading.Lock()

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        if self._half:
            arrays, finish = self._widened(arrays)
            self._bound(arrays, batch, steps)([_address(arrays[name])[0] for name in self.arguments])
            finish()
            return
        self._bound(arrays, batch, steps)([_address(arrays[name])[0] for name in self.arguments])

    def bind(self, arrays: Arrays, batch: int, steps: int) -> Callable[[Sequence[int]], None] | None:
        """The call for arrays of these shapes, types and strides, by their addresses in the order of `arguments`;
        None where arrays are converted on the way."""
        return None if self._half else self._bound(arrays, batch, steps)

    def _bound(self, arrays: Arrays, batch: int, steps: int) -> Callable[[Sequence[int]], None]:
        if batch > 1 and any(differs_by_sequence(arrays[name]) for name in self._made_once):
            return self._one_by_one(arrays, batch, steps)
        described = array("q", [0] * (4 * (len(self.arguments) + len(self._products))))  # an `rc_array` each:
        for place, name in enumerate(self.arguments):  # data, batch, time, origin
            value = arrays[name]
            strides, each = _address(value)[1], self._buffers[name].spacing
            described[4 * place + 1] = 0 if value.shape[0] == 1 else each * strides[0]
            if self._buffers[name].has_time:
                described[4 * place + 2] = each * strides[1]
        rooms: dict[tuple[int, int], int] = {}
        flops, last = self._step_flops, 4 * len(self.arguments)
        places = range(0, last, 4)

        def launch(addresses: Sequence[int], threads: int, steps: int, by_blas: bool = False) -> None:
            if threads > 1:
                team_starts()
            own = described[:]
            for place, address in zip(places, addresses, strict=True):
                own[place] = address
            made = [self._multiply(p, own, batch, steps) for p in self._products] if by_blas else []
            for number, place in enumerate(made):
                own[last + 4 * number : last + 4 * number + 3] = array("q", place[:3])
            size = rooms.get((threads, steps))
            if size is None:
                size = rooms[threads, steps] = self._room(batch, steps, threads) + 64
            self._start(own, batch, steps, threads, size)

        if not self._products and useful_threads(flops, batch, steps, lambda: 2) == 1:
            size = self._room(batch, steps, 1) + 64

            def alone(addresses: Sequence[int]) -> None:  # what `launch` does for a call too short to decide anything
                own = described[:]
                for place, address in zip(places, addresses, strict=True):
                    own[place] = address
                self._start(own, batch, steps, 1, size)

            return alone
        own_weights = batch > 1 and any(differs_by_sequence(arrays[p.weight]) for p in self._products)
        if own_weights or not blas.worth_asking(self._products, batch, steps):
            return lambda addresses: launch(addresses, useful_threads(flops, batch, steps, thread_count), steps)

        def call(addresses: Sequence[int]) -> None:
            threads = useful_threads(flops, batch, steps, thread_count)
            launch(addresses, threads, steps, self._by_blas(launch, addresses, batch, steps, threads))

        return call

    def _start(self, described: array[int], batch: int, steps: int, threads: int, room: int) -> None:
        """Runs the kernel with a workspace of `room` bytes."""
        if self._lock.acquire(blocking=False):
            try:
                if self._kept.size < room:
                    self._kept, self._kept_at = _workspace(room)
                self._run_in(described, batch, steps, threads, self._kept_at)
            finally:
                self._lock.release()
        else:
            _kept, place = _workspace(room)
            self._run_in(described, batch, steps, threads, place)

    def _run_in(self, described: array[int], batch: int, steps: int, threads: int, workspace: int) -> None:
        self._run(described.buffer_info()[0], batch, steps, threads, workspace)
        if self._solved:
            found = {s: rounds(batch, steps, threads, workspace) for s, rounds in self._solved.items()}
            self.rounds = {s: np.maximum(np.ctypeslib.as_array(f, (batch,)), 0) for s, f in found.items()}

    def _by_blas(
        self, launch: Callable[..., None], addresses: Sequence[int], batch: int, steps: int, threads: int
    ) -> bool:
        """Whether a BLAS makes the hoisted products of this call; the first call of a kind measures it."""
        ordered = blas.ordered()
        if ordered is False or not self._hoists(batch, steps, threads):
            return False
        if ordered:
            return True
        probe = blas.probe_steps(self._products, batch, steps)
        kind = blas.kind_of_call(batch, probe, threads)
        if kind not in self._chosen:
            self._chosen[kind] = blas.faster(
                self.library.stem,
                kind,
                tiles=lambda: launch(addresses, threads, probe),
                blas=lambda: launch(addresses, threads, probe, True),
            )
        return self._chosen[kind]

    def _multiply(self, product: blas.Product, described: array[int], batch: int, steps: int) -> blas.Place:
        data, weight = (4 * self.arguments.index(n) for n in (product.data, product.weight))
        dtype = self._spec.real.accumulator.to_numpy()
        address, batch_stride, time_stride = described[data : data + 3]
        return blas.multiply(product, dtype, (address, batch_stride, time_stride), described[weight], batch, steps)

    def _one_by_one(self, arrays: Arrays, batch: int, steps: int) -> Callable[[Sequence[int]], None]:
        """Params that differ between sequences are packed, and computed with, for each of them."""
        one = self._bound({name: arrays[name][:1] for name in self.arguments}, 1, steps)
        strides: list[int] = []
        for name in self.arguments:
            value = arrays[name]
            size = value.itemsize if _is_numpy(value) else value.element_size()
            strides.append(0 if value.shape[0] == 1 else _address(value)[1][0] * size)

        def call(addresses: Sequence[int]) -> None:
            rounds: list[dict[str, Any]] = []
            for b in range(batch):
                one([address + b * stride for address, stride in zip(addresses, strides, strict=True)])
                rounds.append(self.rounds)
            self.rounds = {states: np.concatenate([r[states] for r in rounds]) for states in self._solved}

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
                store(target, source)

        return wide, finish


def _rounds_of(library: ctypes.CDLL, number: int) -> Callable[[int, int, int, int], Any]:
    """Where a call left how many rounds each sequence took; see `newton.rounds_function`."""
    function = getattr(library, f"recurc_rounds_{number}")
    function.restype = ctypes.POINTER(ctypes.c_int32)
    function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
    return function


def _read_once(plan: Plan) -> frozenset[str]:
    """What is read by the stages that run once per call."""
    once = [s for s in plan.stages if isinstance(s, Map) and not s.over_time]
    return frozenset(r.name for s in once for e in s.body for r in reads(e.expr))


def differs_by_sequence(array: Any) -> bool:
    """Whether the batch axis holds different values, and is not one value broadcast."""
    return array.shape[0] > 1 and _address(array)[1][0] != 0


def _is_numpy(array: Any) -> bool:
    return isinstance(array, np.ndarray)


def _to_f32(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        host = cast("np.ndarray[Any, Any]", array)
        shared = host.strides[0] == 0  # a broadcast batch is converted once
        copy = loaded(host[:1] if shared else host).astype(np.float32, order="C")
        return np.broadcast_to(copy, host.shape) if shared else copy
    return array.float().contiguous()  # a torch tensor


def _workspace(size: int) -> tuple[np.ndarray[Any, Any], int]:
    """Memory, and the first address in it on a cache line."""
    room = np.empty(size, np.uint8)
    return room, room.ctypes.data + (-room.ctypes.data) % 64


def _address(array: Any) -> tuple[int, tuple[int, ...]]:
    """The address of the first element and the strides in elements, of a NumPy array or torch tensor."""
    if isinstance(array, np.ndarray):
        size = array.itemsize
        return array.__array_interface__["data"][0], tuple(s // size for s in array.strides)
    return array.data_ptr(), tuple(array.stride())


def external(buffer: Buffer) -> bool:
    return buffer.role not in (Role.ONCE, Role.SEQUENCE)
