"""The associative operator each class lifts to, as `facts.Monoid`.

EA, CA   h = a h + b                (a, b)        (a2 a1, a2 b1 + b2)                 Blelloch 1990
ID       h = max(h, x)              x             max(x1, x2)
SL       h = max(h + a, b)          (a, b)        (a1 + a2, max(b1 + a2, b2))         also min and logaddexp
OS       max-stabilised sums        (g, m, u..)   m = max(m1 + g2, m2), each part rescaled to m
"""

from __future__ import annotations

import math

from recurc.facts import Component, Monoid
from recurc.ir import Const, Expr, Read, State
from recurc.ops import apply, convert, number
from recurc.passes.affine import one, zero
from recurc.passes.semiring import BOTTOM, Tropical
from recurc.passes.softmax import Accumulators
from recurc.passes.terms import fresh
from recurc.types import Dims


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
    bottom = Const(BOTTOM[join], dtype)
    value = Component(fresh("b", taken), dims, dtype)
    b1, b2 = _one_two(value)
    b, old = Read(value.name, 0, dims, dtype), Read(state.name, 1, dims, dtype)
    offset = convert(form.offset, dtype)
    if form.shift is None:
        cls = "SL" if join == "logaddexp" else "ID"
        return Monoid(
            cls, (state.name,), (value,), (bottom,), (offset,), (apply(join, b1, b2),), (apply(join, old, b),)
        )
    shift = Component(fresh("a", taken), _in_order(form.shift.dims, dims), dtype)
    a1, a2 = _one_two(shift)
    a = Read(shift.name, 0, shift.dims, dtype)
    return Monoid(
        "SL",
        (state.name,),
        (shift, value),
        (zero(dtype), bottom),
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
