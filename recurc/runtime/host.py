"""Arrays in host memory, as kernels want them: NumPy views where possible, copies where a type or a layout differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from recurc.arguments import Seen, Slot
from recurc.backends.storage import bf16_bits, loaded, store
from recurc.errors import ShapeError
from recurc.runtime.memory import empty
from recurc.types import DType

Array = NDArray[Any]
Shape = tuple[int, ...]

_DTYPES = {
    "bool": DType.BOOL, "float16": DType.F16, "float32": DType.F32, "float64": DType.F64, "complex64": DType.C64,
    "complex128": DType.C128, "bfloat16": DType.BF16, "int64": DType.I64, "uint64": DType.I64, "uint32": DType.I64,
    "int32": DType.I32, "int16": DType.I32, "int8": DType.I32, "uint16": DType.I32, "uint8": DType.I32,
}  # fmt: skip


def storage(dtype: DType) -> np.dtype[Any]:
    """How a kernel sees an array of this type: bf16 as the uint16 of its bits."""
    return np.dtype(np.uint16) if dtype is DType.BF16 else dtype.to_numpy()


def receive(slot: Slot, value: Any) -> tuple[Array, Seen]:
    """What a caller gave for `slot`, as an array, and what the checks need to know of it.

    Raises `ShapeError` for things that are not arrays of numbers."""
    weak = isinstance(value, (bool, int, float, complex, list, tuple))
    if isinstance(value, np.ma.MaskedArray) and bool(np.any(cast(Any, np.ma.getmaskarray(cast(Any, value))))):
        raise ShapeError(f"{slot.title} has masked elements, which have no value; give them one with `.filled(...)`")
    try:
        array: Array = np.asarray(cast(Any, value))
    except ValueError as ragged:
        raise ShapeError(f"{slot.title} should be an array, got nested lists of unequal lengths") from ragged
    dtype = _DTYPES.get(array.dtype.name)
    if dtype is None:
        named = array.dtype == object or array.dtype.kind in "US"
        got = type(cast(object, value)).__name__ if named else str(array.dtype)
        if isinstance(cast(object, value), np.ndarray):
            got = f"elements of type {array.dtype}; convert it first, for example with `.astype('float64')`"
        raise ShapeError(f"{slot.title} should be an array of numbers, got {got}")
    if dtype is DType.BF16:
        array = array.view(np.uint16)
    return array, Seen(array.shape, dtype, weak)


def converted(array: Array, have: DType, want: DType) -> Array:
    """The elements as `want` is stored; the array itself if it is so already."""
    if have is not DType.BF16 and want is not DType.BF16:
        return np.require(array, storage(want), "A")  # native byte order and aligned, or a copy that is
    if have is want:
        return array
    return bf16_bits(array) if want is DType.BF16 else loaded(array).astype(storage(want))


def flattened(array: Array, batch: tuple[int, ...], rest: tuple[int, ...]) -> Array:
    """`(*batch or less, *rest)` as `(B, *rest)`; a batch the array does not have gets stride 0."""
    full = np.broadcast_to(array, (*batch, *rest))
    return full if len(batch) == 1 else full.reshape(int(np.prod(batch, dtype=np.int64)), *rest)


def contiguous_from(array: Array, axis: int) -> Array:
    """The array with the axes from `axis` on contiguous, copied if they are not."""
    expected = array.itemsize
    for size, stride in zip(reversed(array.shape[axis:]), reversed(array.strides[axis:]), strict=True):
        if size != 1 and stride != expected:
            return np.ascontiguousarray(array)
        expected *= size
    return array


def prepare(
    slot: Slot,
    array: Array,
    have: DType,
    want: DType,
    batch: tuple[int, ...],
    steps: int,
    dims: tuple[int, ...],
    layout: str,
) -> Array:
    """An argument as a kernel takes it: `(B, T, *dims)` for an input, else `(B, *dims)`."""
    array = contiguous_from(converted(array, have, want), array.ndim - len(dims))
    if slot.role != "input":
        return flattened(array, batch, dims)
    if layout == "TB":
        array = np.moveaxis(array, 0, array.ndim - len(dims) - 1)
    return flattened(array, batch, (steps, *dims))


def output(
    batch: tuple[int, ...], steps: int, dims: tuple[int, ...], dtype: DType, layout: str, zero: bool
) -> tuple[Array, Array]:
    """A new output as the caller gets it and the `(B, T, *dims)` view a kernel writes."""
    make = np.zeros if zero else empty
    flat = int(np.prod(batch, dtype=np.int64))
    if layout == "TB":
        public = make((steps, *batch, *dims), storage(dtype))
        return public, public.reshape(steps, flat, *dims).swapaxes(0, 1)
    public = make((*batch, steps, *dims), storage(dtype))
    return public, public.reshape(flat, steps, *dims)


def rows(array: Array, which: Sequence[int]) -> Array:
    """Some rows of a batch; a broadcast batch stays broadcast."""
    if array.strides[0] == 0 or array.shape[0] == 1:
        return np.broadcast_to(array[:1], (len(which), *array.shape[1:]))
    return array[np.asarray(which, np.int64)]


def published(array: Array, dtype: DType) -> Array:
    """A result as the caller gets it: bits of bf16 become bfloat16 (needs the package ml_dtypes)."""
    return array.view(dtype.to_numpy()) if dtype is DType.BF16 else array


class HostKit:
    """Calls on host memory: NumPy arrays, and CPU tensors seen as such. With `tensors`, results are CPU tensors."""

    flips_are_views = True

    def __init__(self, tensors: bool) -> None:
        self.tensors = tensors

    def receive(self, slot: Slot, value: Any) -> tuple[Array, Seen]:
        from recurc.runtime import torch_ops

        return torch_ops.to_host(slot, value) if torch_ops.is_tensor(value) else receive(slot, value)

    def prepare(
        self, slot: Slot, array: Array, have: DType, want: DType, batch: Shape, steps: int, dims: Shape, layout: str
    ) -> Array:
        return prepare(slot, array, have, want, batch, steps, dims, layout)

    def output(
        self, batch: Shape, steps: int, dims: Shape, dtype: DType, layout: str, zero: bool
    ) -> tuple[Array, Array]:
        return output(batch, steps, dims, dtype, layout, zero)

    def final(self, batch: Shape, dims: Shape, dtype: DType) -> tuple[Array, Array]:
        public = np.zeros((*batch, *dims), storage(dtype))
        return public, public.reshape(int(np.prod(batch, dtype=np.int64)), *dims)

    def rows(self, array: Array, which: Sequence[int]) -> Array:
        return rows(array, which)

    def take(self, array: Array, rows: NDArray[np.int64], times: NDArray[np.int64]) -> Array:
        return array[rows[:, np.newaxis], times]

    def put(self, view: Array, rows: NDArray[np.int64], times: NDArray[np.int64], values: Array) -> None:
        view[rows, times] = values

    def flip(self, array: Array) -> Array:
        return array[:, ::-1]

    def publish(self, public: Array, dtype: DType) -> Any:
        if self.tensors:
            from recurc.runtime import torch_ops

            return torch_ops.from_host(public, dtype)
        return published(public, dtype)

    def host(self, array: Array) -> Array:
        return array

    def spread(self, values: Array, batch: int, dtype: DType) -> Array:
        """Host values `(1 or B, *dims)` (bf16 as bits) as a `(B, *dims)` kernel argument."""
        return np.broadcast_to(values, (batch, *values.shape[1:]))

    def rescale(self, view: Array, mantissa: Array, exponent: Array) -> None:
        with np.errstate(all="ignore"):
            store(view, np.asarray(loaded(mantissa), np.float64) * np.exp(np.asarray(loaded(exponent), np.float64)))
