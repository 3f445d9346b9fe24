"""Groups whose update is affine: which structure the matrix has, from one factor per element to a dense one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recurc.facts import Group, Reason
from recurc.ir import Expr
from recurc.passes.affine import Coef, Linear, Mix, shown
from recurc.passes.algebras import NUMBERS
from recurc.passes.matrix_lift import lift
from recurc.passes.matrix_monoid import matrix_monoid
from recurc.passes.monoid import affine_monoid, block_monoid, residue_monoid, rotation_monoid
from recurc.passes.residues import Residues
from recurc.passes.rotation import turns
from recurc.passes.scene import BOTH, DECIDED, LOOP, Scene
from recurc.source import Span
from recurc.types import Kind

_MOST_PRODUCTS = 1 << 31  # of remainders in a sum over the elements of a state
_LARGEST_BLOCK = 4  # coupled states whose matrix is multiplied out, entry by entry


def affine_group(scene: Scene, members: tuple[str, ...], forms: Mapping[str, Linear]) -> Group:
    """The class of a group whose members are all affine in its old states."""
    lost = next((f.cancels for f in forms.values() if f.cancels), None)
    if lost is not None:
        text = (
            "affine in exact arithmetic, but terms that read the state cancel: what is left are rounding errors, which "
            "follow no linear map"
        )
        cls = "NL-d" if len(members) == 1 else "NL-b"
        return Group(members, cls, LOOP, False, (Reason(text, lost if isinstance(lost, Span) else None),))
    if len(members) > 1:
        return _coupled(scene, members, forms)
    name = next(iter(members))
    form = forms[name]
    coef = form.coefs.get(name, Coef(None))
    return _dense(scene, name, form, coef) if coef.mixes else _elementwise(scene, name, form, coef)


def _elementwise(scene: Scene, name: str, form: Linear, coef: Coef) -> Group:
    state = scene.states[name]
    assert coef.factor is not None
    steady = scene.steady(coef.factor)
    reasons = [
        Reason(
            f"{shown(name)} is only scaled and added to, with coefficients that do not read {name}", scene.span(name)
        )
    ]
    if form.rounded:
        text = f"{shown(name)} is rounded to half precision at each step; a scan would not repeat that rounding"
        reasons.append(Reason(text, form.rounded if isinstance(form.rounded, Span) else None))
        return Group((name,), "EA", LOOP, steady, tuple(reasons), certificate=DECIDED)
    if form.cut:
        text = f"where its factor is zero, {name} starts anew; the scan leaves the past out there"
        reasons.append(Reason(text, scene.span(name)))
    cls, why = _matrix_class(scene, name, coef.factor, form.offset)
    if state.dtype.kind is Kind.COMPLEX:
        cls, why = "CA", f"{name} is complex; each element has its own complex factor"
    reasons.append(Reason(why, scene.span(name)))
    if steady:
        reasons.append(Reason(f"the factor of {shown(name)} is the same at every step"))
    scene.affine[name] = form
    monoid = affine_monoid(cls, state, coef.factor, form.offset, scene.taken, form.cut)
    return Group((name,), cls, BOTH, steady, tuple(reasons), monoid, DECIDED)


def _matrix_class(scene: Scene, name: str, factor: Expr, offset: Expr | None) -> tuple[str, str]:
    """SR1 and DR1 are elementwise affine too; the finer name says that the write is a sum of few outer products and the
    decay lacks its dims, which a matmul form can use."""
    dims = scene.states[name].dims
    if len(dims) >= 2 and len(set(dims)) == len(dims) and offset is not None:
        summands = scene.summands(offset)
        shared = set(dims[:-2])
        rows, columns = dims[-2], dims[-1]
        present = {d for factors in summands for f in factors for d in f}
        outer = {rows, columns} <= present and all(not {rows, columns} <= f for factors in summands for f in factors)
        decay = set(factor.dims) - shared
        write = "an outer product" if len(summands) == 1 else "a sum of outer products"
        if outer and not decay:
            per = "head" if shared else "matrix"
            return "SR1", f"the decay of {name} is one number per {per} and the write is {write}"
        if outer and decay < {rows, columns}:
            return "DR1", f"the decay of {name} varies over {next(iter(decay))} only and the write is {write}"
    return "EA", f"each element of {name} has its own factor and feeds nothing but itself"


def _reads_and_writes(coef: Coef) -> bool:
    """Whether everything beside a factor is read along some dims and written back along them: of low rank."""
    return all(m.how == "contract" and m.over and set(m.over) <= set(m.expanded) for m in coef.mixes)


def _along(mixes: tuple[Mix, ...]) -> str:
    return ", ".join(dict.fromkeys(d for m in mixes for d in m.over))


def _dense(scene: Scene, name: str, form: Linear, coef: Coef) -> Group:
    mix = coef.mixes[0]
    if any(m.how == "real-linear" for m in coef.mixes):
        text = f"{shown(name)} meets real, imag or conj: linear over the reals only, two coupled real parts"
        return Group((name,), "BA", LOOP, False, (Reason(text, mix.span),), certificate=DECIDED)
    if coef.factor is not None and _reads_and_writes(coef):
        over = _along(coef.mixes)
        own = {*scene.states[name].dims}
        more = [d for d in dict.fromkeys(d for m in coef.mixes for d in m.expanded) if d not in own]
        rank = f"a sum of rank one per place along {', '.join(more)}" if more else "rank one"
        text = f"{shown(name)} is scaled, read along {over} and written back along {over}: identity plus {rank}"
        group = Group((name,), "GH", LOOP, False, (Reason(text, mix.span),), certificate=DECIDED)
        met = {d for m in coef.mixes for d in (*m.over, *m.expanded)}
        return _multiplied(scene, group, form) if own <= met else group  # else chunks of steps have a dim to share
    over = ", ".join(dict.fromkeys(mix.over)) or "its elements"
    text = f"{shown(name)} goes through a linear map that mixes {over}: affine, with a dense matrix"
    group = Group((name,), "DA", LOOP, False, (Reason(text, mix.span),), certificate=DECIDED)
    found = _multiplied(scene, group, form)
    if found.monoid is None:
        text = "its matrix cannot be read off the equations (dims that repeat, roundings, choices): no scan is offered"
        return replace(group, reasons=(*group.reasons, Reason(text)))
    return found


def _multiplied(scene: Scene, group: Group, form: Linear) -> Group:
    """`group` with the scan of matrices that its update allows, if it does."""
    (name,) = group.states
    calm = not (form.rounded or form.cut)
    lifted = lift(scene.forms((name,)), scene.states[name], NUMBERS) if calm else None
    if lifted is None:
        return group
    monoid = matrix_monoid(group.cls, scene.states[name], lifted, NUMBERS, scene.taken)
    return replace(group, schedules=BOTH, monoid=monoid)


def _coupled(scene: Scene, members: tuple[str, ...], forms: Mapping[str, Linear]) -> Group:
    names, place = ", ".join(members), scene.span(members[0])
    coefs = [c for f in forms.values() for c in f.coefs.values()]
    mixes = tuple(m for c in coefs for m in c.mixes)
    states = tuple(scene.states[m] for m in members)
    if mixes:
        if all(_reads_and_writes(c) for c in coefs) and len({s.dims for s in states}) == 1:
            over = _along(mixes)
            text = (
                f"{names} feed each other by factors, and what is read of them along {over} is written back along "
                f"{over}: a small matrix of factors plus low rank"
            )
            return Group(members, "BA", LOOP, False, (Reason(text, place),), certificate=DECIDED)
        text = f"{names} feed each other through linear maps that mix elements: affine, with a dense matrix"
        return Group(members, "DA", LOOP, False, (Reason(text, place),), certificate=DECIDED)
    steady = all(c.factor is not None and scene.steady(c.factor) for c in coefs)
    text = f"{names} feed each other elementwise and linearly: a {len(members)}x{len(members)} matrix per element"
    reasons = [Reason(text, place)]
    alike = len({(s.dims, s.dtype) for s in states}) == 1 and states[0].dtype.kind in (Kind.REAL, Kind.COMPLEX)
    calm = not any(f.rounded or f.cut for f in forms.values())
    if len(members) == 2 and alike and states[0].dtype.kind is Kind.REAL:
        factor = turns(forms, *members)
        if factor is not None:
            text = f"{names} are turned and scaled as the two parts of a complex number are by another one"
            monoid = rotation_monoid((states[0], states[1]), *factor, forms, scene.taken) if calm else None
            schedules = BOTH if calm else LOOP
            return Group(members, "CA", schedules, steady, (*reasons, Reason(text, place)), monoid, DECIDED)
    if not alike or not calm or len(members) > _LARGEST_BLOCK:
        return Group(members, "BA", LOOP, steady, tuple(reasons), certificate=DECIDED)
    monoid = block_monoid(states, forms, scene.taken)
    return Group(members, "BA", BOTH, steady, tuple(reasons), monoid, DECIDED)


def residue_group(scene: Scene, members: tuple[str, ...], found: Residues) -> Group:
    """The class of a group that is affine over the integers modulo a number."""
    coefs = [c for f in found.forms.values() for c in f.coefs.values()]
    text = "every update is taken modulo the same number, so it is affine over the integers modulo that number"
    reasons = (Reason(text, scene.span(members[0])),)
    if any(c.mixes for c in coefs):
        group = Group(members, "DA", LOOP, False, reasons, certificate=DECIDED)
        state = scene.states[members[0]]
        plain = len(members) == 1 and found.fits(_MOST_PRODUCTS) and not any(f.cut for f in found.forms.values())
        lifted = lift(scene.forms(members), state, NUMBERS, found.modulus) if plain else None
        if lifted is None:
            return group
        monoid = residue_monoid(matrix_monoid("DA", state, lifted, NUMBERS, scene.taken), found.modulus)
        return replace(group, schedules=BOTH, monoid=monoid)
    steady = all(c.factor is not None and scene.steady(c.factor) for c in coefs)
    cls = "EA" if len(members) == 1 else "BA"
    states = tuple(scene.states[m] for m in members)
    calm = not any(f.cut or f.cancels for f in found.forms.values()) and len({s.dims for s in states}) == 1
    loose = [n for n in found.delayed if not found.begins_as_one(scene.states[n])]
    if loose:
        text = (
            f"{loose[0]} is delayed, and may begin as something else than a remainder, which a scan would not keep; "
            "declared as an integer below that number, `int(M)`, this would be a scan"
        )
        return Group(members, cls, LOOP, steady, (*reasons, Reason(text)), certificate=DECIDED)
    if not calm or len(members) > _LARGEST_BLOCK or not found.fits(len(members)):
        return Group(members, cls, LOOP, steady, reasons, certificate=DECIDED)
    if cls == "EA":
        form = found.forms[members[0]]
        coef = form.coefs.get(members[0], Coef(None))
        if coef.factor is None:
            return Group(members, cls, LOOP, steady, reasons, certificate=DECIDED)
        monoid = affine_monoid(cls, states[0], coef.factor, form.offset, scene.taken)
    else:
        monoid = block_monoid(states, found.forms, scene.taken)
    return Group(members, cls, BOTH, steady, reasons, residue_monoid(monoid, found.modulus), DECIDED)


def segmented(group: Group, span: Span | None) -> Group:
    """A group of one of the other classes, as one that starts anew where `condition` holds."""
    text = f"where a condition of inputs holds, it starts anew from its initial value: segments of class {group.cls}"
    return replace(group, cls="SEG", reasons=(*group.reasons, Reason(text, span)))


__all__ = ["affine_group", "residue_group", "segmented"]
