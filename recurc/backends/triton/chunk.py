"""The kernels of a `Chunk` stage: one program takes a sequence, a shared place (a head) and some columns of its state
through all chunks of steps, by `tl.dot`.

Products of decays between two steps of a chunk are taken by levels: for h = 1, 2, 4, ... the pairs whose later step
lies in the second half of a block of 2 h steps and whose earlier one lies in the first meet at the middle of that
block, and each side multiplies the decays up to there. Every pair belongs to one level, nothing is divided, and each
level is one product of matrices. The triangular system of a delta rule is inverted by the same levels: with T the
inverse on blocks of h steps and L what lies below them, T + T L T is the inverse on blocks of 2 h.

A step that writes or reads several rows has as many lines in a tile (`chunk_lines`). Decays and masks are those of
steps; names of what has n lines for each step end in `_n`.

Where keys and queries are read in slices of rows, what weighs the rows of a chunk against each other has a kernel of
its own: it needs no state, so a program takes one chunk. The kernel that takes the states through the chunks then finds
the weights, and the inverse of the system, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from recurc.backends.triton.chunk_lines import Query, Rows
from recurc.backends.triton.chunk_tiles import ChunkTiles
from recurc.backends.triton.kernel import ALL_REGISTERS, KernelText, Scratch, pointer_type, stored, triton_type
from recurc.backends.triton.lanes import finish


class ChunkCode(ChunkTiles):
    """The kernels of one state."""

    def kernel(self, name: str) -> KernelText:
        """All chunks of a sequence, one after another."""
        lines, tiles = self.lines, self.tiles
        blocks = math.ceil(self.wide / tiles.block_v)
        lines += ["pid = tl.program_id(0)", f"block_v = pid % {blocks}", f"pid = pid // {blocks}"]
        if tiles.block_s:
            lines.append("chunk = pid.to(tl.int64) * tl.cdiv(steps, BLOCK_T)  # the first of its own, among all")
        self._begin("T", "K", "V")
        for n, p in enumerate(self.parts):
            first = f"{n} * BLOCK_K + " if n else ""
            lines.append(f"k{p} = {first}tl.arange(0, BLOCK_K)  # rows of the state")
        lines.append("v = block_v * BLOCK_V + tl.arange(0, BLOCK_V)  # columns")
        lines += [f"in_k{p} = k{p} < {self.high}" for p in self.parts]
        lines.append(f"in_v = v < {self.wide}")
        for a, carry in enumerate(self.stage.carries):
            initial = self.context.plan.buffer(f"{carry.name}@initial")
            lines += [f"{self.state(a)}{p} = {self._state_load(initial, p)}" for p in self.parts]
        self._vectors_in()
        # Else addresses and masks of all loads are held in registers through the loop: f32 operands leave no room.
        held = "" if self.context.spec.real.itemsize == 2 else ", disable_licm=True"
        lines.append(f"for t0 in tl.range(0, steps, BLOCK_T{held}):")
        outside, self.lines = self.lines, []
        self._steps_of_chunk()
        if not tiles.block_s or self.along == "columns":
            self._pairs_of_steps()
        self._operands_of_chunk()
        self._decays_of_chunk()
        self._products()
        self.lines += ["chunk += 1"] if tiles.block_s else []
        outside += ["    " + line for line in self.lines]
        self.lines = outside
        for a, carry in enumerate(self.stage.carries):
            final = f"{carry.name}@final"
            if self.context.plan.has(final):
                for p in self.parts:
                    target = self._state_pointer(self.context.plan.buffer(final), p)
                    self.lines.append(f"tl.store({target}, {self.state(a)}{p}, mask=in_k{p}[:, None] & in_v[None, :])")
        self._vectors_out()
        about = (
            f"{', '.join(self.states)} through chunks of steps, each a few products of matrices.",
            "An infinity or NaN reaches other steps of its chunk, also earlier ones.",
        )
        return self._finished(name, about, f"(batch * {self.heads * blocks},)", tiles.warps)

    def weights_kernel(self, name: str) -> KernelText:
        """What weighs the rows of one chunk."""
        self.lines += [
            "pid = tl.program_id(0)",
            "chunk = pid.to(tl.int64)  # among all",
            "t0 = pid % tl.cdiv(steps, BLOCK_T) * BLOCK_T",
            "pid = pid // tl.cdiv(steps, BLOCK_T)",
        ]
        self._begin("T", "S")
        self._steps_of_chunk()
        self._pairs_of_steps()
        self._decays_between_steps()
        self._weights()
        if self._inverted is not None:
            self._invert(self._inverted)
        for value in self._stored():
            self.lines.append(f"tl.store({self._weights_pointer(value)}, {value})")
        about = (f"The weights of the rows of each chunk of {', '.join(self.form.states)} in what is read from it.",)
        return self._finished(name, about, f"(batch * {self.heads} * {self._chunks},)", warps=4)

    def _finished(self, name: str, about: tuple[str, ...], grid: str, warps: int) -> KernelText:
        body = ["    " + line for line in self.lines]
        made = finish(self, name, "chunk", about, body, grid, warps)
        return replace(made, num_stages=1, registers=ALL_REGISTERS)

    @property
    def _chunks(self) -> str:
        return f"triton.cdiv(steps, {self.tiles.steps})"

    def helpers(self) -> str:
        """Functions that the kernels of the stage call."""
        return ""

    def _operands_of_chunk(self) -> None:
        for rows in self.tiles.rows:
            if rows.value:
                value = self._tile(rows.value, self.form.columns, rows.lines)
                self.lines.append(f"rows_{rows.number} = {value}")
        if not self.tiles.block_s:
            self._loads_along_rows()

    def _decays_of_chunk(self) -> None:
        if self.along == "constant":
            return
        self.lines.append("# the decays of each step, of the one before and of the one after")
        if not (self.tiles.block_s and self.along == "rows"):
            self._decays()

    def _decays_between_steps(self) -> None:
        """What weights need of the decays, before they meet the keys."""
        if self.along == "none":
            if self.tiles.block_s:
                self._decays(products=False)
            self.lines.append("# decays between two steps, by levels: each pair meets in the middle of a block")
            self._decays_between()

    # --- vectors beside the state, in the stages that have some (`chunk_vectors`) ------------------------------------

    @property
    def states(self) -> tuple[str, ...]:
        return self.form.states

    def _meets_state(self, left: Query) -> bool:
        """Whether a left side is one of the matrix."""
        return True

    def _vectors_in(self) -> None:
        """Their values before the first step."""

    def _meet_vectors(self, part: str) -> None:
        """What queries find in a part of them at the beginning of the chunk."""

    def _read_vectors(self) -> None:
        """What earlier rows of the chunk add to that, and where it goes."""

    def _next_vectors(self, part: str) -> None:
        """A part of them after the chunk."""

    def _vectors_out(self) -> None:
        """Their values after the last step."""

    # --- weights in memory ------------------------------------------------------------------------------------------

    def _stored(self) -> dict[str, tuple[int, ...]]:
        """What is found first, by name, each with the lines of a step along its axes: the weights, of left sides by
        rows, where the inverse of a system stands for its own."""
        found = {f"{q.name}_by_{r.number}": (q.lines, r.lines) for q in self.tiles.lefts for r in self.tiles.rows}
        if self._inverted is None:
            return found
        own = f"probe_by_{self._inverted.number}"
        return {"inverse" if name == own else name: axes for name, axes in found.items()}

    @property
    def _inverted(self) -> Rows | None:
        """The rows whose system is solved by its inverse: those with one line, in chunks of several steps."""
        rows = self.tiles.corrected
        return rows if rows is not None and rows.lines == 1 and self._halves() else None

    def scratch(self) -> list[Scratch]:
        """The weights of all chunks of all sequences."""
        chunks, steps = f"batch * {self.heads} * {self._chunks}", self.tiles.steps
        return [
            Scratch(self._tensor(name), f"({', '.join([chunks, *(str(steps * n) for n in axes)])})", self.dtype)
            for name, axes in self._stored().items()
        ]

    def _tensor(self, name: str) -> str:
        return self.context.scope(("weights", id(self.stage), name), f"{self.form.states[0]}_{name}")

    def _weights_pointer(self, name: str) -> str:
        tensor = self._tensor(name)
        base = self.argument(f"{tensor}_ptr", pointer_type(self.dtype), tensor)
        high, *wide = (self._extent(n) for n in self._stored()[name])
        place = f"tl.arange(0, {high})"
        for extent in wide:
            place = f"{place}[:, None] * ({extent}) + tl.arange(0, {extent})[None, :]"
        return f"{base} + chunk * ({' * '.join([high, *wide])}) + {place}"

    def _recall(self, name: str) -> None:
        """A load of weights where they are needed, if they are in memory."""
        if self.tiles.block_s:
            self.lines.append(f"{name} = tl.load({self._weights_pointer(name)})")

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _products(self) -> None:
        if not self.tiles.block_s:
            self._decays_between_steps()
            self._weights()
        self._meet_states()
        for n, read in enumerate(self.stage.readouts):
            self._read_out(n, read.name)
        self._read_vectors()
        self._next_state()

    def _meet_states(self) -> None:
        """What the states hold, and the rows that depend on it."""
        corrected, lefts = self.tiles.corrected, self.tiles.lefts
        # Through a system solved step after step what is read would be held; operands of half precision take less.
        apart = corrected is not None and corrected.lines > 1 and self.context.spec.real.itemsize == 2
        self._from_states(lefts[:1] if apart else lefts)
        if corrected is not None:
            self._system(corrected)
        if apart:
            self._from_states(lefts[1:])

    def _next_state(self) -> None:
        self.lines.append("# the state after the chunk")
        kept = {"none": "total * ", "rows": "total{p}[:, None] * ", "columns": "total[None, :] * ", "constant": ""}
        for p in self._each_part():
            if self.tiles.block_s and self.along == "rows":
                self._decays(earlier=False)
            self.lines.append(f"state{p} = {kept[self.along].format(p=p)}state{p}")
            for rows in self.tiles.rows:
                key, row, after = f"keys_{rows.number}{p}", f"rows_{rows.number}", self._of("after", rows.lines)
                if self.tiles.block_s:
                    self._operand(f"keys_{rows.number}", rows.keys[0][0], rows.lines)
                if self.along == "columns":
                    row = f"{row} * {after}"
                elif self.along == "rows":
                    key = f"{key} * {self._of('after', rows.lines, p)}"
                elif self.along == "none":
                    key = f"{key} * {after}[:, None]"
                self.lines.append(f"state{p} += {self._dot(f'tl.trans({key})', row)}")
            self._next_vectors(p)

    def _weights(self) -> None:
        """What each earlier row of the chunk counts for in each probe and read: `LEFT_by_N`."""
        lines, pairs = self.lines, [(left, rows) for left in self.tiles.lefts for rows in self.tiles.rows]
        if self.along == "rows":
            lines.append("# decays between two steps, by levels: each pair meets in the middle of a block")
            self._weights_by_rows(pairs)
            return
        if self.tiles.block_s:
            self._raw_weights(pairs)
        for left, rows in pairs:
            n, at, name = rows.number, (left.lines, rows.lines), f"{left.name}_by_{rows.number}"
            lower, same, between = (self._met(word, *at) for word in ("lower", "same", "pairs"))
            raw = name if self.tiles.block_s else "raw"
            if not self.tiles.block_s:
                lines.append(f"raw = {self._sum_over_rows(f'{left.name}{{p}}', f'tl.trans(keys_{n}{{p}})')}")
            if self.along == "columns":
                lines += [] if raw == name else [f"{name} = raw"]
                continue
            between = f"{raw} * {between}" if self.along == "none" else raw
            if left.now:
                by = f"{self._of('decay', left.lines)}[:, None]"
                between = f"{between} * {by}" if self.along == "none" else between
                lines.append(f"{name} = tl.where({lower}, {between}, tl.where({same}, {raw}, 0))")
            else:
                lines.append(f"{name} = tl.where({lower}, {between}, 0)")

    def _raw_weights(self, pairs: list[tuple[Query, Rows]]) -> None:
        """Products of left sides and keys, slice by slice."""
        for left, rows in pairs:
            self._zeros(f"{left.name}_by_{rows.number}", left.lines, rows.lines)
        with self._slices():
            self._loads_along_rows()
            for left, rows in pairs:
                met = self._sum_over_rows(f"{left.name}{{p}}", f"tl.trans(keys_{rows.number}{{p}})")
                self.lines.append(f"{left.name}_by_{rows.number} += {met}")

    def _decays_between(self) -> None:
        """The decay between any two steps of the chunk: `pairs`."""
        lines = self.lines
        for left, right in self._pairs_of_lines() if not self._halves() else ():  # a chunk of one step has no pairs
            self._zeros(self._met("pairs", left, right), left, right)
        for half in self._halves():
            self._levels(half)
            for left, right in self._pairs_of_lines():
                above, under = f"{self._of('above', left)}[:, None]", f"{self._of('under', right)}[None, :]"
                product = "1.0 * 1.0" if half == 1 else f"{above} * {under}"
                word = f"{self._met('pairs', left, right)} {'=' if half == 1 else '+='}"
                lines.append(f"{word} tl.where({self._meet(half, left, right)}, {product}, 0.0)")

    def _weights_by_rows(self, pairs: list[tuple[Query, Rows]]) -> None:
        """With slices, one write after another: the products of all levels of a slice are in registers together."""
        for left, rows in pairs:
            self._zeros(f"{left.name}_by_{rows.number}", left.lines, rows.lines)
        apart = self.tiles.rows if self.tiles.block_s else ()
        for group in [[p for p in pairs if p[1] is rows] for rows in apart] or [pairs]:
            with self._slices():
                if self.tiles.block_s:
                    self._loads_along_rows(group[0][1])
                    self._decays(products=False)
                for half in self._halves():
                    self._levels(half)
                    for left, rows in group:
                        self._meet_by_rows(half, left, rows)
                for left, rows in group:
                    if left.now:
                        same = self._met("same", left.lines, rows.lines)
                        met = self._sum_of_same(left, rows)
                        self.lines.append(f"{left.name}_by_{rows.number} += tl.where({same}, {met}, 0)")

    def _meet_by_rows(self, half: int, left: Query, rows: Rows) -> None:
        """Adds the pairs of a level."""
        n, scaled, key = rows.number, f"{left.name}{{p}}", f"keys_{rows.number}{{p}}"
        scaled += f" * {self._of('decay', left.lines, '{p}')}" if left.now else ""
        if half > 1:
            scaled += f" * {self._of('above', left.lines, '{p}')}"
            key += f" * {self._of('under', rows.lines, '{p}')}"
        product = self._sum_over_rows(scaled, f"tl.trans({key})")
        self.lines.append(f"{left.name}_by_{n} += tl.where({self._meet(half, left.lines, rows.lines)}, {product}, 0)")

    def _sum_of_same(self, left: Query, rows: Rows) -> str:
        """Products of left sides and keys that are right where both are of one step."""
        if left.lines == rows.lines == 1:
            sums = (f"tl.sum({left.name}{p} * keys_{rows.number}{p}, 1)" for p in self.parts)
            return " + ".join(f"{s}[:, None]" for s in sums)
        return self._sum_over_rows(f"{left.name}{{p}}", f"tl.trans(keys_{rows.number}{{p}})")

    def _from_states(self, lefts: tuple[Query, ...]) -> None:
        """What probes and queries find in the states at the beginning of the chunk. All meet a part of the states
        together: as an operand of products it takes more registers than as what they add up to."""
        corrected = self.tiles.corrected
        started = {f"rows_{corrected.number}"} if corrected is not None and corrected.value else set[str]()
        for p in self._each_part():
            self._loads_of_lefts(lefts)
            for place, _ in enumerate(self.form.states):
                for left in filter(self._meets_state, lefts):
                    for scaled in self._reaching_state(left, place, p):
                        target, product = self._found(left), self._dot(scaled, f"{self.state(place)}{p}")
                        self.lines.append(f"{target} {'+' if target in started else ''}= {product}")
                        started.add(target)
            self._meet_vectors(p)

    def _found(self, left: Query) -> str:
        """Where what a left side finds is added up: the rows that are corrected, or what is read."""
        corrected = self.tiles.corrected
        if left.name == "probe" and corrected is not None:
            return f"rows_{corrected.number}"
        return f"out_{self.tiles.queries.index(left)}"

    def _loads_of_lefts(self, lefts: tuple[Query, ...]) -> None:
        """Probes, queries and decays along the rows at hand, if they are not held."""
        if self.tiles.block_s:
            for left in lefts:
                for name, pieces, _ in self._sides(left):
                    self._operand(name, pieces, left.lines)
            if self.along == "rows":
                self._decays(later=False)

    def _reaching_state(self, left: Query, place: int, part: str) -> Iterator[str]:
        """A left side with the decays from the beginning of the chunk on, for each way that leads to the state."""
        before, decay = self._of("before", left.lines), self._of("decay", left.lines)
        text = f"{left.name}{part}"
        if self.along == "rows":
            text += f" * {before}{part} * {decay}{part}" if left.now else f" * {before}{part}"
        elif self.along == "none":
            text += f" * ({before} * {decay})[:, None]" if left.now else f" * {before}[:, None]"
        yield text

    def _system(self, rows: Rows) -> None:
        """The rows that depend on what the states hold: the unit lower triangular system, solved by its inverse."""
        lines, own = self.lines, f"rows_{rows.number}"
        lines.append("# the rows that are written depend on each other: a unit lower triangular system")
        for other in self.tiles.rows:
            if other is not rows:
                self._recall(f"probe_by_{other.number}")
                lines.append(f"{own} += {self._dot(f'probe_by_{other.number}', f'rows_{other.number}')}")
        if self._inverted is not None:
            if self.tiles.block_s:
                self._recall("inverse")
            else:
                self._invert(rows)
            lines.append(f"{own} = {self._dot('inverse', own, exact='ieee')}")
        elif self._halves():
            self._recall(f"probe_by_{rows.number}")
            self._substituted(own, rows)

    def _invert(self, rows: Rows) -> None:
        """The inverse of the system, level by level."""
        first, *later = (f"tl.where({self._meet(h, 1, 1)}, probe_by_{rows.number}, 0)" for h in self._halves())
        self.lines.append(f"inverse = tl.where(same, 1.0, {first})")
        for below in later:
            self.lines.append(f"level = {self._dot(below, 'inverse', exact='ieee')}")
            self.lines.append(f"inverse += {self._dot('inverse', 'level', exact='ieee')}")

    def _substituted(self, own: str, rows: Rows) -> None:
        """Step after step: the inverse of a system of all lines would take more room and no less arithmetic."""
        at = f"step_{rows.lines}[:, None] == t0 + i"
        below = f"tl.where({at}, probe_by_{rows.number}, 0)"
        self.lines += [
            "for i in range(1, BLOCK_T):",
            f"    {own} += {self._dot(below, own, exact=self.options.chunk_precision)}",
        ]

    def _read_out(self, number: int, name: str) -> None:
        lines, query = self.lines, self.tiles.queries[number]
        out = f"out_{number}"
        if self.along == "columns":
            self._read_by_columns(query, out)
        else:
            for rows in self.tiles.rows:
                self._recall(f"{query.name}_by_{rows.number}")
                lines.append(f"{out} += {self._dot(f'{query.name}_by_{rows.number}', f'rows_{rows.number}')}")
        buffer = self.context.plan.buffer(name)
        (piece,) = query.pieces
        where = self._flat(self.form.columns, "v", "[None, :]") | self._on_rank(piece, query.lines, "[:, None]")
        address = self._address(buffer, where, f"{self._of('t', query.lines)}[:, None]")
        dtype = triton_type(stored(buffer, self.context.spec.real))
        mask = " & ".join([self._of("in_t", query.lines), *self._on_lines(0, piece.rank, query.lines)])
        mask = f"({mask})" if " " in mask else mask
        lines.append(f"tl.store({address}, {out}.to({dtype}), mask={mask}[:, None] & in_v[None, :])")

    def _read_by_columns(self, query: Query, out: str) -> None:
        """What the rows of a chunk add to a read, where each column has its own decay."""
        lines = self.lines
        for rows in self.tiles.rows:
            self._recall(f"{query.name}_by_{rows.number}")
        lines.append(f"{out} *= {self._of('before', query.lines)}")
        for half in self._halves():
            self._levels(half)
            for rows in self.tiles.rows:
                under = "" if half == 1 else f" * {self._of('under', rows.lines)}"
                weights = f"tl.where({self._meet(half, query.lines, rows.lines)}, {query.name}_by_{rows.number}, 0)"
                met = self._dot(weights, f"rows_{rows.number}{under}")
                above = "" if half == 1 else f"{self._of('above', query.lines)} * "
                lines.append(f"{out} += {above}{met}")
        if query.now:
            lines.append(f"{out} *= {self._of('decay', query.lines)}")
            for rows in self.tiles.rows:
                n = rows.number
                if query.lines == rows.lines == 1 and not self.tiles.block_s:
                    lines.append(f"{out} += ({self._sum_of_same(query, rows)}) * rows_{n}")
                    continue
                weights = f"tl.where({self._met('same', query.lines, rows.lines)}, {query.name}_by_{n}, 0)"
                lines.append(f"{out} += {self._dot(weights, f'rows_{n}')}")
