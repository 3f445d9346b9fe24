"""Element types and named dimensions: the vocabulary every other module shares."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from recurc.errors import BackendError

if TYPE_CHECKING:
    import numpy as np


class Kind(Enum):
    """What a number is, apart from how it is stored; ordered so that `max` is the common kind."""

    BOOL = 0
    INT = 1
    REAL = 2
    COMPLEX = 3


class DType(Enum):
    """An element type. `REAL` and `COMPLEX` are generic: the call's dtype settles them."""

    BOOL = "bool"
    I32 = "i32"
    I64 = "i64"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    C64 = "c64"
    C128 = "c128"
    REAL = "real"
    COMPLEX = "complex"

    def __repr__(self) -> str:
        return self.value

    @property
    def kind(self) -> Kind:
        return _KIND[self]

    @property
    def is_generic(self) -> bool:
        return self in (DType.REAL, DType.COMPLEX)

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element; a generic type has none and raises `ValueError`."""
        if self.is_generic:
            raise ValueError(f"{self.value} has no size before the call settles it")
        return _ITEMSIZE[self]

    def settled(self, real: DType) -> DType:
        """This type once the call's real dtype is known (`complex` follows its width)."""
        if self is DType.REAL:
            return real
        if self is DType.COMPLEX:
            return DType.C128 if real is DType.F64 else DType.C64
        return self

    @property
    def accumulator(self) -> DType:
        """The type arithmetic is done in: half precisions compute and accumulate in f32."""
        return DType.F32 if self in (DType.F16, DType.BF16) else self

    def to_numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype; bf16 needs `ml_dtypes` and raises `BackendError` without it."""
        import numpy as np

        if self is DType.BF16:
            try:
                return np.dtype(import_module("ml_dtypes").bfloat16)
            except ImportError as missing:
                raise BackendError(
                    "NumPy has no bf16 of its own: `pip install ml_dtypes`, or give torch tensors"
                ) from missing
        return np.dtype(_NUMPY[self])


_KIND = {
    DType.BOOL: Kind.BOOL,
    DType.I32: Kind.INT,
    DType.I64: Kind.INT,
    DType.F16: Kind.REAL,
    DType.BF16: Kind.REAL,
    DType.F32: Kind.REAL,
    DType.F64: Kind.REAL,
    DType.REAL: Kind.REAL,
    DType.C64: Kind.COMPLEX,
    DType.C128: Kind.COMPLEX,
    DType.COMPLEX: Kind.COMPLEX,
}
_ITEMSIZE = {
    DType.BOOL: 1,
    DType.I32: 4,
    DType.I64: 8,
    DType.F16: 2,
    DType.BF16: 2,
    DType.F32: 4,
    DType.F64: 8,
    DType.C64: 8,
    DType.C128: 16,
}
_NUMPY = {
    DType.BOOL: "bool",
    DType.I32: "int32",
    DType.I64: "int64",
    DType.F16: "float16",
    DType.F32: "float32",
    DType.F64: "float64",
    DType.C64: "complex64",
    DType.C128: "complex128",
    DType.REAL: "float64",
    DType.COMPLEX: "complex128",
}
_RANK = [
    DType.BOOL,
    DType.I32,
    DType.I64,
    DType.F16,
    DType.BF16,
    DType.F32,
    DType.F64,
    DType.REAL,
    DType.C64,
    DType.C128,
    DType.COMPLEX,
]


def common_dtype(*dtypes: DType) -> DType:
    """The type operands meet in: the wider kind, then the wider type. The generic type of a kind, the call's, wins
    over explicit ones, so an input stored as f16 takes part in the arithmetic of the call."""
    kind = max((d.kind for d in dtypes), key=lambda k: k.value)
    return max((d for d in dtypes if d.kind is kind), key=_RANK.index)


# A dim is its name. A literal dim (`W[4, H]`) is named by its digits, so two 4s are the same dim.
Dims = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DimDecl:
    """A dim in a recurrence's header: `D`, `N = 16`, or `R = S` (`same_as`)."""

    name: str
    default: int | None = None
    same_as: str | None = None


def extreme(dtype: DType, largest: bool) -> float | int:
    """The largest or least value of a real or integer type: what `min` or `max` leaves its other operand as it is
    with."""
    if dtype.kind is Kind.REAL:
        return math.inf if largest else -math.inf
    bits = 8 * dtype.itemsize
    return (1 << (bits - 1)) - 1 if largest else -(1 << (bits - 1))


def literal_size(dim: str) -> int | None:
    """The size of a literal dim, None for a named one."""
    return int(own_dim(dim)) if own_dim(dim).isdigit() else None


def second(dim: str, number: int = 1) -> str:
    """Another name for `dim`, of the same size, that no source has: the columns of a matrix whose rows are `dim`."""
    return f"{own_dim(dim)}@{number}"


def own_dim(dim: str) -> str:
    """The dim that `dim` is, or is another name for (`second`)."""
    return dim.partition("@")[0]


@lru_cache(1 << 12)
def axis_ids(dims: Dims) -> tuple[str, ...]:
    """Unique names for the axes of a shape: the k-th repeat of `H` is `H'k` (`[H, H]` -> `H, H'1`)."""
    seen: Counter[str] = Counter()
    ids: list[str] = []
    for dim in dims:
        ids.append(dim if not seen[dim] else f"{dim}'{seen[dim]}")
        seen[dim] += 1
    return tuple(ids)


def show_dims(dims: Dims) -> str:
    return "[" + ", ".join(dims) + "]" if dims else "scalar"


def number_key(value: bool | int | float | complex) -> object:
    """Equal for numbers that mean the same to every operator: like `==`, but -0.0 is not 0.0."""
    if value != 0:
        return value
    if isinstance(value, complex):
        return repr(value)
    return "-0.0" if math.copysign(1.0, value) < 0 else value
