"""A `Loop` stage whose states stay in registers: a program per batch tile and block of lanes, one pass over t."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import Arg, KernelText, Options, StageText, power_of_two, stored
from recurc.backends.triton.lanes import LARGEST_TILE, LaneCode, finish, lane_blocks, warps
from recurc.backends.triton.scope import Lines
from recurc.backends.triton.values import EXTENTS, SEQ, Code, Context, TileCode, dim_of
from recurc.errors import UnsupportedError
from recurc.plan import Carry, Loop
from recurc.types import Dims, axis_ids

_PREFETCH = 4  # steps whose inputs are on their way (asynchronous copies, where elements are at least 4 bytes)
_PREFETCHED = 96 << 10  # bytes of these, at most: they lie in shared memory, of which the smallest chip has 163 KiB
_ELEMENTS = 256  # of a program's tile: what waits for each other is kept short

Made = TypeVar("Made", bound="LoopCode")


@dataclass(frozen=True)
class Tile:
    """What one program holds: axes in their order (None: a trial, which finds them out), lanes of each dim that may be
    cut, and sequences."""

    axes: tuple[str, ...] | None
    lanes: dict[str, int]
    block_seq: int = 1


def emit_loop(context: Context, stage: Loop, name: str, options: Options) -> StageText:
    """The stage as one kernel."""
    code = fitted(
        context, lambda tile: LoopCode(context, stage, tile).write(), lane_dims(stage), options.block_seq, _ELEMENTS
    )
    about = (
        "Fused loop over t: each program keeps the states of its lanes in registers.",
        f"States: {', '.join(c.name for c in stage.carries)}. Stored at every step: {', '.join(stage.writes)}.",
    )
    return (code.kernel(name, "loop", about),)


def fitted(context: Context, make: Callable[[Tile], Made], lanes: Dims, block_seq: int | None, elements: int) -> Made:
    """The code of a loop whose tiles have about `elements` elements, as far as its lanes can be cut.

    Raises `UnsupportedError` if no GPU could hold such a tile."""
    whole = whole_elements(make(Tile(None, dict.fromkeys(lanes, 1))), lanes)
    blocks = lane_blocks(context, lanes, whole, elements, 32)
    held = whole * math.prod(blocks.values())
    block_seq = block_seq or (min(max(32 // held, 1), 32) if held < 32 else 1)
    return make(Tile(make(Tile(None, blocks, block_seq)).arranged(), blocks, block_seq))


def whole_elements(code: TileCode, lanes: tuple[str, ...]) -> int:
    """Elements of the largest tile for one lane: the product of the dims that are kept whole.

    Raises `UnsupportedError` if no GPU could hold such a tile."""
    axes = [a for a in code.axes if a not in EXTENTS and a not in lanes]
    whole = math.prod(power_of_two(code.context.size(dim_of(a))) for a in axes)
    if whole > LARGEST_TILE:
        sizes = " x ".join(f"{dim_of(a)} = {code.context.size(dim_of(a))}" for a in axes)
        raise UnsupportedError(
            f"a value of {sizes} elements held at once in every step (at most {LARGEST_TILE}); products by params "
            "outside the recurrence and by recurrent weights have no such limit"
        )
    return whole


class LoopCode(LaneCode):
    """A lane tile with lines in and after a loop over the steps from `first` to `past`. Subclasses say where states
    come from and go to, and which steps there are."""

    first, past = "0", "steps"
    steps_are = "steps"  # what `launch` passes for the number of steps

    def __init__(self, context: Context, stage: Loop, tile: Tile) -> None:
        super().__init__(context, (SEQ,), tile.axes, tile.lanes, tile.block_seq)
        self.stage = stage
        self.step, self.after = Lines(2), Lines(1)

    def begin(self, carry: Carry) -> Code:
        """The value of a state before the first step."""
        return self.load(self.context.plan.buffer(f"{carry.name}@initial"), 0, axis_ids(carry.dims))

    def end(self, carry: Carry, last: Code) -> None:
        """Stores the value of a state after the last step."""
        if self.context.plan.has(f"{carry.name}@final"):
            self.store(self.after, self.context.plan.buffer(f"{carry.name}@final"), last)

    @contextmanager
    def outside(self) -> Generator[None]:
        """What is computed here stands before the loop."""
        inside, self.step = self.step, self.setup
        yield
        self.step = inside

    def write(self: Made) -> Made:
        stage = self.stage
        self.equations = {e.name: e for e in stage.body}
        for equation in stage.body:
            self.scope(("value", equation.name), equation.name)
        for carry in stage.carries:
            with self.outside():
                start = self.begin(carry)
            before = self.scope(("before", carry.name), f"{carry.name}_before")
            self.setup.add(f"{before} = {start.text}")
            self.values[carry.name, 1] = Code(before, start.covers)
        for target in stage.writes:
            self.store(self.step, self.context.plan.buffer(target), self.define(self.equations[target]))
        renewed = {c.name: self.define(self.equations[c.name]) for c in stage.carries}
        for carry in stage.carries:
            full = self.spread(renewed[carry.name], [SEQ, *axis_ids(carry.dims)])
            before = self.values[carry.name, 1]
            self.step.add(f"{before.text} = {full.text}")
            self.end(carry, before)
        return self

    def arranged(self) -> tuple[str, ...]:
        """The axes that this trial met, in the order in which tiles shall have them."""
        return tuple(a for a in self.axes if a not in self.lead)

    def place_lines(self) -> list[str]:
        """Lines that say which part of time a program has, of which `pid` still knows."""
        return []

    def programs(self) -> str:
        """How many programs there are for each block of lanes, in the words of `launch`."""
        return f"triton.cdiv(batch, {self.block_seq})"

    @property
    def held(self) -> int:
        """Elements of a program's tile."""
        return self.block_seq * math.prod(self.block(a) for a in self.axes if a not in EXTENTS)

    @property
    def prefetch(self) -> int:
        """How many steps are under way at once."""
        plan, spec = self.context.plan, self.context.spec
        moved = 0
        for (name, *_), code in self.loads.items():
            buffer = plan.buffer(name)
            if buffer.has_time:
                elements = math.prod(self.block(a) for a in code.covers if a not in EXTENTS)
                moved += self.block_seq * elements * stored(buffer, spec.real).itemsize
        return min(_PREFETCH, 1 + _PREFETCHED // max(moved, 1))

    def kernel(self, name: str, form: str, about: tuple[str, ...], per_thread: int = 8) -> KernelText:
        """The kernel around what was written; a thread has about `per_thread` elements of the tile."""
        body = [*self.prologue(), *self.place_lines(), *self.sequence_lines(), *self.index_lines()]
        self.args["steps"] = Arg("steps", "i32", self.steps_are)
        text = ["    " + line for line in body] + self.setup.lines
        text += [f"    for step in tl.range({self.first}, {self.past}, num_stages={self.prefetch}):"]
        text += ["        t = tl.cast(step, tl.int64)", *self.step.lines, *self.after.lines]
        return finish(self, name, form, about, text, self.grid(self.programs()), warps(self.held, per_thread))
