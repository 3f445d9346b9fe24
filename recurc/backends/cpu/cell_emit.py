"""C text of a recurrent cell: packed weights, register tiles, a team of threads.

The weights that multiply one vector are packed as [tile][k][sum][lane], a tile being one vector register of hidden
units. A tile function takes R sequences, runs over k once with R x sums accumulators in registers, and hands each
sequence's sums to `finish`, which evaluates the elementwise equations. With many sequences each thread owns some of
them and never waits; with few, each thread owns some tiles and the team meets at a barrier after every phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurc.backends.cpu.cell import Phase, stored_name
from recurc.backends.emit.expr import Printer
from recurc.backends.emit.indexed import Load, Stmt, Var, dim_of, loads
from recurc.backends.emit.names import Names
from recurc.plan import Buffer, Loop
from recurc.types import DType, axis_ids


@dataclass(frozen=True)
class CellContext:
    """What the emitter must know about the kernel around it."""

    name: str  # of the C function: void NAME(const rc_buffer *buffers, int64_t batch, int64_t steps, int threads)
    loop: Loop
    phases: tuple[Phase, ...]
    buffers: Mapping[str, tuple[int, Buffer]]  # name -> place in `buffers`, and what it is
    sizes: Mapping[str, int]
    real: DType  # f32 or f64: storage and arithmetic
    registers: int  # vector registers of the target
    openmp: bool
    where: Mapping[str, str]  # equation name -> its place in the source, for comments

    @property
    def c(self) -> str:
        return "float" if self.real is DType.F32 else "double"

    @property
    def v(self) -> str:
        return "vf32" if self.real is DType.F32 else "vf64"

    @property
    def s(self) -> str:
        """The suffix of vector helpers."""
        return f"v{self.real.value}"

    @property
    def lanes(self) -> str:
        return f"RC_LANES_{self.s}"

    def size(self, dim: str) -> int:
        return int(dim) if dim.isdigit() else self.sizes[dim]


def emit_cell(ctx: CellContext) -> str:
    return _Emitter(ctx).text()


class _Emitter:
    def __init__(self, ctx: CellContext) -> None:
        self.ctx = ctx
        self.names = Names(
            frozenset({"cell", "b", "t", "j", "k", "part", "tile", "rows", "w", "v", "team", "id", "count"})
        )
        self.carries = {c.name: c for c in ctx.loop.carries}
        self.made_in = {s.name: i for i, p in enumerate(ctx.phases) for s in p.stmts}
        self.row_of = {s.name: p.lane for p in ctx.phases for s in p.stmts}
        readers = self._readers()
        self.double = {c for c in self.carries if readers.get(c, set()) != {(self.made_in[c], False)}}
        self.crossing = {
            n for n, where in self._readers(lag=0).items()
            if n not in self.carries and any(i != self.made_in[n] or as_vector for i, as_vector in where)
        }  # fmt: skip
        self.used = sorted({n for n in self._touched() if n in ctx.buffers}, key=lambda n: ctx.buffers[n][0])

    # --- what the body touches ------------------------------------------------------------------------------------

    def _readers(self, lag: int = 1) -> dict[str, set[tuple[int, bool]]]:
        """Local name -> the phases that read it at `lag`, and whether as a whole vector."""
        out: dict[str, set[tuple[int, bool]]] = {}
        for i, phase in enumerate(self.ctx.phases):
            found = [(x, False) for s in phase.stmts for x in loads(s.value)] + [(x, True) for x in phase.operands()]
            for load, as_vector in found:
                if load.lag == lag and (load.name in self.carries or load.name in self.made_in):
                    out.setdefault(load.name, set()).add((i, as_vector))
        return out

    def _touched(self) -> set[str]:
        names = (
            {f"{c}@initial" for c in self.carries} | {f"{c}@final" for c in self.carries} | set(self.ctx.loop.writes)
        )
        for phase in self.ctx.phases:
            for load in self._all_loads(phase):
                if load.name not in self.made_in:
                    names |= {load.name, f"{load.name}@initial"}
        return names

    @staticmethod
    def _all_loads(phase: Phase) -> list[Load]:
        products = [p for a in phase.accumulators for p in a.products]
        return [x for s in phase.stmts for x in loads(s.value)] + [x for p in products for x in (p.weight, p.vector)]

    # --- text -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        parts = [self._constants(), self._struct(), self._pack()]
        for i, phase in enumerate(self.ctx.phases):
            parts += [self._finish(i, phase)]
            parts += [self._tile(i, phase, rows) for rows in range(1, self._most_rows(phase) + 1)]
            parts += [self._share(i, phase)]
        return "\n\n".join([*parts, self._main()])

    def _most_rows(self, phase: Phase) -> int:
        """Sequences per tile: their accumulators, one register per weight and one for the broadcast must fit."""
        sums = len(phase.accumulators)
        weights = max((len(phase.members(x)) for x in phase.operands()), default=0)
        return max(1, min(8, (self.ctx.registers - weights - 2) // max(1, sums)))

    def _field(self, name: str) -> str:
        return self.names(name)

    def _row(self, name: str) -> str:
        """Elements a stored row takes: the lanes of its dim, whole tiles."""
        return f"{self.ctx.name}_row_{self._dim(self.row_of[name])}"

    def _tiles(self, lane: Var) -> str:
        return f"{self.ctx.name}_tiles_{self._dim(lane)}"

    def _dim(self, lane: Var) -> str:
        return self.names(f"{dim_of(lane)}@dim").removesuffix("_dim")

    def _constants(self) -> str:
        lanes = self.ctx.lanes
        lines = ["enum {"]
        for lane in dict.fromkeys(p.lane for p in self.ctx.phases):
            units = self.ctx.size(dim_of(lane))
            lines.append(f"    {self._tiles(lane)} = ({units} + {lanes} - 1) / {lanes}, // registers of {dim_of(lane)}")
            lines.append(f"    {self.ctx.name}_row_{self._dim(lane)} = {self._tiles(lane)} * {lanes},")
        return "\n".join([*lines, "};"])

    def _struct(self) -> str:
        c, lines = self.ctx.c, ["typedef struct {", "    int64_t batch, steps;"]
        for name in self.used:
            field = self._field(name)
            lines.append(f"    {c} *{field}; int64_t {field}_batch, {field}_time;")
        for name in self.carries:
            kept = "before and after the step" if name in self.double else "updated in place"
            copies = "[2]" if name in self.double else ""
            lines.append(f"    {c} *{self._state(name)}{copies}; // {name}, [batch][units]: {kept}")
        for name in sorted(self.crossing):
            lines.append(f"    {c} *{self._state(name)}; // {name} of this step, [batch][units], read by a later phase")
        for i, phase in enumerate(self.ctx.phases):
            for n, vector in enumerate(phase.operands()):
                weights = ", ".join(dict.fromkeys(p.weight.name for _, p in phase.members(vector)))
                lines.append(f"    {c} *panel{i}_{n}; // {weights} for {vector.name}, packed [tile][k][sum][lane]")
        return "\n".join([*lines, f"}} {self.ctx.name}_t;"])

    def _state(self, name: str) -> str:
        return self.names(f"{name}@state")

    def _stride(self, load: Load, var: Var | None) -> int:
        """Elements between neighbours along `var` in the buffer `load` reads; with None, the fixed offset."""
        dims = self.ctx.buffers[load.name][1].dims
        stride, found, fixed = 1, 0, 0
        for dim, at in reversed(list(zip(dims, load.index, strict=True))):
            if at == var:
                found += stride
            if isinstance(at, int):
                fixed += at * stride
            stride *= self.ctx.size(dim)
        return fixed if var is None else found

    def _pack(self) -> str:
        ctx = self.ctx
        lines = [
            "// The weights, packed: tiles are shared out over the team; units past the last one weigh zero.",
            f"static void {ctx.name}_pack({ctx.name}_t *cell, int64_t id, int64_t team) {{",
        ]
        for i, phase in enumerate(ctx.phases):
            units = ctx.size(dim_of(phase.lane))
            for n, vector in enumerate(phase.operands()):
                members = phase.members(vector)
                depth = ctx.size(dim_of(members[0][1].k))
                tiles, panel = self._tiles(phase.lane), f"cell->panel{i}_{n}"
                lines += [
                    f"    for (int64_t tile = {tiles} * id / team; tile < {tiles} * (id + 1) / team; tile++)",
                    f"        for (int64_t lane = 0; lane < {ctx.lanes}; lane++) {{",
                    f"            const int64_t unit = tile * {ctx.lanes} + lane;",
                    f"            {ctx.c} *to = {panel} + tile * {depth * len(members)} * {ctx.lanes} + lane;",
                    f"            for (int64_t k = 0; k < {depth}; k++) {{",
                ]
                for m, (_, product) in enumerate(members):
                    w = product.weight
                    fixed, unit, step = (self._stride(w, v) for v in (None, phase.lane, product.k))
                    at = " + ".join([*([str(fixed)] if fixed else []), f"unit * {unit}", f"k * {step}"])
                    field = self._field(w.name)
                    lines.append(f"                to[{m} * {ctx.lanes}] = unit < {units} ? cell->{field}[{at}] : 0;")
                lines += [f"                to += {len(members)} * {ctx.lanes};", "            }", "        }"]
        return "\n".join([*lines, "}"])

    def _pointer(self, load: Load, b: str, lane: Var | None) -> str:
        """Where a buffer's value for sequence `b` at this step starts, lanes from `j` on."""
        buffer = self.ctx.buffers[load.name][1]
        offset = str(self._stride(load, None)) if self._stride(load, None) else ""
        if lane is not None and lane in load.index:
            stride = self._stride(load, lane)
            offset = " + ".join(x for x in (offset, "j" if stride == 1 else f"j * {stride}") if x)
        tail = f" + {offset}" if offset else ""
        field = self._field(load.name)
        base = f"cell->{field} + {b} * cell->{field}_batch"
        if not buffer.has_time:
            return base + tail
        if load.lag == 0:
            return f"{base} + t * cell->{field}_time{tail}"
        first = self._field(f"{load.name}@initial")
        before = f"cell->{first} + {b} * cell->{first}_batch"
        return f"(t ? {base} + (t - 1) * cell->{field}_time : {before}){tail}"

    def _load(self, load: Load, i: int, phase: Phase) -> str:
        ctx = self.ctx
        if load.name in self.made_in or load.name in self.carries:
            if load.lag == 0 and self.made_in.get(load.name) == i:
                return self.names(f"{load.name}@now")
            return f"rc_load_{ctx.s}({self._stored(load)} + b * {self._row(load.name)} + j)"
        if load.name not in ctx.buffers:  # an accumulator
            return self.names(load.name)
        pointer = self._pointer(load, "b", phase.lane)
        if phase.lane not in load.index:
            return f"({pointer})[0]" if not pointer.startswith("(t ?") else f"{pointer}[0]"
        if self._stride(load, phase.lane) == 1:
            return f"rc_load_part_{ctx.s}({pointer}, part)"
        return f"{ctx.name}_gather({pointer}, {self._stride(load, phase.lane)}, part)"

    def _stored(self, load: Load) -> str:
        """The scratch rows of a state before the step (lag 1) or after it, or of a value of an earlier phase."""
        field = f"cell->{self._state(load.name)}"
        if load.name not in self.double:
            return field
        return f"{field}[t & 1]" if load.lag else f"{field}[(t + 1) & 1]"

    def _finish(self, i: int, phase: Phase) -> str:
        ctx = self.ctx
        printer = Printer(lambda d: d.settled(ctx.real).accumulator, lambda x: self._load(x, i, phase), phase.lane)
        sums = "".join(f", {ctx.v} {self.names(a.name)}" for a in phase.accumulators)
        lines = [
            "// The elementwise equations on units j to j + part - 1 of sequence b.",
            f"static inline __attribute__((always_inline)) void {ctx.name}_finish{i}(",
            f"    const {ctx.name}_t *cell, int64_t b, int64_t t, int64_t j, long part{sums}) {{",
        ]
        for stmt in phase.stmts:
            lines += self._statement(stmt, printer)
        lines += ["    (void)part; (void)t;", "}"]
        gather = any(
            phase.lane in x.index and x.name in ctx.buffers and self._stride(x, phase.lane) != 1
            for s in phase.stmts for x in loads(s.value)
        )  # fmt: skip
        return "\n".join([*([self._gather()] if gather and i == 0 else []), *lines])

    def _gather(self) -> str:
        ctx = self.ctx
        return (
            f"static inline {ctx.v} {ctx.name}_gather(const {ctx.c} *p, int64_t stride, long part) {{\n"
            f"    {ctx.v} x = {{0}};\n    for (long i = 0; i < part; i++) x[i] = p[i * stride];\n    return x;\n}}\n"
        )

    def _statement(self, stmt: Stmt, printer: Printer) -> list[str]:
        ctx, name = self.ctx, self.names(f"{stmt.name}@now")
        value = printer(stmt.value)
        if not printer.is_vector(stmt.value):
            value = printer.spread(value, stmt.value.dtype, stmt.value.dtype)
        base = stored_name(stmt.name)
        place = f" // {ctx.where[base]}" if base is not None and base in ctx.where else ""
        lines = [f"    const {ctx.v} {name} = {value};{place}"]
        if stmt.name in self.carries or stmt.name in self.crossing:
            rows = self._stored(Load(stmt.name, 0, stmt.index, stmt.value.dtype))
            lines.append(f"    rc_store_{ctx.s}({rows} + b * {self._row(stmt.name)} + j, {name});")
        if base in ctx.loop.writes:
            target = ctx.buffers[base][1]
            axes = axis_ids(target.dims)
            places = iter(int(p) for p in stmt.name.split("@")[1:])
            index = tuple(v if v in stmt.index else next(places) for v in axes)
            out = Load(base, 0, index, target.dtype)
            if self._stride(out, stmt.index[0]) == 1:
                lines.append(f"    rc_store_part_{ctx.s}({self._pointer(out, 'b', stmt.index[0])}, {name}, part);")
            else:
                where = self._pointer(out, "b", stmt.index[0])
                step = self._stride(out, stmt.index[0])
                lines.append(f"    for (long i = 0; i < part; i++) ({where})[i * {step}] = {name}[i];")
        return lines

    def _tile(self, i: int, phase: Phase, rows: int) -> str:
        ctx = self.ctx
        lines = [
            f"static void {ctx.name}_tile{i}_{rows}(const {ctx.name}_t *cell, int64_t b, int64_t t, int64_t tile) {{"
        ]
        for n, accumulator in enumerate(phase.accumulators):
            zeros = ", ".join(f"s{n}_{r} = {{0}}" for r in range(rows))
            lines.append(f"    {ctx.v} {zeros}; // {accumulator.text}")
        number = {a.name: n for n, a in enumerate(phase.accumulators)}
        for n, vector in enumerate(phase.operands()):
            members = phase.members(vector)
            depth = ctx.size(dim_of(members[0][1].k))
            lines += [
                f"    {{ // times {vector.name}{'[t-1]' if vector.lag else ''}",
                f"        const {ctx.c} *w = cell->panel{i}_{n} + tile * {depth * len(members)} * {ctx.lanes};",
            ]
            for r in range(rows):
                lines.append(f"        const {ctx.c} *v{r} = {self._vector(vector, f'(b + {r})' if r else 'b')};")
            lines.append(f"        for (int64_t k = 0; k < {depth}; k++, w += {len(members)} * {ctx.lanes}) {{")
            loaded = ", ".join(f"w{m} = rc_load_{ctx.s}(w + {m} * {ctx.lanes})" for m in range(len(members)))
            lines.append(f"            const {ctx.v} {loaded};")
            for r in range(rows):
                adds = " ".join(f"s{number[a.name]}_{r} += w{m} * v{r}[k];" for m, (a, _) in enumerate(members))
                lines.append(f"            {adds}")
            lines += ["        }", "    }"]
        units = ctx.size(dim_of(phase.lane))
        for r in range(rows):
            sums = "".join(f", s{n}_{r}" for n in range(len(phase.accumulators)))
            row = f"b + {r}" if r else "b"
            call = f"{ctx.name}_finish{i}(cell, {row}, t, tile * {ctx.lanes}, PART{sums});"
            lines.append(f"    if (tile < {units} / {ctx.lanes}) {call.replace('PART', ctx.lanes)}")
            lines.append(f"    else {call.replace('PART', f'{units} % {ctx.lanes}')}")
        return "\n".join([*lines, "}"])

    def _vector(self, vector: Load, b: str) -> str:
        if vector.name in self.carries or vector.name in self.made_in:
            return f"{self._stored(vector)} + {b} * {self._row(vector.name)}"
        return self._pointer(vector, b, None)

    def _share(self, i: int, phase: Phase) -> str:
        ctx, most = self.ctx, self._most_rows(phase)
        cases = [f"            case {r}: {ctx.name}_tile{i}_{r}(cell, b, t, tile); break;" for r in range(1, most)]
        return "\n".join([
            "// One thread's share of a phase: some sequences, some tiles.",
            f"static void {ctx.name}_share{i}(const {ctx.name}_t *cell, int64_t t, int64_t first, int64_t last,",
            "                                  int64_t tile, int64_t end) {",
            f"    const int64_t blocks = (last - first + {most} - 1) / {most};",
            "    for (; tile < end; tile++)",
            "        for (int64_t block = 0; block < blocks; block++) {",
            "            const int64_t b = first + (last - first) * block / blocks;",
            "            const int64_t rows = first + (last - first) * (block + 1) / blocks - b;",
            "            switch (rows) {",
            *cases,
            f"            default: {ctx.name}_tile{i}_{most}(cell, b, t, tile);",
            "            }",
            "        }",
            "}",
        ])  # fmt: skip

    def _main(self) -> str:
        ctx, c = self.ctx, self.ctx.c
        total: list[str] = []
        places: list[str] = []

        def take(target: str, amount: str) -> None:
            offset = " + ".join(total) or "0"
            places.append(f"    cell.{target} = memory + ({offset});")
            total.append(f"{amount}")

        for name in self.carries:
            for copy in (0, 1) if name in self.double else (None,):
                take(self._state(name) + (f"[{copy}]" if copy is not None else ""), f"batch * {self._row(name)}")
        for name in sorted(self.crossing):
            take(self._state(name), f"batch * {self._row(name)}")
        for i, phase in enumerate(ctx.phases):
            for n, vector in enumerate(phase.operands()):
                members = phase.members(vector)
                amount = ctx.size(dim_of(members[0][1].k)) * len(members)
                take(f"panel{i}_{n}", f"{self._tiles(phase.lane)} * {amount} * {ctx.lanes}")
        fields = [
            f"    cell.{field}{part} = buffers[{ctx.buffers[n][0]}].{member};"
            for n in self.used
            for field in (self._field(n),)
            for part, member in (("", "data"), ("_batch", "batch"), ("_time", "time"))
        ]
        several = "threads > 1 && batch < 4 * threads"
        steps: list[str] = []
        for i, phase in enumerate(ctx.phases):
            tiles = self._tiles(phase.lane)
            steps.append(
                f"            {ctx.name}_share{i}(&cell, t, first, last, by_units ? {tiles} * id / team : 0, "
                f"by_units ? {tiles} * (id + 1) / team : {tiles});"
            )
            steps.append("            if (by_units) rc_meet(arrived, id, team, ++met);")
        return "\n".join([
            f"int {ctx.name}(const rc_buffer *buffers, int64_t batch, int64_t steps, int threads) {{",
            f"    {ctx.name}_t cell = {{.batch = batch, .steps = steps}};",
            *fields,
            f"    const int64_t elements = {' + '.join(total)};",
            f"    {c} *memory = rc_allocate(elements * sizeof({c}));",
            "    rc_arrival *arrived = rc_allocate(threads * sizeof(rc_arrival));",
            "    if (!memory || !arrived) { rc_release(memory); rc_release(arrived); return 1; }",
            "    memset(arrived, 0, threads * sizeof(rc_arrival));",
            *places,
            *self._copies(initial=True),
            f"    const int by_units = {several}; // few sequences: share out the units and meet after every phase",
            *(["#pragma omp parallel num_threads(threads)"] if ctx.openmp else []),
            "    {",
            *(
                ["        const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();"]
                if ctx.openmp else ["        const int64_t id = 0, team = 1;"]
            ),
            f"        {ctx.name}_pack(&cell, id, team);",
            *(["#pragma omp barrier"] if ctx.openmp else []),
            "        const int64_t first = by_units ? 0 : batch * id / team;",
            "        const int64_t last = by_units ? batch : batch * (id + 1) / team;",
            "        int64_t met = 0;",
            "        for (int64_t t = 0; t < steps; t++) {",
            *steps,
            "        }",
            "        (void)met;",
            "    }",
            *self._copies(initial=False),
            "    rc_release(memory);",
            "    rc_release(arrived);",
            "    return 0;",
            "}",
        ])  # fmt: skip

    def _copies(self, initial: bool) -> list[str]:
        """States from their initial values into the scratch rows, and back to the finals."""
        lines: list[str] = []
        for name in self.carries:
            outside = f"{name}@{'initial' if initial else 'final'}"
            if outside not in self.ctx.buffers:
                continue
            field, units = self._field(outside), self.ctx.size(dim_of(self.row_of[name]))
            copy = "" if name not in self.double else ("[0]" if initial else "[steps & 1]")
            inside = f"cell.{self._state(name)}{copy} + b * {self._row(name)}"
            there = f"cell.{field} + b * cell.{field}_batch"
            to, source = (inside, there) if initial else (there, inside)
            lines.append(
                f"    for (int64_t b = 0; b < batch; b++) memcpy({to}, {source}, {units} * sizeof({self.ctx.c}));"
            )
        return lines


def helpers() -> str:
    """C helpers of the team: aligned memory and a barrier that spins, then yields."""
    return """\
typedef struct { _Alignas(64) int64_t steps; } rc_arrival;

// Memory in whole cache lines, zeroed, so that lanes past the last unit stay finite.
static void *rc_allocate(size_t bytes) {
    void *memory = NULL;
    const size_t whole = (bytes + 127) / 64 * 64;
    if (posix_memalign(&memory, 64, whole)) return NULL;
    return memset(memory, 0, whole);
}

static void rc_release(void *memory) { free(memory); }

// Wait until every thread of the team has arrived `count` times.
static inline void rc_meet(rc_arrival *arrived, int64_t id, int64_t team, int64_t count) {
    __atomic_store_n(&arrived[id].steps, count, __ATOMIC_RELEASE);
    for (int64_t other = 0; other < team; other++)
        for (int spins = 0; __atomic_load_n(&arrived[other].steps, __ATOMIC_ACQUIRE) < count; spins++) {
#if defined __x86_64__
            __builtin_ia32_pause();
#endif
            if (spins > 4096) sched_yield();
        }
}
"""
