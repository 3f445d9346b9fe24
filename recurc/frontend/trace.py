"""Traces a Python step function into the IR that the text front end makes of the same equations.

The function is run on traced values (twice: see `steady`); `recorder` collects the equations it makes. Here they get
their final names, and states and outputs are told from what the function returns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from recurc import build, ir, ops
from recurc.errors import ShapeError, TraceError
from recurc.frontend import finals
from recurc.frontend.beyond import in_order
from recurc.frontend.declare import Declared
from recurc.frontend.recorder import Recorder
from recurc.frontend.steady import traced_twice
from recurc.frontend.step_function import RESERVED, StepFunction, step_function
from recurc.frontend.traced import Traced, lift, recording
from recurc.types import DimDecl, Dims, DType, Kind, literal_size, show_dims


def trace(
    function: Callable[..., Any], name: str | None = None, dims: Mapping[str, int | str | None] | None = None
) -> ir.Recurrence:
    """The recurrence whose step is `function`.

    `dims`: the dims in the order of the header, with default sizes (None: no default) or the name of a dim of the same
    size; otherwise in the order in which the arguments mention them. Raises `TraceError` or `ShapeError` for what has
    no meaning as a recurrence."""
    step = step_function(function)
    title = step.name if name is None else name
    _check_header(title, dims or {})
    return traced_twice(step.name, lambda: _trace(step, title, dims))


def _check_reads(recorder: Recorder, declared: Mapping[str, Declared], dims: Sequence[str]) -> None:
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


def _check_finals(equations: Sequence[ir.Equation], states: Collection[str], reset: str | None) -> None:
    """Nothing that is worked out step by step knows what a state is after the last step."""
    for equation, final in finals.stepwise(equations, states, reset):
        line = f" (line {equation.span.line} of {equation.span.file})" if equation.span else ""
        what = f"the new value of state `{equation.name}`" if equation.name in states else "the condition of reset_when"
        raise TraceError(
            f"{what} depends on final({final.name}), which is known after the last step only{line}: use it in outputs "
            f"only, or read the step before, `{final.name}`"
        )


def _check_header(title: object, dims: Mapping[Any, object]) -> None:
    for word, what in ((title, "a recurrence"), *((d, "a dim") for d in dims)):
        if not isinstance(word, str) or not word.isidentifier():
            raise TraceError(f"{word!r} cannot be the name of {what}: names are made of letters, digits and `_`")
    for dim, size in dims.items():
        if isinstance(size, str):
            if size not in dims or size == dim or isinstance(dims[size], str):
                raise TraceError(f"dim {dim} should be of the size of another dim of the header, got {size!r}")
        elif size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise TraceError(f"the default size of dim {dim} should be a positive integer or None, got {size!r}")


def _trace(step: StepFunction, title: str, dims: Mapping[str, int | str | None] | None) -> ir.Recurrence:
    declared = step.arguments
    header = _all_dims(declared, dims)
    decls = [DimDecl(d, same_as=s) if isinstance(s, str) else DimDecl(d, s) for d, s in header.items()]
    recorder = Recorder(step, decls, recording.get())
    arguments = {n: Traced(ir.Read(n, int(d.kind == "state"), d.dims, d.dtype), recorder) for n, d in declared.items()}
    token = recording.set(recorder)
    try:
        result = step.run(arguments)
    finally:
        recording.reset(token)
    recorder.finish()
    states = {n: d for n, d in declared.items() if d.kind == "state"}
    new, returned = _returned(step.name, result, tuple(states))
    _check_values(step.name, recorder, [*new.items(), *returned])
    for state, value in new.items():
        _define_state(recorder, state, declared[state], value)
    taken = {*declared, *header, *RESERVED}
    outputs = tuple(_define_output(recorder, key, value, taken, declared) for key, value in returned)
    inputs = tuple(
        ir.Input(n, d.dims, d.dtype, _before(n, d), bound=d.bound) for n, d in declared.items() if d.kind == "input"
    )
    own = tuple(ir.State(n, d.dims, d.dtype, _before(n, d) or _zero(d.dtype), bound=d.bound) for n, d in states.items())
    twins = recorder.settle_windows({v.name: v for v in (*own, *inputs)})
    _settle_names(recorder, taken)
    names = {e.key: e.name for e in recorder.equations}
    names |= {twin: names[key] for twin, key in twins.items()}
    names |= _dim_names(recorder, names, taken)
    settled = partial(renamed, names=names)
    _check_reads(recorder, declared, [d.name for d in recorder.dims])
    equations = [ir.Equation(e.name, ir.rewrite(e.expr, settled), e.span) for e in recorder.equations]
    hidden = tuple(
        ir.State(
            names[h.key],
            tuple(names.get(d, d) for d in h.dims),
            h.dtype,
            ir.rewrite(h.initial or _zero(h.dtype), settled),
            bound=names.get(h.bound or "", h.bound),
        )
        for h in recorder.states
    )
    reset = None if recorder.reset is None else names[recorder.reset.name]
    stepwise = {*states, *(h.name for h in hidden)}
    _check_finals(equations, stepwise, reset)
    return ir.Recurrence(
        title,
        tuple(replace(d, name=names.get(d.name, d.name)) for d in recorder.dims),
        inputs,
        tuple(
            ir.Param(n, d.dims, d.dtype, _init(n, d), bound=d.bound) for n, d in declared.items() if d.kind == "param"
        ),
        (*own, *hidden),
        in_order(equations, stepwise, reset),
        outputs,
        inspect.getdoc(step.function) or "",
        reset=reset,
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


def _check_values(title: str, recorder: Recorder, values: Sequence[tuple[Any, Any]]) -> None:
    """Everything returned is a value of this trace, under a name that a recurrence can have."""
    for name, value in values:
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise TraceError(f"{title} returns a value under {name!r}, which is no name of letters, digits and `_`")
        if not isinstance(value, (Traced, bool, int, float, complex)):
            shown = f"`{name}`" if name is not None else "an output"
            raise TraceError(f"{title} returns {type(value).__name__} for {shown}, which is no value of a step")
        if isinstance(value, Traced) and value.recorder not in (None, recorder):
            raise TraceError(f"{title} returns a value that another trace made: {value!r}")


def _define_state(recorder: Recorder, name: str, declared: Declared, value: Any) -> None:
    """Makes an equation of the state's name, in its dims and type."""
    expr = lift(value, recorder)
    fitted = _fitted(name, declared, expr, recorder)
    equation = recorder.keyed(expr)
    if equation is not None and fitted is expr and not equation.name:
        equation.name = name
    else:
        recorder.add(fitted, name)
        if isinstance(value, Traced):
            value.expr = ir.Read(recorder.equations[-1].key, 0, fitted.dims, fitted.dtype)


