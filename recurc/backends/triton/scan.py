"""A `Scan` stage: tiles of time scanned by `tl.associative_scan`, the states carried from tile to tile.

With one segment that is the whole of it. When there are too few programs for the device, time is cut into segments:
one kernel reduces each segment to its element, one walks over the segments to get the states each starts from, and
the same scan then runs on all segments side by side. Padding is the identity of the monoid, never zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from recurc import ir
from recurc.backends.emit.lanes import lane_dims
from recurc.backends.emit.text import bare
from recurc.backends.triton.kernel import (
    ALL_REGISTERS,
    Arg,
    Choice,
    KernelText,
    Options,
    Scratch,
    StageText,
    pointer_type,
    power_of_two,
    triton_type,
)
from recurc.backends.triton.lanes import LaneCode, finish, lane_blocks, two_runs, warps
from recurc.backends.triton.loop import whole_elements
from recurc.backends.triton.scope import Lines
from recurc.backends.triton.values import SEQ, TIME, Code, Context, TileCode, constant_value, dim_of
from recurc.errors import CompilerBug
from recurc.plan import Fused, Role, Scan
from recurc.types import Dims, DType, Kind, axis_ids

_TILE = 2048  # elements of a program's tile, for an element of 8 bytes: 16 in each thread, so that nothing spills


def emit_scan(context: Context, stage: Scan, name: str, options: Options) -> StageText:
    """Three kernels and the choice between one segment and several."""
    parts = {k: context.scope((k, name), f"{name}_{k}") for k in ("segments", "segment_steps", "combine")}
    trial = ScanCode(context, stage, None, dict.fromkeys(lane_dims(stage), 1), 16, parts).scan()
    lanes = lane_axes(trial, stage)
    whole = whole_elements(trial, lanes)
    form = tile_of(trial, lanes, whole, element_bytes(context, stage), options)
    blocks, block_t, num_warps, registers = form.blocks, form.block_t, form.num_warps, form.registers

    def made(axes: tuple[str, ...] | None) -> ScanCode:
        return ScanCode(context, stage, axes, blocks, block_t, parts)

    scan = two_runs(lambda axes: made(axes).scan())
    reduce = two_runs(lambda axes: made(axes).reduce())
    starts = two_runs(lambda axes: made(axes).starts())
    count = parts["segments"]
    summaries, begins, alone = segment_tensors(context, scan, count)
    names = ", ".join(stage.monoid.states)
    return (
        *cut_time(scan),
        Choice(
            f"{count} > 1",
            (
                *summaries,
                *begins,
                replace(
                    reduce.kernel(f"{name}_reduce", ("Each segment of time reduced to one element.",), num_warps),
                    helpers=combine_source(context, stage, parts["combine"]),
                    registers=registers,
                ),
                starts.kernel(f"{name}_starts", (f"The states {names} at the start of each segment.",), 1),
            ),
            tuple(alone),
        ),
        replace(
            scan.kernel(name, (f"Scan of {names} over tiles of time, carried from tile to tile.",), num_warps),
            registers=registers,
        ),
    )


def lane_axes(trial: ScanCode, stage: Scan | Fused) -> Dims:
    """The axes along which positions exchange nothing: the lane dims, and of states that have a dim twice both axes of
    it, where a trial has met nothing that goes across."""
    return tuple(dict.fromkeys((*lane_dims(stage), *(a for a in trial.squares if a not in trial.crossed))))


@dataclass(frozen=True)
class Tile:
    """What one program of a scan takes at once: positions of each lane axis and steps, by so many warps."""

    blocks: dict[str, int]
    block_t: int
    num_warps: int
    registers: int


def tile_of(trial: ScanCode, lanes: Dims, whole: int, wide: int, options: Options) -> Tile:
    """The tile for elements of `wide` bytes, of which one lane has `whole`."""
    context = trial.context
    tile = max(_TILE // max(power_of_two(wide) // 8, 1), 64)
    blocks = lane_blocks(context, lanes, whole, tile // 32, 16)
    held = whole * math.prod(blocks.values())
    block_t = options.block_t or min(max(tile // held, 16), 512)
    # in other sizes every element has an address and a mask of its own: fewer in each thread
    even = all(context.size(dim_of(a)) % 16 == 0 for a in (*lanes, *trial.squares))
    num_warps = warps(held * block_t, max((128 if even else 64) // power_of_two(wide), 1))
    # Named, or the assembler spills to fit one more program on a multiprocessor. With half of all, four fit.
    half = even and context.spec.real.accumulator is DType.F32
    return Tile(blocks, block_t, num_warps, ALL_REGISTERS // 2 + 1 if half else ALL_REGISTERS)


def cut_time(scan: ScanCode) -> tuple[str, ...]:
    """Lines of `launch` that say in how many segments time is cut, and how long they are."""
    context, count, per = scan.context, scan.parts["segments"], scan.parts["segment_steps"]
    programs = " * ".join(["batch", *(str(scan.blocks(a)) for a in scan.cut())])
    some = next(b for b in context.plan.buffers if b.role in (Role.OUTPUT, Role.FINAL))
    device = f"{context.scope(('buffer', some.name), some.name)}.device"
    return (
        "# time in segments side by side, when there are too few programs for the device",
        f"{count} = segments or _segments({programs}, steps, {scan.block_t}, {device})",
        f"{per} = triton.cdiv(triton.cdiv(steps, {scan.block_t}), {count}) * {scan.block_t}",
        f"{count} = triton.cdiv(steps, {per})",
    )


def element_bytes(context: Context, stage: Scan) -> int:
    """Bytes of a scanned element, all components in registers of the widest; four times that where the operator takes
    logarithms, with what these need."""
    components = stage.monoid.components
    nodes = (n for e in stage.monoid.combine for n in ir.walk(e) if isinstance(n, ir.Apply))
    room = 4 if any(n.op in ("log", "log1p", "logaddexp") for n in nodes) else 1
    return max(context.compute(c.dtype).itemsize for c in components) * len(components) * room


def segment_tensors(context: Context, scan: ScanCode, count: str) -> tuple[list[Scratch], list[Scratch], list[str]]:
    """Of the scan at hand: the elements of `count` segments, the states before them, and those if there is only one."""
    stage = scan.stage
    summaries = [
        Scratch(scan.summary(c.name), _shape(context, count, c.dims), context.compute(c.dtype))
        for c in stage.monoid.components
    ]
    begins = [
        Scratch(scan.start(c.name), _shape(context, count, c.dims), context.compute(c.dtype)) for c in stage.carries
    ]
    given = [initial_in_a_row(context, c.name) for c in stage.carries]
    return summaries, begins, [f"{b.name} = {i}.unsqueeze(0)" for b, i in zip(begins, given, strict=True)]


def initial_in_a_row(context: Context, state: str) -> str:
    """The initial values of a state, in the words of `launch`, with nothing between neighbours: those of a complex
    state lie beside its other part."""
    buffer = context.plan.buffer(f"{state}@initial")
    name = context.scope(("buffer", buffer.name), buffer.name)
    return name if buffer.spacing == 1 else f"{name}.contiguous()"


def combine_source(context: Context, stage: Scan, name: str) -> str:
    """The monoid's operator as a jit function on elements: first all components of the earlier, then of the later."""
    code = TileCode(context, (), ())
    code.step = Lines(1)
    monoid = stage.monoid
    for side in ("1", "2"):
        for component in monoid.components:
            argument = code.scope(("argument", side, component.name), f"{component.name}_{side}")
            code.values[f"{side}.{component.name}", 0] = Code(argument, frozenset())
    parameters = ", ".join(code.values[f"{s}.{c.name}", 0].text for s in ("1", "2") for c in monoid.components)
    results: list[str] = []
    for component, expr in zip(monoid.components, monoid.combine, strict=True):
        value = code.filled(code.value(expr, axis_ids(expr.dims)), component.dtype)
        name_ = code.scope(("result", component.name), component.name)
        code.step.add(f"{name_} = {value.text}")
        results.append(name_)
    returned = ", ".join(results)
    return "\n".join(["@triton.jit", f"def {name}({parameters}):", *code.step.lines, f"    return {returned}"])


