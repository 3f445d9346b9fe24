"""What a step function says of time, as functions on traced values: earlier steps, clocks, resets, final states.

Each gives the IR that the text front end makes of its spelling: `h[t-2]`, `t`, `every 4:`, `reset when c`, `S[T]`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, overload

from recurc import ir, ops
from recurc.differentiate import gradient
from recurc.discretize import METHODS, discretize
from recurc.errors import TraceError
from recurc.frontend.calls import MAX_ROUNDS
from recurc.frontend.constants import fold
from recurc.frontend.recorder import recorder_for
from recurc.frontend.traced import Traced, elementwise, lift, operate
from recurc.types import DType, show_dims


def step_index(like: Traced | None = None) -> Traced:
    """`t`, the index of the step: 0, 1, ... (of the trace that `like` belongs to, which need not be given)."""
    del like
    return Traced(ir.Step())


def lag(value: Traced, k: int) -> Traced:
    """A state (the argument itself, `h[t-1]`) or an input, `k` steps before this one."""

    def read(expr: ir.Expr) -> ir.Expr:
        if not isinstance(expr, ir.Read) or expr.name.startswith("%") or not _is_lag(k):
            raise TraceError(
                "lag(h, k) reads an argument of the step function, a state or an input, k steps back, with k from 1 to "
                f"{MAX_ROUNDS}; got k = {k!r}"
            )
        return ir.Read(expr.name, k, expr.dims, expr.dtype)

    return operate(read, value)


def _is_lag(k: object) -> bool:
    return isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= MAX_ROUNDS


@overload
def every(k: int | str, /) -> Traced: ...
@overload
def every(k: int | str, new: Any, old: Any, /) -> Traced: ...
def every(k: int | str, /, *values: Any) -> Traced:
    """Whether a clock fires that does so at t = 0, k, 2k, ... (k: a number, or the name of a dim).

    With two values: the first where it fires, else the second; `h = recurc.every(4, new, h)` is a state that changes at
    every fourth step and holds its value between."""
    if len(values) not in (0, 2):
        raise TraceError("every(k) says whether the clock fires; every(k, new, old) chooses: give two values besides k")
    if isinstance(k, str) and k.isidentifier():
        count: ir.Expr = ir.Size(k)
    elif isinstance(k, int) and not isinstance(k, bool) and 0 < k < 2**31:
        count = ir.Const(k, DType.I64)
    else:
        raise TraceError(f"every takes a positive whole number or the name of a dim, got {k!r}")
    fires = ops.apply("eq", ops.apply("mod", ir.Step(), count), ir.Const(0, DType.I64))
    if not values:
        return Traced(fires)
    recorder = recorder_for("every")
    recorder.observe()
    return elementwise("select", Traced(recorder.clock(fires, f"every_{k}"), recorder), *values)


def grad(loss: Traced, value: Traced) -> Traced:
    """The derivative of the scalar `loss` by `value`, with the dims of `value`: a state's argument (so by its previous
    value), an input, a param, an earlier value of the step, or any expression that occurs in the loss."""
    recorder = recorder_for("grad")

    def made(scalar: ir.Expr, by: ir.Expr) -> ir.Expr:
        found = gradient(scalar, by, recorder.so_far(), recorder.fresh, recorder.parts)
        recorder.add_hidden(found.equations)
        return found.values[0]

    return operate(made, loss, value)


def der(state: Traced, law: Traced, using: str, dt: Any, lam: Any = None) -> Traced:
    """The value of a state at this step by the continuous-time law `der(h) = law`, discretised with a step `dt`:
    `h = der(h, A @ h + B * u, using="zoh", dt=dt)`. Methods: "euler", "bilinear", "zoh" and "exp_trapezoid", which
    weighs what drives the state at the step's two ends by `lam` (1/2 if not given) and keeps it in a hidden state."""
    recorder = recorder_for("der")
    if using not in METHODS:
        raise TraceError(f"der discretises by {', '.join(METHODS)}, got {using!r}{recorder.where()}")
    if lam is not None and METHODS[using] < 2:
        raise TraceError(f"der by {using} has no weight lam, which is one of exp_trapezoid{recorder.where()}")

    def made(old: ir.Expr, moving: ir.Expr, step: ir.Expr, *weight: ir.Expr) -> ir.Expr:
        if not isinstance(old, ir.Read) or not old.lag:
            raise TraceError(f"der takes a state, the argument of the step function{recorder.where()}")
        found = discretize(old, moving, using, step, weight[0] if weight else None, recorder.fresh, None)
        if found.hidden is not None and found.equation is not None:
            recorder.add_hidden([found.equation], [found.hidden])
        return ir.rewrite(found.value, fold)

    return operate(made, state, law, dt, *(() if lam is None else (lam,)))


