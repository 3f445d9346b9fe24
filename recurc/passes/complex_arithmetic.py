"""Complex arithmetic on real and imaginary parts, as equations on real numbers.

NumPy's results are the definition: products as written, quotients by Smith's method, moduli that neither overflow nor
underflow on the way, principal branches. A part that is exactly zero is `None` and costs nothing, so a real number
times a complex one is two products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from recurc.ir import Const, Expr
from recurc.ops import add, apply, div, mul, neg, select, sub
from recurc.types import DType

Part = Expr | None  # None: exactly zero


@dataclass(frozen=True, slots=True)
class Pair:
    """A complex value."""

    re: Part
    im: Part


@dataclass(frozen=True)
class Arithmetic:
    """Operators on pairs. `keep` gives an expression that is used more than once a name where there is room for an
    equation; parts have the element type `dtype`."""

    dtype: DType
    keep: Callable[[Expr], Expr]

    def number(self, value: float) -> Const:
        return Const(float(value), self.dtype)

    def some(self, part: Part) -> Expr:
        return self.number(0.0) if part is None else part

    def kept(self, a: Pair) -> Pair:
        return Pair(*(None if part is None else self.keep(part) for part in (a.re, a.im)))

    # --- sums and products --------------------------------------------------------------------------------------------

    def neg(self, a: Pair) -> Pair:
        return Pair(_neg(a.re), _neg(a.im))

    def conj(self, a: Pair) -> Pair:
        return Pair(a.re, _neg(a.im))

    def add(self, a: Pair, b: Pair) -> Pair:
        return Pair(_add(a.re, b.re), _add(a.im, b.im))

    def sub(self, a: Pair, b: Pair) -> Pair:
        return Pair(_sub(a.re, b.re), _sub(a.im, b.im))

    def mul(self, a: Pair, b: Pair) -> Pair:
        a, b = self.kept(a), self.kept(b)
        return Pair(_sub(_mul(a.re, b.re), _mul(a.im, b.im)), _add(_mul(a.re, b.im), _mul(a.im, b.re)))

    def div(self, a: Pair, b: Pair) -> Pair:
        """Smith's method: the divisor's larger part is divided out, so that no square overflows (Smith 1962)."""
        if b.im is None:
            below = self.keep(self.some(b.re))
            return Pair(*(None if part is None else div(part, below) for part in (a.re, a.im)))
        if b.re is None:
            below = self.keep(b.im)
            return Pair(None if a.im is None else div(a.im, below), None if a.re is None else neg(div(a.re, below)))
        a, b = self.kept(a), self.kept(b)
        assert b.re is not None and b.im is not None
        wide = self.keep(apply("ge", apply("abs", b.re), apply("abs", b.im)))  # the real part is the larger one
        large = self.keep(select(wide, b.re, b.im))
        zero = apply("eq", large, self.number(0.0))
        ratio = self.keep(select(zero, self.number(0.0), div(select(wide, b.im, b.re), large)))
        small = select(wide, b.im, b.re)
        below = select(zero, apply("abs", large), add(large, mul(small, ratio)))
        scale = self.keep(div(self.number(1.0), below))
        re, im = self.some(a.re), self.some(a.im)
        real = select(wide, add(re, mul(im, ratio)), add(mul(re, ratio), im))
        imaginary = select(wide, sub(im, mul(re, ratio)), sub(mul(im, ratio), re))
        return Pair(mul(real, scale), mul(imaginary, scale))

    # --- modulus and angle --------------------------------------------------------------------------------------------

    def abs(self, a: Pair) -> Expr:
        if a.im is None or a.re is None:
            return apply("abs", self.some(a.re if a.im is None else a.im))
        large, ratio = self._by_size(a)
        length = mul(large, apply("sqrt", add(self.number(1.0), mul(ratio, ratio))))
        plain = apply("and", apply("gt", large, self.number(0.0)), apply("lt", large, self.number(math.inf)))
        return select(plain, length, large)

    def _by_size(self, a: Pair) -> tuple[Expr, Expr]:
        """The larger part without its sign, and the smaller one over it."""
        re, im = self.keep(apply("abs", self.some(a.re))), self.keep(apply("abs", self.some(a.im)))
        large = self.keep(apply("max", re, im))
        return large, self.keep(div(apply("min", re, im), large))

    def angle(self, a: Pair) -> Expr:
        return apply("atan2", self.some(a.im), self.some(a.re))

    def polar(self, length: Expr, angle: Expr) -> Pair:
        length, angle = self.keep(length), self.keep(angle)
        return Pair(mul(length, apply("cos", angle)), mul(length, apply("sin", angle)))

    # --- functions ----------------------------------------------------------------------------------------------------

    def exp(self, a: Pair) -> Pair:
        if a.im is None:
            return Pair(apply("exp", self.some(a.re)), None)
        angle = self.keep(a.im)
        if a.re is None:
            return Pair(apply("cos", angle), apply("sin", angle))
        length = self.keep(apply("exp", a.re))
        flat = apply("eq", angle, self.number(0.0))  # an infinite length stays on the real line
        return Pair(mul(length, apply("cos", angle)), select(flat, angle, mul(length, apply("sin", angle))))

    def log(self, a: Pair) -> Pair:
        a = self.kept(a)
        if a.im is None or a.re is None:
            length = apply("log", apply("abs", self.some(a.re if a.im is None else a.im)))
            return Pair(length, self.angle(a))
        large, ratio = self._by_size(a)
        rest = mul(self.number(0.5), apply("log1p", mul(ratio, ratio)))
        plain = apply("and", apply("gt", large, self.number(0.0)), apply("lt", large, self.number(math.inf)))
        return Pair(add(apply("log", large), select(plain, rest, self.number(0.0))), self.angle(a))

    def sqrt(self, a: Pair) -> Pair:
        """The root with a real part that is not negative; the larger part first, the other one from their product."""
        a = self.kept(Pair(self.some(a.re), self.some(a.im)))
        assert a.re is not None and a.im is not None
        half, zero = self.number(0.5), self.number(0.0)
        total = add(mul(half, self.abs(a)), mul(half, apply("abs", a.re)))
        large = self.keep(apply("sqrt", total))
        some = apply("gt", large, zero)
        other = self.keep(select(some, div(mul(half, a.im), large), a.im))
        below = apply("or", apply("lt", a.im, zero), apply("lt", div(self.number(1.0), a.im), zero))  # -0.0 too
        right = apply("ge", a.re, zero)
        imaginary = select(right, other, select(below, neg(large), large))
        return Pair(select(right, large, apply("abs", other)), imaginary)

    def _hyperbolic(self, x: Expr) -> tuple[Expr, Expr]:
        """cosh x and sinh x."""
        half, one = self.number(0.5), self.number(1.0)
        size = self.keep(apply("abs", x))
        grown, more = self.keep(apply("exp", size)), self.keep(apply("expm1", size))
        cosh = self.keep(mul(half, add(grown, div(one, grown))))
        sinh = mul(half, add(more, div(one, add(one, div(one, more)))))  # e - 1/e without cancellation
        sinh = self.keep(sinh)
        return cosh, select(apply("lt", x, self.number(0.0)), neg(sinh), sinh)

    def sin(self, a: Pair) -> Pair:
        if a.im is None:
            return Pair(apply("sin", self.some(a.re)), None)
        re, im = self.keep(self.some(a.re)), self.keep(a.im)
        cosh, sinh = self._hyperbolic(im)
        if a.re is None:
            return Pair(None, sinh)
        return Pair(mul(apply("sin", re), cosh), mul(apply("cos", re), sinh))

    def cos(self, a: Pair) -> Pair:
        if a.im is None:
            return Pair(apply("cos", self.some(a.re)), None)
        re, im = self.keep(self.some(a.re)), self.keep(a.im)
        cosh, sinh = self._hyperbolic(im)
        if a.re is None:
            return Pair(cosh, None)
        return Pair(mul(apply("cos", re), cosh), neg(mul(apply("sin", re), sinh)))

    def pow(self, a: Pair, b: Pair) -> Pair:
        """Small whole exponents by products, as NumPy does; others as exp(b log a)."""
        if b.im is None and isinstance(b.re, Const) and isinstance(b.re.value, int | float):
            exponent = float(b.re.value)
            if exponent.is_integer() and abs(exponent) < 100:
                return self._whole_power(a, int(exponent))
        a, b = self.kept(a), self.kept(b)
        zero = self.number(0.0)
        power = self.exp(self.mul(b, self.log(a)))
        nothing = apply("and", apply("eq", self.some(a.re), zero), apply("eq", self.some(a.im), zero))
        rises, level = apply("gt", self.some(b.re), zero), apply("eq", self.some(b.im), zero)
        nothing = self.keep(nothing)
        none = apply("and", apply("eq", self.some(b.re), zero), level)
        lost = select(apply("and", rises, level), zero, self.number(math.nan))
        at_zero = Pair(select(none, self.number(1.0), lost), select(none, zero, lost))
        return Pair(
            select(nothing, self.some(at_zero.re), self.some(power.re)),
            select(nothing, self.some(at_zero.im), self.some(power.im)),
        )

    def _whole_power(self, a: Pair, exponent: int) -> Pair:
        if exponent < 0:
            return self.div(Pair(self.number(1.0), None), self._whole_power(a, -exponent))
        result: Pair | None = None
        factor, left = self.kept(a), exponent
        while left:
            if left & 1:
                result = factor if result is None else self.mul(result, factor)
            left >>= 1
            if left:
                factor = self.kept(self.mul(factor, factor))
        return Pair(self.number(1.0), None) if result is None else result

    # --- choices and comparisons --------------------------------------------------------------------------------------

    def select(self, condition: Expr, a: Pair, b: Pair) -> Pair:
        condition = self.keep(condition)

        def chosen(one: Part, other: Part) -> Part:
            return None if one is None and other is None else select(condition, self.some(one), self.some(other))

        return Pair(chosen(a.re, b.re), chosen(a.im, b.im))

    def equal(self, a: Pair, b: Pair) -> Expr:
        return apply(
            "and", apply("eq", self.some(a.re), self.some(b.re)), apply("eq", self.some(a.im), self.some(b.im))
        )

    def truth(self, a: Pair) -> Expr:
        """Whether the number is not zero."""
        zero = self.number(0.0)
        return apply("or", apply("ne", self.some(a.re), zero), apply("ne", self.some(a.im), zero))


def _neg(a: Part) -> Part:
    return None if a is None else neg(a)


def _add(a: Part, b: Part) -> Part:
    return b if a is None else a if b is None else add(a, b)


def _sub(a: Part, b: Part) -> Part:
    return _neg(b) if a is None else a if b is None else sub(a, b)


def _mul(a: Part, b: Part) -> Part:
    if a is None or b is None:
        return None
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Const) and one.value == 1:
            return other
    return mul(a, b)
