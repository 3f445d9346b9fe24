"""Whether a step function means one recurrence: what it does besides building equations must not reach them.

A trace runs the function once, and whatever it draws or reads then would be frozen for all steps and calls. So the
global random generators are watched during a trace, and a second trace must give the same recurrence.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from recurc import ir
from recurc.errors import TraceError

_INSTEAD = 'make it an input, which has a value at every step: `noise: recurc.Input["D"]`'


def traced_twice(title: str, trace: Callable[[], ir.Recurrence]) -> ir.Recurrence:
    """What `trace` gives; raises `TraceError` if it draws random numbers or gives something else the next time."""
    before = _generators()
    first = trace()
    after = _generators()
    for name, state in before.items():
        if after[name] != state:
            raise TraceError(
                f"{title} draws random numbers from {name}; the function runs only when it is traced, so one draw "
                f"would be used for all steps: {_INSTEAD}"
            )
    second = trace()
    if first != second:
        raise TraceError(
            f"{title} gives another recurrence each time it runs{_difference(first, second)}; the function runs only "
            f"when it is traced, so a random number, a clock or a counter would be frozen: {_INSTEAD}"
        )
    return first


def _generators() -> dict[str, object]:
    """The states of the global random generators of those libraries that are loaded, as values to compare."""
    found: dict[str, object] = {
        "Python's `random`": random.getstate(),
        "NumPy's global generator": _flat(np.random.get_state(legacy=False)),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch's generator"] = torch.get_rng_state().numpy().tobytes()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            found["torch's generator of the GPU"] = [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()]
    return found


def _flat(state: object) -> object:
    """A state with its arrays as bytes, since arrays do not compare as a whole."""
    match state:
        case dict():
            return {key: _flat(value) for key, value in cast("dict[Any, object]", state).items()}
        case np.ndarray():
            return cast("np.ndarray[Any, Any]", state).tobytes()
        case _:
            return state


def _difference(first: ir.Recurrence, second: ir.Recurrence) -> str:
    """Where two traces part, as the end of a sentence."""
    for one, other in zip(first.equations, second.equations, strict=False):
        if one == other:
            continue
        line = f" (line {one.span.line} of {one.span.file})" if one.span is not None else ""
        numbers = next(
            (
                f" holds {a.value!r} and then {b.value!r}"
                for a, b in zip(ir.walk(one.expr), ir.walk(other.expr), strict=False)
                if isinstance(a, ir.Const) and isinstance(b, ir.Const) and a != b
            ),
            "",
        )
        return f": `{one.name}`{line}{numbers or ' differs'}"
    return ""
