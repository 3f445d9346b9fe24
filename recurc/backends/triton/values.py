"""Expressions as Triton tile code.

Every value of a kernel is a tile of the same rank: one axis per axis id of the stage, of length 1 where the value
does not have it. Operands then align by plain broadcasting, reductions keep their axis, and the text reads like the
equation. Index tensors (`i_D`) carry the `[None, :]` that puts them on their axis, so loads need no reshaping.

An axis id is a dim's name, primed for a second axis of the same dim (`H'1`, the summed axis of `U[H, H] @ h[H]`); a
number in its place fixes the axis to that position (unpacking). Renaming, transposing and unpacking are pushed down
to the loads this way and cost nothing. A `Place` there is a tile of computed places (see `places.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurc import ir
from recurc.backends.base import Specialization
from recurc.backends.emit.text import bare
from recurc.backends.storage import rounded
from recurc.backends.triton import places
from recurc.backends.triton.kernel import Arg, pointer_type, power_of_two, stored, triton_type
from recurc.backends.triton.matrices import linalg
from recurc.backends.triton.places import Place, fresh_axis
from recurc.backends.triton.scope import Lines, Scope, place
from recurc.errors import CompilerBug, UnsupportedError
from recurc.ops import OPS
from recurc.plan import Buffer, Plan, Role
from recurc.types import Dims, DType, Kind, axis_ids, own_dim

SEQ, TIME, ROW = "@seq", "@time", "@row"
EXTENTS = {SEQ: "BLOCK_SEQ", TIME: "BLOCK_T", ROW: "BLOCK_ROWS"}
Ids = tuple[str | int | Place, ...]
_LONG = 240  # characters of an expression after which a part of it gets a name
_REDUCE_PADDING = {"sum": "0", "prod": "1", "any": "0", "all": "1"}


@dataclass(frozen=True)
class Code:
    """The text of a value and the axes along which it really extends."""

    text: str
    covers: frozenset[str]
    literal: bool = False  # a bare number, not a tensor

    def of(self, text: str, covers: frozenset[str] | None = None) -> Code:
        """A tensor made from this value, along the same axes if no others are named."""
        return Code(text, self.covers if covers is None else covers)


@dataclass(frozen=True)
class Context:
    """What all kernels of a module share."""

    plan: Plan
    spec: Specialization
    scope: Scope  # the module's names: constants, kernels, buffers
    begins: bool = False  # whether steps count from a number `begin` that is known at the launch, not from 0

    def size(self, dim: str) -> int:
        return self.spec.size(dim)

    def constant(self, dim: str) -> str:
        """The name of a dim's size in the module, or its digits."""
        dim = own_dim(dim)
        if dim.isdigit():
            return dim
        # A constant of the whole module: in small letters it would meet the variables of kernels.
        return self.scope(("size", dim), dim if any(c.isupper() for c in dim) else f"size_{dim}")

    def compute(self, dtype: DType) -> DType:
        return self.spec.dtype(dtype).accumulator


