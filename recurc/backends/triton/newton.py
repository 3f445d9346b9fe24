"""A `Newton` stage: a map makes the first guess, a function improves it by a scan, and the host counts rounds.

A round gets the sequences that are still open, side by side; the host waits for the device once in each, to learn which
are left. At the end the states of all steps are known, so what leaves follows from a map over time; a sequence that no
round solves is run by the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from recurc.backends.emit.lanes import stage_exprs
from recurc.backends.triton.kernel import Function, StageText, each_its_own, stored, torch_type
from recurc.backends.triton.values import Context
from recurc.ir import Equation, Read, reads
from recurc.plan import START, Buffer, Map, Newton, Role, Stage

Emit = Callable[[Context, str], StageText]


def emit_newton(context: Context, stage: Newton, name: str, emit: Emit) -> StageText:
    """The functions of one round and of the loop, and what calls them."""
    made = _Emission(context, stage, name, emit)
    improve, loop = made.round(), made.loop()
    guesses = [made.local(b.name) for b in made.guess]
    taken = context.scope(("rounds", name), "rounds_taken")
    bound = stage.tolerance(lambda dtype: context.spec.dtype(dtype).accumulator)
    shape = tuple(context.size(d) for d in made.error.dims)
    after = {g: repr(made.local(b.name)) for g, b in zip(guesses, made.next, strict=True)}
    states = ", ".join(c.name for c in stage.carries)
    return (
        improve,
        loop,
        *made.first(),
        f"{taken}, {', '.join(guesses)} = rc_newton(",
        f"    {improve.name}, {bound!r}, {stage.most}, {START}, {stage.falls}, batch, steps, segments,",
        f"    given={_dict(made.given(made.round_stages) | made.constant())},",
        f"    guess={_dict({g: g for g in guesses})},",
        f"    after={_dict(after)},",
        f"    error=({made.local(stage.error)!r}, {shape}, {torch_type(made.error.dtype)}),",
        ")",
        f"rc_rounds[{states!r}] = {taken}",
        *made.known(),
        "rc_not_solved(",
        f"    {loop.name}, {taken}, batch, steps,",
        f"    given={_dict(made.given((stage.loop,)))},",
        f"    results={_dict({made.local(b.name): made.local(b.name) for b in made.results})},",
        ")",
    )


def _dict(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key!r}: {value}" for key, value in entries.items()) + "}"


class _Emission:
    """What the parts of one stage share: arrays beside those of the plan, (B, T, *dims) in the type of arithmetic."""

    def __init__(self, context: Context, stage: Newton, name: str, emit: Emit) -> None:
        self.context, self.stage, self.name, self.emit, plan = context, stage, name, emit, context.plan
        wide, carries = context.compute, stage.carries
        self.guess = [Buffer(f"{c.name}'guess", c.dims, wide(c.dtype), Role.SEQUENCE) for c in carries]
        self.before = [replace(plan.buffer(f"{c.name}@initial"), name=f"{c.name}'guess@initial") for c in carries]
        self.zeros = [Buffer(f"{u.name}@initial", u.dims, wide(u.dtype), Role.INITIAL) for u in stage.step.carries]
        self.next = [Buffer(f"{c.name}'next", c.dims, wide(c.dtype), Role.OUTPUT) for c in carries]
        error = next(e.expr for e in stage.step.post if e.name == stage.error)
        self.error = Buffer(stage.error, error.dims, wide(error.dtype), Role.OUTPUT)
        self.finals = [c for c in carries if plan.has(f"{c.name}@final")]
        self.products = [replace(b, dtype=wide(b.dtype)) for b in stage.products]
        names = [*stage.writes, *(f"{c.name}@final" for c in self.finals)]
        self.results = [self._written(plan.buffer(n)) for n in names]

    def _written(self, buffer: Buffer) -> Buffer:
        """A buffer that a function or map is given to write, also one that the plan makes for itself."""
        if buffer.role is not Role.SEQUENCE:
            return buffer
        return replace(buffer, role=Role.OUTPUT, dtype=stored(buffer, self.context.spec.real))

    def local(self, name: str) -> str:
        return self.context.scope(("buffer", name), name)

    def _inside(self, stages: tuple[Stage, ...], more: Iterable[Buffer]) -> Context:
        """Stages in place of those of the plan. What they write comes first: that is what lies on the device."""
        own = {b.name: b for b in (*more, *self.results, *self.products)}
        others = (b for b in self.context.plan.buffers if b.name not in own)
        return replace(self.context, plan=replace(self.context.plan, stages=stages, buffers=(*own.values(), *others)))

    def _read(self, stages: tuple[Stage, ...]) -> list[Buffer]:
        """The buffers of the plan that stages read and do not make."""
        plan, names = self.context.plan, dict[str, None]()
        for read in (r for s in stages for e in stage_exprs(s) for r in reads(e)):
            names[read.name] = None
            if read.lag:
                names[f"{read.name}@initial"] = None
        made = {e.name for s in stages for e in s.body}
        return [plan.buffer(n) for n in names if n not in made and plan.has(n)]

    @property
    def round_stages(self) -> tuple[Stage, ...]:
        return (*self.stage.before, self.stage.step)

    def given(self, stages: tuple[Stage, ...]) -> dict[str, str]:
        """What a function of these stages reads, by the names of its arguments."""
        return {self.local(b.name): self.local(b.name) for b in self._read(stages)}

    def constant(self) -> dict[str, str]:
        """What a round starts from: the states before the first step, and no update."""
        device = f"{self.local(self.guess[0].name)}.device"
        found = {
            self.local(b.name): self.local(f"{c.name}@initial")
            for b, c in zip(self.before, self.stage.carries, strict=True)
        }
        for b in self.zeros:
            shape = (1, *(self.context.size(d) for d in b.dims))
            found[self.local(b.name)] = f"torch.zeros({shape}, dtype={torch_type(b.dtype)}, device={device})"
        return found

    def first(self) -> StageText:
        return self.emit(self._inside((self.stage.first,), (*self.guess, *self.before)), f"{self.name}_first")

    def round(self) -> Function:
        more = (*self.guess, *self.before, *self.zeros, *self.next, self.error)
        step = replace(self.stage.step, writes=(*(b.name for b in self.next), self.error.name))
        arguments = dict.fromkeys((*self.given(self.round_stages), *(self.local(b.name) for b in more)))
        return Function(
            self.context.scope(("round of", self.name), f"{self.name}_round"),
            (*arguments, "batch", "steps", "segments"),
            "A round of Newton's method: the next guess of all steps, and how far the one before was off.",
            f"{self.local(self.guess[0].name)}.device",
            (
                "per_sequence = True",
                *each_its_own(self.emit(self._inside((*self.stage.before, step), more), self.name)),
            ),
        )

    def loop(self) -> Function:
        stage = self.stage.loop
        arguments = dict.fromkeys((*self.given((stage,)), *(self.local(b.name) for b in self.results)))
        return Function(
            self.context.scope(("loop of", self.name), f"{self.name}_step_by_step"),
            (*arguments, "batch", "steps"),
            "The steps one after another.",
            f"{self.local(f'{stage.carries[0].name}@initial')}.device",
            ("per_sequence = True", *each_its_own(self.emit(self._inside((stage,), ()), f"{self.name}_steps"))),
        )

    def known(self) -> StageText:
        """What leaves, where the states before each step are those of the guess."""
        ends = [replace(b, name=f"{c.name}'end") for b, c in zip(self.guess, self.stage.carries, strict=True)
                if c in self.finals]  # fmt: skip
        body = list(self.stage.known)
        body += [Equation(b.name, Read(c.name, 0, c.dims, c.dtype)) for b, c in zip(ends, self.finals, strict=True)]
        step = Map(tuple(body), (*self.stage.writes, *(b.name for b in ends)))
        lines = [f"    {self.local(f'{c.name}@final')}.copy_({self.local(b.name)}[:, -1])"
                 for b, c in zip(ends, self.finals, strict=True)]  # fmt: skip
        aliases = [f"{self.local(b.name)} = {self.local(f'{c.name}@initial')}"
                   for b, c in zip(self.before, self.stage.carries, strict=True)]  # fmt: skip
        made = self.emit(
            self._inside((*self.stage.before, step), (*self.guess, *self.before, *ends)), f"{self.name}_known"
        )
        return (*aliases, *made, *(["if steps:", *lines] if lines else []))
