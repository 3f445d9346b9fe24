"""Equations evaluated by one thread for one position of the lane dims: the other dims are small arrays in registers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cuda.flatten import is_matrix_operation
from recurc.backends.cuda.matrices import alone
from recurc.backends.cuda.scalars import (
    Index,
    accumulate,
    arithmetic,
    beats,
    by_axis,
    c_type,
    gathered,
    identity_of,
    product_of,
    scalar,
)
from recurc.backends.cuda.scope import Scope, flat, product
from recurc.backends.emit.text import bare
from recurc.ir import Contract, Equation, Expr, Gather, Linalg, Read, Reduce, reads, walk
from recurc.plan import Buffer, Role
from recurc.types import Dims, axis_ids


@dataclass(frozen=True)
class Local:
    """A value in registers: `name`, or `name[...]` when it has dims that are not lanes."""

    name: str
    dims: Dims
    lanes: Dims
    spec: Specialization

    @property
    def inner(self) -> tuple[tuple[str, int], ...]:
        """(axis id, size) of the dims kept in the thread."""
        return inner_axes(self.dims, self.lanes, self.spec)

    @property
    def declarator(self) -> str:
        return f"{self.name}[{product([n for _, n in self.inner])}]" if self.inner else self.name

    def at(self, index: Index) -> str:
        kept = [(place, self.spec.size(d)) for place, d in zip(index, self.dims, strict=True) if d not in self.lanes]
        return f"{self.name}[{flat([p for p, _ in kept], [n for _, n in kept])}]" if kept else self.name


def inner_axes(dims: Dims, lanes: Dims, spec: Specialization) -> tuple[tuple[str, int], ...]:
    return tuple((axis, spec.size(dim)) for axis, dim in zip(axis_ids(dims), dims, strict=True) if dim not in lanes)


class Body:
    """Prints equations into a scope. Names resolve, in this order, to values of the body, to carries, to buffers."""

    def __init__(self, scope: Scope, lanes: Dims, carries: Sequence[str] = ()) -> None:
        self.scope, self.spec, self.lanes, self.carries = scope, scope.spec, lanes, tuple(carries)
        self._values: dict[tuple[str, int], Local] = {}  # (name, lag)

    # --- values ---

    def local(self, key: str, dims: Dims) -> Local:
        """A fresh register value spelled after `key`."""
        return Local(self.scope.names(key), dims, self.lanes, self.spec)

    def bind(self, name: str, lag: int, value: Local) -> Local:
        self._values[name, lag] = value
        return value

    def share(self, other: Body) -> None:
        """Sees what `other` has bound so far."""
        self._values |= other._values

    def places(self, dims: Dims) -> dict[str, str]:
        return {axis: self.scope.place(axis) for axis in axis_ids(dims)}

    def loops(self, dims: Dims) -> list[tuple[str, int]]:
        return [(self.scope.place(axis), size) for axis, size in inner_axes(dims, self.lanes, self.spec)]

    def resolve(self, read: Read, index: Index) -> str:
        held = self._values.get((read.name, read.lag))
        if held is not None:
            return held.at(index)
        buffer = self.scope.plan.buffer(read.name)
        if read.lag == 0:
            return self.scope.load(buffer, index)
        before = self.scope.plan.buffer(f"{read.name}@initial")
        now, start = self.scope.load(buffer, index, t="(t - 1)"), self.scope.load(before, index)
        return f"(t > 0 ? {now} : {start})"

    def scalar(self, expr: Expr, places: Mapping[str, str]) -> str:
        return scalar(expr, places, self.spec, self.resolve)

    # --- statements ---

    def load_local(self, buffer: Buffer, value: Local, b: str = "b", t: str = "t") -> None:
        """Declares `value` and fills it from a buffer."""
        kind = c_type(buffer.dtype, self.spec)
        places = [self.scope.place(axis) for axis in axis_ids(buffer.dims)]
        load = self.scope.load(buffer, places, b, t)
        if not value.inner:
            self.scope.line(f"{kind} {value.name} = {load};")
            return
        self.scope.line(f"{kind} {value.declarator};")
        with self.scope.unrolled(self.loops(buffer.dims)):
            self.scope.line(f"{value.at(places)} = {load};")

    def copy(self, target: Local, source: Local) -> None:
        places = [self.scope.place(axis) for axis in axis_ids(target.dims)]
        with self.scope.unrolled(self.loops(target.dims)):
            self.scope.line(f"{target.at(places)} = {source.at(places)};")

    def equation(self, equation: Equation, dims: Dims | None = None, value: Local | None = None) -> Local:
        """Declares the equation's value (with `dims`, if it is wider than its expression) and computes it."""
        dims = equation.expr.dims if dims is None else dims
        value = value or self.local(equation.name, dims)
        self.scope.comment(equation.name, equation.span or equation.expr.span)
        self.define(value, equation.expr)
        return self.bind(equation.name, 0, value)

    def define(self, value: Local, expr: Expr, declare: bool = True) -> None:
        """Computes `expr` into `value`."""
        kind = c_type(expr.dtype, self.spec)
        places = self.places(value.dims)
        if isinstance(expr, Linalg) and is_matrix_operation(expr) and value.dims != expr.dims:
            solved = Equation(f"{value.name}@solved", expr)  # with its own axes first
            self.equation(solved)
            expr = Read(solved.name, 0, expr.dims, expr.dtype)
        if isinstance(expr, Linalg) and is_matrix_operation(expr):
            if declare:
                self.scope.line(f"{kind} {value.declarator};")
            alone(self, expr, value)
            return
        picks = isinstance(expr, Gather) and any((r.name, r.lag) in self._values for r in reads(expr.arg))
        simple = not picks and not isinstance(expr, Reduce | Contract)
        if simple and not value.inner:
            start = f"const {kind} {value.name}" if declare else value.name
            self.scope.line(f"{start} = {bare(self.scalar(expr, places))};")
            return
        if declare:
            self.scope.line(f"{kind} {value.declarator};")
        with self.scope.unrolled(self.loops(value.dims)):
            target = value.at([places[axis] for axis in axis_ids(value.dims)])
            if simple:
                self.scope.line(f"{target} = {bare(self.scalar(expr, places))};")
            elif isinstance(expr, Reduce):
                self._reduce(expr, target, places)
            elif isinstance(expr, Gather):
                self._pick(expr, target, places)
            elif isinstance(expr, Contract):
                self._contract(expr, target, places)

    def _reduce(self, expr: Reduce, target: str, places: dict[str, str]) -> None:
        scope = self.scope
        axes = [(scope.place(dim), self.spec.size(dim)) for dim in expr.over]
        inside = places | {dim: scope.place(dim) for dim in expr.over}
        if expr.op in ("argmax", "argmin"):
            place, size = axes[0]
            best = scope.names.fresh(f"best@{expr.op}")
            scope.line(f"{target} = 0;")
            scope.line(
                f"{c_type(expr.arg.dtype, self.spec)} {best} = {self.scalar(expr.arg, inside | {expr.over[0]: '0'})};"
            )
            with scope.unrolled([(place, size)]):
                term = self.scalar(expr.arg, inside)
                scope.line(f"if ({beats(expr, term, best)}) {{ {best} = {term}; {target} = {place}; }}")
            return
        scope.line(f"{target} = {identity_of(expr.op, arithmetic(expr.dtype, self.spec))};")
        with scope.unrolled(axes):
            scope.line(accumulate(expr.op, target, self.scalar(expr.arg, inside), expr.dtype))

    def _pick(self, expr: Gather, target: str, places: dict[str, str]) -> None:
        """One place of a value in registers, which have no addresses: every place is looked at."""
        scope, dim = self.scope, expr.arg.dims[expr.axis]
        index = by_axis(expr.dims, places)
        asked, along = scope.names.fresh("asked"), scope.names.fresh("along@picked")
        place = gathered(expr, index, self.spec, self.resolve)[expr.axis]
        with scope.block(""):
            scope.line(f"const int {asked} = {place};")
            scope.line(f"{target} = {c_type(expr.dtype, self.spec)}(0);")
            with scope.unrolled([(along, self.spec.size(dim))]):
                element = self.scalar_at(expr.arg, gathered(expr, index, self.spec, self.resolve, along))
                scope.line(f"if ({along} == {asked}) {target} = {bare(element)};")

    def _contract(self, expr: Contract, target: str, places: dict[str, str]) -> None:
        scope = self.scope
        label_place, summed = contract_places(scope, expr, places)
        left = self.scalar_at(expr.left, [label_place[label] for label in expr.left_axes])
        right = self.scalar_at(expr.right, [label_place[label] for label in expr.right_axes])
        scope.line(f"{target} = 0;")
        with scope.unrolled(summed):
            scope.line(accumulate("sum", target, product_of(left, right, expr.dtype), expr.dtype))

    def scalar_at(self, expr: Expr, index: Index) -> str:
        return self.scalar(expr, dict(zip(axis_ids(expr.dims), index, strict=True)))

    def store(self, buffer: Buffer, value: Local, guards: Sequence[str] = (), t: str = "t") -> None:
        """Writes a value to a buffer; lanes that hold the same value leave it to the first of them."""
        places = [self.scope.place(axis) for axis in axis_ids(buffer.dims)]
        missing = [dim for dim in self.lanes if dim not in buffer.dims and self.spec.size(dim) > 1]
        once = [f"{self.scope.place(dim)} == 0" for dim in missing]
        condition = " && ".join([*guards, *once])
        target = self.scope.address(buffer, places, t=t)
        write = f"rc_store({target}, {value.at(places)});"
        with self.scope.unrolled(self.loops(buffer.dims)):
            self.scope.line(f"if ({condition}) {write}" if condition else write)


