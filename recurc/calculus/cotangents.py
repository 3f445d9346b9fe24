"""The rules of reverse mode: how each node hands its cotangent, the derivative of a loss by it, to its operands
(Griewank and Walther, *Evaluating Derivatives*, 2008; for matrices Giles, "Collected matrix derivative results for
forward and reverse mode algorithmic differentiation", 2008)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from recurc import build, ops
from recurc.calculus import simplify
from recurc.calculus.products import Labels, contraction, spread
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Expr,
    Gather,
    Linalg,
    Reaxis,
    Reduce,
    Size,
    Unfold,
)
from recurc.ops import OPS, TypeProblem
from recurc.types import Dims, DType, Kind, literal_size


@dataclass(frozen=True, slots=True)
class Cotangent:
    """The derivative of a real loss by a node; by a complex one that by its real part and, times i, that by its
    imaginary part, so that the loss falls fastest against it. It may lack dims of the node, along which it is then the
    same everywhere; where `guard` is false, it is 0, whatever `value` says (`clean`: which says so too)."""

    value: Expr
    guard: Expr | None = None
    clean: bool = False

    def with_value(self, value: Expr) -> Cotangent:
        """The same with the value moved, summed or renamed, which keeps zeros where they are."""
        return Cotangent(value, self.guard, self.clean)


Handed = Iterator[tuple[Expr, Cotangent]]


def applied(cotangent: Cotangent) -> Expr:
    """The value where the guard holds, 0 elsewhere."""
    if cotangent.guard is None or cotangent.clean or simplify.is_zero(cotangent.value):
        return cotangent.value
    return ops.select(cotangent.guard, cotangent.value, ops.number(0.0))


def full(value: Expr, dims: Dims) -> Expr:
    """`value`, which may lack some of `dims`, with exactly these."""
    if value.dims == dims:
        return value
    return spread(value, dims)


def operands(node: Expr, cotangent: Cotangent, active: Callable[[Expr], bool]) -> Handed:
    """What `node` hands to the operands (or theirs) that are `active`. Raises `TypeProblem` E0901 without a rule."""
    match node:
        case Apply():
            special = _softmax(node, cotangent) or _logsumexp(node, cotangent)
            yield from [special] if special is not None else _apply(node, cotangent, active)
        case Reduce():
            yield _reduce(node, cotangent)
        case Contract():
            yield from _contract(node, applied(cotangent), active)
        case Reaxis():
            yield _reaxis(node, cotangent)
        case Broadcast(arg=arg):
            yield arg, _fitted(cotangent, node.dims, arg.dims)
        case Gather():
            yield _gather(node, applied(cotangent))
        case Unfold(arg=arg):
            yield arg, Cotangent(_folded(node, full(applied(cotangent), node.dims)))
        case Linalg():
            yield from _linalg(node, full(applied(cotangent), node.dims), active)
        case _:
            raise TypeProblem("E0901", f"the derivative of {type(node).__name__} is not supported yet")


# --- elementwise operators


def _apply(node: Apply, cotangent: Cotangent, active: Callable[[Expr], bool]) -> Handed:
    parts = _of_parts(node, cotangent)
    if parts is not None:
        yield node.args[0], parts
        return
    derivative = OPS[node.op].derivative
    if derivative is None:
        raise TypeProblem("E0901", f"the derivative of `{node.op}` is not supported yet")
    partials = derivative(node.args, node)
    opaque = {id(node), *(id(a) for a in node.args)}
    for arg, partial in zip(node.args, partials, strict=True):
        if partial is not None and active(arg):
            handed = _times(cotangent, simplify.tidy(_conj(partial), opaque))
            if not simplify.is_zero(handed.value):
                yield arg, _fitted(handed, node.dims, arg.dims)


def _of_parts(node: Apply, cotangent: Cotangent) -> Cotangent | None:
    """What operators on the parts of a complex number hand to it, and a complex number made of a real one to that. All
    others are functions of complex numbers like those of real ones: the conjugate of the same partial derivative."""
    (arg, *_), value = node.args, cotangent.value
    if node.op == "cast" and _is_complex(node) and not _is_complex(arg):
        return cotangent.with_value(ops.apply("real", value) if _is_complex(value) else value)
    if not _is_complex(arg):
        return {"real": cotangent, "conj": cotangent, "imag": Cotangent(ops.number(0.0))}.get(node.op)
    match node.op:
        case "real":
            return cotangent
        case "imag":
            return cotangent.with_value(simplify.mul(value, Const(1j, DType.COMPLEX)))
        case "conj":
            return cotangent.with_value(_conj(value))
        case "abs":
            direction = ops.div(arg, ops.select(ops.apply("eq", node, ops.number(0.0)), ops.number(1.0), node))
            return Cotangent(simplify.mul(value, direction), cotangent.guard)
        case _:
            return None


def _is_complex(expr: Expr) -> bool:
    return expr.dtype.kind is Kind.COMPLEX


def _conj(expr: Expr) -> Expr:
    if not _is_complex(expr):
        return expr
    return Const(complex(expr.value).conjugate(), expr.dtype) if isinstance(expr, Const) else ops.apply("conj", expr)


def _times(cotangent: Cotangent, partial: Expr) -> Cotangent:
    """The cotangent times a partial derivative; a partial that is 1 or 0 by a condition becomes a guard."""
    match partial:
        case Apply(op="select", args=(condition, yes, no)) if simplify.is_one(yes) and simplify.is_zero(no):
            return guarded(cotangent, condition)
        case Apply(op="select", args=(condition, yes, no)) if simplify.is_zero(yes) and simplify.is_one(no):
            return guarded(cotangent, ops.apply("not", condition))
        case _:
            number, rest = simplify.factor(partial)
            clean = cotangent.clean and rest is None and abs(number) < float("inf")
            return Cotangent(simplify.mul(cotangent.value, partial), cotangent.guard, clean)


def guarded(cotangent: Cotangent, condition: Expr) -> Cotangent:
    """The cotangent where `condition` holds as well."""
    if cotangent.guard is None or cotangent.guard == condition:
        return Cotangent(cotangent.value, condition)
    try:
        return Cotangent(cotangent.value, ops.apply("and", cotangent.guard, condition))
    except TypeProblem:
        return Cotangent(applied(cotangent), condition)


def _fitted(cotangent: Cotangent, have: Dims, want: Dims) -> Cotangent:
    """The cotangent of an operand with the dims `want` that was repeated to `have`: the sum over the rest."""
    if have == want:
        return cotangent
    if len(set(have)) < len(have):
        return Cotangent(_of_square(applied(cotangent), have, want))
    lost = [d for d in have if d not in want]
    if cotangent.guard is not None and set(cotangent.guard.dims) & set(lost):
        cotangent = Cotangent(applied(cotangent))
    value = summed(cotangent.value, [d for d in lost if d in cotangent.value.dims])
    for dim in lost:
        if dim not in cotangent.value.dims:
            value = simplify.mul(_size(dim), value)
    return cotangent.with_value(value)


def _of_square(value: Expr, have: Dims, want: Dims) -> Expr:
    """A scalar operand that met a value which repeats a dim."""
    if want:
        return value
    if not value.dims:
        for dim in have:
            value = simplify.mul(_size(dim), value)
        return value
    for dim in reversed(have):
        value = build.matmul(value, build.broadcast(ops.number(1.0), (dim,)))
    return value


def _size(dim: str) -> Expr:
    size = literal_size(dim)
    return ops.number(float(size)) if size is not None else ops.convert(Size(dim), DType.REAL)


def summed(value: Expr, over: Sequence[str]) -> Expr:
    """The sum of a value over dims it has; of a product of two that share the dim, without making the product."""
    if not over:
        return value
    number, rest = simplify.factor(value)
    match rest:
        case Apply(op="mul", args=(a, b)) if all(d in a.dims and d in b.dims for d in over):
            names = {d: i for i, d in enumerate(dict.fromkeys(a.dims + b.dims))}
            out = tuple(d for d in names if d not in over)
            labels = [tuple(names[d] for d in dims) for dims in (a.dims, b.dims, out)]
            return simplify.scaled(number, contraction(a, labels[0], b, labels[1], labels[2], out))
        case _:
            return simplify.scaled(number, None if rest is None else build.reduce("sum", rest, over))


# --- softmax and logsumexp as wholes: their running maximum cancels


def _shift(expr: Expr) -> tuple[Expr, Dims] | None:
    """x and the dims of `x - max(x, dims)`."""
    match expr:
        case Apply(op="sub", args=(x, Reduce(op="max") as top)):
            over: Dims = ()
            inner: Expr = top
            while isinstance(inner, Reduce) and inner.op == "max" and inner is not x:
                over += inner.over
                inner = inner.arg
            return (x, over) if inner is x else None
        case _:
            return None


def _softmax(node: Apply, cotangent: Cotangent) -> tuple[Expr, Cotangent] | None:
    match node:
        case Apply(op="div", args=(Apply(op="exp", args=(shifted,)) as weights, Reduce(op="sum") as total)):
            found = _shift(shifted)
            if found is None or total.arg is not weights or set(found[1]) != set(total.over):
                return None
            value = full(applied(cotangent), node.dims)
            inner = simplify.sub(value, summed(simplify.mul(value, node), total.over))
            return found[0], Cotangent(simplify.mul(node, inner))
        case _:
            return None


def _logsumexp(node: Apply, cotangent: Cotangent) -> tuple[Expr, Cotangent] | None:
    match node:
        case Apply(op="add", args=(top, Apply(op="log", args=(Reduce(op="sum") as total,)))):
            match total.arg:
                case Apply(op="exp", args=(Apply(op="sub", args=(_, shift)) as shifted,)) if shift is top:
                    found = _shift(shifted)
                    if found is None or set(found[1]) != set(total.over):
                        return None
                    weights = ops.apply("exp", ops.sub(found[0], ops.some_log(node)))
                    return found[0], Cotangent(simplify.mul(cotangent.value, weights), cotangent.guard)
                case _:
                    return None
        case _:
            return None


# --- reductions


def _reduce(node: Reduce, cotangent: Cotangent) -> tuple[Expr, Cotangent]:
    arg = node.arg
    square = len(set(node.dims)) < len(node.dims)
    match node.op:
        case "sum":
            return arg, Cotangent(spread(applied(cotangent), arg.dims)) if square else cotangent
        case "max" | "min" if not square:
            (dim,) = node.over
            first = ops.apply("eq", build.index(dim), build.reduce(f"arg{node.op}", arg, (dim,)))
            return arg, guarded(cotangent, first)
        case "prod" if not square:
            return arg, _times(cotangent, _conj(other_factors(node)))
        case _:
            raise TypeProblem(
                "E0901", f"the derivative of `{node.op}` of a value that repeats a dim is not supported yet"
            )


def other_factors(node: Reduce) -> Expr:
    """The product of all other factors, also where factors are 0."""
    zero = ops.apply("eq", node.arg, ops.number(0.0))
    rest = ops.select(zero, ops.number(1.0), node.arg)
    product = build.reduce("prod", rest, node.over)
    zeros = build.reduce("sum", ops.select(zero, ops.number(1.0), ops.number(0.0)), node.over)
    alone = ops.apply("and", ops.apply("eq", zeros, ops.number(1.0)), zero)
    none = ops.apply("eq", zeros, ops.number(0.0))
    return ops.select(none, ops.div(product, rest), ops.select(alone, product, ops.number(0.0)))


# --- sums of products, views, places


def _contract(node: Contract, cotangent: Expr, active: Callable[[Expr], bool]) -> Handed:
    value = full(cotangent, node.dims)
    sides = ((node.left, node.left_axes), (node.right, node.right_axes))
    for (arg, labels), (other, others) in (sides, sides[::-1]):
        if not active(arg):
            continue
        if len(set(labels)) < len(labels) or len(set(others)) < len(others):
            raise TypeProblem("E0901", "the derivative of a diagonal is not supported yet")
        if isinstance(arg, Unfold) and _is_convolution(arg, labels, others, node.out_axes):
            yield arg.arg, Cotangent(_convolved(node, arg, labels, _conj(other), others, value))
        else:
            yield arg, Cotangent(contraction(value, node.out_axes, _conj(other), others, labels, arg.dims))


def _is_convolution(near: Unfold, labels: Labels, others: Labels, out: Labels) -> bool:
    """Whether the neighbours are summed with weights, one for each tap, at every place."""
    taps = labels[len(near.arg.dims) :]
    return all(t in others and t not in out for t in taps) and all(labels[a] in out for a in near.axes)


def _convolved(node: Contract, near: Unfold, labels: Labels, weights: Expr, others: Labels, value: Expr) -> Expr:
    """The convolution with the taps turned around."""
    rank = len(near.arg.dims)
    axes = tuple(node.out_axes.index(labels[a]) for a in near.axes)
    dims = value.dims + near.taps
    turned = Unfold(value, axes, near.taps, not near.forward, near.wrap, dims, value.dtype)
    found = (*node.out_axes, *labels[rank:])
    return contraction(weights, others, turned, found, labels[:rank], near.arg.dims)


def _folded(node: Unfold, value: Expr) -> Expr:
    """The sum over the places a value went to; `value` has all dims of the node."""
    rank, count = len(node.arg.dims), len(node.taps)
    dims = value.dims + node.taps
    turned: Expr = Unfold(value, node.axes, node.taps, not node.forward, node.wrap, dims, value.dtype)
    axes = list(range(rank + 2 * count))
    for k, tap in enumerate(node.taps):
        one, two = rank + k, rank + count + k
        out = tuple(a for a in axes if a not in (one, two))
        names = dict(zip(axes, turned.dims, strict=True))
        turned = contraction(turned, tuple(axes), build.eye(tap), (one, two), out, tuple(names[a] for a in out))
        axes = list(out)
    return turned


def _reaxis(node: Reaxis, cotangent: Cotangent) -> tuple[Expr, Cotangent]:
    arg = node.arg
    here = tuple(arg.dims[a] for a in node.axes)  # the axes of the node by the names they have in `arg`
    distinct = len(set(arg.dims)) == len(arg.dims) and len(set(node.dims)) == len(node.dims)
    if here != node.dims or not distinct:
        cotangent = Cotangent(applied(cotangent))
    value = cotangent.value
    if here != node.dims and value.dims:
        if distinct:
            names = dict(zip(node.dims, here, strict=True))
            value = build.rename(value, tuple(names[d] for d in value.dims))
        else:
            value = build.rename(full(value, node.dims), here)
    if node.index is not None and node.at is not None:
        dim = arg.dims[node.at]
        hot = ops.apply("eq", build.index(dim), Const(node.index, DType.I64))
        if distinct:
            return arg, guarded(cotangent.with_value(value), hot)
        place = ops.select(hot, ops.number(1.0), ops.number(0.0))
        labels = tuple(range(len(arg.dims)))
        return arg, Cotangent(contraction(place, (node.at,), full(value, here), node.axes, labels, arg.dims))
    if distinct or not value.dims:
        return arg, cotangent.with_value(value)
    back = tuple(node.axes.index(a) for a in range(len(node.axes)))
    if back == tuple(range(len(back))):
        return arg, Cotangent(value)
    return arg, Cotangent(Reaxis(value, back, arg.dims, value.dtype))


def _gather(node: Gather, cotangent: Expr) -> tuple[Expr, Cotangent]:
    """Every element gets the cotangents of the places that read it: a sum with a one-hot matrix."""
    arg, place = node.arg, node.index
    value = full(cotangent, node.dims)
    dim = arg.dims[node.axis]
    size = literal_size(dim)
    last = ops.apply("sub", Size(dim), Const(1, DType.I64)) if size is None else Const(size - 1, DType.I64)
    place = ops.apply("min", ops.apply("max", place, Const(0, DType.I64)), last)
    if dim in place.dims:
        # both run over the same dim: as two axes of one name, lined up by position
        one = build.outer(place, build.broadcast(Const(1, DType.I64), (dim,)))
        two = build.outer(build.broadcast(Const(1, DType.I64), place.dims), build.index(dim))
        hit = ops.apply("eq", one, two)
    else:
        hit = ops.apply("eq", place, build.index(dim))
    hot = ops.select(hit, ops.number(1.0), ops.number(0.0))  # place.dims, then the dim
    rest = arg.dims[: node.axis] + arg.dims[node.axis + 1 :]
    fresh = len(node.dims)
    if len(set(node.dims)) == len(node.dims):
        labels = {d: i for i, d in enumerate(node.dims)}
        places, rests = tuple(labels[d] for d in place.dims), [labels[d] for d in rest]
    else:  # the table repeats a dim, and the place has none
        places, rests = (), list(range(len(rest)))
        if place.dims:
            raise TypeProblem("E0901", "the derivative of a lookup in a table that repeats a dim is not supported yet")
    out = (*rests[: node.axis], fresh, *rests[node.axis :])
    seen = tuple(range(len(node.dims)))
    return arg, Cotangent(contraction(value, seen, hot, (*places, fresh), out, arg.dims))


# --- small matrices


def _linalg(node: Linalg, value: Expr, active: Callable[[Expr], bool]) -> Handed:
    if node.op == "cholesky":
        yield node.args[0], Cotangent(_cholesky(node, value))
        return
    a = node.args[0]
    if node.op in ("phi1", "dphi1"):  # what E does to phi1(A) has, as a linear map of E, its transpose at A^T
        if node.op == "dphi1" and active(a):
            raise TypeProblem("E0901", "the second derivative of `phi1` is not supported yet")
        there = build.rename(build.transpose(a), a.dims)
        yield node.args[-1], Cotangent(build.linalg("dphi1", there, full(value, a.dims)))
        return
    rank = len(a.dims)
    batch = tuple(range(rank - 2))
    if node.op == "inv":  # dY = -Y dA Y, so A gets -Y^T G Y^T
        c, r, r2, c2 = rank, rank + 1, rank + 2, rank + 3
        half = contraction(
            node, (*batch, c, r2), value, (*batch, c, r), (*batch, r2, r), (*a.dims[:-2], a.dims[-2], a.dims[-2])
        )
        yield (
            a,
            Cotangent(
                simplify.neg(contraction(half, (*batch, r2, r), node, (*batch, c2, r), (*batch, r2, c2), a.dims))
            ),
        )
        return
    b = node.args[1]
    right = build.linalg("solve", build.transpose(a), value)  # A^T B' = X'
    if active(b):
        yield b, Cotangent(_missing(right, node.dims, b))
    if active(a):
        at = node.dims.index(a.dims[-1])
        labels = list(range(len(node.dims)))
        column = len(labels)
        solution = (*labels[:at], column, *labels[at + 1 :])
        out = (*(node.dims.index(d) for d in a.dims[:-2]), at, column)
        made = contraction(right, tuple(labels), node, solution, out, a.dims)
        yield a, Cotangent(simplify.neg(made))


def _cholesky(factor: Linalg, value: Expr) -> Expr:
    """With A = L L^T, A gets the symmetric part of L^-T P L^-1, where P is the lower half of L^T G, its diagonal halved
    (Murray, "Differentiation of the Cholesky decomposition", 2016)."""
    *head, rows, columns = factor.dims
    batch, rank = tuple(range(len(head))), len(factor.dims)
    r, r2, k, m = rank, rank + 1, rank + 2, rank + 3
    square = (*head, columns, columns)
    product = contraction(factor, (*batch, r, k), value, (*batch, r, m), (*batch, k, m), square)
    place = ops.convert(build.index(columns), factor.dtype)
    down, right = (contraction(place, (at,), ops.number(1.0), (), (k, m), (columns, columns)) for at in (k, m))
    half = ops.apply("add", ops.apply("sub", down, right), ops.number(0.5))
    half = ops.apply("clamp", half, ops.number(0.0), ops.number(1.0))  # 1 below the diagonal, 1/2 on it, 0 above
    lower = contraction(product, (*batch, k, m), half, (k, m), (*batch, k, m), square)
    inverse = build.linalg("inv", factor)
    part = contraction(inverse, (*batch, k, r), lower, (*batch, k, m), (*batch, r, m), (*head, rows, columns))
    sums = [
        contraction(part, (*batch, r, m), inverse, (*batch, m, r2), (*batch, *out), factor.dims)
        for out in ((r, r2), (r2, r))
    ]
    return simplify.scaled(0.5, simplify.add(*sums))


def _missing(right: Expr, solution: Dims, b: Expr) -> Expr:
    """The sum over the batch dims of the matrix that the right side lacks; they stand in front."""
    return summed(right, right.dims[: len(solution) - len(b.dims)])
