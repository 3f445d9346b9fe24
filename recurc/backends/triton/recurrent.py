"""A `Loop` stage that multiplies its states by recurrent weights (LSTM, GRU, ...): one program per tile of sequences
runs all steps, with `tl.dot` over blocks of the summed dim.

A step is a row of phases. A phase computes, tile by tile, values over one dim; what later phases or the next step
need whole goes through scratch memory, and a barrier separates phases. States have two places in scratch, for this
step and the one before, taken in turns. This is right for any size; the weights come from the cache at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recurc import ir
from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import (
    ALL_REGISTERS,
    Arg,
    Options,
    Step,
    pointer_type,
    power_of_two,
    stored,
    triton_type,
)
from recurc.backends.triton.lanes import finish
from recurc.backends.triton.matmul import dot_type
from recurc.backends.triton.places import Place
from recurc.backends.triton.recurrent_layout import ROWS, WARPS, Layout, Phase, sides
from recurc.backends.triton.scope import Lines
from recurc.backends.triton.values import SEQ, Code, Context, Ids, TileCode, dim_of, label_ids
from recurc.errors import UnsupportedError
from recurc.plan import Buffer, Loop, Role
from recurc.types import DType, Kind, axis_ids


@dataclass(frozen=True)
class Product:
    """`weight @ data` over one summed dim: `data` is a value kept in scratch, or an input."""

    expr: ir.Contract
    ids: Ids  # of the result
    data: ir.Read
    weight: ir.Expr
    summed: str  # axis id
    labels: tuple[tuple[int, str | int | Place], ...]


def emit_recurrent(context: Context, stage: Loop, name: str, options: Options) -> tuple[Step, ...]:
    """The stage as one kernel. Raises `UnsupportedError` naming what it cannot do."""
    body = _with_named_operands(context, stage)
    lanes = lane_dims(stage)
    layout = Layout(context, stage, body, lanes, options)
    lines, args = list[str](), dict[str, Arg]()
    scopes: list[_PhaseCode] = []
    trials = {phase: _phase(layout, phase, None) for phase in layout.phases()}
    layout.products = max(len(trial.products) for trial in trials.values())
    for phase, trial in trials.items():
        code = _phase(layout, phase, tuple(a for a in trial.axes if a != SEQ))
        scopes.append(code)
        lines += code.text(phase)
        args |= code.args
    args |= {
        "batch": Arg("batch", "i32", "batch"),
        "steps": Arg("steps", "i32", "steps"),
        "rows": Arg("rows", "i32", f"1 if per_sequence else {ROWS}"),
        "PER_SEQUENCE": Arg("PER_SEQUENCE", "constexpr", "per_sequence", False),
        "BLOCK_SEQ": Arg("BLOCK_SEQ", "constexpr", str(ROWS), ROWS),
    }
    lane_count = math.prod(context.size(d) for d in lanes)
    head = ["pid = tl.program_id(0)"]
    for dim in reversed(lanes):
        head += [f"{layout.lane(dim)} = pid % {context.size(dim)}", f"pid = pid // {context.size(dim)}"]
    head += [
        "first = pid.to(tl.int64) * rows",
        "place = tl.arange(0, BLOCK_SEQ)[:, None]",
        "in_seq = (place < rows) & (first + place < batch)",
        "seq = tl.minimum(first + place, batch - 1)",
        "own = first if PER_SEQUENCE else 0  # params: one set per sequence (then a program has one), or one for all",
        "for step in range(0, steps):",
        "    t = tl.cast(step, tl.int64)",
        "    now = t % 2  # where the states of the step before are; the new ones go to the other place",
    ]
    code = scopes[0]
    code.args = args
    grid = f"({f'{lane_count} * ' if lanes else ''}triton.cdiv(batch, 1 if per_sequence else {ROWS}),)"
    about = (
        "Fused loop over t: each program takes a tile of sequences through all steps.",
        f"States {', '.join(c.name for c in stage.carries)} go through scratch memory.",
        "A barrier separates the phases of a step.",
    )
    kernel = finish(code, name, "recurrent", about, ["    " + line for line in head] + lines, grid, WARPS)
    # Programs are few (one for 16 sequences) and have a multiprocessor each; left to itself, the assembler would spill
    # to make room for more of them.
    stages = 3 if context.spec.real.itemsize <= 2 else 2
    kernel = replace(kernel, num_stages=stages, registers=ALL_REGISTERS)
    return (*layout.before(), kernel, *layout.after())


def _with_named_operands(context: Context, stage: Loop) -> dict[str, ir.Equation]:
    """The body with a name for every operand of a recurrent product that is not a plain value yet."""
    states = {c.name for c in stage.carries} | {e.name for e in stage.body}
    carried = {c.name for c in stage.carries}
    body: dict[str, ir.Equation] = {}

    def name(node: ir.Expr) -> ir.Expr:
        if not isinstance(node, ir.Contract):
            return node
        found = sides(context, node, states)
        if found is None or (isinstance(found[0], ir.Read) and (found[0].lag == 0 or found[0].name in carried)):
            return node
        fresh = f"operand_{len(body)}"
        while fresh in states or context.plan.has(fresh):
            fresh += "_"
        body[fresh] = ir.Equation(fresh, found[0])
        states.add(fresh)
        read = ir.Read(fresh, 0, found[0].dims, found[0].dtype)
        return replace(node, left=read) if node.left is found[0] else replace(node, right=read)

    for equation in stage.body:
        body[equation.name] = replace(equation, expr=ir.rewrite(equation.expr, name))
    return body


def _phase(layout: Layout, phase: Phase, axes: tuple[str, ...] | None) -> _PhaseCode:
    code = _PhaseCode(layout, phase, axes)
    plan = layout.context.plan
    for name in [n for n, p in layout.wanted.items() if p == phase]:
        value = code.define(layout.body[name])
        if name in layout.stage.writes:
            code.store(code.step, plan.buffer(name), value)
        if name in layout.carries or name in layout.shared:
            code.keep(name, value)
    if axes is None and phase[1] is not None:
        code.position(phase[1])
    return code


class _PhaseCode(TileCode):
    """The values of one phase, for one tile of its dim."""

    def __init__(self, layout: Layout, phase: Phase, axes: tuple[str, ...] | None) -> None:
        self.layout, self.phase = layout, phase
        super().__init__(layout.context, (SEQ,), axes)
        self.scope = layout.scope
        self.given: dict[str, str] = {}
        self.equations = layout.body
        self.step = self.setup = Lines(3)
        self.products: list[Product] = []
        self.totals: dict[tuple[ir.Contract, Ids], str] = {}

    # --- axes: the lanes are single positions, the phase's dim is tiled, others are whole ------------------------

    def index(self, axis: str | int | Place) -> str:
        if isinstance(axis, str) and axis in self.given:
            return self.given[axis]
        if isinstance(axis, str) and axis in self.layout.lanes:
            return self.layout.lane(axis)
        return super().index(axis)

    def position(self, axis: str) -> int:
        if axis in self.layout.lanes:
            raise UnsupportedError(f"a reduction over the independent dim {axis} in a loop with a recurrent param")
        return super().position(axis)

    def covered(self, axis: str | int | Place) -> frozenset[str]:
        return super().covered(axis) - set(self.layout.lanes)

    def mask(self, axis: str) -> str | None:
        return None if axis in self.layout.lanes else super().mask(axis)

    def block(self, axis: str) -> int:
        return self.layout.block(dim_of(axis))

    def store_masks(self, covers: frozenset[str]) -> list[str]:
        return ["in_seq"]

    def _lane_free(self, code: Code) -> Code:
        return Code(code.text, code.covers - set(self.layout.lanes), code.literal)

    def value(self, expr: ir.Expr, ids: Ids) -> Code:
        if isinstance(expr, ir.Linalg) and expr.op != "eye":
            raise UnsupportedError(f"`{expr.op}` in a loop with a large recurrent param")
        return super().value(expr, ids)

    # --- values kept in scratch --------------------------------------------------------------------------------

    def _read(self, read: ir.Read, ids: Ids) -> Code:
        layout = self.layout
        if read.lag == 1 and read.name in layout.carries:
            return self._fetch_kept(read.name, ids, "now")
        known = read.lag == 0 and read.name in layout.wanted and not any(isinstance(i, int) for i in ids)
        if known and (layout.wanted[read.name] != self.phase or ids != axis_ids(read.dims)):
            return self._fetch_kept(read.name, ids, "(1 - now)" if read.name in layout.carries else "")
        return self._lane_free(super()._read(read, ids))

    def load(self, buffer: Buffer, lag: int, ids: Ids) -> Code:
        return self._lane_free(super().load(buffer, lag, ids))

    def _kept_pointer(self, name: str, ids: Ids, place: str) -> str:
        tensor = self.layout.scratch(name)
        dtype = self.context.compute(self.layout.dtype(name))
        base = self.argument(f"{tensor}_ptr", pointer_type(dtype), tensor)
        dims, copies = self.layout.dims(name), self.layout.copies(name)
        parts = [base]
        if place:
            parts.append(f"{place} * {self.argument(f'{tensor}_s2', 'i64', f'{tensor}.stride(0)', dims)}")
        if copies:
            copy = self.offset(copies, copies)[0]
            parts.append(
                f"({copy}) * {self.argument(f'{tensor}_sc', 'i64', f'{tensor}.stride(-{len(dims) + 2})', dims)}"
            )
        parts.append(f"seq * {self.argument(f'{tensor}_sb', 'i64', f'{tensor}.stride(-{len(dims) + 1})', dims)}")
        return " + ".join([*parts, *self.offset(self.layout.dims(name), ids)])

    def _fetch_kept(self, name: str, ids: Ids, place: str) -> Code:
        """A value from scratch on the given axes."""
        key = (f"{name}@kept{place}", 0, ids)
        if key not in self.loads:
            masks = [m for i in ids if isinstance(i, str) and (m := self.mask(i))]
            masked = f", mask={' & '.join(masks)}, other=0" if masks else ""
            hint = f"{name}_before" if place.startswith("now") else f"{name}_whole"
            text = self.scope(("load", *key), hint)
            self.step.add(f"{text} = tl.load({self._kept_pointer(name, ids, place)}{masked})")
            covers = frozenset({SEQ}).union(*(self.covered(i) for i in ids))
            self.loads[key] = self._lane_free(Code(text, covers))
        return self.loads[key]

    def keep(self, name: str, code: Code) -> None:
        """Writes a value to scratch: a state to the place of the next step."""
        ids = axis_ids(self.layout.dims(name))
        masks = ["in_seq", *(m for i in ids if (m := self.mask(i)))]
        place = "(1 - now)" if name in self.layout.carries else ""
        self.step.add(f"tl.store({self._kept_pointer(name, ids, place)}, {code.text}, mask={' & '.join(masks)})")

    # --- products ----------------------------------------------------------------------------------------------

    def _contract(self, expr: ir.Contract, ids: Ids) -> Code:
        product = self._product(expr, ids)
        if product is None:
            return super()._contract(expr, ids)
        key = (expr, ids)
        if key not in self.totals:
            self.totals[key] = self.scope(("total", len(self.totals)), f"{product.data.name}_total")
            self.products.append(product)
        tile = next((i for i in ids if isinstance(i, str) and i not in self.layout.lanes), None)
        return Code(self.totals[key], frozenset((SEQ, *([tile] if tile else []))))

    def _product(self, expr: ir.Contract, ids: Ids) -> Product | None:
        """The contraction as rows of sequences times a weight tile, if that is its form."""
        found = sides(self.context, expr, self.layout.computed)
        if found is None:
            return None
        data, weight = found
        if not isinstance(data, ir.Read) or expr.dtype.kind is Kind.INT:
            return None
        labels = label_ids(expr, ids)
        summed = next(k for k in labels if k not in expr.out_axes)
        data_axes = expr.left_axes if expr.left is data else expr.right_axes
        others = [labels[k] for k in data_axes if k != summed]
        tiles = [i for i in ids if isinstance(i, str) and i not in self.layout.lanes]
        computed = any(isinstance(i, Place) for i in ids)
        if computed or any(o not in self.layout.lanes for o in others) or len(tiles) != 1:
            return None
        return Product(expr, ids, data, weight, str(labels[summed]), tuple(labels.items()))

    def text(self, phase: Phase) -> list[str]:
        """The phase: a loop over tiles of its dim, the products first, then the values; a barrier at the end."""
        dim = phase[1]
        lines = Lines(2)
        lines.add(f"# {', '.join(n for n, p in self.layout.wanted.items() if p == phase)}")
        if dim is None:
            lines.add("for tile in range(0, 1):")
        else:
            lines.add(f"for tile in range(0, {self.context.constant(dim)}, {self.block_arg(dim)}):")
        inner = Lines(3)
        for axis in self.axes:
            if axis == SEQ:
                continue
            here = self.on_axis(f"tl.arange(0, {self.block_arg(axis)})", axis)
            inner.add(f"{self.index(axis)} = " + (f"tile + {here}" if axis == dim else here))
            if mask := self.mask(axis):
                inner.add(f"{mask} = {self.index(axis)} < {self.context.constant(dim_of(axis))}")
            elif self.block(axis) < self.context.size(dim_of(axis)) and axis != dim:
                raise UnsupportedError(f"all of {axis} at once inside a loop with a large recurrent param")
        self._write_products(inner)
        return [*lines.lines, *inner.lines, *self.step.lines, "        tl.debug_barrier()"]

    def _write_products(self, lines: Lines) -> None:
        """One loop over the summed dim for all products of the same data, so that it is loaded once."""
        groups: dict[tuple[ir.Read, str], list[Product]] = {}
        for product in self.products:
            groups.setdefault((product.data, dim_of(product.summed)), []).append(product)
        if len(self.axes) > 2:
            raise UnsupportedError("values over several dims at once inside a loop with a large recurrent param")
        for (data, dim), products in groups.items():
            dtype = self._dot_type(products)
            total = triton_type(dtype.accumulator)
            tile = self.block_arg(next(a for a in self.axes if a != SEQ))
            size = self.context.size(dim)
            block_k = min(max(power_of_two(size), 16), 64 if dtype.itemsize <= 2 else 16)
            name = self.scope(("block_k", dim), f"BLOCK_K_{dim}")
            self.args[name] = Arg(name, "constexpr", str(block_k), block_k)
            for product in products:
                lines.add(f"{self.totals[product.expr, product.ids]} = tl.zeros((BLOCK_SEQ, {tile}), {total})")
            # The end is passed at the call: loops of known length are unrolled, and then the loads of all their blocks
            # are under way at once, in more registers than there are.
            end = self.scope(("end", dim), f"end_{dim}")
            self.args[end] = Arg(end, "i32", str(size), aligned=size % 16 == 0)
            lines.add(f"for k0 in range(0, {end}, {name}):")
            body = Lines(lines.indent + 1)
            body.add(f"k = k0 + tl.arange(0, {name})")
            body.add(f"in_k = k < {self.context.constant(dim)}")
            body.add(f"data = {self._data(data, products[0])}.to({triton_type(dtype)})")
            for product in products:
                totals = self.totals[product.expr, product.ids]
                precision = self.layout.options.dot_precision if dtype is DType.F32 else "ieee"
                weight = f"{self._weight(product)}.to({triton_type(dtype)})"
                body.add(
                    f'{totals} = tl.dot(data, {weight}, {totals}, input_precision="{precision}", out_dtype={total})'
                )
            lines.lines += body.lines

    def _dot_type(self, products: list[Product]) -> DType:
        kinds: list[DType] = [self.context.compute(products[0].data.dtype)]
        for product in products:
            kinds += [
                stored(self.context.plan.buffer(r.name), self.context.spec.real) for r in ir.reads(product.weight)
            ]
        return dot_type(self.context, *kinds)

    def _data(self, read: ir.Read, product: Product) -> str:
        """The rows of the tile of sequences over a block of the summed dim."""
        self.given = {product.summed: "k[None, :]"}
        data_axes = product.expr.left_axes if product.expr.left is read else product.expr.right_axes
        labels = dict(product.labels)
        ids = tuple(labels[k] for k in data_axes)
        layout = self.layout
        if read.lag == 1 and read.name in layout.carries:
            pointer = self._kept_pointer(read.name, ids, "now")
        elif read.name in layout.wanted:
            pointer = self._kept_pointer(read.name, ids, "(1 - now)" if read.name in layout.carries else "")
        else:
            pointer = self.pointer(self.context.plan.buffer(read.name), ids)
        self.given = {}
        return f"tl.load({pointer}, mask=in_k[None, :], other=0)"

    def _weight(self, product: Product) -> str:
        """A (BLOCK_K, tile) block of the weight."""
        labels = dict(product.labels)
        on_left = product.expr.left is product.weight
        ids = tuple(labels[k] for k in (product.expr.left_axes if on_left else product.expr.right_axes))
        expr = product.weight
        while not isinstance(expr, ir.Read):
            if isinstance(expr, ir.Reaxis):
                inner: list[str | int | Place] = [0] * len(expr.arg.dims)
                for axis, target in zip(expr.axes, ids, strict=True):
                    inner[axis] = target
                if expr.at is not None and expr.index is not None:
                    inner[expr.at] = expr.index
                expr, ids = expr.arg, tuple(inner)
            else:
                assert isinstance(expr, ir.Apply)
                expr = expr.args[0]
        buffer = self.context.plan.buffer(expr.name)
        assert buffer.role in (Role.PARAM, Role.ONCE)
        tile = next(a for a in self.axes if a != SEQ)
        masks = ["in_k[:, None]", *([m] if (m := self.mask(tile)) else [])]
        self.given = {product.summed: "k[:, None]"}
        pointer = self.pointer(buffer, ids)
        self.given = {}
        return f"tl.load({pointer}, mask={' & '.join(masks)}, other=0)"
