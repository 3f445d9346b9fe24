"""How a scan runs in C: segments of time fold to one element each, the states are carried over them, then every segment
runs by itself (Blelloch 1990)."""

from __future__ import annotations

from collections.abc import Sequence

from recurc.backends.cpu.dealer import AnyUnit, Dealer
from recurc.backends.cpu.stages import ScanLoops
from recurc.backends.emit.text import Text


def call_scan(dealer: Dealer[AnyUnit], loops: ScanLoops, units: Sequence[AnyUnit], text: Text) -> None:
    """The part of the entry that runs a scan. `units`: what folds a segment, what carries the states over segments, and
    what runs one."""
    fold, carry, run = units
    text("const long segments = scan_segments(batch, steps, count), length = (steps + segments - 1) / segments;")
    barrier = ("RC_BARRIER",)
    # 1. every segment but the last folds to one element
    with text.braces(""):
        inner = Text()
        for c, total in zip(fold.program.stage.carries, loops.totals, strict=True):
            field, size = dealer.spell(total.name), dealer.stored(total)
            out = dealer.spell(f"{c.name}@out")
            inner(f"self.{out} = self.{field};")
            inner(f"self.{out}.data = ({size} *)self.{field}.data + segment * self.{field}.time;")
        dealer.segments(fold, text, inner, "from, to")
    text(*barrier)
    # 2. the states before each segment
    with text.braces(""):
        for c in carry.program.stage.carries:
            text(f"self.{dealer.spell(f'{c.name}@in')} = self.{dealer.spell.field(f'{c.name}@initial')};")
            text(f"self.{dealer.spell(f'{c.name}@out')} = (rc_array){{0}};")
        dealer.items(carry, text, "batch", "item, item + 1", "0, segments")
    text(*barrier)
    # 3. every segment by itself
    with text.braces(""):
        inner = Text()
        for c, start in zip(run.program.stage.carries, loops.starts, strict=True):
            field, size = dealer.spell(start.name), dealer.stored(start)
            source, target = dealer.spell(f"{c.name}@in"), dealer.spell(f"{c.name}@out")
            inner(f"self.{source} = self.{field};")
            inner(f"self.{source}.data = ({size} *)self.{field}.data + segment * self.{field}.time;")
            end = (
                f"self.{dealer.spell.field(f'{c.name}@final')}"
                if dealer.plan.has(f"{c.name}@final")
                else "(rc_array){0}"
            )
            inner(f"self.{target} = to == steps ? {end} : (rc_array){{0}};")
        dealer.segments(run, text, inner, "from, to")
    text(*barrier)
