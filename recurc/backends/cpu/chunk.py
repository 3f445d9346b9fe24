"""The C function of a `Chunk` stage: matrix states through chunks of steps by products of small matrices.

A call takes some sequences and some shared places (heads), each with its own states. A chunk is packed first: keys
turned so that steps lie side by side, everything padded to whole vectors and the last chunk to whole steps (decay 1,
all else 0). Then come the products of `prelude/chunk.h`. Where a chunk gives what is not finite it is done again step
by step, so that an infinity reaches no step before it.
"""

from __future__ import annotations

from importlib import resources
from math import prod

from recurc.backends.base import Specialization
from recurc.backends.cpu.chunk_arrays import Keys, Left, lines_of, met_size, moved, weights_of
from recurc.backends.cpu.chunk_vectors import ChunkVectors
from recurc.backends.cpu.names import Spelling
from recurc.backends.emit.text import Text
from recurc.plan import Chunk, JointChunk
from recurc.targets import CHUNK_STEPS
from recurc.types import Dims

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long first, long last"
LARGEST = 1 << 20  # bytes a thread keeps on its stack
_ALONG = {"none": 0, "rows": 1, "columns": 2}


def helpers(vectors: bool) -> str:
    """The functions that every chunk calls, and those of `vectors` beside them."""
    names = ("chunk.h", "column.h") if vectors else ("chunk.h",)
    folder = resources.files("recurc.backends.cpu.prelude")
    text = "\n\n".join(folder.joinpath(n).read_text(encoding="utf-8").strip() for n in names)
    return f"enum {{ STEPS = {CHUNK_STEPS} }};  // of a chunk\n\n{text.strip()}"


def chunk_problems(stage: Chunk | JointChunk, spec: Specialization) -> list[str]:
    """What of a chunk has no C form, in words."""
    if isinstance(stage, JointChunk):
        return [p for part in stage.parts for p in chunk_problems(part, spec)]
    form, carry = stage.form, stage.carries[0]
    who, real = ", ".join(form.states), spec.real.accumulator
    if spec.dtype(carry.dtype).accumulator is not real:
        return [f"the chunkwise state {who} is {carry.dtype.value}, unlike the reals around it"]
    size = prod(spec.size(d) for d in (*form.rows, *form.columns)) * real.itemsize
    if 4 * size * len(form.states) > LARGEST:
        return [f"the chunkwise state {who} is too large to be kept close: {size:,} bytes for each sequence"]
    ranks = [prod(spec.size(d) for d in rank) for rank in _ranks(stage)]
    if max(ranks) == 1 and len(form.states) == 1:
        return []
    if form.decay_along != "none":
        return [f"several rows of {who} in one step with a decay along {form.decay_along} by the chunkwise schedule"]
    close = _bytes_close(stage, spec) * real.itemsize
    if close > LARGEST:
        return [f"chunks of {who} with {max(ranks):,} rows in one step, which take {close:,} bytes of a thread's stack"]
    return []


def fits(stage: JointChunk, spec: Specialization) -> bool:
    """Whether a thread can keep close what its parts take together."""
    return sum(_bytes_close(part, spec) for part in stage.parts) * spec.real.accumulator.itemsize <= LARGEST


def _ranks(stage: Chunk) -> list[Dims]:
    return [*(w.rank for w in stage.form.writes), *(r.rank for r in stage.readouts)]


def _bytes_close(stage: Chunk, spec: Specialization) -> int:
    """How many numbers the local arrays of a chunk hold, at most about."""
    form = stage.form
    rows, columns = (prod(spec.size(d) for d in dims) + CHUNK_STEPS for dims in (form.rows, form.columns))
    of = [CHUNK_STEPS * prod(spec.size(d) for d in rank) for rank in _ranks(stage)]
    total = 2 * rows * columns * len(form.states) + CHUNK_STEPS * CHUNK_STEPS * 2 * len(form.paths) + max(of) * rows
    for write, lines in zip(form.writes, of, strict=False):
        total += lines * (rows * (2 + len(set(write.keys)) + len(set(write.probes))) + 2 * columns)
    for lines in of[len(form.writes) :]:
        total += lines * (rows + columns)
    return total + met_size(form, of[: len(form.writes)], of[len(form.writes) :])


