"""What a step function says while it runs on traced values: its equations, in the order in which they are made.

The function's local variables name the equations: before each operation, and after the function has returned, the
names its frame has bound since are read off (no source text is needed, and nothing is rewritten). An expression that
is never bound to a name stays inside the equation that uses it, as in a `.rec` file.

Equations and states that the function does not name itself have names that start with `%` until it has returned.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType

from recurc import ir
from recurc.errors import TraceError
from recurc.frontend.declare import Declared
from recurc.frontend.hidden import Hidden, Window, settle
from recurc.frontend.inline import Inlined
from recurc.frontend.step_function import StepFunction
from recurc.frontend.tokens import KEYWORDS
from recurc.frontend.traced import Listener, Traced, recording
from recurc.source import Span
from recurc.types import DimDecl, DType, literal_size, show_dims

WORDS = (*KEYWORDS, "inf", "pi")  # no names in `.rec` text


@dataclass
class Recorded:
    """An equation while it is traced: `key` stands for it in reads until it has its name, `hint` is its variable.
    A hidden one is made by a function such as `recurc.every`: its name gives way to all others, and keys in its hint
    stand for names. `unbound`: the hint is only what it is called unless a variable gives it another name."""

    key: str
    hint: str | None
    expr: ir.Expr
    span: Span | None
    parts: int = 0  # unpacked into so many
    part_of: str | None = None
    name: str = ""
    hidden: bool = False
    unbound: bool = False

    def wish(self, otherwise: str) -> str:
        """The name it would like to have."""
        return f"{self.hint}_" if self.hint in WORDS else self.hint or otherwise


class Recorder:
    """Listens to the operations of one run of the function."""

    def __init__(self, step: StepFunction, dims: Sequence[DimDecl], outer: Listener | None) -> None:
        """`dims` as in the header; `outer`: the trace that asks for this one, if one does."""
        self._code: CodeType = step.code
        self._outer = outer
        while isinstance(outer, Recorder):
            if outer._code is self._code:
                raise TraceError(f"{step.name} uses itself as a cell: cells are written out where they are used")
            outer = outer._outer
        self._title = f"{step.name}, {self._code.co_filename}"
        self._frame: FrameType | None = None
        self._bound: dict[str, Traced] = {}
        self._known: dict[int, tuple[Traced, ir.Expr]] = {}  # values of no trace that have a name in this one
        self._hints: list[str] = []
        self.parts: dict[ir.Expr, ir.Read] = {}  # parts of derivatives that have a name
        self._clocks: dict[ir.Expr, ir.Expr] = {}
        self.declared: Mapping[str, Declared] = step.arguments
        self.equations: list[Recorded] = []
        self.states: list[Hidden] = []
        self.windows: list[Window] = []
        self.dims = list(dims)
        self.cells: list[str] = []  # the key of the equation that gives its name to all of a cell
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

    def named_clock(self, fires: Traced) -> Traced:
        """A truth value under a name, since many equations ask for it."""
        expr = self.expr(fires)
        return Traced(expr if isinstance(expr, ir.Read) else self.clock(expr, "fires"), self)

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

    def so_far(self) -> list[ir.Equation]:
        """The equations by their keys, those of windows with them."""
        found: list[ir.Equation] = []
        for place, equation in enumerate([*self.equations, None]):
            found += (w.equation() for w in self.windows if w.reads_now == place)
            if equation is not None:
                found.append(ir.Equation(equation.key, equation.expr))
        return found

    def fresh(self, hint: str) -> str:
        """The key of a hidden equation that is to be called something like `hint`, where keys stand for names."""
        self._hints.append(hint)
        return f"%g{len(self._hints) - 1}"

    def add_hidden(self, equations: Sequence[ir.Equation], states: Sequence[ir.State] = ()) -> None:
        """Equations whose names are keys that `fresh` made; those of `states` are the values of these."""
        self.states += [Hidden(s.name, "", s.dims, s.dtype, s.initial, s.bound) for s in states]
        for equation in equations:
            hint = self._hints[int(equation.name.removeprefix("%g"))]
            self.equations.append(Recorded(equation.name, hint, equation.expr, self._span(), hidden=True))
            self.parts[equation.expr] = ir.Read(equation.name, 0, equation.expr.dims, equation.expr.dtype)

    def new_cell(self) -> str:
        """What the names of a cell begin with until it has its own."""
        self.cells.append("")
        return f"%c{len(self.cells) - 1}"

    def add_cell(self, cell: str, made: Inlined, outputs: Sequence[str]) -> list[ir.Read]:
        """The equations, states and dims of a cell; what reads its outputs. The first output's variable names it."""
        self.dims += made.dims
        for state in made.states:
            self.states.append(Hidden(state.name, "", state.dims, state.dtype, state.initial, state.bound))
        for equation in made.equations:
            self.equations.append(Recorded(equation.name, equation.name, equation.expr, equation.span, hidden=True))
        reads: list[ir.Read] = []
        for name, expr in zip(outputs, made.outputs, strict=True):
            reads.append(self._record(expr, name))
            self.equations[-1].unbound = True
        self.cells[int(cell.removeprefix("%c"))] = reads[0].name
        return reads

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
            equation = self.keyed(self.expr(value))
            if equation is not None and equation.unbound:
                equation.hint, equation.unbound = name, False
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
        self.equations.append(Recorded(key, hint, expr, self._span(), parts, part_of))
        return ir.Read(key, 0, expr.dims, expr.dtype)

    def _span(self) -> Span:
        line = self._frame.f_lineno if self._frame is not None else self._code.co_firstlineno
        return Span(self._code.co_filename, line, 1, line, 1)


def recorder_for(what: str) -> Recorder:
    """The trace that runs now; raises `TraceError` outside of one."""
    found = recording.get()
    if not isinstance(found, Recorder):
        raise TraceError(f"{what} has a meaning only inside a step function, while recurc.jit traces it")
    return found
