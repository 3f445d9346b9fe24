"""The local arrays of a chunk in C: what its operands and states are called, how they are packed and stored.

Rows of one step (the rank of a write or a query) lie side by side within the step. Several states have arrays of their
own, numbered, and `pairs_A_B` holds what reaches state A of what was written to state B.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from recurc.backends.cpu.names import STORED, Spelling
from recurc.backends.emit.text import Text
from recurc.facts import LowRank
from recurc.ir import Const, Expr, Read
from recurc.plan import Chunk
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

    def __init__(self, stage: Chunk, spell: Spelling) -> None:
        self.stage, self.form, self.spell = stage, stage.form, spell
        form = self.form
        self.text = Text()
        self.kept = {"none": (), "rows": form.rows, "columns": form.columns}[form.decay_along]
        self.coupled = len(form.states) > 1
        self.decays = self.coupled or not isinstance(form.factors[0][0], Const)
        self.along = form.decay_along if self.decays else "constant"
        self.packed: list[Packed] = []
        self.reads = stage.readouts
        self.ranks = [self._size(w.rank) for w in form.writes]
        self.keys: list[Keys] = []
        self.probes: list[Left] = []
        self.queries = [
            Left(f"query_{n}", r.state, self._size(r.rank), f"out_{n}", int(r.now)) for n, r in enumerate(self.reads)
        ]
        for n, write in enumerate(form.writes):
            places = {k: tuple(a for a, e in enumerate(write.keys) if e == k) for k in write.keys if k is not None}
            for k, into in enumerate(places.values()):
                self.keys.append(Keys(f"keys_{n}{f'_{k}' if k else ''}", n, self.ranks[n], into))
            some = [a for a, p in enumerate(write.probes) if p is not None]
            names = {a: f"probe_{n}{f'_{a}' if len(some) > 1 else ''}" for a in some}
            self.probes += [Left(name, a, self.ranks[n], f"rows_{n}", 0) for a, name in names.items()]
        self.sums: dict[tuple[int, tuple[int, ...]], str] = {}  # names of sums of pairs

    def _size(self, dims: Dims) -> int:
        return prod(self.spell.extent(d) for d in dims)

    def _state(self, a: int, name: str = "state") -> str:
        return f"{name}_{a}" if self.coupled else name

    # --- local arrays -----------------------------------------------------------------------------------------------

    def _arrays(self) -> None:
        text, form = self.text, self.form
        rows, columns = self.spell.count(form.rows), self.spell.count(form.columns)
        text(f"enum {{ rows = {rows}, columns = {columns}, high = PADDED(rows), wide = PADDED(columns) }};")
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
            width = {"none": "1", "rows": "high", "columns": "wide"}[self.along]
            text(f"real decay[STEPS * {width}] ALIGNED, before[(STEPS + 1) * {width}] ALIGNED;")
            text(f"for (long n = 0; n < STEPS * {width}; n++) decay[n] = 1;")
            (decay,) = form.decays.values()
            self.packed.append(Packed("decay", decay, (), self.kept, width, empty=1))
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
            if write.value is not None:
                self.packed.append(Packed(f"value_{n}", write.value, write.rank, form.columns, "wide"))
        sources = [p for w in form.writes for p in w.probes if p is not None] + [r.query for r in self.reads]
        ranks = [w.rank for w in form.writes for p in w.probes if p is not None] + [r.rank for r in self.reads]
        for left, source, rank in zip((*self.probes, *self.queries), sources, ranks, strict=True):
            if left in self.queries:
                text(f"real {left.out}[{lines_of(left.rank)} * wide] ALIGNED;")
            text(f"real {left.name}[{lines_of(left.rank)} * high] ALIGNED;")
            text(f"memset({left.name}, 0, sizeof {left.name});")
            for keys in self.keys:
                if not self._ranked(left, keys) and self._reaching(left.state, keys):
                    text(f"real {weights_of(left, keys)}[STEPS * STEPS] ALIGNED;")
            self.packed.append(Packed(left.name, source, rank, form.rows, "high"))

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

    def _pack(self, operand: Packed) -> None:
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


def lines_of(rank: int) -> str:
    """The rows of a chunk."""
    return "STEPS" if rank == 1 else f"({rank} * STEPS)"


def weights_of(left: Left, keys: Keys) -> str:
    return f"{left.name}_by_{keys.name.removeprefix('keys_')}"


def moved(keys: Keys) -> str:
    return f"moved_{keys.name.removeprefix('keys_')}"
