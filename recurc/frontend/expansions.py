"""What the front end adds to the equations of the source: hidden states (`window`) and equations that the expressions
of others need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurc import ir, ops
from recurc.frontend import ast
from recurc.frontend.environment import Environment
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.problems import Stop
from recurc.frontend.symbols import RESERVED, Kind, Symbol
from recurc.source import Span
from recurc.types import show_dims
from recurc.windows import window

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer


class Expansions:
    """The equations of one recurrence made so far, in an order in which each reads only earlier ones, and the states
    that the source does not declare. `states` and `inputs` are those it declares."""

    def __init__(self, lowerer: Lowerer) -> None:
        self.lowerer = lowerer
        self.equations: list[ir.Equation] = []
        self.hidden: list[ir.State] = []
        self.before: dict[str, ir.Expr] = {}  # of declared states and inputs: the value before the first step
        self._taken: set[str] = set()
        self._parts: dict[ir.Expr, ir.Read] = {}  # of derivatives: expressions that have a name
        self._windows: dict[tuple[str, str], ir.State] = {}
        self._later: dict[str, ir.Equation] = {}  # of hidden states whose name no equation has read at this step yet

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        name, count = hint, 1
        scope = self.lowerer.scope
        taken = (self._taken, scope.symbols, scope.hidden, self.lowerer.values, FUNCTIONS, RESERVED)
        while any(name in names for names in taken):
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        return name

    def settle(self) -> None:
        """Places the equations that are still waiting for those they read; to be called when all others stand."""
        for name in list(self._later):
            self.equations.append(self._later.pop(name))

    # --- derivatives
    def grad(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`grad(loss, name)`, `grad(loss, M[t-1])`: the derivative of a scalar; it has the dims of the name."""
        from recurc.differentiate import gradient  # few sources need it, and all would wait for it
        from recurc.frontend.lower import Value

        lowerer = self.lowerer
        args = [a for a in node.args if not isinstance(a, ast.Binding)]
        if len(args) != 2 or len(args) < len(node.args):
            raise lowerer.stop(
                "E0306", "`grad` takes a scalar and a name", node.span, "write `grad(loss, M[t-1])`"
            )  # fmt: skip
        if lowerer.initial:
            raise lowerer.stop(
                "E0505", "a derivative has no value before the first step", node.span,
                "an initial value reads params, consts and dims only",
            )  # fmt: skip
        loss, value = lowerer.lower(args[0], env), lowerer.lower(args[1], env)
        try:
            found = gradient(loss, value, self.equations, self.fresh, self._parts)
        except ops.TypeProblem as problem:
            where = {"E0701": args[0].span, "E0702": args[1].span, "E0703": args[1].span}.get(problem.code, node.span)
            raise lowerer.stop(
                problem.code, str(problem), where, problem.help or "write the derivative out, as an equation"
            ) from problem
        for equation in found.equations:
            expr = equation.expr
            lowerer.values[equation.name] = Value(expr.dims, expr.dtype, node.span)
            self._parts[expr] = ir.Read(equation.name, 0, expr.dims, expr.dtype, node.span)
            self.equations.append(ir.Equation(equation.name, expr, node.span))
        return found.values[0]

    # --- windows
    def window(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`window(x, W)`, and `window(x[t-k], W)` for the window k steps earlier."""
        lowerer = self.lowerer
        args = [a for a in node.args if not isinstance(a, ast.Binding)]
        form = "write `window(x, W)` with a name and a dim, or a number of steps"
        if len(args) != 2 or len(args) < len(node.args):
            raise lowerer.stop("E0306", "`window` takes a name and a dim", node.span, form)
        length = lowerer.as_dim(args[1], env)
        if length is None:
            raise lowerer.stop("E0206", "the length of a window is a dim, or a number of steps", args[1].span, form)
        if lowerer.initial:
            raise lowerer.stop(
                "E0505", "a window has no value before the first step", node.span,
                "an initial value reads params, consts and dims only",
            )  # fmt: skip
        value = lowerer.lower(args[0], env)
        symbol = lowerer.scope.symbols.get(value.name) if isinstance(value, ir.Read) else None
        if not isinstance(value, ir.Read) or symbol is None or symbol.kind not in (Kind.INPUT, Kind.STATE):
            what = symbol.kind.value if symbol is not None else "an expression"
            raise lowerer.stop(
                "E0403", f"a window holds the last values of a state or an input, and this is {what}", args[0].span,
                "make it a state: `state v = 0`, with an equation `v = ...`",
            )  # fmt: skip
        state = self._window(symbol, value, length, node.span)
        if value.lag == 0 and state.name in self._later:
            self.equations.append(self._later.pop(state.name))
        return ir.Read(state.name, value.lag, state.dims, state.dtype, node.span)

    def _window(self, symbol: Symbol, value: ir.Read, length: str, span: Span) -> ir.State:
        from recurc.frontend.lower import Value, show

        lowerer, key = self.lowerer, (symbol.name, length)
        if key in self._windows:
            return self._windows[key]
        if symbol.declaration is None or symbol.declaration.value is None:
            raise lowerer.stop(
                "E0406", f"a window of `{symbol.name}` needs its value before the first step", span,
                f"declare it: `{symbol.kind.name.lower()} {symbol.name}{show(symbol.dims)} = 0`",
                ((symbol.span, f"{symbol.kind.value}, declared here"), (span, "a window reaches earlier steps")),
            )  # fmt: skip
        before = self.before.get(symbol.name)
        if before is None:
            raise Stop(symbol.name)  # the value before the first step is wrong, which has been reported
        now = ir.Read(symbol.name, 0, symbol.dims, symbol.dtype, value.span)
        try:
            state, equation = window(self.fresh(f"{symbol.name}_window"), now, before, length, span, symbol.bound)
        except ops.TypeProblem as problem:
            labels = ((symbol.span, f"{symbol.name} is {show_dims(symbol.dims)}"),)
            raise lowerer.stop(problem.code, str(problem), span, problem.help, labels) from problem
        lowerer.values[state.name] = Value(state.dims, state.dtype, span)
        self._windows[key] = state
        self.hidden.append(state)
        self._later[state.name] = equation
        return state
