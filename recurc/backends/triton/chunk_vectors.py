"""A `JointChunk` stage with one matrix: its kernels are those of the matrix, and take vectors with the same keys along.

What weighs the rows of a chunk in a read of the matrix weighs the numbers of a vector as well, so the read of a
normaliser is a sum along that tile, beside the product of the query with the vector before the chunk. Every program of
the columns of a matrix has the vectors; the first one stores what is read of them."""

from __future__ import annotations

from dataclasses import replace

from recurc import ir
from recurc.backends.triton.chunk import ChunkCode
from recurc.backends.triton.chunk_lines import LEAST, Piece, Query
from recurc.backends.triton.kernel import Options, StageText, stored, triton_type
from recurc.backends.triton.values import Context
from recurc.facts import Write
from recurc.plan import Chunk, JointChunk, Readout


def joins(stage: JointChunk) -> bool:
    """Whether its parts have kernels together."""
    return sum(bool(p.form.columns) for p in stage.parts) == 1


def matrix_of(stage: JointChunk) -> Chunk:
    """The part that is a matrix."""
    return next(p for p in stage.parts if p.form.columns)


def emit_joint(context: Context, stage: JointChunk, name: str, options: Options) -> StageText:
    """The stage as one kernel, or as two where what weighs the rows of a chunk is found first."""
    chunks, weights = JointCode(context, stage, options), JointCode(context, stage, options)
    if not weights.tiles.block_s:
        return (chunks.kernel(name),)
    return (*weights.scratch(), weights.weights_kernel(f"{name}_weights"), chunks.kernel(name))


class JointCode(ChunkCode):
    """The kernels of a matrix and its vectors."""

    def __init__(self, context: Context, stage: JointChunk, options: Options) -> None:
        whole = None if options.block_t is None else max(options.block_t, LEAST)  # a step has one line in every tile
        super().__init__(context, matrix_of(stage), replace(options, block_t=whole))
        self.vectors = [p for p in stage.parts if not p.form.columns]
        self.own = len(self.tiles.queries)  # queries of the matrix
        queries = list(self.tiles.queries)
        known = {(q.pieces, q.now): q for q in queries}
        self.reads: list[tuple[int, Readout, Query]] = []
        for u, read in ((u, r) for u, part in enumerate(self.vectors) for r in part.readouts):
            key = ((Piece(read.query, ()),), read.now)
            if key not in known:
                known[key] = Query(f"query_{len(queries)}", 1, key[0], 0, read.now)
                queries.append(known[key])
            self.reads.append((u, read, known[key]))
        self.tiles = replace(self.tiles, queries=tuple(queries))

    @property
    def states(self) -> tuple[str, ...]:
        return (*self.form.states, *(p.form.states[0] for p in self.vectors))

    def _meets_state(self, left: Query) -> bool:
        return self.tiles.queries.index(left) < self.own

    def _vectors_in(self) -> None:
        for u, part in enumerate(self.vectors):
            initial = self.context.plan.buffer(f"{part.carries[0].name}@initial")
            for p in self.parts:
                address = self._address(initial, self._flat(self.form.rows, f"k{p}", ""))
                load = f"tl.load({address}, mask=in_k{p}, other=0).to({triton_type(self.dtype)})"
                self.lines.append(f"vector_{u}{p} = {load}")

    def _meet_vectors(self, part: str) -> None:
        for n, (u, _, query) in enumerate(self.reads):
            for scaled in self._reaching_state(query, 0, part):
                found = f"tl.sum({scaled} * vector_{u}{part}[None, :], 1)"
                self.lines.append(f"seen_{n} {'' if part in ('', '_part_0') else '+'}= {found}")

    def _read_vectors(self) -> None:
        lines = self.lines
        lines.append("# the vectors: sums of the same weights")
        for (u, n), value in self._given().items():
            lines.append(f"given_{u}_{n} = {self._of_steps(value, (), '', 0, 'in_t', 0)}")
        for number, (u, read, query) in enumerate(self.reads):
            for rows in self.tiles.rows:
                weights = f"{query.name}_by_{rows.number}"
                if not self._meets_state(query):
                    self._recall(weights)
                times = f" * given_{u}_{rows.number}[None, :]" if (u, rows.number) in self._given() else ""
                lines.append(f"seen_{number} += tl.sum({weights}{times}, 1)")
            buffer = self.context.plan.buffer(read.name)
            dtype = triton_type(stored(buffer, self.context.spec.real))
            address = self._address(buffer, {}, "t")
            lines.append(f"tl.store({address}, seen_{number}.to({dtype}), mask=in_t & (block_v == 0))")

    def _next_vectors(self, part: str) -> None:
        kept = {"none": "total * ", "rows": f"total{part} * ", "constant": ""}[self.along]
        for u, _ in enumerate(self.vectors):
            self.lines.append(f"vector_{u}{part} = {kept}vector_{u}{part}")
            for rows in self.tiles.rows:
                key = f"keys_{rows.number}{part}"
                if self.along == "rows":
                    key = f"{key} * after{part}"
                elif self.along == "none":
                    key = f"{key} * after[:, None]"
                times = f" * given_{u}_{rows.number}[:, None]" if (u, rows.number) in self._given() else ""
                self.lines.append(f"vector_{u}{part} += tl.sum({key}{times}, 0)")

    def _vectors_out(self) -> None:
        for u, part in enumerate(self.vectors):
            final = f"{part.carries[0].name}@final"
            if self.context.plan.has(final):
                for p in self.parts:
                    address = self._address(self.context.plan.buffer(final), self._flat(self.form.rows, f"k{p}", ""))
                    self.lines.append(f"tl.store({address}, vector_{u}{p}, mask=in_k{p} & (block_v == 0))")

    def _given(self) -> dict[tuple[int, int], ir.Read]:
        """The numbers beside keys, by vector and write; where there is none, the keys stand alone."""
        writes: list[tuple[int, int, Write]] = [
            (u, n, w) for u, part in enumerate(self.vectors) for n, w in enumerate(part.form.writes)
        ]
        return {(u, n): w.value for u, n, w in writes if isinstance(w.value, ir.Read)}
