"""The cost model: what an expression, a stage and a schedule take, from sizes and a target's numbers.

A time is the largest of three: memory traffic over the bandwidth reached, arithmetic over the rate reached, and T
dependent steps. How much of a machine is reached depends on how many positions can run side by side (lanes): a loop
over T has batch x lanes of them, a scan has those times the time segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recurc.facts import Group
from recurc.ir import Apply, Contract, Expr, Read, Reduce, walk
from recurc.ops import OPS
from recurc.targets import Target
from recurc.types import Dims


@dataclass(frozen=True)
class Shape:
    """The sizes a plan is made for. `itemsize`: bytes of a stored real."""

    sizes: Mapping[str, int]
    batch: int
    steps: int
    itemsize: int

    def elements(self, dims: Dims) -> int:
        return math.prod(int(d) if d.isdigit() else self.sizes.get(d, 64) for d in dims)


@dataclass(frozen=True)
class Estimate:
    """One schedule of one group: seconds, bytes to and from memory, operations, and the binding limit in words."""

    seconds: float
    bytes_moved: float
    flops: float
    limit: str


def expr_flops(expr: Expr, shape: Shape) -> float:
    """Floating-point operations of one evaluation, for one sequence."""
    total = 0.0
    for node in walk(expr):
        match node:
            case Apply(op=op, dims=dims):
                total += OPS[op].flops * shape.elements(dims)
            case Contract():
                total += contract_flops(node, shape)
            case Reduce(arg=arg):
                total += shape.elements(arg.dims)
            case _:
                pass
    return total


def contract_flops(node: Contract, shape: Shape) -> float:
    labels = dict(zip(node.left_axes, node.left.dims, strict=True)) | dict(
        zip(node.right_axes, node.right.dims, strict=True)
    )
    return 2.0 * shape.elements(tuple(labels.values()))


def function_depth(expr: Expr) -> int:
    """How many costly functions (exp, tanh, ...) stand above each other on the longest path."""
    below = [0]
    match expr:
        case Apply(op=op, args=args):
            below = [function_depth(a) for a in args]
            return max(below, default=0) + (1 if OPS[op].flops >= 10 else 0)
        case Contract(left=left, right=right):
            return max(function_depth(left), function_depth(right))
        case Reduce(arg=arg):
            return function_depth(arg)
        case _:
            return 0


@dataclass(frozen=True)
class Work:
    """One step of a group, for one sequence: independent positions, bytes in and out, operations, recurrent matmuls."""

    lanes: int
    bytes_per_step: float
    flops: float
    matmul_flops: float
    weight_bytes: float
    chain: int  # costly functions on the path from old state to new


def sequential(work: Work, shape: Shape, target: Target) -> Estimate:
    """A fused loop over T: the state stays close, every input is read once."""
    side_by_side = work.lanes * shape.batch
    moved = work.bytes_per_step * shape.batch * shape.steps
    flops = (work.flops + work.matmul_flops) * shape.batch * shape.steps
    used = min(1.0, side_by_side / target.lanes)
    memory = moved / _bandwidth(target, min(1.0, side_by_side / target.lanes), side_by_side, shape)
    arithmetic = work.flops * shape.batch * shape.steps / (target.flops * used)
    chain = target.step_latency + work.chain * target.function_latency
    per_step = chain
    if work.matmul_flops:
        spread = min(1.0, max(work.matmul_flops * shape.batch / 2 / target.lanes / 16, 1 / target.cores))
        per_step += work.matmul_flops * shape.batch / (target.matmul_flops * spread)
        per_step += target.barrier if work.weight_bytes > target.l1_bytes else 0.0
    return _largest(target.launch, memory, arithmetic, shape.steps * per_step, moved, flops, "T dependent steps")


def scan(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """An associative scan over time segments: on a CPU on other cores, in two passes; on a GPU tile by tile."""
    assert group.monoid is not None
    side_by_side = work.lanes * shape.batch
    step = sum(expr_flops(e, shape) for e in group.monoid.apply)
    merge = sum(expr_flops(e, shape) for e in group.monoid.combine)
    element = sum(shape.elements(c.dims) for c in group.monoid.components) * shape.itemsize
    if target.kind == "cpu":
        segments = max(1, min(target.cores, shape.steps // 64))
        passes, tree, extra = (2.0, 1.0, 0.0) if segments > 1 else (1.0, 1.0, 0.0)
        grown = side_by_side * segments
        chain = shape.steps / segments * passes
    else:
        segments = max(1, shape.steps // 32)
        passes, tree, extra = 1.0, 2.0 + math.log2(32) / 8, element / 32
        grown = side_by_side * min(segments, 1024)
        chain = 2 * math.log2(max(2, shape.steps)) + shape.steps / 1024
    moved = (work.bytes_per_step * passes + extra) * shape.batch * shape.steps
    flops = (work.flops * passes + (merge - step + merge * (tree - 1))) * shape.batch * shape.steps
    flops = max(flops, work.flops * shape.batch * shape.steps)
    used = min(1.0, grown / target.lanes)
    memory = moved / _bandwidth(target, used, grown, shape)
    latency = chain * (target.step_latency + work.chain * target.function_latency)
    setup = target.launch + (2 * target.barrier if segments > 1 else 0.0)
    return _largest(setup, memory, flops / (target.flops * used), latency, moved, flops, "the depth of the scan")


def _bandwidth(target: Target, used: float, lanes: int, shape: Shape) -> float:
    """The bandwidth that `lanes` positions with 16 steps of prefetch reach (Little's law on a GPU, cores on a CPU)."""
    if target.kind == "cpu":
        return target.bandwidth * max(used, 1 / target.cores / 4)
    return target.bandwidth * min(1.0, lanes * 16 * 2 * shape.itemsize / target.latency_bytes)


def _largest(
    setup: float, memory: float, arithmetic: float, depth: float, moved: float, flops: float, deep: str
) -> Estimate:
    named = {"memory traffic": memory, "arithmetic": arithmetic, deep: depth}
    limit = max(named, key=lambda k: named[k])
    return Estimate(setup + named[limit], moved, flops, limit)


def matmul_seconds(flops: float, moved: float, target: Target) -> float:
    """One GEMM over all of batch x T."""
    return target.launch + max(flops / target.matmul_flops, moved / target.bandwidth)


def map_seconds(flops: float, moved: float, target: Target) -> float:
    return target.launch + max(flops / target.flops, moved / target.bandwidth)


def read_elements(exprs: Iterable[Expr], names: set[str], shape: Shape) -> int:
    """Elements of the named values that the expressions read, each counted once."""
    seen: dict[str, int] = {}
    for expr in exprs:
        for node in walk(expr):
            if isinstance(node, Read) and node.name in names:
                seen[node.name] = shape.elements(node.dims)
    return sum(seen.values())
