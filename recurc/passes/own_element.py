"""Forward mode along one element: how each element of a value grows with the element of a state at its own place.

For a value v and a state s the derivative kept is d v[..., i, ...] / d s[i], where places are matched by the names of
dims; a value that lacks dims of the state has one derivative for each element there. Elementwise operators, sums and
sums of products keep to this exactly as long as what they are made of does. Where elements meet it is the diagonal of
the derivative that is wanted, and two kinds of terms are left out: what an element of v gets from other elements of s
that in turn have got something from s[i] (in W @ tanh(W @ s) the diagonal of W times that of the inner derivative is
kept, the sum over the other units between is not; in a softmax what goes by way of the largest score is not), and what
would have more elements than a value or the state has, unless it is made of params alone. Nothing is taken to flow
through operations on small matrices, complex numbers, values that repeat a dim, neighbours outside of a convolution,
and along dims of the state that are renamed (but in a sum of products) or of which one place is picked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recurc import build, ops
from recurc.calculus import simplify
from recurc.calculus.cotangents import other_factors, summed
from recurc.calculus.dag import Graph, postorder
from recurc.calculus.products import Labels, contraction
from recurc.differentiate import MAX_NODES, core_node
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Gather,
    Iota,
    Read,
    Reaxis,
    Reduce,
    Size,
    Unfold,
)
from recurc.ops import OPS, TypeProblem
from recurc.types import Dims, DType, Kind, literal_size

Steady = Callable[[Expr], bool]


def own_element(equations: Sequence[Equation], value: Read, graph: Graph, steady: Steady) -> dict[str, Expr]:
    """By equation the derivative of each of its elements by the element of `value` at the same place; without those
    that are 0 or left out. Each has some of the dims of the equation and the value and is the same along the others.
    The expressions are nodes of `graph`; `steady` says which are the same at every step. Raises `TypeProblem` with
    E0324 where the result grows too large."""
    return _Forward(value, graph, steady).run(equations)


class _Forward:
    def __init__(self, value: Read, graph: Graph, steady: Steady) -> None:
        self.value, self.own, self.graph, self.steady = value, value.dims, graph, steady
        self.cores = Graph(core_node)
        self.found: dict[str, Expr] = {}
        self.known: dict[int, Expr | None] = {}

    def run(self, equations: Sequence[Equation]) -> dict[str, Expr]:
        for equation in equations:
            expr = self.cores.put(equation.expr)
            for node in postorder([expr], lambda n: id(n) not in self.known):
                self.known[id(node)] = self._kept(node)
                if len(self.graph) > MAX_NODES:
                    raise TypeProblem("E0324", f"this derivative has more than {MAX_NODES:,} operations")
            found = self.known[id(expr)]
            if found is not None:
                self.found[equation.name] = found
        return self.found

    def _kept(self, node: Expr) -> Expr | None:
        """The derivative of a node, if it has a place here and is not 0."""
        if node.dtype.kind is not Kind.REAL or len(set(node.dims)) < len(node.dims):
            return None
        found = self._node(node)
        if found is None or simplify.is_zero(found):
            return None
        dims = set(found.dims)
        small = dims <= set(node.dims) or dims <= set(self.own)
        return self.graph.put(found) if small or self.steady(found) else None

    def _of(self, node: Expr) -> Expr | None:
        return self.known[id(node)]

    def _node(self, node: Expr) -> Expr | None:
        match node:
            case Read(name=name, lag=lag):
                if (name, lag) == (self.value.name, self.value.lag):
                    return ops.number(1.0)
                return self.found.get(name) if lag == 0 else None
            case Apply():
                return self._apply(node)
            case Broadcast(arg=arg):
                return self._of(arg)
            case Reduce():
                return self._reduce(node)
            case Contract():
                return self._contract(node)
            case Reaxis():
                return self._reaxis(node)
            case Gather():
                return self._gather(node)
            case _:
                return None

    def _apply(self, node: Apply) -> Expr | None:
        slopes = [self._of(arg) for arg in node.args]
        if all(s is None for s in slopes):
            return None
        if node.op == "select":
            yes, no = (ops.number(0.0) if s is None else s for s in slopes[1:])
            return ops.select(node.args[0], yes, no)
        derivative = OPS[node.op].derivative
        if derivative is None:
            return None
        opaque = {id(node), *(id(a) for a in node.args)}
        total: Expr = ops.number(0.0)
        for slope, partial in zip(slopes, derivative(node.args, node), strict=True):
            if slope is not None and partial is not None:
                total = simplify.add(total, _times(simplify.tidy(partial, opaque), slope))
        return total

    def _reduce(self, node: Reduce) -> Expr | None:
        arg, slope = node.arg, self._of(node.arg)
        if slope is None:
            return None
        match node.op:
            case "sum":
                pass
            case "max" | "min":
                (dim,) = node.over
                first = ops.apply("eq", build.index(dim), build.reduce(f"arg{node.op}", arg, (dim,)))
                slope = ops.select(first, slope, ops.number(0.0))
            case "prod":
                slope = simplify.mul(other_factors(node), slope)
            case _:
                return None
        for dim in (d for d in node.over if d not in self.own):
            slope = summed(slope, (dim,)) if dim in slope.dims else simplify.mul(_size(dim), slope)
        return slope

    def _contract(self, node: Contract) -> Expr | None:
        sides = ((node.left, node.left_axes), (node.right, node.right_axes))
        total: Expr = ops.number(0.0)
        for (arg, labels), (other, others_) in (sides, sides[::-1]):
            found = self._of_side(node, *_plain(arg, labels, other, others_, self.own))
            total = total if found is None else simplify.add(total, found)
        return total

    def _of_side(self, node: Contract, arg: Expr, labels: Labels, other: Expr, others_: Labels) -> Expr | None:
        """What one factor of a sum of products adds: its own derivative times the other factor, in which the place of
        the element that is summed over and that of the result are one."""
        slope = self._of(arg)
        if slope is None or len(set(labels)) < len(labels):
            return None
        here, there = dict(zip(arg.dims, labels, strict=True)), dict(zip(node.dims, node.out_axes, strict=True))
        names = dict(zip(node.out_axes, node.dims, strict=True))
        place: dict[str, int] = {}
        for dim in self.own:
            inside, outside = here.get(dim), there.get(dim)
            if inside in names and inside != outside:
                return None
            if outside is None:
                outside = inside if inside is not None else 1 + max((*names, *labels, *others_, *place.values()))
                names[outside] = dim
            elif inside is not None:
                others_ = tuple(outside if k == inside else k for k in others_)
            place[dim] = outside
        picked = _diagonal(other, others_)
        if picked is None:
            return None
        other, others_ = picked
        for dim, label in here.items():  # the sum over a dim that neither factor of the product has
            if dim not in place and label not in (*names, *others_) and dim not in slope.dims:
                slope = simplify.mul(_size(dim), slope)
        axes = tuple(place[d] if d in place else here[d] for d in slope.dims)
        out = tuple(label for label in names if label in (*axes, *others_))
        return contraction(slope, axes, other, others_, out, tuple(names[label] for label in out))

    def _reaxis(self, node: Reaxis) -> Expr | None:
        slope, arg = self._of(node.arg), node.arg
        if slope is None:
            return None
        names = {arg.dims[a]: new for a, new in zip(node.axes, node.dims, strict=True)}
        gone = None if node.at is None else arg.dims[node.at]
        if gone in self.own or any(old != new and {old, new} & set(self.own) for old, new in names.items()):
            return None
        names |= {d: d for d in self.own}
        axes = tuple(i for i, d in enumerate(slope.dims) if d != gone)
        dims = tuple(names[slope.dims[i]] for i in axes)
        if dims == slope.dims:
            return slope
        at = slope.dims.index(gone) if gone in slope.dims else None
        return Reaxis(slope, axes, dims, slope.dtype, at, None if at is None else node.index)

    def _gather(self, node: Gather) -> Expr | None:
        slope, dim = self._of(node.arg), node.arg.dims[node.axis]
        if slope is None or dim in self.own:
            return None
        return build.gather(slope, slope.dims.index(dim), node.index) if dim in slope.dims else slope


def _times(partial: Expr, slope: Expr) -> Expr:
    """Their product; by a choice where the partial derivative is one, so that 0 times infinity is 0."""
    match partial:
        case Apply(op="select", args=(condition, yes, no)) if simplify.is_one(yes) and simplify.is_zero(no):
            return ops.select(condition, slope, ops.number(0.0))
        case Apply(op="select", args=(condition, yes, no)) if simplify.is_zero(yes) and simplify.is_one(no):
            return ops.select(condition, ops.number(0.0), slope)
        case _:
            return simplify.mul(partial, slope)


def _size(dim: str) -> Expr:
    size = literal_size(dim)
    return ops.number(float(size)) if size is not None else ops.convert(Size(dim), DType.REAL)


def _plain(arg: Expr, labels: Labels, other: Expr, others_: Labels, own: Dims) -> tuple[Expr, Labels, Expr, Labels]:
    """One factor without new names for its axes, which a sum over labels does not need, and the middle of neighbours in
    place of all: the other places of a convolution belong to other elements."""
    while True:
        match arg:
            case Reaxis(arg=inner, at=None, axes=axes):
                places = dict(zip(axes, labels, strict=True))
                arg, labels = inner, tuple(places[i] for i in range(len(labels)))
            case Unfold(arg=inner, axes=axes, taps=taps) if all(inner.dims[a] in own for a in axes):
                rank = len(inner.dims)
                for tap, label in zip(taps, labels[rank:], strict=True):
                    if others_.count(label) != 1:
                        return arg, labels, other, others_
                    at = others_.index(label)
                    other, others_ = build.gather(other, at, _middle(tap)), (*others_[:at], *others_[at + 1 :])
                arg, labels = inner, labels[:rank]
            case _:
                return arg, labels, other, others_


def _middle(tap: str) -> Expr:
    size = literal_size(tap)
    if size is not None:
        return Const(size // 2, DType.I64)
    return ops.apply("floordiv", Size(tap), Const(2, DType.I64))


def _diagonal(value: Expr, labels: Labels) -> tuple[Expr, Labels] | None:
    """The elements of `value` whose places along axes with one label are the same, with one axis for each label."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            rest = (*value.dims[:second], *value.dims[second + 1 :])
            if rest.count(value.dims[first]) > 1:
                return None
            value = build.gather(value, second, Iota((value.dims[first],)))
            labels = (*labels[:second], *labels[second + 1 :])
    return value, labels