class TileCode:
    """Writes the values of one kernel. Subclasses say how batch and time are indexed and where loads go."""

    batch = "seq"
    time = "t"
    batch_axes: frozenset[str] = frozenset((SEQ,))
    time_axes: frozenset[str] = frozenset()

    def __init__(self, context: Context, lead: tuple[str, ...], axes: tuple[str, ...] | None) -> None:
        self.context = context
        self.lead = lead
        self.trial = axes is None  # a trial run only finds out which axes there are
        self.axes: list[str] = [*lead, *(axes or ())]
        self.scope = Scope()
        self.args: dict[str, Arg] = {}
        self.equations: dict[str, ir.Equation] = {}
        self.values: dict[tuple[str, int], Code] = {}
        self.setup = Lines()  # before the loop over time, if there is one
        self.step = self.setup
        self.inlined: dict[str, ir.Expr] = {}  # names whose values are computed on the axes they are asked for on
        self.crossed: set[str] = set()  # axes along which positions were summed, picked or moved in registers
        self.loads: dict[tuple[str, int, Ids], Code] = {}
        self._inline: dict[tuple[str, Ids], Code] = {}
        self._in_progress: list[str] = []

    # --- axes ---------------------------------------------------------------------------------------------------

    def position(self, axis: str) -> int:
        if axis not in self.axes:
            if not self.trial:
                raise CompilerBug(f"axis {axis} was not foreseen in {self.axes}")
            self.axes.append(axis)
        return self.axes.index(axis)

    def on_axis(self, vector: str, axis: str) -> str:
        """A one-dimensional tensor put on its axis of the tile."""
        if len(self.axes) == 1:
            return vector
        at = self.position(axis)
        return f"{vector}[{', '.join(':' if i == at else 'None' for i in range(len(self.axes)))}]"

    def index(self, axis: str | int | Place) -> str:
        if isinstance(axis, int):
            return str(axis)
        if isinstance(axis, Place):
            return axis.text
        self.position(axis)
        return self.scope(("index", axis), f"i_{axis}")

    def covered(self, axis: str | int | Place) -> frozenset[str]:
        """The axes along which the index of an axis extends."""
        if isinstance(axis, Place):
            return axis.covers
        return frozenset((axis,)) if isinstance(axis, str) else frozenset()

    def mask(self, axis: str) -> str | None:
        """The condition that a position of the axis exists; None where no padding is needed."""
        size, block = self.context.size(dim_of(axis)), self.block(axis)
        return None if size % block == 0 and block <= size else self.scope(("mask", axis), f"in_{axis}")

    def block(self, axis: str) -> int:
        """How many positions of a dim's axis the tile holds."""
        return power_of_two(self.context.size(dim_of(axis)))

    def block_arg(self, axis: str) -> str:
        dim = dim_of(axis)
        name = self.scope(("block", dim), f"BLOCK_{dim}")
        self.args.setdefault(name, Arg(name, "constexpr", str(self.block(axis)), self.block(axis)))
        return name

    # --- expressions --------------------------------------------------------------------------------------------

    def value(self, expr: ir.Expr, ids: Ids) -> Code:
        """The tile of `expr` with its axes on `ids`."""
        constant = constant_value(expr, self.context.spec)
        if constant is not None:
            text = self.literal(constant, expr.dtype)
            return Code(text, frozenset(), not text.startswith("tl."))
        match expr:
            case ir.Step():
                if self.context.begins:
                    return Code(f"({self.time} + {self.argument('begin', 'i64', 'begin')})", self.time_axes)
                return Code(self.time, self.time_axes)
            case ir.Read():
                return self._read(expr, ids)
            case ir.Apply():
                code = self._apply(expr, ids)
            case ir.Reduce():
                code = self._reduce(expr, ids)
            case ir.Contract():
                code = self._contract(expr, ids)
            case ir.Reaxis():
                inner: list[str | int | Place] = [0] * len(expr.arg.dims)
                for axis, target in zip(expr.axes, ids, strict=True):
                    inner[axis] = target
                if expr.at is not None and expr.index is not None:
                    inner[expr.at] = expr.index
                return self.value(expr.arg, tuple(inner))
            case ir.Iota():
                (axis,) = ids
                text = self.index(axis)
                if isinstance(axis, int):
                    return Code(text, frozenset(), literal=True)
                return Code(f"{text}.to(tl.int64)", self.covered(axis))
            case ir.Broadcast():
                return self.within(expr.arg, expr.dims, ids)
            case ir.Gather():
                code = places.gather(self, expr, ids)
            case ir.Unfold():
                code = places.unfold(self, expr, ids)
            case ir.Linalg():
                code = linalg(self, expr, ids)
            case _:
                raise CompilerBug(f"an expression without Triton code: {expr}")
        return self.named(code, "term") if len(code.text) > _LONG else code

    def within(self, expr: ir.Expr, dims: Dims, ids: Ids) -> Code:
        """The value of an expression that stands for a name with `dims` (which it may not all have, or in another
        order), with those dims on `ids`."""
        where = dict(zip(axis_ids(dims), ids, strict=True))
        return self.value(expr, tuple(where[i] for i in axis_ids(expr.dims)))

    def named(self, code: Code, hint: str) -> Code:
        """The value under a fresh name."""
        name = self.scope(("temporary", len(self.step.lines), code.text), hint)
        self.step.add(f"{name} = {code.text}")
        return Code(name, code.covers)

    def number(self, value: Any, dtype: DType) -> str:
        """A bare Python number of that type."""
        return _float_text(float(value)) if dtype.kind is Kind.REAL else str(int(value))

    def literal(self, value: Any, dtype: DType) -> str:
        if dtype.kind is Kind.COMPLEX:
            raise UnsupportedError("complex numbers have no Triton spelling yet")
        if dtype.kind is Kind.BOOL:
            return f"tl.full((), {int(bool(value))}, tl.int1)"
        if dtype.kind is Kind.INT:
            return str(int(value)) if value >= 0 else f"({int(value)})"
        text = _float_text(float(value))
        return f"tl.full((), {text}, tl.float64)" if self.context.compute(dtype) is DType.F64 else text

    def filled(self, code: Code, dtype: DType) -> Code:
        """A tensor also where the text is a bare number."""
        if not code.literal:
            return code
        return Code(f"tl.full((), {code.text}, {triton_type(self.context.compute(dtype))})", code.covers)

    def zero(self, dtype: DType) -> Code:
        return self._number_like(0, dtype)

    def one(self, dtype: DType) -> Code:
        return self._number_like(1, dtype)

    def _number_like(self, value: int, dtype: DType) -> Code:
        text = self.literal(float(value) if dtype.kind is Kind.REAL else value, dtype)
        return Code(text, frozenset(), not text.startswith("tl."))

    def _apply(self, expr: ir.Apply, ids: Ids) -> Code:
        where = dict(zip(axis_ids(expr.dims), ids, strict=True))
        args = [self.value(a, tuple(where[i] for i in axis_ids(a.dims))) for a in expr.args]
        covers = frozenset[str]().union(*(a.covers for a in args))
        if expr.op == "cast":
            return Code(self._cast(args[0].text, expr.args[0].dtype, expr.dtype), covers)
        if expr.op == "stop_gradient":
            return args[0]
        if expr.op == "pow" and (power := constant_value(expr.args[1], self.context.spec)) in (2, 3):
            base = args[0] if args[0].text.isidentifier() else self.named(args[0], "base")
            return Code(f"({' * '.join([base.text] * int(power))})", base.covers)
        if expr.op == "select" and expr.dtype.kind is Kind.INT and all(a.literal for a in args[1:]):
            args[1] = self.filled(args[1], expr.dtype)  # a choice of bare numbers would have 32 bits
        spelling = OPS[expr.op].triton
        if spelling is None:
            raise UnsupportedError(f"`{expr.op}` has no Triton spelling yet")
        if spelling.startswith("rc_") and expr.op not in ("max", "min"):
            args = [self.filled(c, a.dtype) for c, a in zip(args, expr.args, strict=True)]
        return Code(spelling.format(*(a.text if spelling.startswith("(") else bare(a.text) for a in args)), covers)

    def _cast(self, text: str, source: DType, target: DType) -> str:
        """Values live in the accumulator's type, so a half precision is a rounding on the way."""
        settled = self.context.spec.dtype(target)
        here, there = self.context.compute(source), settled.accumulator
        if target.kind is Kind.BOOL:
            return f"({text} != 0)"
        if source.kind is Kind.BOOL:
            return f"tl.where({bare(text)}, 1, 0).to({triton_type(there)})"
        rounds = settled is not there and not target.is_generic and self.context.spec.dtype(source) is not settled
        if here is there and not rounds:
            return text
        text = f"{text}.to({triton_type(settled)})" if rounds else text
        return f"{text}.to({triton_type(there)})"

    def _reduce(self, expr: ir.Reduce, ids: Ids) -> Code:
        where = dict(zip(expr.dims, ids, strict=True))
        for dim in expr.over:
            where[dim] = self.summed_axis(dim, where.values())
        arg = self.value(expr.arg, tuple(where[d] for d in expr.arg.dims))
        text, covers = self.spread(arg, [where[d] for d in expr.over]).text, arg.covers
        for dim in expr.over:
            axis = str(where[dim])
            text = self._padded(text, axis, self._padding(expr))
            at = self.position(axis)
            match expr.op:
                case "sum" | "max" | "min":
                    text = f"tl.{expr.op}({bare(text)}, axis={at}, keep_dims=True)"
                case "prod":
                    text = f"rc_prod({bare(text)}, {at})"
                case "any" | "all":
                    best = "max" if expr.op == "any" else "min"
                    text = f"(tl.{best}({text}.to(tl.int32), axis={at}, keep_dims=True) != 0)"
                case _:
                    text = f"tl.{expr.op}({bare(text)}, axis={at}, keep_dims=True).to(tl.int64)"
            covers -= {axis}
        return Code(text, covers)

    def _padding(self, expr: ir.Reduce) -> str:
        if expr.op in ("max", "argmax", "min", "argmin"):
            low = expr.op.endswith("max")
            if expr.arg.dtype.kind is Kind.REAL:
                return f'float("{"-" if low else ""}inf")'
            bits = 31 if self.context.compute(expr.arg.dtype) is DType.I32 else 63
            return f"({-(2**bits)})" if low else str(2**bits - 1)
        neutral = _REDUCE_PADDING[expr.op]
        return f"{neutral}.0" if expr.arg.dtype.kind is Kind.REAL else neutral

    def _padded(self, text: str, axis: str, neutral: str) -> str:
        """`text`, which goes into a sum over an axis, with the neutral element where the axis is padding."""
        self.crossed.add(axis)
        mask = self.mask(axis)
        return text if mask is None else f"tl.where({mask}, {bare(text)}, {neutral})"

    def _contract(self, expr: ir.Contract, ids: Ids) -> Code:
        labels = label_ids(expr, ids, self.summed_axis)
        taps = places.tap_labels(self, expr)
        text, covers = "", frozenset[str]()
        for at in places.tap_places(self, expr, taps):
            here = labels | at
            left = self.value(expr.left, tuple(here[k] for k in expr.left_axes))
            right = self.value(expr.right, tuple(here[k] for k in expr.right_axes))
            text = f"{text} + {left.text} * {right.text}" if text else f"{left.text} * {right.text}"
            covers |= left.covers | right.covers
            if taps:
                text = self.named(Code(text, covers), "taps").text
        text = text if taps else f"({text})"
        summed = [str(i) for k, i in labels.items() if k not in expr.out_axes and k not in taps]
        text = self.spread(Code(text, covers), summed).text
        neutral = "0" if expr.dtype.kind is Kind.INT else "0.0"
        for axis in summed:
            text = f"tl.sum({bare(self._padded(text, axis, neutral))}, axis={self.position(axis)}, keep_dims=True)"
            covers -= {axis}
        return Code(text, covers)

    def summed_axis(self, dim: str, used: Iterable[str | int | Place]) -> str:
        """The axis for a dim that is summed over, apart from those in use."""
        return fresh_axis(dim, used)

    def spread(self, code: Code, axes: list[Any]) -> Code:
        """The value repeated along axes it does not have yet."""
        missing = [a for a in axes if isinstance(a, str) and a not in code.covers]
        if not missing:
            return code
        shape = ", ".join(self.extent(a) if a in code.covers or a in missing else "1" for a in self.axes)
        return Code(f"tl.broadcast_to({bare(code.text)}, ({shape},))", code.covers | set(missing))

    def extent(self, axis: str) -> str:
        return EXTENTS[axis] if axis in EXTENTS else self.block_arg(axis)

    # --- reads --------------------------------------------------------------------------------------------------

    def _read(self, read: ir.Read, ids: Ids) -> Code:
        if read.lag == 0 and read.name in self.inlined:
            key = (read.name, ids)
            if key not in self._inline:
                code = self.filled(self.within(self.inlined[read.name], read.dims, ids), read.dtype)
                self._inline[key] = code if code.text.isidentifier() else self.named(code, read.name)
            return self._inline[key]
        natural = axis_ids(read.dims)
        equation = self.equations.get(read.name) if read.lag == 0 else None
        if equation is not None and any(isinstance(i, int) for i in ids):
            return self.within(equation.expr, read.dims, ids)  # one slice of a packed value: computed by itself
        if equation is not None:
            self.define(equation)
        code = self.values.get((read.name, read.lag))
        if code is None:
            return self.load(self.context.plan.buffer(read.name), read.lag, ids)
        return self.moved(code, natural, ids, read.dtype)

    def define(self, equation: ir.Equation) -> Code:
        """Writes `name = ...` once, after what it reads."""
        key = (equation.name, 0)
        if key in self.values:
            return self.values[key]
        if equation.name in self._in_progress:
            raise CompilerBug(f"{equation.name} reads itself at the same step")
        self._in_progress.append(equation.name)
        code = self.filled(self.value(equation.expr, axis_ids(equation.expr.dims)), equation.expr.dtype)
        self._in_progress.pop()
        name = self.scope(("value", equation.name), equation.name)
        self.step.add(f"{name} = {bare(code.text)}", place(equation))
        self.values[key] = Code(name, code.covers)
        return self.values[key]

    def moved(self, code: Code, natural: Ids, ids: Ids, dtype: DType) -> Code:
        """A value in registers with its axes moved from `natural` to `ids`; fixed or computed places are picked out."""
        if natural == ids:
            return code
        if any(isinstance(i, Place) for i in ids):
            on: list[str | int | Place] = list(ids)
            for at, (axis, target) in enumerate(zip(natural, ids, strict=True)):
                if isinstance(target, Place):
                    others = [*on[:at], *on[at + 1 :], *ids[:at], *ids[at + 1 :]]
                    on[at] = fresh_axis(dim_of(str(axis)), others)
            value = self.moved(code, natural, tuple(on), dtype)
            for axis, target in zip(on, ids, strict=True):
                if isinstance(target, Place):
                    self.crossed.add(str(axis))
                    value = self.named(places.picked(self, value, str(axis), target, dtype), "picked")
            return value
        if len({i for i in ids if isinstance(i, str)}) < sum(isinstance(i, str) for i in ids):
            raise UnsupportedError("the diagonal of a value computed in the same step")
        text, covers = code.text, set(code.covers)
        for axis, target in zip(natural, ids, strict=True):
            if isinstance(target, int) and axis in covers:
                picked = f"tl.where({self.index(axis)} == {target}, {text}, 0)"
                text = f"tl.sum({picked}, axis={self.position(str(axis))}, keep_dims=True)"
                covers -= {str(axis)}
                self.crossed.add(str(axis))
        moves = {str(a): b for a, b in zip(natural, ids, strict=True) if isinstance(b, str) and a != b and a in covers}
        if moves:
            self.crossed |= {*moves, *moves.values()}
            for axis in moves.values():
                self.position(axis)
            source = {b: a for a, b in moves.items()}
            spare = [a for a in source if a not in moves]  # axes of length 1 that take the places left empty
            order = [source[a] if a in source else spare.pop() if a in moves else a for a in self.axes]
            held = [self.position(a) for a in order if a in covers]
            if held == sorted(held):  # axes of length 1 apart, the order stays; permuted in a loop, it can stop Triton
                shape = ", ".join(self.extent(a) if a in covers else "1" for a in order)
                text = f"tl.reshape({bare(text)}, ({shape},))"
            else:
                text = f"tl.permute({text}, ({', '.join(str(self.position(a)) for a in order)}))"
            covers = (covers - set(moves)) | set(moves.values())
        return Code(text, frozenset(covers))

    # --- memory -------------------------------------------------------------------------------------------------

    def pointer(self, buffer: Buffer, ids: Ids, time: str | None = None, own: str = "own") -> str:
        """The address of a buffer's elements: batch (`own` for what comes from params) and time by their strides,
        the dims contiguous."""
        name = self.context.scope(("buffer", buffer.name), buffer.name)
        base = self.argument(f"{name}_ptr", pointer_type(stored(buffer, self.context.spec.real)), name)
        parts = [base]
        by_batch = self.argument(f"{name}_sb", "i64", f"_stride({name}, 0)", buffer.dims)
        parts.append(f"{own if buffer.role in (Role.PARAM, Role.ONCE) else self.batch} * {by_batch}")
        if buffer.has_time:
            by_time = self.argument(f"{name}_st", "i64", f"_stride({name}, 1)", buffer.dims)
            parts.append(f"{time or self.time} * {by_time}")
        offset = self.offset(buffer.dims, ids)
        if buffer.spacing != 1:
            offset = [f"({text}) * {buffer.spacing}" for text in offset]
        return " + ".join([*parts, *offset])

    def offset(self, dims: Dims, ids: Ids) -> list[str]:
        """The row-major place among the dims, as at most one term."""
        if not dims:
            return []
        wide = math.prod(self.context.size(d) for d in dims) > 2**31 - 1
        text = self.index(ids[0])
        text = f"{text}.to(tl.int64)" if wide and isinstance(ids[0], str) else text
        for dim, axis in zip(dims[1:], ids[1:], strict=True):
            outer = text if " " not in text else f"({text})"
            text = f"{outer} * {self.context.constant(dim)} + {self.index(axis)}"
        return [text]

    def argument(self, name: str, type: str, passed: str, dims: Dims = ()) -> str:
        """A parameter of the kernel; for a stride, `dims` are those it steps over."""
        given = self.scope(("argument", name), name)
        aligned = type == "i64" and math.prod(self.context.size(d) for d in dims) % 16 == 0
        self.args.setdefault(given, Arg(given, type, passed, aligned=aligned))
        return given

    def load(self, buffer: Buffer, lag: int, ids: Ids) -> Code:
        """A buffer's value on the given axes, loaded once per place of the kernel."""
        key = (buffer.name, lag, ids)
        if key in self.loads:
            return self.loads[key]
        fixed = "".join(f"_{i}" for i in ids if isinstance(i, int))
        primes = "".join(f"_{i[1:]}" for i in ids if isinstance(i, str) and "'" in i)
        picked = any(isinstance(i, Place) for i in ids)
        fixed += "_picked" if picked else ""
        hint = buffer.name + fixed + primes.replace("'", "") + ("_before" if lag else "")
        name = self.scope(("load", *key), hint)
        lines = self.step if buffer.has_time or picked else self.setup
        covers = set[str]().union(*(self.covered(i) for i in ids))
        masks = [m for i in dict.fromkeys(ids) if isinstance(i, str) and (m := self.mask(i))]
        if buffer.role not in (Role.PARAM, Role.ONCE):
            covers |= self.batch_axes
        if not buffer.has_time:
            lines.add(f"{name} = {self.fetch(buffer, self.pointer(buffer, ids), masks)}")
        else:
            covers |= self.time_axes
            masks = self.time_masks() + masks
            if lag == 0:
                lines.add(f"{name} = {self.fetch(buffer, self.pointer(buffer, ids), masks)}")
            else:
                first = self.load(self.context.plan.buffer(f"{buffer.name}@initial"), 0, ids)
                before = self.fetch(
                    buffer, self.pointer(buffer, ids, f"({self.time} - 1)"), [f"({self.time} > 0)", *masks]
                )
                lines.add(f"{name} = tl.where({self.time} > 0, {before}, {first.text})")
        self.loads[key] = Code(name, frozenset(covers))
        return self.loads[key]

    def fetch(self, buffer: Buffer, pointer: str, masks: list[str]) -> str:
        """A load in the type arithmetic is done in."""
        dtype = stored(buffer, self.context.spec.real)
        masked = f", mask={' & '.join(masks)}, other=0" if masks else ""
        wider = f".to({triton_type(dtype.accumulator)})" if dtype is not dtype.accumulator else ""
        return f"tl.load({pointer}{masked}){wider}"

    def time_masks(self) -> list[str]:
        return []

    def store_masks(self, covers: frozenset[str]) -> list[str]:
        """Which of the program's elements of a value to store, apart from its own dims."""
        return []

    def store(self, lines: Lines, buffer: Buffer, code: Code) -> None:
        """Writes a value (on its natural axes) to its buffer."""
        ids = axis_ids(buffer.dims)
        allowed = {*self.lead, *ids}
        text = self.filled(code, buffer.dtype).text
        for axis in sorted(code.covers - allowed):
            text = f"tl.max({bare(text)}, axis={self.position(axis)}, keep_dims=True)"
        masks = self.store_masks(frozenset(ids))
        masks += self.time_masks() if buffer.has_time else []
        masks += [m for i in ids if (m := self.mask(i))]
        masked = f", mask={' & '.join(masks)}" if masks else ""
        lines.add(f"tl.store({self.pointer(buffer, ids, own=self.batch)}, {bare(text)}{masked})")


