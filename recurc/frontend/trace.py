"""Traces a Python step function into the IR that the text front end makes of the same equations.

The function is run on traced values (twice: see `steady`). Its local variables name the equations: before each
operation, and after the function has returned, the names its frame has bound since are read off (no source text is
needed, and nothing is rewritten). An expression that is never bound to a name stays inside the equation that uses it,
as in a `.rec` file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, cast

from recurc import build, ir, ops
from recurc.errors import ShapeError, TraceError
from recurc.frontend.declare import Declared
from recurc.frontend.steady import traced_twice
from recurc.frontend.step_function import RESERVED, StepFunction, step_function
from recurc.frontend.tokens import KEYWORDS
from recurc.frontend.traced import Traced
from recurc.source import Span
from recurc.types import DimDecl, Dims, DType, literal_size, show_dims

_WORDS = (*KEYWORDS, "inf", "pi")  # no names in `.rec` text


@dataclass
class _Equation:
    """An equation while it is traced: `key` stands for it in reads until it has its name, `hint` is its variable."""

    key: str
    hint: str | None
    expr: ir.Expr
    span: Span | None
    parts: int = 0  # unpacked into so many
    part_of: str | None = None
    name: str = ""

    def wish(self, otherwise: str) -> str:
        """The name it would like to have."""
        return f"{self.hint}_" if self.hint in _WORDS else self.hint or otherwise


class _Recorder:
    """Listens to the operations of one run of the function."""

    def __init__(self, step: StepFunction) -> None:
        self._code: CodeType = step.code
        self._title = f"{step.name}, {self._code.co_filename}"
        self._frame: FrameType | None = None
        self._bound: dict[str, Traced] = {}
        self.equations: list[_Equation] = []

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

    def packed(self, value: Traced) -> ir.Expr:
        return self._record(value.expr, None, parts=literal_size(value.dims[0]) or 0)

    def cut(self, expr: ir.Expr) -> ir.Expr:
        return self._record(expr, None)

    def where(self) -> str:
        return f" (line {self._frame.f_lineno} of {self._title})" if self._frame is not None else f" ({self._title})"

    def keyed(self, expr: ir.Expr) -> _Equation | None:
        """The equation that an expression reads as a whole at this step, if it is such a read."""
        if not isinstance(expr, ir.Read) or not expr.name.startswith("%"):
            return None
        return next(e for e in self.equations if e.key == expr.name)

    def add(self, expr: ir.Expr, name: str) -> None:
        """An equation that has its name already."""
        self._record(expr, name)
        self.equations[-1].name = name

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
            if not isinstance(value.expr, (ir.Read, ir.Const, ir.Size, ir.Step)):
                value.expr = self._record(value.expr, name)

    def _record(self, expr: ir.Expr, hint: str | None, parts: int = 0) -> ir.Read:
        key = f"%{len(self.equations)}"
        part_of = None
        if isinstance(expr, ir.Reaxis) and expr.at == 0 and isinstance(expr.arg, ir.Read):
            part_of = expr.arg.name
        line = self._frame.f_lineno if self._frame is not None else self._code.co_firstlineno
        span = Span(self._code.co_filename, line, 1, line, 1)
        self.equations.append(_Equation(key, hint, expr, span, parts, part_of))
        return ir.Read(key, 0, expr.dims, expr.dtype)


def trace(
    function: Callable[..., Any], name: str | None = None, dims: Mapping[str, int | None] | None = None
) -> ir.Recurrence:
    """The recurrence whose step is `function`.

    `dims`: the dims in the order of the header, with default sizes (None: no default); otherwise in the order in which
    the arguments mention them. Raises `TraceError` or `ShapeError` for what has no meaning as a recurrence."""
    step = step_function(function)
    title = step.name if name is None else name
    _check_header(title, dims or {})
    return traced_twice(step.name, lambda: _trace(step, title, dims))


def _check_reads(recorder: _Recorder, declared: Mapping[str, Declared], dims: Mapping[str, int | None]) -> None:
    """Every dim has its size from an argument, and every earlier step that is read has a value."""
    for equation in recorder.equations:
        line = f" (line {equation.span.line} of {equation.span.file})" if equation.span else ""
        for node in ir.walk(equation.expr):
            if isinstance(node, ir.Read) and node.lag and node.name in declared:
                argument = declared[node.name]
                if argument.kind == "param":
                    raise TraceError(f"param `{node.name}` is the same at every step: it has no lag{line}")
                if argument.kind == "input" and argument.before is None:
                    inside = ", ".join([*(repr(d) for d in argument.dims), "0.0"])
                    raise TraceError(
                        f"`{node.name}` is read {node.lag} steps back, so it needs a value before the first step: "
                        f"write `{node.name}: recurc.Input[{inside}]`{line}"
                    )
            for dim in (node.dim,) if isinstance(node, ir.Size) else node.dims:
                if dim not in dims and literal_size(dim) is None:
                    raise TraceError(
                        f"no argument has the dim {dim!r} that `{equation.name}` mentions{line}: the dims are "
                        f"{', '.join(dims) or 'none'}; jit(dims=[...]) adds others"
                    )


def _check_header(title: object, dims: Mapping[Any, object]) -> None:
    for word, what in ((title, "a recurrence"), *((d, "a dim") for d in dims)):
        if not isinstance(word, str) or not word.isidentifier():
            raise TraceError(f"{word!r} cannot be the name of {what}: names are made of letters, digits and `_`")
    for dim, size in dims.items():
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise TraceError(f"the default size of dim {dim} should be a positive integer or None, got {size!r}")


def _trace(step: StepFunction, title: str, dims: Mapping[str, int | None] | None) -> ir.Recurrence:
    declared = step.arguments
    recorder = _Recorder(step)
    arguments = {n: Traced(ir.Read(n, int(d.kind == "state"), d.dims, d.dtype), recorder) for n, d in declared.items()}
    result = step.run(arguments)
    recorder.finish()
    states = {n: d for n, d in declared.items() if d.kind == "state"}
    new, returned = _returned(step.name, result, tuple(states))
    _check_values(step.name, recorder, [*new.items(), *returned])
    for state, value in new.items():
        _define_state(recorder, state, declared[state], value)
    taken = {*declared, *_all_dims(declared, dims), *RESERVED}
    outputs = tuple(_define_output(recorder, key, value, taken, declared) for key, value in returned)
    _settle_names(recorder, taken)
    names = {e.key: e.name for e in recorder.equations}

    def settled(node: ir.Expr) -> ir.Expr:
        return (
            ir.Read(names[node.name], 0, node.dims, node.dtype)
            if isinstance(node, ir.Read) and node.name in names
            else node
        )

    _check_reads(recorder, declared, _all_dims(declared, dims))
    return ir.Recurrence(
        title,
        tuple(DimDecl(d, size) for d, size in _all_dims(declared, dims).items()),
        tuple(ir.Input(n, d.dims, d.dtype, _before(n, d)) for n, d in declared.items() if d.kind == "input"),
        tuple(ir.Param(n, d.dims, d.dtype, d.init) for n, d in declared.items() if d.kind == "param"),
        tuple(ir.State(n, d.dims, d.dtype, _before(n, d) or _zero(d.dtype)) for n, d in states.items()),
        tuple(ir.Equation(e.name, ir.rewrite(e.expr, settled), e.span) for e in recorder.equations),
        outputs,
        inspect.getdoc(step.function) or "",
    )


def _returned(title: str, result: Any, states: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str | None, Any]]]:
    """The new value of every state, and the outputs with their names where they have one.

    `return h`; `return h, y`; `return {"h": h, "c": c}, y`; `return {"h": h, "c": c, "y": y}`; `return h, c` with two
    states. Where nothing else is returned, the states are the outputs."""
    parts: tuple[Any, ...] = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else (result,)
    new: dict[str, Any] = {}
    rest: list[tuple[str | None, Any]] = []
    if parts and isinstance(parts[0], dict) and states:
        first = cast("dict[str, Any]", parts[0])
        new = {n: v for n, v in first.items() if n in states}
        rest = [(n, v) for n, v in first.items() if n not in states]
        parts = parts[1:]
    elif states:
        new, parts = dict(zip(states, parts, strict=False)), parts[len(states) :]
    for part in parts:
        rest += list(cast("dict[str, Any]", part).items()) if isinstance(part, dict) else [(None, part)]
    missing = [s for s in states if s not in new]
    if missing:
        raise TraceError(
            f"{title} returns no new value of state `{missing[0]}`: return the new states first, as in "
            f"`return {{{', '.join(f'{s!r}: {s}' for s in states)}}}, y`"
        )
    if not rest:
        rest = [(None, value) for value in new.values()]
    if not rest:
        raise TraceError(f"{title} returns nothing: a recurrence has at least one output")
    return new, rest


def _check_values(title: str, recorder: _Recorder, values: Sequence[tuple[Any, Any]]) -> None:
    """Everything returned is a value of this trace, under a name that a recurrence can have."""
    for name, value in values:
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise TraceError(f"{title} returns a value under {name!r}, which is no name of letters, digits and `_`")
        if not isinstance(value, (Traced, bool, int, float, complex)):
            shown = f"`{name}`" if name is not None else "an output"
            raise TraceError(f"{title} returns {type(value).__name__} for {shown}, which is no value of a step")
        if isinstance(value, Traced) and value.recorder not in (None, recorder):
            raise TraceError(f"{title} returns a value that another trace made: {value!r}")


def _define_state(recorder: _Recorder, name: str, declared: Declared, value: Any) -> None:
    """Makes an equation of the state's name, in its dims and type."""
    expr = _expr(value)
    fitted = _fitted(name, declared, expr, recorder)
    equation = recorder.keyed(expr)
    if equation is not None and fitted is expr and not equation.name:
        equation.name = name
    else:
        recorder.add(fitted, name)
        if isinstance(value, Traced):
            value.expr = ir.Read(recorder.equations[-1].key, 0, fitted.dims, fitted.dtype)


