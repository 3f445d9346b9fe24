"""The names of a recurrence: what each one is, where it was declared, and whether that is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from recurc import ir
from recurc.frontend import ast
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.problems import Problems
from recurc.source import Span
from recurc.types import Dims, DType

RESERVED = {
    "t": "the index of the step",
    "T": "the number of steps",
    "inf": "infinity",
    "pi": "the circle number",
}


class Kind(Enum):
    """What a name stands for, in the words of a message."""

    DIM = "a dim"
    INPUT = "an input"
    PARAM = "a param"
    STATE = "a state"
    CONST = "a const"
    EQUATION = "an equation"
    FUNCTION = "a function"
    RECURRENCE = "a recurrence"


@dataclass(frozen=True, slots=True)
class Block:
    """An `every` or `when` block. `clock` names the hidden equation that says whether it fires at this step."""

    clock: ast.Name
    word: str
    outer: Block | None

    def holds(self, inner: Block | None) -> bool:
        """Whether `inner` is this block or stands inside it."""
        while inner is not None and inner != self:
            inner = inner.outer
        return inner is not None


@dataclass(frozen=True, slots=True)
class Symbol:
    """A declared name. `dims` and `dtype` are those declared (inputs, params and states)."""

    name: str
    kind: Kind
    span: Span
    dims: Dims = ()
    dtype: DType = DType.REAL
    declaration: ast.Declaration | None = None
    bound: str | None = None  # of an `int(Q)`
    block: Block | None = None  # of an equation: the block it stands in, outside which it has no value


@dataclass(frozen=True, slots=True)
class Definition:
    """One equation of the source: the names it defines (several: unpacking) and its right side. Inside a block, the
    states it defines hold their values while the block does not fire. A block's clock is a definition too: `value` is
    the condition as written, `names` the clock."""

    names: tuple[ast.Name, ...]
    value: ast.Expr
    span: Span
    block: Block | None = None
    clock_of: Block | None = None
    resets: bool = False  # it is the condition of `reset when`
    law: ast.Derivative | None = None  # it is a continuous-time law; `value` reads what its equation reads


@dataclass
class Scope:
    """Everything one recurrence declares."""

    symbols: dict[str, Symbol] = field(default_factory=dict[str, Symbol])
    functions: dict[str, ast.Function] = field(default_factory=dict[str, ast.Function])
    consts: dict[str, ast.Binding] = field(default_factory=dict[str, ast.Binding])
    cells: dict[str, ir.Recurrence | None] = field(default_factory=dict[str, "ir.Recurrence | None"])  # None: wrong
    definitions: list[Definition] = field(default_factory=list[Definition])
    outputs: list[ast.Name] = field(default_factory=list[ast.Name])
    reset: ast.Name | None = None  # the equation that starts the sequence anew
    broken: set[str] = field(default_factory=set[str])  # names whose declaration was refused
    hidden: set[str] = field(default_factory=set[str])  # equations that the source does not name
    elsewhere: set[str] = field(default_factory=set[str])  # names a limitation defines: known, but without a value

    def of_kind(self, kind: Kind) -> list[Symbol]:
        return [s for s in self.symbols.values() if s.kind is kind]

    def nearest(self, name: str, kinds: Iterable[Kind] | None = None) -> str:
        """The declared name most like `name`, or ""."""
        wanted = set(kinds or Kind)
        pool = [s.name for s in self.symbols.values() if s.kind in wanted]
        close = difflib.get_close_matches(name, pool, 1, 0.6) or [n for n in pool if n.lower() == name.lower()]
        return close[0] if close else ""


DTYPES = {
    "f16": DType.F16,
    "bf16": DType.BF16,
    "f32": DType.F32,
    "f64": DType.F64,
    "c64": DType.C64,
    "c128": DType.C128,
    "i32": DType.I32,
    "i64": DType.I64,
    "int": DType.I64,
    "bool": DType.BOOL,
    "real": DType.REAL,
    "complex": DType.COMPLEX,
}
_ALIASES = {
    "float": "f32", "float32": "f32", "double": "f64", "float64": "f64", "half": "f16", "float16": "f16",
    "bfloat16": "bf16", "int32": "i32", "int64": "i64", "complex64": "c64", "complex128": "c128", "boolean": "bool",
}  # fmt: skip


class Collector:
    """Fills a `Scope` from the statements of one recurrence."""

    def __init__(self, problems: Problems, shared: Scope) -> None:
        self.problems = problems
        self._defined: dict[str, ast.Name] = {}  # states that have an equation
        self._names: set[str] = set()  # every name of the recurrence
        self._reset: ast.Reset | None = None
        self.scope = Scope(dict(shared.symbols), dict(shared.functions), dict(shared.consts), shared.cells)

    def run(self, rec: ast.Recurrence) -> Scope:
        for dim in rec.dims:
            self._declare(Symbol(dim.name.name, Kind.DIM, dim.name.span))
        for dim in rec.dims:
            self._check_dim(dim)
        self._statements(rec.body)
        self._names = used_names(rec.body)
        self._define(rec.body, None)
        self._define_reset()
        self._check_definitions()
        return self.scope

    def _check_dim(self, dim: ast.DimDeclaration) -> None:
        if dim.default is not None and literal_dim(dim.default.text) is None:
            self.problems.report(
                "E0503",
                f"the default size of {dim.name.name} must be a positive integer",
                dim.default.span,
                f"write `{dim.name.name} = 16`",
            )
        if dim.same_as is not None and (
            dim.same_as.name == dim.name.name
            or (other := self.scope.symbols.get(dim.same_as.name)) is None
            or other.kind is not Kind.DIM
        ):
            self.problems.report(
                "E0503",
                f"`{dim.same_as.name}` is no other dim of this recurrence",
                dim.same_as.span,
                "`R = S` makes R a second name for the size of S",
            )

    # --- what is declared, before any equation is looked at
    def _statements(self, body: Iterable[ast.Statement]) -> None:
        for statement in body:
            match statement:
                case ast.Inputs(declarations=found):
                    self._declarations(Kind.INPUT, found)
                case ast.Params(declarations=found):
                    self._declarations(Kind.PARAM, found)
                case ast.States(declarations=found):
                    self._declarations(Kind.STATE, found)
                case ast.Consts(bindings=bindings):
                    self.consts(bindings)
                case ast.Function():
                    self.function(statement)
                case ast.Clocked(body=inner):
                    self._statements(inner)
                case _:
                    pass

    def _declarations(self, kind: Kind, found: Iterable[ast.Declaration]) -> None:
        for declared in found:
            dims = tuple(self._dim(d) for d in declared.dims)
            dtype = self.dtype(declared.type) if declared.type else DType.REAL
            limit = declared.type.bound if declared.type is not None and declared.type.name == "int" else None
            bound = None if limit is None else self._dim(limit)
            self._declare(Symbol(declared.name.name, kind, declared.name.span, dims, dtype, declared, bound))
            if kind is Kind.STATE and declared.value is None:
                name = declared.name.name
                shape = f"[{', '.join(dims)}]" if dims else ""
                self.problems.report(
                    "E0508", f"state {name} has no initial value", declared.span, f"write `state {name}{shape} = 0`"
                )

    def _dim(self, dim: ast.Dim) -> str:
        if dim.name[0].isdigit() or dim.name[0] == ".":
            literal = literal_dim(dim.name)
            if literal is None:
                self.problems.report(
                    "E0503", f"`{dim.name}` is no dim", dim.span, "a dim is a name, or a positive integer such as 4"
                )
                return "1"
            return literal
        symbol = self.scope.symbols.get(dim.name)
        if symbol is None or symbol.kind is not Kind.DIM:
            self.unknown_dim(dim)
        return dim.name

    def unknown_dim(self, dim: ast.Dim) -> None:
        if dim.name in self.scope.broken:
            return
        near = self.scope.nearest(dim.name, [Kind.DIM])
        known = [s.name for s in self.scope.of_kind(Kind.DIM)]
        dims = ", ".join(known[:10] + ["..."] * (len(known) > 10)) or "none"
        help = f"did you mean {near}?" if near else f"add it to the header; the dims are {dims}"
        self.problems.report("E0206", f"`{dim.name}` is not a dim of this recurrence", dim.span, help)

    def dtype(self, type_: ast.TypeName) -> DType:
        if type_.bound is not None and type_.name == "int":
            return DType.I64
        found = DTYPES.get(type_.name)
        if found is not None and type_.bound is not None:
            message, help = f"`{type_.name}` takes no number", f"write `{type_.name}`; only `int(Q)` has one"
            self.problems.report("E0502", message, type_.span, help)
        elif found is None:
            near = _ALIASES.get(type_.name) or next(iter(difflib.get_close_matches(type_.name, DTYPES, 1, 0.5)), "")
            known = ", ".join(DTYPES)
            help = f"did you mean {near}?" if near else f"the types are {known}"
            self.problems.report("E0502", f"`{type_.name}` is not an element type", type_.span, help)
        return found or DType.REAL

    def consts(self, bindings: Iterable[ast.Binding]) -> None:
        for binding in bindings:
            if self._declare(Symbol(binding.name.name, Kind.CONST, binding.name.span)):
                self.scope.consts[binding.name.name] = binding

    def function(self, function: ast.Function) -> None:
        name = function.name.name
        if name in FUNCTIONS:
            self.problems.report("E0207", f"`{name}` is a built-in function", function.name.span, "choose another name")
        elif self._declare(Symbol(name, Kind.FUNCTION, function.name.span)):
            self.scope.functions[name] = function
        seen: dict[str, Span] = {}
        for parameter in function.parameters:
            if parameter.name in seen:
                self.problems.report(
                    "E0204", f"`{parameter.name}` is a parameter twice", parameter.span, "name each parameter once",
                    ((seen[parameter.name], "first here"), (parameter.span, "again here")),
                )  # fmt: skip
            seen[parameter.name] = parameter.span

    def recurrence(self, name: ast.Name) -> None:
        earlier = self.scope.symbols.get(name.name)
        if earlier is not None:
            self.problems.report(
                "E0211", f"the file has two `{name.name}`", name.span, "rename one of them",
                ((earlier.span, "first here"), (name.span, "again here")),
            )  # fmt: skip
        else:
            self._declare(Symbol(name.name, Kind.RECURRENCE, name.span))

    # --- what the equations define
    def _define(self, body: Iterable[ast.Statement], block: Block | None) -> None:
        for statement in body:
            match statement:
                case ast.Equation(names=names, value=value, span=span):
                    self._equation(Definition(names, value, span, block))
                case ast.Derivative(name=name, span=span):
                    from recurc.frontend.laws import definition_of

                    law, needed = definition_of(statement)
                    self._equation(Definition((name,), needed, span, block, law=law))
                case ast.Outputs(results=results):
                    for result in results:
                        if result.value is not None:
                            self._equation(Definition((result.name,), result.value, result.span, block))
                        self._output(result.name, block)
                case ast.Clocked():
                    self._block(statement, block)
                case ast.Reset():
                    self._collect_reset(statement, block)
                case _:
                    pass

    def _block(self, statement: ast.Clocked, outer: Block | None) -> None:
        condition = statement.condition
        shown = literal_dim(condition.text) if isinstance(condition, ast.Number) else getattr(condition, "name", "")
        hint = f"every_{shown}" if statement.word == "every" and shown else "fires"
        block = Block(ast.Name(self._hidden(hint), condition.span), statement.word, outer)
        self.scope.definitions.append(Definition((block.clock,), condition, condition.span, outer, block))
        self._define(statement.body, block)

    def _hidden(self, hint: str) -> str:
        """A name like `hint` for an equation that the source does not name."""
        name, number = hint, 2
        while name in self._names or name in self.scope.symbols or name in self.scope.hidden:
            name, number = f"{hint}_{number}", number + 1
        self.scope.hidden.add(name)
        return name

    def _collect_reset(self, statement: ast.Reset, block: Block | None) -> None:
        if block is not None:
            self.problems.report(
                "E0524", f"`reset when` stands outside blocks, this one is inside `{block.word}`", statement.span,
                "a reset starts the whole sequence anew, at any step; and its condition with that of the block",
            )  # fmt: skip
        elif self._reset is not None:
            self.problems.report(
                "E0524", "a recurrence has one `reset when`", statement.span, "join the conditions with `or`",
                ((self._reset.span, "first here"), (statement.span, "again here")),
            )  # fmt: skip
        else:
            self._reset = statement

    def _define_reset(self) -> None:
        """The condition becomes an equation, unless it is the name of one."""
        if self._reset is None:
            return
        condition = self._reset.condition
        symbol = self.scope.symbols.get(condition.name) if isinstance(condition, ast.Name) else None
        if isinstance(condition, ast.Name) and symbol is not None and symbol.kind is Kind.EQUATION:
            self.scope.reset = condition
            return
        self.scope.reset = ast.Name(self._hidden("restart"), condition.span)
        self.scope.definitions.append(Definition((self.scope.reset,), condition, condition.span, resets=True))

    def _output(self, name: ast.Name, block: Block | None) -> None:
        earlier = next((o for o in self.scope.outputs if o.name == name.name), None)
        symbol = self.scope.symbols.get(name.name)
        if earlier is not None:
            self.problems.report(
                "E0510", f"`{name.name}` is an output twice", name.span, "list it once",
                ((earlier.span, "first here"), (name.span, "again here")),
            )  # fmt: skip
        elif block is not None and symbol is not None and symbol.kind is not Kind.STATE:
            self.problems.report(
                "E0523", f"`{name.name}` has no value when this `{block.word}` block does not fire", name.span,
                f"declare it as a state, `state {name.name} = 0`: states hold their values; an input or an equation "
                "that holds at every step is listed outside the block",
            )  # fmt: skip
            self.scope.broken.add(name.name)
            self.scope.outputs.append(name)
        else:
            self.scope.outputs.append(name)

    def _equation(self, definition: Definition) -> None:
        good = True
        for name in definition.names:
            symbol = self.scope.symbols.get(name.name)
            if symbol is None or symbol.kind is not Kind.STATE:
                good &= self._declare(Symbol(name.name, Kind.EQUATION, name.span, block=definition.block))
            else:
                earlier = self._defined.setdefault(name.name, name)
                if earlier is not name:
                    good = False
                    self._twice(name.name, earlier.span, name.span)
        if good:
            self.scope.definitions.append(definition)

    def _declare(self, symbol: Symbol) -> bool:
        name = symbol.name
        if name in RESERVED:
            self.scope.broken.add(name)
            self.problems.report("E0205", f"`{name}` is reserved: {RESERVED[name]}", symbol.span, "choose another name")
            return False
        earlier = self.scope.symbols.get(name)
        if earlier is None:
            self.scope.symbols[name] = symbol
            return True
        self.scope.broken.add(name)
        if (earlier.kind is Kind.DIM) != (symbol.kind is Kind.DIM):
            self.problems.report(
                "E0203", f"`{name}` is both a dim and a value", symbol.span,
                "a name is a dim or a value, never both; rename one",
                ((earlier.span, f"{earlier.kind.value}, here"), (symbol.span, f"{symbol.kind.value}, here")),
            )  # fmt: skip
        else:
            self._twice(name, earlier.span, symbol.span, f"{earlier.kind.value}, here", f"{symbol.kind.value}, here")
        return False

    def _twice(self, name: str, first: Span, second: Span, a: str = "first here", b: str = "again here") -> None:
        self.problems.report(
            "E0204", f"`{name}` is defined twice", second, "every name is defined once; rename one of the two",
            ((first, a), (second, b)),
        )  # fmt: skip

    def _check_definitions(self) -> None:
        defined = {n.name for d in self.scope.definitions for n in d.names} | self.scope.elsewhere | self.scope.broken
        defined |= set(self._defined)
        for state in self.scope.of_kind(Kind.STATE):
            if state.name not in defined:
                self.problems.report(
                    "E0404", f"state {state.name} is never defined", state.span, f"add an equation `{state.name} = ...`"
                )


def used_names(body: Iterable[ast.Statement]) -> set[str]:
    """Every name that statements declare or define, in blocks too."""
    found: set[str] = set()
    for statement in body:
        match statement:
            case (
                ast.Inputs(declarations=declared)
                | ast.Params(declarations=declared)
                | ast.States(declarations=declared)
            ):
                found |= {d.name.name for d in declared}
            case ast.Consts(bindings=bindings):
                found |= {b.name.name for b in bindings}
            case ast.Equation(names=names):
                found |= {n.name for n in names}
            case ast.Derivative(name=name) | ast.Function(name=name):
                found.add(name.name)
            case ast.Outputs(results=results):
                found |= {r.name.name for r in results}
            case ast.Clocked(body=inner):
                found |= used_names(inner)
            case ast.Reset():
                pass
    return found


def literal_dim(text: str) -> str | None:
    """The canonical digits of a literal dim, None if it is no positive integer of sensible size."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) == 0:
        return None
    return str(int(text))
