"""What the tiles of a `Chunk` stage hold: which rows of its steps are taken together, on how many lines of a step, and
how large the tiles are.

A tile holds the rows of all steps of a chunk, those of one step side by side on lines of their own: line `l` is of step
`l // lines`. Lines of one step never meet in the triangular system. Writes that correct the states are taken together,
one line after another, so that there is one system. Where a power of two or what `tl.dot` takes at least leaves lines
over, they hold zeros."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from recurc import ir
from recurc.backends.triton.kernel import Options, power_of_two
from recurc.backends.triton.values import Context
from recurc.facts import LowRank, Write
from recurc.plan import Chunk
from recurc.types import Dims

LEAST = 16  # places along each axis of `tl.dot`
MOST_ROWS = 256  # of the states
MOST_LINES = 128  # rows of one step
_LINES = 32  # of a chunk, if its steps have several


@dataclass(frozen=True)
class Piece:
    """An operand with a row for every place along `rank`, on the lines of a step from `start` on."""

    expr: ir.Read
    rank: Dims
    start: int = 0


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Rows:
    """Rows that are written, those of one write or of all that correct the states: the keys that differ, each with the
    states it goes into, the probes of each state (nothing: none) and the values."""

    number: int  # of the first write
    lines: int  # of a step
    keys: tuple[tuple[Pieces, tuple[int, ...]], ...]
    probes: tuple[Pieces, ...]
    value: Pieces

    @property
    def corrects(self) -> bool:
        return any(self.probes)


@dataclass(frozen=True)
class Query:
    """What one read of a state takes, after the step if `now`."""

    name: str
    lines: int
    pieces: Pieces
    state: int
    now: bool


@dataclass(frozen=True)
class Tiles:
    """The tiles of a chunk: `steps` of them, `parts` times `block_k` rows of a state and `block_v` columns. With a
    `block_s`, a kernel of its own finds the weights of rows, from so many rows of keys, probes and queries at once, and
    the other reads these where they are needed."""

    steps: int
    block_k: int
    parts: int
    block_s: int
    block_v: int
    warps: int
    rows: tuple[Rows, ...]
    queries: tuple[Query, ...]

    @property
    def corrected(self) -> Rows | None:
        """The rows that depend on what the states hold."""
        return next((r for r in self.rows if r.corrects), None)

    @property
    def lefts(self) -> tuple[Query, ...]:
        """Probes (here those of the first state) and queries: what meets the keys of earlier steps."""
        probe = self.corrected
        return (*(() if probe is None else (Query("probe", probe.lines, probe.probes[0], 0, False),)), *self.queries)


def chunk_problems(stage: Chunk, context: Context) -> list[str]:
    """What of a chunk has no Triton kernel, in words."""
    form, who = stage.form, ", ".join(stage.form.states)
    found: list[str] = []
    most = _most_lines(stage, context)
    if most > MOST_LINES:
        found.append(f"{most:,} rows of {who} in one step by the chunkwise schedule (at most {MOST_LINES})")
    rows = _count(form.rows, context) * len(form.states)
    if rows > MOST_ROWS:
        found.append(f"a chunkwise state of {rows} rows (at most {MOST_ROWS})")
    return found


def tiles_of(stage: Chunk, context: Context, options: Options) -> Tiles:
    """The tiles of a stage that has a kernel: what keeps every value of a chunk in registers, at up to 128 rows."""
    form = stage.form
    along = "constant" if isinstance(form.factors[0][0], ir.Const) else form.decay_along
    rows, columns = (_count(dims, context) for dims in (form.rows, form.columns))
    high = max(power_of_two(rows), LEAST)
    most_lines = power_of_two(_most_lines(stage, context))
    half, several = context.spec.real.itemsize == 2, most_lines > 1
    tall = high * len(form.states)
    wide = half and len(form.writes) == 1 and along in ("none", "constant") and high <= 64 and not several
    wide &= not form.corrects
    tight = several and (tall > 64 or not half)
    most = 64 if wide else 16 if tight or (half and len(form.states) > 1) else 32
    steps = options.block_t or (32 if wide else min(LEAST, max(_LINES // most_lines, 1)))
    # in f32 operands of products take twice the room, and twice again by their high and low parts
    sliced = several or (high > 64 and (form.corrects or along == "rows"))
    sliced |= not half and tall > (32 if form.corrects else 64)
    slice_ = 16 if along == "rows" and not half else 32  # with the products of all levels in registers together
    block_k = min(high, 32 if tight and not half else 64) if sliced else high

    def padded(count: int) -> int:
        return max(power_of_two(count), math.ceil(LEAST / steps))

    groups = [[n] for n, w in enumerate(form.writes) if not w.corrects]
    groups += [[n for n, w in enumerate(form.writes) if w.corrects]] if form.corrects else []
    written = [_rows(form, group, context) for group in sorted(groups)]
    block_v = min(max(power_of_two(columns), LEAST), most)
    return Tiles(
        steps,
        block_k,
        math.ceil(rows / block_k),
        min(block_k, slice_) if sliced else 0,
        block_v,
        8 if several or tall * block_v >= 2048 else 4,
        tuple(replace(r, lines=padded(r.lines)) for r in written),
        tuple(
            Query(f"query_{n}", padded(_count(r.rank, context)), (Piece(r.query, r.rank),), r.state, r.now)
            for n, r in enumerate(stage.readouts)
        ),
    )


def _count(rank: Dims, context: Context) -> int:
    return math.prod(context.size(d) for d in rank)


def _most_lines(stage: Chunk, context: Context) -> int:
    """The most rows of one step that are taken together."""
    writes = stage.form.writes
    corrections = sum(_count(w.rank, context) for w in writes if w.corrects)
    others = (_count(w.rank, context) for w in writes if not w.corrects)
    return max(1, corrections, *others, *(_count(r.rank, context) for r in stage.readouts))


def _rows(form: LowRank, numbers: list[int], context: Context) -> Rows:
    """The writes `numbers`, one after another."""
    starts: list[tuple[Write, int]] = []
    total = 0
    for n in numbers:
        starts.append((form.writes[n], total))
        total += _count(form.writes[n].rank, context)
    states = range(len(form.states))
    keys = [_pieces((w.keys[a], w, s) for w, s in starts) for a in states]
    return Rows(
        numbers[0],
        total,
        tuple((k, tuple(a for a in states if keys[a] == k)) for k in dict.fromkeys(keys) if k),
        tuple(_pieces((w.probes[a], w, s) for w, s in starts) for a in states),
        _pieces((w.value, w, s) for w, s in starts),
    )


def _pieces(operands: Iterable[tuple[ir.Expr | None, Write, int]]) -> Pieces:
    found: list[Piece] = []
    for expr, write, start in operands:
        if expr is not None:
            assert isinstance(expr, ir.Read)
            found.append(Piece(expr, write.rank, start))
    return tuple(found)


__all__ = ["Piece", "Pieces", "Query", "Rows", "Tiles", "chunk_problems", "tiles_of"]
