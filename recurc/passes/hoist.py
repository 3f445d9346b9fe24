"""What leaves the loop as a stage of its own: contractions with a param become `Matmul`s over all t, costly
expressions of params alone are computed once per call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from recurc.facts import Analysis
from recurc.ir import (
    Apply,
    Const,
    Contract,
    Expr,
    Linalg,
    Read,
    Recurrence,
    Reduce,
    Size,
    Step,
    Unfold,
    children,
    late_equations,
    reads,
    walk,
    with_children,
)
from recurc.ops import OPS
from recurc.passes.cost import Shape, contract_flops
from recurc.passes.dependence import Dependence
from recurc.passes.terms import fresh
from recurc.passes.verify import used_names

_SMALLEST_MATMUL = 512.0  # operations per step; below, a GEMM's extra buffer costs more than the loop does
_COSTLY = 6  # operations per element from which an expression of params is worth a buffer


@dataclass
class Hoisted:
    """The equations after hoisting. `matmuls` and `once` map a name to its expression; the rest reads those names.
    `operand_of[m]` is the value with a time axis that matmul `m` reads."""

    equations: dict[str, Expr] = field(default_factory=dict[str, Expr])
    matmuls: dict[str, Contract] = field(default_factory=dict[str, Contract])
    once: dict[str, Expr] = field(default_factory=dict[str, Expr])
    operand_of: dict[str, str] = field(default_factory=dict[str, str])
    rewrite: Callable[[Expr], Expr] = field(default=lambda e: e)


def hoist(rec: Recurrence, analysis: Analysis, dep: Dependence, shape: Shape, keep: Collection[str] = ()) -> Hoisted:
    """Take contractions and expressions of params out of the equations of `rec` (core form), except those in `keep`."""
    return _Hoister(rec, analysis, dep, shape, frozenset(keep)).run()


class _Hoister:
    def __init__(
        self, rec: Recurrence, analysis: Analysis, dep: Dependence, shape: Shape, keep: frozenset[str]
    ) -> None:
        self.rec, self.dep, self.shape, self.keep = rec, dep, shape, keep
        self.position = {s: i for i, g in enumerate(analysis.groups) for s in g.states}
        self.states = {s.name for s in rec.states}
        self.varying = self.states | {i.name for i in rec.inputs}
        self.taken = used_names(rec)
        self.late = late_equations(rec)
        self.out = Hoisted()
        self.named: dict[Expr, str] = {}
        self.consumers = self._first_consumers()
        for equation in rec.equations:
            if equation.name in self.late or not self.steady(equation.expr):
                self.varying.add(equation.name)

    def run(self) -> Hoisted:
        for equation in self.rec.equations:
            name, expr = equation.name, equation.expr
            if name in self.late or name in self.keep:
                self.out.equations[name] = expr  # it waits for the last step, so it leaves the loop as a whole
                continue
            free_name = name not in self.rec.outputs and name not in self.states
            if free_name and self.steady(expr) and self._costly(expr):
                self.out.once[name] = expr
                continue
            limit = self.consumers.get(name)
            self.out.equations[name] = self._rewritten(expr, limit, name if name not in self.states else None)
            if self.out.equations[name] == Read(name, 0, expr.dims, expr.dtype):
                del self.out.equations[name]
        self.out.rewrite = lambda expr: self._rewritten(expr, None, None, no_matmul=True)
        return self.out

    def _first_consumers(self) -> dict[str, int]:
        """Equation -> the first group whose states need it (through equations that are not states)."""
        first: dict[str, int] = {}
        by_name = {e.name: e for e in self.rec.equations}
        for state, index in sorted(self.position.items(), key=lambda item: item[1]):
            pending = [state]
            while pending:
                name = pending.pop()
                if name in first:
                    continue
                first[name] = index
                for read in reads(by_name[name].expr):
                    if (
                        read.lag == 0
                        and read.name in by_name
                        and read.name not in self.states
                        and read.name not in first
                    ):
                        pending.append(read.name)
        return first

    def steady(self, expr: Expr) -> bool:
        return not any(isinstance(n, Step) or (isinstance(n, Read) and n.name in self.varying) for n in walk(expr))

    def _costly(self, expr: Expr) -> bool:
        if isinstance(expr, Read | Const | Size) or not any(True for _ in reads(expr)):
            return False
        nodes = list(walk(expr))
        flops = sum(OPS[n.op].flops for n in nodes if isinstance(n, Apply))
        return flops >= _COSTLY or any(isinstance(n, Contract | Linalg | Reduce) for n in nodes)

    def _rewritten(self, expr: Expr, consumer: int | None, own_name: str | None, no_matmul: bool = False) -> Expr:
        if expr in self.named:
            return Read(self.named[expr], 0, expr.dims, expr.dtype, expr.span)
        if self.steady(expr):
            if not self._costly(expr):
                return expr
            return self._once(expr)
        if isinstance(expr, Contract) and not no_matmul and self._leaves(expr, consumer):
            return self._matmul(expr, consumer, own_name)
        old = children(expr)
        new = tuple(self._rewritten(child, consumer, None, no_matmul) for child in old)
        return with_children(expr, new) if any(a is not b for a, b in zip(old, new, strict=True)) else expr

    def _once(self, expr: Expr) -> Expr:
        what = expr.op if isinstance(expr, Apply | Reduce) else type(expr).__name__.lower()
        params = [r.name for r in reads(expr)]
        hint = f"{what}_{params[0]}" if params else what
        name = self._fresh(f"{expr.name}_once" if isinstance(expr, Read) else hint)
        self.named[expr] = name
        self.out.once[name] = expr
        return Read(name, 0, expr.dims, expr.dtype, expr.span)

    def _leaves(self, node: Contract, consumer: int | None) -> bool:
        left, right = self.steady(node.left), self.steady(node.right)
        if left == right or contract_flops(node, self.shape) < _SMALLEST_MATMUL:
            return False
        if set(node.left_axes) | set(node.right_axes) == set(node.out_axes):
            return False  # an outer product sums nothing: it belongs where it is used
        weights, moved = (node.left_axes, node.right_axes) if left else (node.right_axes, node.left_axes)
        if set(weights) <= set(moved):
            return False  # each weight meets one value of a step: as a stage of its own it would store these values
        moving = node.right if left else node.left
        if isinstance(moving, Unfold):
            return False  # a convolution: a buffer would hold every neighbour as often as there are taps
        latest = max((self.position[s] for s in self.dep.of(moving)), default=-1)
        latest = max([latest, *(self.position[r.name] for r in reads(moving) if r.name in self.states)])
        return consumer is None or latest < consumer

    def _matmul(self, node: Contract, consumer: int | None, own_name: str | None) -> Expr:
        weight_left = self.steady(node.left)
        weight, moving = (node.left, node.right) if weight_left else (node.right, node.left)
        # A matmul reads buffers only: what is computed from params is stored first, be it only a slice with a name.
        if not isinstance(weight, Read) or weight.name in self.out.equations:
            weight = (
                self._once(weight)
                if weight not in self.named
                else Read(self.named[weight], 0, weight.dims, weight.dtype)
            )
        inner = self._rewritten(moving, consumer, None)
        if not (isinstance(inner, Read) and inner.lag == 0):
            name = self._fresh(f"{_hint(moving)}_in")
            self.out.equations[name] = inner
            self.varying.add(name)
            inner = Read(name, 0, moving.dims, moving.dtype, moving.span)
        assert isinstance(weight, Read)
        name = own_name or self._fresh(f"{weight.name}_{inner.name}".replace("@", "_"))
        self.named[node] = name
        self.varying.add(name)
        self.out.matmuls[name] = replace(
            node, left=weight if weight_left else inner, right=inner if weight_left else weight
        )
        self.out.operand_of[name] = inner.name
        return Read(name, 0, node.dims, node.dtype, node.span)

    def _fresh(self, hint: str) -> str:
        name = fresh(hint, self.taken)
        self.taken.add(name)
        return name


def _hint(expr: Expr) -> str:
    return next((r.name for r in reads(expr)), "value")
