"""How much a recurrence must move and compute, counted on its IR."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bench.machine import Ceilings
from bench.rows import Floor
from recurc.ir import Apply, Contract, Equation, Expr, Read, Recurrence, Reduce, Step, children
from recurc.ops import OPS
from recurc.types import Dims


def count(rec: Recurrence, sizes: Mapping[str, int], batch: int, steps: int, itemsize: int = 4) -> tuple[float, float]:
    """(bytes, flops) of one call: each input and param read once, each output written once; every operation of the
    equations once per step and sequence, those that read only params once per call (operations cost what the op
    table says)."""
    size = _Sizes(sizes)
    values = {e.name: e.expr.dims for e in rec.equations} | {i.name: i.dims for i in rec.inputs}
    moved = batch * steps * (sum(size(i.dims) for i in rec.inputs) + sum(size(values[o]) for o in rec.outputs))
    moved += sum(size(p.dims) for p in rec.params)
    constant = {p.name for p in rec.params}
    flops = 0.0
    for equation in rec.equations:
        flops += _flops(equation, constant, size, batch * steps)
        if _is_constant(equation.expr, constant):
            constant.add(equation.name)
    return float(moved * itemsize), flops


def floor(case: str, counted: tuple[float, float], ceilings: Ceilings, ours: float) -> Floor:
    moved, flops = counted
    least = max(moved / ceilings.bytes_per_second, flops / ceilings.flops_per_second)
    return Floor(case, moved, flops, least, ours)


class _Sizes:
    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    def __call__(self, dims: Dims) -> int:
        return math.prod(int(d) if d.isdigit() else self._sizes[d] for d in dims)


def _flops(equation: Equation, constant: set[str], size: _Sizes, repeats: int) -> float:
    total = 0.0
    stack: list[Expr] = [equation.expr]
    while stack:
        node = stack.pop()
        stack.extend(children(node))
        total += _own(node, size) * (1 if _is_constant(node, constant) else repeats)
    return total


def _own(node: Expr, size: _Sizes) -> float:
    match node:
        case Apply(op="cast"):
            return 0.0
        case Apply(op=op):
            return OPS[op].flops * size(node.dims)
        case Reduce():
            return size(node.arg.dims)
        case Contract():
            labels = dict(zip(node.left_axes, node.left.dims, strict=True))
            labels |= dict(zip(node.right_axes, node.right.dims, strict=True))
            return 2.0 * size(tuple(labels.values()))
        case _:
            return 0.0


def _is_constant(expr: Expr, constant: set[str]) -> bool:
    stack = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Step) or (isinstance(node, Read) and node.name not in constant):
            return False
        stack.extend(children(node))
    return True