def _fitted(name: str, declared: Declared, expr: ir.Expr, recorder: _Recorder) -> ir.Expr:
    if expr.dims != declared.dims:
        if sorted(expr.dims) != sorted(declared.dims) or len(set(expr.dims)) < len(expr.dims):
            have, want = show_dims(expr.dims), show_dims(declared.dims)
            raise ShapeError(f"state `{name}` is {want}, but its new value is {have}{recorder.where()}")
        expr = build.permute(expr, declared.dims)
    have, want = expr.dtype.kind.value, declared.dtype.kind.value
    if have > want or (have < want and have == 0):
        raise ShapeError(
            f"state `{name}` holds {declared.dtype.value}, but its new value is {expr.dtype.value}: declare "
            f"`State[..., {'complex' if have == 3 else 'float'}]`, or convert it with recurc.cast{recorder.where()}"
        )
    return ops.convert(expr, declared.dtype)


def _define_output(
    recorder: _Recorder, key: str | None, value: Any, taken: set[str], declared: Mapping[str, Declared]
) -> str:
    """The name of an output; makes an equation of it where there is none."""
    expr = _expr(value)
    equation = recorder.keyed(expr)
    if equation is not None:
        if key is None or key == equation.name:
            equation.name = equation.name or _unused(equation.wish("y"), recorder, taken)
            return equation.name
        if not equation.name and key not in taken:
            equation.name = key
            return key
    elif key is None and isinstance(expr, ir.Read) and declared[expr.name].kind == "input" and expr.lag == 0:
        return expr.name
    name = _unused(key or "y", recorder, taken)
    if key is not None and name != key:
        raise TraceError(f"no output can be called `{key}`: an argument, a dim or another value bears that name")
    recorder.add(expr, name)
    return name


