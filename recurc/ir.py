"""The core IR, on one page.

A `Recurrence` holds equations over named values. An equation is a tree of expression nodes; sharing
between equations is by name (`Read`). Batch and time axes are implicit: every value is what one sequence holds
at one step. Dims are names (`recurc.types`), so elementwise nodes align operands by dim name and broadcast the
missing ones; only `Contract`, `Reaxis`, `Gather` and `Unfold` speak of axes by position.

Nodes are immutable and compare by structure; source spans do not take part in the comparison. Build them with
`recurc.build`, which computes and checks dims and dtypes; the constructors here check nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from recurc.source import Span
from recurc.types import DimDecl, Dims, DType, number_key


@dataclass(frozen=True, slots=True)
class Const:
    """A number known at compile time. Equal ones are the same number to every operator: -0.0 is not 0.0."""

    value: bool | int | float | complex
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)
    dims: Dims = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Const) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return number_key(self.value), self.dtype, self.dims


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a dim, as an integer."""

    dim: str
    span: Span | None = field(default=None, compare=False, repr=False)
    dtype: DType = DType.I64
    dims: Dims = ()


@dataclass(frozen=True, slots=True)
class Step:
    """`t`, the index of the step: 0, 1, ..., T-1."""

    span: Span | None = field(default=None, compare=False, repr=False)
    dtype: DType = DType.I64
    dims: Dims = ()


@dataclass(frozen=True, slots=True)
class Iota:
    """The place along a dim: 0, 1, ..., size - 1."""

    dims: Dims  # that one dim
    span: Span | None = field(default=None, compare=False, repr=False)
    dtype: DType = DType.I64

    @property
    def dim(self) -> str:
        return self.dims[0]


@dataclass(frozen=True, slots=True)
class Final:
    """`S[T]`: the value of a state after the last step. Only values that no state reads may depend on it."""

    name: str
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Read:
    """The value of a name at this step (`lag` 0) or `lag` steps before. Params have no lag."""

    name: str
    lag: int
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Apply:
    """An elementwise operator of the op table (`recurc.ops`) on operands aligned by dim name."""

    op: str
    args: tuple[Expr, ...]
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reduce:
    """`op` (sum, prod, max, min, any, all, argmax, argmin) over named dims, which disappear."""

    op: str
    arg: Expr
    over: Dims
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Contract:
    """Sum of products: `einsum(left, left_axes, right, right_axes, out_axes)`. Labels are small integers;
    a label missing in `out_axes` is summed; a label on both sides and in the output is a batch axis."""

    left: Expr
    right: Expr
    left_axes: tuple[int, ...]
    right_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Reaxis:
    """The same elements seen through other axes: axis i of the result is axis `axes[i]` of `arg`, named `dims[i]`.
    Covers `A.T` (a permutation), `e as [R]` (new names) and unpacking (`index` fixes axis `at` to one place)."""

    arg: Expr
    axes: tuple[int, ...]
    dims: Dims
    dtype: DType
    at: int | None = None
    index: int | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """`arg` repeated along the dims it lacks; `dims` holds the dims of `arg`, in any order, and the new ones."""

    arg: Expr
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gather:
    """The element of `arg` at place `index` (an integer) along axis `axis`. The dims of `index` and those that remain
    of `arg` are aligned by name, so a shared one is a batch dim. A place outside the axis means its nearest end."""

    arg: Expr
    axis: int
    index: Expr
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unfold:
    """The neighbours of every place along some axes: the dims of `arg`, then `taps`, one for each axis. Along an axis
    tap k of n at place i is the element at i + k - n // 2 (`forward`: a correlation) or i - k + n // 2 (a convolution);
    places outside hold 0, or wrap around (`wrap`)."""

    arg: Expr
    axes: tuple[int, ...]
    taps: Dims
    forward: bool
    wrap: bool
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Linalg:
    """An operation on small matrices, which are the last two axes of their operand (same sizes):

    `eye` ()           the identity
    `inv` (A)          the inverse
    `solve` (A, b)     X with A X = b; the axis of `b` named like A's rows becomes one named like A's columns
    `cholesky` (A)     the lower triangular L with L L^T = A, for A symmetric positive definite
    `phi1` (A)         sum over k of A^k / (k+1)!, so that exp(A) = I + A phi1(A)
    `dphi1` (A, E)     the derivative of phi1 at A along E (same dims), linear in E

    Leading dims of A, and equal ones of `b`, are batch dims."""

    op: str
    args: tuple[Expr, ...]
    dims: Dims
    dtype: DType
    span: Span | None = field(default=None, compare=False, repr=False)


