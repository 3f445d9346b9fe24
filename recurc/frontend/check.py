"""The syntax tree of a file to typed recurrences: names, dims, element types, causality."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from recurc import build, ir, ops
from recurc.errors import CompilerBug
from recurc.frontend import ast, cells, clocks, finals, laws, resets, uses
from recurc.frontend.functions import FUNCTIONS, INITIALIZERS
from recurc.frontend.lower import Lowerer, Value, describe, show
from recurc.frontend.names import Names
from recurc.frontend.problems import Enough, Problems, Stop
from recurc.frontend.symbols import RESERVED, Collector, Definition, Kind, Scope, Symbol, literal_dim
from recurc.source import SourceFile, Span
from recurc.types import DimDecl, literal_size, show_dims
from recurc.types import Kind as Number


def check_file(
    module: ast.Module, source: SourceFile, problems: Problems, used: Mapping[str, uses.Checked], asked: bool
) -> uses.Checked:
    """Every recurrence of the file, typed; `used` are the files it uses, by the paths it calls them by. A file that was
    `asked` for holds a recurrence. Raises `RecError` with all errors found, or `UnsupportedError` if the file is right
    but uses something this version does not do."""
    made: list[ir.Recurrence | None] = []
    shared, own = Scope(), frozenset[str]()
    try:
        shared = _shared(module, problems)
        own = frozenset(shared.symbols)
        collector = Collector(problems, shared)
        collector.scope = shared
        for item in module.items:
            if isinstance(item, ast.Use) and item.path in used:
                uses.bring_in(collector, item, used[item.path])
        Names(problems, shared).check_recursion()
        found = [item for item in module.items if isinstance(item, ast.Recurrence)]
        checked: dict[int, ir.Recurrence | None] = {}
        for at in cells.in_order(found, problems):
            checked[at] = _Recurrence(found[at], problems, shared).run()
            shared.cells.setdefault(found[at].name.name, checked[at])
        made = [checked.get(at) for at in range(len(found))]
        if asked and not found and not problems.found:
            begin = Span(source.name, 1, 1, 1, 2)
            problems.report("E0119", "the file holds no recurrence", begin, "begin with `recurrence NAME(D):`")
    except Enough:
        pass
    problems.raise_if_any()
    kinds = (Kind.FUNCTION, Kind.CONST)
    known = {n: n if ":" in n else uses.shared_name(s) for n, s in shared.symbols.items() if s.kind in kinds}
    return uses.Checked(source, shared, tuple(rec for rec in made if rec is not None), own, known)


def _shared(module: ast.Module, problems: Problems) -> Scope:
    """What all recurrences of the file see: functions, consts, and each other."""
    collector = Collector(problems, Scope())
    for item in module.items:
        match item:
            case ast.Function():
                collector.function(item)
            case ast.Consts(bindings=bindings):
                collector.consts(bindings)
            case ast.Recurrence(name=name):
                collector.recurrence(name)
            case ast.Use():
                pass
    return collector.scope


_STEPWISE = (Kind.INPUT, Kind.STATE, Kind.EQUATION)


class _Recurrence:
    """Checks one recurrence, equation by equation; what is wrong is reported and left out."""

    def __init__(self, rec: ast.Recurrence, problems: Problems, shared: Scope) -> None:
        self.rec, self.problems = rec, problems
        self.before = len(problems.found)
        self.scope = Collector(problems, shared).run(rec)
        self.names = Names(problems, self.scope)
        self.lowerer = Lowerer(problems, self.scope)
        self.dims: list[DimDecl] = []

    def run(self) -> ir.Recurrence | None:
        self.names.check_recursion()
        if any(p.code == "E0210" for p in self.problems.found):
            return None
        for function in self.scope.functions.values():
            self.names.check_function(function)
        for d in self.rec.dims:
            size = literal_dim(d.default.text) if d.default else None  # a wrong one has been reported
            self.dims.append(
                DimDecl(d.name.name, None if size is None else int(size), d.same_as.name if d.same_as else None)
            )
        self._declared()
        self._consts()
        inputs = [self._input(s) for s in self.scope.of_kind(Kind.INPUT)]
        params = [self._param(s) for s in self.scope.of_kind(Kind.PARAM)]
        states = [self._state(s) for s in self.scope.of_kind(Kind.STATE)]
        good = [d for d in self.scope.definitions if self.names.check(d.value)]
        ordered = self.names.order(good)
        more = self.lowerer.expansions
        more.before = {i.name: i.before for i in inputs if i is not None and i.before is not None}
        more.before |= {s.name: s.initial for s in states if s is not None}
        equations = more.equations
        stopped = False
        for definition in ordered or []:
            try:
                equations += self._equations(definition)
            except Stop:
                stopped = True
        more.settle()
        if self.scope.reset is not None:
            resets.check(self.lowerer, self.scope.reset, equations)
        finals.check(self.lowerer, equations, self.scope.reset.name if self.scope.reset else None)
        self._outputs()
        if len(self.problems.found) > self.before:
            return None
        if stopped and not self.problems.found:
            raise CompilerBug(f"an equation of {self.rec.name.name} was refused without a message")
        return ir.Recurrence(
            self.rec.name.name,
            tuple(self.dims),
            tuple(i for i in inputs if i is not None),
            tuple(p for p in params if p is not None),
            (*(s for s in states if s is not None), *more.hidden),
            tuple(equations),
            tuple(o.name for o in self.scope.outputs),
            self.rec.doc,
            self.rec.span,
            None if self.scope.reset is None else self.scope.reset.name,
        )

    # --- declarations
    def _consts(self) -> None:
        """Consts may read each other in any order; a loop among them is reported like one of equations."""
        found = [
            Definition((b.name,), b.value, b.span) for b in self.scope.consts.values() if self.names.check(b.value)
        ]
        for definition in self.names.order(found) or []:
            name = definition.names[0].name
            self._const(name, self.scope.consts[name])

    def _const(self, name: str, binding: ast.Binding) -> None:
        try:
            value = self.lowerer.expression(binding.value)
        except Stop:
            return
        if isinstance(value, ir.Const):
            self.lowerer.constants[name] = value
        else:
            self.problems.report(
                "E0504",
                f"const `{name}` must be a number known at compile time",
                binding.value.span,
                f"make it an equation, `{name} = ...`, or a param",
            )

    def _declared(self) -> None:
        for symbol in self.scope.symbols.values():
            if symbol.kind in (Kind.INPUT, Kind.PARAM, Kind.STATE):
                self.lowerer.values[symbol.name] = Value(symbol.dims, symbol.dtype, symbol.span)

    def _input(self, symbol: Symbol) -> ir.Input | None:
        declared = symbol.declaration
        assert declared is not None
        before = self._initial(symbol, declared.value) if declared.value is not None else None
        if declared.value is not None and before is None:
            return None
        return ir.Input(symbol.name, symbol.dims, symbol.dtype, before, declared.span, symbol.bound)

    def _param(self, symbol: Symbol) -> ir.Param | None:
        declared = symbol.declaration
        assert declared is not None
        init = self._initializer(symbol, declared.value) if declared.value is not None else None
        return ir.Param(symbol.name, symbol.dims, symbol.dtype, init, declared.span, symbol.bound)

    def _state(self, symbol: Symbol) -> ir.State | None:
        declared = symbol.declaration
        assert declared is not None
        if declared.value is None:
            return None
        initial = self._initial(symbol, declared.value)
        if initial is None:
            return None
        return ir.State(symbol.name, symbol.dims, symbol.dtype, initial, declared.span, symbol.bound)

    def _initial(self, symbol: Symbol, value: ast.Expr) -> ir.Expr | None:
        """A value before the first step: of params, consts and dims, with no dims the name does not have."""
        if not self.names.check(value):
            return None
        self.lowerer.initial = True
        try:
            made = self.lowerer.expression(value)
        except Stop:
            return None
        finally:
            self.lowerer.initial = False
        extra = [d for d in made.dims if d not in symbol.dims]
        have, want = show_dims(made.dims), show_dims(symbol.dims)
        if extra:
            self.problems.report(
                "E0509",
                f"the initial value of {symbol.name} is {have}, but {symbol.name} is {want}",
                value.span, f"declare `{symbol.name}{show((*symbol.dims, *extra))}`, or reduce over {', '.join(extra)}",
                ((symbol.span, f"{symbol.name} is {want}"), (value.span, f"this is {have}")),
            )  # fmt: skip
            return None
        order = tuple(d for d in symbol.dims if d in made.dims)
        if made.dims != order:
            if len(set(order)) < len(order) or len(set(made.dims)) < len(made.dims):
                self.problems.report(
                    "E0313", f"{symbol.name} is {want}, and its initial value {have}: which of the dims is meant?",
                    value.span, f"give the initial value all the dims of {symbol.name}",
                    ((symbol.span, f"{symbol.name} is {want}"), (value.span, f"this is {have}")),
                )  # fmt: skip
                return None
            made = build.permute(made, order, value.span)
        try:
            return self._in_range(symbol, self._fit_type(symbol, made, value.span), value.span)
        except Stop:
            return None

    def _in_range(self, symbol: Symbol, value: ir.Expr, span: Span) -> ir.Expr:
        """The initial value of an `int(Q)`."""
        if symbol.bound is None:
            return value
        limit = literal_size(symbol.bound)
        if isinstance(value, ir.Const) and not 0 <= int(str(value.value)) < (limit or 2**63):
            raise self.problems.stop(
                "E0526",
                f"`{symbol.name}` is `int({symbol.bound})`: it begins with a number from 0 to "
                + (f"{symbol.bound} - 1" if limit is None else str(limit - 1)),
                span,
                "choose a number in that range",
                ((symbol.span, "declared here"), (span, f"this is {value.value}")),
            )
        return build.below(value, symbol.bound, span)

    def _initializer(self, symbol: Symbol, value: ast.Expr) -> ir.Initializer | None:
        call = isinstance(value, ast.Call)
        name = value.function.name if call else value.name if isinstance(value, ast.Name) else ""
        if name not in INITIALIZERS:
            if name and name not in self.scope.symbols and name not in (FUNCTIONS if call else RESERVED):
                near = difflib.get_close_matches(name, INITIALIZERS, 1, 0.6)
                self.problems.report(
                    "E0507",
                    f"`{name}` is not an initialiser",
                    value.span,
                    f"did you mean `{near[0]}`?" if near else f"the initialisers are {', '.join(INITIALIZERS)}",
                )
                return None
            inner = next((n for n in ast.walk(value) if isinstance(n, ast.Name) and self._only_initial(n)), None)
            if inner is not None:
                self.problems.report(
                    "E0507",
                    f"the initialiser `{inner.name}` is no value that one can compute with",
                    inner.span,
                    f"it stands alone, `~ {inner.name}`; an expression is made of numbers, sizes and places along dims",
                )
                return None
            made = self._initial(symbol, value)
            if made is None:
                return None
            read = next(ir.reads(made), None)
            if read is None:
                return ir.Initializer(ir.EXPRESSION, (made,))
            self.problems.report(
                "E0507",
                f"the initialiser of `{symbol.name}` reads `{read.name}`, which has no value yet",
                value.span,
                "it is made of constants, sizes of dims and places along them, as in `-index(N) - 1`",
            )
            return None
        args = value.args if isinstance(value, ast.Call) else ()
        least, most = INITIALIZERS[name]
        if not least <= len(args) <= most or any(isinstance(a, ast.Binding) for a in args):
            count = f"{most} number{'s' * (most != 1)}" if most else "no arguments"
            self.problems.report(
                "E0507", f"`{name}` takes {count}", value.span, f"write `~ {name}" + ("(a, b)`" if most == 2 else "`")
            )
            return None
        numbers: list[ir.Expr] = []
        self.lowerer.initial = True
        try:
            for arg in args:
                if isinstance(arg, ast.Binding) or not self.names.check(arg):
                    return None
                lowered = self.lowerer.expression(arg)
                if any(True for _ in ir.reads(lowered)) or lowered.dims:
                    self.problems.report(
                        "E0507",
                        "the numbers of an initialiser are made of constants and dim sizes",
                        arg.span,
                        "for example `uniform(-1/sqrt(H), 1/sqrt(H))`",
                    )
                    return None
                numbers.append(lowered)
        except Stop:
            return None
        finally:
            self.lowerer.initial = False
        return ir.Initializer(name, tuple(numbers))

    def _only_initial(self, node: ast.Name) -> bool:
        return node.name in INITIALIZERS and node.name not in self.scope.symbols

    # --- equations
    def _equations(self, definition: Definition) -> list[ir.Equation]:
        self.lowerer.block = definition.block
        try:
            if definition.clock_of is not None:
                return [clocks.clock(self.lowerer, definition)]
            if definition.resets:
                return [resets.condition(self.lowerer, definition)]
            if definition.law is not None:
                return self._defined(definition, laws.lower(self.lowerer, definition, definition.law))
            call = cells.called(self.scope, definition.value)
            if call is not None:
                return self._cell(definition, call)
            if len(definition.names) == 2 and self._is_kalman(definition.value):
                assert isinstance(definition.value, ast.Call)
                values = self.lowerer.calls.kalman(definition.value)
                return [self._equation(n.name, v, definition) for n, v in zip(definition.names, values, strict=True)]
            return self._defined(definition, self.lowerer.expression(definition.value))
        finally:
            self.lowerer.block = None

    def _is_kalman(self, value: ast.Expr) -> bool:
        named = isinstance(value, ast.Call) and value.function.name == "kalman"
        return named and "kalman" not in self.scope.symbols and "kalman" not in self.scope.functions

    def _cell(self, definition: Definition, call: ast.Call) -> list[ir.Equation]:
        made = cells.lower(self.lowerer, definition, call, tuple(self.dims))
        self.dims += made.dims
        self.lowerer.expansions.hidden += made.states
        if len(made.outputs) == 1:
            return [*made.equations, *self._defined(definition, made.outputs[0])]
        parts = zip(definition.names, made.outputs, strict=True)
        return [*made.equations, *(self._equation(n.name, value, definition) for n, value in parts)]

    def _defined(self, definition: Definition, value: ir.Expr) -> list[ir.Equation]:
        if len(definition.names) == 1:
            return [self._equation(definition.names[0].name, value, definition)]
        packed = self._packed(definition)
        self.lowerer.values[packed] = Value(value.dims, value.dtype, definition.span)
        read = ir.Read(packed, 0, value.dims, value.dtype, definition.span)
        try:
            parts = build.unpack(read, len(definition.names), definition.span)
        except ops.TypeProblem as problem:
            labels = (
                (definition.names[0].span.to(definition.names[-1].span), f"{len(definition.names)} names"),
                (definition.value.span, f"this is {describe(value)}"),
            )
            raise self.problems.stop(problem.code, str(problem), definition.span, problem.help, labels) from problem
        made = [ir.Equation(packed, value, definition.span)]
        return made + [self._equation(n.name, p, definition) for n, p in zip(definition.names, parts, strict=True)]

    def _packed(self, definition: Definition) -> str:
        name = "_".join(n.name for n in definition.names)
        while name in self.scope.symbols or name in self.scope.hidden or name in self.lowerer.values:
            name += "_"
        return name

    def _equation(self, name: str, value: ir.Expr, definition: Definition) -> ir.Equation:
        symbol = self.scope.symbols[name]
        if symbol.kind is Kind.STATE:
            value = clocks.held(self.lowerer, symbol, self._fit(symbol, value, definition), definition)
        else:
            self.lowerer.values[name] = Value(value.dims, value.dtype, symbol.span)
        return ir.Equation(name, value, definition.span)

    def _fit(self, symbol: Symbol, value: ir.Expr, definition: Definition) -> ir.Expr:
        """A state's equation in the state's dims (in its order) and element type."""
        if value.dims != symbol.dims:
            if sorted(value.dims) != sorted(symbol.dims) or len(set(value.dims)) < len(value.dims):
                raise self._wrong_dims(symbol, value, definition)
            value = build.permute(value, symbol.dims, definition.span)
        return self._fit_type(symbol, value, definition.value.span)

    def _fit_type(self, symbol: Symbol, value: ir.Expr, span: Span) -> ir.Expr:
        have, want = value.dtype.kind, symbol.dtype.kind
        if have is want or (have.value < want.value and have is not Number.BOOL):
            return ops.convert(value, symbol.dtype)
        shown = {
            Number.BOOL: "a truth value",
            Number.INT: "an integer",
            Number.REAL: "a real number",
            Number.COMPLEX: "a complex number",
        }
        help = f"declare `{symbol.name}{show(symbol.dims)}: {value.dtype.value}`, or convert the value with `cast`"
        raise self.problems.stop(
            "E0323", f"`{symbol.name}` is {shown[want]}, but its value is {shown[have]}", span, help,
            ((symbol.span, f"{symbol.name} is {symbol.dtype.value}"), (span, f"this is {value.dtype.value}")),
        )  # fmt: skip

    def _wrong_dims(self, symbol: Symbol, value: ir.Expr, definition: Definition) -> Stop:
        name = symbol.name
        labels: list[tuple[Span, str]] = [
            (symbol.span, f"{name} is {show_dims(symbol.dims)}"),
            (definition.value.span, f"this is {show_dims(value.dims)}"),
        ]
        extra = [d for d in value.dims if d not in symbol.dims]
        missing = [d for d in symbol.dims if d not in value.dims]
        for read in ir.reads(value):
            if read.span is not None and any(d in read.dims for d in extra):
                brought = ", ".join(d for d in extra if d in read.dims)
                labels.append((read.span, f"{read.name} brings {brought}: it is {show_dims(read.dims)}"))
                break
        if extra:
            wider = show((*symbol.dims, *extra))
            help = f"declare `state {name}{wider}`, or sum over {', '.join(extra)}: `@`, `sum(..., {extra[0]})`"
        elif missing:
            help = (
                f"nothing on the right side has the dim {missing[0]}: read a value over {missing[0]}, "
                f"or declare `state {name}{show(value.dims)}`"
            )
        else:
            help = "rename the dims with `as [..]`, so that each appears once"
        return self.problems.stop(
            "E0318",
            f"{name} is {show_dims(symbol.dims)}, but its equation gives {show_dims(value.dims)}",
            definition.value.span,
            help,
            tuple(labels),
        )

    def _outputs(self) -> None:
        if not self.scope.outputs:
            defined = self.scope.of_kind(Kind.STATE) or self.scope.of_kind(Kind.EQUATION)
            help = f"add `output {defined[0].name}`" if defined else "add `output y = ...`"
            self.problems.report("E0501", f"{self.rec.name.name} has no output", self.rec.name.span, help)
        for output in self.scope.outputs:
            symbol = self.scope.symbols.get(output.name)
            if output.name in self.scope.broken:
                continue
            if output.name in RESERVED:
                what, help = RESERVED[output.name], f"write `output y = {output.name}`, under a name of its own"
                self.problems.report(
                    "E0506", f"`{output.name}` is {what}, which has no name of its own", output.span, help
                )
            elif symbol is None:
                self.names.check(output)
            elif symbol.block is not None:
                clocks.report_outside(self.problems, symbol, output.span)
            elif symbol.kind not in _STEPWISE:
                self.problems.report(
                    "E0506", f"`{output.name}` is {symbol.kind.value}, which is no value of a step", output.span,
                    f"write `output y = ...` with an expression, for example `output y = {output.name} * x`",
                )  # fmt: skip
