"""The associative operator each class lifts to, as `facts.Monoid`.

EA, CA   h = a h + b                (a, b)        (a2 a1, a2 b1 + b2)                 Blelloch 1990
ID       h = max(h, x)              x             max(x1, x2)
SL       h = max(h + a, b)          (a, b)        (a1 + a2, max(b1 + a2, b2))         also min and logaddexp
CL       h = clamp(h + a, l, u)     (a, l, u)     (a1 + a2, max(l1 + a2, l2), min(max(u1 + a2, l2), u2))
OS       max-stabilised sums        (g, m, u..)   m = max(m1 + g2, m2), each part rescaled to m
MB       h = (p h + q) / (r h + s)  (p, q, r, s)  the product of 2x2 matrices, up to scale
BA       several h, each affine     (A, b)        (A2 A1, A2 b1 + b2), a small matrix for every element
CA       the same as a rotation     (c, s, u, v)  the product of complex numbers, by parts
AM       h = (h + a) mod m          a             (a1 + a2) mod m
         h = p(a q(h) + b)          (a, b)        that of EA, where q undoes p
SL       h = max(a h, b), a >= 0    (a, b)        (a2 a1, max(a2 b1, b2))
SEG      any of these with resets   (f, e)        e2 where f2 holds, else that of e1 and e2

Over the integers modulo m, EA and BA take every sum of products modulo m.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from recurc.facts import Component, Monoid
from recurc.ir import Const, Expr, Read, State, reads, rewrite
from recurc.ops import apply, convert, number
from recurc.passes.affine import Coef, Linear, one, zero
from recurc.passes.canonicalize import simplified
from recurc.passes.conjugate import Conjugate
from recurc.passes.decayed import Decayed
from recurc.passes.semiring import Clamped, Tropical, bottom
from recurc.passes.softmax import Accumulators
from recurc.passes.terms import fresh
from recurc.types import Dims, DType


def _in_order(dims: Dims, state: Dims) -> Dims:
    """`dims` in the state's order (a component may lack dims its state has; it is the same along those)."""
    return dims if len(set(state)) < len(state) else tuple(d for d in state if d in dims)


def _one_two(component: Component) -> tuple[Read, Read]:
    one, two = (Read(f"{i}.{component.name}", 0, component.dims, component.dtype) for i in (1, 2))
    return one, two


def affine_monoid(cls: str, state: State, a: Expr, b: Expr | None, taken: set[str], cut: bool = False) -> Monoid:
    """h = a h + b. With `cut`, a may be exactly zero where the state is dropped: there the past is not multiplied
    by zero but left out, so that an infinite past stays without effect, as in the step itself."""
    dims, dtype = state.dims, state.dtype
    offset = zero(dtype) if b is None else convert(b, dtype)
    first = Component(fresh("a", taken), _in_order(a.dims, dims), dtype)
    second = Component(fresh("b", {*taken, first.name}), dims, dtype)
    a1, a2 = _one_two(first)
    b1, b2 = _one_two(second)
    product, moved = apply("mul", a2, a1), apply("add", apply("mul", a2, b1), b2)
    old = Read(state.name, 1, dims, dtype)
    factor, add = Read(first.name, 0, first.dims, dtype), Read(second.name, 0, dims, dtype)
    new = apply("add", apply("mul", factor, old), add)
    if cut:
        dropped = apply("eq", a2, zero(dtype))
        product, moved = apply("select", dropped, zero(dtype), product), apply("select", dropped, b2, moved)
        new = apply("select", apply("eq", factor, zero(dtype)), add, new)
    return Monoid(
        cls,
        (state.name,),
        (first, second),
        (one(dtype), zero(dtype)),
        (convert(a, dtype), offset),
        (product, moved),
        (new,),
    )


