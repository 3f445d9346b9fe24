"""Groups of one state that are not affine and compose all the same: order, remainders, fractions, disguises, automata.

Each rule gives a `Group`, or None where it does not apply. They stand in the order in which they are asked: those that
give an operator for a scan come before those that only name a class.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.facts import Group, Reason
from recurc.ir import Apply, Const, Expr, reads
from recurc.passes.affine import Forms, Linear, is_number, shown, zero
from recurc.passes.algebras import NUMBERS
from recurc.passes.conjugate import conjugate
from recurc.passes.decayed import Decayed, decayed
from recurc.passes.fractional import fractional
from recurc.passes.insertion import inserts, list_monoid
from recurc.passes.matrix_fraction import matrix_fraction
from recurc.passes.matrix_lift import Lifted, lift, lift_each
from recurc.passes.matrix_monoid import joined_monoid, matrix_monoid, projective_monoid
from recurc.passes.monoid import (
    clamp_monoid,
    conjugate_monoid,
    decayed_monoid,
    modular_monoid,
    moebius_monoid,
    tropical_monoid,
)
from recurc.passes.projective import scaled_linear
from recurc.passes.ranges import LONGEST, WIDEST, finite_range, nonnegative
from recurc.passes.resume import START
from recurc.passes.scene import BOTH, BY_STRUCTURE, DECIDED, LOOP, Scene
from recurc.passes.semilinear import semilinear
from recurc.passes.semiring import Clamped, Tropical, bottom, tropical
from recurc.passes.star import star_monoid
from recurc.types import Kind, literal_size

_RUNNING = {"max": "the running maximum", "min": "the running minimum", "logaddexp": "a running log-sum-exp"}


def ordered(scene: Scene, name: str, forms: Forms) -> Group | None:
    """CL, SL and ID: maxima, minima and log-sum-exps with shifts, element by element."""
    value, state = tropical(forms, name), scene.states[name]
    if isinstance(value, Clamped):
        reason = Reason(f"{shown(name)} is shifted and clamped by free bounds", scene.span(name))
        if state.dtype.kind is not Kind.REAL:
            return Group((name,), "CL", LOOP, False, (reason,), certificate=DECIDED)
        monoid = clamp_monoid(state, value, scene.taken)
        return Group((name,), "CL", BOTH, False, (reason,), monoid, DECIDED)
    if not isinstance(value, Tropical) or value.join is None:
        return None
    join = value.join
    if value.offset is None:  # `max(h[t-1] + a, h[t-1] + b)`
        value = replace(value, offset=Const(bottom(join, state.dtype), state.dtype))
    cls = "ID" if value.shift is None and join != "logaddexp" else "SL"
    text = f"{name} is {_RUNNING[join]}{'' if value.shift is None else ' with a shift per step'}"
    reasons = [Reason(text, scene.span(name))]
    if value.by_choice:
        text = "the choice by comparison is read as max or min, which differ from it only where a NaN is compared"
        reasons.append(Reason(text))
    whole = state.dtype.kind is Kind.INT and join in ("max", "min")
    if whole and value.shift is not None:
        return None  # sums of integers are a matter of their bounds (`over_a_semiring`)
    if state.dtype.kind is not Kind.REAL and not whole:
        reasons.append(Reason(f"{name} is not real, so there is no infinity to start a scan from"))
        return Group((name,), cls, LOOP, False, tuple(reasons), certificate=DECIDED)
    scene.tropical[name] = value
    monoid = tropical_monoid(state, value, scene.taken)
    return Group((name,), cls, BOTH, False, tuple(reasons), monoid, DECIDED)


def fading(scene: Scene, name: str, forms: Forms) -> Group | None:
    """SL over max and *: a maximum or minimum that fades by a factor known to be 0 or more."""
    value, state = decayed(forms, name), scene.states[name]
    if not isinstance(value, Decayed) or value.join is None or state.dtype.kind is not Kind.REAL:
        return None
    text = f"{name} is {_RUNNING[value.join]}, and the old one is scaled by a factor that is never negative"
    monoid = decayed_monoid(state, value, scene.taken)
    return Group((name,), "SL", BOTH, False, (Reason(text, scene.span(name)),), monoid, DECIDED)


def quotients(scene: Scene, name: str, forms: Forms) -> Group | None:
    """MB: one value affine in the state divided by another, element by element."""
    found, state = fractional(forms, name), scene.states[name]
    if found is None:
        return None
    reason = Reason(f"{shown(name)} is divided by a value affine in itself: a linear fractional map", scene.span(name))
    if state.dtype.kind is not Kind.REAL:
        return Group((name,), "MB", LOOP, False, (reason,), certificate=DECIDED)
    monoid = moebius_monoid(state, found.entries(state.dtype), scene.taken)
    return Group((name,), "MB", BOTH, False, (reason,), monoid, DECIDED)


def remainders(scene: Scene, name: str, forms: Forms) -> Group | None:
    """AM: a running sum that is kept below a modulus, the same at every step: `(h + a) % m`."""
    expr, state = forms.resolved(forms.equation(name)), scene.states[name]
    if not (isinstance(expr, Apply) and expr.op == "mod" and scene.steady(expr.args[1])):
        return None
    form, modulus = forms.form(expr.args[0]), expr.args[1]
    if not isinstance(form, Linear) or form.rounded or form.cut or form.cancels or set(form.coefs) != {name}:
        return None
    coef = form.coefs[name]
    if coef.mixes or not is_number(coef.factor, 1) or set(modulus.dims) > set(state.dims):
        return None
    reasons = (Reason(f"{name} is a running sum modulo a value that never changes", expr.span),)
    if any(True for _ in reads(modulus)):
        return Group((name,), "AM", LOOP, False, reasons, certificate=DECIDED)
    monoid = modular_monoid(state, form.offset or zero(state.dtype), modulus, scene.taken)
    return Group((name,), "AM", BOTH, False, reasons, monoid, DECIDED)


def disguised(scene: Scene, name: str, forms: Forms) -> Group | None:
    """AM: an affine map between a function and the one that undoes it."""
    state = scene.states[name]
    found = conjugate(forms, name) if state.dtype.kind is Kind.REAL else None
    if found is None:
        return None
    reasons = [
        Reason(
            f"{name} is `{found.outer.op}` of a value that is affine in what undoes it of {shown(name)}: an affine map "
            "in disguise",
            scene.span(name),
        )
    ]
    if found.outer.op == "exp":
        why = "a scan would stay finite where this overflows, so only a loop over time is offered"
        return Group((name,), "AM", LOOP, False, (*reasons, Reason(why, found.outer.span)), certificate=DECIDED)
    equations = {e.name: e.expr for e in forms.rec.equations}
    rises, adds = nonnegative(found.factor, equations), nonnegative(found.offset, equations) and not found.keeps_signs
    if not (rises and adds):
        text = (
            f"below 0 `{found.outer.op}` is not a number, nor is any later value; the scan keeps account of the old "
            "values for which that is so"
        )
        reasons.append(Reason(text, found.outer.span))
    monoid = conjugate_monoid(state, found, scene.taken, rises, adds)
    return Group((name,), "AM", BOTH, False, tuple(reasons), monoid, DECIDED)


def sorted_list(scene: Scene, name: str, forms: Forms) -> Group | None:
    """ID: the largest or smallest values so far, in order."""
    found = inserts(forms, name)
    if found is None:
        return None
    which = "largest" if found.op == "max" else "smallest"
    text = f"{name} holds the {which} values so far, in order along {found.dim}: each step inserts one"
    group = Group((name,), "ID", LOOP, False, (Reason(text, scene.span(name)),), certificate=BY_STRUCTURE)
    monoid = list_monoid(scene.states[name], found, scene.taken)
    if monoid is None:
        return group
    reason = Reason("a scan merges such lists, each pair of places once")
    return replace(group, schedules=BOTH, monoid=monoid, reasons=(*group.reasons, reason))


def over_a_semiring(scene: Scene, name: str, forms: Forms) -> Group | None:
    """SL (or ID): linear over a semiring, also where elements mix."""
    found = semilinear(forms, name)
    if found is None:
        parts, state = scaled_linear(forms, name), scene.states[name]
        if parts is None:
            return None
        text = f"{name} is a linear map of {shown(name)}, divided by a number that is linear in it too: linear over + "
        reasons = (Reason(text + "and times up to a scale", scene.span(name)),)
        group = Group((name,), "SL", LOOP, False, reasons, certificate=BY_STRUCTURE)
        each = lift_each(forms, state, parts, NUMBERS) if state.dtype.kind is Kind.REAL else None
        monoid = None if each is None else projective_monoid(state, each, scene.taken)
        return group if monoid is None else replace(group, schedules=BOTH, monoid=monoid)
    line, words, state = found.line, found.semiring.words, scene.states[name]
    lifted = lift(forms, state, found.semiring)
    if not (line.scaled or line.mixed or line.renames):
        text = f"{name} only ever joins values by `{found.semiring.plus}`"
        group = Group((name,), "ID", LOOP, False, (Reason(text, scene.span(name)),), certificate=BY_STRUCTURE)
        if lifted is None or lifted.offset is None:
            return group
        return replace(group, schedules=BOTH, monoid=joined_monoid(state, lifted.offset, found.semiring, scene.taken))
    where = f" and mixes {', '.join(line.mixed)}" if line.mixed else ""
    reasons = [Reason(f"{name} is linear in {shown(name)} over {words}{where}", scene.span(name))]
    if line.mixed or line.renames:
        text = "a step is a product of a matrix over that semiring, and a scan would multiply such matrices"
        reasons.append(Reason(text))
    group = Group((name,), "SL", LOOP, False, tuple(reasons), certificate=BY_STRUCTURE)
    text = None
    if lifted is None:
        infinite = found.semiring.holds(state.dtype)
        text = "the matrix cannot be written out" if infinite else f"{name} is not real: it has no infinity for no path"
    elif found.semiring.saturates(state.dtype) and not _far_from_the_ends(scene, lifted):
        text = (
            f"{name} is a whole number, and what is added to it is not known to be small enough (as an `int(Q)` is) "
            "for sums over all steps to stay below 2^62"
        )
    if lifted is None or text is not None:
        return replace(group, reasons=(*reasons, Reason(f"{text}, so only a loop over time is offered")))
    monoid = matrix_monoid("SL", state, lifted, found.semiring, scene.taken)
    return replace(group, schedules=BOTH, monoid=monoid)


def _far_from_the_ends(scene: Scene, lifted: Lifted) -> bool:
    """Whether sums of integers along any path through time stay below 2^62, so that none is taken for no path at all.
    A step adds an entry of its matrix; places along a dim times steps are less than 2^60, for each is visited."""
    equations = {e.name: e.expr for e in scene.rec.equations}
    bounds = {v.name: v.bound for v in (*scene.rec.inputs, *scene.rec.params, *scene.rec.states) if v.bound is not None}
    known = {n: (0.0, float(literal_size(b) or WIDEST)) for n, b in bounds.items()} | {START: (0.0, LONGEST)}

    def largest(expr: Expr | None) -> float:
        low, high = (0.0, 0.0) if expr is None else finite_range(expr, known, equations)
        return max(-low, high)

    return largest(lifted.matrix) * LONGEST + largest(lifted.offset) < 2.0**62


def matrix_quotients(scene: Scene, name: str, forms: Forms) -> Group | None:
    """MB of a matrix state: a Riccati recurrence."""
    state = scene.states[name]
    found = matrix_fraction(forms, state)
    if found is None:
        return None
    reasons = [Reason(f"{name} is a linear fractional map of the matrix {shown(name)}", scene.span(name))]
    group = Group((name,), "MB", LOOP, False, tuple(reasons), certificate=BY_STRUCTURE)
    if found.star is None or state.dtype.kind is not Kind.REAL:
        why = found.obstacle or f"{name} is not real"
        return replace(group, reasons=(*reasons, Reason(f"{why}, so only a loop over time is offered")))
    if found.drifts and not found.symmetric:
        reasons.append(Reason("it is multiplied from two sides by matrices that are not transposes of each other"))
        reasons.append(Reason("the product of the one may leave the range of numbers while that of the other vanishes"))
        reasons.append(Reason("that takes thousands of steps, but a scan is taken only when it is asked for"))
        monoid = star_monoid(state, found.star, scene.taken)
        return replace(group, on_request=("scan",), monoid=monoid, reasons=tuple(reasons))
    if not found.symmetric:
        return replace(group, schedules=BOTH, monoid=star_monoid(state, found.star, scene.taken))
    assumed = found.even or frozenset()
    others = [n for n in sorted(assumed) if n != name]
    text = f"an observation is taken in by Woodbury's identity, for {name} symmetric at the start"
    reasons.append(Reason(f"{text}, and {' and '.join(others)} too" if others else f"{text}, as it then stays"))
    reasons.append(Reason("that is not checked, so a scan is taken only when it is asked for"))
    monoid = star_monoid(state, found.star, scene.taken, assumed)
    return replace(group, on_request=("scan",), monoid=monoid, reasons=tuple(reasons))


RULES = (
    ordered, fading, quotients, remainders, disguised, sorted_list, over_a_semiring, matrix_quotients,
)  # fmt: skip
