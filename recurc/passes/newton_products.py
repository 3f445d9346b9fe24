"""Products of the guess with params, for Newton's method over time: as the guess of all steps is known, each is one
product of matrices over all t, between a map of what enters it and the scan of a round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from recurc.ir import Contract, Equation, Expr, Read, Unfold, reads, rewrite
from recurc.passes.dependence import needed
from recurc.passes.newton_diagonal import is_steady
from recurc.plan import Map, Matmul


@dataclass(frozen=True)
class Products:
    """`values` are the equations of a step, which read from a buffer what the `stages` make: the products, by the names
    of the equations that were these; `once`: params as the products read them."""

    values: tuple[Equation, ...]
    stages: tuple[Map | Matmul, ...]
    made: dict[str, Read]
    once: dict[str, Expr]

    def read_in(
        self, equations: Sequence[Equation], named: Mapping[Expr, Read], states: Mapping[str, str]
    ) -> list[Equation]:
        """Equations of the loop with the products read from where the stages left them. `named`: what the step has
        other names for; `states`: the names of the loop's new states by those that the step has for them."""

        def of_loop(node: Expr) -> Expr:
            return replace(node, name=states[node.name]) if isinstance(node, Read) and node.name in states else node

        there = {rewrite(e, of_loop): self.made[read.name] for e, read in named.items() if read.name in self.made}

        def rule(node: Expr) -> Expr:
            return there.get(node, node) if isinstance(node, Contract) else node

        return [Equation(e.name, self.made.get(e.name) or rewrite(e.expr, rule), e.span) for e in equations]


def products(
    values: Sequence[Equation], guesses: Collection[str], steady: Collection[str], unused: Callable[[str], str]
) -> Products:
    """The equations that are sums of products of `steady` buffers and what depends on the `guesses` as stages, each
    with a map of its operand before it, by names that nobody has (`unused`). Small ones too: a tile of a scan that held
    a product for each of its steps would leave the registers."""
    depends = set(guesses)
    kept: list[Equation] = []
    stages: list[Map | Matmul] = []
    operands: dict[Expr, Read] = {}
    made: dict[str, Read] = {}
    weights: dict[Expr, Read] = {}
    for equation in values:
        expr = equation.expr
        moving = _moving(expr, steady, depends) if isinstance(expr, Contract) else None
        if any(r.name in depends for r in reads(expr)):
            depends.add(equation.name)
        if not isinstance(expr, Contract) or moving is None:
            kept.append(equation)
            continue
        weight = expr.right if expr.left is moving else expr.left
        if not isinstance(weight, Read) and weight not in weights:
            name = unused(f"{equation.name}'weight")
            weights[weight] = Read(name, 0, weight.dims, weight.dtype, weight.span)
        weight = weights.get(weight, weight)
        if moving not in operands:
            operand = Equation(unused(f"{equation.name}'in"), moving, equation.span)
            operands[moving] = _read(operand)
            stages.append(Map((*needed(kept, _now(moving)), operand), (operand.name,)))
        left, right = (operands[moving], weight) if expr.left is moving else (weight, operands[moving])
        target = Read(unused(f"{equation.name}'product"), 0, expr.dims, expr.dtype, expr.span)
        stages.append(Matmul(target.name, replace(expr, left=left, right=right)))
        made[equation.name] = target
        kept.append(Equation(equation.name, target, equation.span))
    return Products(tuple(kept), tuple(stages), made, {read.name: expr for expr, read in weights.items()})


def _moving(expr: Contract, steady: Collection[str], depends: Collection[str]) -> Expr | None:
    """The factor that `depends` on the guess, if the other is made of `steady` buffers and something is summed over.
    Neighbours stay where they are: a buffer would hold every value as often as there are taps."""
    if {*expr.left_axes, *expr.right_axes} == {*expr.out_axes}:
        return None
    for weight, moving in ((expr.left, expr.right), (expr.right, expr.left)):
        if any(True for _ in reads(weight)) and is_steady(weight, steady) and not isinstance(moving, Unfold):
            return moving if any(r.name in depends for r in reads(moving)) else None
    return None


def _now(expr: Expr) -> set[str]:
    return {r.name for r in reads(expr) if r.lag == 0}


def _read(equation: Equation) -> Read:
    return Read(equation.name, 0, equation.expr.dims, equation.expr.dtype, equation.span)
