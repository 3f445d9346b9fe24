"""The local arrays of a chunk in C: what its operands and states are called, how they are packed and stored.

Rows of one step (the rank of a write or a query) lie side by side within the step. Several states have arrays of their
own, numbered, and `pairs_A_B` holds what reaches state A of what was written to state B. Matrices with the same keys
lie side by side by their columns, in one array, with what is written to them and read of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from recurc.backends.cpu.names import STORED, Spelling
from recurc.backends.emit.text import Text
from recurc.facts import LowRank
from recurc.ir import Const, Expr, Read
from recurc.plan import Carry, Chunk, JointChunk, Readout
from recurc.targets import CHUNK_STEPS
from recurc.types import Dims, DType


def met_size(form: LowRank, writes: list[int], reads: list[int]) -> int:
    """Numbers in the array that holds what rows of a chunk count for: all of a chunk's reads, or one step's rows."""
    whole = [r * w for r in reads for w in writes]
    own = [n // CHUNK_STEPS * w for n, write in zip(writes, form.writes, strict=True) if write.corrects for w in writes]
    return max((*whole, *own), default=0)


@dataclass(frozen=True)
class Packed:
    """An operand in a local array of STEPS rows (or, turned, of STEPS columns), for each place along its rank. A source
    that is no buffer is a number. `empty` stands at steps behind the last one."""

    name: str
    source: Expr
    rank: Dims
    dims: Dims
    width: str
    turned: bool = False
    empty: int = 0
    at: str = ""  # where its first column lies, if not at 0


@dataclass(frozen=True)
class Columns:
    """What a matrix has of the columns of all: `width` from `at` on ("": from 0)."""

    stage: Chunk
    at: str
    width: str


@dataclass(frozen=True)
class Left:
    """A probe or query of a state, with so many rows in a step, which are added to `out`; of the state after the step
    if `now`."""

    name: str
    state: int
    rank: int
    out: str
    now: int


@dataclass(frozen=True)
class Keys:
    """Keys of write `number`, with so many rows in a step, and the states they go into."""

    name: str
    number: int
    rank: int
    into: tuple[int, ...]


class ChunkArrays:
    """Declares, packs and stores what a chunk is made of; `text` takes the lines."""

    def __init__(self, stage: Chunk | JointChunk, spell: Spelling) -> None:
        parts = stage.parts if isinstance(stage, JointChunk) else (stage,)
        matrices = [p for p in parts if p.form.columns]
        self.vectors = [p for p in parts if not p.form.columns]
        self.stage, self.form, self.spell = stage, (matrices or parts)[0].form, spell
        widths = ["wide"] if len(matrices) == 1 else [f"wide_{m}" for m, _ in enumerate(matrices)]
        self.matrices = [Columns(p, " + ".join(widths[:m]), widths[m]) for m, p in enumerate(matrices)]
        form = self.form
        self.text = Text()
        self.kept = {"none": (), "rows": form.rows, "columns": form.columns}[form.decay_along]
        self.coupled = len(form.states) > 1
        self.decays = self.coupled or not isinstance(form.factors[0][0], Const)
        self.along = form.decay_along if self.decays else "constant"
        self.packed: list[Packed] = []
        self.reads = [(m, r) for m in self.matrices for r in m.stage.readouts]
        self.ranks = [self._size(w.rank) for w in form.writes]
        self.keys: list[Keys] = []
        self.probes: list[Left] = []
        self.queries, self.left_of = self._queries()
        for n, write in enumerate(form.writes):
            places = {k: tuple(a for a, e in enumerate(write.keys) if e == k) for k in write.keys if k is not None}
            for k, into in enumerate(places.values()):
                self.keys.append(Keys(f"keys_{n}{f'_{k}' if k else ''}", n, self.ranks[n], into))
            some = [a for a, p in enumerate(write.probes) if p is not None]
            names = {a: f"probe_{n}{f'_{a}' if len(some) > 1 else ''}" for a in some}
            self.probes += [Left(name, a, self.ranks[n], f"rows_{n}", 0) for a, name in names.items()]
        self.sums: dict[tuple[int, tuple[int, ...]], str] = {}  # names of sums of pairs

    def _queries(self) -> tuple[list[Left], list[int]]:
        """The queries, and which of them each read is by: one of several matrices is taken of all at once."""
        queries: dict[Readout | tuple[Read, bool], int] = {}
        joint = len(self.matrices) > 1
        numbers = [queries.setdefault((r.query, r.now) if joint else r, len(queries)) for _, r in self.reads]
        first = {n: r for n, (_, r) in reversed([*zip(numbers, self.reads, strict=True)])}
        made = [
            Left(f"query_{n}", r.state, self._size(r.rank), f"out_{n}", int(r.now)) for n, r in sorted(first.items())
        ]
        return made, numbers

    def _size(self, dims: Dims) -> int:
        return prod(self.spell.extent(d) for d in dims)

    def _state(self, a: int, name: str = "state") -> str:
        return f"{name}_{a}" if self.coupled else name

    # --- local arrays -----------------------------------------------------------------------------------------------

    def _arrays(self) -> None:
        text, form = self.text, self.form
        rows, columns = self.spell.count(form.rows), [self.spell.count(m.stage.form.columns) for m in self.matrices]
        if len(columns) == 1:
            text(f"enum {{ rows = {rows}, columns = {columns[0]}, high = PADDED(rows), wide = PADDED(columns) }};")
        else:
            each = [f"{m.width} = PADDED({c})" for m, c in zip(self.matrices, columns, strict=True)]
            whole = [f"wide = {' + '.join(m.width for m in self.matrices)}"] if each else []
            text(f"enum {{ {', '.join([f'rows = {rows}', 'high = PADDED(rows)', *each, *whole])} }};")
        if not self.matrices:
            if self.decays:
                self._decay_array()
            return
        most = max(p.rank for p in (*self.probes, *self.queries)) if self.probes or self.queries else 1
        scaled = f"scaled[{lines_of(most)} * high] ALIGNED"
        if self.coupled:
            count = len(form.states)
            text(f"real states[2][{count}][rows * wide] ALIGNED, {scaled};")
        else:
            text(f"real states[2][rows * wide] ALIGNED, {scaled};")
        text("memset(states, 0, sizeof states);", "(void)scaled;")
        if self.coupled:
            self._kernel_arrays()
        elif self.decays:
            width = self._decay_array()
            text(f"real before[(STEPS + 1) * {width}] ALIGNED;")
            if self.along == "none":
                text("real pairs[(STEPS + 1) * STEPS] ALIGNED;")
        met = met_size(form, [CHUNK_STEPS * r for r in self.ranks], [CHUNK_STEPS * q.rank for q in self.queries])
        if self._by_ranks():
            text(f"real met[{met}] ALIGNED;")
        for keys in self.keys:
            lines = lines_of(keys.rank)
            later = f", {moved(keys)}[rows * {lines}] ALIGNED" if self.decays and self.along != "columns" else ""
            text(f"real {keys.name}[rows * {lines}] ALIGNED{later};")
            write = form.writes[keys.number]
            source = write.keys[keys.into[0]]
            assert source is not None
            self.packed.append(Packed(keys.name, source, write.rank, form.rows, lines, turned=True))
        for n, write in enumerate(form.writes):
            lines = lines_of(self.ranks[n])
            text(f"real value_{n}[{lines} * wide] ALIGNED, rows_{n}[{lines} * wide] ALIGNED;")
            text(f"memset(value_{n}, 0, sizeof value_{n});")
            for m in self.matrices:
                own = m.stage.form
                value = own.writes[n].value
                if value is not None:
                    self.packed.append(Packed(f"value_{n}", value, write.rank, own.columns, "wide", at=m.at))
        reads = [self.reads[self.left_of.index(n)][1] for n, _ in enumerate(self.queries)]
        sources = [p for w in form.writes for p in w.probes if p is not None] + [r.query for r in reads]
        ranks = [w.rank for w in form.writes for p in w.probes if p is not None] + [r.rank for r in reads]
        for left, source, rank in zip((*self.probes, *self.queries), sources, ranks, strict=True):
            if left in self.queries:
                text(f"real {left.out}[{lines_of(left.rank)} * wide] ALIGNED;")
            text(f"real {left.name}[{lines_of(left.rank)} * high] ALIGNED;")
            text(f"memset({left.name}, 0, sizeof {left.name});")
            for keys in self.keys:
                if not self._ranked(left, keys) and self._reaching(left.state, keys):
                    text(f"real {weights_of(left, keys)}[STEPS * STEPS] ALIGNED;")
            self.packed.append(Packed(left.name, source, rank, form.rows, "high"))

    def _decay_array(self) -> str:
        """The decay of a state alone, and how many numbers it has in a step."""
        width = {"none": "1", "rows": "high", "columns": "wide"}[self.along]
        self.text(f"real decay[STEPS * {width}] ALIGNED;")
        self.text(f"for (long n = 0; n < STEPS * {width}; n++) decay[n] = 1;")
        (decay,) = self.form.decays.values()
        self.packed.append(Packed("decay", decay, (), self.kept, width, empty=1))
        return width

    def _dtype(self) -> DType:
        return self.stage.carries[0].dtype

    def _kernel_arrays(self) -> None:
        """Factors of several states, and their products before each step and between each two. A state has a factor of
        itself even where it is 0, since it stays as it is behind the last step."""
        text, form = self.text, self.form
        for a, b in dict.fromkeys((*((a, a) for a, _ in enumerate(form.states)), *form.decays)):
            text(f"real factor_{a}_{b}[STEPS] ALIGNED;")
            source = form.factors[a][b] or Const(0.0, self._dtype())
            self.packed.append(Packed(f"factor_{a}_{b}", source, (), (), "1", empty=int(a == b)))
        for a, b in form.paths:
            text(f"real before_{a}_{b}[STEPS + 1] ALIGNED, pairs_{a}_{b}[(STEPS + 1) * STEPS] ALIGNED;")
        for keys in self.keys:
            for a, _ in enumerate(form.states):
                reached = self._reaching(a, keys)
                if len(reached) > 1:
                    self.sums[a, reached] = self._pairs(a, keys)
        for name in dict.fromkeys(self.sums.values()):
            text(f"real {name}[(STEPS + 1) * STEPS] ALIGNED;")

    def _reaching(self, a: int, keys: Keys) -> tuple[int, ...]:
        """The states through which what these keys write reaches state a."""
        return tuple(b for b in keys.into if (a, b) in self.form.paths)

    def _pairs(self, a: int, keys: Keys) -> str:
        """The products of factors by which what these keys write reaches state a."""
        if not self.coupled:
            return "pairs" if self.along == "none" else "0"
        reached = self._reaching(a, keys)
        return f"pairs_{a}_{'_'.join(map(str, reached))}"

    def _ranked(self, left: Left, keys: Keys) -> bool:
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
        for a, _ in enumerate(self.form.states if self.matrices else ()):
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

    def _pack(self, operand: Packed) -> None:
        source, spell, text = operand.source, self.spell, self.text
        to = f"{{n}} * {operand.width} + {{i}}" if operand.turned else f"{{i}} * {operand.width} + {{n}}"
        to = f"{to} + {operand.at}" if operand.at else to
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
        for m in self.matrices:
            for a, carry in enumerate(m.stage.carries):
                own = {d: f"n{i}" for i, d in enumerate((*self.form.rows, *m.stage.form.columns))}
                row, column = self._counted(self.form.rows, own), self._counted(m.stage.form.columns, own)
                place = f"({row}) * wide + {column}{f' + {m.at}' if m.at else ''}"
                self._copy_state(carry, f"{self._state(a)}[{place}]", own, which)

    def _copy_state(self, carry: Carry, local: str, own: dict[str, str], which: str) -> None:
        """A state in or out, from memory or to it; `own` names the dims of which `local` has the places."""
        text, spell = self.text, self.spell
        field, kind = spell(f"{carry.name}@{which}"), STORED[spell.spec.dtype(carry.dtype).accumulator]
        memory = f"memory[{self._offset(carry.dims, own)}]"
        with text.braces(f"if (call->{field}.data)"):
            text(f"{'const ' if which == 'in' else ''}{kind} *memory = ROW(call->{field}, {kind}, b);")
            self._over(tuple(own), f"{local} = {memory};" if which == "in" else f"{memory} = {local};")

    def _store(self, read: Readout, columns: Dims, local: str) -> None:
        """What is read at every step, from `local`, in which `{n}` is the column and `{i}` the line of step i."""
        spell, text = self.spell, self.text
        buffer, kind = spell.buffers[read.name], spell.stored(read.name)
        own = {d: f"n{i}" for i, d in enumerate(columns)} | {d: f"r{i}" for i, d in enumerate(read.rank)}
        with text.braces("for (long i = 0; i < count; i++)"):
            text(f"{kind} *to = AT(call->{spell.field(read.name)}, {kind}, b, t + i);")
            self._over(columns, f"to[{self._offset(buffer.dims, own)}] = {local};", read.rank)

    def _store_reads(self) -> None:
        for (m, read), n in zip(self.reads, self.left_of, strict=True):
            at = f" + {m.at}" if m.at else ""
            self._store(read, m.stage.form.columns, f"out_{n}[{{i}} * wide + {{n}}{at}]")


def lines_of(rank: int) -> str:
    """The rows of a chunk."""
    return "STEPS" if rank == 1 else f"({rank} * STEPS)"


def weights_of(left: Left, keys: Keys) -> str:
    return f"{left.name}_by_{keys.name.removeprefix('keys_')}"


def moved(keys: Keys) -> str:
    return f"moved_{keys.name.removeprefix('keys_')}"
