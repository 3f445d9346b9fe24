"""A `Convolution` stage: kernels that find its matrices, torch's transforms of the whole sequence, and the loop.

The equations of the stage are linear, so evaluating them on unit vectors gives matrices: A (one step), G (from sources
to states), C and D (from states after and before a step to what leaves). The unit vectors take the place of steps, and
the equations are maps over them like any other, in double precision. What is made of these matrices is in `host`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from recurc.backends.triton.kernel import Choice, Function, StageText, Step
from recurc.backends.triton.values import Context
from recurc.ir import Broadcast, Contract, Equation, Expr, Read, reads, rewrite
from recurc.plan import Buffer, Convolution, Map, Matmul, Role, Stage, drive_name, step_name
from recurc.types import Dims, DType, Kind

Emit = Callable[[Context, str], StageText]
_SMALL = 4096  # products of a contraction that a map makes by itself; larger ones are products of matrices


def emit_convolution(context: Context, stage: Convolution, name: str, emit: Emit) -> StageText:
    """The function of the matrices, the transforms, and the loop where these would not do."""
    made = _Emission(context, stage, name)
    loop = replace(context, plan=replace(context.plan, stages=(stage.loop,)))
    otherwise = emit(loop, f"{name}_step_by_step")
    found, first = context.scope(("convolved", name), "convolved"), f"{stage.carries[0].name}@initial"
    function = made.matrices(emit)
    given = [f"{n}={n}" for n in function.parameters[:-3]]
    given.append(f"device={context.scope(('buffer', first), first)}.device")
    own = "True" if made.each else "per_sequence"
    given += [f"sets=batch{'' if made.each else ' if per_sequence else 1'}", f"per_sequence={own}"]
    return (
        function,
        f"{found} = rc_convolved(",
        f"    *{function.name}(",
        *(f"        {g}," for g in given),
        "    ),",
        "    [",
        *(f"        {made.source(n)}," for n in stage.sources),
        "    ],",
        "    [",
        *(f"        {made.start(c.name)}," for c in stage.carries),
        "    ],",
        "    batch, steps,",
        ")",
        Choice(f"{found} is not None", tuple(made.results(found)), otherwise),
    )


@dataclass(frozen=True)
class _Axes:
    """How the dims of a value lie in `(B, T, lanes, blocks, width)`; `sizes` has the size of every dim."""

    dims: Dims
    lanes: Dims
    blocks: Dims
    sizes: dict[str, int]

    def _count(self, dims: Iterable[str]) -> int:
        return math.prod(self.sizes[d] for d in dims)

    @property
    def _order(self) -> tuple[int, ...]:
        """Its lanes, its blocks, its other dims."""
        lead = [self.dims.index(d) for d in (*self.lanes, *self.blocks) if d in self.dims]
        return (*lead, *(i for i, d in enumerate(self.dims) if d not in self.lanes and d not in self.blocks))

    @property
    def width(self) -> int:
        return self._count(d for d in self.dims if d not in self.lanes and d not in self.blocks)

    def flat(self, value: str) -> str:
        """`(B, T, *dims)` as `(B, T, L or 1, E, width)` in double precision; L where it has any of the lanes."""
        own = tuple(self.sizes[d] if d in self.dims else 1 for d in self.lanes)
        lanes = tuple(self.sizes[d] for d in self.lanes) if set(self.lanes) & set(self.dims) else own
        return f"rc_flat({value}, {self._order}, {own}, {lanes}, {self._count(self.blocks)}, {self.width})"

    def full(self, value: str) -> str:
        """The reverse; axes of size 1 for lanes and blocks are repeated."""
        lanes, blocks = (self._count(d for d in group if d in self.dims) for group in (self.lanes, self.blocks))
        shape = tuple(self.sizes[self.dims[i]] for i in self._order)
        back = tuple(self._order.index(i) for i in range(len(self.dims)))
        return f"rc_full({value}, {lanes}, {blocks}, {shape}, {back})"


class _Emission:
    def __init__(self, context: Context, stage: Convolution, name: str) -> None:
        self.context, self.stage, self.name, self.plan = context, stage, name, context.plan
        dims = {c.name: c.dims for c in stage.carries} | {e.name: e.expr.dims for e in stage.reads}
        self.carries = {c.name: self._axes(c.dims, stage.blocks) for c in stage.carries}
        self.sources = {n: self._axes(self.plan.buffer(n).dims, ()) for n in stage.sources}
        self.writes = {n: self._axes(dims[n], ()) for n in stage.writes}
        self.width, self.columns = (sum(a.width for a in g.values()) for g in (self.carries, self.sources))
        self.lanes, self.blocks = (math.prod(context.size(d) for d in g) for g in (stage.lanes, stage.blocks))
        known = {e.name for e in (*stage.steady, *stage.enter, *stage.step, *stage.reads)}
        outside = [r.name for e in (*stage.steady, *stage.enter, *stage.step, *stage.reads) for r in reads(e.expr)]
        inside = {*known, *self.carries, *self.sources}
        self.outside = [self.plan.buffer(n) for n in dict.fromkeys(outside) if n not in inside]
        self.each = any(b.role not in (Role.PARAM, Role.ONCE) for b in self.outside)

    def _axes(self, dims: Dims, blocks: Dims) -> _Axes:
        sizes = {d: self.context.size(d) for d in (*dims, *self.stage.lanes, *blocks)}
        return _Axes(dims, self.stage.lanes, blocks, sizes)

    def _local(self, name: str) -> str:
        return self.context.scope(("buffer", name), name)

    def _own(self, name: str) -> str:
        """A variable of the function of the matrices."""
        return self.context.scope(("matrices", name), name)

    # --- what the host does -------------------------------------------------------------------------------------------

    def source(self, name: str) -> str:
        return self.sources[name].flat(self._local(name))

    def start(self, state: str) -> str:
        return self.carries[state].flat(f"{self._local(f'{state}@initial')}[:, None]")

    def results(self, found: str) -> list[str]:
        lines, at = list[str](), 0
        for name, axes in self.writes.items():
            value = axes.full(f"{found}[0][..., {at}:{at + axes.width}]")
            lines.append(f"{self._local(name)}.copy_({value})")
            at += axes.width
        at = 0
        for name, axes in self.carries.items():
            if self.plan.has(f"{name}@final"):
                value = axes.full(f"{found}[1][..., {at}:{at + axes.width}]")
                lines.append(f"{self._local(f'{name}@final')}.copy_({value}[:, 0])")
            at += axes.width
        return lines

    # --- the matrices -------------------------------------------------------------------------------------------------

    def matrices(self, emit: Emit) -> Function:
        """Gives A `(P, L, E, q, q)`, G `(P, L, E, q, r)`, C and D `(P, L, m, E q)`, or None for one that is zero; P is
        1, or B where params differ."""
        given = [self._local(b.name) for b in self.outside]
        self.lines: list[Step] = ["batch = sets"]
        self.lines += [f"{n} = rc_wide({n}, sets)" for n in given]
        self.emit = emit
        self.buffers = [replace(b, dtype=_double(b.dtype), role=Role.PARAM, part=None) for b in self.outside]
        steady = self.stage.steady
        if steady:
            self.buffers += [Buffer(e.name, e.expr.dims, _double(e.expr.dtype), Role.ONCE) for e in steady]
            self._emit((Map(steady, tuple(e.name for e in steady), over_time=False),), "steady")
        a = self._step()
        g = self._enter()
        now, before = self._leaving()
        self.lines.append(f"return {a}, {g}, {now}, {before}")
        about = "What one step makes of the states, what enters them, and what is read of them after and before it."
        name = self.context.scope(("matrices of", self.name), f"{self.name}_matrices")
        return Function(name, (*given, "device", "sets", "per_sequence"), about, "device", tuple(self.lines))

    def _unit(self, name: str, axes: _Axes, value: str) -> None:
        """A buffer of unit vectors, which lie along its axis of steps."""
        self.lines.append(f"{self._local(name)} = {axes.full(value)}.contiguous()")
        self.buffers.append(Buffer(name, axes.dims, DType.F64, Role.INPUT))

    def _mapped(self, body: Sequence[Equation], targets: dict[str, Dims], part: str, count: int) -> None:
        """The values of `targets` for `count` unit vectors."""
        shaped = tuple(_shaped(e, targets[e.name]) if e.name in targets else e for e in body)
        self.buffers += [Buffer(n, dims, DType.F64, Role.SEQUENCE) for n, dims in targets.items()]
        products, shaped = self._products(shaped)
        self.lines.append(f"steps = {count}")
        self._emit((*products, Map(shaped, tuple(targets))), part)

    def _emit(self, stages: tuple[Stage, ...], part: str) -> None:
        spec = replace(self.context.spec, real=DType.F64)
        plan = replace(self.plan, buffers=tuple(self.buffers), stages=stages)
        self.lines += self.emit(replace(self.context, plan=plan, spec=spec), f"{self.name}_{part}")

    def _products(self, body: tuple[Equation, ...]) -> tuple[list[Matmul], tuple[Equation, ...]]:
        """Large products of a param and a unit vector, and the equations that read what they give."""
        found: list[Matmul] = []
        timed = {b.name: b.has_time for b in self.buffers}

        def taken(node: Expr) -> Expr:
            match node:
                case Contract(left=Read(name=left), right=Read(name=right)):
                    labels, dims = (*node.left_axes, *node.right_axes), (*node.left.dims, *node.right.dims)
                    places = dict(zip(labels, dims, strict=True))
                    size = math.prod(self.context.size(d) for d in places.values())
                    if {timed.get(left), timed.get(right)} != {True, False} or size <= _SMALL:
                        return node
                    name = f"{left}'{right}'{len(self.buffers)}"
                    found.append(Matmul(name, node))
                    self.buffers.append(Buffer(name, node.dims, DType.F64, Role.SEQUENCE))
                    return Read(name, 0, node.dims, node.dtype, node.span)
                case _:
                    return node

        return found, tuple(replace(e, expr=rewrite(e.expr, taken)) for e in body)

    def _step(self) -> str:
        unit = self._own("unit")
        width, at = self.width, 0
        self.lines.append(f"{unit} = rc_unit({width}, device).reshape(1, {width}, 1, 1, {width})")
        for name, axes in self.carries.items():
            self._unit(f"{name}'unit", axes, f"{unit}[..., {at}:{at + axes.width}]")
            at += axes.width
        body = _renamed(self.stage.step, {(n, 1): f"{n}'unit" for n in self.carries})
        self._mapped(body, {step_name(n): a.dims for n, a in self.carries.items()}, "step", width)
        return self._gathered({step_name(n): a for n, a in self.carries.items()}, "step_matrix")

    def _enter(self) -> str:
        if not self.sources:
            return "None"
        unit, at = self._own("drive"), 0
        self.lines.append(f"{unit} = rc_unit({self.columns}, device).reshape(1, {self.columns}, 1, 1, {self.columns})")
        for name, axes in self.sources.items():
            self._unit(f"{name}'drives", axes, f"{unit}[..., {at}:{at + axes.width}]")
            at += axes.width
        body = _renamed(self.stage.enter, {(n, 0): f"{n}'drives" for n in self.sources})
        self._mapped(body, {drive_name(n): a.dims for n, a in self.carries.items()}, "enter", self.columns)
        return self._gathered({drive_name(n): a for n, a in self.carries.items()}, "enter_matrix")

    def _gathered(self, parts: dict[str, _Axes], hint: str) -> str:
        name = self._own(hint)
        self.lines.append(f"{name} = rc_columns([")
        self.lines += [f"    {a.flat(self._local(n))}," for n, a in parts.items()]
        self.lines.append("])")
        return name

    def _leaving(self) -> tuple[str, str]:
        """What leaves, of states that are unit vectors after the step and zero before it, and the other way around."""
        if not self.writes:
            return "None", "None"
        count, unit = self.blocks * self.width, self._own("states")
        lags = {r.lag for e in self.stage.reads for r in reads(e.expr) if r.name in self.carries}
        lags |= {0} if set(self.writes) & set(self.carries) else set[int]()
        steps, names = count * len(lags), dict[tuple[str, int], str]()
        self.lines.append(f"{unit} = rc_unit({steps}, device)")
        for place, lag in enumerate(sorted(lags)):
            rows = f"{unit}[:, {place * count}:{place * count + count}]"
            at, value = 0, f"{rows}.reshape(1, {steps}, 1, {self.blocks}, {self.width})"
            for name, axes in self.carries.items():
                names[name, lag] = f"{name}'{'before' if lag else 'now'}"
                self._unit(names[name, lag], axes, f"{value}[..., {at}:{at + axes.width}]")
                at += axes.width
        left = {n: a.dims for n, a in self.writes.items() if n not in self.carries}
        if left:
            self._mapped(_renamed(self.stage.reads, names), left, "read", steps)
        name = self._own("read_matrix")
        self.lines.append(f"{name} = rc_leaving([")
        self.lines += [f"    {a.flat(self._local(n if n in left else names[n, 0]))}," for n, a in self.writes.items()]
        self.lines.append(f"], sets, {self.lanes})")
        columns = (f"{name}[..., {k * count}:{k * count + count}]" for k in range(len(lags)))
        found = dict(zip(sorted(lags), columns, strict=True))
        return found.get(0, "None"), found.get(1, "None")


def _double(dtype: DType) -> DType:
    return DType.F64 if dtype.kind is Kind.REAL else dtype


def _shaped(equation: Equation, dims: Dims) -> Equation:
    expr = equation.expr
    return equation if expr.dims == dims else replace(equation, expr=Broadcast(expr, dims, expr.dtype, expr.span))


def _renamed(body: Sequence[Equation], names: dict[tuple[str, int], str]) -> tuple[Equation, ...]:
    def renamed(node: Expr) -> Expr:
        if isinstance(node, Read) and (node.name, node.lag) in names:
            return replace(node, name=names[node.name, node.lag], lag=0)
        return node

    return tuple(replace(e, expr=rewrite(e.expr, renamed)) for e in body)


__all__ = ["emit_convolution"]
