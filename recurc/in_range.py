"""Derivatives of recurrences whose sums of exponentials are held beside a running maximum (`passes.with_maxima`), for
a caller who knows the sums themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recurc.errors import ShapeError
from recurc.runtime import ends

if TYPE_CHECKING:
    from recurc.checkpoints import CheckpointedPullback
    from recurc.vjp import Pullback


@dataclass(frozen=True)
class InRange:
    """Takes the derivative of a loss by the results of a call back to its arguments, as `inner` does for states beside
    maxima; `finals`: those after the last step."""

    inner: Pullback | CheckpointedPullback
    tops: Sequence[ends.TopEnds]
    finals: Mapping[str, Any]

    def __call__(self, outputs: Any = None, final: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The derivatives as `vjp.Pullback` gives them, from the same."""
        own = {top for _, top, _ in self.tops}
        for name in own & {*(final or {})}:
            known = ", ".join(n for n in self.finals if n not in own)
            raise ShapeError(f"there is no final state `{name}` to have a derivative by; there are: {known}")
        found = self.inner(outputs, ends.scaled(self.tops, final or {}, self.finals))
        return found | {"initial": {n: value for n, value in found["initial"].items() if n not in own}}
