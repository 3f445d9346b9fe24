"""What the kernels of a `Chunk` stage have in common: names of tiles, loads, decays and products."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

from recurc import ir
from recurc.backends.triton.chunk_lines import Piece, Pieces, Query, Rows, tiles_of
from recurc.backends.triton.kernel import Arg, Options, triton_type
from recurc.backends.triton.places import Place
from recurc.backends.triton.scope import Scope
from recurc.backends.triton.values import Context, Ids, TileCode
from recurc.plan import Buffer, Chunk
from recurc.types import Dims, DType

_LOCALS = """pid block_v seq own k v r t t0 in_k in_v in_t state lower same total before above under level decay
earlier later pairs inverse raw probe step k0 chunk BLOCK_T BLOCK_K BLOCK_V BLOCK_S"""


class ChunkTiles(TileCode):
    """Writes the tiles of a chunk."""

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

    def _begin(self, *blocks: str) -> None:
        """Parameters, of the extents those named `blocks`, and the sequence and shared place of a program."""
        tiles, form = self.tiles, self.form
        given = {"T": tiles.steps, "K": tiles.block_k, "V": tiles.block_v, "S": tiles.block_s}
        self.args |= {
            "batch": Arg("batch", "i32", "batch"),
            "steps": Arg("steps", "i32", "steps"),
            "PER_SEQUENCE": Arg("PER_SEQUENCE", "constexpr", "per_sequence", False),
        }
        for block in blocks:
            name, value = f"BLOCK_{block}", given[block]
            self.args[name] = Arg(name, "constexpr", str(value), value)
        for n, dim in reversed(list(enumerate(form.shared))):
            self.lines += [f"place_{n} = pid % {self.context.size(dim)}", f"pid = pid // {self.context.size(dim)}"]
        self.lines += [
            "seq = pid.to(tl.int64)",
            "own = seq if PER_SEQUENCE else 0  # params: one set per sequence, or one for all",
            "r = tl.arange(0, BLOCK_T)  # steps of a chunk",
        ]
        for n in self._counts():
            self.lines.append(f"line_{n} = tl.arange(0, BLOCK_T * {n}) % {n}  # lines of each step")

    @property
    def heads(self) -> int:
        """Shared places, each with states of its own."""
        return math.prod(self.context.size(d) for d in self.form.shared)

    def state(self, place: int) -> str:
        """The variable that holds a state."""
        return "state"

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

    def _steps_of_chunk(self) -> None:
        lines = self.lines
        lines += ["step = t0 + r", "t = step.to(tl.int64)", "in_t = step < steps"]
        for n in self._counts():
            lines += [
                f"step_{n} = t0 + tl.arange(0, BLOCK_T * {n}) // {n}",
                f"t_{n} = step_{n}.to(tl.int64)",
                f"in_t_{n} = step_{n} < steps",
            ]

    def _pairs_of_steps(self) -> None:
        """Masks of pairs of lines: the first of a later step than the second, and both of one step."""
        for left, right in self._pairs_of_lines():
            at, to = f"{self._of('step', left)}[:, None]", f"{self._of('step', right)}[None, :]"
            self.lines += [
                f"{self._met(word, left, right)} = {at} {by} {to}" for word, by in (("lower", ">"), ("same", "=="))
            ]

    def _loads_along_rows(self, *only: Rows) -> None:
        """Keys, of some of the rows or all, probes and queries."""
        for rows in only or self.tiles.rows:
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
        # Addresses and masks of all loads would be made before the loop and held in registers through it.
        outside.append(f"for k0 in tl.range(0, {self.high}, BLOCK_S, disable_licm=True):")
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

    def _each_part(self) -> Iterator[str]:
        """The parts of the rows, one after another: the only one at hand."""
        parts = self.parts
        for part in parts:
            self.parts = [part]
            yield part
        self.parts = parts

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

    def _zeros(self, name: str, left: int, right: int) -> None:
        shape = f"({self._extent(left)}, {self._extent(right)})"
        self.lines.append(f"{name} = tl.zeros({shape}, {triton_type(self.dtype)})")

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
