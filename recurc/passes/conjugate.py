"""Affine maps in disguise: `h = p(a * q(h[t-1]) + b)` where q undoes p, so that q(h) is affine (class AM).

p        q          for example
sqrt     square     h = sqrt(a h^2 + x^2), a norm that fades
root     power      h = (a h^p + |x|^p)^(1/p)
log      exp        h = log(a exp(h) + b)
exp      log        h = exp(a log(h) + b), a geometric mean
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recurc.ir import Apply, Const, Expr, Read, reads, rewrite
from recurc.ops import apply
from recurc.passes.affine import Coef, Forms, Linear, zero

_HELD = "@within"  # stands for q(h[t-1]) while the rest is looked at; no name of a source has an @


@dataclass(frozen=True)
class Conjugate:
    """`h = outer(factor * inner(h) + offset)`, with `outer` and `inner` as operators on an expression."""

    outer: Apply  # around any argument
    inner: Expr  # of the state's old value
    factor: Expr
    offset: Expr
    keeps_signs: bool  # whether inner(h) may be negative, where outer is not defined

    def outside(self, value: Expr) -> Expr:
        return replace(self.outer, args=(value, *self.outer.args[1:]), dims=value.dims)

    def undone(self, value: Expr) -> Expr:
        """The state that `inner` makes `value` of, also of one that no step makes but a state may begin with."""
        if not self.keeps_signs:
            return self.outside(value)
        turned = apply("neg", self.outside(apply("neg", value)))
        return apply("select", apply("lt", value, zero(value.dtype)), turned, self.outside(value))


def conjugate(forms: Forms, state: str) -> Conjugate | None:
    """The disguise of `state`'s update, if taking it off leaves an update that is affine, element by element."""
    whole = forms.resolved(forms.equation(state))
    if not isinstance(whole, Apply):
        return None
    old = next(s for s in forms.rec.states if s.name == state)
    value = Read(state, 1, old.dims, old.dtype)
    for inner in _inverses(whole, value):
        held = Read(_HELD, 0, old.dims, old.dtype)

        def covered(node: Expr, inner: Expr = inner, held: Read = held) -> Expr:
            return held if node == inner else node

        rest = [replace(e, expr=rewrite(e.expr, covered)) for e in forms.rec.equations]
        needed = {state, *forms.behind(state, ())}
        if any(r.name == state and r.lag for e in rest if e.name in needed for r in reads(e.expr)):
            continue  # the state is read otherwise too

        def bare(node: Expr) -> Expr:
            return value if isinstance(node, Read) and node.name == _HELD else node

        equations = tuple(replace(e, expr=rewrite(e.expr, bare)) for e in rest)
        form = Forms(replace(forms.rec, equations=equations), forms.dep, forms.group).form(
            rewrite(rewrite(whole.args[0], covered), bare)
        )
        if not isinstance(form, Linear) or form.rounded or form.cut or form.cancels or set(form.coefs) != {state}:
            continue
        coef: Coef = form.coefs[state]
        if coef.factor is None or coef.mixes:
            continue
        odd = whole.op == "pow" and round(1 / _exponent(whole)) % 2 == 1
        return Conjugate(whole, inner, coef.factor, form.offset or zero(old.dtype), odd)
    return None


def _exponent(node: Apply) -> float:
    power = node.args[1]
    return float(power.value.real) if isinstance(power, Const) else float("nan")


def _inverses(outer: Apply, value: Read) -> list[Expr]:
    """The spellings of what undoes `outer`, of the state's old value."""
    square = apply("mul", value, value)
    match outer.op:
        case "sqrt":
            return [square]
        case "log":
            return [apply("exp", value)]
        case "exp":
            return [apply("log", value)]
        case "pow" if 0 < _exponent(outer) < 1:
            power = 1 / _exponent(outer)
            whole = round(power)
            found: list[Expr] = [apply("pow", value, Const(power, value.dtype))]
            if abs(power - whole) < 1e-9 * power:
                known = {2: square, 3: apply("mul", square, value), 4: apply("mul", square, square)}
                found = [known[whole]] if whole in known else [apply("pow", value, Const(float(whole), value.dtype))]
            return found
        case _:
            return []