def contract_places(
    scope: Scope, expr: Contract, places: Mapping[str, str]
) -> tuple[dict[int, str], list[tuple[str, int]]]:
    """The index of every label of a contraction, and the loops over the summed labels."""
    label_place = {label: places[axis] for label, axis in zip(expr.out_axes, axis_ids(expr.dims), strict=True)}
    names = dict(zip(expr.left_axes, expr.left.dims, strict=True)) | dict(
        zip(expr.right_axes, expr.right.dims, strict=True)
    )
    summed: list[tuple[str, int]] = []
    for label, dim in names.items():
        if label not in label_place:
            label_place[label] = scope.names(f"k@{dim}@{label}")
            summed.append((label_place[label], scope.spec.size(dim)))
    return label_place, summed


def time_reads(exprs: Sequence[Expr], buffers: Mapping[str, Buffer], hidden: frozenset[str]) -> list[Buffer]:
    """The buffers with a time axis that expressions read at this step, in order of use. `hidden` names are values."""
    found: dict[str, Buffer] = {}
    for expr in exprs:
        for read in reads(expr):
            if read.name not in hidden and read.name in buffers and buffers[read.name].has_time and read.lag == 0:
                found.setdefault(read.name, buffers[read.name])
    return list(found.values())


def gathered_reads(exprs: Sequence[Expr]) -> frozenset[str]:
    """The names of which expressions pick places. They are read where they lie: registers have no addresses."""
    return frozenset(r.name for e in exprs for n in walk(e) if isinstance(n, Gather) for r in reads(n.arg))


def constant_reads(exprs: Sequence[Expr], buffers: Mapping[str, Buffer], hidden: frozenset[str]) -> list[Buffer]:
    """The buffers without a time axis (params and what is computed once) that expressions read."""
    found: dict[str, Buffer] = {}
    for expr in exprs:
        for read in reads(expr):
            if read.name not in hidden and read.name in buffers and buffers[read.name].role in (Role.PARAM, Role.ONCE):
                found.setdefault(read.name, buffers[read.name])
    return list(found.values())
