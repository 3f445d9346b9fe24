"""A `Loop` stage whose states stay in registers: a program per batch tile and block of lanes, one pass over t."""

from __future__ import annotations

import math

from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import Arg, Options, StageText, power_of_two
from recurc.backends.triton.lanes import LARGEST_TILE, LaneCode, finish, lane_blocks, two_runs, warps
from recurc.backends.triton.scope import Lines
from recurc.backends.triton.values import EXTENTS, SEQ, Code, Context, TileCode, dim_of
from recurc.errors import UnsupportedError
from recurc.plan import Loop
from recurc.types import axis_ids

_PREFETCH = 4  # steps whose inputs are on their way (asynchronous copies, where elements are at least 4 bytes)


def emit_loop(context: Context, stage: Loop, name: str, options: Options) -> StageText:
    """The stage as one kernel."""
    lanes = lane_dims(stage)
    trial = _write(context, stage, None, dict.fromkeys(lanes, 1), 1)
    whole = whole_elements(trial, lanes)
    blocks = lane_blocks(context, lanes, whole, 256, 32)
    held = whole * math.prod(blocks.values())
    block_seq = options.block_seq or (min(max(32 // held, 1), 32) if held < 32 else 1)
    code = two_runs(lambda axes: _write(context, stage, axes, blocks, block_seq))
    body = [*code.prologue(), *code.sequence_lines(), *code.index_lines()]
    code.args["steps"] = Arg("steps", "i32", "steps")
    text = ["    " + line for line in body] + code.setup.lines
    text += [f"    for step in tl.range(0, steps, num_stages={_PREFETCH}):", "        t = tl.cast(step, tl.int64)"]
    text += code.step.lines + code.after.lines
    about = (
        "Fused loop over t: each program keeps the states of its lanes in registers.",
        f"States: {', '.join(c.name for c in stage.carries)}. Stored at every step: {', '.join(stage.writes)}.",
    )
    grid = code.grid(f"triton.cdiv(batch, {block_seq})")
    return (finish(code, name, "loop", about, text, grid, warps(held * block_seq, 8)),)


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


class _LoopCode(LaneCode):
    """A lane tile with lines after the loop."""

    def __init__(self, context: Context, axes: tuple[str, ...] | None, lanes: dict[str, int], block_seq: int) -> None:
        super().__init__(context, (SEQ,), axes, lanes, block_seq)
        self.step, self.after = Lines(2), Lines(1)


def _write(
    context: Context, stage: Loop, axes: tuple[str, ...] | None, lanes: dict[str, int], block_seq: int
) -> _LoopCode:
    code = _LoopCode(context, axes, lanes, block_seq)
    code.equations = {e.name: e for e in stage.body}
    for equation in stage.body:
        code.scope(("value", equation.name), equation.name)
    for carry in stage.carries:
        ids = axis_ids(carry.dims)
        start = code.load(context.plan.buffer(f"{carry.name}@initial"), 0, ids)
        before = code.scope(("before", carry.name), f"{carry.name}_before")
        code.setup.add(f"{before} = {start.text}")
        code.values[carry.name, 1] = Code(before, start.covers)
    for target in stage.writes:
        equation = code.equations[target]
        code.store(code.step, context.plan.buffer(target), code.define(equation))
    renewed = {c.name: code.define(code.equations[c.name]) for c in stage.carries}
    for carry in stage.carries:
        ids = axis_ids(carry.dims)
        full = code.spread(renewed[carry.name], [SEQ, *ids])
        before = code.values[carry.name, 1]
        code.step.add(f"{before.text} = {full.text}")
        if context.plan.has(f"{carry.name}@final"):
            code.store(code.after, context.plan.buffer(f"{carry.name}@final"), before)
    return code
