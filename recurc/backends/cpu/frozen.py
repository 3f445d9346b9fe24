"""A `Frozen` stage in C: each sequence goes through its chunks by itself, and a chunk through the stages inside.

The stages inside are maps, products and loops like any others, called for one sequence and the steps of one chunk. A
held state is an array beside the others, copied at the start of a chunk; the states wait in memory between chunks.
Where there are too few sequences for the threads, they share each stage of a chunk: its lanes, or its steps.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from recurc.backends.cpu.dealer import AnyUnit, Dealer
from recurc.backends.cpu.program import StageInput
from recurc.backends.cpu.stages import as_input
from recurc.backends.cpu.work import step_flops
from recurc.backends.emit.text import Text
from recurc.plan import Buffer, Carry, Frozen, Loop, Map, Role, Stage, held_name

_WORTH_SHARING = 4_000_000  # operations of a chunk; for fewer, threads would wait for each other too often
SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long part, long parts"
_MEET = "if (parts > 1) { RC_BARRIER }"


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
        names = ((n, c) for c in self.stage.carries for n in _places(c.name, held))
        kept = (Buffer(name, c.dims, c.dtype, Role.INITIAL) for name, c in names)
        return (*kept, *(b for b in self.stage.own if b.role is Role.ONCE))

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """All of them as the stages inside see them: what is made once for a chunk has the same place at each step."""
        fixed = (replace(b, role=Role.SEQUENCE) if b.role is Role.ONCE else b for b in self.per_chunk)
        return (*fixed, *self.per_step)


def _places(state: str, held: Container[str]) -> tuple[str, ...]:
    """Where a state is between two chunks: a loop may read it from one place while it writes to the other."""
    return (held_name(state),) if state in held else (f"{state}'now", f"{state}'next")


def frozen_parts(stage: Frozen, name: str) -> FrozenParts:
    parts = ((part, as_input(part, f"{name}@{number}")) for number, part in enumerate(stage.inside.stages))
    return FrozenParts(stage, tuple((part, replace(made, packs=False)) for part, made in parts))


def print_frozen(dealer: Dealer[AnyUnit], found: FrozenParts, calls: Sequence[Text], function: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1. `calls` are what runs each part for the sequence `b`
    and the steps from `from` to `to`, the share `part` of it."""
    return _Printer(dealer, found, calls, function).run()


def call_frozen(dealer: Dealer[AnyUnit], stage: Frozen, function: str, text: Text) -> None:
    """The calls of the stage's function: a thread has its own sequences, or, where they are few and chunks are large,
    all threads share each of them."""
    if step_flops(dealer.plan, dealer.spec) * stage.length(dealer.spec.size) < _WORTH_SHARING:
        with text.braces(""):
            text("long first, last;", "rc_split(batch, 1, thread, count, &first, &last);")
            text(f"{function}(&self, first, last, t0, t1, 0, 1);", "if (!by_batch) { RC_BARRIER }")
        return
    with text.braces("if (by_batch)", "} else {"):
        text(f"{function}(&self, b0, b1, t0, t1, 0, 1);")
    text(f"    {function}(&self, 0, batch, t0, t1, thread, count);", "    RC_BARRIER", "}")


def share_steps(function: str, rest: str) -> Text:
    """The call of a stage inside whose steps do not need each other."""
    text = Text()
    with text.braces(""):
        text("long begin, end;", "rc_split(to - from, 4, part, parts, &begin, &end);")
        text(f"{function}(&self, b, b + 1, from + begin, from + end{rest});")
    return text


def call_part(dealer: Dealer[AnyUnit], part: Stage, unit: AnyUnit) -> Text:
    """The call of a stage inside: threads share its steps, or the lanes of a loop unless they meet."""
    end, text = dealer.lane_end(unit), Text()
    if isinstance(part, Map) and not part.over_time:  # its arrays have one place for all steps
        text(f"if (part == 0) {unit.function}(&self, b, b + 1, from, from + 1, 0, {end});")
    elif not isinstance(part, Loop):
        return share_steps(unit.function, f", 0, {end}")
    elif not unit.program.lanes_apart:
        text(f"if (part == 0) {unit.function}(&self, b, b + 1, from, to, 0, {end});")
    else:
        with text.braces(""):
            text("long lane0, lane1;", f"rc_split({end}, LANES, part, parts, &lane0, &lane1);")
            text(f"if (lane0 < lane1) {unit.function}(&self, b, b + 1, from, to, lane0, lane1);")
    return text


class _Printer:
    def __init__(self, dealer: Dealer[AnyUnit], found: FrozenParts, calls: Sequence[Text], function: str) -> None:
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
                with text.braces("if (t0 == 0 && part == 0)"):
                    for name in held:
                        self._copy(self.spell(held_name(name)), self.spell(f"{name}@initial"), carries[name], text)
                text("int turn = 0;  // where the states are")
                with text.braces("for (long from = t0, to; from < t1; from = to, turn = !turn)"):
                    self._chunk(text)
                with text.braces("if (t1 < call->steps && turn && part == 0)"):
                    for name in (n for n in carries if n not in held):
                        now, then = (self.spell(n) for n in _places(name, held))
                        self._copy(now, then, carries[name], text)
                with text.braces("if (t1 == call->steps && part == 0)"):
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
            start, end, final = spell(f"{name}@in"), spell(f"{name}@out"), f"{name}@final"
            now, then = (f"call->{spell(n)}" for n in _places(name, held))
            last = f"call->{spell(final)}" if self.dealer.plan.has(final) else "(rc_array){0}"
            text(f"self.{start} = from == 0 ? call->{spell(f'{name}@initial')} : turn ? {then} : {now};")
            text(f"self.{end} = to == call->steps ? {last} : turn ? {now} : {then};")
        with text.braces("if (gone == 0 && part == 0)"):
            for name, source in held.items():
                self._copy(spell(held_name(name)), spell(f"{source}@in"), carries[name], text)
        text(_MEET)
        for call in self.calls:
            text.block(call)
            text(_MEET)

    def _copy(self, target: str, source: str, carry: Carry, text: Text) -> None:
        kind = self.dealer.stored(Buffer(carry.name, carry.dims, carry.dtype, Role.INITIAL))
        size = f"{self.spell.count(carry.dims)} * sizeof({kind})"
        text(f"memcpy(ROW(self.{target}, {kind}, b), ROW(self.{source}, {kind}, b), {size});")


__all__ = ["FrozenParts", "call_frozen", "call_part", "frozen_parts", "print_frozen", "share_steps"]
