"""What a recurrence is compiled with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from recurc import ir
from recurc.arguments import check_sizes, real_dtype, slots_of, with_defaults
from recurc.errors import UnsupportedError
from recurc.runtime import torch_ops
from recurc.types import DType

LAYOUTS = ("BT", "TB")
MEMORY = ("fast", "balanced", "minimal")
CALL_OPTIONS = frozenset(("initial", "return_final", "reverse", "lengths", "cu_seqlens", "steps"))


@dataclass(frozen=True)
class Options:
    """What `Recurrence.compile` was asked for."""

    backend: str = "auto"
    schedule: str = "auto"
    dtype: DType | None = None
    layout: str = "BT"
    device: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    memory: str = "fast"

    @classmethod
    def checked(
        cls,
        rec: ir.Recurrence,
        backend: str,
        schedule: str,
        dtype: Any,
        layout: str,
        device: Any,
        sizes: Mapping[str, Any] | None,
        memory: str = "fast",
    ) -> Options:
        """The options with every value checked; raises `ShapeError` or `UnsupportedError` naming the bad one."""
        from recurc.runtime.choose import check_name

        check_name(backend)
        taken = [name for name in slots_of(rec) if name in CALL_OPTIONS]
        if taken:
            raise UnsupportedError(
                f"{rec.name} has an input or param `{taken[0]}`, which is also an option of a call; "
                f"give it another name in the source, such as `{taken[0]}_`"
            )
        if not isinstance(cast(object, schedule), str):
            raise UnsupportedError(f"schedule={schedule!r}: give the name of a schedule, or `auto`")
        if device is not None:
            torch_ops.check_device(device)
        if layout not in LAYOUTS:
            raise UnsupportedError(f"layout={layout!r}: arrays are laid out `BT` (batch first) or `TB` (time first)")
        if memory not in MEMORY:
            raise UnsupportedError(
                f"memory={memory!r}: what a derivative keeps is `fast` (what is costly to compute anew), `balanced` "
                "(the states before each step) or `minimal` (those of about sqrt(T) steps)"
            )
        given = check_sizes(rec, sizes or {})
        with_defaults(rec, given)
        place = None if device is None else str(device)
        return cls(backend, schedule, real_dtype(dtype), layout, place, given, memory)
