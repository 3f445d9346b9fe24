"""The cost model: what an expression, a stage and a schedule take, from sizes and a target's numbers.

A time is the largest of three: memory traffic over the bandwidth reached, arithmetic over the rate reached, and T
dependent steps. How much of a machine is reached depends on how many positions can run side by side (lanes): a loop
over T has batch x lanes of them, a scan has those times the time segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recurc.facts import Group, Monoid
from recurc.ir import Apply, Contract, Expr, Linalg, Read, Reduce, walk
from recurc.ops import OPS
from recurc.targets import Target
from recurc.types import Dims, literal_size, own_dim

TYPICAL_ROUNDS = 4  # of Newton's method for cells that forget (ParaRNN: 3 for its gated cells, and one to see it)
_ELIMINATION = 8.0  # rows wait for each other, so an operation takes the time of so many that run side by side
_PLAIN = 0.25  # of the rate of vectors, by sums over small matrices
_REACHED = 0.7  # of the rate of a large product, by the small ones of the chunkwise schedule


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
            case Linalg(op="solve", args=(matrix, right)):  # by elimination, each time it is met
                n = shape.elements(matrix.dims[-1:])
                total += _ELIMINATION * (shape.elements(matrix.dims) * n * 2 / 3 + 2.0 * shape.elements(right.dims) * n)
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
    if group.monoid.multiplies:
        return _products(work, group.monoid, shape, target, segments, passes)
    moved = (work.bytes_per_step * passes + extra) * shape.batch * shape.steps
    flops = (work.flops * passes + (merge - step + merge * (tree - 1))) * shape.batch * shape.steps
    flops = max(flops, work.flops * shape.batch * shape.steps)
    used = min(1.0, grown / target.lanes)
    memory = moved / _bandwidth(target, used, grown, shape)
    latency = chain * (target.step_latency + work.chain * target.function_latency)
    setup = target.launch + (2 * target.barrier if segments > 1 else 0.0)
    return _largest(setup, memory, flops / (target.flops * used), latency, moved, flops, "the depth of the scan")


def _products(work: Work, monoid: Monoid, shape: Shape, target: Target, segments: int, passes: float) -> Estimate:
    """A scan of matrices or tables: an element is made in each pass, d x d values for d of the state, and combining two
    costs d times what applying one to the state does. Nothing but segments and sequences runs side by side."""
    lift, merge, step = (sum(expr_flops(e, shape) for e in es) for es in (monoid.lift, monoid.combine, monoid.apply))
    element = sum(shape.elements(c.dims) for c in monoid.components)
    flops = ((lift + element) * passes + merge + step) * shape.batch * shape.steps
    moved = work.bytes_per_step * passes * shape.batch * shape.steps
    used = min(1.0, shape.batch * segments / target.cores)
    arithmetic = flops / (target.flops * used * _PLAIN)
    memory = moved / (target.bandwidth * max(used, 1 / target.cores / 4))
    chain = shape.steps / segments * passes * target.step_latency
    setup = target.launch + (2 * target.barrier if segments > 1 else 0.0)
    return _largest(setup, memory, arithmetic, chain, moved, flops, "the depth of the scan")


def newton(work: Work, states: int, shape: Shape, target: Target) -> Estimate:
    """Newton's method over time, if it takes `TYPICAL_ROUNDS` rounds: each computes the step and its Jacobian twice, to
    fold elements and to apply them, and moves the guess in and out; in the end the steps run once more, in segments."""
    side_by_side = work.lanes * shape.batch
    merge = 2.0 * states * states * (states + 1) * work.lanes / states
    steps, passes = shape.batch * shape.steps, 2.0 * TYPICAL_ROUNDS + 1
    if target.kind == "cpu":
        segments = max(1, min(target.cores, shape.steps // 64))
        chain = shape.steps / segments
    else:
        segments = max(1, min(shape.steps // 32, 1024))
        chain = 2 * math.log2(max(2, shape.steps)) + shape.steps / 1024
    guess = 3.0 * work.lanes * shape.itemsize * TYPICAL_ROUNDS
    moved = (work.bytes_per_step * passes + guess) * steps
    flops = (2 * work.flops * passes + merge * TYPICAL_ROUNDS) * steps
    used = min(1.0, side_by_side * segments / target.lanes)
    memory = moved / _bandwidth(target, used, side_by_side * segments, shape)
    latency = chain * (passes * target.step_latency + work.chain * target.function_latency)
    setup = target.launch + 3 * TYPICAL_ROUNDS * target.barrier
    return _largest(setup, memory, flops / (target.flops * used), latency, moved, flops, "the depth of the scans")


def convolution(flops: float, elements: float, shape: Shape, target: Target) -> Estimate:
    """Transforms by a library, on one core and in double precision: `flops` per call, and `elements` that enter and
    leave per step and sequence. Without a library the rate is that of a kernel nobody has written."""
    moved = elements * shape.batch * shape.steps * shape.itemsize
    arithmetic, memory = flops / (target.fft_flops or target.flops), moved / target.bandwidth
    setup = target.fft_setup or target.launch
    return _largest(setup, memory, arithmetic, 0.0, moved, flops, "T dependent steps")


def chunkwise(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Products of matrices over chunks of steps, one chunk after another for each sequence and shared place (a head).

    Per step and head: each write adds to the next chunk's state, each probe and read sums over it (2 K V each), and
    pairs of steps of one chunk meet along K and V. Decays by row or column and what puts operands in order are ordinary
    arithmetic. The loop's own
    updates, of which the products take the place, are not counted; what is computed before the chunks is written and
    read once more."""
    form = group.low_rank
    assert form is not None
    cpu = target.kind == "cpu"
    heads, rows, columns = (shape.elements(d) for d in (form.shared, form.rows, form.columns))
    rows, columns = max(rows, 16), max(columns, 16)  # what a tile is filled up to
    probes = sum(w.probe is not None for w in form.writes)
    chunk = 16 if cpu else min(64, max(16, shape.steps))
    products = 2.0 * rows * columns * (len(form.writes) + probes + 1)
    products += chunk * (rows + columns) * len(form.writes) * (probes + 1)
    others = {"none": 0, "rows": 3 * rows * chunk, "columns": 3 * columns * chunk}[form.decay_along]
    others += 10 * (rows + columns)  # operands are put in order
    blocks = 1 if cpu else math.ceil(columns / 64)
    steps, used = shape.batch * heads * shape.steps, min(1.0, shape.batch * heads * blocks / target.cores)
    moved = work.bytes_per_step * shape.batch * shape.steps
    moved += 2.0 * probes * (rows + columns) * shape.itemsize * steps
    rate = target.matmul_flops if cpu or shape.itemsize < 4 else target.flops  # no tensor cores for full f32
    arithmetic = steps * (products / (rate * _REACHED) + others / target.flops) / used
    memory = moved / (target.bandwidth * max(used, 1 / target.cores / 4))
    chain = math.ceil(shape.steps / chunk) * chunk * target.step_latency * (1 if cpu else 8)
    flops = (products + others) * steps
    return _largest(target.launch, memory, arithmetic, chain, moved, flops, "the chunks that follow each other")


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
