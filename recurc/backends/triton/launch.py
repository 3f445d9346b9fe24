"""Loads generated modules and calls them: the only place of this backend that imports torch and triton."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from recurc.backends.base import Arrays, Specialization
from recurc.backends.triton.kernel import stored
from recurc.backends.triton.module import Module
from recurc.errors import BackendError
from recurc.plan import Plan, Role
from recurc.runtime.cache import cached_file, content_key
from recurc.types import DType

_OLDEST = (3, 6)


def interpreted() -> bool:
    """Whether this process runs Triton in its interpreter (`TRITON_INTERPRET=1`), which needs no GPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")


def unavailable() -> str | None:
    """Why Triton kernels cannot run here, or None."""
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed (pip install 'recurc[gpu]')"
    given = version("triton")
    if tuple(int(part) for part in given.split(".")[:2]) < _OLDEST:
        return f"Triton {given} is too old; {'.'.join(map(str, _OLDEST))} or later is needed"
    if interpreted():
        return None
    import torch

    if not torch.cuda.is_available():
        return "torch sees no CUDA device" if torch.version.cuda else "this torch is built without CUDA"
    return None


def load(module: Module) -> Callable[..., None]:
    """The `launch` function of a generated module, loaded from the kernel cache: Triton compiles from source files."""

    def write(path: Path) -> None:
        path.write_text(module.text, encoding="utf-8")

    path = cached_file(content_key("triton", module.name, module.text), ".py", write)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BackendError(f"the generated module {path} cannot be loaded")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return cast(Callable[..., None], loaded.launch)


class TritonKernel:
    """A plan as a loaded Triton module. Takes torch tensors on one device, or NumPy arrays, which it moves there."""

    def __init__(self, plan: Plan, spec: Specialization, module: Module, segments: int | None) -> None:
        self.source = {f"{module.name}.py": module.text}
        self._plan, self._spec, self._module, self._segments = plan, spec, module, segments
        self._launch = load(module)
        # By the states that Newton's method solves: how many rounds each sequence took in the last call, 0 if none
        self.rounds: dict[str, np.ndarray[Any, np.dtype[np.int32]]] = {}

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None:
        import torch

        device = torch.device("cpu") if interpreted() else None
        if device is None:
            given = next((a.device for a in arrays.values() if isinstance(a, torch.Tensor)), torch.device("cuda"))
            device = given if given.type == "cuda" else torch.device("cuda")
        parts = {b.name: b.part for b in self._plan.buffers if b.part is not None}
        whole: dict[str, Any] = {}  # by the caller's names: a complex array is two arguments, its parts
        tensors: dict[str, Any] = {}
        for name, buffer in self._module.arguments:
            home, which = parts.get(buffer, (buffer, None))
            if home not in whole:
                whole[home] = self._tensor(buffer, arrays[home], device, which is not None)
            tensors[name] = whole[home] if which is None else torch.view_as_real(whole[home])[..., which]
        if device.type == "cuda":
            with torch.cuda.device(device):
                self._launch(**tensors, batch=batch, steps=steps, segments=self._segments)
        else:
            self._launch(**tensors, batch=batch, steps=steps, segments=self._segments)
        solved: dict[str, Any] = getattr(self._launch, "__globals__", {}).get("rc_rounds", {})
        self.rounds = {states: taken.cpu().numpy() for states, taken in solved.items()}
        for _, buffer in self._module.arguments:
            written = self._plan.buffer(buffer).role in (Role.OUTPUT, Role.FINAL)
            home = parts.get(buffer, (buffer, None))[0]
            if written and not (isinstance(arrays[home], torch.Tensor) and arrays[home].device == device):
                self._bring_back(whole[home], arrays[home])

    def _tensor(self, name: str, array: Any, device: Any, as_complex: bool) -> Any:
        """The array on the device, in the buffer's storage type (of a part: the complex type it is a part of)."""
        torch = cast(Any, import_module("torch"))
        storage = stored(self._plan.buffer(name), self._spec.real)
        dtype = getattr(torch, _COMPLEX_NAMES[storage] if as_complex else _TORCH_NAMES[storage])
        if isinstance(array, torch.Tensor):
            return array.to(device=device, dtype=dtype)
        shared = array.ndim > 0 and array.shape[0] > 1 and array.strides[0] == 0  # one entry for all sequences
        host = np.ascontiguousarray(array[:1] if shared else array)
        if host.dtype == np.uint16:  # the bits of bf16
            tensor = torch.from_numpy(host.view(np.int16).copy()).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(host.copy())
        tensor = tensor.to(device=device, dtype=dtype)
        return tensor.expand(array.shape) if shared else tensor

    def _bring_back(self, tensor: Any, array: Any) -> None:
        """Copies a result to where the caller wants it."""
        import torch

        if isinstance(array, torch.Tensor):
            array.copy_(tensor)
        elif array.dtype == np.uint16:
            array[...] = tensor.cpu().view(torch.int16).numpy().view(np.uint16)
        else:
            array[...] = tensor.cpu().numpy()


_COMPLEX_NAMES = {DType.F32: "complex64", DType.F64: "complex128"}
_TORCH_NAMES = {
    DType.BOOL: "bool",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.F16: "float16",
    DType.BF16: "bfloat16",
    DType.F32: "float32",
    DType.F64: "float64",
}
