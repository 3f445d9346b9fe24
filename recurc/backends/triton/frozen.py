"""A `Frozen` stage: a function that runs the stages inside one chunk, which the host calls chunk after chunk.

Sequences in which chunks start at the same steps go together; the stages see their steps of every array. A held state
is no copy: it is the tensor in which the state that it took over was left by the chunk before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recurc.backends.triton.kernel import Function, StageText, each_its_own, stored, torch_type
from recurc.backends.triton.values import Context
from recurc.plan import Buffer, Frozen, Role, held_name
from recurc.types import DType

_GIVEN = (Role.INPUT, Role.PARAM, Role.INITIAL, Role.OUTPUT, Role.FINAL)


def emit_frozen(context: Context, stage: Frozen, name: str, emit: Callable[[Context, str], StageText]) -> StageText:
    """The function of one chunk, and the call that runs all of them."""
    inner = _inside(context, stage)
    given = [b.name for b in inner.plan.buffers if b.role in _GIVEN]
    given += [
        n for n in (held_name(h) for h, _ in stage.held) if n not in given
    ]  # also one that only leaves at the end
    names = {n: context.scope(("buffer", n), n) for n in given}
    function = Function(
        context.scope(("chunk of", name), f"{name}_inside"),
        (*names.values(), "batch", "steps", "begin"),
        f"The steps of a chunk, from step `begin` on, in which {', '.join(h for h, _ in stage.held)} stay as they are.",
        f"{names[next(b.name for b in inner.plan.buffers if b.role is Role.FINAL)]}.device",
        (
            "per_sequence = True  # what is held is each sequence's own",
            "sets = batch",
            "segments = None",
            *each_its_own(emit(inner, name)),
        ),
    )
    return (function, *_call(context, inner, stage, function.name, names))


def _inside(context: Context, stage: Frozen) -> Context:
    """The plan inside, on arrays as the plan around it stores them. States wait between chunks as they are computed."""
    outer, spec = context.plan, replace(context.spec, real=context.spec.real.accumulator)
    buffers: list[Buffer] = []
    for buffer in stage.inside.buffers:
        origin = buffer.name.removesuffix("@initial")
        if buffer.role in (Role.INPUT, Role.OUTPUT) or (buffer.role is Role.PARAM and outer.has(buffer.name)):
            buffer = replace(buffer, dtype=stored(outer.buffer(buffer.name), context.spec.real))
        elif buffer.role is Role.INITIAL and outer.has(origin):  # an input one step before
            buffer = replace(buffer, dtype=stored(outer.buffer(origin), context.spec.real))
        buffers.append(replace(buffer, part=None))
    return Context(replace(stage.inside, buffers=tuple(buffers)), spec, context.scope, begins=True)


def _call(context: Context, inner: Context, stage: Frozen, function: str, names: dict[str, str]) -> StageText:
    outer, held = context.plan, dict(stage.held)
    states = {s.name for s in stage.inside.recurrence.states}

    def local(name: str) -> str:
        return context.scope(("buffer", name), name)

    def kept(state: str) -> str:
        carry = next(c for c in stage.carries if c.name == state)
        return f"{local(f'{state}@initial')}.to({torch_type(inner.compute(carry.dtype))})"

    groups: dict[str, list[str]] = {k: [] for k in ("inputs", "before", "fixed", "starts", "held", "outputs")}
    for state, source in held.items():
        groups["held"].append(f'"{names[held_name(state)]}": ({kept(state)}, "{names[f"{source}@initial"]}")')
    for buffer in inner.plan.buffers:
        if buffer.role not in _GIVEN or buffer.name in map(held_name, held):
            continue
        name, origin, given = buffer.name, buffer.name.removesuffix("@initial"), f'"{names[buffer.name]}": '
        match buffer.role:
            case Role.INPUT:
                groups["inputs"].append(given + local(name))
            case Role.OUTPUT:
                groups["outputs"].append(given + local(name))
            case Role.PARAM:
                groups["fixed"].append(given + local(name))
            case Role.INITIAL if origin in states:
                groups["starts"].append(given + kept(origin))
            case Role.INITIAL:
                groups["before"].append(f'{given}({local(name)}, "{names[origin]}")')
            case _:
                pass
    ends = [f'"{names[f"{s}@initial"]}": "{names[f"{s}@final"]}"' for s in sorted(states)]
    finals = [(c.name, names[held_name(c.name)] if c.name in held else names[f"{c.name}@initial"])
              for c in stage.carries if outer.has(f"{c.name}@final")]  # fmt: skip
    last = [f'"{where}": {local(f"{state}@final")}' for state, where in finals]
    every = stage.length(context.spec.size)
    into = str(-stage.first % every)
    if stage.start is not None:
        into = f"({local(stage.start)}.to({torch_type(DType.I64)}) - {stage.first}) % {every}"
    lines = [f"rc_in_chunks({function}, {every}, {into}, batch, steps,"]
    for label, entries in [*groups.items(), ("ends", ends), ("finals", last)]:
        lines.append(f"    {label}={{{', '.join(entries)}}},")
    return (*lines, ")")
