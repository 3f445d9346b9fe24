"""Expressions of the syntax tree to IR, through `recurc.build` and `recurc.ops.apply` only, so that another front end
that builds the same way gets the same trees."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recurc import build, ir, ops
from recurc.frontend import ast, clocks
from recurc.frontend.calls import MAX_ROUNDS, Calls
from recurc.frontend.constants import fold
from recurc.frontend.environment import Environment
from recurc.frontend.expansions import Expansions
from recurc.frontend.problems import Problems, Stop
from recurc.frontend.symbols import RESERVED, Block, Kind, Scope, Symbol, literal_dim
from recurc.source import Span
from recurc.types import Dims, DType, literal_size, show_dims

MAX_NODES = 50_000  # per equation, functions inlined
MAX_STEPS = 30_000  # of lowering, per file
MAX_DEPTH = 200  # of the tree of an equation, functions inlined

_BINARY = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "%": "mod", "//": "floordiv", "==": "eq", "!=": "ne",
    "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "and": "and", "or": "or",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a name that has a value: its dims and type, and where it was declared."""

    dims: Dims
    dtype: DType
    span: Span


_EMPTY: Environment = {}


class Lowerer:
    """Lowers the expressions of one recurrence. `values` holds what has been lowered so far."""

    def __init__(self, problems: Problems, scope: Scope) -> None:
        self.problems, self.scope = problems, scope
        self.values: dict[str, Value] = {}
        self.constants: dict[str, ir.Const] = {}
        self.initial = False  # inside an initial value or initialiser: only params, consts and sizes may be read
        self.block: Block | None = None  # the block of the equation that is being lowered
        self.calls = Calls(self)
        self.expansions = Expansions(self)
        self._depth = 0
        self._measured: dict[int, tuple[ir.Expr, int, int]] = {}

    def expression(self, expr: ast.Expr) -> ir.Expr:
        """Raises `Stop` after reporting what is wrong."""
        self._depth = 0
        self._measured = {}
        return self.lower(expr, _EMPTY)

    def lower(self, node: ast.Expr, env: Environment) -> ir.Expr:
        if self._depth > MAX_DEPTH:
            raise self._too_deep(node.span)
        self._depth += 1
        self.count(1, node.span)
        try:
            match node:
                case ast.Number():
                    made = self._number(node)
                case ast.Truth(value=value):
                    made = ir.Const(value, DType.BOOL, node.span)
                case ast.Name():
                    made = self._name(node, env)
                case ast.Unary():
                    made = self._unary(node, env)
                case ast.Binary():
                    made = self._binary(node, env)
                case ast.Conditional(condition=c, then=a, otherwise=b):
                    operands = [self.lower(x, env) for x in (c, a, b)]
                    made = self.apply("select", operands, (c, a, b), node.span)
                case ast.Call():
                    made = self.calls.lower(node, env)
                case ast.Index():
                    made = self._index(node, env)
                case ast.Transpose(arg=arg):
                    operand = self.lower(arg, env)
                    try:
                        made = build.transpose(operand, node.span)
                    except ops.TypeProblem as problem:
                        raise self.mismatch(problem, node.span, ((arg, operand),)) from problem
                case ast.Rename():
                    made = self._rename(node, env)
        finally:
            self._depth -= 1
        self._measure(made, node.span)
        return made

    def count(self, steps: int, span: Span) -> None:
        """Counts work; what a file may ask for is bounded."""
        self.problems.steps += steps
        if self.problems.steps > MAX_STEPS:
            raise self.stop(
                "E0324",
                f"with functions, rounds and cells written out, this file takes more than {MAX_STEPS:,} steps to read",
                span,
                "use fewer rounds, and give repeated parts names, in equations of their own",
            )

    # --- leaves
    def _number(self, node: ast.Number) -> ir.Const:
        value = node.value
        if isinstance(value, complex):
            return ir.Const(value, DType.COMPLEX, node.span)
        if isinstance(value, int):
            if value >= 2**63:
                raise self.stop(
                    "E0322",
                    "this integer does not fit into 64 bits",
                    node.span,
                    "write it as a real number, such as 1e20",
                )
            return ir.Const(value, DType.I64, node.span)
        if math.isinf(value):
            raise self.stop("E0322", "this number is too large", node.span, "write `inf` for infinity")
        return ir.Const(value, DType.REAL, node.span)

    def _name(self, node: ast.Name, env: Environment) -> ir.Expr:
        name = node.name
        if name in env:
            bound = env[name]
            if bound.value is None:
                raise Stop(name)
            return bound.value
        if name in ("inf", "pi"):
            return ir.Const(math.inf if name == "inf" else math.pi, DType.REAL, node.span)
        if name == "T":
            raise self.stop(
                "E0408",
                "`T`, the number of steps, is not known while the steps run",
                node.span,
                "`S[T]` is the final state; `t` is the index of the step",
            )
        if name == "t":
            if self.initial:
                raise self.stop(
                    "E0505",
                    "`t` has no value before the first step",
                    node.span,
                    "an initial value reads params, consts and dims only",
                )
            return ir.Step(node.span)
        symbol = self.scope.symbols.get(name)
        if symbol is None:
            raise Stop(name)  # reported by the name check
        if symbol.kind is Kind.DIM:
            return ir.Size(name, node.span)
        if symbol.kind is Kind.CONST:
            if name not in self.constants:
                raise Stop(name)
            found = self.constants[name]
            return ir.Const(found.value, found.dtype, node.span)
        if self.initial and symbol.kind is not Kind.PARAM:
            raise self.stop(
                "E0505", f"`{name}` is {symbol.kind.value}: it has no value before the first step", node.span,
                "an initial value reads params, consts and dims only",
                ((symbol.span, "declared here"), (node.span, "read here")),
            )  # fmt: skip
        if symbol.block is not None and not symbol.block.holds(self.block):
            raise clocks.report_outside(self.problems, symbol, node.span)
        value = self.values.get(name)
        if value is None:
            raise Stop(name)  # its own equation is wrong, or a limitation defines it
        return ir.Read(name, 0, value.dims, value.dtype, node.span)

    # --- time
    def _index(self, node: ast.Index, env: Environment) -> ir.Expr:
        base = node.base
        if not isinstance(base, ast.Name):
            raise self.stop(
                "E0405",
                "only a name can be read at another step",
                node.span,
                "give the expression a name first, as a state",
            )
        if base.name in env and base.name not in ("t", "T"):
            bound = env[base.name]
            if not isinstance(bound.node, ast.Name):
                raise self.stop(
                    "E0405",
                    f"`{base.name}` stands for an expression here, which has no earlier step",
                    node.span,
                    "pass a state or an input",
                )
            return self._index(ast.Index(bound.node, node.indices, node.span, node.depth), bound.outer)
        if base.name in RESERVED:
            raise self.stop(
                "E0405",
                f"`{base.name}` is {RESERVED[base.name]}; it has no earlier value",
                node.span,
                "states, and inputs with a value before the first step, are read as `h[t-1]`",
            )
        symbol = self.scope.symbols.get(base.name)
        if symbol is None:
            raise Stop(base.name)
        match node.indices:
            case (ast.Name(name="t"),):
                return self._name(base, env)
            case (ast.Binary(op="-", left=ast.Name(name="t"), right=ast.Number() as lag),) if (
                isinstance(lag.value, int) and lag.value > 0
            ):
                return self._past(node, symbol, lag.value)
            case (ast.Binary(op="+", left=ast.Name(name="t")),):
                raise self.stop(
                    "E0401", f"this breaks causality: `{base.name}` at a later step is not known yet", node.span,
                    "a recurrence reads this step and earlier ones; shift the equation, so that it reads `[t-1]`",
                )  # fmt: skip
            case (ast.Name(name="T"),):
                if symbol.kind is not Kind.STATE:
                    raise self.stop(
                        "E0408",
                        f"`{base.name}[T]` is the final value of a state, but `{base.name}` is {symbol.kind.value}",
                        node.span,
                        "use a state",
                    )
                if self.initial:
                    raise self.stop(
                        "E0505",
                        f"`{base.name}[T]` has no value before the first step",
                        node.span,
                        "an initial value reads params, consts and dims only",
                    )
                return ir.Final(base.name, symbol.dims, symbol.dtype, node.span)
            case _:
                raise self.stop(
                    "E0405",
                    f"`{base.name}[...]` reads another step, so the index is `t-1`, `t-2`, ...",
                    node.span,
                    "k in `[t-k]` is a positive whole number; dims are not indexed by position",
                )

    def _past(self, node: ast.Index, symbol: Symbol, lag: int) -> ir.Expr:
        name = symbol.name
        where = ((symbol.span, f"{symbol.kind.value}, declared here"), (node.span, "read at an earlier step"))
        if self.initial:
            raise self.stop(
                "E0505",
                "there is no earlier step before the first one",
                node.span,
                "an initial value reads params, consts and dims only",
            )
        if lag > MAX_ROUNDS:
            raise self.stop(
                "E0405", f"{lag} steps back are too many; the most is {MAX_ROUNDS}", node.span, "use a smaller lag"
            )
        if symbol.kind is Kind.INPUT:
            if symbol.declaration is None or symbol.declaration.value is None:
                raise self.stop(
                    "E0406",
                    f"`{name}[t-{lag}]` needs a value before the first step",
                    node.span,
                    f"declare it: `input {name}{show(symbol.dims)} = 0`",
                    where,
                )
        elif symbol.kind is Kind.PARAM or symbol.kind is Kind.CONST or symbol.kind is Kind.DIM:
            raise self.stop(
                "E0403",
                f"`{name}` is {symbol.kind.value}: it is the same at every step",
                node.span,
                f"write `{name}`",
                where,
            )
        elif symbol.kind is not Kind.STATE:
            raise self.stop(
                "E0403", f"`{name}` is {symbol.kind.value}, so its earlier values are not kept", node.span,
                f"declare it as a state: `state {name} = 0`", where,
            )  # fmt: skip
        value = self.values.get(name)
        if value is None:
            raise Stop(name)
        return ir.Read(name, lag, value.dims, value.dtype, node.span)

    # --- operators
    def _unary(self, node: ast.Unary, env: Environment) -> ir.Expr:
        arg = self.lower(node.arg, env)
        if node.op == "+":
            return arg
        return self.apply("not" if node.op == "not" else "neg", [arg], (node.arg,), node.span)

    def _binary(self, node: ast.Binary, env: Environment) -> ir.Expr:
        left, right = self.lower(node.left, env), self.lower(node.right, env)
        if node.op == "@":
            try:
                return build.matmul(left, right, node.span)
            except ops.TypeProblem as problem:
                raise self.mismatch(problem, node.span, ((node.left, left), (node.right, right))) from problem
        return self.apply(_BINARY[node.op], [left, right], (node.left, node.right), node.span)

    def apply(self, op: str, operands: list[ir.Expr], nodes: tuple[ast.Expr, ...], span: Span) -> ir.Expr:
        try:
            return self.folded(ops.apply(op, *operands, span=span), span)
        except ops.TypeProblem as problem:
            raise self.mismatch(problem, span, tuple(zip(nodes, operands, strict=False))) from problem

    def folded(self, made: ir.Expr, span: Span) -> ir.Expr:
        try:
            return fold(made)
        except ArithmeticError as wrong:
            raise self.stop("E0322", f"this constant has no value: {wrong}", span, "check the numbers") from wrong

    def _rename(self, node: ast.Rename, env: Environment) -> ir.Expr:
        operand = self.lower(node.arg, env)
        dims = tuple(self.dim(d, env) for d in node.dims)
        for old, new in zip(operand.dims, dims, strict=False):
            a, b = literal_size(old), literal_size(new)
            if a is not None and b is not None and a != b:
                raise self.stop(
                    "E0316",
                    f"`as` gives the size {b} to a dim of size {a}",
                    node.span,
                    "`as` renames dims, it does not change sizes",
                )
        try:
            return build.rename(operand, dims, node.span)
        except ops.TypeProblem as problem:
            raise self.mismatch(problem, node.span, ((node.arg, operand),)) from problem

    # --- dims
    def dim(self, dim: ast.Dim, env: Environment) -> str:
        found = self.as_dim(
            ast.Name(dim.name, dim.span) if not dim.name[0].isdigit() else ast.Number(dim.name, dim.span), env
        )
        if found is None:
            near = self.scope.nearest(dim.name, [Kind.DIM])
            help = (
                f"did you mean {near}?" if near else "dims are declared in the header, or written as a positive integer"
            )
            raise self.stop("E0206", f"`{dim.name}` is not a dim of this recurrence", dim.span, help)
        return found

    def as_dim(self, node: ast.Expr, env: Environment, literal: bool = True) -> str | None:
        """The dim that an argument names, None if it names none."""
        match node:
            case ast.Name(name=name) if name in env:
                return env[name].dim
            case ast.Name(name=name):
                symbol = self.scope.symbols.get(name)
                return name if symbol is not None and symbol.kind is Kind.DIM else None
            case ast.Number(text=text) if literal:
                return literal_dim(text)
            case _:
                return None

    # --- messages and budgets
    def stop(
        self, code: str, message: str, span: Span, help: str = "", labels: tuple[tuple[Span, str], ...] = ()
    ) -> Stop:
        return self.problems.stop(code, message, span, help, labels)

    def mismatch(self, problem: ops.TypeProblem, span: Span, operands: tuple[tuple[ast.Expr, ir.Expr], ...]) -> Stop:
        """Operands that do not fit: the operands with their dims, and where those dims come from."""
        labels: list[tuple[Span, str]] = []
        for node, made in operands:
            labels.append((node.span, f"this is {describe(made)}"))
            if (
                isinstance(made, ir.Read)
                and (symbol := self.scope.symbols.get(made.name)) is not None
                and symbol.span != node.span
            ):
                labels.append((symbol.span, f"{made.name} is {describe(made)}, from here"))
        unique = tuple(dict.fromkeys(labels))
        message = str(problem)
        for sign, op in _BINARY.items():
            message = message.replace(f"`{op}`", f"`{sign}`")
        return self.stop(problem.code, message, span, problem.help or "check the dims of the operands", unique)

    def _measure(self, expr: ir.Expr, span: Span) -> None:
        """Counts nodes and depth as if the tree were written out; shared parts are measured once."""
        stack = [expr]
        while stack:
            node = stack[-1]
            if id(node) in self._measured:
                stack.pop()
                continue
            waiting = [c for c in ir.children(node) if id(c) not in self._measured]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            parts = [self._measured[id(c)] for c in ir.children(node)]
            size, depth = 1 + sum(p[1] for p in parts), 1 + max((p[2] for p in parts), default=0)
            self._measured[id(node)] = (node, size, depth)
            if size > MAX_NODES:
                raise self.stop(
                    "E0324",
                    f"written out, this expression has more than {MAX_NODES:,} operations",
                    span,
                    "give repeated parts names, in equations of their own",
                )
            if depth > MAX_DEPTH:
                raise self._too_deep(span)

    def _too_deep(self, span: Span) -> Stop:
        return self.stop(
            "E0108",
            f"with functions written out, this nests more than {MAX_DEPTH} levels deep",
            span,
            "give the inner parts names, in equations of their own",
        )


def describe(expr: ir.Expr) -> str:
    """The dims of a value, and its type where that is not an ordinary real number."""
    dims = show_dims(expr.dims)
    if expr.dtype is DType.REAL:
        return dims if expr.dims else "a scalar"
    return f"{dims}: {expr.dtype.value}" if expr.dims else f"a scalar: {expr.dtype.value}"


def show(dims: Dims) -> str:
    return f"[{', '.join(dims)}]" if dims else ""
