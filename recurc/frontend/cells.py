"""Calls of a recurrence as a cell, `h1 = LSTM(x, W = W1, ...)`: what the text gives, told to `inline`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from recurc import ir
from recurc.frontend import ast, clocks
from recurc.frontend.environment import Environment
from recurc.frontend.inline import Caller, CellProblem, Inlined, arguments, inline, size_of
from recurc.frontend.problems import Problems, Stop
from recurc.frontend.symbols import Definition, Kind, Scope
from recurc.source import Span
from recurc.types import DimDecl

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer

_EMPTY: Environment = {}


def in_order(recs: Sequence[ast.Recurrence], problems: Problems) -> list[int]:
    """The recurrences of a file, each after those it uses as cells, otherwise in source order. Reports those that use
    themselves, directly or through others, and leaves them out."""
    owner: dict[str, int] = {}
    for at, rec in enumerate(recs):
        owner.setdefault(rec.name.name, at)
    calls = [
        [
            c
            for value in _values(rec.body)
            for c in ast.walk(value)
            if isinstance(c, ast.Call) and c.function.name in owner
        ]
        for rec in recs
    ]
    order: list[int] = []
    done: set[int] = set()
    for start in range(len(recs)):
        path = [start] if start not in done else []
        waiting = [iter(calls[start])] if path else []
        while path:
            call = next(waiting[-1], None)
            if call is None:
                waiting.pop()
                at = path.pop()
                if at not in done:
                    done.add(at)
                    order.append(at)
                continue
            used = owner[call.function.name]
            if used in path:
                loop = [recs[i].name.name for i in path[path.index(used) :]]
                problems.report(
                    "E0611",
                    f"`{loop[0]}` uses itself as a cell: {' -> '.join([*loop, loop[0]])}",
                    call.function.span,
                    "cells are written out where they are used; a value that comes back is a state, read with `[t-1]`",
                )
                done.update(path[path.index(used) :])
            elif used not in done:
                path.append(used)
                waiting.append(iter(calls[used]))
    return order


def _values(body: Iterable[ast.Statement]) -> Iterator[ast.Expr]:
    """The right sides of the equations, in blocks too."""
    for statement in body:
        match statement:
            case ast.Equation(value=value):
                yield value
            case ast.Outputs(results=results):
                yield from (r.value for r in results if r.value is not None)
            case ast.Clocked(body=inner):
                yield from _values(inner)
            case _:
                pass


def called(scope: Scope, value: ast.Expr) -> ast.Call | None:
    """The call of a cell, if an equation's right side is that."""
    if not isinstance(value, ast.Call):
        return None
    symbol = scope.symbols.get(value.function.name)
    return value if symbol is not None and symbol.kind is Kind.RECURRENCE else None


def inside(lowerer: Lowerer, node: ast.Call) -> Stop:
    """A call of a cell in the middle of an expression."""
    name = node.function.name
    return lowerer.stop(
        "E0615",
        f"the recurrence `{name}` is used inside an expression",
        node.span,
        f"give it an equation of its own, `y = {name}(...)`, and use `y`",
    )


def lower(lowerer: Lowerer, definition: Definition, call: ast.Call, dims: tuple[DimDecl, ...]) -> Inlined:
    """The cell's equations under names that begin with the first name on the left. Raises `Stop`, reported."""
    scope, name = lowerer.scope, call.function.name
    cell = scope.cells.get(name)
    if cell is None:
        raise Stop(name)  # it is wrong itself, which has been reported
    values = [a for a in call.args if not isinstance(a, ast.Binding)]
    named: dict[str, ast.Expr] = {}
    for arg in call.args:
        if isinstance(arg, ast.Binding):
            if arg.name.name in named:
                raise lowerer.stop("E0612", f"`{arg.name.name}` of `{name}` is given twice", arg.span, "give it once")
            named[arg.name.name] = arg.value
    places: Mapping[str, ast.Expr] = named
    try:
        given, initial, sizes = arguments(cell, values, named)
        places = given | initial | sizes
        outputs, names = len(cell.outputs), len(definition.names)
        if outputs > 1 and names != outputs:
            shown = ", ".join(f"`{o}`" for o in cell.outputs)
            raise CellProblem(
                "E0616",
                f"`{name}` has {outputs} outputs, {shown}, and {names} name{'s' * (names != 1)} on the left",
                f"write `{', '.join(cell.outputs)} = {name}(...)`",
            )
        caller = Caller(dims, [p.name for p in scope.of_kind(Kind.PARAM)], _taken(lowerer))
        made = inline(
            cell,
            definition.names[0].name,
            {n: lowerer.expression(e) for n, e in given.items()},
            caller,
            initial={n: _initial(lowerer, e) for n, e in initial.items()},
            sizes={n: _dim(lowerer, n, e) for n, e in sizes.items()},
            clock=None if definition.block is None else clocks.clock_of(lowerer, definition.block),
            span=definition.span,
        )
    except CellProblem as problem:
        raise _report(lowerer, call, cell, problem, places) from problem
    scope.hidden |= caller.taken
    lowerer.count(size_of(made.equations), call.span)
    return made


def _taken(lowerer: Lowerer) -> set[str]:
    scope = lowerer.scope
    return {*scope.symbols, *scope.hidden, *lowerer.values}


def _initial(lowerer: Lowerer, node: ast.Expr) -> ir.Expr:
    lowerer.initial = True
    try:
        return lowerer.expression(node)
    finally:
        lowerer.initial = False


def _dim(lowerer: Lowerer, name: str, node: ast.Expr) -> str:
    dim = lowerer.as_dim(node, _EMPTY)
    if dim is None:
        raise CellProblem("E0614", f"`{name}` is a dim: it is given a dim, or a number", "", name)
    return dim


def _report(
    lowerer: Lowerer, call: ast.Call, cell: ir.Recurrence, problem: CellProblem, places: Mapping[str, ast.Expr]
) -> Stop:
    span = places[problem.argument].span if problem.argument in places else call.function.span
    labels: list[tuple[Span, str]] = []
    declared = [s for s in (*cell.inputs, *cell.params, *cell.states) if s.name == problem.argument]
    if declared and declared[0].span is not None:
        labels = [(span, "given here"), (declared[0].span, f"declared here, in {cell.name}")]
    elif cell.span is not None:
        labels = [(span, "used here"), (cell.span, f"{cell.name} is declared here")]
    return lowerer.stop(
        problem.code, str(problem), span, problem.help or f"see the declarations of `{cell.name}`", tuple(labels)
    )
