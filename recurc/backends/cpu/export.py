"""Kernels that run without recurc: the C file, the command that builds it, and a runner that needs only NumPy."""

from __future__ import annotations

import json
import re
import shlex
import stat
from pathlib import Path
from typing import Any

from recurc.backends.base import Specialization
from recurc.backends.cpu.entry import external_buffers
from recurc.backends.cpu.limits import limitations
from recurc.backends.cpu.module import print_module
from recurc.backends.emit.names import Names, module_name
from recurc.errors import UnsupportedError
from recurc.plan import Plan
from recurc.runtime.compiler import find_compiler
from recurc.types import DType

_NUMPY = {DType.BOOL: "uint8", DType.I32: "int32", DType.I64: "int64", DType.F32: "float32", DType.F64: "float64"}
_COMPLEX = {DType.F32: "complex64", DType.F64: "complex128"}


def export(plan: Plan, spec: Specialization, directory: Path) -> dict[str, Any]:
    """Write `NAME.c`, `build.sh` and `NAME.py` into `directory`; gives the manifest's fields.

    Half-precision kernels take f32 arrays here. Raises `UnsupportedError` for a limitation and `BackendError` if there
    is no compiler to ask what this machine is."""
    problems = limitations(plan, spec)
    if problems:
        raise UnsupportedError("the cpu backend cannot compile this plan: " + "; ".join(problems))
    compiler = find_compiler()
    stem, free = module_name(plan.recurrence.name), not plan.recurrence.inputs
    arguments = Names(frozenset({"threads", "steps", "batch"} if free else {"threads"}))
    module = print_module(plan, spec, compiler.vector_bytes, standalone=True)
    arrays = [
        {
            "name": name,
            "argument": arguments(name),
            "role": b.role.value,
            "time": b.has_time,
            "shape": [spec.size(d) for d in b.dims],
            "dims": list(b.dims),
            "dtype": _COMPLEX[spec.dtype(b.dtype)] if b.part else _NUMPY[spec.dtype(b.dtype).accumulator],
        }
        for name, b in external_buffers(plan).items()
    ]
    flags = [f for f in compiler.flags if f != "-fopenmp"]
    build = _BUILD.format(name=stem, flags=shlex.join(flags), libraries=shlex.join(compiler.libraries))
    files = {
        f"{stem}.c": module.text,
        "build.sh": build,
        f"{stem}.py": _RUNNER.format(
            name=stem,
            takes="steps, batch=1, threads=None" if free else "threads=None",
            extent="" if free else _EXTENT,
            what="Params (*dims)" if free else "Inputs (batch, steps, *dims), params (*dims)",
            arrays=re.sub(r": (true|false)(?=,?$)", _python, json.dumps(arrays, indent=4), flags=re.M),
        ),
    }
    for file, text in files.items():
        (directory / file).write_text(text, encoding="utf-8")
    script = directory / "build.sh"
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {
        "sources": sorted(files),
        "build": "sh build.sh",
        "runner": f"{stem}.py",
        "entry": "recurc_run",
        "signature": "void recurc_run(const rc_array *arrays, int64_t batch, int64_t steps, "
        "int threads, char *workspace)",
        "workspace": "int64_t recurc_workspace(int64_t batch, int64_t steps, int threads)",
        "arrays": arrays,
        "compiler": compiler.version.splitlines()[0] if compiler.version else "",
        "vector_bytes": compiler.vector_bytes,
    }


def _python(word: re.Match[str]) -> str:
    """A truth value of JSON in Python."""
    return word[0].replace("true", "True").replace("false", "False")


_BUILD = """#!/bin/sh
# Builds lib{name}.so; CC chooses the compiler. OpenMP is used where the compiler has it.
set -e
cd "$(dirname "$0")"
CC="${{CC:-cc}}"
OPENMP=-fopenmp
echo 'int main(void) {{ return 0; }}' | $CC -fopenmp -x c - -o /dev/null 2>/dev/null || OPENMP=
$CC {flags} $OPENMP -x c {name}.c -o lib{name}.so {libraries}
"""

_EXTENT = """    batch, steps = np.shape(given[next(a for a in wanted if wanted[a] == "input")])[:2]
"""

_RUNNER = '''"""Runs the kernel of {name}.c with NumPy arrays: `sh build.sh`, then `from {name} import run`."""

import ctypes
import os
from pathlib import Path

import numpy as np

ARRAYS = {arrays}


class _Array(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("batch", "time", "origin"))]


_library = ctypes.CDLL(str(Path(__file__).with_name("lib{name}.so")))
_library.recurc_workspace.restype = ctypes.c_int64
_library.recurc_workspace.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
_library.recurc_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
_library.recurc_run.restype = None


def run({takes}, **given):
    """{what}, initial states `NAME_initial` (batch, *dims); gives the outputs and
    `NAME_final` in a dict."""
    threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1
    wanted = {{a["argument"]: a["role"] for a in ARRAYS if a["role"] not in ("output", "final")}}
    for name in [*wanted, *given]:
        if name not in given:
            raise TypeError(f"{{name}} ({{wanted[name]}}) is missing; run() takes {{', '.join(wanted)}}")
        if name not in wanted:
            raise TypeError(f"there is no {{name}}; run() takes {{', '.join(wanted)}}")
{extent}    slots, kept, results = (_Array * len(ARRAYS))(), [], {{}}
    for slot, want in zip(slots, ARRAYS):
        name, lead = want["argument"], (batch, steps) if want["time"] else (batch,)
        shape = (*lead, *want["shape"])
        if want["role"] in ("output", "final"):
            array = results[name] = np.empty(shape, want["dtype"])
        else:
            array = np.asarray(given[name], want["dtype"])
            if want["role"] == "param" and array.ndim == len(want["shape"]):
                array = array[None]
            if array.shape[1:] != shape[1:] or array.shape[0] not in (1, batch):
                raise ValueError(f"{{name}} should have shape {{shape}}, got {{array.shape}}")
            array = np.ascontiguousarray(array)
        kept.append(array)
        size = array.real.itemsize  # a complex number is two real ones
        strides = [s // size for s in array.strides]
        slot.data = array.ctypes.data
        slot.batch = 0 if array.shape[0] == 1 else strides[0]
        slot.time = strides[1] if want["time"] else 0
    room = np.empty(_library.recurc_workspace(batch, steps, threads) + 64, np.uint8)
    place = room.ctypes.data + -room.ctypes.data % 64
    _library.recurc_run(ctypes.addressof(slots), batch, steps, threads, place)
    return results
'''
