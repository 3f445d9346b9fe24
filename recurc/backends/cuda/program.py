"""What emission produces: the source and, as data, how to launch it. The launcher, the CPU shim of the tests and the
standalone launcher of an exported kernel all read this same description."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from recurc.errors import CompilerBug


class Kind(Enum):
    """What a kernel argument is."""

    POINTER = "pointer"  # to a buffer of the plan
    BATCH_STRIDE = "batch_stride"  # of that buffer, in elements
    TIME_STRIDE = "time_stride"
    BATCH = "batch"
    STEPS = "steps"
    WORKSPACE = "workspace"  # a pointer to memory the launcher brings


@dataclass(frozen=True, slots=True)
class Argument:
    """One kernel argument; strides, batch and steps are 64-bit integers."""

    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """ceil(count * batch? * steps? / tile): one factor of a grid extent or of a workspace's length."""

    count: int = 1
    tile: int = 1
    batch: bool = False
    steps: bool = False

    def value(self, batch: int, steps: int) -> int:
        whole = self.count * (batch if self.batch else 1) * (steps if self.steps else 1)
        return -(-whole // self.tile)


Extent = tuple[Term, ...]  # the product of its terms


def extent(terms: Extent, batch: int, steps: int) -> int:
    total = 1
    for term in terms:
        total *= term.value(batch, steps)
    return total


@dataclass(frozen=True, slots=True)
class Workspace:
    """Device memory a launch needs beside the plan's buffers."""

    name: str
    itemsize: int
    length: Extent
    zeroed: bool = False  # set to zero before each launch


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch. With `cooperative`, all blocks must be resident at once, and gridDim.y is lowered to what fits
    (the kernel strides over what `grid_y` counts)."""

    kernel: str
    arguments: tuple[Argument, ...]
    grid_x: Extent
    grid_y: Extent = (Term(),)
    block: int = 128
    shared_bytes: int = 0
    cooperative: bool = False
    max_batch: int | None = None  # only for batches up to this
    common: tuple[str, ...] = ()  # only if all sequences share these buffers (their batch stride is 0)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A buffer the plan makes and uses inside: (B, T, *shape) with a time axis, (*shape) without."""

    name: str
    storage: str
    shape: tuple[int, ...]
    has_time: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One stage: the launches that can run it, best first, and the memory they need. The last one always can."""

    stage: str  # what it is, for a person
    launches: tuple[Launch, ...]
    workspaces: tuple[Workspace, ...] = ()

    def chosen(self, batch: int, per_sequence: Collection[str] = ()) -> Launch:
        """The first launch fit for this batch; `per_sequence` names the buffers with values for each sequence."""
        for launch in self.launches:
            if (launch.max_batch is None or batch <= launch.max_batch) and not set(launch.common) & set(per_sequence):
                return launch
        raise CompilerBug(f"no kernel of the stage `{self.stage}` takes every batch")


@dataclass(frozen=True, slots=True)
class Program:
    source: str
    steps: tuple[Step, ...]
    scratch: tuple[Scratch, ...]
