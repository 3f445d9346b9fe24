"""Updates that are linear over (max, +), (min, +) or (logaddexp, +): `h = max(h[t-1] + a, b)` and its kin.

The value of an expression is `join(h + shift, offset)` where `join` is max, min or logaddexp; a running maximum has no
shift. `max(-h, x)` is not monotone and `max(a * h, x)` distributes only for a >= 0, so both are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recurc.ir import Apply, Const, Expr, Read, Reaxis
from recurc.ops import apply, number
from recurc.passes.affine import Forms, Free, Nonlinear, reorders_only, shown
from recurc.passes.terms import too_large
from recurc.types import DType, extreme

_PICKS = {"gt": "max", "ge": "max", "lt": "min", "le": "min"}


def bottom(join: str, dtype: DType) -> float:
    """What a join leaves its other operand as it is with."""
    return extreme(dtype, join == "min")


@dataclass(frozen=True)
class Tropical:
    """`join(h + shift, offset)`; `join` is None while no max, min or logaddexp has been met."""

    join: str | None
    shift: Expr | None
    offset: Expr | None
    by_choice: bool = False  # written as `if a > b then a else b`


@dataclass(frozen=True)
class Clamped:
    """`min(max(h + shift, low), high)`: what adding free values, max and min make of each other (class CL). Where low
    is above high, high counts."""

    shift: Expr
    low: Expr
    high: Expr

    def moved(self, op: str, by: Expr) -> Clamped:
        """This value plus (`add`) or minus (`sub`) a free one."""
        return Clamped(apply(op, self.shift, by), apply(op, self.low, by), apply(op, self.high, by))

    def joined(self, op: str, other: Expr) -> Clamped:
        """`max` or `min` of this value and a free one (max and min distribute over each other)."""
        if op == "min":
            return Clamped(self.shift, self.low, apply("min", self.high, other))
        return Clamped(self.shift, apply("max", self.low, other), apply("max", self.high, other))


def clamped(value: Tropical) -> Clamped:
    """A `max` or `min` form as a clamp that is open on one side."""
    shift = value.shift or number(0.0)
    low, high = number(-math.inf), number(math.inf)
    if value.offset is None:
        return Clamped(shift, low, high)
    return Clamped(shift, value.offset, high) if value.join == "max" else Clamped(shift, low, value.offset)


Value = Free | Tropical | Clamped | Nonlinear


def tropical(forms: Forms, state: str) -> Value:
    """The form of `state`'s equation in its own old value."""
    return _Interpreter(forms, state).equation(state)


