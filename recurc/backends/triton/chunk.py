"""A `Chunk` stage: one program takes a sequence, a shared place (a head) and some columns of its state through all
chunks of steps, by `tl.dot`.

Products of decays between two steps of a chunk are taken by levels: for h = 1, 2, 4, ... the pairs whose later step
lies in the second half of a block of 2 h steps and whose earlier one lies in the first meet at the middle of that
block, and each side multiplies the decays up to there. Every pair belongs to one level, nothing is divided, and each
level is one product of matrices. The triangular system of a delta rule is inverted by the same levels: with T the
inverse on blocks of h steps and L what lies below them, T + T L T is the inverse on blocks of 2 h.

A step that writes or reads several rows has as many lines in a tile (`chunk_lines`). Decays and masks are those of
steps; names of what has n lines for each step end in `_n`."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from recurc import ir
from recurc.backends.triton.chunk_lines import Piece, Pieces, Query, Rows, tiles_of
from recurc.backends.triton.kernel import ALL_REGISTERS, Arg, KernelText, Options, stored, triton_type
from recurc.backends.triton.lanes import finish
from recurc.backends.triton.places import Place
from recurc.backends.triton.scope import Scope
from recurc.backends.triton.values import Context, Ids, TileCode
from recurc.plan import Buffer, Chunk
from recurc.types import Dims, DType

_LOCALS = """pid block_v seq own k v r t t0 in_k in_v in_t state lower same total before above under level decay
earlier later pairs inverse raw probe step k0 BLOCK_T BLOCK_K BLOCK_V BLOCK_S"""


class ChunkCode(TileCode):
    """The kernel of one state."""

    def __init__(self, context: Context, stage: Chunk, options: Options) -> None:
        super().__init__(context, (), ())
        self.scope = Scope(frozenset(_LOCALS.split()))
        self.stage, self.form, self.options = stage, stage.form, options
        form = self.form
        self.high, self.wide = (math.prod(context.size(d) for d in dims) for dims in (form.rows, form.columns))
        self.dtype = context.compute(stage.carries[0].dtype)
        self.along = form.decay_along if not isinstance(form.factors[0][0], ir.Const) else "constant"
        self.tiles = tiles_of(stage, context, options)
        self.parts = [""] if self.tiles.parts == 1 else [f"_part_{n}" for n in range(self.tiles.parts)]
        self.lines: list[str] = []

    def kernel(self, name: str) -> KernelText:
        form, lines, tiles = self.form, self.lines, self.tiles
        blocks = math.ceil(self.wide / tiles.block_v)
        self.args |= {
            "batch": Arg("batch", "i32", "batch"),
            "steps": Arg("steps", "i32", "steps"),
            "PER_SEQUENCE": Arg("PER_SEQUENCE", "constexpr", "per_sequence", False),
            "BLOCK_T": Arg("BLOCK_T", "constexpr", str(tiles.steps), tiles.steps),
            "BLOCK_K": Arg("BLOCK_K", "constexpr", str(tiles.block_k), tiles.block_k),
            "BLOCK_V": Arg("BLOCK_V", "constexpr", str(tiles.block_v), tiles.block_v),
        }
        if tiles.block_s:
            self.args["BLOCK_S"] = Arg("BLOCK_S", "constexpr", str(tiles.block_s), tiles.block_s)
        lines += ["pid = tl.program_id(0)", f"block_v = pid % {blocks}", f"pid = pid // {blocks}"]
        for n, dim in reversed(list(enumerate(form.shared))):
            lines += [f"place_{n} = pid % {self.context.size(dim)}", f"pid = pid // {self.context.size(dim)}"]
        lines += [
            "seq = pid.to(tl.int64)",
            "own = seq if PER_SEQUENCE else 0  # params: one set per sequence, or one for all",
        ]
        for n, p in enumerate(self.parts):
            first = f"{n} * BLOCK_K + " if n else ""
            lines.append(f"k{p} = {first}tl.arange(0, BLOCK_K)  # rows of the state")
        lines += [
            "v = block_v * BLOCK_V + tl.arange(0, BLOCK_V)  # columns",
            "r = tl.arange(0, BLOCK_T)  # steps of a chunk",
        ]
        for n in self._counts():
            lines.append(f"line_{n} = tl.arange(0, BLOCK_T * {n}) % {n}  # lines of each step")
        lines += [f"in_k{p} = k{p} < {self.high}" for p in self.parts]
        lines.append(f"in_v = v < {self.wide}")
        for a, carry in enumerate(self.stage.carries):
            initial = self.context.plan.buffer(f"{carry.name}@initial")
            lines += [f"{self.state(a)}{p} = {self._state_load(initial, p)}" for p in self.parts]
        lines.append("for t0 in range(0, steps, BLOCK_T):")
        outside, self.lines = self.lines, []
        self._loads_of_chunk()
        self._products()
        outside += ["    " + line for line in self.lines]
        self.lines = outside
        for a, carry in enumerate(self.stage.carries):
            final = f"{carry.name}@final"
            if self.context.plan.has(final):
                for p in self.parts:
                    target = self._state_pointer(self.context.plan.buffer(final), p)
                    self.lines.append(f"tl.store({target}, {self.state(a)}{p}, mask=in_k{p}[:, None] & in_v[None, :])")
        heads = math.prod(self.context.size(d) for d in form.shared)
        about = (
            f"{', '.join(form.states)} through chunks of steps, each a few products of matrices.",
            "An infinity or NaN reaches other steps of its chunk, also earlier ones.",
        )
        text = ["    " + line for line in self.lines]
        made = finish(self, name, "chunk", about, text, f"(batch * {heads * blocks},)", tiles.warps)
        return replace(made, num_stages=1, registers=ALL_REGISTERS, helpers=self.helpers(name))

    def state(self, place: int) -> str:
        """The variable that holds a state."""
        return "state"

    def helpers(self, name: str) -> str:
        """Functions of the kernel's own."""
        return ""

    # --- lines ------------------------------------------------------------------------------------------------------

    def _counts(self) -> list[int]:
        """How many lines of a step tiles have, other than one."""
        return sorted({n.lines for n in (*self.tiles.rows, *self.tiles.queries)} - {1})

    def _of(self, name: str, lines: int, part: str = "") -> str:
        """What `name` of each step is for each line."""
        return f"{name}{part}" if lines == 1 else f"{name}_{lines}{part}"

    def _repeated(self, name: str, counts: Iterable[int], parts: Iterable[str] = ("",)) -> None:
        for n in sorted({*counts} - {1}):
            self.lines += [f"{self._of(name, n, p)} = rc_repeated({name}{p}, {n})" for p in parts]

    def _met(self, name: str, left: int, right: int) -> str:
        """A mask or weight of each pair of steps, for each pair of lines."""
        return name if left == right == 1 else f"{name}_{left}_{right}"

    def _pairs_of_lines(self) -> list[tuple[int, int]]:
        return sorted({(left.lines, rows.lines) for left in self.tiles.lefts for rows in self.tiles.rows})

    def _left_lines(self) -> set[int]:
        return {left.lines for left in self.tiles.lefts}

    def _right_lines(self) -> set[int]:
        return {rows.lines for rows in self.tiles.rows}

    def _extent(self, lines: int) -> str:
        return "BLOCK_T" if lines == 1 else f"BLOCK_T * {lines}"

    # --- memory -----------------------------------------------------------------------------------------------------

    def _place(self, dim: str, dims: Dims, flat: str, suffix: str) -> Place:
        """The place along one of `dims`, which `flat` counts together."""
        inner = math.prod(self.context.size(d) for d in dims[dims.index(dim) + 1 :])
        text = flat if inner == 1 else f"({flat} // {inner})"
        if dims.index(dim):
            text = f"({text} % {self.context.size(dim)})"
        return Place(f"{text}{suffix}", frozenset())

    def _address(self, buffer: Buffer, flat: dict[str, tuple[Dims, str, str]], time: str | None = None) -> str:
        """The address of elements; shared dims at the program's place, others where `flat` says."""
        ids: list[Place] = []
        for dim in buffer.dims:
            if dim in flat:
                ids.append(self._place(dim, *flat[dim]))
            elif dim in self.form.shared:
                ids.append(Place(f"place_{self.form.shared.index(dim)}", frozenset()))
            else:  # the rank of a write or read, which has one place
                ids.append(Place("0", frozenset()))
        return self.pointer(buffer, tuple(ids), time)

    def offset(self, dims: Dims, ids: Ids) -> list[str]:
        """The row-major place among the dims: what is the same for a whole tile, then along its first axis, then along
        its second, each as one term. So only the sum of all has two axes, and nothing of that size is kept."""
        terms: dict[str, list[str]] = {"": [], "[:, None]": [], "[None, :]": []}
        for n, axis in enumerate(ids):
            text = self.index(axis)
            if text != "0":
                suffix = next((s for s in ("[:, None]", "[None, :]") if text.endswith(s)), "")
                terms[suffix].append(" * ".join([text, *(self.context.constant(d) for d in dims[n + 1 :])]))
        sums = [" + ".join(t) for t in terms.values() if t]
        return [f"({s})" if " + " in s else s for s in sums]

    def _state_pointer(self, buffer: Buffer, part: str) -> str:
        flat = self._flat(self.form.rows, f"k{part}", "[:, None]") | self._flat(self.form.columns, "v", "[None, :]")
        return self._address(buffer, flat)

    def _flat(self, dims: Dims, letter: str, suffix: str) -> dict[str, tuple[Dims, str, str]]:
        return dict.fromkeys(dims, (dims, letter, suffix))

    def _state_load(self, buffer: Buffer, part: str) -> str:
        address = self._state_pointer(buffer, part)
        return f"tl.load({address}, mask=in_k{part}[:, None] & in_v[None, :], other=0).to({triton_type(self.dtype)})"

    def _of_steps(
        self, expr: ir.Expr, dims: Dims, part: str = "", shift: int = 0, inside: str = "", other: int = 1
    ) -> str:
        """A load of a factor: steps by places along `dims` (or steps alone), `shift` steps away within the chunk, where
        `inside` holds or, without it, where the step and the one read are in the chunk; elsewhere `other`."""
        inside = inside or {0: "in_t", -1: "in_t & (r > 0)", 1: "(t + 1 < steps) & (r < BLOCK_T - 1)"}[shift]
        assert isinstance(expr, ir.Read)
        return self._load(Piece(expr, ()), dims, 1, inside, part, shift, other)

    def _tile(self, pieces: Pieces, dims: Dims, lines: int, part: str = "") -> str:
        """A load of an operand: the lines of each step by places along `dims`, with zeros on those that it lacks."""
        inside = self._of("in_t", lines)
        return " + ".join(
            self._load(p, dims, lines, " & ".join([inside, *self._on_lines(p.start, p.rank, lines)]), part)
            for p in pieces
        )

    def _on_lines(self, start: int, rank: Dims, lines: int) -> list[str]:
        """The conditions that a line of a step is one of an operand's, which begin at `start`."""
        line, end = self._of("line", lines), start + math.prod(self.context.size(d) for d in rank)
        if end - start == 1 < lines:
            return [f"({line} == {start})"]
        return ([f"({line} >= {start})"] if start else []) + ([f"({line} < {end})"] if end < lines else [])

    def _on_rank(self, piece: Piece, lines: int, suffix: str) -> dict[str, tuple[Dims, str, str]]:
        """Where the places along the rank of an operand are."""
        if math.prod(self.context.size(d) for d in piece.rank) == 1:
            return {}
        line = self._of("line", lines)
        return self._flat(piece.rank, f"({line} - {piece.start})" if piece.start else line, suffix)

    def _load(
        self, piece: Piece, dims: Dims, lines: int, inside: str, part: str, shift: int = 0, other: int = 0
    ) -> str:
        buffer = self.context.plan.buffer(piece.expr.name)
        along, letter = (f"k{part}", f"in_k{part}") if dims == self.form.rows else ("v", "in_v")
        suffix, t = "[:, None]" if dims else "", self._of("t", lines)
        inside = f"({inside}){suffix} & {letter}[None, :]" if dims else inside
        time = f"({t}{suffix} {'+' if shift > 0 else '-'} {abs(shift)})" if shift else f"{t}{suffix}"
        where = self._flat(dims, along, "[None, :]") | self._on_rank(piece, lines, suffix)
        address = self._address(buffer, where, time)
        if not buffer.has_time:
            address += f" + tl.zeros_like({t}){suffix}"
        return f"tl.load({address}, mask={inside}, other={other}).to({triton_type(self.dtype)})"

    def _loads_of_chunk(self) -> None:
        self._steps_of_chunk()
        self._operands_of_chunk()
        self._decays_of_chunk()

    def _steps_of_chunk(self) -> None:
        lines = self.lines
        lines += ["step = t0 + r", "t = step.to(tl.int64)", "in_t = step < steps"]
        for n in self._counts():
            lines += [
                f"step_{n} = t0 + tl.arange(0, BLOCK_T * {n}) // {n}",
                f"t_{n} = step_{n}.to(tl.int64)",
                f"in_t_{n} = step_{n} < steps",
            ]
        for left, right in self._pairs_of_lines():
            at, to = f"{self._of('step', left)}[:, None]", f"{self._of('step', right)}[None, :]"
            lines += [
                f"{self._met(word, left, right)} = {at} {by} {to}" for word, by in (("lower", ">"), ("same", "=="))
            ]

    def _operands_of_chunk(self) -> None:
        for rows in self.tiles.rows:
            if rows.value:
                value = self._tile(rows.value, self.form.columns, rows.lines)
                self.lines.append(f"rows_{rows.number} = {value}")
        if not self.tiles.block_s:
            self._loads_along_rows()

    def _loads_along_rows(self) -> None:
        """Keys, probes and queries."""
        for rows in self.tiles.rows:
            for name, key, _ in self._keys(rows):
                self._operand(name, key, rows.lines)
        for left in self.tiles.lefts:
            for name, pieces, _ in self._sides(left):
                self._operand(name, pieces, left.lines)

    def _operand(self, name: str, pieces: Pieces, lines: int) -> None:
        """Keys, probes or queries, in the parts at hand."""
        self.lines += [f"{name}{p} = {self._tile(pieces, self.form.rows, lines, p)}" for p in self.parts]

    @contextmanager
    def _slices(self) -> Generator[None]:
        """A loop over slices of the rows, if they are not held all at once: what is written inside has those of a slice
        as its only part."""
        if not self.tiles.block_s:
            yield
            return
        outside, parts = self.lines, self.parts
        self.lines, self.parts = [], ["_slice"]
        self.lines += ["k_slice = k0 + tl.arange(0, BLOCK_S)", f"in_k_slice = k_slice < {self.high}"]
        yield
        outside.append(f"for k0 in range(0, {self.high}, BLOCK_S):")
        outside += ["    " + line for line in self.lines]
        self.lines, self.parts = outside, parts

    def _keys(self, rows: Rows) -> list[tuple[str, Pieces, tuple[int, ...]]]:
        """The keys of what is written, each with the states it goes into."""
        return [(f"keys_{rows.number}", *rows.keys[0])]

    def _sides(self, left: Query) -> list[tuple[str, Pieces, int]]:
        """The values behind a left side, each with the state it meets."""
        return [(left.name, left.pieces, left.state)]

    @property
    def _parts_of_decays(self) -> list[str]:
        return self.parts if self.along == "rows" else [""]

    def _decays_of_chunk(self) -> None:
        if self.along == "constant":
            return
        self.lines.append("# the decays of each step, of the one before and of the one after")
        if not (self.tiles.block_s and self.along == "rows"):
            self._decays()

    def _decays(self, earlier: bool = True, later: bool = True, products: bool = True) -> None:
        """Decays of the parts at hand, of the steps before and after, and their products before and after each step."""
        form, lines, factor, parts = self.form, self.lines, self.form.factors[0][0], self._parts_of_decays
        kept = {"none": (), "rows": form.rows, "columns": form.columns}[self.along]
        at = "(r > 0)" if self.along == "none" else "(r > 0)[:, None]"
        for p in parts:
            for variable, shift in (("decay", 0), *((("earlier", -1),) * earlier), *((("later", 1),) * later)):
                assert factor is not None
                lines.append(f"{variable}{p} = {self._of_steps(factor, kept, p, shift)}")
            if earlier and products:
                lines.append(f"before{p} = tl.cumprod(tl.where({at}, earlier{p}, 1), 0)")
            if later and products:
                lines.append(f"after{p} = tl.cumprod(later{p}, 0, reverse=True)")
                lines.append(f"total{p} = tl.sum(tl.where({at.replace('>', '==')}, decay{p} * after{p}, 0), 0)")
        if earlier:
            self._repeated("before", self._left_lines() if products else (), parts)
            self._repeated("decay", (q.lines for q in self.tiles.queries if q.now), parts)
        if later and products:
            self._repeated("after", self._right_lines(), parts)

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _dot(self, left: str, right: str, exact: str = "") -> str:
        """A product of two tiles. Half precisions: bf16 operands, f32 ones rounded to tf32 for f16, whose range states
        may leave; f32 ones by the precision `exact`, if given."""
        real, accumulator = self.context.spec.real, triton_type(self.dtype)
        precision = exact or self.options.chunk_precision
        if real is DType.BF16 and not exact:
            left, right = (f"({side}).to(tl.bfloat16)" for side in (left, right))
        elif real is DType.F16 and not exact:
            precision = "tf32"
        precision = precision if self.dtype is DType.F32 else "ieee"
        return f'tl.dot({left}, {right}, input_precision="{precision}", out_dtype={accumulator})'

    def _sum_over_rows(self, left: str, right: str) -> str:
        """A product over the rows of the states; `{p}` stands for the part of them in each side."""
        return " + ".join(self._dot(left.format(p=p), right.format(p=p)) for p in self.parts)

    def _level(self, half: int, name: str, part: str) -> str:
        """Products of decays up to the middle of the blocks of two halves, on the side `name` (above or under)."""
        source, at, reverse = {
            "above": ("earlier", f"r % {half} != 0", ""),
            "under": ("later", f"r % {half} != {half - 1}", ", reverse=True"),
        }[name]
        rows = ", BLOCK_S" if self.tiles.block_s else ", BLOCK_K"
        width = {"none": "", "rows": rows, "columns": ", BLOCK_V"}[self.along]
        at = f"({at})[:, None]" if width else at
        blocks = f"tl.reshape(tl.where({at}, {source}{part}, 1), (BLOCK_T // {half}, {half}{width}))"
        return f"tl.reshape(tl.cumprod({blocks}, 1{reverse}), (BLOCK_T{width or ','}))"

    def _levels(self, half: int) -> None:
        """`above` and `under` for the lines of either side; both are 1 at the first level."""
        if half > 1:
            for name, counts in (("above", self._left_lines()), ("under", self._right_lines())):
                self.lines += [f"{name}{p} = {self._level(half, name, p)}" for p in self._parts_of_decays]
                self._repeated(name, counts, self._parts_of_decays)

    def _halves(self) -> list[int]:
        return [1 << n for n in range(self.tiles.steps.bit_length() - 1)]

    def _meet(self, half: int, left: int, right: int) -> str:
        """The pairs of a level: both in one block of 2 h steps, the later one in its second half of h."""
        at, to = (f"{self._of('step', n)} // {half}" for n in (left, right))
        return f"tl.where({at} % 2 == 1, {at}, -1)[:, None] == ({to} + 1)[None, :]"

    def _products(self) -> None:
        self._weights()
        if self.tiles.corrected is not None:
            self._system(self.tiles.corrected)
        for n, read in enumerate(self.stage.readouts):
            self._read_out(n, read.name)
        self._next_state()

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

    def _each_part(self) -> Iterator[str]:
        """The parts of the rows, one after another: the only one at hand."""
        parts = self.parts
        for part in parts:
            self.parts = [part]
            yield part
        self.parts = parts

    def _weights(self) -> None:
        """What each earlier row of the chunk counts for in each probe and read: `LEFT_by_N`."""
        lines, pairs = self.lines, [(left, rows) for left in self.tiles.lefts for rows in self.tiles.rows]
        if self.along in ("rows", "none"):
            lines.append("# decays between two steps, by levels: each pair meets in the middle of a block")
        if self.along == "rows":
            self._weights_by_rows(pairs)
            return
        if self.along == "none":
            self._decays_between()
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

    def _zeros(self, name: str, left: int, right: int) -> None:
        shape = f"({self._extent(left)}, {self._extent(right)})"
        self.lines.append(f"{name} = tl.zeros({shape}, {triton_type(self.dtype)})")

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
        for left, rows in pairs:
            self._zeros(f"{left.name}_by_{rows.number}", left.lines, rows.lines)
        with self._slices():
            if self.tiles.block_s:
                self._loads_along_rows()
                self._decays(products=False)
            for half in self._halves():
                self._levels(half)
                for left, rows in pairs:
                    self._meet_by_rows(half, left, rows)
            for left, rows in pairs:
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

    def _add_from_states(self, target: str, add: bool, left: Query) -> None:
        """`target` (+)= what a left side finds in the states at the beginning of the chunk."""
        before, decay = self._of("before", left.lines), self._of("decay", left.lines)
        for p in self._each_part():
            if self.tiles.block_s:
                self._operand(left.name, left.pieces, left.lines)
                if self.along == "rows":
                    self._decays(later=False)
            text = f"{left.name}{p}"
            if self.along == "rows":
                text += f" * {before}{p} * {decay}{p}" if left.now else f" * {before}{p}"
            elif self.along == "none":
                text += f" * ({before} * {decay})[:, None]" if left.now else f" * {before}[:, None]"
            self.lines.append(f"{target} {'+' if add else ''}= {self._dot(text, f'state{p}')}")
            add = True

    def _system(self, rows: Rows) -> None:
        """The rows that depend on what the states hold: the unit lower triangular system, solved by its inverse."""
        lines, own = self.lines, f"rows_{rows.number}"
        lines.append("# the rows that are written depend on each other: a unit lower triangular system")
        self._add_from_states(own, bool(rows.value), self.tiles.lefts[0])
        for other in self.tiles.rows:
            if other is not rows:
                lines.append(f"{own} += {self._dot(f'probe_by_{other.number}', f'rows_{other.number}')}")
        if not self._halves():
            return
        if rows.lines > 1:
            self._substituted(own, rows)
            return
        first, *later = (f"tl.where({self._meet(h, 1, 1)}, probe_by_{rows.number}, 0)" for h in self._halves())
        lines.append(f"inverse = tl.where(same, 1.0, {first})")
        for below in later:
            lines.append(f"level = {self._dot(below, 'inverse', exact='ieee')}")
            lines.append(f"inverse += {self._dot('inverse', 'level', exact='ieee')}")
        lines.append(f"{own} = {self._dot('inverse', own, exact='ieee')}")

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
        self._add_from_states(out, False, query)
        if self.along == "columns":
            self._read_by_columns(query, out)
        else:
            for rows in self.tiles.rows:
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
