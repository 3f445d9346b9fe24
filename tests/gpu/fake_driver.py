"""Stands in for `cuda.bindings.driver`: device memory is host memory, and a module is a library built by `cuda_shim`,
whose path is its cubin. Lets the launchers run as they are, without a GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

OK = 0
CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="processors")
CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="shared")


class Driver:
    """One device. `launched` lists (kernel, grid, cooperative); `memory` must be empty once all is freed."""

    CUdevice_attribute = CUdevice_attribute
    CUfunction_attribute = CUfunction_attribute

    def __init__(self, processors: int = 4) -> None:
        self.processors = processors
        self.memory: dict[int, Any] = {}
        self.launched: list[tuple[str, tuple[int, int], bool]] = []

    def cuInit(self, flags: int) -> tuple[int]:
        return (OK,)

    def cuDeviceGet(self, number: int) -> tuple[int, int]:
        return OK, number

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, str]:
        return OK, "context"

    def cuCtxSetCurrent(self, context: str) -> tuple[int]:
        assert context == "context"
        return (OK,)

    def cuDeviceGetAttribute(self, attribute: str, device: int) -> tuple[int, int]:
        return OK, {"processors": self.processors}[attribute]

    def cuModuleLoadData(self, cubin: bytes) -> tuple[int, ctypes.CDLL]:
        return OK, ctypes.CDLL(cubin.decode())

    def cuModuleGetFunction(self, module: ctypes.CDLL, name: bytes) -> tuple[int, Any]:
        return OK, SimpleNamespace(name=name.decode(), run=module[f"run_{name.decode()}"])

    def cuFuncSetAttribute(self, function: Any, attribute: str, value: int) -> tuple[int]:
        return (OK,)

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function: Any, block: int, shared: int) -> tuple[int, int]:
        return OK, 1

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        cells = (ctypes.c_ubyte * size)(*([255] * size))
        self.memory[ctypes.addressof(cells)] = cells
        return OK, ctypes.addressof(cells)

    def cuMemFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (OK,)

    def cuMemsetD8(self, address: int, value: int, size: int) -> tuple[int]:
        ctypes.memset(address, value, size)
        return (OK,)

    def cuMemcpyHtoD(self, target: int, source: int, size: int) -> tuple[int]:
        ctypes.memmove(target, source, size)
        return (OK,)

    cuMemcpyDtoH = cuMemcpyHtoD

    def _launch(
        self, function: Any, grid: tuple[int, int], block: int, shared: int, packed: Any, cooperative: bool
    ) -> tuple[int]:
        values, types = packed
        cells = [kind(value) for value, kind in zip(values, types, strict=True)]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells))
        self.launched.append((function.name, grid, cooperative))
        status = function.run(pointers, *grid, block, ctypes.c_size_t(shared), int(cooperative), ctypes.c_uint64(1))
        return (status,)

    def cuLaunchKernel(
        self,
        f: Any,
        x: int,
        y: int,
        z: int,
        bx: int,
        by: int,
        bz: int,
        shared: int,
        stream: int,
        packed: Any,
        extra: int,
    ) -> tuple[int]:
        assert (z, by, bz, extra) == (1, 1, 1, 0)
        return self._launch(f, (x, y), bx, shared, packed, False)

    def cuLaunchCooperativeKernel(
        self, f: Any, x: int, y: int, z: int, bx: int, by: int, bz: int, shared: int, stream: int, packed: Any
    ) -> tuple[int]:
        assert (z, by, bz) == (1, 1, 1)
        assert x * y <= self.processors, "more blocks than can be resident at once"
        return self._launch(f, (x, y), bx, shared, packed, True)
