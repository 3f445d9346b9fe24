"""How interpreters read and write stored arrays. NumPy has no bf16 of its own, so a bf16 array reaches a CPU kernel
as the uint16 of its bits; no other array is uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurc.types import DType, Kind

Array = NDArray[Any]
WIDE = {Kind.BOOL: np.bool_, Kind.INT: np.int64, Kind.REAL: np.float64, Kind.COMPLEX: np.complex128}


def loaded(array: Any) -> Array:
    """The numbers of a stored array: itself, or f32 for the bits of bf16."""
    value = np.asarray(array)
    if value.dtype == np.uint16:
        return (value.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return value


def bf16_bits(value: Array) -> NDArray[np.uint16]:
    """The bits of `value` rounded to bf16 (to nearest even, through f32, as hardware does)."""
    with np.errstate(over="ignore"):  # as in `store`
        single = np.asarray(value, np.float32, order="C")  # `ascontiguousarray` would give a number an axis
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(single), np.uint32(0x7FC0), rounded).astype(np.uint16)


def store(target: Array, value: Array) -> None:
    """Writes `value` into a stored array in place, rounding to what it holds; beyond its range that is infinity, as
    in native kernels, which do not warn of it either."""
    if target.dtype == np.uint16:
        target[...] = bf16_bits(value)
    else:
        with np.errstate(over="ignore"):
            target[...] = value


def rounded(value: Array, dtype: DType) -> Array:
    """`value` rounded to what `dtype` can hold, in the wide type of that kind."""
    if dtype is DType.BF16:
        return loaded(bf16_bits(value)).astype(np.float64)
    if dtype.kind is not Kind.COMPLEX and np.iscomplexobj(value):
        value = np.asarray(np.real(value))
    return value.astype(dtype.to_numpy()).astype(WIDE[dtype.kind])
