"""Builds generated CUDA C++ with g++ and `cuda_on_cpu.h`, and runs it on NumPy arrays as the GPU launcher would."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from recurc.backends.base import Arrays, Specialization
from recurc.backends.cuda.emit import emit
from recurc.backends.cuda.program import Kind, Launch, Program, extent
from recurc.plan import Plan, Role
from recurc.types import DType

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_STORED = {"bf16": np.dtype(np.uint16)}


def has_compiler() -> bool:
    return shutil.which("g++") is not None


def numpy_dtype(name: str) -> np.dtype[Any]:
    return _STORED.get(name) or DType(name).to_numpy()


class ShimKernel:
    """A `Kernel` that runs on the CPU, one fiber per CUDA thread, in an order drawn from `seed`."""

    def __init__(self, plan: Plan, spec: Specialization, seed: int, most_groups: int = 2) -> None:
        self.program: Program = emit(plan, spec)
        self.source = {"kernel.cu": self.program.source}
        self.seed, self.most_groups = seed, most_groups
        self.together = False  # run all blocks of every launch at once, not only those of a cooperative one
        self.params = [b.name for b in plan.buffers if b.role is Role.PARAM]
        self.parts = {b.name: b.part for b in plan.buffers if b.part is not None}
        self._library = _loaded(self.program)

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        arrays = dict(arrays)
        for name, (home, which) in self.parts.items():
            if home in arrays:
                arrays[name] = arrays[home].imag if which else arrays[home].real
        once = any(not scratch.has_time for scratch in self.program.scratch)
        if once and batch > 1 and any(arrays[n].shape[0] > 1 and arrays[n].strides[0] for n in self.params):
            for b in range(batch):  # as `standalone.Module.run`
                self({n: a[b : b + 1] if a.shape[0] > 1 else a for n, a in arrays.items()}, 1, steps)
            return
        held = dict(arrays)
        for scratch in self.program.scratch:
            lead = (batch, steps) if scratch.has_time else (1,)
            held[scratch.name] = np.full(
                (*lead, *scratch.shape), _poison(scratch.storage), numpy_dtype(scratch.storage)
            )
        for step in self.program.steps:
            own = {name for name, a in held.items() if a.shape[0] > 1 and a.strides[0] != 0}
            launch = step.chosen(batch, own)
            memory = {
                w.name: np.full(extent(w.length, batch, steps) * w.itemsize, 0 if w.zeroed else 255, np.uint8)
                for w in step.workspaces
            }
            self._launch(launch, held, memory, batch, steps)

    def _launch(
        self, launch: Launch, arrays: dict[str, Any], memory: dict[str, np.ndarray], batch: int, steps: int
    ) -> None:
        cells: list[Any] = []
        for argument in launch.arguments:
            array = arrays.get(argument.name)
            match argument.kind:
                case Kind.POINTER:
                    cells.append(ctypes.c_void_p(array.ctypes.data))
                case Kind.WORKSPACE:
                    cells.append(ctypes.c_void_p(memory[argument.name].ctypes.data))
                case Kind.BATCH_STRIDE:
                    cells.append(ctypes.c_longlong(array.strides[0] // array.itemsize if array.shape[0] > 1 else 0))
                case Kind.TIME_STRIDE:
                    cells.append(ctypes.c_longlong(array.strides[1] // array.itemsize))
                case Kind.BATCH:
                    cells.append(ctypes.c_longlong(batch))
                case Kind.STEPS:
                    cells.append(ctypes.c_longlong(steps))
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(c) for c in cells))
        x, y = extent(launch.grid_x, batch, steps), extent(launch.grid_y, batch, steps)
        if x == 0 or y == 0:
            return  # nothing to launch, as in `standalone`
        if launch.cooperative:
            y = min(y, self.most_groups)
        status = self._library[f"run_{launch.kernel}"](
            pointers,
            x,
            y,
            launch.block,
            ctypes.c_size_t(launch.shared_bytes),
            int(launch.cooperative or self.together),
            ctypes.c_uint64(self.seed),
        )
        assert status == 0, f"{launch.kernel} deadlocked: some threads wait at a barrier that others never reach"


def _poison(storage: str) -> Any:
    return np.nan if storage in ("f32", "f64", "f16") else 255


def build_library(program: Program, library: Path) -> None:
    """The program as a shared library that exports `run_KERNEL` for every kernel."""
    kernels = [launch.kernel for step in program.steps for launch in step.launches]
    entry = "".join(
        f'extern "C" int run_{k}(void** a, unsigned x, unsigned y, unsigned n, size_t s, int c, uint64_t seed) '
        f"{{ return shim::start({k}, a, x, y, n, s, c, seed); }}\n"
        for k in kernels
    )
    source = library.with_suffix(".cpp")
    source.write_text(f'#include "{HEADER}"\n{program.source}\n{entry}', encoding="utf-8")
    command = [
        "g++",
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        "-U_FORTIFY_SOURCE",
        "-Wall",
        "-Wno-unknown-pragmas",
    ]
    quiet = [
        "-Wno-unused-variable",
        "-Wno-unused-but-set-variable",
    ]  # a value nobody reads is the recurrence's business
    done = subprocess.run([*command, *quiet, source, "-o", library], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"g++ refused the generated source:\n{done.stderr}"
    assert "warning" not in done.stderr, f"g++ warns about the generated source:\n{done.stderr}"


def _loaded(program: Program) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "kernel.so"
        build_library(program, library)
        return ctypes.CDLL(str(library))
