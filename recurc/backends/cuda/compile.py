"""CUDA C++ to machine code through NVRTC, the runtime compiler that comes as a wheel. Needs no GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from recurc.errors import BackendError


def missing_compiler() -> str | None:
    """Why NVRTC cannot be used here, or None."""
    try:
        nvrtc = _nvrtc()
    except ImportError as missing:
        return f"the package `cuda-bindings` is not installed ({missing}); `pip install recurc[gpu]` brings it"
    try:
        status, *_ = nvrtc.nvrtcVersion()
    except RuntimeError as missing:  # cuda-bindings raises it when the library cannot be loaded
        return f"the NVRTC library cannot be loaded ({missing}); `pip install nvidia-cuda-nvrtc` brings it"
    return None if int(status) == 0 else f"NVRTC does not start ({status})"


def _nvrtc() -> Any:
    return import_module("cuda.bindings.nvrtc")


def compiler_version() -> str:
    """The version of NVRTC, as `13.0`."""
    status, major, minor = _nvrtc().nvrtcVersion()
    _value((status, None), "tell its version")
    return f"{major}.{minor}"


def supported_architectures() -> list[str]:
    """The real architectures this NVRTC can compile for, as `sm_NN`."""
    nvrtc = _nvrtc()

    return [f"sm_{number}" for number in _value(nvrtc.nvrtcGetSupportedArchs(), "list architectures")]


def compile_cubin(source: str, arch: str, name: str = "recurc.cu") -> tuple[bytes, str]:
    """The cubin of `source` for `arch` (such as `sm_90`) and the compiler's report.

    Raises `BackendError` with the compiler's log when it refuses."""
    problem = missing_compiler()
    if problem:
        raise BackendError(f"cannot compile CUDA C++: {problem}")
    nvrtc = _nvrtc()

    program = _value(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], []), "create a program")
    try:
        options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device", "-lineinfo", "--ptxas-options=-v"]
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        log = (
            _bytes(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            .rstrip(b"\0 ")
            .decode(errors="replace")
        )
        if int(status) != 0:
            raise BackendError(f"NVRTC refused the generated source for {arch}:\n{log}")
        return _bytes(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bytes(size_of: Any, get: Any, program: Any) -> bytes:
    buffer = b" " * _value(size_of(program), "read a size")
    (status,) = get(program, buffer)
    _value((status, None), "read a result")
    return buffer


def _value(result: tuple[Any, ...], what: str) -> Any:
    if int(result[0]) != 0:
        raise BackendError(f"NVRTC could not {what}: {result[0]}")
    return result[1]