def _fitted(name: str, declared: Declared, expr: ir.Expr, recorder: Recorder) -> ir.Expr:
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
    recorder: Recorder, key: str | None, value: Any, taken: set[str], declared: Mapping[str, Declared]
) -> str:
    """The name of an output; makes an equation of it where there is none."""
    expr = lift(value, recorder)
    equation = recorder.keyed(expr)
    if equation is not None:
        if key is None or key == equation.name:
            equation.name = equation.name or _unused(equation.wish("y"), recorder, taken)
            return equation.name
        if not equation.name and key not in taken:
            equation.name = key
            return key
    elif key is None and isinstance(expr, ir.Read) and expr.lag == 0:
        argument = declared.get(expr.name)
        if argument is not None and argument.kind == "input":
            return expr.name
    name = _unused(key or "y", recorder, taken)
    if key is not None and name != key:
        raise TraceError(f"no output can be called `{key}`: an argument, a dim or another value bears that name")
    recorder.add(expr, name)
    return name


def _settle_names(recorder: Recorder, taken: set[str]) -> None:
    """Every equation gets its variable's name; one that is unpacked those of its parts, joined by `_`."""
    for equation in recorder.equations:
        if not equation.name and not equation.parts and not equation.hidden:
            equation.name = _unused(equation.wish("value"), recorder, taken)
    for equation in recorder.equations:
        if not equation.name and not equation.hidden:
            parts = [e.name for e in recorder.equations if e.part_of == equation.key]
            name = "_".join(parts) if len(parts) == equation.parts else "packed"
            while name in taken or any(e.name == name for e in recorder.equations):
                name += "_"
            equation.name = name
    names = {e.key: e.name for e in recorder.equations}
    names |= {f"%c{i}": names[key] for i, key in enumerate(recorder.cells)}
    for equation in recorder.equations:
        if not equation.name:
            equation.name = _unused(_hinted(equation.wish("value"), names), recorder, taken, 1)
            names[equation.key] = equation.name


