"""Torch tensors at the border: seen as NumPy arrays in host memory, prepared in place on a device.

Torch is never imported by looking at an argument: a tensor can only exist once its owner has imported torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recurc.arguments import Seen, Slot
from recurc.errors import BackendError, ShapeError, UnsupportedError
from recurc.types import DType

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor

Array = NDArray[Any]
Shape = tuple[int, ...]
Places = NDArray[np.int64]


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor; False as long as nobody has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _torch() -> Any:
    """Torch; `BackendError` where a call that needs it asks for it on a machine without."""
    try:
        import torch
    except ImportError as missing:
        raise BackendError(f"calls on a GPU need torch ({missing}): pip install 'recurc[gpu]'") from missing
    return torch


def library() -> Any:
    """Torch itself, for code that runs on a tensor it was given."""
    return _torch()


def checkpoint() -> Any:
    """torch's checkpoints: `checkpoint()(function, *args, use_reentrant=False)` computes anew what it does not keep."""
    return _torch().utils.checkpoint.checkpoint


def wants_derivative(values: Sequence[Any]) -> bool:
    """Whether autograd follows a call on these."""
    torch = _torch()
    return torch.is_grad_enabled() and any(isinstance(v, torch.Tensor) and v.requires_grad for v in values)


def is_compiling() -> bool:
    """Whether `torch.compile` is looking at what runs."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def is_for_operator(values: Sequence[Any]) -> bool:
    """Whether a call on these goes through torch's operator (`torch_function`): some want a derivative, or stand for
    others, as inside torch.func.vmap and under FakeTensorMode."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return True
    return any(_stands_for_others(torch, t) or torch.is_autocast_enabled(t.device.type) for t in tensors)


def without_autocast() -> Any:
    """A context in which tensors are taken as they are."""
    return _torch()._C._DisableAutocast()


def is_transforming() -> bool:
    """Whether autocast or a transform of `torch.func` is at work on what runs."""
    inside = _torch()._C
    return inside._functorch.peek_interpreter_stack() is not None or inside._is_any_autocast_enabled()


def may_overwrite(array: Any) -> bool:
    """Whether what was made for oneself alone is a tensor that can be changed in place, unseen by autograd,
    transforms and tracing."""
    if not is_tensor(array) or is_compiling() or is_transforming():
        return False
    return type(array) is _torch().Tensor and not array.requires_grad and array.is_contiguous()


def transform() -> str:
    """The innermost transform of `torch.func` at work: "Grad", "Vmap", "Jvp", "Functionalize"; "" without one."""
    found = _torch()._C._functorch.peek_interpreter_stack()
    return "" if found is None else str(found.key().name)


def _stands_for_others(torch: Any, tensor: Any) -> bool:
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return not plain or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def refuse_tangents(name: str, tensor: Tensor) -> None:
    """What would be lost behind the caller's back is refused."""
    torch = _torch()
    if forward_mode() and not transform() and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
        raise UnsupportedError(f"`{name}` carries a tangent; forward-mode derivatives are not supported yet")
    if torch.jit.is_tracing():
        raise UnsupportedError("torch.jit.trace does not see into a recurrence: it would keep one result for all calls")


def forward_mode() -> bool:
    """Whether torch has been told to carry tangents along, which nothing else about a tensor shows."""
    torch = sys.modules.get("torch")
    return torch is not None and getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


