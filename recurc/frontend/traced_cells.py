"""Another recurrence as a cell of a step function, `h1 = lstm(x, W=W1, ...)`: what Python gives, told to `inline`."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

from recurc import ir
from recurc.errors import ShapeError, TraceError
from recurc.frontend.inline import Caller, CellProblem, arguments, inline
from recurc.frontend.recorder import recorder_for
from recurc.frontend.traced import Traced, lift


def call_cell(
    rec: ir.Recurrence, defaults: Mapping[str, Any], values: Sequence[Any], named: Mapping[str, Any], clock: Any = None
) -> Any:
    """The output of the cell `rec` at this step (several: a named tuple), as traced values.

    Values without a name are its inputs, then its params; by name may also be given the initial values of its states
    and the dims that its dims are, and `defaults` fill in for params. The cell goes on where `clock`, a truth value,
    holds (None: always). Raises `TraceError` for names and `ShapeError` for dims or types that do not fit."""
    recorder = recorder_for(f"{rec.name} with traced values")
    recorder.observe()
    slots = [s.name for s in (*rec.inputs, *rec.params)]
    missing = {n: v for n, v in defaults.items() if n not in named and n in slots[len(values) :]}
    cell = recorder.new_cell()
    try:
        given, initial, sizes = arguments(rec, values, {**missing, **named})
        made = inline(
            rec,
            cell,
            {n: lift(v, recorder) for n, v in given.items()},
            Caller(recorder.dims, [n for n, d in recorder.declared.items() if d.kind == "param"], set()),
            initial={n: lift(v, recorder) for n, v in initial.items()},
            sizes={n: str(d) for n, d in sizes.items()},
            clock=None if clock is None else lift(clock, recorder),
        )
    except CellProblem as problem:
        kind = TraceError if problem.code in ("E0612", "E0613") else ShapeError
        raise kind(f"{problem}{f'; {problem.help}' if problem.help else ''}{recorder.where()}") from problem
    reads = recorder.add_cell(cell, made, rec.outputs)
    outputs = [Traced(read, recorder) for read in reads]
    if len(outputs) == 1:
        return outputs[0]
    # its fields are known here only
    return namedtuple(rec.name, rec.outputs, rename=True)(*outputs)  # pyright: ignore[reportUntypedNamedTuple]
