"""What a command that plans is asked to plan for: sizes, batch, steps, dtype, target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurc.cli import say

if TYPE_CHECKING:
    from recurc.explain import Case
    from recurc.ir import Recurrence

_USUAL = 64


def case_for(rec: Recurrence, sizes: dict[str, int], batch: int, steps: int, dtype: str | None, target: str) -> Case:
    """The sizes given, completed by the header's defaults and, announced on stderr, by 64 for the rest.

    Raises `ShapeError` for a dim the recurrence does not have, `UnsupportedError` for an unknown target."""
    from recurc import targets
    from recurc.arguments import check_renames, check_sizes, with_defaults
    from recurc.explain import Case
    from recurc.runtime.machine import cpu_target
    from recurc.types import DType

    known = with_defaults(rec, check_sizes(rec, sizes))
    assumed = [d.name for d in rec.dims if d.name not in known and d.same_as is None]
    if assumed:
        say(f"assuming {', '.join(f'{d}={_USUAL}' for d in assumed)}; --sizes says otherwise")
        known = with_defaults(rec, known | dict.fromkeys(assumed, _USUAL))
    check_renames(rec, known)
    ordered = {d.name: known[d.name] for d in rec.dims}
    machine = cpu_target() if target == "cpu" else targets.named(target)
    return Case(ordered, batch, steps, DType(dtype or "f32"), machine, rec)
