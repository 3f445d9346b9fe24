"""`Loop` stages with a recurrent matrix product, all of T in one cooperative launch (the scheme of persistent RNNs,
as in FlashRNN). One warp owns one row of the states: its lanes split the sum over the previous state, with their part
of the recurrent weights in registers for the whole run. Blocks split the rows; groups of blocks split the batch into
tiles. The states other rows need travel through a double buffer in device memory, with one barrier per step among a
group's blocks."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cuda.body import Body, Local, inner_axes, time_reads
from recurc.backends.cuda.flatten import flatten
from recurc.backends.cuda.lane_stage import load_constants
from recurc.backends.cuda.program import Launch, Step, Term, Workspace
from recurc.backends.cuda.scalars import accumulate, arithmetic, c_type, product_of
from recurc.backends.cuda.scope import Scope, flat, product
from recurc.backends.emit.lanes import crossed_dims
from recurc.ir import Contract, Equation, Read, reads
from recurc.plan import Buffer, Carry, Loop, Plan, Role
from recurc.types import Dims, axis_ids

WARPS = 8  # rows per block
BATCH_TILES = (1, 8)  # sequences a warp works on together: one variant of the kernel for each
WEIGHT_REGISTERS = 128  # 32-bit registers a thread may keep weights in
RESIDENT_BLOCKS = 100  # blocks that fit at once on every GPU this is meant for


@dataclass(frozen=True)
class Product:
    """`name = weights @ carry[t-1]`, with the rows of the result spread over the warps."""

    name: str
    expr: Contract
    weights: Buffer
    weight_labels: tuple[int, ...]
    carry: Carry
    summed: int

    @property
    def dims(self) -> Dims:
        return self.expr.dims


@dataclass(frozen=True)
class Shape:
    """A loop this form can run."""

    row: str  # the dim spread over warps
    products: tuple[Product, ...]
    rest: tuple[Equation, ...]  # the other equations, elementwise along `row`


def shape_of(stage: Loop, plan: Plan, spec: Specialization) -> Shape | None:
    """How the loop fits this form, or None: every contraction that crosses a large dim multiplies a param by a vector
    state of the step before, and everything else is elementwise along one dim that all states have."""
    products: list[Product] = []
    rest: list[Equation] = []
    carries = {c.name: c for c in stage.carries}
    for equation in flatten(stage.body):
        found = _product(equation, carries, plan)
        if found:
            products.append(found)
        else:
            rest.append(equation)
    if not products:
        return None
    crossed = set[str]().union(*(crossed_dims(e.expr) for e in rest))
    rows = [d for d in products[0].dims if d not in crossed and all(d in p.dims for p in products)]
    rows = [d for d in rows if all(c.dims == (d,) for c in stage.carries)]
    if len(rows) != 1:
        return None
    shape = Shape(rows[0], tuple(products), tuple(rest))
    small = [product([n for _, n in inner_axes(e.expr.dims, (shape.row,), spec)]) for e in rest]
    return shape if sum(small) <= 96 and sum(_gates(p, shape, spec) for p in products) <= 8 else None


def _product(equation: Equation, carries: dict[str, Carry], plan: Plan) -> Product | None:
    expr = equation.expr
    if not isinstance(expr, Contract):
        return None
    for vector, vector_labels, weights, labels in (
        (expr.right, expr.right_axes, expr.left, expr.left_axes),
        (expr.left, expr.left_axes, expr.right, expr.right_axes),
    ):
        if (
            not isinstance(vector, Read)
            or not isinstance(weights, Read)
            or vector.lag != 1
            or vector.name not in carries
        ):
            continue
        constant = plan.has(weights.name) and plan.buffer(weights.name).role in (Role.PARAM, Role.ONCE)
        distinct = len(set(labels)) == len(labels)
        whole = len(vector_labels) == 1 and {*expr.out_axes, *vector_labels} == set(labels)
        if constant and distinct and whole and vector_labels[0] not in expr.out_axes:
            (summed,) = vector_labels
            return Product(equation.name, expr, plan.buffer(weights.name), labels, carries[vector.name], summed)
    return None


def _gates(p: Product, shape: Shape, spec: Specialization) -> int:
    """Rows of the weights that one row of the state takes."""
    return product([n for _, n in inner_axes(p.dims, (shape.row,), spec)])


@dataclass(frozen=True)
class Split:
    """How the lanes of a warp share a sum: each takes `pack` neighbours, `rounds` times."""

    length: int
    pack: int
    rounds: int

    @property
    def padded(self) -> int:
        return 32 * self.pack * self.rounds


def _split(length: int, itemsize: int) -> Split:
    pack = next(p for p in (16 // itemsize, 8 // itemsize, 1) if p >= 1 and (p == 1 or length % (32 * p) == 0))
    return Split(length, pack, -(-length // (32 * pack)))


def emit_persistent(
    stage: Loop, shape: Shape, plan: Plan, spec: Specialization, kernel: str
) -> tuple[Step, list[str], list[Scope]]:
    """How to launch the variants of the kernel (one per batch tile), the buffers they write, and each one's text."""
    size = spec.size(shape.row)
    launches: list[Launch] = []
    scopes: list[Scope] = []
    written: list[str] = []
    workspaces: tuple[Workspace, ...] = ()
    where = ""
    for tile in BATCH_TILES:
        scope = Scope(plan, spec)
        name = f"{kernel}_batch{tile}"
        writer = _Writer(stage, shape, plan, spec, scope, tile)
        written = writer.write()
        workspaces, where = writer.workspaces, "registers" if writer.resident else "the second-level cache"
        blocks = -(-size // WARPS) if writer.resident else min(-(-size // WARPS), RESIDENT_BLOCKS)
        launch = Launch(
            name, scope.arguments, (Term(blocks),), (Term(tile=tile, batch=True),), 32 * WARPS, writer.shared_bytes,
            cooperative=True, max_batch=None if tile == BATCH_TILES[-1] else tile,
            common=tuple(p.weights.name for p in shape.products),
        )  # fmt: skip
        launches.append(launch)
        scopes.append(scope)
    names = ", ".join(p.weights.name for p in shape.products)
    what = f"persistent loop over t: one warp per row of {size}, weights {names} in {where}, a grid barrier per step"
    return Step(what, tuple(launches), workspaces), written, scopes


class _Writer:
    """Writes one variant."""

    def __init__(self, stage: Loop, shape: Shape, plan: Plan, spec: Specialization, scope: Scope, tile: int) -> None:
        self.stage, self.shape, self.plan, self.spec, self.scope, self.tile = stage, shape, plan, spec, scope, tile
        self.size = spec.size(shape.row)
        self.shared_names = list(dict.fromkeys(p.carry.name for p in shape.products))
        self.carries = {c.name: c for c in stage.carries}
        self.lanes: Dims = (shape.row,)
        self.splits = {p.name: _split(self.size_of_sum(p), self.itemsize(p.carry)) for p in shape.products}
        words = sum(
            _gates(p, shape, spec) * self.splits[p.name].pack * self.splits[p.name].rounds * self.itemsize(p.carry) // 4
            for p in shape.products
        )
        self.resident = words <= WEIGHT_REGISTERS and -(-self.size // WARPS) <= RESIDENT_BLOCKS
        self.padded = {
            name: max(s.padded for p, s in self._sums() if p.carry.name == name) for name in self.shared_names
        }
        self.shared_bytes = sum(self.itemsize(self.carries[n]) * tile * self.padded[n] for n in self.shared_names)
        self.workspaces = (
            Workspace("arrived", 8, (Term(batch=True),), zeroed=True),
            *(self._workspace("exchange", n, 2) for n in self.shared_names),
            *(self._workspace("owned", c.name, 1) for c in stage.carries if c.name not in self.shared_names),
        )

    def _sums(self) -> list[tuple[Product, Split]]:
        return [(p, self.splits[p.name]) for p in self.shape.products]

    def _workspace(self, kind: str, carry: str, copies: int) -> Workspace:
        return Workspace(
            self.scope.names(f"{carry}@{kind}"),
            self.itemsize(self.carries[carry]),
            (Term(copies * self.size, batch=True),),
        )

    def itemsize(self, carry: Carry) -> int:
        return arithmetic(carry.dtype, self.spec).itemsize

    def size_of_sum(self, p: Product) -> int:
        return self.spec.size(p.weights.dims[p.weight_labels.index(p.summed)])

    def exchange(self, carry: str) -> str:
        return self.scope.workspace(self.scope.names(f"{carry}@exchange"), c_type(self.carries[carry].dtype, self.spec))

    def owned(self, carry: str) -> str:
        return self.scope.workspace(self.scope.names(f"{carry}@owned"), c_type(self.carries[carry].dtype, self.spec))

    def staged(self, carry: str) -> str:
        return self.scope.names(f"{carry}@staged")

    def write(self) -> list[str]:
        scope, tile, row = self.scope, self.tile, self.scope.place(self.shape.row)
        batch, steps = scope.batch(), scope.steps()
        scope.line("RC_DYNAMIC_SHARED(memory);")
        offset = 0
        for name in self.shared_names:
            kind = c_type(self.carries[name].dtype, self.spec)
            scope.line(
                f"{kind}* const {self.staged(name)} = ({kind}*)(memory + {offset});  // [sequence][{self.padded[name]}]"
            )
            offset += self.itemsize(self.carries[name]) * tile * self.padded[name]
        scope.line(f"const int lane = threadIdx.x & 31, row_start = blockIdx.x * {WARPS} + threadIdx.x / 32;")
        scope.line(
            f"const int member = lane / {32 // tile};  // the sequence of a tile whose states this lane advances"
        )
        scope.line(f"const i64 tiles = ({batch} + {tile - 1}) / {tile};")
        scope.line(f"u64* const meeting = {scope.workspace('arrived', 'u64')} + blockIdx.y;")
        scope.line("u64 target = 0;")
        for name in self.shared_names:
            total = tile * self.padded[name]
            scope.line(
                f"for (int element = threadIdx.x; element < {total}; element += {32 * WARPS}) "
                f"{self.staged(name)}[element] = 0;"
            )
        if self.resident:
            scope.line("const bool in_range = row_start < " + f"{self.size};")
            scope.line(f"const int {row} = in_range ? row_start : {self.size - 1};")
            self._load_weights(row)
        self._initial(row)
        scope.line("target += gridDim.x;")
        scope.line("rc_grid_barrier(meeting, target);")
        scope.line()
        with scope.block(f"for (i64 t = 0; t < {steps}; ++t)"):
            with scope.block("for (i64 tile = blockIdx.y; tile < tiles; tile += gridDim.y)"):
                self._stage_states()
                with self._rows(row):
                    written = self._advance(row)
                scope.line("__syncthreads();  // before the staged states are overwritten")
            scope.line("target += gridDim.x;")
            scope.line("rc_grid_barrier(meeting, target);")
        return written

    def _rows(self, row: str):
        """Resident weights mean one row per warp; otherwise a warp takes rows one grid apart."""
        if self.resident:
            return self.scope.block("")
        stride = f"gridDim.x * {WARPS}"
        return self.scope.block(f"for (int {row} = row_start; {row} < {self.size}; {row} += {stride})")

    def _find_sequence(self) -> None:
        scope, batch = self.scope, self.scope.batch()
        scope.line(f"const i64 wanted = tile * {self.tile} + member, b = wanted < {batch} ? wanted : {batch} - 1;")
        first_lane = f"lane % {32 // self.tile} == 0" if self.tile < 32 else "true"
        in_range = "in_range && " if self.resident else ""
        scope.line(f"const bool mine = {in_range}wanted < {batch} && {first_lane};  // this lane writes")

    def _initial(self, row: str) -> None:
        scope = self.scope
        with scope.block("for (i64 tile = blockIdx.y; tile < tiles; tile += gridDim.y)"), self._rows(row):
            self._find_sequence()
            for name, carry in self.carries.items():
                load = scope.load(self.plan.buffer(f"{carry.name}@initial"), [row])
                target = self.exchange(name) if name in self.shared_names else self.owned(name)
                scope.line(f"if (mine) {target}[b * {self.size} + {row}] = {load};")

    def _weight_name(self, p: Product) -> str:
        return self.scope.names(f"{p.weights.name}@{p.name}@mine")

    def _weight_load(self, p: Product, gate_places: dict[str, str], row: str, k: str) -> str:
        label = {x: gate_places.get(axis, row) for x, axis in zip(p.expr.out_axes, axis_ids(p.dims), strict=True)}
        label[p.summed] = k
        return self.scope.load(p.weights, [label[x] for x in p.weight_labels], b="0")

    def _load_weights(self, row: str) -> None:
        """The part of the weights this lane multiplies with, kept for the whole run."""
        scope = self.scope
        scope.line("// The recurrent weights of this row, split over the lanes; they stay in registers for all t.")
        for p, split in self._sums():
            kind, gates = c_type(p.expr.dtype, self.spec), inner_axes(p.dims, self.lanes, self.spec)
            total = product([n for _, n in gates])
            scope.line(f"{kind} {self._weight_name(p)}[{total}][{split.rounds}][{split.pack}];")
            places = {axis: scope.place(axis) for axis, _ in gates}
            loops = [(places[axis], n) for axis, n in gates] + [("slot", split.rounds), ("element", split.pack)]
            with scope.unrolled(loops):
                scope.line(f"const int along = (slot * 32 + lane) * {split.pack} + element;")
                load = self._weight_load(p, places, row, "along")
                target = f"{self._weight_name(p)}[{self._gate(p)}][slot][element]"
                value = f"along < {split.length} ? {load} : 0" if split.padded > split.length else load
                scope.line(f"{target} = {value};")

    def _gate(self, p: Product) -> str:
        gates = inner_axes(p.dims, self.lanes, self.spec)
        return flat([self.scope.place(axis) for axis, _ in gates], [n for _, n in gates])

    def _stage_states(self) -> None:
        scope = self.scope
        scope.line("// The states of the step before, of all rows, for the sequences of this tile")
        for name in self.shared_names:
            padded, total = self.padded[name], self.tile * self.size
            with scope.block(f"for (int element = threadIdx.x; element < {total}; element += {32 * WARPS})"):
                scope.line(f"const int along = element % {self.size}, sequence = element / {self.size};")
                scope.line(f"const i64 at = tile * {self.tile} + sequence;")
                half = f"(t & 1) * {scope.batch()} * {self.size}"
                load = f"rc_load_from_grid({self.exchange(name)} + {half} + at * {self.size} + along)"
                scope.line(f"if (at < {scope.batch()}) {self.staged(name)}[sequence * {padded} + along] = {load};")
        scope.line("__syncthreads();")

    def _advance(self, row: str) -> list[str]:
        scope, spec, plan = self.scope, self.spec, self.plan
        self._find_sequence()
        body = Body(scope, self.lanes)
        hidden = (
            frozenset(e.name for e in self.shape.rest) | {p.name for p in self.shape.products} | self.carries.keys()
        )
        exprs = [e.expr for e in self.shape.rest]
        scope.line("// Inputs are asked for before the sums, so that they have arrived when those are done.")
        for buffer in time_reads(exprs, {b.name: b for b in plan.buffers}, hidden):
            body.load_local(buffer, body.bind(buffer.name, 0, body.local(buffer.name, buffer.dims)))
        load_constants(body, self.shape.rest, hidden)
        read_before = {r.name for expr in exprs for r in reads(expr) if r.lag == 1}
        for name, carry in self.carries.items():
            if name not in read_before:
                continue
            before = body.bind(name, 1, body.local(f"{name}@prev", carry.dims))
            kind = c_type(carry.dtype, spec)
            source = f"{self.staged(name)}[member * {self.padded[name]} + {row}]" if name in self.shared_names else (
                f"{self.owned(name)}[b * {self.size} + {row}]"
            )  # fmt: skip
            scope.line(f"const {kind} {before.name} = {source};")
        for p, split in self._sums():
            self._sum(p, split, body, row)
        values: dict[str, Local] = {}
        for equation in self.shape.rest:
            values[equation.name] = body.equation(equation)
        for name in self.stage.writes:
            body.store(plan.buffer(name), values[name], guards=("mine",))
        for name in self.carries:
            value = values[name].name
            if name in self.shared_names:
                half = f"((t + 1) & 1) * {scope.batch()} * {self.size}"
                scope.line(f"if (mine) {self.exchange(name)}[{half} + b * {self.size} + {row}] = {value};")
            else:
                scope.line(f"if (mine) {self.owned(name)}[b * {self.size} + {row}] = {value};")
        written = list(self.stage.writes)
        finals = [c for c in self.stage.carries if plan.has(f"{c.name}@final")]
        if finals:
            with scope.block(f"if (t == {scope.steps()} - 1)"):
                for carry in finals:
                    body.store(plan.buffer(f"{carry.name}@final"), values[carry.name], guards=("mine",))
                    written.append(f"{carry.name}@final")
        return written

    def _sum(self, p: Product, split: Split, body: Body, row: str) -> None:
        """All gates of this row for all sequences of the tile, then each lane gets those of its own sequence."""
        scope, kind = self.scope, c_type(p.expr.dtype, self.spec)
        gates = inner_axes(p.dims, self.lanes, self.spec)
        total = product([n for _, n in gates])
        sums = scope.names(f"{p.name}@sums")
        scope.comment(p.name, p.expr.span)
        scope.line(f"{kind} {sums}[{total}][{self.tile}] = {{}};")
        loops = [("slot", split.rounds)]
        opening = (
            scope.unrolled(loops)
            if self.resident
            else scope.block(f"for (int slot = 0; slot < {split.rounds}; ++slot)")
        )
        with opening:
            if not self.resident:
                self._weights_of_round(p, split, row)
            weight = f"{self._weight_name(p)}[gate]" + ("[slot]" if self.resident else "")
            with scope.unrolled([("sequence", self.tile)]):
                pack, staged = f"rc_pack<{kind}, {split.pack}>", self.staged(p.carry.name)
                place = f"sequence * {self.padded[p.carry.name]} + (slot * 32 + lane) * {split.pack}"
                scope.line(f"const {pack} part = *(const {pack}*)({staged} + {place});")
                with scope.unrolled([("gate", total), ("element", split.pack)]):
                    term = product_of(f"{weight}[element]", "part.value[element]", p.expr.dtype)
                    scope.line(accumulate("sum", f"{sums}[gate][sequence]", term, p.expr.dtype))
        value = body.bind(p.name, 0, body.local(p.name, p.dims))
        if not value.inner:
            scope.line(f"const {kind} {value.name} = rc_warp_sum_split({sums}[0]);")
            return
        scope.line(f"{kind} {value.declarator};")
        with scope.unrolled([("gate", total)]):
            scope.line(f"{value.name}[gate] = rc_warp_sum_split({sums}[gate]);")

    def _weights_of_round(self, p: Product, split: Split, row: str) -> None:
        scope = self.scope
        kind, gates = c_type(p.expr.dtype, self.spec), inner_axes(p.dims, self.lanes, self.spec)
        scope.line(f"{kind} {self._weight_name(p)}[{product([n for _, n in gates])}][{split.pack}];")
        places = {axis: scope.place(axis) for axis, _ in gates}
        with scope.unrolled([(places[axis], n) for axis, n in gates] + [("element", split.pack)]):
            scope.line(f"const int along = (slot * 32 + lane) * {split.pack} + element;")
            load = self._weight_load(p, places, row, "along")
            value = f"along < {split.length} ? {load} : 0" if split.padded > split.length else load
            scope.line(f"{self._weight_name(p)}[{self._gate(p)}][element] = {value};")
