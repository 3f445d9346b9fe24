"""A `Fused` stage: several scans in one walk over tiles of time, each of which finds what the earlier ones make of the
tile in registers.

With one segment of time one kernel is all there is. With several, the scans of a level are reduced side by side, behind
those of earlier levels that they need, which run again from the states found before; so no kernel stores what passes
from scan to scan."""

from __future__ import annotations

import math
from dataclasses import replace

from recurc import ir
from recurc.backends.base import Specialization
from recurc.backends.emit.lanes import lane_dims
from recurc.backends.triton.kernel import ALL_REGISTERS, Choice, Options, StageText, Step, power_of_two
from recurc.backends.triton.lanes import two_runs
from recurc.backends.triton.loop import whole_elements
from recurc.backends.triton.scan import (
    ScanCode,
    combine_source,
    cut_time,
    element_bytes,
    lane_axes,
    segment_tensors,
    tile_of,
)
from recurc.backends.triton.values import Context
from recurc.plan import Fused, Scan
from recurc.types import literal_size, own_dim

_WORDS = 64  # registers of a thread for the elements of all scans; the rest is for addresses and what is between them
_THREADS = 256  # of a program at most


def fits(stage: Fused, spec: Specialization) -> bool:
    """Whether the smallest tile of all scans together, 16 steps of one lane, leaves the registers room. Of scans with
    unlike dims (numbers aside) only two run together: the narrow ones are kept many times over, a third would spill."""
    if len(stage.parts) > 2 and _mixed(stage):
        return False
    lanes, words = set(lane_dims(stage)), 0
    for part in stage.parts:
        for c in part.monoid.components:
            whole = math.prod(power_of_two(literal_size(d) or spec.size(own_dim(d))) for d in c.dims if d not in lanes)
            words += whole * max(spec.dtype(c.dtype).accumulator.itemsize // 4, 1)
    return 16 * words <= _WORDS * _THREADS


def _mixed(stage: Fused) -> bool:
    return len({frozenset(c.dims) for part in stage.parts for c in part.carries if c.dims}) > 1


def emit_fused(context: Context, stage: Fused, name: str, options: Options) -> StageText:
    """The kernel for one segment, and those that find the states before several."""
    shared = {k: context.scope((k, name), f"{name}_{k}") for k in ("segments", "segment_steps")}
    parts = [
        shared | {"combine": context.scope(("combine", name, number), f"{name}_combine_{number}")}
        for number in range(len(stage.parts))
    ]
    blocks, block_t = dict.fromkeys(lane_dims(stage), 1), 16

    def made(axes: tuple[str, ...] | None) -> FusedCode:
        return FusedCode(context, stage, axes, blocks, block_t, parts)

    trial = made(None).scans()
    lanes = lane_axes(trial, stage)
    whole = whole_elements(trial, lanes)
    wide = sum(element_bytes(context, part) for part in stage.parts)
    # A narrow value keeps more of its steps in each thread than a wide one: few steps, and all registers.
    mixed = _mixed(stage)
    options = replace(options, block_t=options.block_t or 16) if mixed else options
    form = tile_of(trial, lanes, whole, wide * 2 if mixed else wide, options)
    registers = ALL_REGISTERS if mixed else form.registers
    blocks, block_t = form.blocks, form.block_t
    scan = two_runs(lambda axes: made(axes).scans())
    before: list[Step] = []
    alone: list[str] = []
    for level in range(max(stage.levels) + 1):
        here = [k for k, found in enumerate(stage.levels) if found == level]
        reduce = two_runs(lambda axes, here=here: made(axes).reduces(here))
        about = ("Each segment of time reduced to one element" + (", behind the scans before." if level else "."),)
        kernel = replace(
            reduce.kernel(f"{name}_reduce_{level}", about, form.num_warps),
            helpers="\n\n\n".join(combine_source(context, stage.parts[k], parts[k]["combine"]) for k in here),
            registers=registers,
        )
        carries: list[Step] = []
        for k in here:
            scan.at(k)
            summaries, begins, one = segment_tensors(context, scan, shared["segments"])
            before += [*summaries, *begins]
            alone += one
            states = ", ".join(stage.parts[k].monoid.states)
            about = (f"The states {states} at the start of each segment.",)
            starts = two_runs(
                lambda axes, k=k: ScanCode(context, stage.parts[k], axes, blocks, block_t, parts[k]).starts()
            )
            carries.append(starts.kernel(f"{name}_starts_{k}", about, 1))
        before += [kernel, *carries]
    names = ", ".join(c.name for c in stage.carries)
    about = (f"Scans of {names} over tiles of time, in one walk, carried from tile to tile.",)
    return (
        *cut_time(scan),
        Choice(f"{shared['segments']} > 1", tuple(before), tuple(alone)),
        replace(scan.kernel(name, about, form.num_warps), registers=registers),
    )


class FusedCode(ScanCode):
    """Kernels of several scans, one of which is at hand at a time; what is computed for one is known to those after."""

    def __init__(
        self,
        context: Context,
        fused: Fused,
        axes: tuple[str, ...] | None,
        lanes: dict[str, int],
        block_t: int,
        parts: list[dict[str, str]],
    ) -> None:
        super().__init__(context, fused.parts[0], axes, lanes, block_t, parts[0])
        self.fused, self.every = fused, parts
        for part in fused.parts:
            for named in (*(e.name for e in part.body), *part.monoid.states):
                self.scope(("value", named), named)
        self.at(0)

    def at(self, number: int) -> Scan:
        """Takes a scan to hand."""
        self.turn = number
        self.parts = self.every[number]
        self.take(self.fused.parts[number])
        return self.stage

    def scans(self) -> FusedCode:
        """The walk that stores what is asked for."""
        for number in range(len(self.every)):
            self.at(number)
            self.scan()
        return self

    def reduces(self, numbers: list[int]) -> FusedCode:
        """Reduces some scans, behind the earlier ones that they need."""
        for number in self._needed(numbers):
            self.at(number)
            self.scan(stores=False)
        for number in numbers:
            self.at(number)
            self.reduce()
        return self

    def _needed(self, numbers: list[int]) -> list[int]:
        found, pending = set[int](), [n for k in numbers for n in self._sources(self.fused.parts[k].pre, k)]
        while pending:
            number = pending.pop()
            if number not in found:
                found.add(number)
                pending += self._sources(self.fused.parts[number].body, number)
        return sorted(found)

    def _sources(self, body: tuple[ir.Equation, ...], number: int) -> list[int]:
        """The earlier scans whose values some equations, and the element of a scan, read."""
        exprs = (*(e.expr for e in body), *self.fused.parts[number].monoid.lift)
        names = {r.name for e in exprs for r in ir.reads(e)}
        earlier = enumerate(self.fused.parts[:number])
        return [k for k, part in earlier if names & {*part.writes, *(c.name for c in part.carries)}]

    def stored(self) -> tuple[str, ...]:
        outside = set(self.fused.writes)
        return tuple(w for w in self.stage.writes if w in outside)

    def readers(self) -> list[ir.Read]:
        later = self.fused.parts[self.turn + 1 :]
        exprs = [e for part in later for e in (*(q.expr for q in part.body), *part.monoid.lift)]
        return [*super().readers(), *(r for e in exprs for r in ir.reads(e))]


__all__ = ["emit_fused", "fits"]
