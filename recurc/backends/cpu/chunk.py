"""The C function of a `Chunk` stage: matrix states through chunks of steps by products of small matrices.

A call takes some sequences and some shared places (heads), each with its own states. A chunk is packed first: keys
turned so that steps lie side by side, everything padded to whole vectors and the last chunk to whole steps (decay 1,
all else 0). Then come the products of `prelude/chunk.h`. Where a chunk gives what is not finite it is done again step
by step, so that an infinity reaches no step before it.

Rows of one step (the rank of a write or a query) lie side by side within the step. Several states have arrays of their
own, numbered, and `pairs_A_B` holds what reaches state A of what was written to state B.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from math import prod

from recurc.backends.base import Specialization
from recurc.backends.cpu.names import STORED, Spelling
from recurc.backends.emit.text import Text
from recurc.facts import LowRank
from recurc.ir import Const, Expr, Read
from recurc.plan import Chunk, Plan
from recurc.targets import CHUNK_STEPS
from recurc.types import Dims, DType

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long first, long last"
LARGEST = 1 << 20  # bytes a thread keeps on its stack
_ALONG = {"none": 0, "rows": 1, "columns": 2}


def helpers() -> str:
    """The functions that every chunk calls."""
    text = resources.files("recurc.backends.cpu.prelude").joinpath("chunk.h").read_text(encoding="utf-8")
    return f"enum {{ STEPS = {CHUNK_STEPS} }};  // of a chunk\n\n{text.strip()}"


def chunk_problems(stage: Chunk, spec: Specialization) -> list[str]:
    """What of a chunk has no C form, in words."""
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


def _ranks(stage: Chunk) -> list[Dims]:
    return [*(w.rank for w in stage.form.writes), *(r.rank for r in stage.readouts)]


def _bytes_close(stage: Chunk, spec: Specialization) -> int:
    """How many numbers the local arrays of a chunk hold, about."""
    form = stage.form
    rows, columns = (prod(spec.size(d) for d in dims) + CHUNK_STEPS for dims in (form.rows, form.columns))
    of = [CHUNK_STEPS * prod(spec.size(d) for d in rank) for rank in _ranks(stage)]
    total = 2 * rows * columns * len(form.states) + CHUNK_STEPS * CHUNK_STEPS * 2 * len(form.paths) + max(of) * rows
    for write, lines in zip(form.writes, of, strict=False):
        total += lines * (rows * (2 + len(set(write.keys)) + len(set(write.probes))) + 2 * columns)
    for lines in of[len(form.writes) :]:
        total += lines * (rows + columns)
    return total + _met_size(form, of[: len(form.writes)], of[len(form.writes) :])


def _met_size(form: LowRank, writes: list[int], reads: list[int]) -> int:
    """Numbers in the array that holds what rows of a chunk count for: all of a chunk's reads, or one step's rows."""
    whole = [r * w for r in reads for w in writes]
    own = [n // CHUNK_STEPS * w for n, write in zip(writes, form.writes, strict=True) if write.corrects for w in writes]
    return max((*whole, *own), default=0)


@dataclass(frozen=True)
class _Packed:
    """An operand in a local array of STEPS rows (or, turned, of STEPS columns), for each place along its rank. A source
    that is no buffer is a number. `empty` stands at steps behind the last one."""

    name: str
    source: Expr
    rank: Dims
    dims: Dims
    width: str
    turned: bool = False
    empty: int = 0


@dataclass(frozen=True)
class _Left:
    """A probe or query of a state, with so many rows in a step, which are added to `out`; of the state after the step
    if `now`."""

    name: str
    state: int
    rank: int
    out: str
    now: int


@dataclass(frozen=True)
class _Keys:
    """Keys of write `number`, with so many rows in a step, and the states they go into."""

    name: str
    number: int
    rank: int
    into: tuple[int, ...]


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
        form = self.form
        self.text = Text()
        self.kept = {"none": (), "rows": form.rows, "columns": form.columns}[form.decay_along]
        self.coupled = len(form.states) > 1
        self.decays = self.coupled or not isinstance(form.factors[0][0], Const)
        self.along = form.decay_along if self.decays else "constant"
        self.packed: list[_Packed] = []
        self.reads = stage.readouts
        self.ranks = [self._size(w.rank) for w in form.writes]
        self.keys: list[_Keys] = []
        self.probes: list[_Left] = []
        self.queries = [
            _Left(f"query_{n}", r.state, self._size(r.rank), f"out_{n}", int(r.now)) for n, r in enumerate(self.reads)
        ]
        for n, write in enumerate(form.writes):
            places = {k: tuple(a for a, e in enumerate(write.keys) if e == k) for k in write.keys if k is not None}
            for k, into in enumerate(places.values()):
                self.keys.append(_Keys(f"keys_{n}{f'_{k}' if k else ''}", n, self.ranks[n], into))
            some = [a for a, p in enumerate(write.probes) if p is not None]
            names = {a: f"probe_{n}{f'_{a}' if len(some) > 1 else ''}" for a in some}
            self.probes += [_Left(name, a, self.ranks[n], f"rows_{n}", 0) for a, name in names.items()]
        self.sums: dict[tuple[int, tuple[int, ...]], str] = {}  # names of sums of pairs

    def run(self) -> str:
        text, form = self.text, self.form
        over = f"rows {', '.join(form.rows)}, columns {', '.join(form.columns)}"
        has = "have" if self.coupled else "has"
        text(f"// Chunks of steps by products of matrices; {', '.join(form.states)} {has} {over}.")
        with text.braces(f"static void {self.function}({SIGNATURE})"):
            self._arrays()
            with (
                text.braces("for (long b = b0; b < b1; b++)"),
                text.braces("for (long item = first; item < last; item++)"),
            ):
                self._places()
                self._copy_states("in")
                with text.braces("for (long t = t0; t < t1; t += STEPS)"):
                    text("const long count = t1 - t < STEPS ? t1 - t : STEPS;")
                    for operand in self.packed:
                        self._pack(operand)
                    for n, _ in enumerate(form.writes):
                        text(f"memcpy(rows_{n}, value_{n}, sizeof rows_{n});")
                    self._whole_chunk()
                    self._by_steps()
                    self._swap()
                    for n, read in enumerate(self.reads):
                        self._store(n, read.name, read.rank)
                self._copy_states("out")
        return str(text)

    def _size(self, dims: Dims) -> int:
        return prod(self.spell.extent(d) for d in dims)

    def _state(self, a: int, name: str = "state") -> str:
        return f"{name}_{a}" if self.coupled else name

    def _swap(self) -> None:
        for a, _ in enumerate(self.form.states):
            state, new = self._state(a), self._state(a, "next")
            self.text(f"{{ real *const done = {state}; {state} = {new}; {new} = done; }}")

    # --- local arrays -----------------------------------------------------------------------------------------------

    def _arrays(self) -> None:
        text, form = self.text, self.form
        rows, columns = self.spell.count(form.rows), self.spell.count(form.columns)
        text(f"enum {{ rows = {rows}, columns = {columns}, high = PADDED(rows), wide = PADDED(columns) }};")
        most = max(p.rank for p in (*self.probes, *self.queries)) if self.probes or self.queries else 1
        scaled = f"scaled[{_lines(most)} * high] ALIGNED"
        if self.coupled:
            count = len(form.states)
            text(f"real states[2][{count}][rows * wide] ALIGNED, {scaled};")
        else:
            text(f"real states[2][rows * wide] ALIGNED, {scaled};")
        text("memset(states, 0, sizeof states);", "(void)scaled;")
        if self.coupled:
            self._kernel_arrays()
        elif self.decays:
            width = {"none": "1", "rows": "high", "columns": "wide"}[self.along]
            text(f"real decay[STEPS * {width}] ALIGNED, before[(STEPS + 1) * {width}] ALIGNED;")
            text(f"for (long n = 0; n < STEPS * {width}; n++) decay[n] = 1;")
            (decay,) = form.decays.values()
            self.packed.append(_Packed("decay", decay, (), self.kept, width, empty=1))
            if self.along == "none":
                text("real pairs[(STEPS + 1) * STEPS] ALIGNED;")
        met = _met_size(form, [CHUNK_STEPS * r for r in self.ranks], [CHUNK_STEPS * q.rank for q in self.queries])
        if self._by_ranks():
            text(f"real met[{met}] ALIGNED;")
        for keys in self.keys:
            lines = _lines(keys.rank)
            moved = f", {_moved(keys)}[rows * {lines}] ALIGNED" if self.decays and self.along != "columns" else ""
            text(f"real {keys.name}[rows * {lines}] ALIGNED{moved};")
            write = form.writes[keys.number]
            source = write.keys[keys.into[0]]
            assert source is not None
            self.packed.append(_Packed(keys.name, source, write.rank, form.rows, lines, turned=True))
        for n, write in enumerate(form.writes):
            lines = _lines(self.ranks[n])
            text(f"real value_{n}[{lines} * wide] ALIGNED, rows_{n}[{lines} * wide] ALIGNED;")
            text(f"memset(value_{n}, 0, sizeof value_{n});")
            if write.value is not None:
                self.packed.append(_Packed(f"value_{n}", write.value, write.rank, form.columns, "wide"))
        sources = [p for w in form.writes for p in w.probes if p is not None] + [r.query for r in self.reads]
        ranks = [w.rank for w in form.writes for p in w.probes if p is not None] + [r.rank for r in self.reads]
        for left, source, rank in zip((*self.probes, *self.queries), sources, ranks, strict=True):
            if left in self.queries:
                text(f"real {left.out}[{_lines(left.rank)} * wide] ALIGNED;")
            text(f"real {left.name}[{_lines(left.rank)} * high] ALIGNED;")
            text(f"memset({left.name}, 0, sizeof {left.name});")
            for keys in self.keys:
                if not self._ranked(left, keys) and self._reaching(left.state, keys):
                    text(f"real {_weights(left, keys)}[STEPS * STEPS] ALIGNED;")
            self.packed.append(_Packed(left.name, source, rank, form.rows, "high"))

    def _dtype(self) -> DType:
        return self.stage.carries[0].dtype

    def _kernel_arrays(self) -> None:
        """Factors of several states, and their products before each step and between each two. A state has a factor of
        itself even where it is 0, since it stays as it is behind the last step."""
        text, form = self.text, self.form
        for a, b in dict.fromkeys((*((a, a) for a, _ in enumerate(form.states)), *form.decays)):
            text(f"real factor_{a}_{b}[STEPS] ALIGNED;")
            source = form.factors[a][b] or Const(0.0, self._dtype())
            self.packed.append(_Packed(f"factor_{a}_{b}", source, (), (), "1", empty=int(a == b)))
        for a, b in form.paths:
            text(f"real before_{a}_{b}[STEPS + 1] ALIGNED, pairs_{a}_{b}[(STEPS + 1) * STEPS] ALIGNED;")
        for keys in self.keys:
            for a, _ in enumerate(form.states):
                reached = self._reaching(a, keys)
                if len(reached) > 1:
                    self.sums[a, reached] = self._pairs(a, keys)
        for name in dict.fromkeys(self.sums.values()):
            text(f"real {name}[(STEPS + 1) * STEPS] ALIGNED;")

    def _reaching(self, a: int, keys: _Keys) -> tuple[int, ...]:
        """The states through which what these keys write reaches state a."""
        return tuple(b for b in keys.into if (a, b) in self.form.paths)

    def _pairs(self, a: int, keys: _Keys) -> str:
        """The products of factors by which what these keys write reaches state a."""
        if not self.coupled:
            return "pairs" if self.along == "none" else "0"
        reached = self._reaching(a, keys)
        return f"pairs_{a}_{'_'.join(map(str, reached))}"

    def _ranked(self, left: _Left, keys: _Keys) -> bool:
        return max(left.rank, keys.rank) > 1

    def _by_ranks(self) -> bool:
        return any(self._ranked(left, keys) for left in (*self.probes, *self.queries) for keys in self.keys)

    # --- memory -----------------------------------------------------------------------------------------------------

    def _places(self) -> None:
        """The places along the shared dims, and the states' own arrays."""
        text, rest = self.text, "item"
        shared = self.form.shared
        for n, dim in enumerate(shared):
            inner = [self.spell.size(d) for d in shared[n + 1 :]]
            place = f"{rest} / ({' * '.join(inner)})" if inner else rest
            text(f"const long place_{n} = {place}{f' % {self.spell.size(dim)}' if n else ''};")
        if not shared:
            text("(void)item;")
        for a, _ in enumerate(self.form.states):
            at = f"[{a}]" if self.coupled else ""
            text(f"real *{self._state(a)} = states[0]{at}, *{self._state(a, 'next')} = states[1]{at};")

    def _offset(self, dims: Dims, own: dict[str, str]) -> str:
        """Where an element lies in a contiguous array over `dims`: shared dims at this item's place, others as said."""
        terms: list[str] = []
        for axis, dim in enumerate(dims):
            at = own.get(dim) or f"place_{self.form.shared.index(dim)}"
            terms.append(" * ".join([at, *(self.spell.size(d) for d in dims[axis + 1 :])]))
        return " + ".join(terms) or "0"

    def _over(self, dims: Dims, body: str, rank: Dims = ()) -> None:
        """Loops over `rank` (r0, r1, ...) and `dims` (n0, n1, ...); `{n}` in the body is the place in all of `dims`,
        counted as one, and `{i}` the line of step i at a place along `rank`."""
        names = {d: f"r{n}" for n, d in enumerate(rank)} | {d: f"n{n}" for n, d in enumerate(dims)}
        heads = [f"for (long {v} = 0; {v} < {self.spell.size(d)}; {v}++)" for d, v in names.items()]
        place, line = self._counted(dims, names), self._counted(rank, names, "i")
        place, line = (f"({p})" if " " in p else p for p in (place or "0", line))
        self.text(" ".join([*heads, body.replace("{n}", place).replace("{i}", line)]))

    def _counted(self, dims: Dims, names: dict[str, str], start: str = "") -> str:
        place = start
        for dim in dims:
            inner = f"({place})" if " " in place else place
            place = f"{inner} * {self.spell.size(dim)} + {names[dim]}" if place else names[dim]
        return place

    def _pack(self, operand: _Packed) -> None:
        source, spell, text = operand.source, self.spell, self.text
        to = f"{{n}} * {operand.width} + {{i}}" if operand.turned else f"{{i}} * {operand.width} + {{n}}"
        with text.braces("for (long i = 0; i < count; i++)"):
            if isinstance(source, Read):
                buffer = spell.buffers[source.name]
                kind, field = spell.stored(source.name), spell.field(source.name)
                own = {d: f"n{i}" for i, d in enumerate(operand.dims)} | {
                    d: f"r{i}" for i, d in enumerate(operand.rank)
                }
                where = f"AT(call->{field}, {kind}, b, t + i)" if buffer.has_time else f"ROW(call->{field}, {kind}, b)"
                text(f"const {kind} *from = {where};")
                value = f"from[{self._offset(buffer.dims, own)}]"
            else:
                assert isinstance(source, Const)
                value = f"{source.value}"
            self._over(operand.dims, f"{operand.name}[{to}] = {value};", operand.rank)
        with text.braces("for (long i = count; i < STEPS; i++)"):
            self._over(operand.dims, f"{operand.name}[{to}] = {operand.empty};", operand.rank)

    def _copy_states(self, which: str) -> None:
        text, spell, form = self.text, self.spell, self.form
        for a, carry in enumerate(self.stage.carries):
            field, kind = spell(f"{carry.name}@{which}"), STORED[spell.spec.dtype(carry.dtype).accumulator]
            own = {d: f"n{i}" for i, d in enumerate((*form.rows, *form.columns))}
            row, column = self._counted(form.rows, own), self._counted(form.columns, own)
            outside = self._offset(carry.dims, own)
            local, memory = f"{self._state(a)}[({row}) * wide + {column}]", f"memory[{outside}]"
            with text.braces(f"if (call->{field}.data)"):
                text(f"{'const ' if which == 'in' else ''}{kind} *memory = ROW(call->{field}, {kind}, b);")
                body = f"{local} = {memory};" if which == "in" else f"{memory} = {local};"
                self._over((*form.rows, *form.columns), body)

    def _store(self, number: int, name: str, rank: Dims) -> None:
        spell, text = self.spell, self.text
        buffer, kind = spell.buffers[name], spell.stored(name)
        own = {d: f"n{i}" for i, d in enumerate(self.form.columns)} | {d: f"r{i}" for i, d in enumerate(rank)}
        with text.braces("for (long i = 0; i < count; i++)"):
            text(f"{kind} *to = AT(call->{spell.field(name)}, {kind}, b, t + i);")
            local = f"out_{number}[{{i}} * wide + {{n}}]"
            self._over(self.form.columns, f"to[{self._offset(buffer.dims, own)}] = {local};", rank)

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
                name, lines = keys.name, _lines(keys.rank)
                if self.along == "none":
                    place = "j" if keys.rank == 1 else f"j / {keys.rank}"
                    name = _moved(keys)
                    text(
                        f"for (long k = 0; k < rows; k++) for (long j = 0; j < {lines}; j++) {name}[k * {lines} + j] = "
                        f"{keys.name}[k * {lines} + j] * {self._pairs(a, keys)}[STEPS * STEPS + {place}];"
                    )
                elif self.along == "rows":
                    name = _moved(keys)
                self._product(new, f"{name}, {lines}", f"rows_{keys.number}", f"rows, {lines}", True)

    def _product(self, out: str, left: str, right: str, sizes: str, add: bool) -> None:
        self.text(f"rc_product({out}, wide, {left}, {right}, wide, {sizes}, wide, {int(add)});")

    def _from_states(self, left: _Left, add: bool) -> None:
        """`out` (+)= left . states, with the decays in between."""
        if self.coupled or (left.rank > 1 and self.decays):
            for c in (c for b, c in self.form.paths if b == left.state):
                before = f"before_{left.state}_{c}" if self.coupled else "before"
                by = f"{before} + {left.now}" if left.now else before
                self.text(f"rc_scaled_lines(scaled, {left.name}, {by}, high, {left.rank});")
                self._product(left.out, "scaled, high", self._state(c), f"{_lines(left.rank)}, rows", add)
                add = True
            return
        after = f" + {self._width()}" if left.now and self.decays else ""
        name = left.name
        if self.along in ("none", "rows"):
            self.text(f"rc_scaled(scaled, {name}, before{after}, high, {int(self.along == 'none')});")
            name = "scaled"
        self._product(left.out, f"{name}, high", "state", f"{_lines(left.rank)}, rows", add)
        if self.along == "columns":
            self.text(f"rc_scaled({left.out}, {left.out}, before{after}, wide, 0);")

    def _earlier_rows(self, left: _Left, keys: _Keys) -> None:
        """What the rows of earlier steps add to those of step i."""
        if not self._reaching(left.state, keys):
            return
        lines = _lines(keys.rank)
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
        row = f"{left.out} + i * wide, wide, {_weights(left, keys)} + i * STEPS, STEPS"
        self.text(f"rc_product({row}, rows_{keys.number}, wide, 1, i, wide, 1);")

    def _read_rows(self, left: _Left, keys: _Keys) -> None:
        """What the rows of a chunk add to a read."""
        if not self._reaching(left.state, keys):
            return
        lines, weights = _lines(keys.rank), _weights(left, keys)
        if self._ranked(left, keys):
            weights = "met"
            self.text(
                f"rc_weights_of_ranks(met, {left.name}, high, {left.rank}, {keys.name}, {keys.rank}, rows, "
                f"{self._pairs(left.state, keys)}, 0, STEPS, {left.now});"
            )
        self._product(left.out, f"{weights}, {lines}", f"rows_{keys.number}", f"{_lines(left.rank)}, {lines}", True)

    def _all_weights(self) -> None:
        text = self.text
        lefts = [*self.probes, *self.queries]
        for keys in self.keys:
            if self.along == "rows":
                text(f"memcpy({_moved(keys)}, {keys.name}, sizeof {_moved(keys)});")
                with text.braces(""):
                    self._pointers(
                        left=[left.name for left in lefts], weights=[_weights(left, keys) for left in lefts],
                        now=[left.now for left in lefts],
                    )  # fmt: skip
                    count = f"{len(lefts)}, left, high, weights, now"
                    text(f"rc_weights_by_rows({_moved(keys)}, decay, high, rows, {count});")
                continue
            for left in lefts:
                if not self._ranked(left, keys) and self._reaching(left.state, keys):
                    pairs = self._pairs(left.state, keys)
                    operands = f"{left.name}, high, {keys.name}, rows, {pairs}, {left.now}"
                    text(f"rc_weights({_weights(left, keys)}, {operands});")

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
                    weights=[_weights(left, keys) for left in self.queries], out=[left.out for left in self.queries],
                    now=[left.now for left in self.queries],
                )  # fmt: skip
                moved = f"rows_{keys.number}, decay, wide, {len(self.reads)}"
                text(f"rc_reads_by_columns({moved}, weights, out, now);")

    def _by_steps(self) -> None:
        """The same one step after another, into the same arrays."""
        text, form = self.text, self.form
        checks = [f"rc_all_finite({left.out}, {_lines(left.rank)} * wide)" for left in self.queries]
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

    def _step_of(self, left: _Left, state: str, add: bool) -> None:
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
                operands = f"{keys.name} + {by}i, {_lines(keys.rank)}, rows_{keys.number} + {by}i * wide"
                text(f"rc_product({new}, wide, {operands}, wide, rows, {keys.rank}, wide, 1);")


def _lines(rank: int) -> str:
    """The rows of a chunk."""
    return "STEPS" if rank == 1 else f"({rank} * STEPS)"


def _weights(left: _Left, keys: _Keys) -> str:
    return f"{left.name}_by_{keys.name.removeprefix('keys_')}"


def _moved(keys: _Keys) -> str:
    return f"moved_{keys.name.removeprefix('keys_')}"
