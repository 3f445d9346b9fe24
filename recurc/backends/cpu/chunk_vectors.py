"""Vectors in chunks of steps in C: the normaliser beside a memory, which has the keys and decays of the memory.

Keys, queries and decays of a chunk lie packed in local arrays already. With these at hand a vector goes through the
steps of the chunk one after another: that takes no more products than its reads by the weights of the chunk would,
saves the sums over those, and needs no second way for what is not finite.
"""

from __future__ import annotations

from recurc.backends.cpu.chunk_arrays import ChunkArrays, Packed
from recurc.ir import Read
from recurc.plan import Chunk


class ChunkVectors(ChunkArrays):
    """The arrays, steps and reads of a chunk's vectors; `text` takes the lines."""

    def _vector_arrays(self) -> None:
        if not self.vectors:
            return
        text, form = self.text, self.form
        for u, _ in enumerate(self.vectors):
            text(f"real vector_{u}[high] ALIGNED;")
        for n, write in enumerate(form.writes):
            (key,) = write.keys
            assert key is not None
            self._vector_operand(Packed(f"line_{n}", key, (), form.rows, "high"))
            for u, part in enumerate(self.vectors):
                value = part.form.writes[n].value
                if isinstance(value, Read):
                    self._vector_operand(Packed(f"given_{u}_{n}", value, (), (), "1"))
        known = {p.source: p.name for p in self.packed if not p.turned and p.name.startswith("query_")}
        self.query_of: dict[Read, str] = {}
        for read in (r for part in self.vectors for r in part.readouts):
            text(f"real seen_{self._seen(read.name)}[STEPS] ALIGNED;")
            name = known.get(read.query)
            if name is None:
                name = known[read.query] = f"query_of_{self._seen(read.name)}"
                self._vector_operand(Packed(name, read.query, (), form.rows, "high"))
            self.query_of[read.query] = name

    def _seen(self, name: str) -> int:
        """The number of a read, among those of all vectors."""
        return [r.name for part in self.vectors for r in part.readouts].index(name)

    def _vector_operand(self, operand: Packed) -> None:
        self.text(f"real {operand.name}[STEPS * {operand.width}] ALIGNED = {{0}};")
        self.packed.append(operand)

    def _walk_vectors(self) -> None:
        """The steps of every vector."""
        text, count = self.text, "high / LANES"
        for u, part in enumerate(self.vectors):
            with text.braces(""):
                text(f"vec held[{count}];", f"memcpy(held, vector_{u}, sizeof held);")
                with text.braces("for (long i = 0; i < count; i++)"):
                    self._reads_of(part, now=False)
                    if self.decays:
                        by = "decay + i * high, 1" if self.along == "rows" else "decay + i, 0"
                        text(f"rc_vector_decayed(held, {by}, {count});")
                    for n, write in enumerate(part.form.writes):
                        times = f"given_{u}_{n}[i]" if isinstance(write.value, Read) else "1"
                        text(f"rc_key_added(held, line_{n} + i * high, {times}, {count});")
                    self._reads_of(part, now=True)
                text(f"memcpy(vector_{u}, held, sizeof held);")

    def _reads_of(self, part: Chunk, now: bool) -> None:
        for read in part.readouts:
            if read.now == now:
                query = f"{self.query_of[read.query]} + i * high"
                self.text(f"seen_{self._seen(read.name)}[i] = rc_along({query}, held, high / LANES);")

    def _copy_vectors(self, which: str) -> None:
        for u, part in enumerate(self.vectors):
            own = {d: f"n{i}" for i, d in enumerate(part.form.rows)}
            if which == "in":  # a decay that is NaN makes NaNs of what fills up a vector
                self.text(f"memset(vector_{u}, 0, sizeof vector_{u});")
            self._copy_state(part.carries[0], f"vector_{u}[{self._counted(part.form.rows, own)}]", own, which)

    def _store_vectors(self) -> None:
        for read in (r for part in self.vectors for r in part.readouts):
            self._store(read, (), f"seen_{self._seen(read.name)}[{{i}}]")
