"""States that are held for a chunk of steps (class CF): `every C: F = M[t-1]`, which test-time training reads.

Within a chunk the held states are known values. What the other states do then may be far simpler than the whole: a
gradient at F is a constant where the one at M[t-1] is not.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.ir import Apply, Const, Expr, Input, Read, Recurrence, Size, Step
from recurc.passes.affine import Forms


def thawed(forms: Forms, members: tuple[str, ...]) -> tuple[tuple[str, ...], Recurrence] | None:
    """The held states among `members` and the recurrence in which they are inputs; None if there are none, or no
    others."""
    held = tuple(m for m in members if _is_held(forms, m))
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


def _is_held(forms: Forms, state: str) -> bool:
    """Whether `state` changes at every C-th step only."""
    match forms.resolved(forms.equation(state)):
        case Apply(op="select", args=(condition, _, Read(name=name, lag=1))) if name == state:
            return _is_clock(forms, condition)
        case _:
            return False


def _is_clock(forms: Forms, condition: Expr) -> bool:
    match forms.spelled(condition):
        case Apply(op="eq", args=(place, Const())):
            match forms.spelled(place):
                case Apply(op="mod", args=(Step(), Const() | Size())):
                    return True
                case _:
                    return False
        case _:
            return False
