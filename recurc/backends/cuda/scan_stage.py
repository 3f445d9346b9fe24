"""`Scan` stages. A chunk of T is the work of one block for one sequence and a few lanes: each thread combines a few
consecutive steps, a warp joins its threads by shuffles (Kogge-Stone), the block joins its warps through shared memory.
Then every thread knows the states before its first step and advances them step by step. Every element is lifted twice
(the second time from the cache), so nothing but inputs and outputs moves through device memory.

Two variants join the chunks. With enough sequences and lanes to fill a GPU, a block walks over the chunks of its own.
With few, every chunk has its block, and the states at a chunk's end are handed to the next one (a chained scan: one
pass, work in parallel, only the handing over in sequence). Looking back over several chunks would be quicker by a
little, but then the order of combining depends on timing, and the same inputs would not give the same bits."""

from __future__ import annotations

from recurc.backends.base import Specialization
from recurc.backends.cuda.block_stage import SHARED_BUDGET
from recurc.backends.cuda.body import Body, Local
from recurc.backends.cuda.flatten import flatten
from recurc.backends.cuda.lane_stage import load_constants, split_lanes
from recurc.backends.cuda.program import Launch, Step, Term, Workspace
from recurc.backends.cuda.scalars import c_type
from recurc.backends.cuda.scan_element import element_struct, lift_equations, preamble, states_struct
from recurc.backends.cuda.scope import Scope, product
from recurc.backends.emit.lanes import lane_dims
from recurc.ir import Equation, reads
from recurc.plan import Plan, Scan

ITEMS = 8  # consecutive steps per thread
SECTOR = 32  # bytes the memory moves at once: so many bytes of neighbouring lanes lie side by side in a warp
SMALL_ELEMENT = 32  # bytes; a larger element leaves registers for fewer threads, and for one combining at a time
ENOUGH_BLOCKS = 264  # two per multiprocessor of a large GPU: with as many, blocks walk over their own chunks


def emit_scan(stage: Scan, plan: Plan, spec: Specialization, kernel: str) -> tuple[Step, list[str], list[Scope]]:
    """How to launch the variants, the buffers they write, and each one's text."""
    writers: list[_Writer] = []
    walking = _Writer(stage, plan, spec, kernel, chained=False)
    few = ENOUGH_BLOCKS // walking.tiles  # sequences that leave the GPU idle
    if few >= 1:
        writers.append(_Writer(stage, plan, spec, kernel, chained=True))
    writers.append(walking)
    written = [writer.write() for writer in writers][-1]
    writers[0].scope.preamble.extend(preamble(stage.monoid, walking.element, walking.states, plan))
    launches = tuple(writer.launch(few if writer.chained else None) for writer in writers)
    beside = "1 lane" if walking.width == 1 else f"{walking.width} lanes"
    what = f"scan over t by the {stage.monoid.cls} monoid, chunks of {walking.chunk} steps, {beside} a block"
    if few >= 1:
        what += f"; up to {few} sequences by chained chunks"
    return Step(what, launches, writers[0].workspaces), written, [writer.scope for writer in writers]


def too_large(stage: Scan, plan: Plan, spec: Specialization) -> str | None:
    """Why elements do not fit the memory of a block, or None."""
    shared = _Writer(stage, plan, spec, "scan", chained=False).shared_bytes
    if shared <= SHARED_BUDGET:
        return None
    names = ", ".join(c.name for c in stage.monoid.components)
    return f"a scan whose elements ({names}) take {shared:,} bytes of a block (at most {SHARED_BUDGET:,})"


