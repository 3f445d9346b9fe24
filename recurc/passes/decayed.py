"""Maxima and minima whose memory fades, `h = max(a * h[t-1], b)` with a >= 0: linear over (max, *).

A factor below zero would turn the order around (`max` becomes `min`), so it must be known not to be: by the ranges of
operators (`abs`, `exp`, `sigmoid`, squares, ...), not by what a param usually holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from recurc.ir import Apply, Expr, Read, Reaxis
from recurc.ops import apply
from recurc.passes.affine import Forms, Free, is_number, one, reorders_only, shown
from recurc.passes.ranges import nonnegative
from recurc.passes.terms import too_large
from recurc.source import Span


@dataclass(frozen=True)
class Decayed:
    """`join(factor * h, offset)`; without a join, the product alone."""

    join: str | None
    factor: Expr
    offset: Expr | None


@dataclass(frozen=True)
class Unsigned:
    """Where a factor stands that may be negative, and by what `cure` the update would be of this kind."""

    text: str
    span: Span | None
    cure: str


Value = Free | Decayed | Unsigned | None


def decayed(forms: Forms, state: str) -> Decayed | Unsigned | None:
    """The form of `state`'s update, if it joins a multiple of the old value with free ones."""
    found = _Interpreter(forms, state).equation(state)
    if isinstance(found, Decayed) and (found.join is None or found.offset is None):
        return None
    return None if isinstance(found, Free) else found


class _Interpreter:
    def __init__(self, forms: Forms, state: str) -> None:
        self._forms, self._state = forms, state
        self._equations = {e.name: e.expr for e in forms.rec.equations}
        self._memo: dict[str, Value] = {}

    def equation(self, name: str) -> Value:
        for needed in self._forms.behind(name, self._memo):
            value = self.value(self._equations[needed])
            if isinstance(value, Decayed) and any(e and too_large(e) for e in (value.factor, value.offset)):
                value = None
            self._memo[needed] = value
        return self._memo[name]

    def value(self, expr: Expr) -> Value:
        if isinstance(self._forms.form(expr), Free):
            return Free(expr)
        match expr:
            case Read(name=name, lag=lag):
                if name == self._state and lag:
                    return Decayed(None, one(expr.dtype), None)
                return None if lag else self.equation(name)
            case Apply(op="mul" | "div" | "max" | "min" | "neg"):
                return self._applied(expr)
            case Reaxis(arg=arg) if reorders_only(expr):
                return self.value(arg)
            case _:
                return None

    def _applied(self, node: Apply) -> Value:
        args = [self.value(a) for a in node.args]
        unsigned = next((a for a in args if isinstance(a, Unsigned)), None)
        match node.op, args:
            case "mul", [Decayed() as d, Free(expr=c)] | [Free(expr=c), Decayed() as d]:
                return self._scaled(d, "mul", c, node.span)
            case "div", [Decayed() as d, Free(expr=c)]:
                return self._scaled(d, "div", c, node.span)
            case ("max" | "min") as op, [Decayed() as d, Free(expr=c)] | [Free(expr=c), Decayed() as d]:
                if d.join not in (None, op):
                    return None
                return Decayed(op, d.factor, c if d.offset is None else apply(op, d.offset, c))
            case (("mul" | "max" | "min"), [Unsigned(), Free()] | [Free(), Unsigned()]):
                return unsigned
            case "div", [Unsigned(), Free()]:
                return unsigned
            case "neg", [Decayed()]:
                text = f"{shown(self._state)} is negated, where a maximum and a minimum change places"
                return Unsigned(text, node.span, "without the sign")
            case _:
                return None

    def _scaled(self, d: Decayed, op: str, by: Expr, span: Span | None) -> Value:
        if not nonnegative(by, self._equations):
            return Unsigned(
                f"{shown(self._state)} is multiplied by a value that may be negative, where a maximum and a minimum "
                "change places",
                span,
                "with `abs` or `exp` of that value",
            )
        factor = by if op == "mul" and is_number(d.factor, 1) else apply(op, d.factor, by)
        return Decayed(d.join, factor, None if d.offset is None else apply(op, d.offset, by))
