"""Sums of products by position, in the plainest form that says it: a product, `@`, `outer`, or the general one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from recurc import build, ops
from recurc.calculus import simplify
from recurc.ir import Contract, Expr
from recurc.ops import TypeProblem
from recurc.types import Dims

Labels = tuple[int, ...]


def contraction(a: Expr, a_axes: Labels, b: Expr, b_axes: Labels, out_axes: Labels, dims: Dims) -> Expr:
    """The sum of `a * b` over the labels that `out_axes` lacks, repeated along labels that neither has. Shape:
    `dims`, a name for each label of `out_axes`."""
    if not a.dims and not b.dims:
        return spread(simplify.mul(a, b), dims)
    there = {*a_axes, *b_axes}
    kept = tuple(label for label in out_axes if label in there)
    names = dict(zip(out_axes, dims, strict=True))
    found = _product(a, a_axes, b, b_axes, kept, tuple(names[label] for label in kept))
    return found if kept == out_axes else _inserted(found, kept, out_axes, dims)


def _product(a: Expr, a_axes: Labels, b: Expr, b_axes: Labels, out: Labels, dims: Dims) -> Expr:
    named = dict(zip((*a_axes, *b_axes), a.dims + b.dims, strict=True)) | dict(zip(out, dims, strict=True))
    plain = all(named[label] == d for label, d in zip((*a_axes, *b_axes), a.dims + b.dims, strict=True))
    distinct = len(set(named.values())) == len(named)
    if plain and distinct and set(out) == {*a_axes, *b_axes}:
        made = simplify.mul(a, b)
        return made if made.dims == dims else spread(made, dims)
    a, a_axes = _summed(a, a_axes, {*b_axes, *out})
    b, b_axes = _summed(b, b_axes, {*a_axes, *out})
    if not a.dims or not b.dims:
        made = simplify.mul(a, b)
        return made if made.dims == dims else spread(made, dims)
    (m, x), (n, y) = simplify.factor(a), simplify.factor(b)
    if x is None or y is None or x.dims != a.dims or y.dims != b.dims:
        m, x, n, y = 1.0, a, 1.0, b
    for first, first_axes, second, second_axes in ((x, a_axes, y, b_axes), (y, b_axes, x, a_axes)):
        found = _standard(first, first_axes, second, second_axes, out, dims)
        if found is not None:
            return simplify.scaled(m * n, found)
    dtype = ops.common_dtype(x.dtype, y.dtype)
    number = {label: i for i, label in enumerate(dict.fromkeys((*a_axes, *b_axes)))}
    made = Contract(
        ops.convert(x, dtype),
        ops.convert(y, dtype),
        tuple(number[label] for label in a_axes),
        tuple(number[label] for label in b_axes),
        tuple(number[label] for label in out),
        dims,
        dtype,
    )
    return simplify.scaled(m * n, made)


def _summed(value: Expr, axes: Labels, kept: Collection[int]) -> tuple[Expr, Labels]:
    """The sum over the axes that nothing else has, if the dims are distinct."""
    over = tuple(d for d, label in zip(value.dims, axes, strict=True) if label not in kept)
    if not over or len(set(value.dims)) < len(value.dims):
        return value, axes
    return build.reduce("sum", value, over), tuple(label for label in axes if label in kept)


def _standard(a: Expr, a_axes: Labels, b: Expr, b_axes: Labels, out: Labels, dims: Dims) -> Expr | None:
    """`a @ b` or `outer(a, b)`, if that is it; with the dims in another order, if they are distinct."""
    for make in (build.matmul, build.outer):
        try:
            made = make(a, b)
        except TypeProblem:
            continue
        number = dict(zip((*made.left_axes, *made.right_axes), (*a_axes, *b_axes), strict=True))
        same = all(number[i] == label for i, label in zip(made.right_axes, b_axes, strict=True))
        if not same or len(set(number.values())) < len(number):
            continue
        if all(number[i] == label for i, label in zip(made.left_axes, a_axes, strict=True)):
            axes = tuple(number[i] for i in made.out_axes)
            if axes == out and made.dims == dims:
                return made
            if set(axes) == set(out) and set(made.dims) == set(dims) and len(set(dims)) == len(dims):
                turned = dict(zip(axes, made.dims, strict=True))
                if tuple(turned[label] for label in out) == dims:
                    return build.permute(made, dims)
    return None


def _inserted(value: Expr, have: Labels, want: Labels, dims: Dims) -> Expr:
    """`value` repeated along the labels it lacks, its axes in the order `want`."""
    if len(set(dims)) == len(dims):
        return spread(value, dims)
    names = dict(zip(want, dims, strict=True))
    for label in want:
        if label not in have:
            ones = build.broadcast(ops.number(1.0), (names[label],))
            out = tuple(w for w in want if w in have or w == label)
            value = _product(value, have, ones, (label,), out, tuple(names[w] for w in out))
            have = out
    return value


def spread(value: Expr, dims: Dims) -> Expr:
    """`value`, whose dims are some of `dims`, with exactly these. Of dims that repeat, it has all that do, or none."""
    if value.dims == dims:
        return value
    if len(set(dims)) == len(dims):
        missing = any(d not in value.dims for d in dims)
        return build.broadcast(value, dims) if missing else build.permute(value, dims)
    labels = tuple(range(len(dims)))
    have = _places(value.dims, dims)
    for label in labels:
        if label not in have:
            ones = build.broadcast(ops.number(1.0), (dims[label],))
            out = tuple(sorted((*have, label)))
            names = tuple(dims[i] for i in out)
            value = _product(value, have, ones, (label,), out, names) if have else build.broadcast(value, names)
            have = out
    return value


def _places(some: Dims, dims: Sequence[str]) -> Labels:
    """The positions in `dims` of the dims of a value, in order."""
    found: list[int] = []
    for dim in some:
        at = next(i for i, d in enumerate(dims) if d == dim and i not in found)
        found.append(at)
    return tuple(found)