def dim_of(axis: str) -> str:
    return axis.partition("'")[0]


def label_ids(
    expr: ir.Contract, ids: Ids, summed: Callable[[str, Iterable[str | int | Place]], str] = fresh_axis
) -> dict[int, str | int | Place]:
    """The axis of every label: the output's are given, a summed one gets an axis of its own."""
    labels: dict[int, str | int | Place] = dict(zip(expr.out_axes, ids, strict=True))
    sides = ((expr.left_axes, expr.left.dims), (expr.right_axes, expr.right.dims))
    for side, dims in sides:
        for label, dim in zip(side, dims, strict=True):
            if label not in labels:
                labels[label] = summed(dim, labels.values())
    return labels


def constant_value(expr: ir.Expr, spec: Specialization) -> Any | None:
    """The number an expression of constants and sizes stands for; None if it reads anything."""
    match expr:
        case ir.Const(value=value):
            return value
        case ir.Size(dim=dim):
            return spec.size(dim)
        case ir.Apply(op="cast"):
            value = constant_value(expr.args[0], spec)
            with np.errstate(all="ignore"):
                return None if value is None else rounded(np.asarray(value), expr.dtype).item()
        case ir.Apply():
            args: list[Any] = []
            for arg in expr.args:
                value = constant_value(arg, spec)
                if value is None:
                    return None
                args.append(value)
            with np.errstate(all="ignore"):
                return OPS[expr.op].numpy(*args).item() if args else None
        case _:
            return None


def _float_text(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    return repr(value) if math.copysign(1, value) > 0 else f"({value!r})"
