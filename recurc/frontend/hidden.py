"""What a trace adds to the equations that a step function writes: states that it does not declare, with names like
those that the text front end gives them (`x_window`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurc import ir, ops, windows
from recurc.errors import TraceError
from recurc.types import Dims, DType


@dataclass
class Hidden:
    """A state that the function does not declare. `key` stands for it in reads until it has its name."""

    key: str
    hint: str
    dims: Dims
    dtype: DType
    initial: ir.Expr | None = None
    bound: str | None = None
    name: str = ""


@dataclass
class Window:
    """The last `length` values of `source`, the key of a value or the name of a state or an input. Whose window it is,
    and so where it starts, is known when the function has returned. `reads_now`: at what places among the equations
    its value at this step is read first."""

    key: str
    source: str
    length: str
    dims: Dims
    dtype: DType
    reads_now: int | None = None

    def read(self, lag: int) -> ir.Read:
        return ir.Read(self.key, lag, self.dims, self.dtype)

    def equation(self) -> ir.Equation:
        """What it is at this step, by the keys."""
        now = ir.Read(self.source, 0, self.dims[1:], self.dtype)
        return windows.window(self.key, now, ops.convert(ir.Const(0, DType.I64), DType.REAL), self.length)[1]


def settle(
    found: list[Window], homes: Mapping[str, str], owners: Mapping[str, ir.State | ir.Input], where: str
) -> tuple[list[tuple[Hidden, ir.Expr, int | None]], dict[str, str]]:
    """The hidden state, its equation and the place of that among the others, for every window; and which keys are
    second names of others. `homes`: the state that each value becomes. Raises `TraceError` for a window of no state."""
    made: dict[tuple[str, str], tuple[Hidden, ir.Expr, int | None]] = {}
    twins: dict[str, str] = {}
    for window in found:
        name = homes.get(window.source, window.source)
        owner = owners.get(name)
        if owner is None:
            raise TraceError(
                "a window holds the last values of a state or an input, and this is another value of the step: return "
                f"it as the new value of a state{where}"
            )
        before = owner.initial if isinstance(owner, ir.State) else owner.before
        if before is None:
            inside = ", ".join([*(repr(d) for d in owner.dims), "0.0"])
            raise TraceError(
                f"a window of `{name}` reaches earlier steps, so it needs a value before the first step: write "
                f"`{name}: recurc.Input[{inside}]`{where}"
            )
        at = window.reads_now
        earlier = made.get((name, window.length))
        if earlier is not None:
            twins[window.key] = earlier[0].key
            places = [p for p in (at, earlier[2]) if p is not None]
            made[name, window.length] = (*earlier[:2], min(places, default=None))
            continue
        now = ir.Read(name, 0, owner.dims, owner.dtype)
        state, equation = windows.window(window.key, now, before, window.length, bound=owner.bound)
        hidden = Hidden(window.key, f"{name}_window", state.dims, state.dtype, before, owner.bound)
        made[name, window.length] = hidden, equation.expr, at
    return list(made.values()), twins