def _settle_names(recorder: _Recorder, taken: set[str]) -> None:
    """Every equation gets its variable's name; one that is unpacked those of its parts, joined by `_`."""
    for equation in recorder.equations:
        if not equation.name and not equation.parts:
            equation.name = _unused(equation.wish("value"), recorder, taken)
    for equation in recorder.equations:
        if not equation.name:
            parts = [e.name for e in recorder.equations if e.part_of == equation.key]
            name = "_".join(parts) if len(parts) == equation.parts else "packed"
            while name in taken or any(e.name == name for e in recorder.equations):
                name += "_"
            equation.name = name


def _unused(name: str, recorder: _Recorder, taken: set[str]) -> str:
    used = taken | {e.name for e in recorder.equations}
    candidate, count = name, 0
    while candidate in used:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _expr(value: Any) -> ir.Expr:
    from recurc.frontend.traced import lift

    return lift(value)


def _zero(dtype: DType) -> ir.Expr:
    return ir.Const(False, dtype) if dtype is DType.BOOL else ops.convert(ir.Const(0, DType.I64), dtype)


def _before(name: str, declared: Declared) -> ir.Expr | None:
    """The value before the first step, in the argument's type."""
    made = declared.before
    if made is None:
        return None
    if any(d not in declared.dims for d in made.dims):
        raise ShapeError(
            f"`{name}` is {show_dims(declared.dims)}, but its value before the first step is {show_dims(made.dims)}"
        )
    return ops.convert(made, declared.dtype)


def _all_dims(declared: Mapping[str, Declared], dims: Mapping[str, int | None] | None) -> dict[str, int | None]:
    mentioned: Dims = tuple(dict.fromkeys(d for a in declared.values() for d in a.dims if literal_size(d) is None))
    if dims is None:
        return dict.fromkeys(mentioned)
    for dim in mentioned:
        if dim not in dims:
            raise TraceError(f"dim {dim} is not among dims={list(dims)}")
    return dict(dims)
