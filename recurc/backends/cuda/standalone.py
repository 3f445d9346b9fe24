"""Runs compiled kernels by their manifest. Needs an NVIDIA GPU, numpy and cuda-bindings; it does not need recurc.

    python launch.py inputs.npz outputs.npz      # inputs.npz: one array per input, param and `STATE@initial`

or, from a program: `Kernels.load(folder)(arrays)` with NumPy arrays, (B, T, *dims) for inputs, (B or 1, *dims) for
params and initial states. A missing initial state takes its declared value. bf16 arrays are the uint16 of their bits.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

STORED = {
    "bool": "uint8", "i32": "int32", "i64": "int64", "f16": "float16", "bf16": "uint16", "f32": "float32",
    "f64": "float64",
}  # fmt: skip
WITH_TIME = ("input", "sequence", "output")
_RESIDENT_LIMIT = 48 * 1024  # bytes of shared memory a kernel may have without asking


class Place(NamedTuple):
    """Where a buffer lies on the device; strides in elements."""

    address: int
    batch_stride: int
    time_stride: int = 0


Allocate = Callable[[int, bool], int]  # (bytes, zeroed) -> address of device memory that lives until the run is over
Instead = Callable[[int, dict[str, Place]], bool]  # runs a stage by other means and says so, or leaves it to its kernel


class Module:
    """A loaded cubin and the manifest that says how to launch what is in it."""

    def __init__(self, manifest: Mapping[str, Any], cubin: bytes, device: int = 0) -> None:
        self.driver: Any = import_module("cuda.bindings.driver")
        driver = self.driver
        self.manifest = manifest
        self.check(driver.cuInit(0))
        handle = self.check(driver.cuDeviceGet(device))
        self._context = self.check(driver.cuDevicePrimaryCtxRetain(handle))
        self.check(driver.cuCtxSetCurrent(self._context))
        attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        self._processors = int(self.check(driver.cuDeviceGetAttribute(attribute, handle)))
        self._module = self.check(driver.cuModuleLoadData(cubin))
        self._functions: dict[str, Any] = {}
        self._resident: dict[str, int] = {}
        for step in manifest["steps"]:
            for launch in step["launches"]:
                self._load(launch)

    def check(self, result: tuple[Any, ...]) -> Any:
        """What a driver call returned; raises `RuntimeError` if it failed."""
        if int(result[0]) != 0:
            raise RuntimeError(f"the CUDA driver reports {result[0]}")
        return result[1] if len(result) > 1 else None

    def _load(self, launch: Mapping[str, Any]) -> None:
        driver, name = self.driver, launch["kernel"]
        function = self.check(driver.cuModuleGetFunction(self._module, name.encode()))
        if launch["shared_bytes"] > _RESIDENT_LIMIT:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self.check(driver.cuFuncSetAttribute(function, attribute, launch["shared_bytes"]))
        if launch["cooperative"]:
            ask = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor
            per_processor = int(self.check(ask(function, launch["block"], launch["shared_bytes"])))
            self._resident[name] = per_processor * self._processors
        self._functions[name] = function

    def run(
        self,
        places: Mapping[str, Place],
        batch: int,
        steps: int,
        stream: int,
        allocate: Allocate,
        instead: Instead | None = None,
    ) -> None:
        """Launches every stage in order. `places` has all buffers but those the kernels make for themselves."""
        if batch > 1 and self._own_constants(places):
            # Some values are computed once per call from params; where those differ by sequence, each has its call.
            for b in range(batch):
                self.run(self._sequence(places, b), 1, steps, stream, allocate)
            return
        self.check(self.driver.cuCtxSetCurrent(self._context))
        held = dict(places)
        for scratch in self.manifest["scratch"]:
            elements = _product(scratch["shape"])
            moves = scratch["has_time"]
            length = elements * batch * steps if moves else elements
            address = allocate(length * _itemsize(scratch["storage"]), False)
            held[scratch["name"]] = Place(address, elements * steps, elements) if moves else Place(address, 0)
        for number, step in enumerate(self.manifest["steps"]):
            if instead is None or not instead(number, held):
                self._run_step(step, held, batch, steps, stream, allocate)

    def _own_constants(self, places: Mapping[str, Place]) -> bool:
        """Whether something is computed once per call, and a param has a value for each sequence."""
        params = [b["name"] for b in self.manifest["buffers"] if b["role"] == "param"]
        once = any(not scratch["has_time"] for scratch in self.manifest["scratch"])
        return once and any(places[name].batch_stride != 0 for name in params)

    def _sequence(self, places: Mapping[str, Place], b: int) -> dict[str, Place]:
        size = {buffer["name"]: _itemsize(buffer["dtype"]) for buffer in self.manifest["buffers"]}
        return {n: p._replace(address=p.address + b * p.batch_stride * size[n]) for n, p in places.items()}

    def _run_step(
        self, step: Mapping[str, Any], held: dict[str, Place], batch: int, steps: int, stream: int, allocate: Allocate
    ) -> None:
        own = {name for name, place in held.items() if batch > 1 and place.batch_stride != 0}
        launch = next(x for x in step["launches"] if self._fits(x, batch, steps, own))
        asked = {argument["name"] for argument in launch["arguments"] if argument["kind"] == "workspace"}
        memory = {
            w["name"]: allocate(extent(w["length"], batch, steps) * w["itemsize"], w["zeroed"])
            for w in step["workspaces"]
            if w["name"] in asked
        }
        values, types = self._arguments(launch, held, memory, batch, steps)
        x, y = extent(launch["grid_x"], batch, steps), extent(launch["grid_y"], batch, steps)
        if x == 0 or y == 0:
            return
        function, block, shared = self._functions[launch["kernel"]], launch["block"], launch["shared_bytes"]
        if launch["cooperative"]:
            y = min(y, self._resident[launch["kernel"]] // x)
            start = self.driver.cuLaunchCooperativeKernel
            self.check(start(function, x, y, 1, block, 1, 1, shared, stream, (values, types)))
        else:
            start = self.driver.cuLaunchKernel
            self.check(start(function, x, y, 1, block, 1, 1, shared, stream, (values, types), 0))

    def _fits(self, launch: Mapping[str, Any], batch: int, steps: int, own: set[str]) -> bool:
        if launch["max_batch"] is not None and batch > launch["max_batch"]:
            return False
        if launch["cooperative"] and extent(launch["grid_x"], batch, steps) > self._resident[launch["kernel"]]:
            return False
        return not own & set(launch["common"])

    @staticmethod
    def _arguments(
        launch: Mapping[str, Any], held: Mapping[str, Place], memory: Mapping[str, int], batch: int, steps: int
    ) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        values: list[int] = []
        types: list[Any] = []
        for argument in launch["arguments"]:
            name = argument["name"]
            match argument["kind"]:
                case "pointer":
                    value, kind = held[name].address, ctypes.c_void_p
                case "workspace":
                    value, kind = memory[name], ctypes.c_void_p
                case "batch_stride":
                    value, kind = held[name].batch_stride, ctypes.c_longlong
                case "time_stride":
                    value, kind = held[name].time_stride, ctypes.c_longlong
                case "batch":
                    value, kind = batch, ctypes.c_longlong
                case _:
                    value, kind = steps, ctypes.c_longlong
            values.append(value)
            types.append(kind)
        return tuple(values), tuple(types)


def extent(terms: list[Mapping[str, Any]], batch: int, steps: int) -> int:
    """The product of ceil(count * batch? * steps? / tile) over the terms."""
    total = 1
    for term in terms:
        whole = term["count"] * (batch if term["batch"] else 1) * (steps if term["steps"] else 1)
        total *= -(-whole // term["tile"])
    return total


def _itemsize(storage: str) -> int:
    return {"bool": 1, "f16": 2, "bf16": 2, "i32": 4, "f32": 4}.get(storage, 8)


def _product(numbers: list[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def _stored(number: str, shape: tuple[int, ...], storage: str) -> Any:
    """An array of one number, as it is stored."""
    import numpy as np

    value: Any = number == "True" if storage == "bool" else float(number)
    if storage == "bf16":
        return (np.full(shape, value, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return np.full(shape, value, STORED[storage])


class Kernels:
    """The kernels of one folder, called with NumPy arrays."""

    def __init__(self, module: Module) -> None:
        self.module = module

    @classmethod
    def load(cls, folder: Path, device: int = 0) -> Kernels:
        manifest = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
        return cls(Module(manifest, (folder / manifest["cubin"]).read_bytes(), device))

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs (B, T, *dims) by name and `STATE@final` (B, *dims).

        Raises `ValueError` for an array that is missing or does not fit."""
        import numpy as np

        driver, check = self.module.driver, self.module.check
        buffers = self.module.manifest["buffers"]
        leading: list[Any] = [
            np.shape(arrays[b["name"]])[:2] for b in buffers if b["role"] == "input" and b["name"] in arrays
        ]
        if not leading:
            raise ValueError("no input array was given")
        batch, steps = int(leading[0][0]), int(leading[0][1])
        held: list[int] = []

        def allocate(size: int, zeroed: bool) -> int:
            address = int(check(driver.cuMemAlloc(max(size, 1))))
            held.append(address)
            if zeroed:
                check(driver.cuMemsetD8(address, 0, size))
            return address

        places: dict[str, Place] = {}
        results: dict[str, Any] = {}
        try:
            for buffer in buffers:
                name, role, shape = buffer["name"], buffer["role"], tuple(buffer["shape"])
                dtype = np.dtype(STORED[buffer["dtype"]])
                lead: tuple[int, ...] = (batch, steps) if role in WITH_TIME else (batch,)
                if role in ("output", "final"):
                    array = results[name] = np.empty((*lead, *shape), dtype)
                elif name in arrays:
                    array = np.ascontiguousarray(arrays[name], dtype)
                elif buffer["default"] is not None:
                    array = _stored(buffer["default"], (1, *shape), buffer["dtype"])
                else:
                    raise ValueError(f"`{name}` is missing: an array {('B', 'T')[: len(lead)]} + {shape}")
                if array.shape[1:] != (*lead, *shape)[1:] or array.shape[0] not in (1, batch):
                    raise ValueError(f"`{name}` should have the shape {(*lead, *shape)}, not {array.shape}")
                elements = _product(list(shape))
                whole = elements * (steps if role in WITH_TIME else 1)
                address = allocate(array.nbytes, False)
                if role not in ("output", "final"):
                    check(driver.cuMemcpyHtoD(address, array.ctypes.data, array.nbytes))
                places[name] = Place(address, whole if array.shape[0] > 1 else 0, elements if role in WITH_TIME else 0)
            self.module.run(places, batch, steps, 0, allocate)
            for name, array in results.items():
                check(driver.cuMemcpyDtoH(array.ctypes.data, places[name].address, array.nbytes))
        finally:
            for address in held:
                check(driver.cuMemFree(address))
        return results


def main() -> int:
    import numpy as np

    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    kernels = Kernels.load(Path(__file__).resolve().parent)
    with np.load(sys.argv[1], allow_pickle=False) as given:
        np.savez(sys.argv[2], **kernels({name: given[name] for name in given.files}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
