"""States that a kernel holds as a mantissa beside a running maximum (`passes.stabilize`), for a caller who knows the
states of the source: what the parts begin with, and what the states are after the last step."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from recurc.backends.storage import store
from recurc.ir import Const
from recurc.runtime.host import storage
from recurc.runtime.kit import Kit
from recurc.runtime.specialize import Built
from recurc.types import Dims, literal_size


def inner_starts(built: Built, whole: Mapping[str, Any], given: Container[str], kit: Kit, batch: int) -> dict[str, Any]:
    """`NAME@initial (B, *dims)` of mantissas and running maxima. `whole`: what the states of the source begin with;
    `given`: the arrays of the caller.

    A mantissa begins as its state does. The maximum is then 0; where the caller gave none of its states a value, it
    begins as the core form says, which knows whether they begin at zero."""
    found: dict[str, Any] = {}
    if built.plan is None:
        return found
    initial = {s.name: s.initial for s in built.plan.recurrence.states}
    sizes = dict(built.spec.sizes)
    for name, parts in built.stabilized.items():
        found[f"{parts.mantissa}@initial"] = whole[f"{name}@initial"]
        expr, value = initial[parts.top], built.initial[parts.top]
        assert isinstance(expr, Const)
        members = (n for n, s in built.stabilized.items() if s.top == parts.top)
        start = 0.0 if any(f"{n}@initial" in given for n in members) else float(expr.value.real)
        dtype = built.spec.dtype(value.dtype)
        full = np.empty((1, *(literal_size(d) or sizes[d] for d in value.dims)), storage(dtype))
        store(full, np.asarray(start))
        found[f"{parts.top}@initial"] = kit.spread(full, batch, dtype)
    return found


def whole_finals(built: Built, finals: Mapping[str, Any], inner: Mapping[str, Any], kit: Kit) -> None:
    """Writes into the views `finals` what the states of the source are after the last step: mantissa times exp of the
    running maximum, by their `NAME@final` in `inner`."""
    for name, parts in built.stabilized.items():
        if name in finals:
            dims, top = built.initial[parts.mantissa].dims, built.initial[parts.top].dims
            exponent = _spread_over(inner[f"{parts.top}@final"], top, dims)
            kit.rescale(finals[name], inner[f"{parts.mantissa}@final"], exponent)


def _spread_over(array: Any, own: Dims, dims: Dims) -> Any:
    """`(B, *own)` as a view that broadcasts against `(B, *dims)`; `own` are some of `dims`, in their order."""
    assert own == tuple(d for d in dims if d in own)
    return array[(slice(None), *(slice(None) if d in own else None for d in dims))]
