"""A `Chunk` stage: one program takes a sequence, a shared place (a head) and some columns of its state through all
chunks of steps, by `tl.dot`.

Products of decays between two steps of a chunk are taken by levels: for h = 1, 2, 4, ... the pairs whose later step
lies in the second half of a block of 2 h steps and whose earlier one lies in the first meet at the middle of that
block, and each side multiplies the decays up to there. Every pair belongs to one level, nothing is divided, and each
level is one product of matrices. The triangular system of a delta rule is inverted by the same levels: with T the
inverse on blocks of h steps and L what lies below them, T + T L T is the inverse on blocks of 2 h."""

from __future__ import annotations

import math
from dataclasses import replace

from recurc import ir
from recurc.backends.triton.kernel import (
    ALL_REGISTERS,
    Arg,
    KernelText,
    Options,
    power_of_two,
    stored,
    triton_type,
)
from recurc.backends.triton.lanes import finish
from recurc.backends.triton.places import Place
from recurc.backends.triton.scope import Scope
from recurc.backends.triton.values import Context, TileCode
from recurc.plan import Buffer, Chunk
from recurc.types import Dims, DType

_LEAST = 16  # places along each axis of `tl.dot`
_MOST_ROWS = 256
_LOCALS = """pid block_v seq own k v r t t0 in_k in_v in_t state lower same total before after above under level decay
earlier later pairs inverse raw probe step apart BLOCK_T BLOCK_K BLOCK_V"""


def chunk_problems(stage: Chunk, context: Context) -> list[str]:
    """What of a chunk has no Triton kernel, in words."""
    form, who = stage.form, ", ".join(stage.form.states)
    found: list[str] = []
    if sum(w.corrects for w in form.writes) > 1:
        found.append(f"several corrections of {who} in one step by the chunkwise schedule")
    ranks = (*(w.rank for w in form.writes), *(r.rank for r in stage.readouts))
    if any(math.prod(context.size(d) for d in rank) > 1 for rank in ranks):
        found.append(f"several rows of {who} in one step by the chunkwise schedule")
    rows = math.prod(context.size(d) for d in form.rows) * len(form.states)
    if rows > _MOST_ROWS:
        found.append(f"a chunkwise state of {rows} rows (at most {_MOST_ROWS})")
    return found


