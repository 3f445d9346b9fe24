"""The C function of a `Chunk` stage: a matrix state through chunks of steps by products of small matrices.

A call takes some sequences and some shared places (heads), each with its own state. A chunk is packed first: keys
turned so that steps lie side by side, everything padded to whole vectors and the last chunk to whole steps (decay 1,
all else 0). Then come the products of `prelude/chunk.h`. Where a chunk gives what is not finite it is done again step
by step, so that an infinity reaches no step before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from math import prod

from recurc.backends.base import Specialization
from recurc.backends.cpu.names import STORED, Spelling
from recurc.backends.emit.text import Text
from recurc.ir import Const, Contract, Expr, Read
from recurc.plan import Chunk, Plan
from recurc.targets import CHUNK_STEPS
from recurc.types import Dims

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long first, long last"
LARGEST = 1 << 20  # bytes a thread keeps on its stack
_ALONG = {"none": 0, "rows": 1, "columns": 2}


def helpers() -> str:
    """The functions that every chunk calls."""
    text = resources.files("recurc.backends.cpu.prelude").joinpath("chunk.h").read_text(encoding="utf-8")
    return f"enum {{ STEPS = {CHUNK_STEPS} }};  // of a chunk\n\n{text.strip()}"


def chunk_problems(stage: Chunk, spec: Specialization) -> list[str]:
    """What of a chunk has no C form, in words."""
    (carry,) = stage.carries
    real = spec.real.accumulator
    if spec.dtype(carry.dtype).accumulator is not real:
        return [f"the chunkwise state {carry.name} is {carry.dtype.value}, unlike the reals around it"]
    size = prod(spec.size(d) for d in (*stage.form.rows, *stage.form.columns)) * real.itemsize
    if 4 * size > LARGEST:
        return [f"the chunkwise state {carry.name} is too large to be kept close: {size:,} bytes for each sequence"]
    return []


@dataclass(frozen=True)
class _Packed:
    """An operand in a local array of STEPS rows (or, turned, of STEPS columns)."""

    name: str
    source: Expr
    dims: Dims
    width: str
    turned: bool = False


def call_chunk(stage: Chunk, spell: Spelling, function: str, text: Text) -> None:
    """The calls of the stage's function: sequences and heads are dealt to the threads."""
    count = spell.count(stage.form.shared)
    with text.braces("if (by_batch)", "} else {"):
        text(f"{function}(&self, b0, b1, t0, t1, 0, {count});")
    inner = Text(1)
    inner("long first, last;", f"rc_split(batch * {count}, 1, thread, count, &first, &last);")
    with inner.braces("for (long work = first; work < last; work++)"):
        inner(f"const long item = work / ({count}), place = work % ({count});")
        inner(f"{function}(&self, item, item + 1, t0, t1, place, place + 1);")
    inner("RC_BARRIER")
    text.block(inner)
    text("}")


