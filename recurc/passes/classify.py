"""Classification: every group of states gets a class, the schedules legal for it, and the reasons in words.

The order of the tests is that of certainty: no feedback; affine over + and *; the other forms that compose; else
nonlinear, by the sparsity of the Jacobian. A test that is unsure says no: the fallback, a loop over time, is always
right. Thresholds and roundings of the state are refused before anything asks for a derivative or a degree.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.facts import Analysis, Group, Reason
from recurc.ir import Read, Recurrence
from recurc.passes.affine import Forms, Free, Linear, Nonlinear
from recurc.passes.affine_rules import affine_group, residue_group, segmented
from recurc.passes.dependence import dependence
from recurc.passes.filters import filter_group, filters
from recurc.passes.frozen import thawed
from recurc.passes.lifted_rules import RULES
from recurc.passes.monoid import segmented_monoid, softmax_monoid
from recurc.passes.nonlinear_rules import frozen_group, nonlinear_group
from recurc.passes.residues import residues
from recurc.passes.scene import BOTH, BY_STRUCTURE, DECIDED, LOOP, Scene
from recurc.passes.segments import Segments, segments
from recurc.passes.sliding import slides_along
from recurc.passes.softmax import accumulators
from recurc.passes.stabilize import is_top


def classify(rec: Recurrence) -> Analysis:
    """The analysis of a recurrence in core form, with syntactic certificates."""
    scene = Scene(rec, dependence(rec))
    declared = {s: f for f in filters(rec, scene.dep) for s in f.states}
    groups = [Group(m, "KF", LOOP) if m[0] in declared else _group(scene, m) for m in scene.dep.groups]
    for found in dict.fromkeys(declared.values()):
        groups = _joined(scene, groups, filter_group(scene, found))
    whole = tuple(_fused(scene, groups))
    triangular = any(scene.dep.on_states[s] - set(g.states) for g in whole for s in g.states)
    return Analysis(whole, scene.dep.hoisted, scene.dep.sunk, triangular)


def _group(scene: Scene, members: tuple[str, ...]) -> Group:
    if len(members) > 1:
        return _several(scene, members)
    name = next(iter(members))
    if name not in scene.dep.feedback:
        reason = Reason(f"{name} does not read its own past: it only delays a known sequence", scene.span(name))
        delay = isinstance(scene.equations[name].expr, Read)
        return Group(members, "SH", LOOP, delay, (reason,), certificate=DECIDED)
    forms = scene.forms(members)
    dim = slides_along(forms, name)
    if dim is not None:
        text = f"{name} holds the last values of a known sequence, which move on by one place along {dim} at every step"
        return Group(members, "SH", LOOP, True, (Reason(text, scene.span(name)),), certificate=BY_STRUCTURE)
    resets = segments(forms, name)
    found = _restarting(scene, name, forms, resets) if resets else None
    return found or _single(scene, name, forms) or nonlinear_group(scene, members, forms, _why(forms, members))


def _why(forms: Forms, members: tuple[str, ...]) -> Nonlinear:
    return next(f for f in (forms.of_equation(m) for m in members) if isinstance(f, Nonlinear))


def _affine(forms: Forms, members: tuple[str, ...]) -> dict[str, Linear] | None:
    """The forms of the members if all are affine."""
    found = {name: forms.of_equation(name) for name in members}
    if any(isinstance(f, Nonlinear) for f in found.values()):
        return None
    return {
        n: f if isinstance(f, Linear) else Linear({}, f.expr if isinstance(f, Free) else None) for n, f in found.items()
    }


def _single(scene: Scene, name: str, forms: Forms) -> Group | None:
    """The class of a group of one state, if it is none of the nonlinear ones."""
    linear = _affine(forms, (name,))
    if linear is not None:
        return affine_group(scene, (name,), linear)
    for rule in RULES:
        found = rule(scene, name, forms)
        if found is not None:
            return found
    modulo = residues(forms, (name,), scene.steady)
    return residue_group(scene, (name,), modulo) if modulo else None


def _several(scene: Scene, members: tuple[str, ...]) -> Group:
    forms = scene.forms(members)
    linear = _affine(forms, members)
    if linear is not None and not any(c.mixes for f in linear.values() for c in f.coefs.values()):
        return affine_group(scene, members, linear)
    chunk = thawed(forms, members)
    if chunk is not None:
        held, rest = chunk
        inside = [g for g in classify(rest).groups if set(g.states) & set(members)]
        found = frozen_group(scene, members, forms, held, inside)
        if found is not None:
            return found
    if linear is not None:
        return affine_group(scene, members, linear)
    modulo = residues(forms, members, scene.steady)
    return (
        residue_group(scene, members, modulo)
        if modulo
        else nonlinear_group(scene, members, forms, _why(forms, members))
    )


def _restarting(scene: Scene, name: str, forms: Forms, resets: Segments) -> Group | None:
    """SEG of whatever the state is without its resets."""
    inner = _single(scene, name, resets.forms)
    scene.tropical.pop(name, None)
    if inner is None:
        return None
    whole = _affine(forms, (name,))
    if whole is not None and inner.monoid is not None:
        inner = affine_group(scene, (name,), whole)  # a factor of zero says where it starts anew
    elif inner.monoid is not None:
        state = scene.states[name]
        inner = replace(inner, monoid=segmented_monoid(inner.monoid, (state,), resets.condition, scene.taken))
    group = segmented(inner, resets.condition.span)
    return replace(group, linear_time_invariant=False)


# --- several groups ---------------------------------------------------------------------------------------------------


def _fused(scene: Scene, groups: list[Group]) -> list[Group]:
    """Max-stabilised accumulators become one group with their running maximum."""
    for group in list(groups):
        top = group.states[0]
        form = scene.tropical.get(top)
        if form is None or form.join != "max" or form.offset is None or len(group.states) > 1:
            continue
        later = {n: f for n, f in scene.affine.items() if n != top and not f.cut}
        found = accumulators(scene.rec, scene.dep, top, form.shift, form.offset, later)
        if found is None:
            continue
        members = (top, *found.values)
        names = ", ".join(found.values)
        text = f"{names}: sums of weighted terms, kept in range by exp of how much {top} grows"
        if is_top(top):
            text += f"; the source has no {top}: it reads them as ratios only, so they may be kept in range"
        reasons = (*group.reasons, Reason(text, scene.span(members[1])))
        monoid = softmax_monoid(scene.states, found, scene.taken)
        joint = Group(members, "OS", BOTH, False, reasons, monoid, DECIDED)
        groups = _joined(scene, groups, joint)
    return groups


def _joined(scene: Scene, groups: list[Group], joint: Group) -> list[Group]:
    """`groups` with the members of `joint` taken together, in an order in which each reads only earlier ones."""
    rest = [g for g in groups if not set(g.states) & set(joint.states)]
    todo, ordered = [joint, *rest], list[Group]()
    home = {s: g.states for g in todo for s in g.states}
    rank = {g.states: min(i for i, old in enumerate(groups) if set(old.states) & set(g.states)) for g in todo}
    todo.sort(key=lambda g: rank[g.states])
    placed: set[tuple[str, ...]] = set()
    while todo:
        for group in todo:
            needs = {home[j] for s in group.states for j in scene.dep.on_states[s]} - {group.states}
            if needs <= placed:
                break
        else:
            raise AssertionError("the fused groups form a cycle")
        todo.remove(group)
        placed.add(group.states)
        ordered.append(group)
    return ordered
