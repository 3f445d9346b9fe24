"""Linear fractional updates, `h = (p h + q) / (r h + s)` for each element: quotients, reciprocals, continued fractions.

An abstract interpretation like that of the affine lattice: a value is free of the state, such a fraction, or neither.
Sums and products of two fractions are none, except where one of them turns out simpler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recurc.ir import Apply, Expr, Read, Reaxis
from recurc.ops import apply, convert
from recurc.passes.affine import Forms, Free, one, reorders_only, zero
from recurc.passes.sums import difference
from recurc.passes.terms import too_large
from recurc.types import DType


@dataclass(frozen=True)
class Fraction:
    """`(p h + q) / (r h + s)`; None stands for zero."""

    p: Expr | None
    q: Expr | None
    r: Expr | None
    s: Expr | None

    @property
    def is_affine(self) -> bool:
        return self.r is None

    def entries(self, dtype: DType) -> tuple[Expr, Expr, Expr, Expr]:
        p, q, r, s = (zero(dtype) if e is None else convert(e, dtype) for e in (self.p, self.q, self.r, self.s))
        return p, q, r, s


Value = Free | Fraction | None  # None: no such form


def fractional(forms: Forms, state: str) -> Fraction | None:
    """The form of `state`'s equation in its own old value, if it is linear fractional and not affine."""
    found = _Interpreter(forms, state).equation(state)
    return found if isinstance(found, Fraction) and not found.is_affine else None


class _Interpreter:
    def __init__(self, forms: Forms, state: str) -> None:
        self._forms, self._state = forms, state
        self._equations = {e.name: e for e in forms.rec.equations}
        self._memo: dict[str, Value] = {}

    def equation(self, name: str) -> Value:
        for needed in self._forms.behind(name, self._memo):
            value = self.value(self._equations[needed].expr)
            if isinstance(value, Fraction) and any(e is not None and too_large(e) for e in _entries(value)):
                value = None
            self._memo[needed] = value
        return self._memo[name]

    def value(self, expr: Expr) -> Value:
        if isinstance(self._forms.form(expr), Free):
            return Free(expr)
        match expr:
            case Read(name=name, lag=lag):
                if name == self._state and lag:
                    return Fraction(one(expr.dtype), None, None, one(expr.dtype))
                return self.equation(name)
            case Apply(op=op, args=args):
                return self._apply(op, [self.value(a) for a in args], expr.dtype)
            case Reaxis() if reorders_only(expr):
                return self.value(expr.arg)
            case _:
                return None

    def _apply(self, op: str, args: Sequence[Value], dtype: DType) -> Value:
        match op, args:
            case "neg", [Fraction() as f]:
                return Fraction(_neg(f.p), _neg(f.q), f.r, f.s)
            case "cast", [Fraction() as f] if dtype.is_generic or dtype is DType.F64:
                return f
            case (("add" | "sub"), [left, right]) if left is not None and right is not None:
                return self._sum(op, left, right, dtype)
            case "mul", [Fraction() as f, Fraction() as g] if (f.p is None and g.is_affine) or (
                g.p is None and f.is_affine
            ):
                f, g = (f, g) if g.is_affine else (g, f)  # q / (r h + s) times an affine value
                return Fraction(_mul(f.q, g.p), _mul(f.q, g.q), _mul(f.r, g.s), _mul(f.s, g.s))
            case "mul", [Fraction() as f, Free(expr=c)] | [Free(expr=c), Fraction() as f]:
                return Fraction(_mul(f.p, c), _mul(f.q, c), f.r, f.s)
            case "div", [Fraction() as f, Free(expr=c)]:
                return Fraction(f.p, f.q, _mul(f.r, c), _mul(f.s, c))
            case "div", [Free(expr=c), Fraction() as f]:
                return Fraction(_mul(f.r, c), _mul(f.s, c), f.p, f.q)
            case "div", [Fraction() as f, Fraction() as g] if f.is_affine and g.is_affine:
                return Fraction(_mul(f.p, g.s), _mul(f.q, g.s), _mul(g.p, f.s), _mul(g.q, f.s))
            case "select", [Free(expr=c), Fraction() as f, Fraction() as g]:
                p, q, r, s = (_choice(c, a, b, dtype) for a, b in zip(_entries(f), _entries(g), strict=True))
                return Fraction(p, q, r, s)
            case _:
                return None

    def _sum(self, op: str, left: Free | Fraction, right: Free | Fraction, dtype: DType) -> Fraction | None:
        """f + g = (fn gd + gn fd) / (fd gd), a fraction of this kind where one denominator reads no state."""
        f, g = _fraction(left, dtype), _fraction(right, dtype)
        if op == "sub":
            g = Fraction(_neg(g.p), _neg(g.q), g.r, g.s)
        add = self._add
        if f.is_affine and g.is_affine:
            p, q = add(_mul(f.p, g.s), _mul(g.p, f.s)), add(_mul(f.q, g.s), _mul(g.q, f.s))
            return Fraction(p, q, None, _mul(f.s, g.s))
        if not f.is_affine:
            f, g = g, f
        if not f.is_affine or f.p is not None:
            return None
        # c + g, with c free
        c, d = f.q, f.s
        p, q = add(_mul(g.p, d), _mul(g.r, c)), add(_mul(g.q, d), _mul(g.s, c))
        return Fraction(p, q, _mul(g.r, d), _mul(g.s, d))

    def _add(self, a: Expr | None, b: Expr | None) -> Expr | None:
        """a + b; what cancels is taken out, so that a degree which is only apparent is not counted."""
        if a is None or b is None:
            return b if a is None else a
        for first, second in ((a, b), (b, a)):
            if isinstance(second, Apply) and second.op == "neg":
                cancels, rest = difference(first, second.args[0], self._forms.spelled)
                return rest if cancels else apply("sub", first, second.args[0])
        return apply("add", a, b)


def _entries(f: Fraction) -> tuple[Expr | None, ...]:
    return f.p, f.q, f.r, f.s


def _fraction(value: Free | Fraction, dtype: DType) -> Fraction:
    return Fraction(None, value.expr, None, one(dtype)) if isinstance(value, Free) else value


def _neg(a: Expr | None) -> Expr | None:
    return None if a is None else apply("neg", a)


def _is_one(a: Expr) -> bool:
    return a == one(a.dtype)


def _mul(a: Expr | None, b: Expr | None) -> Expr | None:
    if a is None or b is None:
        return None
    return b if _is_one(a) else a if _is_one(b) else apply("mul", a, b)


def _choice(condition: Expr, a: Expr | None, b: Expr | None, dtype: DType) -> Expr | None:
    if a is None and b is None:
        return None
    return apply("select", condition, zero(dtype) if a is None else a, zero(dtype) if b is None else b)
