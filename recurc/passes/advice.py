"""What would make a recurrence parallel, where that is plain to see: gates that read inputs instead of the state."""

from __future__ import annotations

from recurc.facts import Reason
from recurc.ir import Apply
from recurc.ops import OPS, Affine
from recurc.passes.affine import Form, Forms, Free, Linear, shown
from recurc.passes.decayed import Unsigned, decayed
from recurc.passes.scene import Scene


def advice(scene: Scene, members: tuple[str, ...], forms: Forms) -> Reason | None:
    """A sentence on the smallest change that would give the group a scan, if one is known."""
    if len(members) == 1:
        found = decayed(forms, members[0])
        if isinstance(found, Unsigned):
            text = f"{found.text}; with `abs` or `exp` of that value this would be a scan"
            return Reason(text, found.span)
    freed = _Freed(scene.rec, scene.dep, frozenset(members))
    made = {m: freed.of_equation(m) for m in members}
    linear = [f for f in made.values() if isinstance(f, Linear)]
    if not linear or any(not isinstance(f, Linear | Free) for f in made.values()):
        return None
    if any(c.mixes or f.rounded or f.cancels for f in linear for c in f.coefs.values()) or not freed.functions:
        return None
    names = ", ".join(dict.fromkeys(f"`{f.op}`" for f in freed.functions))
    states = " and ".join(f"`{shown(m)}`" for m in members)
    verb = "reads" if len(dict.fromkeys(f.op for f in freed.functions)) == 1 else "read"
    text = (
        f"outside {names} the update is affine: if what {names} {verb} came from the inputs instead of {states}, as in "
        "the gates of minGRU, this would be a scan"
    )
    return Reason(text, freed.functions[0].span)


class _Freed(Forms):
    """The forms of a group if its nonlinear functions read something else than its states."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.functions: list[Apply] = []

    def apply_rule(self, node: Apply, forms: list[Form]) -> Form:
        if OPS[node.op].affine is Affine.NONE:
            self.functions.append(node)
            return Free(node)
        return super().apply_rule(node, forms)