class _Writer:
    """Writes one variant."""

    def __init__(self, stage: Scan, plan: Plan, spec: Specialization, kernel: str, chained: bool) -> None:
        self.stage, self.plan, self.spec, self.chained = stage, plan, spec, chained
        self.scope = Scope(plan, spec)
        self.lanes = lane_dims(stage)
        self.kernel = f"{kernel}_chained" if chained else kernel
        self.per_sequence = product([spec.size(d) for d in self.lanes])
        self.width = 1  # lanes side by side in a warp
        while self.width < min(self.per_sequence, SECTOR // spec.real.itemsize):
            self.width *= 2
        self.tiles = -(-self.per_sequence // self.width)
        self.members = 32 // self.width  # threads of a warp along time
        self.element = element_struct(stage, self.lanes, spec, kernel)
        self.states = states_struct(stage, self.lanes, spec, kernel)
        self.small = self.element.bytes <= SMALL_ELEMENT
        self.warps = 8 if self.small else 4
        self.chunk = self.members * self.warps * ITEMS
        self.lifted = flatten([*stage.pre, *lift_equations(stage.monoid)])
        self.post = flatten(stage.post, [c.name for c in stage.carries] + [e.name for e in stage.pre])
        self.held: dict[str, Local] = {}
        groups = (Term(self.tiles), Term(batch=True), Term(tile=self.chunk, steps=True))
        self.workspaces = (
            Workspace("tickets", 8, (Term(),), zeroed=True),
            Workspace("handed_flags", 8, groups, zeroed=True),
            Workspace("handed_states", self.states.bytes * self.width, groups),
        ) if chained else ()  # fmt: skip

    def launch(self, max_batch: int | None) -> Launch:
        grid = (Term(self.tiles), Term(batch=True), *([Term(tile=self.chunk, steps=True)] if self.chained else []))
        shared, block = self.shared_bytes, 32 * self.warps
        return Launch(self.kernel, self.scope.arguments, grid, block=block, shared_bytes=shared, max_batch=max_batch)

    @property
    def shared_bytes(self) -> int:
        return self.width * (self.warps * self.element.bytes + self.states.bytes) + 16

    def write(self) -> list[str]:
        scope = self.scope
        self._find_work()
        body = Body(scope, self.lanes)
        hidden = frozenset(e.name for e in (*self.lifted, *self.post)) | {c.name for c in self.stage.carries}
        load_constants(body, [*self.lifted, *self.post], hidden)
        for carry in self.stage.carries:
            self.held[carry.name] = body.local(f"{carry.name}@prev", carry.dims)
            body.load_local(self.plan.buffer(f"{carry.name}@initial"), self.held[carry.name])
        scope.line()
        with scope.block("auto lift = [&](const i64 t)", "};"):
            self._lift(body)
        with scope.block(f"auto apply = [&](const {self.element.name}& lifted)", "};"):
            self._apply()
        with scope.block("auto advance = [&](const i64 t)", "};"):
            self._advance(body)
        scope.line()
        if self.chained:
            self._totals()
            self._take_over(body)
            self._steps()
            return self._finals(body, f"segment == segments - 1 && {self._last_thread}")
        with scope.block(f"for (i64 chunk = 0; chunk < {scope.steps()}; chunk += {self.chunk})"):
            self._totals()
            scope.line("apply(prefix);")
            self._steps()
            scope.line("// The last thread along time has the states at the chunk's end, also past the sequence's end.")
            with scope.block(f"if ({self._last_thread})"):
                self._through(body, "boundary[column]", out=True)
            scope.line("__syncthreads();")
            self._through(body, "boundary[column]", out=False)
        return self._finals(body, f"threadIdx.x < {self.width}")

    @property
    def _last_thread(self) -> str:
        return f"warp == {self.warps - 1} && member == {self.members - 1}"

    def _find_work(self) -> None:
        scope, element, width, tiles = self.scope, self.element.name, self.width, self.tiles
        scope.line("RC_DYNAMIC_SHARED(memory);")
        scope.line(f"{element}* const totals = ({element}*)memory;  // [warp][column]")
        if not self.chained:
            scope.line(f"{self.states.name}* const boundary = ({self.states.name}*)(totals + {self.warps * width});")
        scope.line("const int warp = threadIdx.x / 32;")
        scope.line(f"const int member = (threadIdx.x & 31) / {width}, column = threadIdx.x % {width};")
        group = "i64(blockIdx.x)"
        if self.chained:
            groups, group = f"({scope.batch()} * {tiles})", "group"
            ticket = scope.workspace("tickets", "u64")
            scope.line(
                "// Chunks are handed out in the order blocks start, so that whoever waits, waits for a running block."
            )
            scope.line("u64* const ticket = (u64*)memory;")
            scope.line(f"if (threadIdx.x == 0) *ticket = atomicAdd({ticket}, u64(1));")
            scope.line("__syncthreads();")
            scope.line(f"const i64 segment = i64(*ticket) / {groups}, group = i64(*ticket) % {groups};")
            scope.line("__syncthreads();  // before the totals take the ticket's place")
            scope.line(f"const i64 segments = ({scope.steps()} + {self.chunk - 1}) / {self.chunk};")
            scope.line(f"const i64 chunk = segment * {self.chunk};")
        scope.line(f"const i64 b = {group} / {tiles}, position = {group} % {tiles} * {width} + column;")
        scope.line(f"const bool active = position < {self.per_sequence};  // idle threads repeat the last lane, unseen")
        if self.per_sequence > 1:
            scope.line(f"const i64 lane = active ? position : {self.per_sequence - 1};")
        split_lanes(scope, self.lanes, "lane")

    def _lift(self, body: Body) -> None:
        inside = Body(self.scope, self.lanes)
        inside.share(body)
        self.scope.line(f"{self.element.name} result;")
        targets = {f"{n}@lift": field for n, field in self.element.fields("result").items()}
        for equation in self.lifted:
            if equation.name in targets:
                inside.define(targets[equation.name], equation.expr, declare=False)
            else:
                inside.equation(equation)
        self.scope.line("return result;")

    def _apply(self) -> None:
        """The states after the steps that an element stands for."""
        body, monoid = Body(self.scope, self.lanes), self.stage.monoid
        for name, field in self.element.fields("lifted").items():
            body.bind(name, 0, field)
        for name, state in self.held.items():
            body.bind(name, 1, state)
        new: dict[str, Local] = {}
        named = [Equation(f"{n}@new", e) for n, e in zip(monoid.states, monoid.apply, strict=True)]
        for equation in flatten(named):
            state = self.held.get(equation.name.removesuffix("@new"))
            value = body.equation(equation, state.dims if state else None)
            if state:
                new[equation.name.removesuffix("@new")] = value
        for name, value in new.items():
            body.copy(self.held[name], value)

    def _advance(self, body: Body) -> None:
        """One step: its element applied to the states, then what reads them."""
        scope = self.scope
        inside = Body(scope, self.lanes)
        inside.share(body)
        read_before = {r.name for e in self.post for r in reads(e.expr) if r.lag == 1}
        for carry in self.stage.carries:
            inside.bind(carry.name, 0, self.held[carry.name])
            if carry.name in read_before:
                before = inside.bind(carry.name, 1, inside.local(f"{carry.name}@before", carry.dims))
                scope.line(f"{c_type(carry.dtype, self.spec)} {before.declarator};")
                inside.copy(before, self.held[carry.name])
        scope.line("apply(lift(t));")
        pre = flatten(self.stage.pre)
        wanted = {r.name for e in self.post for r in reads(e.expr)} | set(self.stage.writes)
        for equation in reversed(pre):
            if equation.name in wanted:
                wanted |= {r.name for r in reads(equation.expr)}
        values = {e.name: inside.equation(e) for e in pre if e.name in wanted}
        values |= {e.name: inside.equation(e) for e in self.post}
        for name in self.stage.writes:
            inside.store(self.plan.buffer(name), values.get(name) or self.held[name], guards=("active",))

    def _totals(self) -> None:
        """Declares `total` (of this thread's steps and all earlier ones) and `prefix` (of those before its own)."""
        scope, element, width, members = self.scope, self.element.name, self.width, self.members
        scope.line(f"const i64 first = chunk + (warp * {members} + member) * {ITEMS};")
        scope.line(f"{element} total = {element}_identity();")
        scope.line(self._unroll)
        with scope.block(f"for (int slot = 0; slot < {ITEMS}; ++slot)"):
            scope.line("const i64 t = first + slot;")
            scope.line(f"const {element} lifted = lift(t < {scope.steps()} ? t : {scope.steps()} - 1);")
            scope.line(f"if (t < {scope.steps()}) total = {element}_combine(total, lifted);")
        scope.line("// Kogge-Stone along time inside the warp")
        if not self.small:
            scope.line(self._unroll)
        with scope.block(f"for (int offset = 1; offset < {members}; offset *= 2)"):
            scope.line(f"const {element} earlier = rc_shuffle_up(total, offset * {width});")
            scope.line(f"if (member >= offset) total = {element}_combine(earlier, total);")
        scope.line(f"{element} prefix = rc_shuffle_up(total, {width});")
        scope.line(f"if (member == 0) prefix = {element}_identity();")
        scope.line(f"if (member == {members - 1}) totals[warp * {width} + column] = total;")
        scope.line("__syncthreads();")
        if not self.small:
            scope.line(self._unroll)
        with scope.block("for (int at = warp - 1; at >= 0; --at)"):
            scope.line(f"const {element} earlier = totals[at * {width} + column];")
            scope.line(f"prefix = {element}_combine(earlier, prefix);")
            if self.chained:
                scope.line(f"total = {element}_combine(earlier, total);")

    @property
    def _unroll(self) -> str:
        return "#pragma unroll" if self.small else "#pragma unroll 1"

    def _take_over(self, body: Body) -> None:
        """The states before the chunk, from the block before; those after it, to the next, ahead of the own steps."""
        scope, width = self.scope, self.width
        flags, handed = scope.workspace("handed_flags", "u64"), scope.workspace("handed_states", self.states.name)
        with scope.block("if (segment > 0)"):
            scope.line("const i64 from = group * segments + segment - 1;")
            with scope.block("if (threadIdx.x == 0)"):
                scope.line(f"while (rc_load_acquire({flags} + from) == 0) RC_SPIN_WAIT();")
                scope.line("__threadfence();")
            scope.line("__syncthreads();")
            for name, state in self.held.items():
                field = self.states.fields(f"{handed}[from * {width} + column]")[name]
                places = [scope.place(axis) for axis in body.places(state.dims)]
                with scope.unrolled(body.loops(state.dims)):
                    scope.line(f"{state.at(places)} = rc_load_from_grid(&{field.at(places)});")
        with scope.block(f"if (segment + 1 < segments && warp == {self.warps - 1})"):
            scope.line("const i64 to = group * segments + segment;")
            with scope.block(f"if (member == {self.members - 1})"):
                scope.line(f"{self.states.name} before;")
                self._through(body, "before", out=True)
                scope.line("apply(total);")
                self._through(body, f"{handed}[to * {width} + column]", out=True)
                self._through(body, "before", out=False)
                scope.line("__threadfence();")
            scope.line("__syncwarp();")
            scope.line(f"if ((threadIdx.x & 31) == 31) rc_store_release({flags} + to, u64(1));")
        scope.line("apply(prefix);")

    def _steps(self) -> None:
        scope = self.scope
        scope.line(self._unroll)
        with scope.block(f"for (int slot = 0; slot < {ITEMS}; ++slot)"):
            scope.line(f"if (first + slot < {scope.steps()}) advance(first + slot);")

    def _through(self, body: Body, holder: str, out: bool) -> None:
        """Copies the states to a struct, or back."""
        for name, field in self.states.fields(holder).items():
            body.copy(field, self.held[name]) if out else body.copy(self.held[name], field)

    def _finals(self, body: Body, condition: str) -> list[str]:
        written = list(self.stage.writes)
        finals = [c for c in self.stage.carries if self.plan.has(f"{c.name}@final")]
        if finals:
            with self.scope.block(f"if (active && {condition})"):
                for carry in finals:
                    body.store(self.plan.buffer(f"{carry.name}@final"), self.held[carry.name])
                    written.append(f"{carry.name}@final")
        return written
