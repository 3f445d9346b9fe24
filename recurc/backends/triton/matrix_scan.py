"""A `Scan` stage whose elements are matrices or tables: three loops, over segments of time that lie side by side.

The first folds the steps of each segment to one element, the second walks over the segments to get the states that each
starts from, and the third is the plain loop of each segment. With one segment there is only the third.

In the fold the later element is that of one step, which is lifted where it is met, on the axes that are asked for: a
table is looked up by computing the step at the place in question. What is kept are the columns of the product, which do
not meet each other, so that a program has some of them: for d rows a tile of d x d for each column instead of the
matrix, and d^3 multiply-adds of a step over all programs. A table of n values is n states that go through the same
steps. Where columns do meet (they are scaled by their largest value), a program has all of them.

The third loop multiplies no matrices: an element of one step, lifted where it is applied, is that step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import (
    ALL_REGISTERS,
    Arg,
    Choice,
    Options,
    Scratch,
    StageText,
    stored,
    torch_type,
    triton_type,
)
from recurc.backends.triton.loop import LoopCode, Tile, fitted
from recurc.backends.triton.places import Place, fresh_axis
from recurc.backends.triton.scan import initial_in_a_row
from recurc.backends.triton.values import EXTENTS, SEQ, Code, Context, Ids, dim_of
from recurc.errors import UnsupportedError
from recurc.ir import Apply, Contract, Equation, Expr, Linalg, Read, Reduce, children, rewrite, walk
from recurc.plan import Buffer, Carry, Loop, Role, Scan
from recurc.types import Dims, DType, axis_ids, own_dim, second

_FOLD_ELEMENTS = 4096  # of a fold's tile: as many columns as that allows read what varies over time once; an eighth
# of these where they take two registers, so that what all columns of a lane share stays in them too
_PER_THREAD = 16  # of those in a thread
_LARGEST = {4: 1 << 15, 8: 1 << 13}  # of the tile of any loop, by the bytes of an element: what registers hold
_SOLVED = 1 << 14  # where systems are solved in it
_SHORTEST = 16  # steps for which a segment may be a quarter as many times as long, at least


def emit_matrix_scan(context: Context, stage: Scan, name: str, options: Options) -> StageText:
    """Three kernels and the choice between one segment and several.

    Raises `UnsupportedError` for elements that no GPU could hold."""
    parts = _Parts(context, stage, name)
    lanes = lane_dims(stage)
    fold = _fold(parts, lanes, options)
    carry = fitted(parts.context, lambda tile: _CarryCode(parts, tile).write(), lanes, options.block_seq, 256)
    run = fitted(parts.context, lambda tile: _RunCode(parts, tile).write(), lanes, options.block_seq, 256)
    for code in (fold, carry, run):
        parts.check(code)
    count, per, names = parts.segments, parts.length, ", ".join(stage.monoid.states)
    some = next(b for b in context.plan.buffers if b.role in (Role.OUTPUT, Role.FINAL))
    device = f"{context.scope(('buffer', some.name), some.name)}.device"
    programs = " * ".join([f"triton.cdiv(batch, {run.block_seq})", *(str(run.blocks(d)) for d in run.cut())])
    about = (
        f"Each segment of time folded to one element, a tile of its columns ({', '.join(parts.columns)}) in a program."
    )
    return (
        "# time in segments side by side, when there are too few programs for the device",
        f"{count} = segments or _segments({programs}, steps, {_SHORTEST}, {device})",
        f"{per} = triton.cdiv(steps, min({count}, steps))",
        f"{count} = triton.cdiv(steps, {per})",
        Choice(
            f"{count} > 1",
            (
                *(parts.scratch(b) for b in (*parts.totals, *parts.starts.values())),
                replace(fold.kernel(f"{name}_fold", "scan", (about,), parts.per_thread), registers=ALL_REGISTERS),
                carry.kernel(f"{name}_starts", "scan", (f"The states {names} at the start of each segment.",)),
            ),
            tuple(parts.alone(state) for state in parts.starts),
        ),
        run.kernel(name, "scan", (f"The loop over t of {names}, in each segment from the states it starts from.",)),
    )


def _fold(parts: _Parts, lanes: Dims, options: Options) -> _FoldCode:
    """The first loop, with as many columns in lanes as do not meet, if they are summed over under another name."""
    found: list[tuple[int, bool, Dims]] = []
    for apart in (True, False):
        trial = _FoldCode(parts, apart, Tile(None, dict.fromkeys(lanes, 1))).write()
        crossed = {dim_of(a) for a in trial.crossed}
        free = (*lanes, *(d for d in parts.columns if d not in crossed))
        axes = [a for a in trial.axes if a not in EXTENTS and a not in free]
        found.append((math.prod(parts.context.size(dim_of(a)) for a in axes), not apart, free))
    _, together, free = min(found, key=lambda f: f[:2])
    return fitted(
        parts.context,
        lambda tile: _FoldCode(parts, not together, tile).write(),
        free,
        options.block_seq,
        _FOLD_ELEMENTS // (8 if parts.widest == 8 else 1),
    )


class _Parts:
    """What the three loops of a scan share: their equations, and the arrays between them, `(B, segments, *dims)`."""

    def __init__(self, context: Context, stage: Scan, name: str) -> None:
        self.stage, monoid = stage, stage.monoid
        self.segments = context.scope(("segments", name), f"{name}_segments")
        self.length = context.scope(("segment_steps", name), f"{name}_segment_steps")
        self.columns = tuple(dict.fromkeys(d for c in monoid.components for d in c.dims if own_dim(d) != d))
        self.totals = tuple(
            Buffer(f"{monoid.states[0]}.{c.name}'total", c.dims, c.dtype, Role.SEQUENCE) for c in monoid.components
        )
        self.starts = {c.name: Buffer(f"{c.name}'start", c.dims, c.dtype, Role.SEQUENCE) for c in stage.carries}
        between = (*self.totals, *self.starts.values())
        self.context = replace(context, plan=replace(context.plan, buffers=(*context.plan.buffers, *between)))
        total = {c.name: b for c, b in zip(monoid.components, self.totals, strict=True)}
        earlier = {f"1.{n}": Read(b.name, 1, b.dims, b.dtype) for n, b in total.items()}
        combined = (_renamed(e, earlier) for e in monoid.combine)
        self.fold = Loop(
            tuple(Carry(b.name, b.dims, b.dtype) for b in self.totals),
            (*stage.pre, *(Equation(b.name, e) for b, e in zip(self.totals, combined, strict=True))),
            (),
        )
        held = {n: Read(b.name, 0, b.dims, b.dtype) for n, b in total.items()}
        begun = (
            Equation(b.name, Read(c.name, 1, c.dims, c.dtype))
            for c, b in zip(stage.carries, self.starts.values(), strict=True)
        )
        self.carry = Loop(
            stage.carries,
            (*begun, *(Equation(s, _renamed(e, held)) for s, e in zip(monoid.states, monoid.apply, strict=True))),
            tuple(b.name for b in self.starts.values()),
        )
        applied = (Equation(s, e) for s, e in zip(monoid.states, monoid.apply, strict=True))
        self.run = Loop(stage.carries, (*stage.pre, *applied, *stage.post), stage.writes)
        nodes = (n for loop in (self.fold, self.carry, self.run) for e in loop.body for n in walk(e.expr))
        costly = Counter(n for n in nodes if isinstance(n, Reduce | Contract | Linalg))
        self.repeated = frozenset(n for n, count in costly.items() if count > 1 and children(n))

    def lifted(self, side: str = "") -> dict[str, Expr]:
        """What is computed on whatever axes it is read on: the element of one step, and what it shares with others."""
        monoid = self.stage.monoid
        shared = {e.name: e.expr for e in self.stage.pre if any(own_dim(d) != d for d in e.expr.dims)}
        return shared | {f"{side}{c.name}": e for c, e in zip(monoid.components, monoid.lift, strict=True)}

    @property
    def nodes(self) -> list[Expr]:
        """Of what makes and combines elements."""
        return [n for e in (*self.lifted().values(), *(e.expr for e in self.fold.body)) for n in walk(e)]

    @property
    def solves(self) -> bool:
        return any(isinstance(n, Linalg) for n in self.nodes)

    @property
    def per_thread(self) -> int:
        """How many elements of the fold's tile a thread has, by what the assembler keeps in registers, as measured:
        fewer of those that take two, but not so few that all of a sum of exponentials is in one thread; many where
        systems are solved, which are a small part of the tile."""
        registers = self.widest // 4
        if self.solves:
            return 4 * _PER_THREAD // registers
        exponentials = any(isinstance(n, Apply) and n.op == "exp" for n in self.nodes)
        return _PER_THREAD // (registers if exponentials else registers**2)

    def check(self, code: LoopCode) -> None:
        """Raises `UnsupportedError` for a tile that would not stay in registers."""
        most = min(_LARGEST[self.widest], _SOLVED if self.solves else code.held)
        if code.held > most:
            shape = " x ".join(f"{d} = {self.context.size(d)}" for d in map(dim_of, code.axes) if d not in EXTENTS)
            raise UnsupportedError(
                f"a scan of matrices of {shape} elements, held at once in every step (at most {most} of {self.widest} "
                "bytes stay in registers)"
            )

    @property
    def widest(self) -> int:
        return max(4, *(self._stored(b).itemsize for b in self.totals))

    def scratch(self, buffer: Buffer) -> Scratch:
        context = self.context
        shape = ", ".join(["batch", self.segments, *(str(context.size(d)) for d in buffer.dims)])
        return Scratch(context.scope(("buffer", buffer.name), buffer.name), f"({shape},)", self._stored(buffer))

    def alone(self, state: str) -> str:
        """The line that makes the initial value of a state what the only segment starts from."""
        start = self.context.scope(("buffer", self.starts[state].name), self.starts[state].name)
        initial = initial_in_a_row(self.context, state)
        return f"{start} = {initial}.to({torch_type(self._stored(self.starts[state]))}).unsqueeze(1)"

    def _stored(self, buffer: Buffer) -> DType:
        return stored(buffer, self.context.spec.real)


def _renamed(expr: Expr, table: Mapping[str, Read]) -> Expr:
    return rewrite(expr, lambda node: table.get(node.name, node) if isinstance(node, Read) and not node.lag else node)


class _ScanLoop(LoopCode):
    """One of the three loops."""

    def __init__(self, parts: _Parts, stage: Loop, tile: Tile) -> None:
        super().__init__(parts.context, stage, tile)
        self.parts = parts
        self._once: dict[tuple[Expr, Ids], Code] = {}

    def arranged(self) -> tuple[str, ...]:
        """Names of one dim stand side by side, so that one which becomes another changes no order."""
        met = super().arranged()
        dims = [own_dim(dim_of(a)) for a in met]
        return tuple(a for _, a in sorted(zip(dims, met, strict=True), key=lambda known: dims.index(known[0])))

    def value(self, expr: Expr, ids: Ids) -> Code:
        """A product or sum that an element is made of in several places is computed once."""
        if expr not in self.parts.repeated:
            return super().value(expr, ids)
        if (expr, ids) not in self._once:
            self._once[expr, ids] = self.named(super().value(expr, ids), "part_of_element")
        return self._once[expr, ids]


class _SegmentCode(_ScanLoop):
    """A loop over the steps of one segment."""

    first, past = "first", "past"

    def place_lines(self) -> list[str]:
        self.args["segments"] = Arg("segments", "i32", self.parts.segments)
        self.args["segment_steps"] = Arg("segment_steps", "i32", self.parts.length)
        return [
            "segment = (pid % segments).to(tl.int64)",
            "pid = pid // segments",
            "first = (segment * segment_steps).to(tl.int32)",
            "past = tl.minimum(first + segment_steps, steps)",
        ]

    def programs(self) -> str:
        return f"{super().programs()} * {self.parts.segments}"


class _FoldCode(_SegmentCode):
    """The steps of a segment folded to one element. `apart`: what is summed over is not called a column."""

    def __init__(self, parts: _Parts, apart: bool, tile: Tile) -> None:
        super().__init__(parts, parts.fold, tile)
        self.apart, self.inlined = apart, parts.lifted("2.")
        monoid = parts.stage.monoid
        self.identity = dict(zip((b.name for b in parts.totals), monoid.identity, strict=True))

    def arranged(self) -> tuple[str, ...]:
        """Columns come last, so that rows which become what is summed over change no order."""
        return tuple(sorted(super().arranged(), key=lambda a: dim_of(a) in self.parts.columns))

    def summed_axis(self, dim: str, used: Iterable[str | int | Place]) -> str:
        used = tuple(used)
        if self.apart and dim == second(dim) and second(dim, 2) not in used:
            return fresh_axis(second(dim, 2), used)
        return super().summed_axis(dim, used)

    def begin(self, carry: Carry) -> Code:
        ids = axis_ids(carry.dims)
        neutral = self.filled(self.within(self.identity[carry.name], carry.dims, ids), carry.dtype)
        whole = self.spread(neutral, [SEQ, *ids])
        return whole.of(f"{whole.text}.to({triton_type(self.context.compute(carry.dtype))})")

    def end(self, carry: Carry, last: Code) -> None:
        self.time, inside = "segment", self.time
        self.store(self.after, self.context.plan.buffer(carry.name), last)
        self.time = inside


class _CarryCode(_ScanLoop):
    """The states at the start of each segment: a loop whose steps are segments."""

    def __init__(self, parts: _Parts, tile: Tile) -> None:
        super().__init__(parts, parts.carry, tile)
        self.steps_are = parts.segments

    def end(self, carry: Carry, last: Code) -> None:
        """The last segment stores these, whose steps are those of the loop."""


class _RunCode(_SegmentCode):
    """The loop over the steps of each segment."""

    def __init__(self, parts: _Parts, tile: Tile) -> None:
        super().__init__(parts, parts.run, tile)
        self.inlined = parts.lifted()

    def begin(self, carry: Carry) -> Code:
        self.time, inside = "segment", self.time
        found = self.load(self.parts.starts[carry.name], 0, axis_ids(carry.dims))
        self.time = inside
        return found

    def end(self, carry: Carry, last: Code) -> None:
        if self.context.plan.has(f"{carry.name}@final"):
            self.only = ("(segment == segments - 1)",)
            self.store(self.after, self.context.plan.buffer(f"{carry.name}@final"), last)
            self.only = ()

    only: tuple[str, ...] = ()

    def store_masks(self, covers: frozenset[str]) -> list[str]:
        return [*super().store_masks(covers), *self.only]