def print_chunk(stage: Chunk, plan: Plan, spell: Spelling, function: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1, shared places first..last."""
    return _Printer(stage, plan, spell, function).run()


class _Printer:
    def __init__(self, stage: Chunk, plan: Plan, spell: Spelling, function: str) -> None:
        self.stage, self.form, self.spell, self.function = stage, stage.form, spell, function
        self.text = Text()
        self.kept = {"none": (), "rows": self.form.rows, "columns": self.form.columns}[self.form.decay_along]
        self.decays = not isinstance(self.form.decay, Const)
        self.along = self.form.decay_along if self.decays else "constant"
        self.packed: list[_Packed] = []
        self.reads = [(e.name, e.expr) for e in stage.reads if isinstance(e.expr, Contract)]
        self.now = [int(isinstance(e.right, Read) and not e.right.lag) for _, e in self.reads]
        self.probes = [n for n, w in enumerate(self.form.writes) if w.probe is not None]

    def run(self) -> str:
        text, form = self.text, self.form
        over = f"rows {', '.join(form.rows)}, columns {', '.join(form.columns)}"
        text(f"// Chunks of steps by products of matrices; {form.state} has {over}.")
        with text.braces(f"static void {self.function}({SIGNATURE})"):
            self._arrays()
            with (
                text.braces("for (long b = b0; b < b1; b++)"),
                text.braces("for (long item = first; item < last; item++)"),
            ):
                self._places()
                self._copy_state("in")
                with text.braces("for (long t = t0; t < t1; t += STEPS)"):
                    text("const long count = t1 - t < STEPS ? t1 - t : STEPS;")
                    for operand in self.packed:
                        self._pack(operand)
                    for n, _ in enumerate(form.writes):
                        text(f"memcpy(rows_{n}, value_{n}, sizeof rows_{n});")
                    self._whole_chunk()
                    self._by_steps()
                    text("{ real *const done = state; state = next; next = done; }")
                    for n, (name, _) in enumerate(self.reads):
                        self._store(n, name)
                self._copy_state("out")
        return str(text)

    # --- local arrays -----------------------------------------------------------------------------------------------

    def _arrays(self) -> None:
        text, form = self.text, self.form
        rows, columns = self.spell.count(form.rows), self.spell.count(form.columns)
        text(f"enum {{ rows = {rows}, columns = {columns}, high = PADDED(rows), wide = PADDED(columns) }};")
        text("real states[2][rows * wide] ALIGNED, scaled[STEPS * high] ALIGNED;")
        text("memset(states, 0, sizeof states);", "(void)scaled;")
        if self.decays:
            width = {"none": "1", "rows": "high", "columns": "wide"}[self.along]
            text(f"real decay[STEPS * {width}] ALIGNED, before[(STEPS + 1) * {width}] ALIGNED;")
            text(f"for (long n = 0; n < STEPS * {width}; n++) decay[n] = 1;")
            self.packed.append(_Packed("decay", form.decay, self.kept, width))
            if self.along == "none":
                text("real pairs[(STEPS + 1) * STEPS] ALIGNED;")
        for n, write in enumerate(form.writes):
            moved = f", moved_{n}[rows * STEPS] ALIGNED" if self.decays and self.along != "columns" else ""
            text(f"real keys_{n}[rows * STEPS] ALIGNED{moved};")
            text(f"real value_{n}[STEPS * wide] ALIGNED, rows_{n}[STEPS * wide] ALIGNED;")
            text(f"memset(value_{n}, 0, sizeof value_{n});")
            self.packed.append(_Packed(f"keys_{n}", write.key, form.rows, "STEPS", turned=True))
            if write.value is not None:
                self.packed.append(_Packed(f"value_{n}", write.value, form.columns, "wide"))
            if write.probe is not None:
                self._left(f"probe_{n}", write.probe)
        for n, (_, read) in enumerate(self.reads):
            text(f"real out_{n}[STEPS * wide] ALIGNED;")
            self._left(f"query_{n}", read.left)

    def _left(self, name: str, source: Expr) -> None:
        self.text(f"real {name}[STEPS * high] ALIGNED;", f"memset({name}, 0, sizeof {name});")
        for n, _ in enumerate(self.form.writes):
            self.text(f"real {name}_by_{n}[STEPS * STEPS] ALIGNED;")
        self.packed.append(_Packed(name, source, self.form.rows, "high"))

    # --- memory -----------------------------------------------------------------------------------------------------

    def _places(self) -> None:
        """The places along the shared dims, and the state's own arrays."""
        text, rest = self.text, "item"
        shared = self.form.shared
        for n, dim in enumerate(shared):
            inner = [self.spell.size(d) for d in shared[n + 1 :]]
            place = f"{rest} / ({' * '.join(inner)})" if inner else rest
            text(f"const long place_{n} = {place}{f' % {self.spell.size(dim)}' if n else ''};")
        if not shared:
            text("(void)item;")
        text("real *state = states[0], *next = states[1];")

    def _offset(self, dims: Dims, own: dict[str, str]) -> str:
        """Where an element lies in a contiguous array over `dims`: shared dims at this item's place, others as said."""
        terms: list[str] = []
        for axis, dim in enumerate(dims):
            at = own.get(dim) or f"place_{self.form.shared.index(dim)}"
            terms.append(" * ".join([at, *(self.spell.size(d) for d in dims[axis + 1 :])]))
        return " + ".join(terms) or "0"

    def _over(self, dims: Dims, body: str, letter: str) -> None:
        """Loops over `dims`; `{n}` in the body is the place in all of them, counted as one."""
        text = self.text
        names = {d: f"{letter}{n}" for n, d in enumerate(dims)}
        place = ""
        for dim in dims:
            place = f"({place}) * {self.spell.size(dim)} + {names[dim]}" if place else names[dim]
        heads_ = [f"for (long {names[d]} = 0; {names[d]} < {self.spell.size(d)}; {names[d]}++)" for d in dims]
        text(" ".join([*heads_, body.replace("{n}", f"({place})" if len(dims) > 1 else place or "0")]))

    def _pack(self, operand: _Packed) -> None:
        source, spell, text = operand.source, self.spell, self.text
        assert isinstance(source, Read)
        buffer = spell.buffers[source.name]
        kind, field = spell.stored(source.name), spell.field(source.name)
        own = {d: f"n{i}" for i, d in enumerate(operand.dims)}
        empty = "1" if operand.name == "decay" else "0"
        to = f"{{n}} * {operand.width} + i" if operand.turned else f"i * {operand.width} + {{n}}"
        with text.braces("for (long i = 0; i < count; i++)"):
            where = f"AT(call->{field}, {kind}, b, t + i)" if buffer.has_time else f"ROW(call->{field}, {kind}, b)"
            text(f"const {kind} *from = {where};")
            self._over(operand.dims, f"{operand.name}[{to}] = from[{self._offset(buffer.dims, own)}];", "n")
        with text.braces("for (long i = count; i < STEPS; i++)"):
            self._over(operand.dims, f"{operand.name}[{to}] = {empty};", "n")

    def _copy_state(self, which: str) -> None:
        (carry,) = self.stage.carries
        text, spell, form = self.text, self.spell, self.form
        field, kind = spell(f"{carry.name}@{which}"), STORED[spell.spec.dtype(carry.dtype).accumulator]
        own = {d: f"n{i}" for i, d in enumerate((*form.rows, *form.columns))}
        row, column = self._count(form.rows, 0), self._count(form.columns, len(form.rows))
        outside = self._offset(carry.dims, own)
        local, memory = f"state[({row}) * wide + {column}]", f"memory[{outside}]"
        with text.braces(f"if (call->{field}.data)"):
            text(f"{'const ' if which == 'in' else ''}{kind} *memory = ROW(call->{field}, {kind}, b);")
            body = f"{local} = {memory};" if which == "in" else f"{memory} = {local};"
            self._over((*form.rows, *form.columns), body, "n")

    def _count(self, dims: Dims, first: int) -> str:
        place = ""
        for n, dim in enumerate(dims, first):
            place = f"({place}) * {self.spell.size(dim)} + n{n}" if place else f"n{n}"
        return place

    def _store(self, number: int, name: str) -> None:
        spell, text = self.spell, self.text
        buffer, kind = spell.buffers[name], spell.stored(name)
        own = {d: f"n{i}" for i, d in enumerate(self.form.columns)}
        with text.braces("for (long i = 0; i < count; i++)"):
            text(f"{kind} *to = AT(call->{spell.field(name)}, {kind}, b, t + i);")
            self._over(
                self.form.columns, f"to[{self._offset(buffer.dims, own)}] = out_{number}[i * wide + {{n}}];", "n"
            )

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _whole_chunk(self) -> None:
        text, form = self.text, self.form
        width = {"none": "1", "rows": "high", "columns": "wide", "constant": ""}[self.along]
        if self.decays:
            text(f"rc_before(before, decay, {width});")
        if self.along == "none":
            text("rc_pairs(pairs, decay);")
        self._all_weights()
        for n in self.probes:
            self._from_state(f"rows_{n}", f"probe_{n}", 0, add=True)
        if self.probes:
            with text.braces("for (long i = 1; i < STEPS; i++)"):
                for n in self.probes:
                    for m, _ in enumerate(form.writes):
                        left = f"rows_{n} + i * wide, wide, probe_{n}_by_{m} + i * STEPS, STEPS"
                        text(f"rc_product({left}, rows_{m}, wide, 1, i, wide, 1);")
        for n, _ in enumerate(self.reads):
            self._from_state(f"out_{n}", f"query_{n}", self.now[n], add=False)
        if self.along == "columns":
            self._by_columns()
        else:
            for n, _ in enumerate(self.reads):
                for m, _ in enumerate(form.writes):
                    self._product(f"out_{n}", f"query_{n}_by_{m}, STEPS", f"rows_{m}", "STEPS, STEPS", True)
        if self.decays:
            text(f"rc_decayed(next, state, before + STEPS * {width}, rows, wide, {_ALONG[self.along]});")
        else:
            text("memcpy(next, state, sizeof states[0]);")
        for n, _ in enumerate(form.writes):
            moved = "keys" if self.along in ("constant", "columns") else "moved"
            self._product("next", f"{moved}_{n}, STEPS", f"rows_{n}", "rows, STEPS", True)

    def _product(self, out: str, left: str, right: str, sizes: str, add: bool) -> None:
        self.text(f"rc_product({out}, wide, {left}, {right}, wide, {sizes}, wide, {int(add)});")

    def _from_state(self, out: str, left: str, now: int, add: bool) -> None:
        """`out` (+)= left . state, with the decays in between."""
        after = {"none": " + 1", "rows": " + high", "columns": " + wide", "constant": ""}[self.along] if now else ""
        if self.along in ("none", "rows"):
            self.text(f"rc_scaled(scaled, {left}, before{after}, high, {int(self.along == 'none')});")
            left = "scaled"
        self._product(out, f"{left}, high", "state", "STEPS, rows", add)
        if self.along == "columns":
            self.text(f"rc_scaled({out}, {out}, before{after}, wide, 0);")

    def _all_weights(self) -> None:
        text = self.text
        lefts = [(f"probe_{n}", 0) for n in self.probes]
        lefts += [(f"query_{n}", now) for n, now in enumerate(self.now)]
        for m, _ in enumerate(self.form.writes):
            if self.along == "rows":
                text(f"memcpy(moved_{m}, keys_{m}, sizeof moved_{m});")
                with text.braces(""):
                    self._pointers(
                        left=[name for name, _ in lefts], weights=[f"{name}_by_{m}" for name, _ in lefts],
                        now=[now for _, now in lefts],
                    )  # fmt: skip
                    count = f"{len(lefts)}, left, high, weights, now"
                    text(f"rc_weights_by_rows(moved_{m}, decay, high, rows, {count});")
                continue
            pairs = "pairs" if self.along == "none" else "0"
            for name, now in lefts:
                text(f"rc_weights({name}_by_{m}, {name}, high, keys_{m}, rows, {pairs}, {now});")
            if self.along == "none":
                text(
                    "for (long k = 0; k < rows; k++) for (long j = 0; j < STEPS; j++) "
                    f"moved_{m}[k * STEPS + j] = keys_{m}[k * STEPS + j] * pairs[STEPS * STEPS + j];"
                )

    def _pointers(self, now: list[int], **arrays: list[str]) -> None:
        for name, values in arrays.items():
            kind = "const real *const" if name == "left" else "real *const"
            self.text(f"{kind} {name}[] = {{{', '.join(values) or '0'}}};")
        self.text(f"const int now[] = {{{', '.join(map(str, now)) or '0'}}};")

    def _by_columns(self) -> None:
        text = self.text
        for m, _ in enumerate(self.form.writes):
            with text.braces(""):
                numbers = range(len(self.reads))
                self._pointers(
                    weights=[f"query_{n}_by_{m}" for n in numbers], out=[f"out_{n}" for n in numbers], now=self.now
                )  # fmt: skip
                text(f"rc_reads_by_columns(rows_{m}, decay, wide, {len(self.reads)}, weights, out, now);")

    def _by_steps(self) -> None:
        """The same one step after another, into the same arrays."""
        text, form = self.text, self.form
        checks = [f"rc_all_finite(out_{n}, STEPS * wide)" for n, _ in enumerate(self.reads)]
        text("// Products with zeros make NaNs of infinities: such a chunk goes step by step.")
        with text.braces(f"if (!({' && '.join([*checks, 'rc_all_finite(next, rows * wide)'])}))"):
            for n, _ in enumerate(form.writes):
                text(f"memcpy(rows_{n}, value_{n}, sizeof rows_{n});")
            with text.braces("for (long i = 0; i < count; i++)"):
                text("if (i) { real *const done = state; state = next; next = done; }")
                for n in self.probes:
                    row = f"rows_{n} + i * wide, wide, probe_{n} + i * high, high, state"
                    text(f"rc_product({row}, wide, 1, rows, wide, 1);")
                if self.decays:
                    width = {"none": "1", "rows": "high", "columns": "wide"}[self.along]
                    text(f"rc_decayed(next, state, decay + i * {width}, rows, wide, {_ALONG[self.along]});")
                else:
                    text("memcpy(next, state, sizeof states[0]);")
                for n, _ in enumerate(form.writes):
                    text(f"rc_product(next, wide, keys_{n} + i, STEPS, rows_{n} + i * wide, wide, rows, 1, wide, 1);")
                for n, now in enumerate(self.now):
                    row = f"out_{n} + i * wide, wide, query_{n} + i * high, high, {'next' if now else 'state'}"
                    text(f"rc_product({row}, wide, 1, rows, wide, 0);")
