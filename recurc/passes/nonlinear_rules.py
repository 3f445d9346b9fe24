"""Groups that no other rule fits: chunks that are frozen, few values, polynomials, and the sparsity of the Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recurc.facts import NONLINEAR, Group, Reason
from recurc.ir import Contract, Expr, Gather, Linalg, Reaxis, Reduce, Unfold, reads, walk
from recurc.passes.affine import Forms, Free, Nonlinear, reorders_only, shown
from recurc.passes.frozen import chunks
from recurc.passes.newton import refusal
from recurc.passes.polynomial import degree
from recurc.passes.scene import BOTH, BY_STRUCTURE, CHUNKS, LOOP, Scene
from recurc.passes.tables import begins_below, table_monoid
from recurc.source import Span
from recurc.types import Dims, Kind


def frozen_group(
    scene: Scene, members: tuple[str, ...], forms: Forms, held: tuple[str, ...], inside: list[Group]
) -> Group | None:
    """CF, if the groups that remain when the `held` states are known have a class of their own."""
    if any(g.cls in NONLINEAR for g in inside):
        return None
    names, rest = ", ".join(held), ", ".join(f"{', '.join(g.states)} is {g.cls}" for g in inside)
    text = f"{names} changes only at the start of a chunk of steps; within one, where it is known, {rest}"
    reasons = [Reason(text, scene.span(held[0])), *(r for g in inside for r in g.reasons)]
    group = Group(members, "CF", LOOP, False, tuple(reasons), certificate=BY_STRUCTURE)
    found = chunks(forms, members)
    return replace(group, refused=(found,)) if isinstance(found, Reason) else replace(group, schedules=CHUNKS)


def nonlinear_group(scene: Scene, members: tuple[str, ...], forms: Forms, why: Nonlinear) -> Group:
    """FS, QP, or NL by the sparsity of the Jacobian."""
    reasons = [Reason(why.text, why.span or scene.span(members[0]))]
    mixing = _mixing(scene, members, forms)
    if mixing is not None:
        dims, span = mixing
        reasons.append(Reason(f"elements meet along {', '.join(dims)}, so the Jacobian is full", span))
        cls = "NL-f"
    elif len(members) == 1:
        name = members[0]
        state = scene.states[name]
        few = "two values" if state.dtype.kind is Kind.BOOL else f"the values 0 to {state.bound} - 1"
        if state.dtype.kind is Kind.BOOL or state.bound is not None:
            text = f"each element of {name} has {few}, so a step is a table of what becomes of each"
            group = Group(members, "FS", LOOP, False, (Reason(text, scene.span(name)),), certificate=BY_STRUCTURE)
            if not begins_below(state):
                text = f"{name} may begin with a value that is not below {state.bound}, which has no place in a table"
                return replace(group, reasons=(*group.reasons, Reason(text, state.span)))
            monoid = table_monoid(forms, state, scene.taken)
            return group if monoid is None else replace(group, schedules=BOTH, monoid=monoid)
        power = degree(forms, name)
        if power is not None and power > 1:
            text = f"{name} is a polynomial of degree {power} in {shown(name)}, and of degree {power}^n after n steps"
            return _with_newton(scene, Group(members, "QP", LOOP, False, (*reasons, Reason(text, scene.span(name)))))
        cls = "NL-d"
        reasons.append(Reason("every element feeds only itself, so the Jacobian is diagonal", scene.span(name)))
    else:
        cls, n = "NL-b", len(members)
        text = f"every element feeds only itself, so the Jacobian is made of {n}x{n} blocks"
        reasons.append(Reason(text, scene.span(members[0])))
    return _with_newton(scene, Group(members, cls, LOOP, False, tuple(reasons)))


def _with_newton(scene: Scene, group: Group) -> Group:
    """`group` with Newton's method on request, where it can run it."""
    return group if refusal(scene.rec, group) else replace(group, on_request=("newton",))


def _mixing(scene: Scene, members: tuple[str, ...], forms: Forms) -> tuple[Dims, Span | None] | None:
    """Where a value that depends on the group moves between positions of a state's dim."""
    inside = {d for m in members for d in scene.states[m].dims}
    feeding = _feeding(scene, members)
    for equation in scene.rec.equations:
        if equation.name not in feeding:
            continue
        for node in walk(equation.expr):
            moved = crossed(node, lambda e: isinstance(forms.form(e), Free))
            if moved & inside:
                return tuple(d for d in sorted(moved & inside)), node.span
    return None


def _feeding(scene: Scene, members: tuple[str, ...]) -> set[str]:
    """The group's equations and those they read within the step."""
    pending, seen = list(members), set(members)
    while pending:
        for read in reads(scene.equations[pending.pop()].expr):
            known = read.lag or read.name in seen or read.name in scene.states
            if not known and read.name in scene.equations:
                seen.add(read.name)
                pending.append(read.name)
    return seen


def crossed(node: Expr, free: Callable[[Expr], bool]) -> set[str]:
    """Dims along which `node` moves a value that depends on the group between positions."""
    match node:
        case Reduce(arg=arg, over=over):
            return set() if free(arg) else set(over)
        case Contract():
            moving = [
                (s, labels) for s, labels in ((node.left, node.left_axes), (node.right, node.right_axes)) if not free(s)
            ]
            return {
                d for side, labels in moving for d, k in zip(side.dims, labels, strict=True) if k not in node.out_axes
            }
        case Reaxis(arg=arg):
            if free(arg) or reorders_only(node):
                return set()
            kept = [arg.dims[a] for a in node.axes]
            renamed = {d for old, new in zip(kept, node.dims, strict=True) if old != new for d in (old, new)}
            transposed = {d for d in arg.dims if arg.dims.count(d) > 1}
            return renamed | transposed | ({arg.dims[node.at]} if node.at is not None else set())
        case Gather(arg=arg, axis=axis):
            return set() if free(arg) else {arg.dims[axis]}
        case Unfold(arg=arg, axes=axes, taps=taps):
            return set() if free(arg) else {*taps, *(arg.dims[a] for a in axes)}
        case Linalg(args=args):
            return {d for a in args for d in args[0].dims[-2:] if not free(a)}
        case _:
            return set()
