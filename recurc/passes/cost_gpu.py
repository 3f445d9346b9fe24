"""What a schedule of a group takes on a GPU."""

from __future__ import annotations

import math

from recurc.facts import Group, LowRank, Monoid
from recurc.passes.cost import Estimate, Shape, expr_flops, largest, typical_rounds
from recurc.passes.work import FrozenWork, Work, rows_of
from recurc.targets import Target
from recurc.types import own_dim

_REACHED = 0.7  # of the rate of a large product, by the small ones of the chunkwise schedule
_LINES = 32  # rows of a chunk whose steps have several
_TILE = 32  # steps that a scan takes at once, side by side
_PER_CHUNK = 4  # kernels of a chunk with frozen states: a product, a map, the loop, a map
_LOOP_TILE = 256  # elements of a program that goes step by step, where it may have several lanes
_PROGRAMS = 2  # of a scan of matrices, for each SM: as many segments as that takes
_SHORTEST = 64  # steps of such a segment


def sequential(work: Work, shape: Shape, target: Target) -> Estimate:
    """A fused loop over T: the state stays close, every input is read once."""
    side_by_side = work.lanes * shape.batch
    moved = work.bytes_per_step * shape.batch * shape.steps
    flops = (work.flops + work.matmul_flops) * shape.batch * shape.steps
    used = min(1.0, side_by_side / target.lanes)
    memory = moved / _bandwidth(target, side_by_side, shape)
    arithmetic = work.flops * shape.batch * shape.steps / (target.flops * used)
    per_step = target.step_latency + work.chain * target.function_latency + work.sums * target.sum_latency
    if work.matmul_flops:
        spread = min(1.0, max(work.matmul_flops * shape.batch / 2 / target.lanes / 16, 1 / target.cores))
        per_step += work.matmul_flops * shape.batch / (target.matmul_flops * spread)
        per_step += target.barrier if work.weight_bytes > target.l1_bytes else 0.0
    latency = shape.steps * per_step
    return largest(
        target.launch if work.alone else 0.0,
        memory,
        arithmetic,
        latency,
        moved,
        flops,
        shape.steps,
        "T dependent steps",
    )


