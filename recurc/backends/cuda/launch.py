"""Runs a built program on torch tensors (or, by way of them, NumPy arrays) on torch's current stream."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from recurc.backends.base import Arrays, Specialization
from recurc.backends.cuda.compile import compile_cubin, compiler_version, missing_compiler, supported_architectures
from recurc.backends.cuda.emit import emit
from recurc.backends.cuda.manifest import manifest_of
from recurc.backends.cuda.matmul_stage import Roles, roles
from recurc.backends.cuda.scope import storage_dtype
from recurc.backends.cuda.standalone import Module, Place
from recurc.errors import BackendError
from recurc.plan import Matmul, Plan, Role
from recurc.runtime.cache import cached_file, content_key
from recurc.types import DType


def unavailable() -> str | None:
    """Why generated CUDA C++ cannot run on this machine, or None."""
    missing = missing_compiler()
    if missing:
        return missing
    try:
        torch: Any = import_module("torch")
    except ImportError:
        return "torch is not installed, which holds the arrays on the GPU; `pip install recurc[gpu]` brings it"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    return None if torch.cuda.is_available() else "torch finds no NVIDIA GPU on this machine"


def architecture(capability: tuple[int, int]) -> str:
    """The best real architecture this NVRTC has for a GPU of that compute capability; raises `BackendError` if none."""
    major, minor = capability
    known = [int(name.removeprefix("sm_")) for name in supported_architectures()]
    fitting = [n for n in known if n // 10 == major and n % 10 <= minor]
    if not fitting:
        raise BackendError(
            f"this NVRTC has no code for a GPU of compute capability {major}.{minor}; a newer `nvidia-cuda-nvrtc` may"
        )
    return f"sm_{max(fitting)}"


def cached_cubin(source: str, arch: str) -> bytes:
    """The machine code of `source`, from the kernel cache if this NVRTC compiled it before."""

    def make(path: Path) -> None:
        cubin, _ = compile_cubin(source, arch)
        path.write_bytes(cubin)

    return cached_file(content_key("cuda", compiler_version(), arch, source), ".cubin", make).read_bytes()


class CudaKernel:
    """A plan compiled for the GPU that is torch's current device. See `recurc.backends.base.Kernel`."""

    def __init__(self, plan: Plan, spec: Specialization) -> None:
        torch: Any = import_module("torch")
        self._plan, self._spec = plan, spec
        self._device = torch.device("cuda", torch.cuda.current_device())
        torch.zeros(1, device=self._device)  # makes torch's context, which the module then shares
        program = emit(plan, spec)
        arch = architecture(torch.cuda.get_device_capability(self._device))
        cubin = cached_cubin(program.source, arch)
        self.source = {f"{plan.recurrence.name}.cu": program.source}
        try:
            self._module = Module(manifest_of(program, plan, spec), cubin, self._device.index)
        except RuntimeError as refused:
            raise BackendError(f"the kernels of `{plan.recurrence.name}` could not be loaded: {refused}") from refused

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        torch: Any = import_module("torch")
        homes = {b.part[0]: b for b in self._plan.buffers if b.part is not None}
        buffers = {name: homes.get(name) or self._plan.buffer(name) for name in arrays}
        tensors: dict[str, Any] = {}
        for name, array in arrays.items():
            dtype = storage_dtype(buffers[name], self._spec)
            tensors[name] = on_device(array, self._device, COMPLEX_OF[dtype] if name in homes else dtype)
        whole = dict(tensors)
        for buffer in self._plan.buffers:
            if buffer.part is not None and buffer.part[0] in whole:
                tensors[buffer.name] = torch.view_as_real(whole[buffer.part[0]])[..., buffer.part[1]]
        for name in homes:
            tensors.pop(name, None)
        keep: list[Any] = []

        def allocate(size: int, zeroed: bool) -> int:
            make = torch.zeros if zeroed else torch.empty
            keep.append(make(max(size, 1), dtype=torch.uint8, device=self._device))
            return int(keep[-1].data_ptr())

        places = {name: place_of(tensor, self._plan.buffer(name).has_time) for name, tensor in tensors.items()}
        projections = projections_of(self._plan, self._spec, tensors, keep)

        def instead(number: int, held: dict[str, Place]) -> bool:
            return number in projections and projections[number](held)

        stream = torch.cuda.current_stream(self._device).cuda_stream
        try:
            self._module.run(places, batch, steps, stream, allocate, instead)
        except RuntimeError as refused:
            raise BackendError(f"`{self._plan.recurrence.name}` failed on the GPU: {refused}") from refused
        for name, array in arrays.items():
            if buffers[name].role in (Role.OUTPUT, Role.FINAL):
                bring_back(whole[name], array)


