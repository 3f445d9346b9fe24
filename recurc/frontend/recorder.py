"""What a step function says while it runs on traced values: its equations, in the order in which they are made.

The function's local variables name the equations: before each operation, and after the function has returned, the
names its frame has bound since are read off (no source text is needed, and nothing is rewritten). An expression that
is never bound to a name stays inside the equation that uses it, as in a `.rec` file.

Equations and states that the function does not name itself have names that start with `%` until it has returned.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, FrameType

from recurc import ir
from recurc.errors import TraceError
from recurc.frontend.declare import Declared
from recurc.frontend.hidden import Hidden, Window, settle
from recurc.frontend.step_function import StepFunction
from recurc.frontend.tokens import KEYWORDS
from recurc.frontend.traced import Traced, recording
from recurc.source import Span
from recurc.types import DType, literal_size, show_dims

WORDS = (*KEYWORDS, "inf", "pi")  # no names in `.rec` text


@dataclass
class Recorded:
    """An equation while it is traced: `key` stands for it in reads until it has its name, `hint` is its variable.
    A hidden one is made by a function such as `recurc.every`: its name gives way to all others."""

    key: str
    hint: str | None
    expr: ir.Expr
    span: Span | None
    parts: int = 0  # unpacked into so many
    part_of: str | None = None
    name: str = ""
    hidden: bool = False

    def wish(self, otherwise: str) -> str:
        """The name it would like to have."""
        return f"{self.hint}_" if self.hint in WORDS else self.hint or otherwise


class Recorder:
    """Listens to the operations of one run of the function."""

    def __init__(self, step: StepFunction) -> None:
        self._code: CodeType = step.code
        self._title = f"{step.name}, {self._code.co_filename}"
        self._frame: FrameType | None = None
        self._bound: dict[str, Traced] = {}
        self._known: dict[int, tuple[Traced, ir.Expr]] = {}  # values of no trace that have a name in this one
        self._clocks: dict[ir.Expr, ir.Expr] = {}
        self.declared: Mapping[str, Declared] = step.arguments
        self.equations: list[Recorded] = []
        self.states: list[Hidden] = []
        self.windows: list[Window] = []
        self.reset: ir.Read | None = None

    def observe(self) -> None:
        frame = inspect.currentframe()
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        if frame is not None:
            self._frame = frame
            self._read_names()

    def finish(self) -> None:
        """A frame that somebody holds keeps its variables when the function has returned: read the last ones."""
        self._read_names()
        self._frame = None

    def expr(self, value: Traced) -> ir.Expr:
        """What a value means here; one that belongs to no trace, such as a size, may have got a name."""
        return self._known.get(id(value), (value, value.expr))[1]

    def packed(self, value: Traced) -> ir.Expr:
        return self._record(self.expr(value), None, parts=literal_size(value.dims[0]) or 0)

    def cut(self, expr: ir.Expr) -> ir.Expr:
        return self._record(expr, None)

    def where(self) -> str:
        return f" (line {self._frame.f_lineno} of {self._title})" if self._frame is not None else f" ({self._title})"

    def keyed(self, expr: ir.Expr) -> Recorded | None:
        """The equation that an expression reads as a whole at this step, if it is such a read."""
        if not isinstance(expr, ir.Read) or expr.lag or not expr.name.startswith("%"):
            return None
        return next((e for e in self.equations if e.key == expr.name), None)

    def add(self, expr: ir.Expr, name: str) -> None:
        """An equation that has its name already."""
        self._record(expr, name)
        self.equations[-1].name = name

    def hidden(self, expr: ir.Expr, hint: str) -> ir.Read:
        """An equation that the function does not name; it is called something like `hint`."""
        read = self._record(expr, hint)
        self.equations[-1].hidden = True
        return read

    def clock(self, fires: ir.Expr, hint: str) -> ir.Expr:
        """The truth value `fires` as an equation, one for all that ask for it."""
        if fires not in self._clocks:
            self._clocks[fires] = self.hidden(fires, hint)
        return self._clocks[fires]

    def window(self, value: ir.Read, length: str) -> ir.Read:
        """The last values of a state or an input, `[length, *dims]`, as a hidden state read as late as `value` is."""
        found = next((w for w in self.windows if (w.source, w.length) == (value.name, length)), None)
        if found is None:
            found = Window(f"%w{len(self.windows)}", value.name, length, (length, *value.dims), value.dtype)
            self.windows.append(found)
        if value.lag == 0 and found.reads_now is None:
            found.reads_now = len(self.equations)
        return found.read(value.lag)

    def settle_windows(self, owners: Mapping[str, ir.State | ir.Input]) -> dict[str, str]:
        """Makes hidden states of the windows, now that the values of the function have become states or not; which
        keys are second names of others. `owners`: the declared states and inputs."""
        homes = {e.key: e.name for e in self.equations if e.name in owners}
        made, twins = settle(self.windows, homes, owners, self.where())
        late = [item for item in made if item[2] is None]
        for hidden, expr, place in (*sorted((i for i in made if i[2] is not None), key=lambda i: -(i[2] or 0)), *late):
            equation = Recorded(hidden.key, hidden.hint, expr, None, hidden=True)
            self.equations.insert(len(self.equations) if place is None else place, equation)
        self.states += [hidden for hidden, _, _ in made]
        return twins

    def restart(self, condition: ir.Expr) -> None:
        """The sequence starts anew where `condition` holds."""
        if self.reset is not None:
            raise TraceError(f"a recurrence has one reset_when: join the conditions with `|`{self.where()}")
        if condition.dtype is not DType.BOOL:
            raise TraceError(f"reset_when takes a truth value: compare it, as in `x > 0`{self.where()}")
        if condition.dims:
            raise TraceError(
                f"reset_when takes one truth value for the whole step, and this is {show_dims(condition.dims)}: reduce "
                f"it with recurc.any or recurc.all{self.where()}"
            )
        known = isinstance(condition, ir.Read) and self.keyed(condition) is not None
        self.reset = condition if isinstance(condition, ir.Read) and known else self.hidden(condition, "restart")

    def _read_names(self) -> None:
        if self._frame is None:
            return
        fresh = [
            (name, value)
            for name, value in self._frame.f_locals.items()
            if isinstance(value, Traced) and self._bound.get(name) is not value
        ]
        for name, value in sorted(fresh, key=lambda item: item[1].created):
            self._bound[name] = value
            if isinstance(self.expr(value), (ir.Read, ir.Const, ir.Size, ir.Step, ir.Iota, ir.Final)):
                continue
            if value.recorder is None:
                self._known[id(value)] = value, self._record(value.expr, name)
            else:
                value.expr = self._record(value.expr, name)

    def _record(self, expr: ir.Expr, hint: str | None, parts: int = 0) -> ir.Read:
        key = f"%{len(self.equations)}"
        part_of = None
        if isinstance(expr, ir.Reaxis) and expr.at == 0 and isinstance(expr.arg, ir.Read):
            part_of = expr.arg.name
        line = self._frame.f_lineno if self._frame is not None else self._code.co_firstlineno
        span = Span(self._code.co_filename, line, 1, line, 1)
        self.equations.append(Recorded(key, hint, expr, span, parts, part_of))
        return ir.Read(key, 0, expr.dims, expr.dtype)


def recorder_for(what: str) -> Recorder:
    """The trace that runs now; raises `TraceError` outside of one."""
    found = recording.get()
    if not isinstance(found, Recorder):
        raise TraceError(f"{what} has a meaning only inside a step function, while recurc.jit traces it")
    return found