def scan(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """An associative scan over time, tile by tile. Where sequences and lanes do not fill the device, segments of time
    do: then every segment folds to one element first, behind the scans that run with it and that it needs."""
    assert group.monoid is not None
    if group.monoid.multiplies:
        return _matrices(work, group.monoid, shape, target)
    merge = sum(expr_flops(e, shape) for e in group.monoid.combine)
    element = sum(shape.elements(c.dims) for c in group.monoid.components) * shape.itemsize
    split = work.lanes * shape.batch < target.lanes and _segments(shape) > 1
    grown = work.lanes * shape.batch * _segments(shape)
    chain = _depth(shape)
    steps = shape.batch * shape.steps
    moved = (work.bytes_per_step * (2 if split else 1) + element / _TILE + (work.bytes_again if split else 0.0)) * steps
    flops = work.flops + merge * (1 + math.log2(_TILE) / 8) + (work.fold + work.again if split else 0.0)
    flops *= steps
    memory = moved / _bandwidth(target, grown, shape)
    arithmetic = flops / (target.flops * min(1.0, grown / target.lanes))
    tiles = math.ceil(shape.steps / _segments(shape) / _TILE)
    latency = chain * (target.step_latency + work.chain * target.function_latency)
    latency += tiles * work.sums * target.sum_latency
    setup = (target.launch if work.alone else 0.0) + (2 * target.barrier if split else 0.0)
    return largest(setup, memory, arithmetic, latency, moved, flops, math.ceil(chain), "the depth of the scan")


def _matrices(work: Work, monoid: Monoid, shape: Shape, target: Target) -> Estimate:
    """A scan of matrices or tables: every segment of time folds to one element, the states walk over these, and every
    segment runs as the loop does. A program has a segment of one sequence, with as many places along the dims that do
    not mix as fit, and some columns."""
    first = monoid.components[0]
    columns = tuple(d for d in first.dims if own_dim(d) != d)
    rows = {own_dim(d) for d in columns}
    width = shape.elements(columns)
    apart = shape.elements(tuple(d for d in first.dims if d not in columns and d not in rows))
    beside = math.ceil(apart / max(1, _LOOP_TILE // width**2))
    programs = max(1, shape.batch * beside)
    segments = max(1, min(_PROGRAMS * target.cores // programs, shape.steps // _SHORTEST))
    steps, grown = shape.batch * shape.steps, work.lanes * shape.batch * segments
    element = sum(shape.elements(c.dims) for c in monoid.components) * shape.itemsize
    moved = 2 * work.bytes_per_step * steps + 2.0 * element * segments * shape.batch
    flops = (work.flops + work.matmul_flops + work.fold) * steps
    memory = moved / _bandwidth(target, grown, shape)
    arithmetic = flops / (target.flops * min(1.0, grown * width / target.lanes))
    depth = 2 * math.ceil(shape.steps / segments) + segments
    per_step = target.step_latency + work.chain * target.function_latency + work.sums * target.sum_latency
    setup, deep = target.launch + 2 * target.barrier, "the segments that follow each other"
    return largest(setup, memory, arithmetic, depth * per_step, moved, flops, depth, deep)


def frozen(work: Work, spares: FrozenWork, shape: Shape, target: Target) -> Estimate:
    """Chunks with frozen states, one after another: a few kernels for each, products with what is frozen as those of a
    matrix."""
    steps, rows = shape.batch * shape.steps, min(spares.chunk, max(shape.steps, 1))
    total = work.flops + work.matmul_flops - spares.spared
    moved, used = work.bytes_per_step * steps, min(1.0, work.lanes * shape.batch / target.lanes)
    memory = moved / _bandwidth(target, work.lanes * shape.batch, shape)
    arithmetic = max(total - spares.known, 0.0) * steps / (target.flops * used)
    arithmetic += spares.known * steps / (target.matmul_flops * _REACHED * used)
    chunks = math.ceil(shape.steps / spares.chunk)
    latency = shape.steps * (target.step_latency + work.chain * target.function_latency / rows)
    latency += chunks * _PER_CHUNK * target.launch
    deep = "the chunks that follow each other"
    return largest(target.launch, memory, arithmetic, latency, moved, total * steps, shape.steps, deep)


def newton(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Newton's method over time, if it takes `typical_rounds`: each computes the step and its Jacobian twice, to
    fold elements and to apply them, and moves the guess in and out; in the end the steps run once more, in segments.
    Products with recurrent weights are products of matrices over all steps, once in each round and once at the end."""
    rounds, states = typical_rounds(group.cls), len(group.states)
    merge = 2.0 * states * (states + 1) * work.lanes
    steps, passes = shape.batch * shape.steps, 2.0 * rounds + 1
    chain = _depth(shape)
    guess = 3.0 * work.lanes * shape.itemsize * rounds
    moved = (work.bytes_per_step * passes + guess) * steps
    products = work.matmul_flops * (rounds + 1) * steps
    plain = (2 * work.flops * passes + merge * rounds) * steps
    grown = work.lanes * shape.batch * _segments(shape)
    memory = moved / _bandwidth(target, grown, shape)
    arithmetic = plain / (target.flops * min(1.0, grown / target.lanes)) + products / target.matmul_flops
    latency = chain * (passes * target.step_latency + work.chain * target.function_latency)
    setup = target.launch + 3 * rounds * target.barrier
    depth = math.ceil(chain * passes)
    flops = plain + products
    return largest(setup, memory, arithmetic, latency, moved, flops, depth, "the depth of the scans")


def chunkwise(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Products of matrices over chunks of steps, one chunk after another for each sequence and shared place (a head).

    Per step and head: each row that is written adds to the next chunk's states, each probe and read sums over those
    it sees (2 K V each), and pairs of rows of one chunk meet along K and V. Decays by row or column and what puts
    operands in order are ordinary arithmetic, and so is what is computed before and after; that is written and read
    once more."""
    form = group.low_rank
    assert form is not None
    if not form.columns and not work.alone:
        return _column(work, form, shape, target)
    heads, rows, columns = (shape.elements(d) for d in (form.shared, form.rows, form.columns))
    rows, columns = max(rows, 16), max(columns, 16)  # what a tile is filled up to
    found = rows_of(form, shape)
    several = max(found.probes, *(shape.elements(w.rank) for w in form.writes))
    chunk = min(64, max(16, shape.steps)) if several == 1 else max(_LINES // several, 1)
    products = 2.0 * rows * columns * (found.into + found.out_of + found.seen)
    products += chunk * (rows + columns) * found.writes * (found.probes + 1)
    others = {"none": 0, "rows": 3 * rows * chunk, "columns": 3 * columns * chunk}[form.decay_along]
    others += 10 * (rows + columns) * found.writes / len(form.writes)  # operands are put in order
    steps, places = shape.batch * heads * shape.steps, shape.batch * heads * math.ceil(columns / 64)
    used = min(1.0, places / target.cores)
    moved = work.bytes_per_step * shape.batch * shape.steps
    moved += 2.0 * found.probes * (rows + columns) * shape.itemsize * steps
    rate = target.matmul_flops if shape.itemsize < 4 else target.flops  # no tensor cores for full f32
    arithmetic = steps * (products / (rate * _REACHED) + others / target.flops) / used
    arithmetic += work.outside * shape.batch * shape.steps / target.flops
    memory = moved / (target.bandwidth * min(1.0, 4 * used))  # one SM reaches a few times its share
    chain = math.ceil(shape.steps / chunk) * chunk * target.step_latency * 8
    flops = (products + others) * steps + work.outside * shape.batch * shape.steps
    depth = math.ceil(shape.steps / chunk)
    return largest(target.launch, memory, arithmetic, chain, moved, flops, depth, "the chunks that follow each other")


def _column(work: Work, form: LowRank, shape: Shape, target: Target) -> Estimate:
    """A vector beside a matrix with the same keys: sums of tiles that the matrix has in registers."""
    heads, rows = (shape.elements(d) for d in (form.shared, form.rows))
    chunk, steps = min(64, max(16, shape.steps)), shape.batch * heads * shape.steps
    flops = (2.0 * rows * (1 + len(form.writes)) + chunk * len(form.writes)) * steps
    used = min(1.0, shape.batch * heads / target.cores)
    moved = work.bytes_per_step * shape.batch * shape.steps
    memory = moved / (target.bandwidth * min(1.0, 4 * used))
    depth = math.ceil(shape.steps / chunk)
    return largest(
        0.0, memory, flops / (target.flops * used), 0.0, moved, flops, depth, "the chunks that follow each other"
    )


def _segments(shape: Shape) -> int:
    return max(1, min(shape.steps // _TILE, 1024))


def _depth(shape: Shape) -> float:
    """Levels of a tree over tiles, and waves of tiles that the device cannot hold at once."""
    return 2 * math.log2(max(2, shape.steps)) + shape.steps / 1024


def _bandwidth(target: Target, lanes: int, shape: Shape) -> float:
    """The bandwidth that `lanes` positions with 16 steps of prefetch reach (Little's law)."""
    return target.bandwidth * min(1.0, lanes * 16 * 2 * shape.itemsize / target.latency_bytes)
