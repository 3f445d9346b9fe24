"""How scans run in C: segments of time fold to one element each, the states are carried over them, then every segment
runs by itself (Blelloch 1990); fused scans do the first two level by level."""

from __future__ import annotations

from collections.abc import Sequence

from recurc.backends.cpu.dealer import AnyUnit, Dealer
from recurc.backends.cpu.segments import Segments
from recurc.backends.emit.text import Text
from recurc.plan import Buffer


def call_scan(dealer: Dealer[AnyUnit], loops: Segments, units: Sequence[AnyUnit], text: Text) -> None:
    """The part of the entry that runs scans. `units`: the functions of `loops.parts()`, in that order."""
    left = iter(units)
    text("const long segments = scan_segments(batch, steps, count), length = (steps + segments - 1) / segments;")
    barrier = ("RC_BARRIER",)
    for level in loops.levels:
        # 1. every segment but the last folds to one element
        fold, totals = next(left), level.totals
        with text.braces(""):
            inner = Text()
            for c in fold.program.stage.carries:
                if c.name in totals:
                    out, target = dealer.spell(f"{c.name}@out"), totals[c.name]
                    _at_segment(dealer, out, target, inner)
                else:
                    _at_segment(dealer, dealer.spell(f"{c.name}@in"), loops.starts[c.name], inner)
                    inner(f"self.{dealer.spell(f'{c.name}@out')} = (rc_array){{0}};")
            dealer.segments(fold, text, inner, "from, to")
        text(*barrier)
        # 2. the states before each segment
        for _ in level.scans:
            carry = next(left)
            with text.braces(""):
                for c in carry.program.stage.carries:
                    text(f"self.{dealer.spell(f'{c.name}@in')} = self.{dealer.spell.field(f'{c.name}@initial')};")
                    text(f"self.{dealer.spell(f'{c.name}@out')} = (rc_array){{0}};")
                dealer.items(carry, text, "batch", "item, item + 1", "0, segments")
        text(*barrier)
    # 3. every segment by itself
    run = next(left)
    with text.braces(""):
        inner = Text()
        for c in run.program.stage.carries:
            _at_segment(dealer, dealer.spell(f"{c.name}@in"), loops.starts[c.name], inner)
            end = (
                f"self.{dealer.spell.field(f'{c.name}@final')}"
                if dealer.plan.has(f"{c.name}@final")
                else "(rc_array){0}"
            )
            inner(f"self.{dealer.spell(f'{c.name}@out')} = to == steps ? {end} : (rc_array){{0}};")
        dealer.segments(run, text, inner, "from, to")
    text(*barrier)


def _at_segment(dealer: Dealer[AnyUnit], name: str, buffer: Buffer, text: Text) -> None:
    """Makes the array of that name the element of a buffer that belongs to the segment at hand."""
    field, kind = dealer.spell.field(buffer.name), dealer.stored(buffer)
    text(f"self.{name} = self.{field};")
    text(f"self.{name}.data = ({kind} *)self.{field}.data + segment * self.{field}.time;")
