"""What a call needs of an array library: `host.HostKit` for NumPy and CPU tensors, `torch_ops.TorchKit` for devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recurc.arguments import Seen, Slot
from recurc.types import DType

Shape = tuple[int, ...]


class Kit(Protocol):
    """Shapes: `batch` are the caller's batch dims, B their product, `dims` the sizes of a value's dims."""

    @property
    def flips_are_views(self) -> bool:
        """Whether `flip` gives a view of the same memory."""
        ...

    def receive(self, slot: Slot, value: Any) -> tuple[Any, Seen]:
        """What a caller gave, as an array, and what the checks need to know of it."""
        ...

    def prepare(
        self, slot: Slot, array: Any, have: DType, want: DType, batch: Shape, steps: int, dims: Shape, layout: str
    ) -> Any:
        """A kernel argument: `(B, T, *dims)` for an input, else `(B, *dims)`."""
        ...

    def output(self, batch: Shape, steps: int, dims: Shape, dtype: DType, layout: str, zero: bool) -> tuple[Any, Any]:
        """A new output as the caller gets it, and its `(B, T, *dims)` view for the kernel."""
        ...

    def final(self, batch: Shape, dims: Shape, dtype: DType) -> tuple[Any, Any]:
        """A new final value as the caller gets it, and its `(B, *dims)` view for the kernel."""
        ...

    def rows(self, array: Any, which: Sequence[int]) -> Any:
        """Some rows of the batch."""
        ...

    def take(self, array: Any, rows: NDArray[np.int64], times: NDArray[np.int64]) -> Any:
        """Steps of some rows: `(n, m, *dims)` of `(B, T, *dims)`, for `rows (n,)` and `times (n, m)`."""
        ...

    def put(self, view: Any, rows: NDArray[np.int64], times: NDArray[np.int64], values: Any) -> None:
        """Writes `values (n, *dims)` at the places `rows (n,)`, `times (n,)` of a `(B, T, *dims)` view."""
        ...

    def flip(self, array: Any) -> Any:
        """`(B, T, *dims)` with time reversed."""
        ...

    def publish(self, public: Any, dtype: DType) -> Any:
        """A result in the library the caller used."""
        ...

    def host(self, array: Any) -> NDArray[np.generic]:
        """The numbers in host memory (bf16 as bits)."""
        ...

    def spread(self, values: NDArray[Any], batch: int, dtype: DType) -> Any:
        """Host values `(1 or B, *dims)` (bf16 as bits) as a `(B, *dims)` kernel argument."""
        ...

    def rescale(self, view: Any, mantissa: Any, exponent: Any) -> None:
        """Writes `mantissa * exp(exponent)` into a view, computed in f64: `(B, *dims)` all of them, or broadcast."""
        ...
