"""A `Frozen` stage in C: each sequence goes through its chunks by itself, and a chunk through the stages inside.

The stages inside are maps, products and loops like any others, called for one sequence and the steps of one chunk. A
held state is an array beside the others, copied at the start of a chunk; the states wait in memory between chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recurc.backends.cpu.dealer import AnyUnit, Dealer
from recurc.backends.cpu.program import StageInput
from recurc.backends.cpu.stages import as_input
from recurc.backends.emit.text import Text
from recurc.plan import Buffer, Carry, Frozen, Role, Stage, held_name

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1"


@dataclass(frozen=True)
class FrozenParts:
    """What a `Frozen` stage is printed as."""

    stage: Frozen
    parts: tuple[tuple[Stage, StageInput], ...]  # the stages inside

    @property
    def per_step(self) -> tuple[Buffer, ...]:
        return tuple(b for b in self.stage.own if b.role is Role.SEQUENCE)

    @property
    def per_chunk(self) -> tuple[Buffer, ...]:
        """(B, *dims): the held states, the others between chunks, and what is made once for a chunk."""
        held = dict(self.stage.held)
        kept = [
            Buffer(held_name(c.name) if c.name in held else now_name(c.name), c.dims, c.dtype, Role.INITIAL)
            for c in self.stage.carries
        ]
        return (*kept, *(b for b in self.stage.own if b.role is Role.ONCE))

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All of them as the stages inside see them: what is made once for a chunk has the same place at each step."""
        fixed = (replace(b, role=Role.SEQUENCE) if b.role is Role.ONCE else b for b in self.per_chunk)
        return (*fixed, *self.per_step)


def now_name(state: str) -> str:
    """A state between two chunks."""
    return f"{state}'now"


def frozen_parts(stage: Frozen, name: str) -> FrozenParts:
    parts = ((part, as_input(part, f"{name}@{number}")) for number, part in enumerate(stage.inside.stages))
    return FrozenParts(stage, tuple((part, replace(made, packs=False)) for part, made in parts))


def print_frozen(dealer: Dealer[AnyUnit], found: FrozenParts, calls: Sequence[str], function: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1. `calls` are what runs each part for the sequence `b`
    and the steps from `from` to `to`."""
    return _Printer(dealer, found, calls, function).run()


def call_frozen(function: str, text: Text) -> None:
    """The calls of the stage's function: sequences are dealt to the threads."""
    with text.braces("if (by_batch)", "} else {"):
        text(f"{function}(&self, b0, b1, t0, t1);")
    inner = Text(1)
    inner("long first, last;", "rc_split(batch, 1, thread, count, &first, &last);")
    inner(f"{function}(&self, first, last, t0, t1);", "RC_BARRIER")
    text.block(inner)
    text("}")


class _Printer:
    def __init__(self, dealer: Dealer[AnyUnit], found: FrozenParts, calls: Sequence[str], function: str) -> None:
        self.dealer, self.spell, self.calls, self.function = dealer, dealer.spell, calls, function
        self.stage = found.stage
        self.text = Text()

    def run(self) -> str:
        text, stage = self.text, self.stage
        held, carries = dict(stage.held), {c.name: c for c in stage.carries}
        text(f"// Chunks of {stage.spelled} steps, one after another; {', '.join(held)} stay as they are within one.")
        with text.braces(f"static void {self.function}({SIGNATURE})"):
            text("struct call self = *call;")
            with text.braces("for (long b = b0; b < b1; b++)"):
                self._first_step(text)
                with text.braces("if (t0 == 0)"):
                    for name in held:
                        self._copy(self.spell(held_name(name)), self.spell(f"{name}@initial"), carries[name], text)
                with text.braces("for (long from = t0, to; from < t1; from = to)"):
                    self._chunk(text)
                with text.braces("if (t1 == call->steps)"):
                    for name in held:
                        if self.dealer.plan.has(f"{name}@final"):
                            self._copy(self.spell(f"{name}@final"), self.spell(held_name(name)), carries[name], text)
        return str(text)

    def _first_step(self, text: Text) -> None:
        """`into`: how many steps of its chunk lie before step 0."""
        stage, spell = self.stage, self.spell
        text(f"const long every = {spell.size(stage.spelled)};")
        if stage.start is None:
            text(f"const long into = (every - {stage.first}) % every;")
            return
        start = f"ROW(call->{spell.field(stage.start)}, {spell.stored(stage.start)}, b)[0]"
        text(f"const long start = (long)(({start} - {stage.first}) % every), into = (start + every) % every;")

    def _chunk(self, text: Text) -> None:
        stage, spell = self.stage, self.spell
        held, carries = dict(stage.held), {c.name: c for c in stage.carries}
        text("const long gone = (from + into) % every;")
        text("to = t1 - from < every - gone ? t1 : from + every - gone;")
        for name in carries:
            if name in held:
                continue
            start, end, now, final = spell(f"{name}@in"), spell(f"{name}@out"), spell(now_name(name)), f"{name}@final"
            last = f"call->{spell(final)}" if self.dealer.plan.has(final) else "(rc_array){0}"
            text(f"self.{start} = from == 0 ? call->{spell(f'{name}@initial')} : call->{now};")
            text(f"self.{end} = to == call->steps ? {last} : call->{now};")
        with text.braces("if (gone == 0)"):
            for name, source in held.items():
                self._copy(spell(held_name(name)), spell(f"{source}@in"), carries[name], text)
        text(*self.calls)

    def _copy(self, target: str, source: str, carry: Carry, text: Text) -> None:
        kind = self.dealer.stored(Buffer(carry.name, carry.dims, carry.dtype, Role.INITIAL))
        size = f"{self.spell.count(carry.dims)} * sizeof({kind})"
        text(f"memcpy(ROW(self.{target}, {kind}, b), ROW(self.{source}, {kind}, b), {size});")


__all__ = ["FrozenParts", "call_frozen", "frozen_parts", "print_frozen"]