def tropical_monoid(state: State, form: Tropical, taken: set[str]) -> Monoid:
    """h = join(h + shift, offset); without a shift the element is the offset alone."""
    assert form.join is not None and form.offset is not None
    dims, dtype, join = state.dims, state.dtype, form.join
    nothing = Const(bottom(join, dtype), dtype)
    value = Component(fresh("b", taken), dims, dtype)
    b1, b2 = _one_two(value)
    b, old = Read(value.name, 0, dims, dtype), Read(state.name, 1, dims, dtype)
    offset = convert(form.offset, dtype)
    if form.shift is None:
        cls = "SL" if join == "logaddexp" else "ID"
        return Monoid(
            cls, (state.name,), (value,), (nothing,), (offset,), (apply(join, b1, b2),), (apply(join, old, b),)
        )
    shift = Component(fresh("a", taken), _in_order(form.shift.dims, dims), dtype)
    a1, a2 = _one_two(shift)
    a = Read(shift.name, 0, shift.dims, dtype)
    return Monoid(
        "SL",
        (state.name,),
        (shift, value),
        (zero(dtype), nothing),
        (convert(form.shift, dtype), offset),
        (apply("add", a1, a2), apply(join, apply("add", b1, a2), b2)),
        (apply(join, apply("add", old, a), b),),
    )


def softmax_monoid(states: dict[str, State], found: Accumulators, taken: set[str]) -> Monoid:
    """The element holds the log decay g (if any), the largest log weight m, and each sum rescaled by exp(-m).

    -inf stands for "nothing yet"; its weight is 0 by choice, because -inf - (-inf) is not a number."""
    low, top = number(-math.inf), states[found.top]
    used = set(taken)

    def component(state: State) -> Component:
        name = fresh(f"e_{state.name}", used)
        used.add(name)
        return Component(name, state.dims, state.dtype)

    peak = component(top)
    parts = [component(states[name]) for name in found.values]
    decay = (
        Component(fresh("e_decay", used), _in_order(found.decay.dims, top.dims), top.dtype)
        if found.decay is not None
        else None
    )

    def merged(m1: Read, m2: Read, g2: Read | None, pairs: list[tuple[Read, Read]]) -> list[Expr]:
        moved = m1 if g2 is None else apply("add", m1, g2)
        m = apply("max", moved, m2)
        weights = [
            apply("select", apply("eq", part, low), number(0.0), apply("exp", apply("sub", part, m)))
            for part in (moved, m2)
        ]
        return [m, *(apply("add", apply("mul", p1, weights[0]), apply("mul", p2, weights[1])) for p1, p2 in pairs)]

    def own(c: Component) -> Read:
        return Read(c.name, 0, c.dims, c.dtype)

    def old(state: State) -> Read:
        return Read(state.name, 1, state.dims, state.dtype)

    m1, m2 = _one_two(peak)
    g1, g2 = _one_two(decay) if decay else (None, None)
    combined = merged(m1, m2, g2, [_one_two(p) for p in parts])
    applied = merged(
        old(top), own(peak), own(decay) if decay else None,
        [(old(states[n]), own(p)) for n, p in zip(found.values, parts, strict=True)],
    )  # fmt: skip
    lift: list[Expr] = [
        convert(found.score, top.dtype),
        *(convert(v, states[n].dtype) for n, v in found.values.items()),
    ]
    identity: list[Expr] = [low, *(zero(p.dtype) for p in parts)]
    components = [peak, *parts]
    if decay and found.decay is not None and g1 and g2:
        components.insert(0, decay)
        lift.insert(0, convert(found.decay, decay.dtype))
        identity.insert(0, zero(decay.dtype))
        combined.insert(0, apply("add", g1, g2))
    return Monoid(
        "OS",
        (found.top, *found.values),
        tuple(components),
        tuple(identity),
        tuple(lift),
        tuple(combined),
        tuple(applied),
    )


def restricted(monoid: Monoid, states: tuple[str, ...]) -> Monoid:
    """The operator of some of the states of `monoid`, which depend on no other: what it needs of each element."""
    position = {c.name: n for n, c in enumerate(monoid.components)}
    results = [e for s, e in zip(monoid.states, monoid.apply, strict=True) if s in states]
    kept: set[int] = set()
    pending = [position[r.name] for e in results for r in reads(e) if not r.lag]
    while pending:
        n = pending.pop()
        if n not in kept:
            kept.add(n)
            pending += [position[r.name[2:]] for r in reads(monoid.combine[n])]

    where = sorted(kept)
    identity, lift, combine = (tuple(part[n] for n in where) for part in (monoid.identity, monoid.lift, monoid.combine))
    own = tuple(s for s in monoid.states if s in states)
    components = tuple(monoid.components[n] for n in where)
    return Monoid(monoid.cls, own, components, identity, lift, combine, tuple(results))


