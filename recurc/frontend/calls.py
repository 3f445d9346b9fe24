"""Calls: built-in functions, casts, fixed iterations, and helpers written out where they are called."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from recurc import build, ir, ops
from recurc.frontend import ast, cells
from recurc.frontend.environment import Bound, Environment
from recurc.frontend.functions import FUNCTIONS, Form, Function, wanted
from recurc.frontend.problems import Stop
from recurc.frontend.symbols import DTYPES, Kind
from recurc.source import Span
from recurc.types import Kind as Number
from recurc.types import literal_size, show_dims

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer

MAX_ROUNDS = 1000


class Calls:
    """Lowers the calls of one recurrence; everything inside their arguments goes back to the lowerer."""

    def __init__(self, lowerer: Lowerer) -> None:
        self.lowerer = lowerer

    def lower(self, node: ast.Call, env: Environment) -> ir.Expr:
        name = node.function.name
        symbol = self.lowerer.scope.symbols.get(name)
        if name in self.lowerer.scope.functions:
            return self._inline(node, self.lowerer.scope.functions[name], env)
        if symbol is not None and symbol.kind is Kind.RECURRENCE:
            raise cells.inside(self.lowerer, node)
        function = FUNCTIONS.get(name)
        if function is None:
            raise Stop(name)
        if function.form is Form.UNSUPPORTED:
            raise self.lowerer.stop(
                function.code,
                f"`{name}` ({function.what}) is not supported yet",
                node.span,
                "there is no replacement in this version",
            )
        special = {
            "cast": self._cast, "einsum": self._einsum, "grad": self.lowerer.expansions.grad, "iterate": self._iterate,
            "kalman": self._pair, "part": self._part, "permute": self._permute, "unfold": self._unfold,
            "window": self.lowerer.expansions.window,
        }  # fmt: skip
        if name in special:
            return special[name](node, env)
        if function.form is Form.ELEMENTWISE:
            return self._elementwise(function, node, env)
        if function.form is Form.SHAPED:
            return self._shaped(function, node, env)
        return self._reduction(function, node, env)

    def _values(self, node: ast.Call, env: Environment) -> tuple[list[ast.Expr], list[ir.Expr]]:
        """Positional arguments only, lowered."""
        for arg in node.args:
            if isinstance(arg, ast.Binding):
                raise self.lowerer.stop(
                    "E0305",
                    f"`{node.function.name}` has no option `{arg.name.name}`",
                    arg.span,
                    "give the values by position",
                )
        nodes = [a for a in node.args if not isinstance(a, ast.Binding)]
        return nodes, [self.lowerer.lower(a, env) for a in nodes]

    def _elementwise(self, function: Function, node: ast.Call, env: Environment) -> ir.Expr:
        if len(node.args) != function.arity:
            raise self._arity(node, f"{function.arity} value{'s' * (function.arity != 1)}")
        nodes, operands = self._values(node, env)
        if function.make is None:
            return self.lowerer.apply(function.name, operands, tuple(nodes), node.span)
        try:
            return self.lowerer.folded(_spanned(function.make(*operands), node.span), node.span)
        except ops.TypeProblem as problem:
            raise self.lowerer.mismatch(problem, node.span, tuple(zip(nodes, operands, strict=True))) from problem

    def _shaped(self, function: Function, node: ast.Call, env: Environment) -> ir.Expr:
        """Values, then dims: `index(D)`, `lookup(table, i)`, `conv(w, x, X, Y)`, `solve(A, b)`."""
        least, most = function.dims
        for arg in node.args:
            if isinstance(arg, ast.Binding) and not function.named:
                raise self.lowerer.stop(
                    "E0305", f"`{function.name}` has no option `{arg.name.name}`", arg.span, "give it by position"
                )
        args = self._in_order(function, node)
        values = len(args) if function.more else function.arity
        if not function.arity <= values <= len(args) or not least <= len(args) - values <= most:
            raise self._arity(node, wanted(function))
        over: list[str] = []
        for arg in args[values:]:
            dim = self.lowerer.as_dim(arg, env)
            if dim is None:
                raise self._no_dim(function.name, arg)
            over.append(dim)
        operands = [self.lowerer.lower(a, env) for a in args[:values]]
        assert function.make is not None
        try:
            return function.make(operands, over, node.span)
        except ops.TypeProblem as problem:
            raise self.lowerer.mismatch(problem, node.span, tuple(zip(args, operands, strict=False))) from problem

    def _in_order(self, function: Function, node: ast.Call) -> list[ast.Expr]:
        """The arguments of a function whose values may be given by name, by position."""
        args = [a for a in node.args if not isinstance(a, ast.Binding)]
        named = {a.name.name: a for a in node.args if isinstance(a, ast.Binding)}
        left = function.named[len(args) :]
        for name, arg in named.items():
            if name not in left:
                raise self.lowerer.stop(
                    "E0305", f"`{function.name}` has no value `{name}` left to give", arg.span,
                    f"its values: {', '.join(function.named)}",
                )  # fmt: skip
        if len(named) < len(left) or len(args) + len(named) < len(node.args):
            raise self._arity(node, wanted(function))
        return [*args, *(named[name].value for name in left)]

    def kalman(self, node: ast.Call) -> list[ir.Expr]:
        """`m, P = kalman(m[t-1], P[t-1], z, F = F, H = H, Q = Q, R = R)`: the mean and the covariance."""
        args = dict(zip(FUNCTIONS["kalman"].named, self._in_order(FUNCTIONS["kalman"], node), strict=False))
        if len(args) < len(node.args):
            raise self._arity(node, wanted(FUNCTIONS["kalman"]))
        made: list[ir.Expr] = []
        for step, takes in build.FILTERS.items():
            name = ast.Name(step, node.function.span)
            made.append(self.lowerer.expression(replace(node, function=name, args=tuple(args[n] for n in takes))))
        return made

    def _pair(self, node: ast.Call, env: Environment) -> ir.Expr:
        raise self.lowerer.stop(
            "E0317", "`kalman` gives two values, the mean and the covariance", node.span,
            "give it an equation of its own, `m, P = kalman(m[t-1], P[t-1], z, ...)`",
        )  # fmt: skip

    def _no_dim(self, name: str, arg: ast.Expr) -> Stop:
        shown = arg.name if isinstance(arg, ast.Name) else "this"
        near = self.lowerer.scope.nearest(shown, [Kind.DIM]) if isinstance(arg, ast.Name) else ""
        takes = wanted(FUNCTIONS[name])
        return self.lowerer.stop(
            "E0206",
            f"`{name}` takes {takes}, and `{shown}` is no dim",
            arg.span,
            f"did you mean {near}?" if near else "dims are declared in the header, or written as a positive integer",
        )

    def _reduction(self, function: Function, node: ast.Call, env: Environment) -> ir.Expr:
        name = function.name
        options = self._options(function, node, env)
        args = [a for a in node.args if not isinstance(a, ast.Binding)]
        if not args:
            raise self._arity(
                node, "a value" + (" and the dims to reduce over" if function.form is Form.REDUCTION else "")
            )
        dims = [self.lowerer.as_dim(a, env, literal=function.form is Form.REDUCTION) for a in args[1:]]
        if function.form is Form.ORDER and dims and None in dims:
            if len(args) != 2:
                raise self._arity(node, "two values, or one value and dims")
            return self.lowerer.apply(name, [self.lowerer.lower(a, env) for a in args], tuple(args), node.span)
        over: list[str] = []
        for dim, arg in zip(dims, args[1:], strict=True):
            if dim is None:
                shown = arg.name if isinstance(arg, ast.Name) else "this"
                near = self.lowerer.scope.nearest(shown, [Kind.DIM]) if isinstance(arg, ast.Name) else ""
                raise self.lowerer.stop(
                    "E0206",
                    f"`{name}` reduces over dims, and `{shown}` is none",
                    arg.span,
                    f"did you mean {near}?" if near else f"write `{name}(value, D)` with a dim D",
                )
            if dim in over:
                raise self.lowerer.stop("E0314", f"`{name}` names {dim} twice", arg.span, "name each dim once")
            over.append(dim)
        operand = self.lowerer.lower(args[0], env)
        try:
            if function.make is None:
                return build.reduce(name, operand, over, node.span)
            return function.make(operand, over, span=node.span, **options)
        except ops.TypeProblem as problem:
            raise self.lowerer.mismatch(problem, node.span, ((args[0], operand),)) from problem

    def _options(self, function: Function, node: ast.Call, env: Environment) -> dict[str, float]:
        found: dict[str, float] = {}
        for arg in node.args:
            if not isinstance(arg, ast.Binding):
                continue
            if arg.name.name not in function.options:
                known = ", ".join(function.options) or "none"
                raise self.lowerer.stop(
                    "E0305",
                    f"`{function.name}` has no option `{arg.name.name}`",
                    arg.name.span,
                    f"its options: {known}",
                )
            value = self.lowerer.lower(arg.value, env)
            if not isinstance(value, ir.Const) or isinstance(value.value, (bool, complex)):
                raise self.lowerer.stop(
                    "E0504",
                    f"the option `{arg.name.name}` must be a number known at compile time",
                    arg.value.span,
                    f"write `{arg.name.name} = 1e-6`",
                )
            found[arg.name.name] = float(value.value)
        return found

    def _cast(self, node: ast.Call, env: Environment) -> ir.Expr:
        if len(node.args) != 2:
            raise self._arity(node, "a value and an element type")
        value, type_ = node.args
        if isinstance(value, ast.Binding) or not isinstance(type_, ast.Name) or type_.name not in DTYPES:
            raise self.lowerer.stop(
                "E0502", "`cast` takes a value and an element type", node.span, f"the types are {', '.join(DTYPES)}"
            )
        operand = self.lowerer.lower(value, env)
        target = DTYPES[type_.name]
        if operand.dtype.kind is Number.COMPLEX and target.kind is not Number.COMPLEX:
            raise self.lowerer.stop(
                "E0320",
                "a complex number does not become a real one by a cast",
                node.span,
                "take `real(e)`, `imag(e)` or `abs(e)`",
            )
        return ops.cast(operand, target, node.span)

    def _inline(self, node: ast.Call, function: ast.Function, env: Environment) -> ir.Expr:
        name = function.name.name
        values = [a for a in node.args if not isinstance(a, ast.Binding)]
        named = {a.name.name: a for a in node.args if isinstance(a, ast.Binding)}
        parameters = [p.name for p in function.parameters]
        for key, arg in named.items():
            if key not in parameters[len(values) :]:
                raise self.lowerer.stop(
                    "E0305",
                    f"`{name}` has no parameter `{key}` left to give",
                    arg.span,
                    f"its parameters: {', '.join(parameters) or 'none'}",
                )
        if len(values) + len(named) != len(parameters):
            raise self._arity(
                node,
                f"{len(parameters)} value{'s' * (len(parameters) != 1)} ({', '.join(parameters)})"
                if parameters
                else "no value",
            )
        given = dict(zip(parameters, values, strict=False)) | {k: a.value for k, a in named.items()}
        inner: dict[str, Bound] = {}
        for parameter in parameters:
            arg = given[parameter]
            inner[parameter] = Bound(
                self.lowerer.lower(arg, env), self.lowerer.as_dim(arg, env, literal=True), arg, env
            )
        for line in function.body:
            value = self.lowerer.lower(line.value, inner)
            parts: list[ir.Expr] = [value]
            if len(line.names) > 1:
                try:
                    parts = list(build.unpack(value, len(line.names), line.span))
                except ops.TypeProblem as problem:
                    raise self.lowerer.mismatch(problem, line.span, ((line.value, value),)) from problem
            for local, part in zip(line.names, parts, strict=True):
                inner = inner | {local.name: Bound(part, None, line.value, inner)}
        return self.lowerer.lower(function.value, inner)

    def _iterate(self, node: ast.Call, env: Environment) -> ir.Expr:
        form = "write `iterate(3, X = X0, expression of X)`"
        match node.args:
            case (count_node, ast.Binding() as start, body) if not isinstance(
                count_node, ast.Binding
            ) and not isinstance(body, ast.Binding):
                pass
            case _:
                raise self.lowerer.stop(
                    "E0306", "`iterate` takes a count, one `name = start`, and an expression", node.span, form
                )
        count = self.lowerer.lower(count_node, env)
        if (
            not isinstance(count, ir.Const)
            or not isinstance(count.value, int)
            or isinstance(count.value, bool)
            or not 0 <= count.value <= MAX_ROUNDS
        ):
            raise self.lowerer.stop(
                "E0504",
                f"the number of rounds must be a whole number from 0 to {MAX_ROUNDS}, known at compile time",
                count_node.span,
                form,
            )
        value = self.lowerer.lower(start.value, env)
        for _ in range(count.value):
            value = self.lowerer.lower(body, {**env, start.name.name: Bound(value, None, start.value, env)})
        return value

    def _part(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`part(e, i)`: one slice along the leading literal dim, counted from 0."""
        form = "write `part(W, 0)`; all of them at once: `a, b = W`"
        if len(node.args) != 2:
            raise self._arity(node, "a value and a whole number")
        _, (value, index) = self._values(node, env)
        count = literal_size(value.dims[0]) if value.dims else None
        if count is None:
            raise self.lowerer.stop(
                "E0317", f"`part` needs a leading literal dim, got {show_dims(value.dims)}", node.span, form
            )
        if (
            not isinstance(index, ir.Const)
            or index.dtype.kind is not Number.INT
            or not 0 <= int(str(index.value)) < count
        ):
            raise self.lowerer.stop("E0317", f"the part must be a whole number from 0 to {count - 1}", node.span, form)
        return build.unpack(value, count, node.span)[int(str(index.value))]

    def _permute(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`permute(e, D, N)`: the same value with its dims in this order."""
        if not node.args or isinstance(node.args[0], ast.Binding):
            raise self._arity(node, "a value and its dims in the new order")
        value = self.lowerer.lower(node.args[0], env)
        dims = [None if isinstance(a, ast.Binding) else self.lowerer.as_dim(a, env) for a in node.args[1:]]
        order = tuple(d for d in dims if d is not None)
        if len(order) < len(dims) or sorted(order) != sorted(value.dims) or len(set(order)) < len(order):
            raise self.lowerer.stop(
                "E0316",
                f"`permute` names every dim of {show_dims(value.dims)} once, in the new order",
                node.span,
                "dims that appear twice are told apart with `as [..]` first",
                ((node.args[0].span, f"this is {show_dims(value.dims)}"),),
            )
        return value if order == value.dims else build.permute(value, order, node.span)

    def _einsum(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`einsum(A, B, ij, jk, ik)`: the letters are no names."""
        letters = [a.name if isinstance(a, ast.Name) else "" for a in node.args[2:]]
        values = [a for a in node.args[:2] if not isinstance(a, ast.Binding)]
        if len(values) < 2 or not 2 <= len(letters) <= 3 or "" in letters:
            raise self._arity(node, "two values, and letters for their dims and those of the result")
        operands = [self.lowerer.lower(a, env) for a in values]
        try:
            return build.einsum(operands[0], operands[1], letters[0], letters[1], (*letters, "")[2], node.span)
        except ops.TypeProblem as problem:
            raise self.lowerer.mismatch(problem, node.span, tuple(zip(values, operands, strict=True))) from problem

    def _unfold(self, node: ast.Call, env: Environment) -> ir.Expr:
        """`unfold(x, X, Y, 3, 3)`: the neighbours of every place; `circular = true`, `turned = true`."""
        flags = {"circular": False, "turned": False}
        for arg in node.args:
            if isinstance(arg, ast.Binding):
                if arg.name.name not in flags or not isinstance(arg.value, ast.Truth):
                    raise self.lowerer.stop(
                        "E0305", "the options of `unfold` are `circular = true` and `turned = true`", arg.span,
                        "leave out what is false",
                    )  # fmt: skip
                flags[arg.name.name] = arg.value.value
        args = [a for a in node.args if not isinstance(a, ast.Binding)]
        if len(args) < 3 or len(args) % 2 == 0:
            raise self._arity(node, "a value, the dims to look along, and as many for what is found there")
        over: list[str] = []
        for arg in args[1:]:
            dim = self.lowerer.as_dim(arg, env)
            if dim is None:
                raise self._no_dim("unfold", arg)
            over.append(dim)
        operand, half = self.lowerer.lower(args[0], env), len(over) // 2
        try:
            return build.unfold(
                operand, over[:half], tuple(over[half:]), not flags["turned"], flags["circular"], node.span
            )
        except ops.TypeProblem as problem:
            raise self.lowerer.mismatch(problem, node.span, ((args[0], operand),)) from problem

    def _arity(self, node: ast.Call, wanted: str) -> Stop:
        got = len(node.args)
        return self.lowerer.stop(
            "E0306",
            f"`{node.function.name}` takes {wanted}, got {got}",
            node.span,
            f"see `{node.function.name}` in docs/language.md",
        )


def _spanned(expr: ir.Expr, span: Span) -> ir.Expr:
    return expr if expr.span is not None else replace(expr, span=span)
