"""Updates in integers modulo a number that never changes: linear generators, Fibonacci numbers, registers of bits.

Sums and products of remainders are remainders of sums and products, so every `% m` inside an update that ends in `% m`
can be left out: what remains is affine over the integers modulo m, or it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from recurc.ir import Apply, Const, Expr, Read, Recurrence, State, rewrite, walk
from recurc.passes.affine import Forms, Free, Linear
from recurc.passes.tables import begins_below
from recurc.types import DType, Kind, literal_size


@dataclass(frozen=True)
class Residues:
    """The modulus and the form of each member without remainders."""

    modulus: Expr
    forms: Mapping[str, Linear]
    delayed: tuple[str, ...]  # members that others only delay: what those hold at first need not be a remainder

    def fits(self, products: int) -> bool:
        """Whether a sum of so many products of remainders, and one more remainder, is below 2^63."""
        m = self.modulus.value if isinstance(self.modulus, Const) else None
        return isinstance(m, int) and products * (m - 1) ** 2 + (m - 1) < 1 << 63

    def begins_as_one(self, state: State) -> bool:
        """Whether the first value of `state` is surely a remainder: one that is declared below it, as calls check."""
        m = self.modulus.value if isinstance(self.modulus, Const) else None
        bound = literal_size(state.bound or "")
        return bound is not None and bound == m and begins_below(state)


def residues(forms: Forms, members: tuple[str, ...], steady: Callable[[Expr], bool]) -> Residues | None:
    """The affine forms of `members` over the integers modulo m, if each is taken modulo the same m (or only delays
    another member)."""
    states = {s.name: s for s in forms.rec.states}
    if any(states[m].dtype is not DType.I64 for m in members):
        return None
    modulus: Expr | None = None
    delayed: list[str] = []
    for member in members:
        whole = forms.resolved(forms.equation(member))
        if isinstance(whole, Read) and whole.lag and whole.name in members:
            delayed.append(whole.name)
            continue
        if not (isinstance(whole, Apply) and whole.op == "mod") or modulus not in (None, whole.args[1]):
            return None
        modulus = whole.args[1]
    if modulus is None or not steady(modulus) or not _positive(modulus):
        return None
    needed = {n for m in members for n in forms.behind(m, ())}
    for name in needed:
        for node in walk(forms.equation(name)):
            if node.dtype.kind is not Kind.INT and not isinstance(forms.form(node), Free):
                return None

    def stripped(node: Expr) -> Expr:
        if isinstance(node, Apply) and node.op == "mod" and node.args[1] == modulus:
            return node.args[0]
        return node

    plain: Recurrence = replace(
        forms.rec,
        equations=tuple(
            replace(e, expr=rewrite(e.expr, stripped)) if e.name in needed else e for e in forms.rec.equations
        ),
    )
    bare = Forms(plain, forms.dep, forms.group)
    found = {m: bare.of_equation(m) for m in members}
    linear = {m: f for m, f in found.items() if isinstance(f, Linear)}
    return Residues(modulus, linear, tuple(delayed)) if len(linear) == len(found) else None


def _positive(modulus: Expr) -> bool:
    return not isinstance(modulus, Const) or (isinstance(modulus.value, int) and modulus.value > 0)
