"""The entry of a C file: the memory it lays out, and the calls of the stages' functions over threads and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recurc.backends.base import Specialization
from recurc.backends.cpu import tiles
from recurc.backends.cpu.blas import Product
from recurc.backends.cpu.body import Body
from recurc.backends.cpu.chunk import call_chunk
from recurc.backends.cpu.frozen import call_frozen, frozen_parts
from recurc.backends.cpu.loop import thread_rooms
from recurc.backends.cpu.names import RESERVED, STORED, Spelling, between_pieces
from recurc.backends.cpu.newton import NewtonLoops, call_newton, newton_loops, rounds_function, take_rounds
from recurc.backends.cpu.panels import pack_calls, panel_room, weight_bytes
from recurc.backends.cpu.program import Program
from recurc.backends.cpu.scan_calls import call_scan
from recurc.backends.cpu.segments import Segments, segments_of
from recurc.backends.cpu.stages import sequence_lagged
from recurc.backends.emit.names import Names
from recurc.backends.emit.nodes import Var, dim_of
from recurc.backends.emit.text import Text
from recurc.plan import Buffer, Carry, Chunk, Frozen, Fused, JointChunk, Map, Matmul, Newton, Plan, Role, Scan, Stage

_CACHED = 1 << 20  # bytes of weights that stay in a core's own cache beside everything else
EXTERNAL = (Role.INPUT, Role.PARAM, Role.INITIAL, Role.OUTPUT, Role.FINAL)


@dataclass
class Unit:
    """One C function and what the entry must know to call it."""

    function: str
    body: Body
    text: str

    @property
    def program(self) -> Program:
        return self.body.program


@dataclass
class StageCode:
    stage: Stage
    units: list[Unit]
    scan: Segments | None = None
    whole: Unit | None = None  # a loop with the products before it computed inside
    newton: NewtonLoops | None = None
    chunk: tuple[str, str] | None = None  # of a `Chunk`, which has no units: its function and text
    frozen: tuple[str, str] | None = None  # of a `Frozen`: the function that calls the units, and its text


def external_buffers(plan: Plan) -> dict[str, Buffer]:
    """The arrays the caller gives, in the order the entry takes them; of a complex one, the buffer of a part."""
    found: dict[str, Buffer] = {}
    for buffer in plan.buffers:
        if buffer.role in EXTERNAL:
            found.setdefault(buffer.part[0] if buffer.part else buffer.name, buffer)
    return found


class EntryPrinter:
    """Deals the work of the stages, once they are printed into `stages`, to the threads (see `dealer`)."""

    def __init__(self, plan: Plan, spec: Specialization, vector_bytes: int, products: tuple[Product, ...]) -> None:
        self.plan, self.spec, self.vector_bytes, self.products = plan, spec, vector_bytes, products
        self.real = spec.real.accumulator
        self.lanes = vector_bytes // self.real.itemsize
        self.names = Names(RESERVED)
        self.sizes = dict(spec.sizes)
        scans = [(k, s) for k, s in enumerate(plan.stages) if isinstance(s, Scan | Fused)]
        self.loops = {k: segments_of(s, f"stage{k}", plan) for k, s in scans}
        self.newtons = {
            k: newton_loops(s, f"stage{k}", plan) for k, s in enumerate(plan.stages) if isinstance(s, Newton)
        }
        extra = [b for s in self.loops.values() for b in s.buffers]
        self.frozen = {k: frozen_parts(s, f"stage{k}") for k, s in enumerate(plan.stages) if isinstance(s, Frozen)}
        extra += [b for s in (*self.newtons.values(), *self.frozen.values()) for b in s.buffers]
        self.buffers = {b.name: b for b in (*plan.buffers, *extra)}
        self.spell = Spelling(self.names, spec, self.buffers)
        for dim in self.sizes:
            self.spell.size(dim)
        self.chunked = bool(self._sequences()) and not self.loops and not self.newtons and not sequence_lagged(plan)
        self.absorbed: set[int] = set()  # stages that fall away where the loop behind them runs whole
        self.stages: list[StageCode] = []

    # --- the entry --------------------------------------------------------------------------------------------

    def entry(self) -> str:
        text = Text()
        self._layout(text)
        text("")
        name = "recurc_run"
        text("// Runs the plan. `workspace` has recurc_workspace(batch, steps, threads) bytes, aligned to 64.")
        with text.braces(
            f"void {name}(const rc_array *arrays, int64_t batch, int64_t steps, int threads, char *workspace)"
        ):
            text("struct call call = {.batch = batch, .steps = steps};")
            for number, name in enumerate(external_buffers(self.plan)):
                text(f"call.{self.spell(name)} = arrays[{number}];")
            text("lay_out(&call, batch, steps, threads, workspace);")
            for carry in (c for s in self.newtons.values() for c in s.stage.carries):
                start = self.spell(f"{carry.name}'guess@initial")
                text(f"call.{start} = call.{self.spell(f'{carry.name}@initial')};")
            if self.products:
                first = len(external_buffers(self.plan))
                text(f"const int given = arrays[{first}].data != 0;  // the hoisted products, by the caller's BLAS")
                for number, product in enumerate(self.products, first):
                    text(f"if (given) call.{self.spell(product.target)} = arrays[{number}];")
            for code in self.stages:
                if isinstance(code.stage, Map) and not code.stage.over_time:
                    unit = code.units[0]
                    text(f"{unit.function}(&call, 0, 1, 0, 1, 0, {self.lane_end(unit)});  // once per call")
            if self._teams():
                text("rc_team team = {0};")
            text("RC_PARALLEL(threads)")
            with text.braces(""):
                self._parallel(text)
        return str(text)

    def _parallel(self, text: Text) -> None:
        text("const int thread = RC_THREAD, count = RC_THREADS;")
        text("struct call self = call;")
        scans = any(isinstance(s, Scan | Fused | Newton) for s in self.plan.stages)
        if scans:
            text("const int by_batch = 0;  // a scan splits time between the threads")
        else:
            text("const int by_batch = by_sequences(batch, count);")
        text("long b0 = 0, b1 = batch;")
        text("if (by_batch) rc_split(batch, 1, thread, count, &b0, &b1);")
        if self.absorbed:
            text(f"const int whole = {'!given && ' if self.products else ''}runs_whole(batch, steps, threads);")
        packs = 0
        for number, code in enumerate(self.stages):
            for unit in all_units(code):
                if unit.program.weights:
                    packs += 1
                    skip = self._skipped(number, code)
                    guard = "if (whole) " if unit is code.whole else f"if (!{skip}) " if skip else ""
                    if unit is code.units[0] and code.whole:
                        guard = "if (!whole) "
                    text(*pack_calls(unit.body, guard))
        if packs:
            if self._teams():
                text("if (thread == 0) team.members = count;")
            text("RC_BARRIER")
        over_time = [
            (k, s) for k, s in enumerate(self.stages) if not (isinstance(s.stage, Map) and not s.stage.over_time)
        ]
        if not self.chunked:
            calls = Text()
            for number, code in over_time:
                self._call_unless(self._skipped(number, code), code, calls)
            if any("t0, t1" in line for line in calls.lines):  # a scan has segments of its own
                text("const long t0 = 0, t1 = steps;")
            text(*calls.lines)
            return
        all_given = self.products and all(b.name in {p.target for p in self.products} for b in self._sequences())
        text(f"const int64_t chunk = {'given ? steps : ' if all_given else ''}chunk_steps(batch, steps, threads);")
        with text.braces("for (long t0 = 0; t0 < steps; t0 += chunk)"):
            text("const long t1 = t0 + chunk < steps ? t0 + chunk : steps;")
            if any(self._saved(code) for code in self.stages):
                text("const int odd = t0 / chunk % 2;")
            targets = {p.target for p in self.products}
            for buffer in self._sequences():
                own = "if (!given) " if buffer.name in targets else ""
                text(f"{own}self.{self.spell(buffer.name)}.origin = t0;")
            for number, code in over_time:
                self._call_unless(self._skipped(number, code), code, text)

    def _skipped(self, number: int, code: StageCode) -> str:
        """The C condition under which a stage has nothing to do, or nothing."""
        given = any(p.target in code.stage.writes for p in self.products)
        return {(False, False): "", (True, False): "whole", (False, True): "given", (True, True): "(whole || given)"}[
            number in self.absorbed, given
        ]

    def _call_unless(self, skipped: str, code: StageCode, text: Text) -> None:
        if not skipped:
            self._call_stage(code, text)
            return
        with text.braces(f"if (!{skipped})"):
            self._call_stage(code, text)

    def _teams(self) -> bool:
        return any(u.program.tiled and u.program.stage.carries for s in self.stages for u in s.units)

    def _call_stage(self, code: StageCode, text: Text) -> None:
        if code.scan is not None:
            with text.braces(""):  # a scope of its own: a plan may hold several scans
                call_scan(self, code.scan, code.units, text)
            return
        if code.newton is not None:
            with text.braces(""):
                call_newton(self, code.newton, code.units, text)
            return
        if code.chunk is not None:
            assert isinstance(code.stage, Chunk | JointChunk)
            self._ends(code.stage.carries, False, text)
            call_chunk(code.stage, self.spell, code.chunk[0], text)
            return
        if code.frozen is not None:
            assert isinstance(code.stage, Frozen)
            call_frozen(self, code.stage, code.frozen[0], text)
            return
        unit = code.units[0]
        self._ends(unit.program.stage.carries, unit.program.tiled, text)
        lane_end = self.lane_end(unit)
        if code.whole is not None:
            self._call_whole(code.whole, unit, text)
            return
        with text.braces("if (by_batch)", "} else {"):
            text(f"{unit.function}(&self, b0, b1, t0, t1, 0, {lane_end}{', 0' if unit.program.tiled else ''});")
        inner = Text(1)
        if isinstance(code.stage, Map | Matmul):
            inner("long from, to;", "rc_split(t1 - t0, 1, thread, count, &from, &to);")
            team = ", 0" if unit.program.tiled else ""
            inner(f"{unit.function}(&self, 0, batch, t0 + from, t0 + to, 0, {lane_end}{team});")
        elif unit.program.tiled:
            self._team_call(unit, inner)
            text.block(inner)
            text("}")
            return
        else:
            self.items(unit, inner, "batch", "item, item + 1", "t0, t1")
        inner("RC_BARRIER")
        text.block(inner)
        text("}")

    def _ends(self, carries: Sequence[Carry], tiled: bool, text: Text) -> None:
        """Where the states of a stage come from and go to: between pieces of time into memory of their own."""
        for carry in carries:
            source, target = self.spell(f"{carry.name}@in"), self.spell(f"{carry.name}@out")
            now, then = (self.spell(name) for name in between_pieces(carry.name))
            final = self.spell.field(f"{carry.name}@final")
            initial = f"self.{self.spell.field(f'{carry.name}@initial')}"
            end = f"self.{final}" if self.plan.has(f"{carry.name}@final") else "(rc_array){0}"
            if self.chunked and not tiled:
                text(f"self.{source} = t0 == 0 ? {initial} : odd ? self.{then} : self.{now};")
                text(f"self.{target} = t1 == steps ? {end} : odd ? self.{now} : self.{then};")
            elif self.chunked:
                text(f"self.{source} = t0 == 0 ? {initial} : (rc_array){{0}};")
                text(f"self.{target} = t1 == steps ? {end} : (rc_array){{0}};")
            else:
                text(f"self.{source} = {initial};", f"self.{target} = {end};")

    def _call_whole(self, whole: Unit, unit: Unit, text: Text) -> None:
        lane_end = self.lane_end(unit)
        with text.braces("if (whole && by_batch)", "} else if (whole) {"):
            text(f"{whole.function}(&self, b0, b1, t0, t1, 0, {lane_end}, 0);")
        team = Text(1)
        self._team_call(whole, team)
        text.block(team)
        text("} else if (by_batch) {")
        text(f"    {unit.function}(&self, b0, b1, t0, t1, 0, {lane_end}, 0);")
        text("} else {")
        plain = Text(1)
        self._team_call(unit, plain)
        text.block(plain)
        text("}")

    def _team_call(self, unit: Unit, text: Text) -> None:
        """All threads through every step together, each with its share of the outputs."""
        text("long lane0, lane1;", f"rc_split({self.lane_end(unit)}, LANES, thread, count, &lane0, &lane1);")
        text(f"{unit.function}(&self, 0, batch, t0, t1, lane0, lane1, &team);", "RC_BARRIER")

    def items(self, unit: Unit, text: Text, count: str, rows: str, steps: str, before: Sequence[str] = ()) -> None:
        """Sequences times lane blocks, dealt to the threads; `before` prepares the `item` at hand."""
        lane_end, vectors = self.lane_end(unit), unit.body.vectors
        grain, parts = "LANES" if vectors == 1 else f"({vectors} * LANES)", "1"
        if unit.program.lanes_apart:
            text(
                f"const long blocks = ({lane_end} + {grain} - 1) / {grain}, "
                f"wanted = (4 * count + {count} - 1) / {count};"
            )
            text("const long parts = blocks < wanted ? blocks : wanted;")
            parts = "parts"
        text("long first, last;", f"rc_split({count} * {parts}, 1, thread, count, &first, &last);")
        with text.braces("for (long work = first; work < last; work++)"):
            text(f"const long item = work / {parts};", *before, "long lane0 = 0, lane1 = 0;")
            if unit.program.lanes_apart:
                text(f"rc_split({lane_end}, {grain}, work % parts, parts, &lane0, &lane1);")
            text(f"{unit.function}(&self, {rows}, {steps}, lane0, lane1);")

    def segments(self, unit: Unit, text: Text, setup: Text, steps: str) -> None:
        body = Text()
        body("const long segment = item % segments, b = item / segments;")
        body("const long from = segment * length < steps ? segment * length : steps;")
        body("const long to = from + length < steps ? from + length : steps;")
        body.block(setup)
        self.items(unit, text, "batch * segments", "b, b + 1", steps, body.lines)

    # --- memory -----------------------------------------------------------------------------------------------

    def _sequences(self) -> list[Buffer]:
        own = [b for found in self.frozen.values() for b in found.per_step]
        return [*(b for b in self.plan.buffers if b.role is Role.SEQUENCE), *own]

    def stored(self, buffer: Buffer) -> str:
        return STORED[self.spec.dtype(buffer.dtype).accumulator]

    def lane_end(self, unit: Unit) -> str:
        lane = unit.program.lane
        return "0" if lane is None else self.spell.size(dim_of(lane))

    def _choices(self, text: Text) -> None:
        """Which threads take which part of the work, and in what order."""
        loops = [
            s
            for s in self.stages
            if s.scan is None and s.units and s.units[0].program.tiled and s.units[0].program.stage.carries
        ]
        weights = sum(weight_bytes((code.whole or code.units[0]).body) for code in loops)
        if self.absorbed or not any(code.scan or code.newton for code in self.stages):
            text("// Enough sequences: each thread takes its own through every stage and waits for nobody.")
            with text.braces("INLINE int by_sequences(int64_t batch, int threads)"):
                if weights:
                    vectors = min(-(-self.sizes[dim_of(_lane(c.units[0]))] // self.lanes) for c in loops)
                    least = min(max(3 * weights // _CACHED, 3), 12)
                    text(
                        "// Few ones go through the steps together, each thread with its share of the weights: a weight"
                    )
                    text("// that is loaded then serves all sequences.")
                    text(f"if (threads > 1 && threads <= {vectors}) return batch >= {least} * threads;")
                text("return batch % threads == 0 || batch >= 4 * threads;")
            text("")
        if self.absorbed:
            text(
                "// Whether the products before a loop are computed inside it: with a few sequences every weight loaded"
            )
            text(
                "// serves all of them, with one or two it is better loaded once for many steps, as it is where all the"
            )
            text("// weights of a thread do not stay in its cache.")
            with text.braces("INLINE int runs_whole(int64_t batch, int64_t steps, int threads)"):
                text("(void)steps;", "if (batch < 4) return 0;")
                text(
                    f"return by_sequences(batch, threads) ? batch >= 2 * threads : threads >= {-(-weights // _CACHED)};"
                )
            text("")

    def _layout(self, text: Text) -> None:
        sequences = self._sequences()
        self._choices(text)
        if self.chunked:
            text("// Steps that go through all stages together, so that what passes between them stays in the caches.")
            with text.braces("INLINE int64_t chunk_steps(int64_t batch, int64_t steps, int threads)"):
                if self.absorbed and all(isinstance(self.plan.stages[k], Matmul) for k in self.absorbed):
                    made = {w for k in self.absorbed for w in self.plan.stages[k].writes}
                    if all(b.name in made for b in sequences):
                        text("if (runs_whole(batch, steps, threads)) return steps;  // nothing is passed on")
                row = " + ".join(f"{self.spell.count(b.dims)} * sizeof({self.stored(b)})" for b in sequences)
                text(f"const int64_t row = batch * (int64_t)({row}), fit = threads * INT64_C({2 << 20}) / row;")
                full = 48 if any(s.chunk for s in self.stages) else 24  # tiles of rows, chunks of steps
                text(f"const int64_t whole = fit < {full} ? {full} : fit / {full} * {full};  // full tiles of rows")
                text("return steps < whole ? steps : whole;")
        if self.loops or self.newtons:
            text("", "// Segments of time a scan folds side by side: as many as keep every thread busy, at least two.")
            with text.braces("INLINE int64_t scan_segments(int64_t batch, int64_t steps, int threads)"):
                text("int64_t wanted = (2 * threads + batch - 1) / batch;", "wanted = wanted < 2 ? 2 : wanted;")
                text("return wanted < steps ? wanted : steps;")
        text("", "// Places of what the plan makes for itself; returns how much room they take.")
        with text.braces(
            "static int64_t lay_out(struct call *call, int64_t batch, int64_t steps, int threads, char *base)"
        ):
            text("int64_t used = 0;")
            if self.chunked:
                text("const int64_t chunk = chunk_steps(batch, steps, threads);")
            for b in self.plan.buffers:
                if b.role is Role.ONCE:
                    self._take(b, "1", None, text)
            for b in sequences:
                self._take(b, "batch", "chunk" if self.chunked else "steps", text)
            for b in (b for found in self.frozen.values() for b in found.per_chunk):
                self._take(b, "batch", None, text)
            for number, code in enumerate(self.stages):
                if code.scan is not None:
                    text(f"const int64_t segments_{number} = scan_segments(batch, steps, threads);")
                    for b in code.scan.buffers:
                        self._take(b, "batch", f"segments_{number}", text)
                    for unit in code.units:
                        text(*thread_rooms(unit.body))
                    continue
                if code.newton is not None:
                    text(f"const int64_t segments_{number} = scan_segments(batch, steps, threads);")
                    for b in code.newton.per_step:
                        self._take(b, "batch", "steps", text)
                    for b in code.newton.per_segment:
                        self._take(b, "batch", f"segments_{number}", text)
                    text(take_rounds(code.newton, self.spell), *(r for u in code.units for r in thread_rooms(u.body)))
                    continue
                for carry in self._saved(code):
                    like = self.buffers[f"{carry.name}@initial"]  # read by the same code as the initial value
                    for name in between_pieces(carry.name):
                        self._take(replace(like, name=name, role=Role.FINAL), "batch", None, text)
                for unit in all_units(code):
                    text(*panel_room(unit.body), *thread_rooms(unit.body))
                    if unit.program.tiled and unit is not code.whole:
                        text(*tiles.layout(unit.body))
            text("(void)call, (void)batch, (void)steps, (void)threads, (void)base;", "return used;")
        text("")
        with text.braces("int64_t recurc_workspace(int64_t batch, int64_t steps, int threads)"):
            text("struct call call;", "return lay_out(&call, batch, steps, threads, 0);")
        for k, solver in enumerate(self.newtons.values()):
            text("")
            text.block(rounds_function(k, solver, self.spell))
        if self.products:
            text("", "// Whether the hoisted products are a stage of their own, so that the caller may make them.")
            with text.braces("int recurc_hoists(int64_t batch, int64_t steps, int threads)"):
                answer = "!runs_whole(batch, steps, threads)" if self.absorbed else "1"
                text("(void)batch, (void)steps, (void)threads;", f"return {answer};")

    def _saved(self, code: StageCode) -> Sequence[Carry]:
        """The states that wait in memory between pieces of time."""
        if not self.chunked:
            return ()
        if isinstance(code.stage, Chunk | JointChunk):
            return code.stage.carries
        if isinstance(code.stage, Frozen):
            return ()  # they wait between its chunks
        program = code.units[0].program
        return () if program.tiled else program.stage.carries

    def _take(self, buffer: Buffer, rows: str, steps: str | None, text: Text) -> None:
        count, kind = self.spell.count(buffer.dims), self.stored(buffer)
        count = f"2 * {count}" if buffer.spacing == 2 else count
        product = " * ".join(x for x in (rows, steps, count) if x)
        batch = "0" if rows == "1" else f"{steps} * {count}" if steps else count
        time = count if steps else "0"
        room = f"rc_take(base, &used, {product} * (int64_t)sizeof({kind}))"
        text(f"call->{self.spell(buffer.name)} = (rc_array){{{room}, {batch}, {time}, 0}};")


def all_units(code: StageCode) -> list[Unit]:
    return [*code.units, *([code.whole] if code.whole else [])]


def _lane(unit: Unit) -> Var:
    assert unit.program.lane is not None  # a tiled program has lanes
    return unit.program.lane
