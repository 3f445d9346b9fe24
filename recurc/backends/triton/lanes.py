"""Which part of a stage one program holds: its lanes in blocks, its other dims whole, one or several sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from recurc.backends.triton.kernel import ALL_REGISTERS, Arg, KernelText, power_of_two
from recurc.backends.triton.values import EXTENTS, ROW, SEQ, Context, TileCode, dim_of
from recurc.types import Dims

Made = TypeVar("Made", bound=TileCode)
LARGEST_TILE = 1 << 16  # elements of one value in a program; beyond it a kernel would not fit any GPU


class LaneCode(TileCode):
    """A tile whose leading axis walks over sequences (or rows), with some dims cut into blocks of lanes."""

    def __init__(
        self,
        context: Context,
        lead: tuple[str, ...],
        axes: tuple[str, ...] | None,
        lanes: dict[str, int],
        block_seq: int,
    ) -> None:
        super().__init__(context, lead, axes)
        self.lanes = lanes  # lane axis -> positions of it in one program
        self.block_seq = block_seq

    def block(self, axis: str) -> int:
        return self.lanes.get(axis, super().block(axis))

    def block_arg(self, axis: str) -> str:
        """Two axes of one dim may be cut unlike."""
        dim, held = dim_of(axis), self.block(axis)
        if held == self.block(dim):
            return super().block_arg(axis)
        name = self.scope(("block", axis), f"BLOCK_{axis}")
        self.args.setdefault(name, Arg(name, "constexpr", str(held), held))
        return name

    def blocks(self, axis: str) -> int:
        return math.ceil(self.context.size(dim_of(axis)) / self.lanes[axis])

    def cut(self) -> list[str]:
        """The lane axes that several programs share."""
        return [a for a in self.axes if a in self.lanes and self.blocks(a) > 1]

    def prologue(self) -> list[str]:
        """Lines that say which part of the work a program has."""
        self.args["batch"] = Arg("batch", "i32", "batch")
        self.args["PER_SEQUENCE"] = Arg("PER_SEQUENCE", "constexpr", "per_sequence", False)
        out = ["pid = tl.program_id(0)"]
        for axis in reversed(self.cut()):
            out += [f"block_{self.tag(axis)} = pid % {self.blocks(axis)}", f"pid = pid // {self.blocks(axis)}"]
        return out

    def index_lines(self) -> list[str]:
        """The index tensors of the dims, each on its own axis, and the masks of those with padding."""
        out: list[str] = []
        for axis in self.axes:
            if axis in EXTENTS:
                continue
            name, block, dim = self.index(axis), self.block_arg(axis), dim_of(axis)
            vector = self.on_axis(f"tl.arange(0, {block})", axis)
            cut = axis in self.lanes and self.blocks(axis) > 1
            out.append(f"{name} = " + (f"block_{self.tag(axis)} * {block} + {vector}" if cut else vector))
            if mask := self.mask(axis):
                out.append(f"{mask} = {name} < {self.context.constant(dim)}")
        return out

    def tag(self, axis: str) -> str:
        return self.scope(("tag", axis), f"of_{axis}")

    def sequence_lines(self) -> list[str]:
        """`seq`, the sequences of the program. Those past the end are clamped for loads and masked for stores."""
        self.args["BLOCK_SEQ"] = Arg("BLOCK_SEQ", "constexpr", str(self.block_seq), self.block_seq)
        vector = self.on_axis("tl.arange(0, BLOCK_SEQ)", SEQ)
        return [
            f"seq = pid.to(tl.int64) * BLOCK_SEQ + {vector}",
            "in_seq = seq < batch",
            "seq = tl.minimum(seq, batch - 1)",
            "own = seq if PER_SEQUENCE else 0  # params: one set per sequence, or one for all",
        ]

    def store_masks(self, covers: frozenset[str]) -> list[str]:
        masks = ["in_seq"] if SEQ in self.axes else ["in_row"] if ROW in self.axes else []
        return masks + [f"(block_{self.tag(a)} == 0)" for a in self.cut() if a not in covers]

    def grid(self, leading: str) -> str:
        factors = [leading, *(str(self.blocks(a)) for a in self.cut())]
        return f"({' * '.join(factors)},)"


def two_runs(make: Callable[[tuple[str, ...] | None], Made]) -> Made:
    """Emission twice: a trial that finds the axes, then the real one with the axes in their final order."""
    trial = make(None)
    return make(tuple(a for a in trial.axes if a not in trial.lead))


def lane_blocks(context: Context, lanes: Dims, whole: int, elements: int, widest: int) -> dict[str, int]:
    """How many lanes of each axis one program takes, so that a tile has about `elements` elements. The last axis, which
    is contiguous in memory, is served first; no program takes more than `widest` of one."""
    room, out = max(elements // max(whole, 1), 1), dict.fromkeys(lanes, 1)
    for axis in reversed(lanes):
        out[axis] = min(power_of_two(context.size(dim_of(axis))), room, widest)
        room = max(room // out[axis], 1)
    return out


def warps(elements: int, per_thread: int) -> int:
    """A power of two between 1 and 8."""
    return min(max(power_of_two(math.ceil(elements / (32 * per_thread))), 1), 8)


def finish(
    code: TileCode, name: str, form: str, about: tuple[str, ...], body: list[str], grid: str, num_warps: int
) -> KernelText:
    """The kernel with its parameters: pointers and strides first, then sizes, then compile-time values."""
    args = sorted(code.args.values(), key=lambda a: (a.type == "constexpr", not a.type.startswith("*")))
    # Named where a matrix is held and renewed: the assembler would spill to fit more programs on a multiprocessor.
    matrices = any(
        f"{helper}(" in line for line in body for helper in ("rc_solve", "rc_cholesky", "rc_phi1", "rc_dphi1")
    )
    registers = ALL_REGISTERS if matrices else None
    return KernelText(name, form, about, tuple(args), tuple(body), grid, num_warps, registers=registers)
