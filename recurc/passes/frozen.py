"""States that are held for a chunk of steps (class CF): `every C: F = M[t-1]`, which test-time training reads.

Within a chunk the held states are known values. What the other states do then may be far simpler than the whole: a
gradient at F is a constant where the one at M[t-1] is not, and what it is made of is a product of matrices for all
steps of the chunk at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from recurc.facts import Reason
from recurc.ir import Apply, Const, Equation, Expr, Input, Param, Read, Recurrence, Size, Step, reads, rewrite, walk
from recurc.passes.affine import Forms
from recurc.plan import Loop, held_name
from recurc.types import Kind


@dataclass(frozen=True)
class Clock:
    """A chunk starts where (t + start) mod `every` = `first`; see `recurc.plan.Frozen`."""

    every: Const | Size
    first: int
    start: str | None


def thawed(forms: Forms, members: tuple[str, ...]) -> tuple[tuple[str, ...], Recurrence] | None:
    """The held states among `members` and the recurrence in which they are inputs; None if there are none, or no
    others."""
    held = tuple(m for m in members if _held(forms, m) is not None)
    if not held or len(held) == len(members):
        return None
    states = {s.name: s for s in forms.rec.states}
    known = tuple(Input(h, states[h].dims, states[h].dtype, states[h].initial) for h in held)
    rest = replace(
        forms.rec,
        inputs=forms.rec.inputs + known,
        states=tuple(s for s in forms.rec.states if s.name not in held),
        equations=tuple(e for e in forms.rec.equations if e.name not in held),
    )
    return held, rest


def _held(forms: Forms, state: str) -> tuple[Clock, Expr] | None:
    """When `state` changes and what it then is, if it changes at every C-th step only."""
    match forms.resolved(forms.equation(state)):
        case Apply(op="select", args=(condition, new, Read(name=name, lag=1))) if name == state:
            clock = _clock(forms, condition)
            return None if clock is None else (clock, new)
        case _:
            return None


def _clock(forms: Forms, condition: Expr) -> Clock | None:
    match forms.spelled(condition):
        case Apply(op="eq", args=(place, Const(value=int(first)))):
            pass
        case _:
            return None
    match forms.spelled(place):
        case Apply(op="mod", args=(index, (Const() | Size()) as every)):
            pass
        case _:
            return None
    match forms.spelled(index):
        case Step():
            return Clock(every, first, None)
        case Apply(op="add", args=(Step(), Read(name=name)) | (Read(name=name), Step())):
            return Clock(every, first, name) if name in {p.name for p in forms.rec.params} else None
        case _:
            return None


# --- the schedule -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunks:
    """How a group runs chunk by chunk: pairs of a held state and the state it takes over."""

    clock: Clock
    held: tuple[tuple[str, str], ...]


def chunks(forms: Forms, members: tuple[str, ...]) -> Chunks | Reason:
    """How the group `members` runs chunk by chunk, or why it does not."""
    rec, pairs, clocks = forms.rec, dict[str, str](), list[Clock]()
    spans = {e.name: e.span for e in rec.equations}
    for name, found in ((m, _held(forms, m)) for m in members):
        if found is None:
            continue
        clock, new = found
        new = forms.spelled(new)
        if not (isinstance(new, Read) and new.lag == 1 and new.name in members and _held(forms, new.name) is None):
            return Reason(f"{name} takes over what is computed for it at the start of a chunk", spans[name])
        pairs[name] = new.name
        clocks.append(clock)
    clock = clocks[0]
    if len(set(clocks)) > 1:
        return Reason(f"{', '.join(pairs)} change at different steps", spans[next(iter(pairs))])
    if not _strikes(clock):
        return Reason(f"{', '.join(pairs)} may never change", spans[next(iter(pairs))])
    for equation in rec.equations:
        for node in walk(equation.expr):
            if isinstance(node, Read) and node.lag and node.name in pairs and equation.name != node.name:
                return Reason(f"{node.name} is read as it was a step before, which may be another chunk", node.span)
            if node.dtype.kind is Kind.COMPLEX:
                return Reason("there are complex numbers, which only the loop knows", node.span)
    return Chunks(clock, tuple(pairs.items()))


def _strikes(clock: Clock) -> bool:
    """Whether there are steps at which a chunk starts, whatever the sizes are."""
    return clock.first == 0 if isinstance(clock.every, Size) else 0 <= clock.first < clock.every.value.real


def inside(loop: Loop, found: Chunks, rec: Recurrence, steady: Collection[str], taken: Collection[str]) -> Recurrence:
    """The recurrence of the steps of one chunk: `loop` with the held states as params.

    `steady` are the buffers without a time axis. Names in `taken` are not available for what is made of it."""
    held = dict(found.held)
    renamed = {
        e.name: Equation(e.name, rewrite(e.expr, lambda n: _thaw(n, held)), e.span)
        for e in loop.body
        if e.name not in held
    }
    dims = {c.name: (c.dims, c.dtype) for c in loop.carries}
    known = {h: Param(held_name(h), *dims[h]) for h in held}
    for name in loop.writes:
        if name in held:
            renamed[name] = Equation(name, Read(held_name(name), 0, *dims[name]))
    states = tuple(s for s in rec.states if s.name in dims and s.name not in held)
    needed = _needed(renamed, (*(s.name for s in states), *loop.writes))
    equations = tuple(e for e in renamed.values() if e.name in needed)
    own = {e.name for e in equations} | {p.name for p in known.values()}
    read = {r.name: r for e in equations for r in reads(e.expr) if r.name not in own}
    late = {r.name: r for e in equations for r in reads(e.expr) if r.lag and r.name not in own}
    inputs = tuple(
        Input(n, r.dims, r.dtype, Const(0, r.dtype) if n in late else None) for n, r in read.items() if n not in steady
    )
    params = (*known.values(), *(Param(n, r.dims, r.dtype) for n, r in read.items() if n in steady))
    given = {*own, *read}
    unused = tuple(Param(n, ()) for n in taken if n not in given)  # nothing reads them; their names are taken
    return replace(
        rec, inputs=inputs, params=(*params, *unused), states=states, equations=equations, outputs=loop.writes
    )


def _thaw(node: Expr, held: Collection[str]) -> Expr:
    if isinstance(node, Read) and node.name in held:
        return replace(node, name=held_name(node.name))
    return node


def _needed(equations: dict[str, Equation], roots: tuple[str, ...]) -> set[str]:
    pending, seen = list(roots), set(roots)
    while pending:
        for read in reads(equations[pending.pop()].expr):
            if read.name in equations and read.name not in seen:
                seen.add(read.name)
                pending.append(read.name)
    return seen
