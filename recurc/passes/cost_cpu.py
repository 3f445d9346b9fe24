"""What a schedule of a group takes on a CPU.

A core computes one vector of a row of states at a time; what has no place along the row has nothing beside it, and is
computed one number at a time, again for every vector that goes through time by itself. Sequences and vectors of a row
are shared out between threads, of which a call wakes as many as it has work for."""

from __future__ import annotations

import math

from recurc.facts import Group, LowRank
from recurc.passes.cost import Estimate, Shape, largest, typical_rounds
from recurc.passes.work import FrozenWork, Work, rows_of
from recurc.targets import CHUNK_STEPS, WORTH_A_THREAD, Target

_SEGMENTS = 2  # of a scan, for each thread
_PLAIN = 0.25  # of the rate of vectors, by sums over small matrices and by tables
_ROW_BY_ROW = 4.0  # a product of one row keeps so much less of a core busy than a tile of rows


def sequential(work: Work, shape: Shape, target: Target) -> Estimate:
    """A fused loop over T: the state stays close, every input is read once."""
    steps = shape.batch * shape.steps
    flops, moved = (work.flops + work.matmul_flops) * steps, work.bytes_per_step * steps
    used = _busy(shape.batch * _parts(work, shape, target), _threads(flops, target))
    products = _seconds(work.matmul_flops, 0.0, work, shape, target)
    arithmetic = steps * (_run(work, shape, target) + 2 * products) / used
    latency = steps * _latency(work, shape, target) / used
    setup = _setup(flops, 1, target) if work.alone else 0.0
    return largest(
        setup, _memory(moved, used, target), arithmetic, latency, moved, flops, shape.steps, "T dependent steps"
    )