def address_of(name: str, tensor: Tensor) -> int:
    """Where the elements of a tensor are; raises `UnsupportedError` for one that stands for others and has none."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:
        address = 0
    if address == 0 and tensor.numel() > 0:
        raise _without_memory(name)
    return address


def _without_memory(name: str) -> UnsupportedError:
    return UnsupportedError(
        f"`{name}` has no memory of its own, as inside torch.func.vmap and jvp, under FakeTensorMode or with its "
        "storage freed; this is not supported yet (a recurrence takes any batch dims as they are)"
    )


def dtype_of(slot: Slot, tensor: Tensor) -> DType:
    torch = _torch()
    known = {
        torch.bool: DType.BOOL, torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.float32: DType.F32,
        torch.float64: DType.F64, torch.complex64: DType.C64, torch.complex128: DType.C128, torch.int64: DType.I64,
        torch.int32: DType.I32, torch.int16: DType.I32, torch.int8: DType.I32, torch.uint8: DType.I32,
    }  # fmt: skip
    found = known.get(tensor.dtype)
    if found is None:
        raise ShapeError(f"{slot.title} should be an array of numbers, got {tensor.dtype}")
    return found


def torch_dtype(dtype: DType) -> Any:
    torch = _torch()
    return {
        DType.BOOL: torch.bool, DType.F16: torch.float16, DType.BF16: torch.bfloat16, DType.F32: torch.float32,
        DType.F64: torch.float64, DType.C64: torch.complex64, DType.C128: torch.complex128, DType.I64: torch.int64,
        DType.I32: torch.int32,
    }[dtype]  # fmt: skip


def to_host(slot: Slot, tensor: Tensor) -> tuple[Array, Seen]:
    """A CPU tensor as a NumPy array over the same memory (bf16 as the uint16 of its bits)."""
    dtype = _checked(slot, tensor)
    return host_view(tensor), Seen(tuple(tensor.shape), dtype)


def _checked(slot: Slot, tensor: Tensor) -> DType:
    """The element type of a tensor of the plain kind: dense, with memory, and no derivative wanted."""
    refuse_tangents(slot.name, tensor)
    if tensor.is_nested:
        raise ShapeError(f"{slot.title} is a nested tensor: pad it, and give the rows' lengths with `lengths=`")
    if tensor.layout is not _torch().strided:
        raise ShapeError(f"{slot.title} should be a dense tensor, got layout {tensor.layout}; use `.to_dense()`")
    dtype = dtype_of(slot, tensor)
    plain = tensor.detach()  # inside a transform of torch.func, every new tensor is wrapped
    try:
        fake = plain.untyped_storage().device.type == "meta"
    except RuntimeError:
        fake = True
    if fake:
        raise _without_memory(slot.name)
    address_of(slot.name, plain)
    return dtype


def host_view(tensor: Tensor) -> Array:
    """The memory of a CPU tensor as NumPy sees it."""
    torch = _torch()
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.dtype is torch.bfloat16:
        return plain.view(torch.int16).numpy().view(np.uint16)
    return plain.numpy()


def from_host(array: Array, dtype: DType) -> Tensor:
    """A NumPy result as a tensor over the same memory."""
    torch = _torch()
    if dtype is DType.BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def receive(slot: Slot, value: Any, device: Any) -> tuple[Tensor, Seen]:
    """What a caller gave for `slot`, as a tensor on `device`."""
    torch = _torch()
    weak = isinstance(value, (bool, int, float, complex, list, tuple))
    if not isinstance(value, torch.Tensor):
        from recurc.runtime import host

        array, seen = host.receive(slot, value)
        plain = host.converted(array, seen.dtype, seen.dtype)  # tensors know the machine's byte order only
        tensor = from_host(np.require(plain, requirements=["C", "W"]), seen.dtype)
        return tensor.to(device), Seen(seen.shape, seen.dtype, weak)
    if value.device != device and not (value.device.type == "cpu" and value.ndim == 0):
        raise ShapeError(f"{slot.title} is on {value.device}, other arrays of the call are on {device}")
    dtype = _checked(slot, value)
    return value.detach().to(device), Seen(tuple(value.shape), dtype)


def prepare(
    slot: Slot, tensor: Tensor, want: DType, batch: tuple[int, ...], steps: int, dims: tuple[int, ...], layout: str
) -> Tensor:
    """As `host.prepare`, for a tensor: `(B, T, *dims)` for an input, else `(B, *dims)`."""
    tensor = _contiguous_from(tensor.to(torch_dtype(want)), tensor.ndim - len(dims))
    rest = (steps, *dims) if slot.role == "input" else dims
    if slot.role == "input" and layout == "TB":
        tensor = tensor.movedim(0, tensor.ndim - len(dims) - 1)
    tensor = tensor.expand((*batch, *rest))
    return tensor if len(batch) == 1 else tensor.reshape(int(np.prod(batch, dtype=np.int64)), *rest)


def _contiguous_from(tensor: Tensor, axis: int) -> Tensor:
    expected = 1
    for size, stride in zip(reversed(tensor.shape[axis:]), reversed(tensor.stride()[axis:]), strict=True):
        if size != 1 and stride != expected:
            return tensor.contiguous()
        expected *= size
    return tensor


def output(
    batch: tuple[int, ...], steps: int, dims: tuple[int, ...], dtype: DType, layout: str, zero: bool, device: Any
) -> tuple[Tensor, Tensor]:
    """As `host.output`, on a device."""
    torch = _torch()
    make = torch.zeros if zero else torch.empty
    flat = int(np.prod(batch, dtype=np.int64))
    if layout == "TB":
        public = make((steps, *batch, *dims), dtype=torch_dtype(dtype), device=device)
        return public, public.reshape(steps, flat, *dims).transpose(0, 1)
    public = make((*batch, steps, *dims), dtype=torch_dtype(dtype), device=device)
    return public, public.reshape(flat, steps, *dims)


def rows(tensor: Tensor, which: Sequence[int]) -> Tensor:
    """Some rows of a batch; a broadcast batch stays broadcast."""
    if tensor.stride(0) == 0 or tensor.shape[0] == 1:
        return tensor[:1].expand(len(which), *tensor.shape[1:])
    return tensor[_torch().as_tensor(list(which), device=tensor.device)]


class TorchKit:
    """Calls whose kernels take tensors on one device. Tensors have no negative strides, so reversing copies."""

    flips_are_views = False

    def __init__(self, device: Any, numpy: bool) -> None:
        self.device, self.numpy = _torch().device(device), numpy

    def receive(self, slot: Slot, value: Any) -> tuple[Tensor, Seen]:
        return receive(slot, value, self.device)

    def prepare(
        self, slot: Slot, array: Tensor, have: DType, want: DType, batch: Shape, steps: int, dims: Shape, layout: str
    ) -> Tensor:
        return prepare(slot, array, want, batch, steps, dims, layout)

    def output(
        self, batch: Shape, steps: int, dims: Shape, dtype: DType, layout: str, zero: bool
    ) -> tuple[Tensor, Tensor]:
        return output(batch, steps, dims, dtype, layout, zero, self.device)

    def final(self, batch: Shape, dims: Shape, dtype: DType) -> tuple[Tensor, Tensor]:
        public = _torch().zeros((*batch, *dims), dtype=torch_dtype(dtype), device=self.device)
        return public, public.reshape(int(np.prod(batch, dtype=np.int64)), *dims)

    def rows(self, array: Tensor, which: Sequence[int]) -> Tensor:
        return rows(array, which)

    def take(self, array: Tensor, rows: Places, times: Places) -> Tensor:
        return array[self._places(rows)[:, None], self._places(times)]

    def put(self, view: Tensor, rows: Places, times: Places, values: Tensor) -> None:
        view[self._places(rows), self._places(times)] = values

    def _places(self, places: Places) -> Tensor:
        return _torch().as_tensor(places, device=self.device)

    def flip(self, array: Tensor) -> Tensor:
        return array.flip(1)

    def publish(self, public: Tensor, dtype: DType) -> Any:
        if not self.numpy:
            return public
        from recurc.runtime import host

        return host.published(host_view(public.cpu()), dtype)

    def host(self, array: Tensor) -> Array:
        return host_view(array.cpu())

    def spread(self, values: Array, batch: int, dtype: DType) -> Tensor:
        """Host values `(1 or B, *dims)` (bf16 as bits) as a `(B, *dims)` kernel argument on the device."""
        tensor = from_host(np.require(values, requirements=["C", "W"]), dtype).to(self.device)
        return tensor.expand((batch, *tensor.shape[1:]))

    def rescale(self, view: Tensor, mantissa: Tensor, exponent: Tensor) -> None:
        view.copy_(mantissa.double() * exponent.double().exp())


def check_device(device: Any) -> None:
    """Raises `UnsupportedError` for what names no device of this machine: the CPU or a GPU of torch."""
    name = str(device)
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UnsupportedError(f"device={device!r}: kernels run on `cpu`, `cuda` or `cuda:0`, `cuda:1`, ...")
    if name != "cpu" and not _torch().cuda.is_available():
        raise BackendError(f"device={device!r}: torch finds no CUDA device on this machine; `recurc doctor` says more")


def default_device(backend: str) -> str:
    """Where kernels of a GPU backend run when neither the arrays nor the caller say: the GPU, or the CPU if there is
    none (Triton's interpreter)."""
    return "cuda" if _torch().cuda.is_available() else "cpu"


def call_with_host_arrays(kernel: Any, args: dict[str, Any], batch: int, steps: int, real: DType) -> None:
    """Calls a kernel that takes tensors on NumPy arrays (bf16 as uint16 bits); results are copied back into them."""
    device = default_device("")
    tensors: dict[str, Any] = {}
    for name, array in args.items():
        dtype = DType.BF16 if array.dtype == np.uint16 else None
        tensor = from_host(np.array(array, order="C"), dtype or real)
        tensors[name] = tensor.to(device)
    kernel(tensors, batch, steps)
    for name, array in args.items():
        if array.flags.writeable:
            array[...] = host_view(tensors[name].cpu())
