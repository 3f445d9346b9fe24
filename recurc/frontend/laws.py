"""`der(h) = law using method(dt)`: what stands in the source, as the equation of h."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING

from recurc import ir, ops
from recurc.frontend import ast
from recurc.frontend.constants import fold
from recurc.frontend.symbols import Definition, Kind

if TYPE_CHECKING:
    from recurc.frontend.lower import Lowerer


def definition_of(law: ast.Derivative) -> tuple[ast.Derivative, ast.Expr]:
    """The law with h[t-1] for h, and an expression that reads what the equation of h reads."""
    law = replace(law, value=_earlier(law.value, law.name.name))
    needed = law.value
    for arg in law.args:
        value = arg.value if isinstance(arg, ast.Binding) else arg
        needed = ast.Binary("+", needed, value, law.span, law.span, max(needed.depth, value.depth) + 1)
    return law, needed


def lower(lowerer: Lowerer, definition: Definition, law: ast.Derivative) -> ir.Expr:
    """The value of h at this step. Raises `Stop` after reporting what is wrong."""
    from recurc.discretize import discretize  # few sources need it, and all would wait for it
    from recurc.frontend.lower import Value

    symbol = lowerer.scope.symbols[law.name.name]
    if symbol.kind is not Kind.STATE:
        raise lowerer.stop(
            "E0705", f"`der({law.name.name})` is the law of a state, and `{law.name.name}` is {symbol.kind.value}",
            law.name.span, f"declare it: `state {law.name.name} = 0`",
        )  # fmt: skip
    dt, lam = _arguments(lowerer, law)
    value = lowerer.expression(law.value)
    step = lowerer.expression(dt)
    weight = None if lam is None else lowerer.expression(lam)
    state = ir.Read(symbol.name, 1, symbol.dims, symbol.dtype, law.name.span)
    more = lowerer.expansions
    try:
        made = discretize(state, value, law.method.name, step, weight, more.fresh, law.span)
    except ops.TypeProblem as problem:
        raise lowerer.mismatch(problem, law.span, ((law.value, value), (dt, step))) from problem
    if made.hidden is not None and made.equation is not None:
        lowerer.values[made.hidden.name] = Value(made.hidden.dims, made.hidden.dtype, law.span)
        more.hidden.append(made.hidden)
        more.equations.append(replace(made.equation, expr=ir.placed(made.equation.expr, law.span)))
    return ir.placed(ir.rewrite(made.value, fold), law.span)


def _arguments(lowerer: Lowerer, law: ast.Derivative) -> tuple[ast.Expr, ast.Expr | None]:
    """The step, and the weight of `exp_trapezoid`."""
    from recurc.discretize import METHODS

    method = law.method.name
    if method not in METHODS:
        near = next(iter(difflib.get_close_matches(method, METHODS, 1, 0.5)), "")
        help = f"did you mean `{near}`?" if near else f"the methods are {', '.join(METHODS)}"
        raise lowerer.stop("E0705", f"there is no method `{method}`", law.method.span, help)
    names = ("dt", "lam")[: METHODS[method]]
    form = f"write `using {method}({', '.join(names)})`"
    given: dict[str, ast.Expr] = {}
    for place, arg in enumerate(law.args):
        named = isinstance(arg, ast.Binding)
        name = arg.name.name if named else names[place] if place < len(names) else ""
        if name not in names or name in given:
            raise lowerer.stop("E0705", f"`{method}` takes {' and '.join(names)}", arg.span, form)
        given[name] = arg.value if named else arg
    if "dt" not in given:
        raise lowerer.stop("E0705", f"`{method}` needs the length of a step", law.method.span, form)
    return given["dt"], given.get("lam")


def _earlier(expr: ast.Expr, name: str) -> ast.Expr:
    """`expr` with the value one step before for every plain `name`."""

    def new(part: ast.Expr) -> ast.Expr:
        return _earlier(part, name)

    match expr:
        case ast.Name(name=found, span=span) if found == name:
            one = ast.Number("1", span)
            before = ast.Binary("-", ast.Name("t", span), one, span, span, 2)
            return ast.Index(expr, (before,), span, 3)
        case ast.Unary(arg=arg) | ast.Transpose(arg=arg) | ast.Rename(arg=arg):
            return replace(expr, arg=new(arg))
        case ast.Binary(left=left, right=right):
            return replace(expr, left=new(left), right=new(right))
        case ast.Conditional(condition=c, then=a, otherwise=b):
            return replace(expr, condition=new(c), then=new(a), otherwise=new(b))
        case ast.Call(args=args):
            made = tuple(replace(a, value=new(a.value)) if isinstance(a, ast.Binding) else new(a) for a in args)
            return replace(expr, args=made)
        case ast.Index(base=base) if not isinstance(base, ast.Name):
            return replace(expr, base=new(base))
        case _:
            return expr