class _Interpreter:
    def __init__(self, forms: Forms, state: str) -> None:
        self._forms, self._state = forms, state
        self._equations = {e.name: e for e in forms.rec.equations}
        self._memo: dict[str, Value] = {}

    def equation(self, name: str) -> Value:
        for needed in self._forms.behind(name, self._memo):
            value = self.value(self._equations[needed].expr)
            parts = (value.shift, value.offset) if isinstance(value, Tropical) else ()
            if any(too_large(p) for p in parts if p is not None):
                value = Nonlinear(
                    f"the coefficients of {needed} are too large to write out", self._equations[needed].span
                )
            self._memo[needed] = value
        return self._memo[name]

    def value(self, expr: Expr) -> Value:
        match expr:
            case Read(name=name, lag=lag):
                if name == self._state and lag:
                    return Tropical(None, None, None)
                return Free(expr) if self._forms.is_free(name) else self.equation(name)
            case Apply(op="select"):
                return self._choice(expr)
            case Apply():
                args = [self.value(a) for a in expr.args]
                return Free(expr) if all(isinstance(a, Free) for a in args) else self._apply(expr, args)
            case Reaxis() if reorders_only(expr):
                inner = self.value(expr.arg)
                return Free(expr) if isinstance(inner, Free) else inner
            case _:
                if isinstance(self._forms.form(expr), Free):
                    return Free(expr)
                return self._refused(expr, type(expr).__name__.lower())

    def _refused(self, node: Expr, what: str) -> Nonlinear:
        return Nonlinear(
            f"`{shown(self._state)}` reaches `{what}`, which is not linear over max, min or logaddexp", node.span
        )

    def _apply(self, node: Apply, args: list[Value]) -> Value:
        for value in args:
            if isinstance(value, Nonlinear):
                return value
        match node.op, args:
            case "add", [Clamped() as clamp, Free(expr=c)] | [Free(expr=c), Clamped() as clamp]:
                return clamp.moved("add", c)
            case "sub", [Clamped() as clamp, Free(expr=c)]:
                return clamp.moved("sub", c)
            case (("max" | "min"), [Clamped() as clamp, Free(expr=c)] | [Free(expr=c), Clamped() as clamp]):
                return clamp.joined(node.op, c)
            case "add", [Tropical() as t, Free(expr=c)] | [Free(expr=c), Tropical() as t]:
                return self._shifted(t, "add", c)
            case "sub", [Tropical() as t, Free(expr=c)]:
                return self._shifted(t, "sub", c)
            case (("max" | "min" | "logaddexp"), [left, right]):
                return self._join(node, node.op, left, right)
            case _:
                return self._refused(node, node.op)

    def _shifted(self, t: Tropical, op: str, c: Expr) -> Tropical:
        shift = apply(op, t.shift, c) if t.shift is not None else (c if op == "add" else apply("neg", c))
        return Tropical(t.join, shift, None if t.offset is None else apply(op, t.offset, c), t.by_choice)

    def _join(self, node: Apply, op: str, left: Value, right: Value, by_choice: bool = False) -> Value:
        one, two = _as_tropical(left), _as_tropical(right)
        if one is None or two is None:
            return self._refused(node, op)
        free = [isinstance(v, Free) for v in (left, right)]
        if any(t.join not in (None, op) for t in (one, two)):
            if op not in ("max", "min") or "logaddexp" in (one.join, two.join) or not any(free):
                return self._refused(node, op)
            inner, outer = (two, one) if free[0] else (one, two)
            assert outer.offset is not None
            return clamped(inner).joined(op, outer.offset)
        offsets = [t.offset for t in (one, two) if t.offset is not None]
        offset = offsets[0] if len(offsets) == 1 else (apply(op, *offsets) if offsets else None)
        if any(free):
            shift = two.shift if free[0] else one.shift
        elif one.shift is None and two.shift is None and op != "logaddexp":
            shift = None
        else:
            zero = number(0.0)
            shift = apply(op, one.shift or zero, two.shift or zero)
        return Tropical(op, shift, offset, by_choice or one.by_choice or two.by_choice)

    def _choice(self, node: Apply) -> Value:
        condition, yes, no = node.args
        a, b = self.value(yes), self.value(no)
        free = isinstance(self._forms.form(condition), Free)
        if free and isinstance(a, Free) and isinstance(b, Free):
            return Free(node)
        for value in (a, b):
            if isinstance(value, Nonlinear):
                return value
        if free:
            return self._branches(node, condition, a, b)
        match condition:
            case Apply(op=op, args=args) if op in _PICKS and args == (yes, no):
                return self._join(node, _PICKS[op], a, b, by_choice=True)
            case Apply(op=op, args=args) if op in _PICKS and args == (no, yes):
                return self._join(node, {"max": "min", "min": "max"}[_PICKS[op]], a, b, by_choice=True)
            case _:
                return self._refused(node, "select")

    def _branches(self, node: Apply, condition: Expr, a: Value, b: Value) -> Value:
        """A choice the state has no part in: of shifts and of offsets. A branch that drops the state is refused."""
        if not (isinstance(a, Tropical) and isinstance(b, Tropical)) or len({a.join, b.join} - {None}) != 1:
            return self._refused(node, "select")
        join = a.join or b.join
        assert join is not None
        shift = offset = None
        if a.shift is not None or b.shift is not None:
            shift = apply("select", condition, a.shift or number(0.0), b.shift or number(0.0), span=node.span)
        if a.offset is not None or b.offset is not None:
            none = Const(bottom(join, node.dtype), node.dtype)
            offset = apply("select", condition, a.offset or none, b.offset or none, span=node.span)
        return Tropical(join, shift, offset, a.by_choice or b.by_choice)


def _as_tropical(value: Value) -> Tropical | None:
    if isinstance(value, Free):
        return Tropical(None, None, value.expr)
    return value if isinstance(value, Tropical) else None