def call_chunk(stage: Chunk | JointChunk, spell: Spelling, function: str, text: Text) -> None:
    """The calls of the stage's function: sequences and heads are dealt to the threads."""
    first = stage.parts[0] if isinstance(stage, JointChunk) else stage
    count = spell.count(first.form.shared)
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


def print_chunk(stage: Chunk | JointChunk, spell: Spelling, function: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1, shared places first..last."""
    return _Printer(stage, spell, function).run()


class _Printer(ChunkVectors):
    def __init__(self, stage: Chunk | JointChunk, spell: Spelling, function: str) -> None:
        super().__init__(stage, spell)
        self.function = function

    def run(self) -> str:
        text, form = self.text, self.form
        for m in self.matrices:
            own = m.stage.form
            over = f"rows {', '.join(own.rows)}, columns {', '.join(own.columns)}"
            has = "have" if self.coupled else "has"
            text(f"// Chunks of steps by products of matrices; {', '.join(own.states)} {has} {over}.")
        for part in self.vectors:
            what = "with the keys and queries at hand" if self.matrices else "one step after another"
            text(f"// The vector {part.form.states[0]} takes every step of a chunk, {what}.")
        with text.braces(f"static void {self.function}({SIGNATURE})"):
            self._arrays()
            self._vector_arrays()
            with (
                text.braces("for (long b = b0; b < b1; b++)"),
                text.braces("for (long item = first; item < last; item++)"),
            ):
                self._places()
                self._copy_states("in")
                self._copy_vectors("in")
                with text.braces("for (long t = t0; t < t1; t += STEPS)"):
                    text("const long count = t1 - t < STEPS ? t1 - t : STEPS;")
                    for operand in self.packed:
                        self._pack(operand)
                    if self.matrices:
                        for n, _ in enumerate(form.writes):
                            text(f"memcpy(rows_{n}, value_{n}, sizeof rows_{n});")
                        self._whole_chunk()
                        self._by_steps()
                        self._swap()
                    self._walk_vectors()
                    self._store_reads()
                    self._store_vectors()
                self._copy_states("out")
                self._copy_vectors("out")
        return str(text)

    def _swap(self) -> None:
        for a, _ in enumerate(self.form.states):
            state, new = self._state(a), self._state(a, "next")
            self.text(f"{{ real *const done = {state}; {state} = {new}; {new} = done; }}")

    # --- arithmetic -------------------------------------------------------------------------------------------------

    def _whole_chunk(self) -> None:
        text = self.text
        if self.coupled:
            self._kernel()
        elif self.decays:
            text(f"rc_before(before, decay, {self._width()});")
            if self.along == "none":
                text("rc_pairs(pairs, decay);")
        self._all_weights()
        for left in self.probes:
            self._from_states(left, add=True)
        if self.probes:
            with text.braces("for (long i = 1; i < STEPS; i++)"):
                for left in self.probes:
                    for keys in self.keys:
                        self._earlier_rows(left, keys)
        for left in self.queries:
            self._from_states(left, add=False)
        if self.along == "columns":
            self._by_columns()
        else:
            for left in self.queries:
                for keys in self.keys:
                    self._read_rows(left, keys)
        self._next_states()

    def _width(self) -> str:
        return {"none": "1", "rows": "high", "columns": "wide", "constant": ""}[self.along]

    def _kernel(self) -> None:
        """Products of the factors of several states."""
        text, count = self.text, len(self.form.states)
        places = [(a, b) for a in range(count) for b in range(count)]
        factors = {(a, b) for a, b in places if a == b} | set(self.form.decays)
        text("// what reaches one state of another: before each step, and between any two")
        with text.braces(""):
            for name, kind, some in (
                ("factors", "const real *const", factors), ("before", "real *const", set(self.form.paths)),
                ("pairs", "real *const", set(self.form.paths)),
            ):  # fmt: skip
                one = {"factors": "factor"}.get(name, name)
                values = [f"{one}_{a}_{b}" if (a, b) in some else "0" for a, b in places]
                text(f"{kind} {name}[] = {{{', '.join(values)}}};")
            text(f"rc_kernel(before, pairs, factors, {count});")
        for (a, reached), name in self.sums.items():
            total = " + ".join(f"pairs_{a}_{b}[n]" for b in reached)
            text(f"for (long n = 0; n < (STEPS + 1) * STEPS; n++) {name}[n] = {total};")

    def _next_states(self) -> None:
        text, form = self.text, self.form
        for a, _ in enumerate(form.states):
            new = self._state(a, "next")
            if self.coupled:
                for n, c in enumerate(c for b, c in form.paths if b == a):
                    text(f"rc_scaled_state({new}, state_{c}, before_{a}_{c}[STEPS], rows * wide, {int(n > 0)});")
            elif self.decays:
                last = f"before + STEPS * {self._width()}"
                text(f"rc_decayed(next, state, {last}, rows, wide, {_ALONG[self.along]});")
            else:
                text("memcpy(next, state, sizeof states[0]);")
            for keys in self.keys:
                if not self._reaching(a, keys):
                    continue
                name, lines = keys.name, lines_of(keys.rank)
                if self.along == "none":
                    place = "j" if keys.rank == 1 else f"j / {keys.rank}"
                    name = moved(keys)
                    text(
                        f"for (long k = 0; k < rows; k++) for (long j = 0; j < {lines}; j++) {name}[k * {lines} + j] = "
                        f"{keys.name}[k * {lines} + j] * {self._pairs(a, keys)}[STEPS * STEPS + {place}];"
                    )
                elif self.along == "rows":
                    name = moved(keys)
                self._product(new, f"{name}, {lines}", f"rows_{keys.number}", f"rows, {lines}", True)

    def _product(self, out: str, left: str, right: str, sizes: str, add: bool) -> None:
        self.text(f"rc_product({out}, wide, {left}, {right}, wide, {sizes}, wide, {int(add)});")

    def _from_states(self, left: Left, add: bool) -> None:
        """`out` (+)= left . states, with the decays in between."""
        if self.coupled or (left.rank > 1 and self.decays):
            for c in (c for b, c in self.form.paths if b == left.state):
                before = f"before_{left.state}_{c}" if self.coupled else "before"
                by = f"{before} + {left.now}" if left.now else before
                self.text(f"rc_scaled_lines(scaled, {left.name}, {by}, high, {left.rank});")
                self._product(left.out, "scaled, high", self._state(c), f"{lines_of(left.rank)}, rows", add)
                add = True
            return
        after = f" + {self._width()}" if left.now and self.decays else ""
        name = left.name
        if self.along in ("none", "rows"):
            self.text(f"rc_scaled(scaled, {name}, before{after}, high, {int(self.along == 'none')});")
            name = "scaled"
        self._product(left.out, f"{name}, high", "state", f"{lines_of(left.rank)}, rows", add)
        if self.along == "columns":
            self.text(f"rc_scaled({left.out}, {left.out}, before{after}, wide, 0);")

    def _earlier_rows(self, left: Left, keys: Keys) -> None:
        """What the rows of earlier steps add to those of step i."""
        if not self._reaching(left.state, keys):
            return
        lines = lines_of(keys.rank)
        own, known = f"{left.out} + i * {left.rank} * wide", f"{keys.rank} * i"
        if self._ranked(left, keys):
            self.text(
                f"rc_weights_of_ranks(met, {left.name}, high, {left.rank}, {keys.name}, {keys.rank}, rows, "
                f"{self._pairs(left.state, keys)}, i, i + 1, 0);"
            )
            self.text(
                f"rc_product({own}, wide, met, {lines}, rows_{keys.number}, wide, {left.rank}, {known}, wide, 1);"
            )
            return
        row = f"{left.out} + i * wide, wide, {weights_of(left, keys)} + i * STEPS, STEPS"
        self.text(f"rc_product({row}, rows_{keys.number}, wide, 1, i, wide, 1);")

    def _read_rows(self, left: Left, keys: Keys) -> None:
        """What the rows of a chunk add to a read."""
        if not self._reaching(left.state, keys):
            return
        lines, weights = lines_of(keys.rank), weights_of(left, keys)
        if self._ranked(left, keys):
            weights = "met"
            self.text(
                f"rc_weights_of_ranks(met, {left.name}, high, {left.rank}, {keys.name}, {keys.rank}, rows, "
                f"{self._pairs(left.state, keys)}, 0, STEPS, {left.now});"
            )
        self._product(left.out, f"{weights}, {lines}", f"rows_{keys.number}", f"{lines_of(left.rank)}, {lines}", True)

    def _all_weights(self) -> None:
        text = self.text
        lefts = [*self.probes, *self.queries]
        for keys in self.keys:
            if self.along == "rows":
                text(f"memcpy({moved(keys)}, {keys.name}, sizeof {moved(keys)});")
                with text.braces(""):
                    self._pointers(
                        left=[left.name for left in lefts], weights=[weights_of(left, keys) for left in lefts],
                        now=[left.now for left in lefts],
                    )  # fmt: skip
                    count = f"{len(lefts)}, left, high, weights, now"
                    text(f"rc_weights_by_rows({moved(keys)}, decay, high, rows, {count});")
                continue
            for left in lefts:
                if not self._ranked(left, keys) and self._reaching(left.state, keys):
                    pairs = self._pairs(left.state, keys)
                    operands = f"{left.name}, high, {keys.name}, rows, {pairs}, {left.now}"
                    text(f"rc_weights({weights_of(left, keys)}, {operands});")

    def _pointers(self, now: list[int], **arrays: list[str]) -> None:
        for name, values in arrays.items():
            kind = "const real *const" if name == "left" else "real *const"
            self.text(f"{kind} {name}[] = {{{', '.join(values) or '0'}}};")
        self.text(f"const int now[] = {{{', '.join(map(str, now)) or '0'}}};")

    def _by_columns(self) -> None:
        text = self.text
        for keys in self.keys:
            with text.braces(""):
                self._pointers(
                    weights=[weights_of(left, keys) for left in self.queries], out=[left.out for left in self.queries],
                    now=[left.now for left in self.queries],
                )  # fmt: skip
                moved = f"rows_{keys.number}, decay, wide, {len(self.queries)}"
                text(f"rc_reads_by_columns({moved}, weights, out, now);")

    def _by_steps(self) -> None:
        """The same one step after another, into the same arrays."""
        text, form = self.text, self.form
        checks = [f"rc_all_finite({left.out}, {lines_of(left.rank)} * wide)" for left in self.queries]
        checks += [f"rc_all_finite({self._state(a, 'next')}, rows * wide)" for a, _ in enumerate(form.states)]
        text("// Products with zeros make NaNs of infinities: such a chunk goes step by step.")
        with text.braces(f"if (!({' && '.join(checks)}))"):
            for n, _ in enumerate(form.writes):
                text(f"memcpy(rows_{n}, value_{n}, sizeof rows_{n});")
            with text.braces("for (long i = 0; i < count; i++)"):
                with text.braces("if (i)"):
                    self._swap()
                for left in self.probes:
                    self._step_of(left, self._state(left.state), add=True)
                for a, _ in enumerate(form.states):
                    self._step_on(a)
                for left in self.queries:
                    self._step_of(left, self._state(left.state, "next" if left.now else "state"), add=False)

    def _step_of(self, left: Left, state: str, add: bool) -> None:
        """Step i of `out` (+)= left . state."""
        by = "" if left.rank == 1 else f"{left.rank} * "
        row = f"{left.out} + {by}i * wide, wide, {left.name} + {by}i * high, high, {state}"
        self.text(f"rc_product({row}, wide, {left.rank}, rows, wide, {int(add)});")

    def _step_on(self, a: int) -> None:
        """State a after step i."""
        text, new = self.text, self._state(a, "next")
        if self.coupled:
            factors = [b for b, f in enumerate(self.form.factors[a]) if f is not None or a == b]
            for n, b in enumerate(factors):
                text(f"rc_scaled_state({new}, state_{b}, factor_{a}_{b}[i], rows * wide, {int(n > 0)});")
        elif self.decays:
            text(f"rc_decayed(next, state, decay + i * {self._width()}, rows, wide, {_ALONG[self.along]});")
        else:
            text("memcpy(next, state, sizeof states[0]);")
        for keys in self.keys:
            if a in keys.into:
                by = "" if keys.rank == 1 else f"{keys.rank} * "
                operands = f"{keys.name} + {by}i, {lines_of(keys.rank)}, rows_{keys.number} + {by}i * wide"
                text(f"rc_product({new}, wide, {operands}, wide, rows, {keys.rank}, wide, 1);")