def scan(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Two passes over segments of time: all but the last of each sequence fold to one element, states are carried over
    the segments, then every segment runs as the loop does. Beside other scans, those whose values the elements need run
    once more before these fold."""
    assert group.monoid is not None
    steps = shape.batch * shape.steps
    threads = _threads((work.flops + work.fold) * steps, target)
    segments = min(max(2, math.ceil(_SEGMENTS * threads / shape.batch)), max(shape.steps, 1))
    part = (segments - 1) / segments
    used = _busy(shape.batch * segments * _parts(work, shape, target), threads)
    flops = (work.flops + part * (work.fold + work.again)) * steps
    moved = (work.bytes_per_step * (1 + part) + part * work.bytes_again) * steps
    fold = _seconds(work.fold, work.fold_single, work, shape, target) / (_PLAIN if group.monoid.multiplies else 1.0)
    fold += _seconds(work.again, 0.0, work, shape, target)
    arithmetic = steps * (_run(work, shape, target) + part * fold) / used
    latency = steps * (1 + part) * _latency(work, shape, target) / used
    depth = math.ceil(shape.steps / segments) * 2 + segments
    setup = _setup(flops, 4, target) if work.alone else 0.0
    deep = "the depth of the scan"
    return largest(setup, _memory(moved, used, target), arithmetic, latency, moved, flops, depth, deep)


def newton(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Newton's method over time, if it takes `typical_rounds`: each computes the step and its Jacobian twice, to
    fold elements and to apply them, and moves the guess in and out; in the end the steps run once more, in segments.
    Products with recurrent weights run as often, as plain sums."""
    rounds, states = typical_rounds(group.cls), len(group.states)
    merge = 2.0 * states * (states + 1) * work.lanes
    steps, passes = shape.batch * shape.steps, 2.0 * rounds + 1
    moved = (work.bytes_per_step * passes + 3.0 * work.lanes * shape.itemsize * rounds) * steps
    flops = ((2 * work.flops + work.matmul_flops) * passes + merge * rounds) * steps
    threads = _threads(flops, target)
    segments = max(1, min(_SEGMENTS * threads, shape.steps))
    used = _busy(shape.batch * segments, threads)
    one = _seconds(2 * work.flops, 2 * work.single, work, shape, target) * passes
    one += work.matmul_flops / (target.flops / target.cores) * passes
    arithmetic = steps * (one + _seconds(merge, 0.0, work, shape, target) * rounds) / used
    latency = steps * passes * _latency(work, shape, target) / used
    setup, depth = _setup(flops, 3 * rounds, target), math.ceil(shape.steps / segments * passes)
    deep = "the depth of the scans"
    return largest(setup, _memory(moved, used, target), arithmetic, latency, moved, flops, depth, deep)


def chunkwise(work: Work, group: Group, shape: Shape, target: Target) -> Estimate:
    """Products of matrices over chunks of steps, one chunk after another for each sequence and shared place (a head),
    of which each goes to one thread. The columns are filled up to whole vectors. Of one chunk:

    each probe and read sums over the states it sees and meets each write's keys; each read takes its weights of the
    written rows; rows with a probe are found one after another; each write adds to the states, which decay. Decays of
    each row or column go through the pairs of steps. What is not alone finds pairs and keys at hand."""
    form = group.low_rank
    assert form is not None
    if not form.columns:
        return _column(work, form, shape, target)
    heads, rows, columns = (shape.elements(d) for d in (form.shared, form.rows, form.columns))
    wide = math.ceil(columns / _vector(shape, target)) * _vector(shape, target)
    found, reads = rows_of(form, shape), 1
    writes, probes = found.writes, found.probes
    left, states = probes + reads, len(form.states)
    tiles = (
        2.0 * CHUNK_STEPS * rows * wide * (found.out_of + reads * found.seen + found.into)
        + 2.0 * CHUNK_STEPS**2 * wide * writes * reads
    )
    one_row = 1.0 * CHUNK_STEPS**2 * wide * writes * probes
    pairs = 2.0 * CHUNK_STEPS**2 * rows * writes * left
    decays = {
        "none": 1.0 * rows * wide * states,
        "rows": 3.0 * CHUNK_STEPS**2 * rows * writes,
        "columns": 1.5 * CHUNK_STEPS**2 * wide,
    }
    if form.decay_along == "rows":  # the keys decay as the steps pass, and meet one row at a time
        one_row += pairs / 2
    else:
        tiles += pairs
    turned = CHUNK_STEPS * rows * writes
    if not work.alone:
        tiles -= 0.0 if form.decay_along == "rows" else pairs
        turned, one_row, left = 0, 0.0, 0
    chunks = shape.batch * heads * math.ceil(shape.steps / CHUNK_STEPS)
    core, products = target.flops / target.cores, target.matmul_flops / target.cores
    products /= 1.0 if 8 * rows * wide * states <= target.l1_bytes else 1.5
    each = (tiles + _ROW_BY_ROW * one_row) / products + decays[form.decay_along] / core
    each += turned / target.single_flops + CHUNK_STEPS * (rows * left + wide * (writes + reads)) / core
    each += 100 * target.step_latency
    flops = chunks * (tiles + one_row + decays[form.decay_along]) + work.outside * shape.batch * shape.steps
    threads = _threads(flops, target)
    moved = work.bytes_per_step * shape.batch * shape.steps
    moved += 2.0 * (rows * left + columns * (writes + reads)) * shape.itemsize * shape.batch * heads * shape.steps
    arithmetic = chunks * each / _busy(shape.batch * heads, threads)
    arithmetic += work.outside * shape.batch * shape.steps / core / threads
    setup, depth = _setup(flops, 2, target) if work.alone else 0.0, math.ceil(shape.steps / CHUNK_STEPS)
    deep = "the chunks that follow each other"
    return largest(setup, _memory(moved, threads, target), arithmetic, 0.0, moved, flops, depth, deep)


def _column(work: Work, form: LowRank, shape: Shape, target: Target) -> Estimate:
    """The same of a vector, which goes through the packed steps of a chunk one after another: it takes in its keys, and
    each read is a sum along its rows."""
    heads, rows = (shape.elements(d) for d in (form.shared, form.rows))
    steps = shape.batch * heads * shape.steps
    products = 2.0 * rows * (1 + len(form.writes)) * steps
    flops = products + work.outside * shape.batch * shape.steps
    threads, core = _threads(flops, target), target.flops / target.cores
    arithmetic = (products / core + steps * target.step_latency) / _busy(shape.batch * heads, threads)
    arithmetic += work.outside * shape.batch * shape.steps / core / threads
    moved = work.bytes_per_step * shape.batch * shape.steps
    setup, deep = _setup(flops, 2, target) if work.alone else 0.0, "the chunks that follow each other"
    depth = math.ceil(shape.steps / CHUNK_STEPS)
    return largest(setup, _memory(moved, threads, target), arithmetic, 0.0, moved, flops, depth, deep)


def frozen(work: Work, spares: FrozenWork, shape: Shape, target: Target) -> Estimate:
    """A loop over chunks with frozen states, each sequence by one core; otherwise like `sequential`. Functions that
    need no state are computed outside of the loop."""
    steps, rows = shape.batch * shape.steps, min(spares.chunk, max(shape.steps, 1))
    total = work.flops + work.matmul_flops - spares.spared
    flops, moved = total * steps, work.bytes_per_step * steps
    used = _busy(shape.batch, _threads(flops, target))
    rest = max(total - spares.known, 0.0)
    products = spares.known / (target.matmul_flops / target.cores * min(1.0, rows / 4))  # a tile has four rows
    arithmetic = steps * (_seconds(rest, min(work.single, rest), work, shape, target) + products) / used
    latency = steps * (target.step_latency + work.chain * target.function_latency / rows) / used
    setup, deep = _setup(flops, 1, target), "T dependent steps"
    return largest(setup, _memory(moved, used, target), arithmetic, latency, moved, flops, shape.steps, deep)


def _vector(shape: Shape, target: Target) -> int:
    """Numbers in a vector; half precision is computed in f32."""
    return max(1, target.simd_bytes // max(4, shape.itemsize))


def _vectors(work: Work, shape: Shape, target: Target) -> int:
    return math.ceil(work.row / _vector(shape, target))


def _parts(work: Work, shape: Shape, target: Target) -> int:
    """Of a row, how many threads can take one each."""
    return _vectors(work, shape, target) if work.apart else 1


def _alone(work: Work) -> bool:
    """Whether each vector of a row goes through time by itself, because a step of all of them does not stay close."""
    return work.apart and work.lanes > work.row


def _seconds(flops: float, single: float, work: Work, shape: Shape, target: Target) -> float:
    """One step of one sequence on one core: `single` of the operations one number at a time, the others in vectors."""
    if work.row == 1:
        return flops / target.single_flops
    vectors = _vectors(work, shape, target)
    filled = vectors * _vector(shape, target) / work.row
    return (flops - single) * filled / (target.flops / target.cores) + single * (
        vectors if _alone(work) else 1
    ) / target.single_flops


def _run(work: Work, shape: Shape, target: Target) -> float:
    """One step of one sequence on one core, as a loop runs it."""
    plain = _seconds(work.flops - work.dense, work.single, work, shape, target)
    return plain + work.dense / (target.flops / target.cores)


def _latency(work: Work, shape: Shape, target: Target) -> float:
    """What a step waits for the one before. Sums over other dims than the row stay in their lanes."""
    vectors = _vectors(work, shape, target) if _alone(work) else 1
    sums = 0 if work.apart else work.sums
    return vectors * (target.step_latency + work.chain * target.function_latency + sums * target.sum_latency)


def _threads(flops: float, target: Target) -> int:
    return max(1, min(target.cores, int(flops) // WORTH_A_THREAD))


def _busy(items: int, threads: int) -> float:
    """How many threads work on average while `items` equal pieces are done."""
    return items / math.ceil(items / threads)


def _setup(flops: float, barriers: int, target: Target) -> float:
    return target.launch + (barriers * target.barrier if _threads(flops, target) > 1 else 0.0)


def _memory(moved: float, used: float, target: Target) -> float:
    """Cores fetch from their caches side by side; from memory all of them share the bandwidth."""
    near = target.core_bandwidth * used
    return moved / (near if moved <= target.l3_bytes else min(near, target.bandwidth))