Leaf = Const | Size | Step | Iota | Final | Read
Expr = Leaf | Apply | Reduce | Contract | Reaxis | Broadcast | Gather | Unfold | Linalg


EXPRESSION = "expression"


@dataclass(frozen=True, slots=True)
class Initializer:
    """How a module fills a new parameter: the name of an initialiser (`uniform`, `zeros`, ...) and its arguments,
    expressions of constants and dim sizes; or EXPRESSION and one value over dims of the param, of places along dims
    too."""

    name: str
    args: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Input:
    name: str
    dims: Dims
    dtype: DType = DType.REAL
    before: Expr | None = None  # the value before the first step, for x[t-k]
    span: Span | None = field(default=None, compare=False, repr=False)
    bound: str | None = None  # of an integer: it lies in 0, ..., bound - 1 (the size of a dim)


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    dims: Dims
    dtype: DType = DType.REAL
    init: Initializer | None = None
    span: Span | None = field(default=None, compare=False, repr=False)
    bound: str | None = None  # of an integer: it lies in 0, ..., bound - 1 (the size of a dim)


@dataclass(frozen=True, slots=True)
class State:
    name: str
    dims: Dims
    dtype: DType
    initial: Expr  # reads params and sizes only
    span: Span | None = field(default=None, compare=False, repr=False)
    bound: str | None = None  # of an integer: it is taken modulo bound (the size of a dim)


@dataclass(frozen=True, slots=True)
class Equation:
    """`name = expr` at every step. A state's equation bears the state's name."""

    name: str
    expr: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One step, typed. `equations` stand in an order in which each reads only earlier ones at lag 0.
    `outputs` name inputs, states or equations, in source order.

    `reset` names the equation (a truth value that depends on no state; it and those it reads come first) that starts
    a sequence anew: where it holds, everything read from earlier steps is what it was before the first one."""

    name: str
    dims: tuple[DimDecl, ...]
    inputs: tuple[Input, ...]
    params: tuple[Param, ...]
    states: tuple[State, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[str, ...]
    doc: str = field(default="", compare=False)
    span: Span | None = field(default=None, compare=False, repr=False)
    reset: str | None = None


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Apply(args=args) | Linalg(args=args):
            return args
        case Reduce(arg=arg) | Reaxis(arg=arg) | Broadcast(arg=arg) | Unfold(arg=arg):
            return (arg,)
        case Contract(left=left, right=right):
            return (left, right)
        case Gather(arg=arg, index=index):
            return (arg, index)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node of the tree, parents first; iterative, so depth does not matter."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def reads(expr: Expr) -> Iterator[Read]:
    return (node for node in walk(expr) if isinstance(node, Read))


def late(equations: Sequence[Equation]) -> list[Equation]:
    """The equations that need states after the last step (`Final`), directly or through others of these."""
    names: set[str] = set()
    for e in equations:
        if any(isinstance(n, Final) or (isinstance(n, Read) and n.name in names) for n in walk(e.expr)):
            names.add(e.name)
    return [e for e in equations if e.name in names]


def with_children(expr: Expr, new: tuple[Expr, ...]) -> Expr:
    """The same node over other operands (their dims and dtypes must be the old ones)."""
    match expr:
        case Apply() | Linalg():
            return replace(expr, args=new)
        case Reduce() | Reaxis() | Broadcast() | Unfold():
            return replace(expr, arg=new[0])
        case Contract():
            return replace(expr, left=new[0], right=new[1])
        case Gather():
            return replace(expr, arg=new[0], index=new[1])
        case _:
            return expr


def rewrite(expr: Expr, rule: Callable[[Expr], Expr]) -> Expr:
    """Bottom-up: operands first, then `rule` on the node built from them."""
    old = children(expr)
    new = tuple(rewrite(child, rule) for child in old)
    changed = any(a is not b for a, b in zip(old, new, strict=True))
    return rule(with_children(expr, new) if changed else expr)


def placed(expr: Expr, span: Span | None) -> Expr:
    """`expr` with the place `span` wherever it has none: made nodes point at what they were made from."""
    return expr if span is None else rewrite(expr, lambda node: node if node.span else replace(node, span=span))


def late_equations(rec: Recurrence) -> frozenset[str]:
    """The equations that depend on the final value of a state, directly or through others."""
    late: set[str] = set()
    for equation in rec.equations:
        if any(isinstance(n, Final) or (isinstance(n, Read) and n.name in late) for n in walk(equation.expr)):
            late.add(equation.name)
    return frozenset(late)
