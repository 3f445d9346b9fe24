"""A `Map` stage: every step of every sequence is a row; a program takes a block of rows and of lanes."""

from __future__ import annotations

import math

from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import Arg, StageText
from recurc.backends.triton.lanes import LaneCode, finish, lane_blocks, two_runs, warps
from recurc.backends.triton.loop import whole_elements
from recurc.backends.triton.values import ROW, Context
from recurc.plan import Map


def emit_map(context: Context, stage: Map, name: str) -> StageText:
    """The stage as one kernel; one row per step, or, for what is computed once per call, one per set of params."""
    lanes = lane_dims(stage)
    whole = whole_elements(_write(context, stage, None, dict.fromkeys(lanes, 1), 1), lanes)
    blocks = lane_blocks(context, lanes, whole, 1024, 256)
    held = whole * math.prod(blocks.values())
    rows = max(1024 // held, 1) if stage.over_time else 1
    code = two_runs(lambda axes: _write(context, stage, axes, blocks, rows))
    code.args["BLOCK_ROWS"] = Arg("BLOCK_ROWS", "constexpr", str(rows), rows)
    code.args["steps"] = Arg("steps", "i32", "steps" if stage.over_time else "1")
    lines = [
        *code.prologue(),
        f"row = pid.to(tl.int64) * BLOCK_ROWS + {code.on_axis('tl.arange(0, BLOCK_ROWS)', ROW)}",
        "in_row = row < tl.cast(batch, tl.int64) * steps",
        "row = tl.minimum(row, tl.cast(batch, tl.int64) * steps - 1)",
        "seq = row // steps",
        "t = row % steps",
        "own = seq if PER_SEQUENCE else 0  # params: one set per sequence, or one for all",
        *code.index_lines(),
    ]
    if not stage.over_time:
        code.args["batch"] = Arg("batch", "i32", "sets")
    count = "batch * steps" if stage.over_time else "sets"
    about = (
        "All steps at once." if stage.over_time else "Once per call, from params.",
        f"Writes {', '.join(stage.writes)}.",
    )
    text = ["    " + line for line in lines] + code.setup.lines
    grid = code.grid(f"triton.cdiv({count}, {rows})")
    return (finish(code, name, "map", about, text, grid, warps(held * rows, 8)),)


def _write(context: Context, stage: Map, axes: tuple[str, ...] | None, lanes: dict[str, int], rows: int) -> LaneCode:
    code = LaneCode(context, (ROW,), axes, lanes, rows)
    code.batch_axes = code.time_axes = frozenset((ROW,))
    code.equations = {e.name: e for e in stage.body}
    for equation in stage.body:
        code.scope(("value", equation.name), equation.name)
    for target in stage.writes:
        equation = code.equations[target]
        code.store(code.setup, context.plan.buffer(target), code.define(equation))
    return code