class Parts:
    """The components of an element while a monoid is being written: fresh names, and reads of them."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = set(taken)
        self.components: list[Component] = []

    def add(self, hint: str, dims: Dims, dtype: DType, holds: str = "any") -> Component:
        part = Component(fresh(hint, self._taken), dims, dtype, holds)
        self._taken.add(part.name)
        self.components.append(part)
        return part

    @staticmethod
    def own(part: Component) -> Read:
        return Read(part.name, 0, part.dims, part.dtype)


def clamp_monoid(state: State, form: Clamped, taken: set[str]) -> Monoid:
    """h = min(max(h + a, l), u); adding, max and min distribute over each other, so the form is closed.

    A side that is open stays open, as does one that nothing passes, and an infinite shift is not undone by another one:
    inf - inf is not a number."""
    dims, dtype = state.dims, state.dtype
    parts = Parts(taken)
    shift = parts.add("a", _in_order(form.shift.dims, dims), dtype)
    low = parts.add("low", dims, dtype)
    high = parts.add("high", dims, dtype)
    (a1, a2), (l1, l2), (u1, u2) = (_one_two(c) for c in (shift, low, high))
    old = Read(state.name, 1, dims, dtype)

    def clip(value: Expr, lower: Expr, upper: Expr) -> Expr:
        return apply("min", apply("max", value, lower), upper)

    def unless_infinite(value: Expr, total: Expr) -> Expr:
        return apply("select", apply("eq", apply("abs", value), Const(math.inf, dtype)), value, total)

    total = unless_infinite(a2, apply("add", a1, a2))
    lowest, highest = (unless_infinite(b, apply("add", b, a2)) for b in (l1, u1))
    return Monoid(
        "CL",
        (state.name,),
        tuple(parts.components),
        (zero(dtype), Const(-math.inf, dtype), Const(math.inf, dtype)),
        tuple(convert(e, dtype) for e in (form.shift, form.low, form.high)),
        (total, apply("max", lowest, l2), clip(highest, l2, u2)),
        (clip(apply("add", old, parts.own(shift)), parts.own(low), parts.own(high)),),
    )


def moebius_monoid(state: State, entries: tuple[Expr, Expr, Expr, Expr], taken: set[str]) -> Monoid:
    """h = (p h + q) / (r h + s): matrices multiply, and their common scale does not count, so each product is divided
    by its largest entry."""
    dims, dtype = state.dims, state.dtype
    parts = Parts(taken)
    made = [parts.add(hint, dims, dtype) for hint in ("p", "q", "r", "s")]
    one_, two_ = zip(*(_one_two(c) for c in made), strict=True)
    (p1, q1, r1, s1), (p2, q2, r2, s2) = one_, two_

    def dot(a: Expr, b: Expr, c: Expr, d: Expr) -> Expr:
        return apply("add", apply("mul", a, b), apply("mul", c, d))

    product = (dot(p2, p1, q2, r1), dot(p2, q1, q2, s1), dot(r2, p1, s2, r1), dot(r2, q1, s2, s1))
    sizes = [apply("abs", e) for e in product]
    scale = apply("max", apply("max", sizes[0], sizes[1]), apply("max", sizes[2], sizes[3]))
    scale = apply("select", apply("gt", scale, zero(dtype)), scale, one(dtype))
    old = Read(state.name, 1, dims, dtype)
    p, q, r, s = (parts.own(c) for c in made)
    # Above and below are divided by a large h, so that a pole (an infinite h) maps to where it goes from there.
    near = apply("le", apply("abs", old), one(dtype))
    above = apply("select", near, apply("add", apply("mul", p, old), q), apply("add", p, apply("div", q, old)))
    below = apply("select", near, apply("add", apply("mul", r, old), s), apply("add", r, apply("div", s, old)))
    new = apply("div", above, below)
    return Monoid(
        "MB",
        (state.name,),
        tuple(parts.components),
        (one(dtype), zero(dtype), zero(dtype), one(dtype)),
        _finite(*(convert(e, dtype) for e in entries)),
        tuple(apply("div", e, scale) for e in product),
        (new,),
    )


def _finite(p: Expr, q: Expr, r: Expr, s: Expr) -> tuple[Expr, ...]:
    """A matrix whose last entry alone is infinite as one that maps everything to 0, as the step itself does."""
    if isinstance(s, Const) and abs(s.value) < math.inf:
        return p, q, r, s
    infinite, dtype = Const(math.inf, s.dtype), s.dtype
    others = apply("max", apply("max", apply("abs", p), apply("abs", q)), apply("abs", r))
    gone = apply("and", apply("eq", apply("abs", s), infinite), apply("ne", others, infinite))
    zeros = (apply("select", gone, zero(dtype), e) for e in (p, q, r))
    return (*zeros, apply("select", gone, one(dtype), s))


def block_monoid(states: tuple[State, ...], forms: Mapping[str, Linear], taken: set[str]) -> Monoid:
    """Several states of the same dims, each elementwise affine in all: one small matrix and vector per element."""
    dims, dtype = states[0].dims, states[0].dtype
    parts = Parts(taken)
    entries: dict[tuple[int, int], Component] = {}
    lift: list[Expr] = []
    identity: list[Expr] = []
    for i, row in enumerate(states):
        for j, column in enumerate(states):
            factor = forms[row.name].coefs.get(column.name, Coef(None)).factor
            entries[i, j] = parts.add(f"a{i}{j}", dims, dtype)
            lift.append(zero(dtype) if factor is None else convert(factor, dtype))
            identity.append(one(dtype) if i == j else zero(dtype))
    offsets = [parts.add(f"b{i}", dims, dtype) for i in range(len(states))]
    for row in states:
        offset = forms[row.name].offset
        lift.append(zero(dtype) if offset is None else convert(offset, dtype))
        identity.append(zero(dtype))
    both = {key: _one_two(c) for key, c in entries.items()}
    ends = [_one_two(c) for c in offsets]
    n = range(len(states))

    def total(terms: list[Expr]) -> Expr:
        result = terms[0]
        for term in terms[1:]:
            result = apply("add", result, term)
        return result

    combine = [total([apply("mul", both[i, k][1], both[k, j][0]) for k in n]) for i in n for j in n]
    combine += [total([*(apply("mul", both[i, k][1], ends[k][0]) for k in n), ends[i][1]]) for i in n]
    old = [Read(s.name, 1, s.dims, s.dtype) for s in states]
    new = [total([*(apply("mul", parts.own(entries[i, k]), old[k]) for k in n), parts.own(offsets[i])]) for i in n]
    return Monoid(
        "BA",
        tuple(s.name for s in states),
        tuple(parts.components),
        tuple(identity),
        tuple(lift),
        tuple(combine),
        tuple(new),
    )


def rotation_monoid(
    states: tuple[State, State], real: Expr, imag: Expr, forms: Mapping[str, Linear], taken: set[str]
) -> Monoid:
    """Two states that are the parts of a complex number, multiplied by one and added to another."""
    dims, dtype = states[0].dims, states[0].dtype
    parts = Parts(taken)
    made = [parts.add("real", _in_order(real.dims, dims), dtype), parts.add("imag", _in_order(imag.dims, dims), dtype)]
    made += [parts.add(f"b{i}", dims, dtype) for i in range(2)]
    one_, two_ = zip(*(_one_two(c) for c in made), strict=True)
    (c1, s1, u1, v1), (c2, s2, u2, v2) = one_, two_

    def turned(c: Expr, s: Expr, x: Expr, y: Expr) -> tuple[Expr, Expr]:
        """The parts of (c + i s) (x + i y)."""
        return (
            apply("sub", apply("mul", c, x), apply("mul", s, y)),
            apply("add", apply("mul", s, x), apply("mul", c, y)),
        )

    factor, moved = turned(c2, s2, c1, s1), turned(c2, s2, u1, v1)
    c, s, u, v = (parts.own(p) for p in made)
    new = turned(c, s, *(Read(state.name, 1, dims, dtype) for state in states))
    offsets = [forms[state.name].offset for state in states]
    return Monoid(
        "CA",
        tuple(state.name for state in states),
        tuple(parts.components),
        (one(dtype), zero(dtype), zero(dtype), zero(dtype)),
        (convert(real, dtype), convert(imag, dtype), *(convert(o or zero(dtype), dtype) for o in offsets)),
        (*factor, apply("add", moved[0], u2), apply("add", moved[1], v2)),
        (apply("add", new[0], u), apply("add", new[1], v)),
    )


def decayed_monoid(state: State, form: Decayed, taken: set[str]) -> Monoid:
    """h = join(a h, b) with a >= 0. A neutral b stays so, for 0 * inf is not a number."""
    assert form.join is not None and form.offset is not None
    dims, dtype, join = state.dims, state.dtype, form.join
    nothing = Const(bottom(join, dtype), dtype)
    parts = Parts(taken)
    factor = parts.add("a", _in_order(form.factor.dims, dims), dtype, "nonnegative")
    value = parts.add("b", dims, dtype)
    (a1, a2), (b1, b2) = _one_two(factor), _one_two(value)
    moved = apply("select", apply("eq", b1, nothing), nothing, apply("mul", a2, b1))
    old = Read(state.name, 1, dims, dtype)
    return Monoid(
        "SL",
        (state.name,),
        tuple(parts.components),
        (one(dtype), nothing),
        (convert(form.factor, dtype), convert(form.offset, dtype)),
        (apply("mul", a2, a1), apply(join, moved, b2)),
        (apply(join, apply("mul", parts.own(factor), old), parts.own(value)),),
    )


def conjugate_monoid(state: State, form: Conjugate, taken: set[str], rises: bool, adds: bool) -> Monoid:
    """h = p(a q(h) + b): the elements are affine maps of q(h). `rises`: a is 0 or more; `adds`: so are b and q(h).

    p is not defined below 0, and what a step makes there stays not a number whatever the later ones are. So an element
    also says between which values q(h) may begin for that not to happen in its steps, unless it never does. The
    identity leaves also a state below 0 as it is."""
    plain = affine_monoid("AM", state, form.factor, form.offset, taken)
    old = Read(state.name, 1, state.dims, state.dtype)
    inside = rewrite(plain.apply[0], lambda n: form.inner if n == old else n)
    if rises and adds:
        parts = tuple(replace(c, holds="nonnegative") for c in plain.components)
        return replace(plain, components=parts, apply=(form.outside(inside),))
    dims, dtype = state.dims, state.dtype
    parts = Parts({*taken, *(c.name for c in plain.components)})
    factor = replace(plain.components[0], holds="unsigned" if rises else "signed")
    low = parts.add("low", dims, dtype)
    high = None if rises else parts.add("high", dims, dtype)
    least, most, nil = Const(-math.inf, dtype), Const(math.inf, dtype), zero(dtype)
    (a1, _), (b1, _) = _one_two(factor), _one_two(plain.components[1])

    def where(sign: Expr, none: Expr, above: Expr, below: Expr | None) -> Expr:
        """By whether a factor is 0, more, or (if it can be) less."""
        rest = above if below is None else apply("select", apply("gt", sign, nil), above, below)
        return apply("select", apply("eq", sign, nil), none, rest)

    def before(end: Expr, turned: bool) -> Expr:
        """What the first element makes `end` from; an end that is open stays open."""
        open_ = apply("neg", end) if turned else end
        value = apply("div", apply("sub", end, b1), a1)
        return apply("select", apply("eq", apply("abs", end), most), open_, value)

    (l1, l2), made_low = _one_two(low), apply("lt", plain.lift[1], nil)
    a, end = plain.lift[0], apply("div", apply("neg", plain.lift[1]), plain.lift[0])
    lift = [*plain.lift, where(a, apply("select", made_low, most, least), end, least)]
    missed = apply("lt", b1, l2)
    if high is None:
        below = where(a1, apply("select", missed, most, least), before(l2, False), None)
        ends = [apply("max", l1, below)]
        left_out = apply("lt", form.inner, parts.own(low))
        identity: tuple[Expr, ...] = (least,)
    else:
        h1, h2 = _one_two(high)
        missed = apply("or", missed, apply("gt", b1, h2))
        below = where(a1, apply("select", missed, most, least), before(l2, False), before(h2, True))
        above = where(a1, apply("select", missed, least, most), before(h2, False), before(l2, True))
        ends = [apply("max", l1, below), apply("min", h1, above)]
        lift.append(where(a, apply("select", made_low, least, most), most, end))
        left_out = apply("or", apply("lt", form.inner, parts.own(low)), apply("gt", form.inner, parts.own(high)))
        identity = (least, most)
    value = apply("select", left_out, Const(math.nan, dtype), inside)
    return replace(
        plain,
        components=(factor, plain.components[1], *parts.components),
        identity=(*plain.identity, *identity),
        lift=tuple(lift),
        combine=(*plain.combine, *ends),
        apply=(form.undone(value),),
    )


def segmented_monoid(monoid: Monoid, states: tuple[State, ...], condition: Expr, taken: set[str]) -> Monoid:
    """`monoid` where `condition` starts anew from the initial values: an element also says whether it did."""
    dtype = DType.REAL
    parts = Parts({*taken, *(c.name for c in monoid.components)})
    flag = parts.add("anew", (), dtype, "flag")
    f1, f2 = _one_two(flag)
    begins = {s.name: convert(s.initial, s.dtype) for s in states}
    held = {
        n: parts.add(f"{n}_begin", b.dims, b.dtype, "flagged") for n, b in begins.items() if not isinstance(b, Const)
    }

    def anew(which: Expr, yes: Expr, no: Expr) -> Expr:
        return apply("select", apply("gt", which, number(0.5)), yes, no)

    def started(node: Expr) -> Expr:
        if isinstance(node, Read) and node.lag and node.name in begins:
            begin = held.get(node.name)
            return anew(parts.own(flag), begins[node.name] if begin is None else parts.own(begin), node)
        return node

    later = [Read(f"2.{c.name}", 0, c.dims, c.dtype) for c in monoid.components]
    same = [_one_two(c) for c in held.values()]
    return Monoid(
        "SEG",
        monoid.states,
        (*parts.components, *monoid.components),
        (number(0.0), *(zero(c.dtype) for c in held.values()), *monoid.identity),
        (
            apply("select", condition, number(1.0), number(0.0)),
            *(apply("select", condition, begins[n], zero(c.dtype)) for n, c in held.items()),
            *monoid.lift,
        ),
        (
            apply("max", f1, f2),
            *(anew(f2, second, first) for first, second in same),
            *(anew(f2, last, e) for last, e in zip(later, monoid.combine, strict=True)),
        ),
        tuple(rewrite(e, started) for e in monoid.apply),
        monoid.symmetric,
    )


def residue_monoid(monoid: Monoid, modulus: Expr) -> Monoid:
    """An affine operator over the integers modulo `modulus`: everything it makes is a remainder, and so is what it is
    given, so that no sum of products leaves 64 bits."""

    def below(expr: Expr) -> Expr:
        return simplified(apply("mod", expr, modulus))

    def old_below(node: Expr) -> Expr:
        return below(node) if isinstance(node, Read) and node.lag else node

    return replace(
        monoid,
        lift=tuple(below(e) for e in monoid.lift),
        combine=tuple(below(e) for e in monoid.combine),
        apply=tuple(below(rewrite(e, old_below)) for e in monoid.apply),
    )


def modular_monoid(state: State, summand: Expr, modulus: Expr, taken: set[str]) -> Monoid:
    """h = (h + a) mod m, with m the same at every step: sums of a, kept below m."""
    parts = Parts(taken)
    part = parts.add("a", state.dims, state.dtype)
    one_, two_ = _one_two(part)

    def wrapped(a: Expr, b: Expr) -> Expr:
        return apply("mod", apply("add", a, b), modulus)

    old = Read(state.name, 1, state.dims, state.dtype)
    return Monoid(
        "AM",
        (state.name,),
        (part,),
        (zero(state.dtype),),
        (apply("mod", convert(summand, state.dtype), modulus),),
        (wrapped(one_, two_),),
        (wrapped(old, parts.own(part)),),
    )
