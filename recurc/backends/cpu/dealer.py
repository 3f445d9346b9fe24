"""What the calls of a stage's functions need to know of the file they stand in: names, and how work is dealt out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from recurc.backends.base import Specialization
from recurc.backends.cpu.names import Spelling
from recurc.backends.cpu.program import Program
from recurc.backends.emit.text import Text
from recurc.plan import Buffer, Plan


class Unit(Protocol):
    """A printed C function."""

    @property
    def function(self) -> str: ...
    @property
    def program(self) -> Program: ...


AnyUnit = TypeVar("AnyUnit", bound=Unit, contravariant=True)


class Dealer(Protocol[AnyUnit]):
    """What deals the work of a function to the threads (see `entry`)."""

    plan: Plan
    spec: Specialization
    spell: Spelling

    def lane_end(self, unit: AnyUnit) -> str: ...
    def stored(self, buffer: Buffer) -> str: ...
    def items(
        self, unit: AnyUnit, text: Text, count: str, rows: str, steps: str, before: Sequence[str] = ...
    ) -> None: ...
    def segments(self, unit: AnyUnit, text: Text, setup: Text, steps: str) -> None: ...