class ChunkCode(TileCode):
    """The kernel of one state."""

    def __init__(self, context: Context, stage: Chunk, options: Options) -> None:
        super().__init__(context, (), ())
        self.scope = Scope(frozenset(_LOCALS.split()))
        self.stage, self.form, self.options = stage, stage.form, options
        form = self.form
        self.rows, self.columns = (math.prod(context.size(d) for d in dims) for dims in (form.rows, form.columns))
        self.dtype = context.compute(stage.carries[0].dtype)
        self.block_k = max(power_of_two(self.rows), _LEAST)
        self.along = form.decay_along if not isinstance(form.factors[0][0], ir.Const) else "constant"
        # What keeps every value of a chunk in registers, at up to 128 rows
        half = context.spec.real.itemsize == 2
        wide = half and not form.corrects and self.along in ("none", "constant") and self.block_k <= 64
        tall = self.block_k * len(form.states)
        most = 64 if wide else 16 if form.corrects and tall > 64 else 32
        self.block_v = min(max(power_of_two(self.columns), _LEAST), most)
        self.block_t = options.block_t or (32 if wide else _LEAST)
        self.lines: list[str] = []
        self.reads = stage.readouts
        self.now = [r.now for r in self.reads]
        self.probe = next((n for n, w in enumerate(form.writes) if w.corrects), None)
        self.lefts: list[tuple[str, bool]] = [("probe", False)] if self.probe is not None else []
        self.lefts += [(f"query_{n}", now) for n, now in enumerate(self.now)]

    def kernel(self, name: str) -> KernelText:
        form, lines = self.form, self.lines
        blocks = math.ceil(self.columns / self.block_v)
        self.args |= {
            "batch": Arg("batch", "i32", "batch"),
            "steps": Arg("steps", "i32", "steps"),
            "PER_SEQUENCE": Arg("PER_SEQUENCE", "constexpr", "per_sequence", False),
            "BLOCK_T": Arg("BLOCK_T", "constexpr", str(self.block_t), self.block_t),
            "BLOCK_K": Arg("BLOCK_K", "constexpr", str(self.block_k), self.block_k),
            "BLOCK_V": Arg("BLOCK_V", "constexpr", str(self.block_v), self.block_v),
        }
        lines += ["pid = tl.program_id(0)", f"block_v = pid % {blocks}", f"pid = pid // {blocks}"]
        for n, dim in reversed(list(enumerate(form.shared))):
            lines += [f"place_{n} = pid % {self.context.size(dim)}", f"pid = pid // {self.context.size(dim)}"]
        lines += [
            "seq = pid.to(tl.int64)",
            "own = seq if PER_SEQUENCE else 0  # params: one set per sequence, or one for all",
            "k = tl.arange(0, BLOCK_K)  # rows of the state",
            "v = block_v * BLOCK_V + tl.arange(0, BLOCK_V)  # columns",
            "r = tl.arange(0, BLOCK_T)  # steps of a chunk",
            f"in_k = k < {self.rows}",
            f"in_v = v < {self.columns}",
        ]
        for a, carry in enumerate(self.stage.carries):
            initial = self.context.plan.buffer(f"{carry.name}@initial")
            lines.append(f"{self.state(a)} = {self._state_load(initial)}")
        lines.append("for t0 in range(0, steps, BLOCK_T):")
        outside, self.lines = self.lines, []
        self._loads_of_chunk()
        self._products()
        outside += ["    " + line for line in self.lines]
        self.lines = outside
        for a, carry in enumerate(self.stage.carries):
            final = f"{carry.name}@final"
            if self.context.plan.has(final):
                target = self._state_pointer(self.context.plan.buffer(final))
                self.lines.append(f"tl.store({target}, {self.state(a)}, mask=in_k[:, None] & in_v[None, :])")
        heads = math.prod(self.context.size(d) for d in form.shared)
        about = (
            f"{', '.join(form.states)} through chunks of steps, each a few products of matrices.",
            "An infinity or NaN reaches other steps of its chunk, also earlier ones.",
        )
        num_warps = 8 if self.block_k * self.block_v * len(form.states) >= 2048 else 4
        text = ["    " + line for line in self.lines]
        made = finish(self, name, "chunk", about, text, f"(batch * {heads * blocks},)", num_warps)
        return replace(made, num_stages=1, registers=ALL_REGISTERS, helpers=self.helpers(name))

    def state(self, place: int) -> str:
        """The variable that holds a state."""
        return "state"

    def helpers(self, name: str) -> str:
        """Functions of the kernel's own."""
        return ""

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

    def _state_pointer(self, buffer: Buffer) -> str:
        flat = self._flat(self.form.rows, "k", "[:, None]") | self._flat(self.form.columns, "v", "[None, :]")
        return self._address(buffer, flat)

    def _flat(self, dims: Dims, letter: str, suffix: str) -> dict[str, tuple[Dims, str, str]]:
        return dict.fromkeys(dims, (dims, letter, suffix))

    def _state_load(self, buffer: Buffer) -> str:
        address = self._state_pointer(buffer)
        return f"tl.load({address}, mask=in_k[:, None] & in_v[None, :], other=0).to({triton_type(self.dtype)})"

    def _tile(self, expr: ir.Expr | None, dims: Dims, shift: int = 0, other: int = 0, inside: str = "") -> str:
        """A load of an operand: steps by places along `dims` (or steps alone), `shift` steps away within the chunk,
        where `inside` holds or, without it, where the step and the one read are in the chunk."""
        assert isinstance(expr, ir.Read)
        buffer, form = self.context.plan.buffer(expr.name), self.form
        letter = "k" if dims == form.rows else "v"
        two = bool(dims)
        steps = "t[:, None]" if two else "t"
        inside = inside or {0: "in_t", -1: "in_t & (r > 0)", 1: "(t + 1 < steps) & (r < BLOCK_T - 1)"}[shift]
        inside = f"({inside})[:, None] & in_{letter}[None, :]" if two else inside
        time = f"({steps} {'+' if shift > 0 else '-'} {abs(shift)})" if shift else steps
        address = self._address(buffer, dict.fromkeys(dims, (dims, letter, "[None, :]")), time)
        if not buffer.has_time:
            address += " + tl.zeros_like(t)[:, None]" if two else " + tl.zeros_like(t)"
        return f"tl.load({address}, mask={inside}, other={other}).to({triton_type(self.dtype)})"

    def _loads_of_chunk(self) -> None:
        self._steps_of_chunk()
        self._operands_of_chunk()
        self._decays_of_chunk()

    def _steps_of_chunk(self) -> None:
        self.lines += [
            "step = t0 + r",
            "t = step.to(tl.int64)",
            "in_t = step < steps",
            "lower = step[:, None] > step[None, :]",
            "same = step[:, None] == step[None, :]",
            "# which level two steps meet at: h where the highest bit they differ in is h",
            "apart = tl.where(lower, step[:, None] ^ step[None, :], 0)",
        ]

    def _operands_of_chunk(self) -> None:
        form, lines = self.form, self.lines
        for n, write in enumerate(form.writes):
            lines.append(f"keys_{n} = {self._tile(write.keys[0], form.rows)}")
            if write.value is not None:
                lines.append(f"rows_{n} = {self._tile(write.value, form.columns)}")
            if write.corrects:
                lines.append(f"probe = {self._tile(write.probes[0], form.rows)}")
        for n, read in enumerate(self.reads):
            lines.append(f"query_{n} = {self._tile(read.query, form.rows)}")

    def _decays_of_chunk(self) -> None:
        form, lines = self.form, self.lines
        if self.along == "constant":
            return
        kept = {"none": (), "rows": form.rows, "columns": form.columns}[self.along]
        lines.append("# the decays of each step, of the one before and of the one after")
        for variable, shift in (("decay", 0), ("earlier", -1), ("later", 1)):
            lines.append(f"{variable} = {self._tile(form.factors[0][0], kept, shift, 1)}")
        at = "(r > 0)" if self.along == "none" else "(r > 0)[:, None]"
        lines += [
            f"before = tl.cumprod(tl.where({at}, earlier, 1), 0)",
            "after = tl.cumprod(later, 0, reverse=True)",
            f"total = tl.sum(tl.where({at.replace('>', '==')}, decay * after, 0), 0)",
        ]

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _dot(self, left: str, right: str, exact: bool = False) -> str:
        """A product of two tiles. Half precisions: bf16 operands, f32 ones rounded to tf32 for f16, whose range states
        may leave; `exact` ones keep f32."""
        real, accumulator = self.context.spec.real, triton_type(self.dtype)
        precision = self.options.chunk_precision if self.dtype is DType.F32 else "ieee"
        if real is DType.BF16 and not exact:
            left, right = (f"({side}).to(tl.bfloat16)" for side in (left, right))
        elif real in (DType.F16, DType.BF16):
            precision = "ieee" if exact else "tf32"
        return f'tl.dot({left}, {right}, input_precision="{precision}", out_dtype={accumulator})'

    def _level(self, half: int, name: str) -> str:
        """Products of decays up to the middle of the blocks of two halves, on the side `name` (above or under)."""
        source, at, reverse = {
            "above": ("earlier", f"r % {half} != 0", ""),
            "under": ("later", f"r % {half} != {half - 1}", ", reverse=True"),
        }[name]
        width = {"none": "", "rows": ", BLOCK_K", "columns": ", BLOCK_V"}[self.along]
        at = f"({at})[:, None]" if width else at
        blocks = f"tl.reshape(tl.where({at}, {source}, 1), (BLOCK_T // {half}, {half}{width}))"
        return f"tl.reshape(tl.cumprod({blocks}, 1{reverse}), (BLOCK_T{width or ','}))"

    def _halves(self) -> list[int]:
        return [1 << n for n in range(self.block_t.bit_length() - 1)]

    def _meet(self, half: int) -> str:
        """The pairs of a level."""
        return f"(apart >= {half}) & (apart < {2 * half})"

    def _products(self) -> None:
        self._weights()
        if self.probe is not None:
            self._system(self.probe)
        for n, read in enumerate(self.reads):
            self._read_out(n, read.name)
        self._next_state()

    def _next_state(self) -> None:
        key, row = ("{key} * after", "{row}") if self.along == "rows" else ("{key}", "{row}")
        if self.along == "columns":
            row = "{row} * after"
        elif self.along == "none":
            key = "{key} * after[:, None]"
        kept = {"none": "total * ", "rows": "total[:, None] * ", "columns": "total[None, :] * ", "constant": ""}
        terms = [f"{kept[self.along]}state"]
        for n, _ in enumerate(self.form.writes):
            left = f"tl.trans({key.format(key=f'keys_{n}')})"
            terms.append(self._dot(left, row.format(row=f"rows_{n}")))
        self.lines.append("# the state after the chunk")
        for n, term in enumerate(terms):
            self.lines.append(f"state {'+' if n else ''}= {term}")

    def _weights(self) -> None:
        """What each earlier step of the chunk counts for in each probe and read: `LEFT_by_N`."""
        lines, writes = self.lines, range(len(self.form.writes))
        pairs = [(left, now, n) for left, now in self.lefts for n in writes]
        if self.along in ("rows", "none"):
            lines.append("# decays between two steps, by levels: each pair meets in the middle of a block")
        if self.along == "rows":
            for left, _, n in pairs:
                lines.append(f"{left}_by_{n} = tl.zeros((BLOCK_T, BLOCK_T), {triton_type(self.dtype)})")
            for half in self._halves():
                above, under = ("1", "1") if half == 1 else ("above", "under")
                if half > 1:
                    lines += [f"{side} = {self._level(half, side)}" for side in ("above", "under")]
                for left, now, n in pairs:
                    scaled = f"{left} * decay" if now else left
                    scaled, key = (
                        (scaled, f"keys_{n}") if above == "1" else (f"{scaled} * {above}", f"keys_{n} * {under}")
                    )
                    product = self._dot(scaled, f"tl.trans({key})")
                    lines.append(f"{left}_by_{n} += tl.where({self._meet(half)}, {product}, 0)")
            for left, now, n in pairs:
                if now:
                    met = f"tl.sum({left} * keys_{n}, 1)[:, None]"
                    lines.append(f"{left}_by_{n} += tl.where(same, {met}, 0)")
            return
        if self.along == "none":
            for half in self._halves():
                above, under = ("1.0", "1.0") if half == 1 else ("above[:, None]", "under[None, :]")
                if half > 1:
                    lines += [f"{side} = {self._level(half, side)}" for side in ("above", "under")]
                word = "pairs =" if half == 1 else "pairs +="
                lines.append(f"{word} tl.where({self._meet(half)}, {above} * {under}, 0.0)")
        for left, now, n in pairs:
            product = self._dot(left, f"tl.trans(keys_{n})")
            lines.append(f"raw = {product}")
            if self.along == "columns":
                lines.append(f"{left}_by_{n} = raw")
                continue
            between = "raw * pairs" if self.along == "none" else "raw"
            if now:
                between = f"{between} * decay[:, None]" if self.along == "none" else between
                lines.append(f"{left}_by_{n} = tl.where(lower, {between}, tl.where(same, raw, 0))")
            else:
                lines.append(f"{left}_by_{n} = tl.where(lower, {between}, 0)")

    def _from_state(self, left: str, now: bool) -> str:
        if self.along == "rows":
            left = f"{left} * before * decay" if now else f"{left} * before"
        elif self.along == "none":
            left = f"{left} * (before * decay)[:, None]" if now else f"{left} * before[:, None]"
        return self._dot(left, "state")

    def _system(self, probe: int) -> None:
        """The rows that a delta rule writes: the unit lower triangular system, solved by its inverse."""
        lines, form = self.lines, self.form
        lines.append("# the rows that are written depend on each other: a unit lower triangular system")
        own = f"rows_{probe}"
        start = self._from_state("probe", False)
        lines.append(f"{own} += {start}" if form.writes[probe].value is not None else f"{own} = {start}")
        for n, _ in enumerate(form.writes):
            if n != probe:
                lines.append(f"{own} += {self._dot(f'probe_by_{n}', f'rows_{n}')}")
        lines.append(f"inverse = tl.where(same, 1.0, 0.0).to({triton_type(self.dtype)})")
        for half in self._halves():
            below = f"tl.where({self._meet(half)}, probe_by_{probe}, 0)"
            lines.append(f"level = {self._dot(below, 'inverse', exact=True)}")
            lines.append(f"inverse += {self._dot('inverse', 'level', exact=True)}")
        lines.append(f"{own} = {self._dot('inverse', own, exact=True)}")

    def _read_out(self, number: int, name: str) -> None:
        lines, left, now = self.lines, f"query_{number}", self.now[number]
        out = f"out_{number}"
        lines.append(f"{out} = {self._from_state(left, now)}")
        if self.along == "columns":
            lines.append(f"{out} *= before")
            for half in self._halves():
                above, under = ("1", "1") if half == 1 else ("above", "under")
                if half > 1:
                    lines += [f"{side} = {self._level(half, side)}" for side in ("above", "under")]
                for n, _ in enumerate(self.form.writes):
                    row = f"rows_{n}" if under == "1" else f"rows_{n} * under"
                    met = self._dot(f"tl.where({self._meet(half)}, {left}_by_{n}, 0)", row)
                    lines.append(f"{out} += {met}" if above == "1" else f"{out} += above * {met}")
            if now:
                lines.append(f"{out} *= decay")
                for n, _ in enumerate(self.form.writes):
                    lines.append(f"{out} += tl.sum({left} * keys_{n}, 1)[:, None] * rows_{n}")
        else:
            for n, _ in enumerate(self.form.writes):
                lines.append(f"{out} += {self._dot(f'{left}_by_{n}', f'rows_{n}')}")
        buffer = self.context.plan.buffer(name)
        columns = self.form.columns
        address = self._address(buffer, dict.fromkeys(columns, (columns, "v", "[None, :]")), "t[:, None]")
        dtype = triton_type(stored(buffer, self.context.spec.real))
        lines.append(f"tl.store({address}, {out}.to({dtype}), mask=in_t[:, None] & in_v[None, :])")
