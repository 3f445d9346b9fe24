"""What each rule of the grammar makes: called by the parser as rules complete, so no parse tree is ever built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

from recurc.frontend import ast
from recurc.frontend.lexer import MAX_NESTING, Token
from recurc.source import Span

_T = TypeVar("_T")


class TooDeep(Exception):
    """An expression higher than `MAX_NESTING`."""

    def __init__(self, span: Span) -> None:
        self.span = span
        super().__init__("nested too deeply")


class Part:
    """A piece of a statement that has no node of its own: its children, and its place."""

    def __init__(self, kind: str, children: list[Any]) -> None:
        self.kind, self.children = kind, children
        self.span: Span = _span(children) if children else Span("", 1, 1, 1, 1)


def _span(children: list[Any]) -> Span:
    return cast(Span, children[0].span).to(children[-1].span)


def _only(children: list[Any], kind: type[_T]) -> tuple[_T, ...]:
    return tuple(c for c in children if isinstance(c, kind))


def _part(children: list[Any], kind: str) -> Part | None:
    return next((c for c in children if isinstance(c, Part) and c.kind == kind), None)


def _name(token: Token) -> ast.Name:
    return ast.Name(token.text, token.span)


def _names(children: list[Any]) -> tuple[ast.Name, ...]:
    return tuple(_name(c) for c in _of_kind(children, "NAME"))


def _of_kind(children: list[Any], *kinds: str) -> list[Token]:
    return [c for c in children if isinstance(c, Token) and c.kind in kinds]


_STATEMENTS = (
    ast.Inputs, ast.States, ast.Params, ast.Consts, ast.Outputs, ast.Equation, ast.Derivative, ast.Reset, ast.Clocked,
    ast.Function,
)  # fmt: skip
_EXPRESSIONS = (
    ast.Number, ast.Truth, ast.Name, ast.Unary, ast.Binary, ast.Conditional, ast.Call, ast.Index, ast.Transpose,
    ast.Rename,
)  # fmt: skip


def _expressions(children: list[Any]) -> list[ast.Expr]:
    return [c for c in children if isinstance(c, _EXPRESSIONS)]


def _depth(children: list[Any]) -> int:
    depth = 1
    for child in children:
        node = child.value if isinstance(child, ast.Binding) else child
        depth = max(depth, 1 + getattr(node, "depth", 0))
    if depth > MAX_NESTING:
        raise TooDeep(_span(children))
    return depth


class BuildAst:
    """One method per rule of grammar.lark; `children` are tokens, nodes and `Part`s in source order."""

    # --- file
    def start(self, children: list[Any]) -> ast.Module:
        return ast.Module(
            tuple(c for c in children if isinstance(c, (ast.Recurrence, ast.Function, ast.Use, ast.Consts)))
        )

    def ended(self, children: list[Any]) -> Any:
        return children[0]

    def recurrence(self, children: list[Any]) -> ast.Recurrence:
        header = _part(children, "header")
        colon = _of_kind(children, "COLON")[0]
        dims = _only(header.children, ast.DimDeclaration) if header else ()
        return ast.Recurrence(
            _name(children[1]),
            dims,
            tuple(c for c in children if isinstance(c, _STATEMENTS)),
            cast(Span, children[0].span).to(colon.span),
        )

    def header(self, children: list[Any]) -> Part:
        return Part("header", children)

    def dim_decl(self, children: list[Any]) -> ast.DimDeclaration:
        name, value = _name(children[0]), children[2] if len(children) > 2 else None
        number = self.number([value]) if value is not None and value.kind == "NUMBER" else None
        alias = _name(value) if value is not None and value.kind == "NAME" else None
        return ast.DimDeclaration(name, number, alias, _span(children))

    def use(self, children: list[Any]) -> ast.Use:
        return ast.Use(children[1].text[1:-1], _span(children[:2]))

    # --- declarations
    def input(self, children: list[Any]) -> ast.Inputs:
        return ast.Inputs(_only(children, ast.Declaration), _span(children))

    def state(self, children: list[Any]) -> ast.States:
        return ast.States(_only(children, ast.Declaration), _span(children))

    def param(self, children: list[Any]) -> ast.Params:
        return ast.Params(_only(children, ast.Declaration), _span(children))

    def typed(self, children: list[Any]) -> ast.Declaration:
        dims, type_, value = (_part(children, k) for k in ("dims", "type", "value"))
        return ast.Declaration(
            _name(children[0]),
            _only(dims.children, ast.Dim) if dims else (),
            _only(type_.children, ast.TypeName)[0] if type_ else None,
            value.children[1] if value else None,
            _span(children),
        )

    parameter = typed

    def initial(self, children: list[Any]) -> Part:
        return Part("value", children)

    initializer = initial

    def dims(self, children: list[Any]) -> Part:
        found = [ast.Dim(c.text, c.span) for c in _of_kind(children, "NAME", "NUMBER")]
        part = Part("dims", children)
        part.children = list(found)
        return part

    def type(self, children: list[Any]) -> Part:
        bound = children[3] if len(children) > 2 else None
        node = ast.TypeName(
            children[1].text, ast.Dim(bound.text, bound.span) if bound is not None else None, _span(children[1:])
        )
        part = Part("type", children)
        part.children = [node]
        return part

    def const(self, children: list[Any]) -> ast.Consts:
        return ast.Consts(_only(children, ast.Binding), _span(children))

    def binding(self, children: list[Any]) -> ast.Binding:
        return ast.Binding(_name(children[0]), children[2], _span(children))

    def output(self, children: list[Any]) -> ast.Outputs:
        return ast.Outputs(_only(children, ast.Result), _span(children))

    def result(self, children: list[Any]) -> ast.Result:
        return ast.Result(_name(children[0]), children[2] if len(children) > 1 else None, _span(children))

    # --- equations and blocks
    def names(self, children: list[Any]) -> Part:
        return Part("names", children)

    def equation(self, children: list[Any]) -> ast.Equation:
        return ast.Equation(_names(children[0].children), children[2], _span(children))

    def derivative(self, children: list[Any]) -> ast.Derivative:
        arguments = _part(children, "arguments")
        return ast.Derivative(
            _name(children[2]),
            children[5],
            _name(children[7]),
            _arguments(arguments) if arguments else (),
            _span(children),
        )

    def reset(self, children: list[Any]) -> ast.Reset:
        return ast.Reset(children[2], _span(children))

    def every(self, children: list[Any]) -> ast.Clocked:
        return ast.Clocked(children[0].text, children[1], tuple(children[3].children), _span(children[:3]))

    when = every

    def block(self, children: list[Any]) -> Part:
        part = Part("block", children)
        part.children = [c for c in children if isinstance(c, _STATEMENTS)]
        return part

    # --- functions
    def line_function(self, children: list[Any]) -> ast.Function:
        return ast.Function(_name(children[1]), _names(children[2].children), (), children[4], _span(children[:-1]))

    def block_function(self, children: list[Any]) -> ast.Function:
        lines = [c for c in children if isinstance(c, (ast.Equation, *_EXPRESSIONS))]
        span = cast(Span, children[0].span).to(children[3].span)
        equations = tuple(line for line in lines[:-1] if isinstance(line, ast.Equation))
        value = lines[-1]
        if len(equations) < len(lines) - 1 or isinstance(value, ast.Equation):
            wrong = next((line for line in lines[:-1] if not isinstance(line, ast.Equation)), value)
            raise MisplacedValue(wrong.span, children[1].text)
        return ast.Function(_name(children[1]), _names(children[2].children), equations, value, span)

    def parameters(self, children: list[Any]) -> Part:
        return Part("parameters", children)

    # --- expressions
    def conditional(self, children: list[Any]) -> ast.Conditional:
        return ast.Conditional(children[1], children[3], children[5], _span(children), _depth(children))

    def binary(self, children: list[Any]) -> ast.Binary:
        left, op, right = children
        return ast.Binary(op.text, left, right, _span(children), op.span, _depth(children))

    def unary(self, children: list[Any]) -> ast.Unary:
        return ast.Unary(children[0].text, children[1], _span(children), _depth(children))

    def transpose(self, children: list[Any]) -> ast.Transpose:
        return ast.Transpose(children[0], _span(children), _depth(children))

    def index(self, children: list[Any]) -> ast.Index:
        base, *indices = _expressions(children)
        return ast.Index(base, tuple(indices), _span(children), _depth(children))

    def rename(self, children: list[Any]) -> ast.Rename:
        return ast.Rename(children[0], _only(children[2].children, ast.Dim), _span(children), _depth(children[:1]))

    def number(self, children: list[Any]) -> ast.Number:
        return ast.Number(children[0].text, children[0].span)

    def truth(self, children: list[Any]) -> ast.Truth:
        return ast.Truth(children[0].kind == "TRUE", children[0].span)

    def name(self, children: list[Any]) -> ast.Name:
        return _name(children[0])

    def call(self, children: list[Any]) -> ast.Call:
        args = _arguments(children[1])
        return ast.Call(_name(children[0]), args, _span(children), _depth([children[0], *args]))

    def group(self, children: list[Any]) -> ast.Expr:
        return replace(children[1], span=_span(children))

    def arguments(self, children: list[Any]) -> Part:
        return Part("arguments", children)


class MisplacedValue(Exception):
    """A function's block in which something else than the last line is the value."""

    def __init__(self, span: Span, function: str) -> None:
        self.span, self.function = span, function
        super().__init__(function)


def _arguments(part: Part) -> tuple[ast.Expr | ast.Binding, ...]:
    return tuple(c for c in part.children if isinstance(c, (*_EXPRESSIONS, ast.Binding)))
