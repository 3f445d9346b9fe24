"""The cost model: what an expression, a stage and a schedule take, from sizes and a target's numbers.

A time is a fixed part and the largest of three: memory traffic over the bandwidth reached, arithmetic over the rate
reached, and steps that wait for each other. How much of a machine is reached differs: `cost_cpu` and `cost_gpu` have
the formulas of the schedules, docs/cost_model.md has them as a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recurc.ir import Apply, Contract, Expr, Linalg, Read, Reduce, walk
from recurc.ops import OPS
from recurc.targets import Target
from recurc.types import Dims, literal_size, own_dim

TYPICAL_ROUNDS = 4  # of Newton's method for cells that forget (ParaRNN: 3 for its gated cells, and one to see it)
TYPICAL_ROUNDS_FULL = 24  # with the diagonal in place of a full Jacobian: 15 to 35 for the cells of the zoo
_ELIMINATION = 4.0  # rows wait for each other, so an operation takes the time of so many that run side by side


@dataclass(frozen=True)
class Shape:
    """The sizes a plan is made for. `itemsize`: bytes of a stored real."""

    sizes: Mapping[str, int]
    batch: int
    steps: int
    itemsize: int

    def elements(self, dims: Dims) -> int:
        return math.prod(literal_size(d) or self.sizes.get(own_dim(d), 64) for d in dims)


@dataclass(frozen=True)
class Estimate:
    """One schedule of one group: seconds, bytes to and from memory, operations, the depth (steps, chunks of steps or
    levels of a tree that wait for each other), and the binding limit in words."""

    seconds: float
    bytes_moved: float
    flops: float
    depth: int
    limit: str


def expr_flops(expr: Expr, shape: Shape) -> float:
    """Floating-point operations of one evaluation, for one sequence."""
    return sum(node_flops(node, shape) for node in walk(expr))


def node_flops(node: Expr, shape: Shape) -> float:
    """Those of a node itself, its arguments apart."""
    match node:
        case Apply(op=op, dims=dims):
            return OPS[op].flops * shape.elements(dims)
        case Contract():
            return contract_flops(node, shape)
        case Reduce(arg=arg):
            return shape.elements(arg.dims)
        case Linalg(op="solve", args=(matrix, right)):  # by elimination, each time it is met
            n = shape.elements(matrix.dims[-1:])
            return _ELIMINATION * (shape.elements(matrix.dims) * n * 2 / 3 + 2.0 * shape.elements(right.dims) * n)
        case _:
            return 0.0


def contract_flops(node: Contract, shape: Shape) -> float:
    labels = dict(zip(node.left_axes, node.left.dims, strict=True)) | dict(
        zip(node.right_axes, node.right.dims, strict=True)
    )
    return 2.0 * shape.elements(tuple(labels.values()))


def costly(node: Expr) -> bool:
    """Whether a node is a function such as exp or tanh, and no operation or two."""
    return isinstance(node, Apply) and OPS[node.op].flops >= 10


def function_depth(expr: Expr) -> int:
    """How many costly functions (exp, tanh, ...) stand above each other on the longest path."""
    below = [0]
    match expr:
        case Apply(args=args):
            below = [function_depth(a) for a in args]
            return max(below, default=0) + costly(expr)
        case Contract(left=left, right=right):
            return max(function_depth(left), function_depth(right))
        case Reduce(arg=arg):
            return function_depth(arg)
        case _:
            return 0


def typical_rounds(cls: str) -> int:
    """How many rounds of Newton's method a group of this class is taken to need; its loop decides."""
    return TYPICAL_ROUNDS_FULL if cls == "NL-f" else TYPICAL_ROUNDS


def convolution(flops: float, elements: float, shape: Shape, target: Target) -> Estimate:
    """Transforms by a library, on one core or a GPU and in double precision: `flops` per call, and `elements` that
    enter and leave per step and sequence. Without a library the rate is that of a kernel nobody has written."""
    moved = elements * shape.batch * shape.steps * shape.itemsize
    arithmetic, memory = flops / (target.fft_flops or target.flops), moved / target.bandwidth
    setup = target.fft_setup or target.launch
    depth = 2 * math.ceil(math.log2(2 * max(1, shape.steps)))  # levels of a transform and of its inverse
    return largest(setup, memory, arithmetic, 0.0, moved, flops, depth, "the transforms")


def one_after_another(stages: Sequence[Estimate]) -> Estimate:
    """Stages that wait for each other; the limit is that of the one that takes longest."""
    longest = max(stages, key=lambda e: e.seconds)
    return Estimate(
        sum(e.seconds for e in stages),
        sum(e.bytes_moved for e in stages),
        sum(e.flops for e in stages),
        sum(e.depth for e in stages),
        longest.limit,
    )


def largest(
    setup: float, memory: float, arithmetic: float, latency: float, moved: float, flops: float, depth: int, deep: str
) -> Estimate:
    named = {"memory traffic": memory, "arithmetic": arithmetic, deep: latency}
    limit = max(named, key=lambda k: named[k])
    return Estimate(setup + named[limit], moved, flops, depth, limit)


def matmul_seconds(flops: float, moved: float, target: Target) -> float:
    """One GEMM over all of batch x T."""
    return target.launch + max(flops / target.matmul_flops, moved / target.bandwidth)


def map_seconds(flops: float, moved: float, target: Target) -> float:
    return target.launch + max(flops / target.flops, moved / target.bandwidth)


def read_elements(exprs: Iterable[Expr], names: set[str], shape: Shape) -> int:
    """Elements of the named values that the expressions read, each counted once."""
    return sum(elements_read(exprs, names, shape).values())


def elements_read(exprs: Iterable[Expr], names: set[str], shape: Shape) -> dict[str, int]:
    """The same for each of the values."""
    seen: dict[str, int] = {}
    for expr in exprs:
        for node in walk(expr):
            if isinstance(node, Read) and node.name in names:
                seen[node.name] = shape.elements(node.dims)
    return seen
