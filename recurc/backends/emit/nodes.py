"""Index notation, the vocabulary: values with explicit indices, and statements over named variables.

Every access carries its indices (`U[0, H, H'1]`): a variable, a number, or an expression that gives the place. A
variable is an axis id of `recurc.types.axis_ids`: `H`, `H'1`; one over `X+2` runs over the places of X and two more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, Union

from recurc.source import Span
from recurc.types import DType, literal_size, number_key, own_dim

Var = str
Axis: TypeAlias = Union[Var, int, "Node"]  # where along one axis
Index: TypeAlias = tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Number:
    value: bool | int | float | complex
    dtype: DType

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return number_key(self.value), self.dtype


@dataclass(frozen=True, slots=True)
class StepIndex:
    """`t`."""

    dtype: DType = DType.I64


@dataclass(frozen=True, slots=True)
class Place:
    """The value of a variable: where along its dim."""

    var: Var
    dtype: DType = DType.I64


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    lag: int
    index: Index
    dtype: DType


@dataclass(frozen=True, slots=True)
class Call:
    """An elementwise operator of the op table; `cast` converts to `dtype`."""

    op: str
    args: tuple[Node, ...]
    dtype: DType


@dataclass(frozen=True, slots=True)
class Fold:
    """`op` (sum, prod, max, min, any, all, argmax, argmin) of `arg` over all values of the variables."""

    op: str
    over: tuple[Var, ...]
    arg: Node
    dtype: DType


@dataclass(frozen=True, slots=True)
class Matrix:
    """`op` (inv, solve, cholesky, phi1, dphi1) of a whole matrix. `args` are the elements of the operands: matrices
    at `square` (their row, their column), the right side of `solve` at the row and `others`. The result, which is only
    ever a statement of its own, is over (column, row) for `inv`, (column, *others) for `solve`, else over (row,
    column)."""

    op: str
    args: tuple[Node, ...]
    square: tuple[Var, Var]
    others: tuple[Var, ...]
    dtype: DType

    @property
    def inner(self) -> tuple[Var, ...]:
        """The variables that the operation runs over by itself."""
        return (*self.square, *self.others)


Node: TypeAlias = Number | StepIndex | Place | Load | Call | Fold | Matrix


@dataclass(frozen=True, slots=True)
class Stmt:
    """`name[index] = value` for all values of the variables in `index`; a `Fold` or `Matrix` only at the top of
    `value`."""

    name: str
    index: tuple[Var, ...]
    value: Node
    span: Span | None = None
    text: str = ""  # what the statement computes, for a comment

    @property
    def loops(self) -> tuple[Var, ...]:
        """The variables that loops around the statement run over."""
        inner = self.value.inner if isinstance(self.value, Matrix) else ()
        return tuple(v for v in self.index if v not in inner)


def dim_of(var: Var) -> str:
    return var.split("'", 1)[0]


def extent(dim: str, sizes: Mapping[str, int]) -> int:
    """The size of a dim: named, literal, or `X+2`."""
    base, _, more = dim.partition("+")
    return (literal_size(base) or sizes[own_dim(base)]) + int(more or 0)


def parts(node: Node) -> tuple[Node, ...]:
    match node:
        case Call(args=args) | Matrix(args=args):
            return args
        case Fold(arg=arg):
            return (arg,)
        case Load(index=index):
            return tuple(i for i in index if not isinstance(i, str | int))
        case _:
            return ()


def nodes(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        top = stack.pop()
        yield top
        stack.extend(reversed(parts(top)))


def loads(node: Node) -> Iterator[Load]:
    """Every element the value is made of, those its indices are made of included."""
    return (n for n in nodes(node) if isinstance(n, Load))


@lru_cache(maxsize=65536)
def free_vars(node: Node) -> frozenset[Var]:
    """The variables a value depends on."""
    match node:
        case Load(index=index):
            return frozenset[Var]().union(*(index_vars(i) for i in index))
        case Place(var=var):
            return frozenset((var,))
        case Fold(over=over, arg=arg):
            return free_vars(arg) - frozenset(over)
        case Call(args=args) | Matrix(args=args):
            return frozenset[Var]().union(*(free_vars(a) for a in args))
        case _:
            return frozenset()


def index_vars(axis: Axis) -> frozenset[Var]:
    """The variables a place along one axis depends on."""
    if isinstance(axis, int):
        return frozenset()
    return frozenset((axis,)) if isinstance(axis, str) else free_vars(axis)


def plain(index: Index) -> bool:
    """Whether every place is a variable or a number."""
    return all(isinstance(i, str | int) for i in index)
