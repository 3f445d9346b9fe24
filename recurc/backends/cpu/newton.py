"""Newton's method over time in C: a first guess, rounds of a scan over segments of time, and the loop itself.

A sequence that has converged is left alone by further rounds. In the end the steps run as the loop does, every segment
from the states that were found before it, and what did not converge from the first step on: so outputs and final states
have one code, and a sequence that no round solves gets what the loop gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recurc.backends.cpu.dealer import AnyUnit, Dealer
from recurc.backends.cpu.names import Spelling
from recurc.backends.cpu.program import StageInput
from recurc.backends.cpu.stages import ScanLoops, as_input, scan_loops
from recurc.backends.emit.text import Text
from recurc.ir import Const, Equation, Read
from recurc.ops import apply
from recurc.plan import START, Buffer, Carry, Newton, Plan, Role


@dataclass(frozen=True)
class NewtonLoops:
    """What a `Newton` stage is printed as. `scan` is one round, whose last loop also keeps the largest residual of its
    segment, in `worst` (B, segments, *dims)."""

    stage: Newton
    first: StageInput
    scan: ScanLoops
    loop: StageInput
    worst: Buffer

    @property
    def per_step(self) -> tuple[Buffer, ...]:
        """The guess and the next one, (B, T, *dims)."""
        return (*self.stage.values("guess"), *self.stage.values("next"))

    @property
    def per_segment(self) -> tuple[Buffer, ...]:
        return (*self.scan.totals, *self.scan.starts, self.worst)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return (*self.per_step, *self.per_segment, *self.stage.starts())

    @property
    def rounds(self) -> str:
        """The name of the array that tells how many rounds each sequence took."""
        return f"{self.stage.carries[0].name}'rounds"


def newton_loops(stage: Newton, name: str, plan: Plan) -> NewtonLoops:
    updates = stage.step.carries
    more = tuple(Buffer(f"{c.name}@initial", c.dims, c.dtype, Role.INITIAL) for c in updates)
    scan = scan_loops(stage.whole_step, name, replace(plan, buffers=(*plan.buffers, *more)))
    error = next(e.expr for e in stage.step.post if e.name == stage.error)
    worst = Carry(f"{stage.carries[0].name}'worst", error.dims, error.dtype)
    largest = apply("max", Read(worst.name, 1, worst.dims, worst.dtype), Read(stage.error, 0, error.dims, error.dtype))
    run = replace(
        scan.run,
        carries=(*scan.run.carries, worst),
        body=(*scan.run.body, Equation(worst.name, largest)),
        identity={worst.name: Const(0.0, worst.dtype)},
    )
    carry = replace(scan.carry, identity={c.name: Const(0.0, c.dtype) for c in updates})
    return NewtonLoops(
        stage,
        replace(as_input(stage.first, f"{name}@first"), packs=False),
        replace(scan, carry=carry, run=run),
        replace(as_input(stage.loop, f"{name}@loop"), packs=False),
        Buffer(worst.name, worst.dims, worst.dtype, Role.SEQUENCE),
    )


def parts(loops: NewtonLoops) -> tuple[tuple[StageInput, str, str], ...]:
    """Each C function of the stage: what it does, the end of its name, and a sentence for a reader."""
    return (
        (loops.first, "first", "The first guess: every step from the initial states."),
        (loops.scan.fold, "fold", "Folds the linearised steps of one segment into one."),
        (loops.scan.carry, "carry", "Carries the updates over the segments; a step here is a segment."),
        (loops.scan.run, "run", "Improves the guess of one segment, and keeps the largest residual."),
        (loops.loop, "loop", "The steps themselves, of a segment or of all of T."),
    )


def call_newton(dealer: Dealer[AnyUnit], loops: NewtonLoops, units: Sequence[AnyUnit], text: Text) -> None:
    """The part of the entry that runs the stage, by all threads together. `units` are those of `parts`."""
    first, fold, carry, run, loop = units
    spell, stage = dealer.spell, loops.stage
    text("const long segments = scan_segments(batch, steps, count), length = (steps + segments - 1) / segments;")
    text("// How many rounds each sequence took: 0 while it goes on, negative if given up. Last: whether one goes on.")
    text(f"int32_t *const taken = call.{spell(loops.rounds)}.data;")
    text("if (thread == 0) memset(taken, 0, (batch + 1) * sizeof *taken);")
    with text.braces(""):
        text("long from, to;", "rc_split(steps, 1, thread, count, &from, &to);")
        text(f"{first.function}(&self, 0, batch, from, to, 0, {dealer.lane_end(first)});")
    text("RC_BARRIER")
    if stage.falls is not None:
        text(f"double limit = {START!r}; // above it after a round a sequence is given up")
    with text.braces(f"for (int turn = 1; turn <= {stage.most}; turn++)"):
        if stage.falls is not None:
            text(f"limit *= {stage.falls!r};")
        _fold(dealer, loops, fold, text)
        _carry(dealer, loops, carry, text)
        _run(dealer, loops, run, text)
        _judge(dealer, loops, text)
        for c in stage.carries:
            guess, new = (spell(f"{c.name}'{kind}") for kind in ("guess", "next"))
            with text.braces(""):
                text(f"const rc_array swap = self.{guess};", f"self.{guess} = self.{new};", f"self.{new} = swap;")
        text("if (!taken[batch]) break;")
    _finish(dealer, loops, loop, text)


def _fold(dealer: Dealer[AnyUnit], loops: NewtonLoops, unit: AnyUnit, text: Text) -> None:
    text("// 1. every segment of linearised steps folds to one")
    with text.braces(""):
        before = Text()
        before("if (taken[b]) continue;")
        for carry, total in zip(unit.program.stage.carries, loops.scan.totals, strict=True):
            _end_of_segment(dealer, carry, total, before)
        dealer.segments(unit, text, before, "from, to")
    text("RC_BARRIER")


def _carry(dealer: Dealer[AnyUnit], loops: NewtonLoops, unit: AnyUnit, text: Text) -> None:
    text("// 2. the updates before each segment")
    with text.braces(""):
        for c in unit.program.stage.carries:
            text(f"self.{dealer.spell(f'{c.name}@out')} = (rc_array){{0}};")
        dealer.items(unit, text, "batch", "item, item + 1", "0, segments", ("if (taken[item]) continue;",))
    text("RC_BARRIER")


def _run(dealer: Dealer[AnyUnit], loops: NewtonLoops, unit: AnyUnit, text: Text) -> None:
    text("// 3. the next guess, and how far the one before was off")
    with text.braces(""):
        before = Text()
        before("if (taken[b]) continue;")
        *updates, worst = unit.program.stage.carries
        for c, start in zip(updates, loops.scan.starts, strict=True):
            _at_segment(dealer, f"{c.name}@in", start, "segment", before)
            before(f"self.{dealer.spell(f'{c.name}@out')} = (rc_array){{0}};")
        _end_of_segment(dealer, worst, loops.worst, before)
        dealer.segments(unit, text, before, "from, to")
    text("RC_BARRIER")


def _end_of_segment(dealer: Dealer[AnyUnit], carry: Carry, kept: Buffer, text: Text) -> None:
    """A carry's last value goes to the segment's place in `kept`."""
    _at_segment(dealer, f"{carry.name}@out", kept, "segment", text)


def _at_segment(dealer: Dealer[AnyUnit], name: str, buffer: Buffer, place: str, text: Text) -> None:
    field, here = dealer.spell(buffer.name), dealer.spell(name)
    text(f"self.{here} = self.{field};")
    text(f"self.{here}.data = ({dealer.stored(buffer)} *)self.{field}.data + {place} * self.{field}.time;")


def _judge(dealer: Dealer[AnyUnit], loops: NewtonLoops, text: Text) -> None:
    stage, worst = loops.stage, loops.worst
    kind = dealer.stored(worst)
    bound = stage.tolerance(lambda dtype: dealer.spec.dtype(dtype).accumulator)
    with text.braces("if (thread == 0)"):
        text("taken[batch] = 0;")
        with text.braces("for (long b = 0; b < batch; b++)"):
            text("if (taken[b]) continue;", "int within = 1, sound = 1;")
            text(f"const {kind} *worst = ROW(self.{dealer.spell(worst.name)}, {kind}, b);")
            with text.braces(f"for (long i = 0; i < segments * {dealer.spell.count(worst.dims)}; i++)"):
                most = "INFINITY" if stage.falls is None else f"({kind})limit"
                text(f"within &= worst[i] <= ({kind}){bound!r};", f"sound &= worst[i] < {most};")
            text(f"taken[b] = within ? turn : sound && turn < {stage.most} ? 0 : -turn;")
            text("taken[batch] |= !taken[b];")
    text("RC_BARRIER")


def _finish(dealer: Dealer[AnyUnit], loops: NewtonLoops, unit: AnyUnit, text: Text) -> None:
    spell, plan = dealer.spell, dealer.plan
    text("// 4. the steps from the states before each segment; without them, from the first one on")
    with text.braces(""):
        before = Text()
        before("const int solved = taken[b] > 0;", "if (from == to || (segment && !solved)) continue;")
        for c, guess_, next_ in zip(
            loops.stage.carries, loops.stage.values("guess"), loops.stage.values("next"), strict=True
        ):
            guess, new = f"call.{spell(guess_.name)}", f"call.{spell(next_.name)}"
            source, target = (f"self.{spell(f'{c.name}@{end}')}" for end in ("in", "out"))
            kind, final = dealer.stored(guess_), f"{c.name}@final"
            before(f"{source} = !segment ? self.{spell(f'{c.name}@initial')} : taken[b] % 2 ? {new} : {guess};")
            before(f"if (segment) {source}.data = ({kind} *){source}.data + (from - 1) * {source}.time;")
            end = f"self.{spell(final)}" if plan.has(final) else "(rc_array){0}"
            before(f"{target} = to == steps || !solved ? {end} : (rc_array){{0}};")
        dealer.segments(unit, text, before, "from, solved ? to : steps")
    text("RC_BARRIER")


def take_rounds(loops: NewtonLoops, spell: Spelling) -> str:
    """The line of the layout that makes room for the rounds."""
    room = "rc_take(base, &used, (batch + 1) * (int64_t)sizeof(int32_t))"
    return f"call->{spell(loops.rounds)} = (rc_array){{{room}, 1, 0, 0}};"


def rounds_function(number: int, loops: NewtonLoops, spell: Spelling) -> Text:
    """`recurc_rounds_NUMBER`: where a finished call left them."""
    text = Text()
    text("// How many rounds of Newton's method each sequence took in the call that last used the workspace.")
    head = f"const int32_t *recurc_rounds_{number}(int64_t batch, int64_t steps, int threads, char *workspace)"
    with text.braces(head):
        text("struct call call;", "lay_out(&call, batch, steps, threads, workspace);")
        text(f"return call.{spell(loops.rounds)}.data;")
    return text


__all__ = ["NewtonLoops", "call_newton", "newton_loops", "parts", "rounds_function", "take_rounds"]
