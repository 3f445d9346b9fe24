"""The syntax tree: what the source says, before names mean anything. Every node knows its place, and is equal to
itself alone: no two nodes have one place, and Python would make the methods that compare at every start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recurc.source import Span

# --- expressions: `depth` is the height of the tree, bounded by the parser -----------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    text: str
    span: Span
    depth: int = 1

    @property
    def value(self) -> int | float | complex:
        if self.text.endswith("j"):
            return complex(0.0, float(self.text[:-1]))
        if self.text.isdigit():
            return int(self.text) if len(self.text) <= 25 else 10**25  # too large in any case; see lower.py
        return float(self.text)


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    value: bool
    span: Span
    depth: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    name: str
    span: Span
    depth: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Unary:
    """`op` is `-`, `+` or `not`."""

    op: str
    arg: Expr
    span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Binary:
    op: str
    left: Expr
    right: Expr
    span: Span
    op_span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """`name = value` among the arguments of a call, or a `const`."""

    name: Name
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    function: Name
    args: tuple[Expr | Binding, ...]
    span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """`base[i, ...]`; only `v[t-k]` and `S[T]` have a meaning."""

    base: Expr
    indices: tuple[Expr, ...]
    span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Transpose:
    arg: Expr
    span: Span
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Dim:
    """A dim where one is written: a name, or digits."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Rename:
    """`arg as [dims]`."""

    arg: Expr
    dims: tuple[Dim, ...]
    span: Span
    depth: int


Expr = Number | Truth | Name | Unary | Binary | Conditional | Call | Index | Transpose | Rename


# --- statements ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class TypeName:
    """`f32`, or `int(Q)` with `bound`."""

    name: str
    bound: Dim | None
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """One name of an `input`, `state` or `param` line."""

    name: Name
    dims: tuple[Dim, ...]
    type: TypeName | None
    value: Expr | None  # the initial value, or the initialiser of a param
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    declarations: tuple[Declaration, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class States:
    declarations: tuple[Declaration, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Params:
    declarations: tuple[Declaration, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Consts:
    bindings: tuple[Binding, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    name: Name
    value: Expr | None
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    results: tuple[Result, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """`names = value`; several names unpack a leading literal dim."""

    names: tuple[Name, ...]
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Derivative:
    """`der(name) = value using method(args)`."""

    name: Name
    value: Expr
    method: Name
    args: tuple[Expr | Binding, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Reset:
    condition: Expr
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Clocked:
    """An `every` or `when` block."""

    word: str
    condition: Expr
    body: tuple[Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """`fn name(parameters)`: local equations, then the value."""

    name: Name
    parameters: tuple[Name, ...]
    body: tuple[Equation, ...]
    value: Expr
    span: Span


Statement = Inputs | States | Params | Consts | Outputs | Equation | Derivative | Reset | Clocked | Function


# --- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class DimDeclaration:
    """`D`, `N = 16` or `R = S`."""

    name: Name
    default: Number | None
    same_as: Name | None
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Recurrence:
    name: Name
    dims: tuple[DimDeclaration, ...]
    body: tuple[Statement, ...]
    span: Span  # of the header line
    doc: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    path: str
    span: Span


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    items: tuple[Recurrence | Function | Use | Consts, ...]


def parts(expr: Expr) -> tuple[Expr, ...]:
    """The operands of an expression, in source order."""
    match expr:
        case Unary(arg=arg) | Transpose(arg=arg) | Rename(arg=arg):
            return (arg,)
        case Binary(left=left, right=right):
            return (left, right)
        case Conditional(condition=c, then=a, otherwise=b):
            return (c, a, b)
        case Call(args=args):
            return tuple(a.value if isinstance(a, Binding) else a for a in args)
        case Index(base=base, indices=indices):
            return (base, *indices)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node, parents first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(parts(node)))
