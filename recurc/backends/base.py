"""What every backend offers, and the form in which arrays reach a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recurc.plan import Plan
from recurc.types import DType, literal_size, own_dim

Arrays = Mapping[str, Any]  # buffer name -> numpy array or torch tensor


@dataclass(frozen=True)
class Specialization:
    """What a kernel is built for: every dim's size and the real dtype arrays are stored in. B and T stay free."""

    sizes: tuple[tuple[str, int], ...]  # sorted by name; literal dims are not listed
    real: DType

    def size(self, dim: str) -> int:
        return literal_size(dim) or dict(self.sizes)[own_dim(dim)]

    def dtype(self, dtype: DType) -> DType:
        return dtype.settled(self.real)


class Kernel(Protocol):
    """A plan built for one specialization.

    Called with one array for every buffer of the plan except ONCE and SEQUENCE (the kernel makes those):
    (B, T, *dims) with a time axis, (B, *dims) without. Any strides are allowed on the batch and time axes (0 for
    broadcasting, negative for reversed time); the dims after them are contiguous. OUTPUT and FINAL arrays are
    written in place. B >= 1 and T >= 1. A complex array is one array, also where the plan has a buffer for each part of
    it. A bf16 buffer is a NumPy array of uint16 (its bits) or a bfloat16 tensor.
    """

    source: dict[str, str]  # file name -> generated text, empty for interpreters

    def __call__(self, arrays: Arrays, batch: int, steps: int) -> None: ...


class Backend(Protocol):
    name: str
    real_only: bool  # whether plans reach it with complex numbers split into their parts (`Buffer.part`)

    def unavailable(self) -> str | None:
        """Why this machine cannot run the backend, or None."""
        ...

    def limitations(self, plan: Plan, spec: Specialization) -> list[str]:
        """What in the plan this backend cannot do, in words a user understands; empty if it can do all."""
        ...

    def build(self, plan: Plan, spec: Specialization) -> Kernel:
        """Emit and build; raises `BackendError` when the machine fails, `UnsupportedError` for a limitation."""
        ...


class BindableKernel(Kernel, Protocol):
    """A kernel that can do its checks once. `arguments` names the buffers whose addresses it takes, in order (INPUT,
    PARAM, INITIAL, OUTPUT and FINAL ones). `bind` gets arrays as a call would and returns the call for arrays of
    exactly these shapes, dtypes and strides at other places: it takes one address per name of `arguments`. None where
    the kernel has more to do than that."""

    arguments: tuple[str, ...]

    def bind(self, arrays: Arrays, batch: int, steps: int) -> Callable[[Sequence[int]], None] | None: ...