def clocked(fires: Traced, cell: Any) -> Callable[..., Any]:
    """A recurrence as a cell that goes on only where `fires`, a truth value, holds: `clocked(every(4), lstm)(x, ...)`;
    else its states, and so its outputs where these are states, stay what they are."""
    from recurc.frontend.traced_cells import call_cell

    recorder = recorder_for("clocked")
    recorder.observe()
    recurrence = getattr(cell, "recurrence", cell)  # of a step function

    def call(*values: Any, **named: Any) -> Any:
        return call_cell(recurrence.ir, recurrence.defaults, values, named, recorder.named_clock(fires))

    return call


def reset_when(condition: Traced) -> None:
    """Before a step at which `condition` (a truth value of inputs, params and the step index) holds, every state takes
    its initial value again, at every lag, and so do inputs at earlier steps."""
    recorder = recorder_for("reset_when")
    recorder.observe()
    recorder.restart(lift(condition, recorder))


def final(state: Traced | str) -> Traced:
    """`S[T]`: a state after the last step, for values that only outputs use; the state's argument, or its name."""
    recorder = recorder_for("final")
    recorder.observe()
    expr = recorder.expr(state) if isinstance(state, Traced) else None
    name = str(state) if expr is None else expr.name if isinstance(expr, ir.Read) and expr.lag else ""
    declared = recorder.declared.get(name)
    if declared is None or declared.kind != "state":
        known = [n for n, d in recorder.declared.items() if d.kind == "state"]
        raise TraceError(
            f"final takes a state, as the argument of the step function or by its name ({', '.join(known) or 'none'}), "
            f"got {state!r}{recorder.where()}"
        )
    return Traced(ir.Final(name, declared.dims, declared.dtype), recorder)


def window(value: Traced, length: str | int) -> Traced:
    """The last values of a state or an input, `[length, *dims]`, newest last. Of an input up to this step (or, of
    `x.lag(k)`, k steps earlier), of a state's argument up to the step before, of its new value up to this step."""
    name = str(length)
    if not (name.isidentifier() or (name.isdigit() and int(name) > 0)):
        raise TraceError(f"the length of a window is the name of a dim or a positive integer, got {length!r}")

    def read(expr: ir.Expr) -> ir.Expr:
        recorder = recorder_for("window")
        declared = recorder.declared.get(expr.name) if isinstance(expr, ir.Read) else None
        known = isinstance(expr, ir.Read) and (declared is None or declared.kind != "param")
        if not isinstance(expr, ir.Read) or not known:
            what = "a param" if isinstance(expr, ir.Read) else "an expression"
            raise TraceError(
                f"a window holds the last values of a state or an input, and this is {what}: make it a state"
                f"{recorder.where()}"
            )
        if name in expr.dims:
            raise ops.TypeProblem(
                "E0313",
                f"in a window over {name} of a value that is {show_dims(expr.dims)} it is not clear which {name} is "
                "meant",
                "give the window a dim of its own",
            )
        return recorder.window(expr, name)

    return operate(read, value)


def in_order(equations: Sequence[ir.Equation], states: Collection[str], reset: str | None) -> tuple[ir.Equation, ...]:
    """The equations with those first that decide over a reset; raises `TraceError` if it depends on earlier steps."""
    defined = {e.name: e for e in equations}
    pending, first = [reset] if reset is not None else [], set[str]()
    while pending:
        name = pending.pop()
        if name in first or name not in defined:
            continue
        first.add(name)
        for read in ir.reads(defined[name].expr):
            if read.lag or read.name in states:
                what = f"{read.name}, a state" if read.name in states else f"an earlier step of {read.name}"
                raise TraceError(
                    f"the condition of reset_when depends on {what}; a reset is decided before the step, by inputs, "
                    "params and the step index: choose with recurc.where"
                )
            pending.append(read.name)
    return tuple(sorted(equations, key=lambda e: e.name not in first))