def scan_problems(stage: Scan) -> list[str]:
    """Why `tl.associative_scan` cannot run this monoid: its operator works on single elements."""
    problems: list[str] = []
    monoid = stage.monoid
    if monoid.multiplies:  # matrices and tables, for which there are other kernels
        return problems
    for component, expr, identity in zip(monoid.components, monoid.combine, monoid.identity, strict=True):
        for node in ir.walk(expr):
            match node:
                case ir.Contract() if {*node.left_axes, *node.right_axes} != set(node.out_axes):
                    problems.append(f"a scan whose operator multiplies matrices (component `{component.name}`)")
                case ir.Reduce():
                    problems.append(f"a scan whose operator reduces over {', '.join(node.over)}")
                case ir.Reaxis() | ir.Gather() | ir.Unfold():
                    problems.append(f"a scan whose operator renames or picks dims (component `{component.name}`)")
                case ir.Iota() | ir.Linalg():
                    problems.append(f"a scan whose operator works on places or matrices (component `{component.name}`)")
                case _:
                    pass
        if not isinstance(identity, ir.Const | ir.Apply | ir.Size):
            problems.append(f"a scan whose identity for `{component.name}` is not a number")
    return list(dict.fromkeys(problems))


def _shape(context: Context, segments: str, dims: Dims) -> str:
    sizes = [str(context.size(d)) for d in dims]
    return f"({', '.join([segments, 'batch', *sizes])},)"


