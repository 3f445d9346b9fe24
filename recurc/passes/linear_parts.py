"""The part of an expression that is linear in some values with coefficients that never change, and the rest.

Where `passes/affine.py` asks whether an update is affine, this file takes it apart into expressions: `y = real(C @ h) +
skip * x` is `real(C @ h)` and `skip * x`. A named value on the way becomes two named values. Linear means over the
real numbers, so that `real`, `imag` and `conj` may stand anywhere; half precision rounds and is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Gather,
    Linalg,
    Read,
    Reaxis,
    Reduce,
    Step,
    Unfold,
    reads,
    walk,
    with_children,
)
from recurc.ops import OPS, Affine, apply, convert
from recurc.passes.affine import zero
from recurc.passes.terms import fresh, too_large
from recurc.source import Span
from recurc.types import DType, Kind

_NARROW = (DType.F16, DType.BF16)
Parts = tuple[Expr | None, Expr | None]  # what is linear in the moving values, and the rest; None is zero


class NotLinear(Exception):
    """Why an expression has no linear part with constant coefficients, and where."""

    def __init__(self, text: str, span: Span | None) -> None:
        super().__init__(text)
        self.text, self.span = text, span


@dataclass
class Splitter:
    """Splits expressions over the equations of a system.

    `leaf(read)`: whether a read is one of the moving values; `steady(expr)`: whether a value is the same at every step.
    `touched` names the equations that depend on a moving value. With `all_moves`, every value that is not steady moves.
    `stuck(expr, why)` is asked where an expression is not linear: it raises `NotLinear`, or makes the expression a
    moving value of its own and gives the read of it. `linear` and `rest` collect the equations that named values
    became; `names` gives those of the states."""

    equations: Mapping[str, Expr]
    touched: frozenset[str]
    leaf: Callable[[Read], bool]
    steady: Callable[[Expr], bool]
    taken: set[str]
    who: str
    stuck: Callable[[Expr, NotLinear], Read]
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    all_moves: bool = False
    linear: dict[str, Expr] = field(default_factory=dict[str, Expr])
    rest: dict[str, Expr] = field(default_factory=dict[str, Expr])
    _known: dict[str, Parts | NotLinear] = field(default_factory=dict[str, "Parts | NotLinear"])

    def moves(self, expr: Expr) -> bool:
        if self.all_moves:
            return not self.steady(expr)
        return any(self.leaf(r) or (not r.lag and r.name in self.touched) for r in reads(expr))

    def parts(self, expr: Expr) -> Parts:
        """`expr` as linear part and rest. Raises `NotLinear`."""
        if not self.moves(expr):
            return None, None if isinstance(expr, Const) and expr.value == 0 else expr
        if isinstance(expr, Read) and self.leaf(expr):
            return expr, None
        try:
            return self._split(expr)
        except NotLinear as why:
            return self.stuck(expr, why), None

    def _named(self, read: Read) -> Parts:
        for name in self._behind(read.name):
            try:
                self._known[name] = self._define(name)
            except NotLinear as why:
                self._known[name] = why
        found = self._known[read.name]
        if isinstance(found, NotLinear):
            raise found
        return found

    def _behind(self, name: str) -> list[str]:
        """`name` and the touched equations it needs that are not known yet, each after those it reads."""
        pending, found = [name], {name} - self._known.keys()
        while pending:
            for read in reads(self.equations[pending.pop()]):
                new = not read.lag and read.name in self.touched and not self.leaf(read)
                if new and read.name not in found and read.name not in self._known:
                    found.add(read.name)
                    pending.append(read.name)
        return [n for n in self.equations if n in found]

    def _define(self, name: str) -> Parts:
        whole = self.equations[name]
        linear, rest = self.parts(whole)
        if any(p is not None and too_large(p) for p in (linear, rest)):
            raise NotLinear(f"{name} is too large to take apart", whole.span)
        given = self.names.get(name)
        found: list[Expr | None] = []
        for part, table, suffix, k in ((linear, self.linear, "linear", 0), (rest, self.rest, "rest", 1)):
            if part is None and given is None:
                found.append(None)
                continue
            own = given[k] if given else fresh(f"{name}_{suffix}", self.taken)
            self.taken.add(own)
            table[own] = fit(part if part is not None else zero(whole.dtype), whole)
            found.append(None if part is None else Read(own, 0, whole.dims, whole.dtype, whole.span))
        return found[0], found[1]

    # --- one node ---------------------------------------------------------------------------------------------------

    def _split(self, expr: Expr) -> Parts:
        match expr:
            case Read(name=name, lag=lag):
                if lag or name not in self.equations:
                    raise NotLinear(f"`{name}` is a value of its own", expr.span)
                return self._named(expr)
            case Apply():
                return self._apply(expr)
            case Reduce(op=op, arg=arg):
                if op != "sum":
                    raise NotLinear(f"{self.who} reaches the reduction `{op}`", expr.span)
                return self._through(expr, (arg,), 0)
            case Contract(left=left, right=right):
                moving = [self.moves(side) for side in (left, right)]
                if all(moving):
                    raise NotLinear(f"{self.who} is contracted with a value that also depends on it", expr.span)
                return self._through(expr, (left, right), moving.index(True))
            case Reaxis(arg=arg) | Broadcast(arg=arg) | Unfold(arg=arg):
                return self._through(expr, (arg,), 0)
            case Gather(arg=arg, index=index):
                if self.moves(index):
                    raise NotLinear(f"{self.who} decides a place in a table", expr.span)
                return self._through(expr, (arg, index), 0)
            case Linalg(op="solve", args=args):
                if self.moves(args[0]):
                    raise NotLinear(f"{self.who} is in a matrix that is inverted", expr.span)
                return self._through(expr, args, 1)
            case _:
                raise NotLinear(f"{self.who} reaches an operation that is not linear in it", expr.span)

    def _through(self, node: Expr, args: tuple[Expr, ...], place: int) -> Parts:
        """A node that is linear in its operand at `place`; the others are coefficients."""
        for k, arg in enumerate(args):
            if k != place:
                self._constant(arg, node.span)
        found: list[Expr | None] = []
        for part in self.parts(args[place]):
            if part is None:
                found.append(None)
            else:
                new = (*args[:place], fit(part, args[place]), *args[place + 1 :])
                found.append(with_children(node, new))
        return found[0], found[1]

    def _constant(self, factor: Expr, span: Span | None) -> None:
        if not self.steady(factor):
            name = next((r.name for r in reads(factor) if not self.steady(r)), "")
            stepwise = any(isinstance(n, Step) for n in walk(factor))
            what = f"`{name}`" if name else "`t`" if stepwise else "a factor"
            raise NotLinear(f"the coefficient {what} of {self.who} changes from step to step", factor.span or span)

    def _apply(self, node: Apply) -> Parts:
        args, rule = node.args, OPS[node.op].affine
        moving = [self.moves(a) for a in args]
        if node.op == "cast":
            return self._cast(node)
        match rule:
            case Affine.LINEAR if len(args) == 1:
                return self._through(node, args, 0)
            case Affine.REAL_LINEAR:
                return self._through(node, args, 0)
            case Affine.LINEAR:
                (a, b), (c, d) = (self.parts(x) for x in args)
                return _sum(node, a, c), _sum(node, b, d)
            case Affine.PRODUCT | Affine.NUMERATOR:
                if all(moving):
                    raise NotLinear(f"{self.who} is multiplied by a value that also depends on it", node.span)
                if rule is Affine.NUMERATOR and moving[1]:
                    raise NotLinear(f"{self.who} reaches a denominator", node.span)
                place = moving.index(True)
                self._constant(args[1 - place], node.span)
                pairs = [None if p is None else (p, args[1 - place]) for p in self.parts(args[place])]
                made = [
                    None if p is None else apply(node.op, *(p if place == 0 else p[::-1]), span=node.span)
                    for p in pairs
                ]
                return made[0], made[1]
            case Affine.BRANCHES:
                if moving[0]:
                    raise NotLinear(f"the condition of a choice depends on {self.who}", node.span)
                self._constant(args[0], node.span)
                yes, no = self.parts(args[1]), self.parts(args[2])
                return _choice(node, yes[0], no[0]), _choice(node, yes[1], no[1])
            case _:
                raise NotLinear(f"{self.who} reaches `{node.op}`, which is not linear", node.span)

    def _cast(self, node: Apply) -> Parts:
        (arg,) = node.args
        if arg.dtype.kind in (Kind.INT, Kind.BOOL):
            raise NotLinear(f"{self.who} is a whole number", node.span)
        if node.dtype in _NARROW:
            raise NotLinear(f"{self.who} is rounded to half precision at each step", node.span)
        if node.dtype.kind in (Kind.INT, Kind.BOOL):
            raise NotLinear(f"{self.who} is a whole number, which a transform cannot keep exact", node.span)
        linear, rest = self.parts(arg)
        return (
            None if linear is None else convert(fit(linear, arg), node.dtype),
            None if rest is None else convert(fit(rest, arg), node.dtype),
        )


def _sum(node: Apply, a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return a if b is None else b if node.op == "add" else apply("neg", b, span=node.span)
    return apply(node.op, a, b, span=node.span)


def _choice(node: Apply, yes: Expr | None, no: Expr | None) -> Expr | None:
    if yes is None and no is None:
        return None
    nothing = zero(node.dtype)
    return apply("select", node.args[0], yes or nothing, no or nothing, span=node.span)


def fit(part: Expr, whole: Expr) -> Expr:
    """`part` with the type and the dims of the expression it is a part of."""
    part = convert(part, whole.dtype)
    return part if part.dims == whole.dims else Broadcast(part, whole.dims, whole.dtype, part.span)


def depending(equations: Mapping[str, Expr], on: Callable[[Expr], bool]) -> frozenset[str]:
    """The equations that have a node `on` is true of, directly or through others at the same step; `equations` stand
    in an order in which each reads only earlier ones."""
    found: set[str] = set()
    for name, expr in equations.items():
        if any(on(n) or (isinstance(n, Read) and not n.lag and n.name in found) for n in walk(expr)):
            found.add(name)
    return frozenset(found)


def never_stuck(expr: Expr, why: NotLinear) -> Read:
    """For a `Splitter` whose moving values are given: what is not linear in them has no linear part."""
    raise why


__all__ = ["NotLinear", "Parts", "Splitter", "depending", "fit", "never_stuck"]