_TORCH = {
    DType.BOOL: "bool", DType.I32: "int32", DType.I64: "int64", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.F32: "float32", DType.F64: "float64", DType.C64: "complex64", DType.C128: "complex128",
}  # fmt: skip
COMPLEX_OF = {DType.F32: DType.C64, DType.F64: DType.C128}


def on_device(array: Any, device: Any, dtype: DType) -> Any:
    """The array as a tensor there, stored as `dtype`; one that already is stays as it is, strides and all."""
    torch: Any = import_module("torch")
    if not isinstance(array, torch.Tensor):
        shared = array.ndim > 0 and array.shape[0] > 1 and array.strides[0] == 0  # one entry for all sequences
        value = np.ascontiguousarray(array[:1] if shared else array)
        bits = value.dtype == np.uint16  # NumPy's stand-in for bf16
        array = torch.from_numpy(value.view(np.int16) if bits else value)
        array = array.view(torch.bfloat16) if bits else array
    return array.to(device=device, dtype=getattr(torch, _TORCH[dtype]))


def bring_back(tensor: Any, array: Any) -> None:
    """Copies a result into the caller's array, unless the kernel wrote there directly."""
    torch: Any = import_module("torch")
    if isinstance(array, torch.Tensor):
        if array.data_ptr() != tensor.data_ptr():
            array.copy_(tensor)
    elif array.dtype == np.uint16:
        array[...] = tensor.view(torch.int16).cpu().numpy().view(np.uint16)
    else:
        array[...] = tensor.cpu().numpy()


def place_of(tensor: Any, has_time: bool) -> Place:
    """Address and strides; a single sequence or value for all has stride 0."""
    batch_stride = tensor.stride(0) if tensor.shape[0] > 1 else 0
    return Place(tensor.data_ptr(), batch_stride, tensor.stride(1) if has_time else 0)


def projections_of(
    plan: Plan, spec: Specialization, tensors: dict[str, Any], keep: list[Any]
) -> dict[int, Callable[[dict[str, Place]], bool]]:
    """The matmul stages torch's own matrix product (cuBLAS) can do, by number. Each takes the places of the buffers,
    puts its result among them and keeps it alive in `keep`."""
    out: dict[int, Callable[[dict[str, Place]], bool]] = {}
    for number, stage in enumerate(plan.stages):
        if not isinstance(stage, Matmul) or plan.buffer(stage.target).role is not Role.SEQUENCE:
            continue
        r = roles(stage, plan, spec)
        if is_plain(r) and r.moving.name in tensors and r.fixed.name in tensors:

            def run(held: dict[str, Place], r: Roles = r, target: str = stage.target) -> bool:
                moving, fixed = tensors[r.moving.name], tensors[r.fixed.name]
                if fixed.shape[0] > 1 and fixed.stride(0) != 0:
                    return False  # each sequence has weights of its own
                result = project(moving, fixed[0], r, spec)
                keep.append(result)
                held[target] = place_of(result, has_time=True)
                return True

            out[number] = run
    return out


def is_plain(r: Roles) -> bool:
    """Rows are steps, and both operands and the result hold the summed axes and the columns in one order."""
    return not r.separate and not r.row and r.moving_labels == r.depth and r.out_labels == r.column


def project(moving: Any, weights: Any, r: Roles, spec: Specialization) -> Any:
    """(B, T, *depth) with weights of any axis order -> (B, T, *columns), accumulated and kept in f32 or wider."""
    torch: Any = import_module("torch")
    order = [r.fixed_labels.index(x) for x in (*r.column, *r.depth)]
    depth = 1
    for label in r.depth:
        depth *= r.size[label]
    left, right = moving.reshape(-1, depth), weights.permute(order).reshape(-1, depth)
    if spec.real in (DType.F16, DType.BF16):
        product = torch.mm(left, right.T, out_dtype=torch.float32) if left.is_cuda else left.float() @ right.float().T
    else:
        product = torch.mm(left, right.T)
    return product.reshape(moving.shape[0], moving.shape[1], *(r.size[x] for x in r.out_labels))