class ScanCode(LaneCode):
    """The three kernels of one scan; each method writes one and returns the code."""

    time_axes = frozenset((TIME,))

    def __init__(
        self,
        context: Context,
        stage: Scan,
        axes: tuple[str, ...] | None,
        lanes: dict[str, int],
        block_t: int,
        parts: dict[str, str],
    ) -> None:
        super().__init__(context, (SEQ, TIME), axes, lanes, 1)
        self.block_t, self.parts = block_t, parts
        self.step, self.after = Lines(2), Lines(1)
        self.timed = True
        self.squares: dict[str, None] = {}  # the axes of states that have a dim twice
        self.take(stage)
        for equation in stage.body:
            self.scope(("value", equation.name), equation.name)
        for state in stage.monoid.states:
            self.scope(("value", state), state)

    def take(self, stage: Scan) -> None:
        """The scan to write."""
        self.stage = stage
        axes = [axis_ids(c.dims) for c in stage.monoid.components]
        self.full = [SEQ, *dict.fromkeys(a for ids in axes for a in ids)]
        self.squares |= dict.fromkeys(a for ids in axes if len(set(map(dim_of, ids))) < len(ids) for a in ids)

    # --- names, also of scratch tensors ------------------------------------------------------------------------

    def part(self, kind: str, component: str, hint: str) -> str:
        """A variable of a component of the monoid at hand."""
        return self.scope((kind, self.stage.monoid.states, component), hint)

    def summary(self, component: str) -> str:
        return self.context.scope(("summary", id(self.stage), component), f"{component}_of_segment")

    def start(self, state: str) -> str:
        return self.context.scope(("start", id(self.stage), state), f"{state}_at_segment")

    def element(self, tensor: str, passed: str, dtype: DType, dims: Dims, segment: str = "segment") -> str:
        """The address of a (segments, B, *dims) scratch tensor's elements."""
        base = self.argument(f"{tensor}_ptr", pointer_type(dtype), passed)
        parts = [base, f"{segment} * {self.argument(f'{tensor}_ss', 'i64', f'_stride({passed}, 0)', dims)}"]
        parts.append(f"seq * {self.argument(f'{tensor}_sb', 'i64', f'_stride({passed}, 1)', dims)}")
        return " + ".join([*parts, *self.offset(dims, axis_ids(dims))])

    def lane_masks(self, dims: Dims) -> list[str]:
        return [m for i in axis_ids(dims) if (m := self.mask(i))]

    def time_masks(self) -> list[str]:
        return ["in_t"]

    # --- the kernels -------------------------------------------------------------------------------------------

    def lifted(self) -> list[Code]:
        """The scanned elements of a tile, by component: identity where there is no step."""
        monoid, leaves = self.stage.monoid, list[str]()
        self.equations |= {e.name: e for e in self.stage.pre}
        for component, lift, identity in zip(monoid.components, monoid.lift, monoid.identity, strict=True):
            neutral = constant_value(identity, self.context.spec)
            if neutral is None:
                raise CompilerBug(f"the identity of {component.name} is not a number")
            code = self.filled(self.value(lift, axis_ids(lift.dims)), component.dtype)
            padded = Code(
                f"tl.where(in_t, {bare(code.text)}, {self.literal(neutral, component.dtype)})", code.covers | {TIME}
            )
            name = self.part("leaf", component.name, component.name)
            self.step.add(f"{name} = {self.spread(padded, [*self.full, TIME]).text}")
            leaves.append(name)
        prefixes = [self.part("prefix", c.name, f"{c.name}_prefix") for c in monoid.components]
        if len(leaves) == 1:
            self.step.add(f"{prefixes[0]} = tl.associative_scan({leaves[0]}, 1, {self.parts['combine']})")
        else:
            self.step.add(
                f"{', '.join(prefixes)} = tl.associative_scan(({', '.join(leaves)}), 1, {self.parts['combine']})"
            )
        return [Code(p, frozenset((TIME, *self.full))) for p in prefixes]

    def last(self, code: Code, dtype: DType) -> str:
        """The value at the last step of the tile (where padding has kept the last real one)."""
        if dtype.kind is Kind.BOOL:  # a sum of these is an integer
            return f"(tl.sum(tl.where(is_last, {code.text}, 0).to(tl.int32), axis=1, keep_dims=True) != 0)"
        zero = "0.0" if dtype.kind is Kind.REAL else "0"
        return f"tl.sum(tl.where(is_last, {code.text}, {zero}), axis=1, keep_dims=True)"

    def reduce(self) -> ScanCode:
        monoid = self.stage.monoid
        running: list[str] = []
        for component, identity in zip(monoid.components, monoid.identity, strict=True):
            name = self.part("running", component.name, f"{component.name}_running")
            neutral = self.number(constant_value(identity, self.context.spec), component.dtype)
            shape = ", ".join("1" if a == TIME or a not in self.full else self.extent(a) for a in self.axes)
            self.setup.add(
                f"{name} = tl.full(({shape},), {neutral}, {triton_type(self.context.compute(component.dtype))})"
            )
            running.append(name)
        prefixes = self.lifted()
        lasts: list[str] = []
        for component, prefix in zip(monoid.components, prefixes, strict=True):
            name = self.part("last", component.name, f"{component.name}_last")
            self.step.add(f"{name} = {self.last(prefix, component.dtype)}")
            lasts.append(name)
        self.step.add(f"{', '.join(running)} = {self.parts['combine']}({', '.join([*running, *lasts])})")
        for component, name in zip(monoid.components, running, strict=True):
            tensor = self.summary(component.name)
            place = self.element(tensor, tensor, self.context.compute(component.dtype), component.dims)
            masks = " & ".join(
                [*self.store_masks(frozenset(axis_ids(component.dims))), *self.lane_masks(component.dims)]
            )
            value = self._collapsed(Code(name, frozenset(self.full)), component.dims)
            self.after.add(f"tl.store({place}, {value}, mask={masks})")
        return self

    def starts(self) -> ScanCode:
        self.timed = False
        monoid = self.stage.monoid
        for carry in self.stage.carries:
            self._initial(carry.name, carry.dims)
        for carry in self.stage.carries:
            tensor, code = self.start(carry.name), self.values[carry.name, 1]
            text = self._collapsed(code, carry.dims)
            place = self.element(tensor, tensor, self.context.compute(carry.dtype), carry.dims)
            masks = " & ".join([*self.store_masks(frozenset(axis_ids(carry.dims))), *self.lane_masks(carry.dims)])
            self.step.add(f"tl.store({place}, {text}, mask={masks})")
        for component in monoid.components:
            tensor = self.summary(component.name)
            name = self.part("leaf", component.name, component.name)
            place = self.element(tensor, tensor, self.context.compute(component.dtype), component.dims)
            masks = " & ".join(self.lane_masks(component.dims))
            self.step.add(f"{name} = tl.load({place}" + (f", mask={masks}, other=0)" if masks else ")"))
            self.values[component.name, 0] = Code(name, frozenset((SEQ, *axis_ids(component.dims))))
        self._apply_monoid()
        for state in monoid.states:
            self.step.add(f"{self.values[state, 1].text} = {self.values[state, 0].text}")
        return self

    def scan(self, stores: bool = True) -> ScanCode:
        """Goes through the segment; without `stores` nothing is written, neither values nor final states."""
        monoid, plan = self.stage.monoid, self.context.plan
        for carry in self.stage.carries:
            self._start_of_segment(carry.name, carry.dims)
        prefixes = self.lifted()
        known = dict(self.values)
        self.values |= {(c.name, 0): prefix for c, prefix in zip(monoid.components, prefixes, strict=True)}
        self._apply_monoid()
        new = {(s, 0): self.values[s, 0] for s in monoid.states}
        self.values = known | new
        carried = {s: self.values[s, 1] for s in monoid.states}
        self.equations |= {e.name: e for e in self.stage.post}
        self._before_each_step(carried)
        for target in self.stored() if stores else ():
            value = self.values.get((target, 0)) if target in monoid.states else None
            self.store(self.step, plan.buffer(target), value or self.define(self.equations[target]))
        dims = {c.name: c for c in self.stage.carries}
        for state in monoid.states:
            self.step.add(f"{carried[state].text} = {self.last(self.values[state, 0], dims[state].dtype)}")
            if stores and plan.has(f"{state}@final"):
                self._store_final(state, carried[state], dims[state].dims)
        return self

    def stored(self) -> tuple[str, ...]:
        """The values to write at every step."""
        return self.stage.writes

    def readers(self) -> list[ir.Read]:
        """What is read of the states once they are known."""
        return [r for e in self.stage.post for r in ir.reads(e.expr)]

    def _apply_monoid(self) -> None:
        """The new states, from the components and the carried ones (and nothing else of those names)."""
        monoid, known, equations = self.stage.monoid, self.values, self.equations
        inside = {(c.name, 0) for c in monoid.components} | {(s, 1) for s in monoid.states}
        self.values, self.equations = {k: v for k, v in known.items() if k in inside}, {}
        new: dict[tuple[str, int], Code] = {}
        for state, expr in zip(monoid.states, monoid.apply, strict=True):
            code = self.spread(self.value(expr, axis_ids(expr.dims)), self._spread_axes(expr.dims))
            name = self.scope(("value", state), state)
            self.step.add(f"{name} = {bare(code.text)}")
            new[state, 0] = Code(name, code.covers)
        self.values, self.equations = known | new, equations

    def _before_each_step(self, carried: dict[str, Code]) -> None:
        """The states one step earlier, for equations that read them at lag 1: the tile moved by one place."""
        wanted = {r.name for r in self.readers() if r.lag == 1 and r.name in carried}
        everything = [TIME, *self.full]
        for state in sorted(wanted):
            whole = self.spread(self.values[state, 0], everything)
            shape = ", ".join(self.extent(a) if a in everything else "1" for a in self.axes)
            earlier = f"tl.broadcast_to({self.on_axis('tl.maximum(tl.arange(0, BLOCK_T) - 1, 0)', TIME)}, ({shape},))"
            name = self.scope(("shifted", state), f"{state}_one_before")
            self.step.add(f"{name} = tl.where(t == t0, {carried[state].text}, tl.gather({whole.text}, {earlier}, 1))")
            self.values[state, 1] = Code(name, whole.covers)

    def _initial(self, state: str, dims: Dims) -> None:
        start = self.load(self.context.plan.buffer(f"{state}@initial"), 0, axis_ids(dims))
        self._carry(state, start, dims)

    def _spread_axes(self, dims: Dims) -> list[str]:
        """The axes a state is spread over: with the scan's elements all that those have, alone only its own."""
        return [*self.full, TIME] if self.timed else [SEQ, *axis_ids(dims)]

    def _carry(self, state: str, start: Code, dims: Dims) -> None:
        name = self.scope(("before", state), f"{state}_carry")
        full = self.spread(start, [a for a in self._spread_axes(dims) if a != TIME])
        self.setup.add(f"{name} = {full.text}")
        self.values[state, 1] = Code(name, full.covers)

    def _start_of_segment(self, state: str, dims: Dims) -> None:
        """Loads the state a segment starts from; `launch` passes the initial states when there is only one."""
        buffer = self.context.plan.buffer(f"{state}@initial")
        tensor = self.start(state)
        place = self.element(tensor, tensor, self.context.compute(buffer.dtype), dims)
        wide = f".to({triton_type(self.context.compute(buffer.dtype))})"
        masks = " & ".join(self.lane_masks(dims))
        name = self.scope(("start", state), f"{state}_start")
        self.setup.add(f"{name} = tl.load({place}" + (f", mask={masks}, other=0)" if masks else ")") + wide)
        self._carry(state, Code(name, frozenset((SEQ, *axis_ids(dims)))), dims)

    def _collapsed(self, code: Code, dims: Dims) -> str:
        text = code.text
        for axis in sorted(code.covers - {SEQ, TIME, *axis_ids(dims)}):
            text = f"tl.max({text}, axis={self.position(axis)}, keep_dims=True)"
        return text

    def _store_final(self, state: str, code: Code, dims: Dims) -> None:
        buffer = self.context.plan.buffer(f"{state}@final")
        place = self.pointer(buffer, axis_ids(dims))
        masks = [*self.store_masks(frozenset(axis_ids(dims))), *self.lane_masks(dims), "(segment == segments - 1)"]
        self.after.add(f"tl.store({place}, {self._collapsed(code, dims)}, mask={' & '.join(masks)})")

    def kernel(self, name: str, about: tuple[str, ...], num_warps: int) -> KernelText:
        """The kernel's text around what was written."""
        self.args["segments"] = Arg("segments", "i32", self.parts["segments"])
        body = [*self.prologue()]
        if self.timed:
            self.args["steps"] = Arg("steps", "i32", "steps")
            self.args["segment_steps"] = Arg("segment_steps", "i32", self.parts["segment_steps"])
            self.args["BLOCK_T"] = Arg("BLOCK_T", "constexpr", str(self.block_t), self.block_t)
            body += ["segment = (pid % segments).to(tl.int64)", "pid = pid // segments"]
        body += [*self.sequence_lines(), *self.index_lines()]
        if self.timed:
            body += [
                "first = segment * segment_steps",
                "past = tl.minimum(first + segment_steps, steps)",
                f"is_last = {self.on_axis('tl.arange(0, BLOCK_T)', TIME)} == BLOCK_T - 1",
            ]
        text = ["    " + line for line in body] + self.setup.lines
        if self.timed:
            text.append("    for t0 in range(first, past, BLOCK_T):")
            text.append(f"        t = tl.cast(t0, tl.int64) + {self.on_axis('tl.arange(0, BLOCK_T)', TIME)}")
            text.append("        in_t = t < past")
        else:
            text += ["    for part in range(0, segments):", "        segment = tl.cast(part, tl.int64)"]
        text += self.step.lines + self.after.lines
        grid = self.grid(f"batch * {self.parts['segments']}" if self.timed else "batch")
        return finish(self, name, "scan", about, text, grid, num_warps)