def _hinted(hint: str, names: Mapping[str, str]) -> str:
    """A hint with names in the place of keys: `grad_%3`, `%c0_h`."""
    return re.sub("%[a-z]?[0-9]+", lambda key: names[key[0]], hint)


def _dim_names(recorder: Recorder, names: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """The dims that cells brought with them, by their keys."""
    cells = {f"%c{i}": names[key] for i, key in enumerate(recorder.cells)}
    found: dict[str, str] = {}
    for dim in recorder.dims:
        if dim.name.startswith("%"):
            found[dim.name] = _unused(_hinted(dim.name, cells), recorder, taken | set(found.values()), 1)
    return found


def renamed(node: ir.Expr, names: Mapping[str, str]) -> ir.Expr:
    """One node with final names for the keys of values and dims."""
    dims = tuple(names.get(d, d) for d in node.dims)
    if dims != node.dims:
        node = replace(node, dims=dims)
    match node:
        case ir.Read(name=name) | ir.Final(name=name) if name in names:
            return replace(node, name=names[name])
        case ir.Size(dim=dim) if dim in names:
            return replace(node, dim=names[dim])
        case ir.Reduce(over=over):
            return replace(node, over=tuple(names.get(d, d) for d in over))
        case ir.Unfold(taps=taps):
            return replace(node, taps=tuple(names.get(d, d) for d in taps))
        case _:
            return node


def _unused(name: str, recorder: Recorder, taken: set[str], count: int = 0) -> str:
    used = taken | {e.name for e in recorder.equations}
    candidate = name
    while candidate in used:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _zero(dtype: DType) -> ir.Expr:
    return ir.Const(False, dtype) if dtype is DType.BOOL else ops.convert(ir.Const(0, DType.I64), dtype)


def _before(name: str, declared: Declared) -> ir.Expr | None:
    """The value before the first step, in the argument's type."""
    made = declared.first
    if made is None:
        return None
    if any(d not in declared.dims for d in made.dims):
        raise ShapeError(
            f"`{name}` is {show_dims(declared.dims)}, but its value before the first step is {show_dims(made.dims)}"
        )
    number = made.value if isinstance(made, ir.Const) else None
    if isinstance(number, float) and number.is_integer() and declared.dtype.kind is Kind.INT:
        made = ir.Const(int(number), declared.dtype)
    if made.dtype.kind.value > declared.dtype.kind.value or (made.dtype.kind is not declared.dtype.kind is Kind.BOOL):
        shown = f"{number!r}" if number is not None else made.dtype.value
        raise ShapeError(
            f"`{name}` holds {declared.dtype.value}, but its value before the first step is {shown}: declare another "
            "element type, or convert the value with recurc.cast"
        )
    made = ops.convert(made, declared.dtype)
    if declared.bound is None:
        return made
    limit = literal_size(declared.bound)
    if isinstance(made, ir.Const) and not 0 <= int(str(made.value)) < (limit or 2**63):
        raise ShapeError(
            f"`{name}` is Int({declared.bound}): it begins with a number from 0 on, below that, not with {made.value}"
        )
    return build.below(made, declared.bound)


def _init(name: str, declared: Declared) -> ir.Initializer | None:
    """An initialiser that is an expression has the dims and the type of its param."""
    made = declared.init
    if made is None or made.name != ir.EXPRESSION:
        return made
    expr = made.args[0]
    if any(d not in declared.dims for d in expr.dims):
        raise ShapeError(f"`{name}` is {show_dims(declared.dims)}, but its initialiser is {show_dims(expr.dims)}")
    if expr.dtype.kind.value > declared.dtype.kind.value:
        raise ShapeError(f"`{name}` holds {declared.dtype.value}, but its initialiser is {expr.dtype.value}")
    return ir.Initializer(ir.EXPRESSION, (ops.convert(expr, declared.dtype),))


def _all_dims(
    declared: Mapping[str, Declared], dims: Mapping[str, int | str | None] | None
) -> dict[str, int | str | None]:
    mentioned: Dims = tuple(dict.fromkeys(d for a in declared.values() for d in a.mentioned if literal_size(d) is None))
    if dims is None:
        return dict.fromkeys(mentioned)
    for dim in mentioned:
        if dim not in dims:
            raise TraceError(f"dim {dim} is not among dims={list(dims)}")
    return dict(dims)
