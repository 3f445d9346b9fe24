"""Complex numbers as pairs of real ones: a plan over real numbers only, for backends without complex arithmetic.

A value `z` becomes `z.re` and `z.im`. A complex array of the caller stays one array: it is two buffers, one for each
part, whose elements lie two apart in it (`Buffer.part`). What the plan makes for itself is stored part by part. Parts
that are zero wherever a value is made are not made at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from recurc.errors import UnsupportedError
from recurc.facts import Component, Monoid
from recurc.ir import (
    Apply,
    Broadcast,
    Const,
    Contract,
    Equation,
    Expr,
    Final,
    Gather,
    Linalg,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Unfold,
    children,
    reads,
    walk,
    with_children,
)
from recurc.ops import apply, convert
from recurc.passes.complex_arithmetic import Arithmetic, Pair, Part
from recurc.passes.fuse import fuse
from recurc.passes.verify_plan import verify_plan
from recurc.plan import (
    Buffer,
    Carry,
    Chunk,
    Convolution,
    Frozen,
    Fused,
    JointChunk,
    Loop,
    Map,
    Matmul,
    Newton,
    Plan,
    Role,
    Scan,
    Stage,
    drive_name,
    step_name,
    taken_apart,
)
from recurc.types import Dims, DType, Kind

_PARTS = ("re", "im")
_OF_NUMBERS = frozenset({"real", "imag", "conj"})  # also of real numbers, where they say little


def part_name(name: str, which: int) -> str:
    """`h@final` -> `h.re@final`."""
    base, at, rest = name.partition("@")
    return f"{base}.{_PARTS[which]}{at}{rest}"


def part_dtype(dtype: DType, real: DType) -> DType:
    """The type of the parts of a complex type where reals are stored as `real`; halves have no complex type."""
    if dtype is DType.COMPLEX:
        return DType.REAL if real in (DType.F32, DType.F64) else DType.F32
    return {DType.C64: DType.F32, DType.C128: DType.F64}.get(dtype, dtype)


def is_complex(plan: Plan) -> bool:
    """Whether a plan has complex numbers, or operators that are only spelled on them."""
    nodes = (n for stage in plan.stages for e in _exprs(stage) for n in walk(e))
    return any(b.dtype.kind is Kind.COMPLEX for b in plan.buffers) or any(map(_of_complex, nodes))


def _of_complex(node: Expr) -> bool:
    return node.dtype.kind is Kind.COMPLEX or (isinstance(node, Apply) and node.op in _OF_NUMBERS)


def split_complex(plan: Plan, real: DType) -> Plan:
    """The plan on real numbers, for reals stored as `real`. Raises `UnsupportedError` for what has no real form."""
    if not is_complex(plan):
        return plan
    whole = _Split(taken_apart(plan, lambda stage: isinstance(stage, Fused)), real).run()
    runs = [{n for c in s.carries for n in (c.name, part_name(c.name, 0))} for s in plan.stages if isinstance(s, Fused)]
    return fuse(whole, lambda scans: any(all(s.carries[0].name in run for s in scans) for run in runs), told=True)


def _exprs(stage: Stage) -> list[Expr]:
    if isinstance(stage, Matmul):
        return [stage.expr]
    found = [e.expr for e in stage.body]
    if isinstance(stage, Scan):
        monoid = stage.monoid
        found += [*monoid.identity, *monoid.lift, *monoid.combine, *monoid.apply]
    if isinstance(stage, Newton):
        found += [e for part in (stage.first, *stage.before, stage.step) for e in _exprs(part)]
    return found


class _Split:
    def __init__(self, plan: Plan, real: DType) -> None:
        self.plan, self.real = plan, real
        self.zero: set[str] = set()  # parts that are zero, by name
        self.instead: dict[str, Expr] = {}  # parts that are computed where they are read
        self.extra: list[Buffer] = []
        self.body: list[Equation] | None = None  # where named expressions go, if they can
        self.owner = ""
        self.taken = {b.name for b in plan.buffers} | {e.name for s in plan.stages for e in s.body}
        self.kept: dict[Expr, Read] = {}
        self.read_whole = {
            r.name for s in plan.stages if isinstance(s, Matmul) for r in reads(s.expr) if r.dtype.kind is Kind.COMPLEX
        } | {n for s in plan.stages if isinstance(s, Convolution) for n in s.sources}

    def run(self) -> Plan:
        stages: list[Stage] = []
        for stage in self.plan.stages:
            stages += self._stage(stage)
        stages = self._lean(stages)
        made = {w for s in stages for w in s.writes}
        buffers = [b for old in self.plan.buffers for b in self._buffers(old) if _given(b) or b.name in made]
        extra = [b for b in self.extra if b.name in made]
        plan = replace(
            self.plan,
            recurrence=self._recurrence(self.plan.recurrence),
            stages=tuple(stages),
            buffers=(*buffers, *extra),
        )
        verify_plan(plan)
        return plan

    def _lean(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages without what nobody reads: often only one part of a value is wanted."""
        wanted = {n for b in self.plan.buffers if b.role is Role.OUTPUT for n in self._both(b.name, b.dtype)}
        kept: list[Stage] = []
        for stage in reversed(stages):
            writes = tuple(w for w in stage.writes if w in wanted)
            needed = {*writes, *(c.name for c in stage.carries)} if isinstance(stage, Loop | Scan) else set(writes)
            match stage:
                case Matmul() | Newton() | Chunk() | JointChunk() | Frozen() | Fused():  # real chunks read real values
                    new: Stage = stage
                case Convolution():
                    new = replace(stage, reads=_pruned(stage.reads, set(writes)), writes=writes)
                case Map():
                    new = replace(stage, body=_pruned(stage.body, needed), writes=writes)
                case Loop():
                    new = replace(stage, body=_pruned(stage.body, needed), writes=writes)
                case Scan():
                    post = _pruned(stage.post, needed)
                    needed |= {r.name for e in (*(p.expr for p in post), *stage.monoid.lift) for r in reads(e)}
                    new = replace(stage, pre=_pruned(stage.pre, needed), post=post, writes=writes)
            if writes or isinstance(new, Loop | Scan | Newton | Convolution | Chunk | JointChunk | Frozen):
                wanted |= {r.name for e in _exprs(new) for r in reads(e)}
                kept.append(new)
        return kept[::-1]

    # --- names --------------------------------------------------------------------------------------------------------

    def _dtype(self, dtype: DType) -> DType:
        return part_dtype(dtype, self.real)

    def _buffers(self, buffer: Buffer) -> list[Buffer]:
        if buffer.dtype.kind is not Kind.COMPLEX:
            return [buffer]
        made = buffer.role in (Role.SEQUENCE, Role.ONCE)
        return [
            replace(
                buffer,
                name=part_name(buffer.name, k),
                dtype=self._dtype(buffer.dtype),
                part=None if made else (buffer.name, k),
            )
            for k in range(2)
        ]

    def _recurrence(self, rec: Recurrence) -> Recurrence:
        """What a plan's rules are checked against: the states and outputs by their parts."""
        states = [
            replace(s, name=part_name(s.name, k), dtype=self._dtype(s.dtype), initial=Const(0.0, self._dtype(s.dtype)))
            if s.dtype.kind is Kind.COMPLEX
            else s
            for s in rec.states
            for k in range(2 if s.dtype.kind is Kind.COMPLEX else 1)
        ]
        kinds = {b.name.removesuffix("@out"): b.dtype.kind for b in self.plan.buffers if b.role is Role.OUTPUT}
        outputs = [
            part_name(o, k) if kinds[o] is Kind.COMPLEX else o
            for o in rec.outputs
            for k in range(2 if kinds[o] is Kind.COMPLEX else 1)
        ]
        return replace(rec, states=tuple(states), outputs=tuple(outputs))

    def _both(self, name: str, dtype: DType) -> tuple[str, ...]:
        return (part_name(name, 0), part_name(name, 1)) if dtype.kind is Kind.COMPLEX else (name,)

    def _names(self, name: str, dtype: DType) -> tuple[str, ...]:
        return tuple(n for n in self._both(name, dtype) if n not in self.zero)

    # --- stages -------------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> list[Stage]:
        match stage:
            case Map(body=body, writes=writes):
                new = self._equations(body, set(), self._outputs(writes))
                return [replace(stage, body=new, writes=self._writes(writes, body))]
            case Loop(carries=carries, body=body, writes=writes):
                own = {c.name for c in carries}
                new = self._equations(body, own, self._outputs(writes))
                kinds = {c.name: c.dtype for c in carries}
                return [Loop(self._carries(carries), new, self._writes(writes, body, kinds))]
            case Scan():
                return [self._scan(stage)]
            case Matmul():
                return self._matmul(stage)
            case Newton():
                if any(_of_complex(n) for e in _exprs(stage) for n in walk(e)):
                    raise UnsupportedError(
                        f"Newton's method for {', '.join(c.name for c in stage.carries)} meets complex numbers, which "
                        "only the `numpy` backend can do"
                    )
                return [stage]
            case Convolution():
                return [self._convolution(stage)]
            case Chunk() | JointChunk() | Frozen():
                return [stage]
            case Fused():
                raise TypeError("fused scans are taken apart before")

    def _outputs(self, writes: Sequence[str]) -> set[str]:
        """What a caller sees, whose parts are all made, zero or not."""
        return {w for w in writes if self.plan.buffer(w).role is Role.OUTPUT}

    def _writes(
        self, writes: Sequence[str], body: Sequence[Equation], kinds: dict[str, DType] | None = None
    ) -> tuple[str, ...]:
        dtypes = {e.name: e.expr.dtype for e in body} | (kinds or {})
        return tuple(n for w in writes for n in self._names(w, dtypes[w]))

    def _carries(self, carries: Sequence[Carry]) -> tuple[Carry, ...]:
        return tuple(
            Carry(part_name(c.name, k), c.dims, self._dtype(c.dtype)) if c.dtype.kind is Kind.COMPLEX else c
            for c in carries
            for k in range(2 if c.dtype.kind is Kind.COMPLEX else 1)
        )

    def _equations(self, body: Sequence[Equation], carried: set[str], shown: set[str]) -> tuple[Equation, ...]:
        self.body, self.kept = [], {}
        for equation in body:
            self._equation(equation, equation.name in carried | shown)
        made, self.body = tuple(self.body), None
        return made

    def _equation(self, equation: Equation, whole: bool) -> None:
        assert self.body is not None
        self.owner = equation.name
        expr = equation.expr
        if expr.dtype.kind is not Kind.COMPLEX:
            self.body.append(replace(equation, expr=self.of(expr)))
            return
        pair = self.pair(expr)
        if whole:
            pair = Pair(self._number(pair.re, expr), self._number(pair.im, expr))
            self.zero -= {part_name(equation.name, k) for k in range(2)}
        for k, part in enumerate((pair.re, pair.im)):
            name = part_name(equation.name, k)
            if part is None:
                self.zero.add(name)
            else:
                self.body.append(replace(equation, name=name, expr=self._fit(part, expr)))

    def _matmul(self, stage: Matmul) -> list[Stage]:
        expr, target = stage.expr, stage.target
        if expr.dtype.kind is not Kind.COMPLEX:
            return [replace(stage, expr=self._contract_of_reads(expr))]
        left, right = self.pair(expr.left), self.pair(expr.right)
        dtype = self._dtype(expr.dtype)
        stages: list[Stage] = []
        sums: list[Part] = []
        for k, terms in enumerate((((left.re, right.re, 0), (left.im, right.im, 1)),
                                   ((left.re, right.im, 0), (left.im, right.re, 0)))):  # fmt: skip
            total: Part = None
            for j, (a, b, minus) in enumerate(terms):
                if a is None or b is None:
                    continue
                name = f"{part_name(target, k)}@{j}"
                stages.append(Matmul(name, replace(expr, left=a, right=b, dtype=dtype)))
                self.extra.append(Buffer(name, expr.dims, dtype, Role.SEQUENCE))
                read = Read(name, 0, expr.dims, dtype, expr.span)
                if total is None:
                    total = apply("neg", read) if minus else read
                else:
                    total = apply("sub" if minus else "add", total, read)
            sums.append(total)
        shown = self.plan.buffer(target).role is Role.OUTPUT
        if shown or target in self.read_whole:
            equations = [
                Equation(part_name(target, k), self._fit(self._number(total, expr), expr), expr.span)
                for k, total in enumerate(sums)
            ]
            self.zero -= {e.name for e in equations}
            return [*stages, Map(tuple(equations), tuple(e.name for e in equations))]
        for k, total in enumerate(sums):
            if total is None:
                self.zero.add(part_name(target, k))
            else:
                self.instead[part_name(target, k)] = total
        return stages

    def _convolution(self, stage: Convolution) -> Convolution:
        whole = [c.name for c in stage.carries if c.dtype.kind is Kind.COMPLEX]
        names = {
            part_name(f(n), k): f(part_name(n, k)) for n in whole for f in (drive_name, step_name) for k in range(2)
        }
        kept = [f(n) for n in whole for f in (drive_name, step_name)]
        steady, enter, step, read = (
            tuple(replace(e, name=names.get(e.name, e.name)) for e in self._equations(body, {*kept}, shown))
            for body, shown in (
                (stage.steady, set[str]()),
                (stage.enter, set[str]()),
                (stage.step, set[str]()),
                (stage.reads, self._outputs(stage.writes)),
            )
        )
        kinds = {c.name: c.dtype for c in stage.carries}
        sources = tuple(n for s in stage.sources for n in self._names(s, self.plan.buffer(s).dtype))
        writes, carries = self._writes(stage.writes, stage.body, kinds), self._carries(stage.carries)
        return Convolution(carries, sources, steady, enter, step, read, writes, stage.lanes, stage.blocks)

    def _contract_of_reads(self, expr: Contract) -> Contract:
        new = self.of(expr)
        assert isinstance(new, Contract)
        return new

    def _scan(self, stage: Scan) -> Scan:
        monoid = stage.monoid
        self.body, self.kept = [], {}
        for equation in stage.pre:
            self._equation(equation, equation.name in self._outputs(stage.writes))
        self.owner = stage.carries[0].name
        lifted = [self._parts(e, c) for e, c in zip(monoid.lift, monoid.components, strict=True)]
        pre, self.body = tuple(self.body), None
        identity = [self._parts(e, c) for e, c in zip(monoid.identity, monoid.components, strict=True)]
        zero = {
            part_name(c.name, k)
            for c, lift, unit in zip(monoid.components, lifted, identity, strict=True)
            if c.dtype.kind is Kind.COMPLEX
            for k in range(2)
            if lift[k] is None and unit[k] in (None, Const(0.0, self._dtype(c.dtype)))
        }
        combined = self._combined(monoid, zero)
        with self._only(zero):
            applied = [
                (s, self._parts(e, Component(s, e.dims, e.dtype)))
                for s, e in zip(monoid.states, monoid.apply, strict=True)
            ]
        components: list[Component] = []
        columns: list[list[Expr]] = [[], [], []]
        for c, *exprs in zip(monoid.components, identity, lifted, combined, strict=True):
            split = c.dtype.kind is Kind.COMPLEX
            for k in range(2 if split else 1):
                name = part_name(c.name, k) if split else c.name
                if name in zero:
                    continue
                components.append(Component(name, c.dims, self._dtype(c.dtype)))
                for column, parts in zip(columns, exprs, strict=True):
                    part = parts[k]
                    column.append(Const(0.0, self._dtype(c.dtype)) if part is None else part)
        states = [
            (part_name(s, k) if len(parts) > 1 else s, part) for s, parts in applied for k, part in enumerate(parts)
        ]
        dims = {c.name: c for c in self._carries(stage.carries)}
        new = Monoid(
            monoid.cls,
            tuple(s for s, _ in states),
            tuple(components),
            identity=tuple(columns[0]),
            lift=tuple(columns[1]),
            combine=tuple(columns[2]),
            apply=tuple(Const(0.0, dims[s].dtype) if e is None else e for s, e in states),
        )
        post = self._equations(stage.post, set(), self._outputs(stage.writes))
        kinds = {c.name: c.dtype for c in stage.carries}
        return Scan(self._carries(stage.carries), new, pre, post, self._writes(stage.writes, stage.body, kinds))

    def _combined(self, monoid: Monoid, zero: set[str]) -> list[tuple[Part, ...]]:
        """The operator by parts. `zero` holds the parts of components that start as zero, and keeps what stays so."""
        while True:
            with self._only({f"{side}.{name}" for side in (1, 2) for name in zero}):
                combined = [self._parts(e, c) for e, c in zip(monoid.combine, monoid.components, strict=True)]
            lost = {
                part_name(c.name, k)
                for c, parts in zip(monoid.components, combined, strict=True)
                if c.dtype.kind is Kind.COMPLEX
                for k in range(2)
                if part_name(c.name, k) in zero and parts[k] is not None
            }
            if not lost:
                return combined
            zero -= lost

    @contextmanager
    def _only(self, zero: set[str]) -> Generator[None]:
        """Among the names of a monoid, which mean nothing outside of it."""
        outside = self.zero, self.instead
        self.zero, self.instead = zero, {}
        yield
        self.zero, self.instead = outside

    def _parts(self, expr: Expr, component: Component) -> tuple[Part, ...]:
        """The parts of a component's expression: one of a real component, two of a complex one."""
        if component.dtype.kind is not Kind.COMPLEX:
            return (self.of(expr),)
        pair = self.pair(expr)
        return tuple(None if p is None else self._shaped(p, expr.dims) for p in (pair.re, pair.im))

    # --- expressions --------------------------------------------------------------------------------------------------

    def of(self, expr: Expr) -> Expr:
        """A real expression whose complex operands are pairs."""
        match expr:
            case Apply(op=("real" | "conj"), args=(arg,)) if arg.dtype.kind is not Kind.COMPLEX:
                return self.of(arg)
            case Apply(op="imag", args=(arg,)) if arg.dtype.kind is not Kind.COMPLEX:
                zero = Const(0.0 if expr.dtype.kind is Kind.REAL else 0, expr.dtype)
                return self._shaped(zero, expr.dims)
            case Apply(op=op, args=args) if any(a.dtype.kind is Kind.COMPLEX for a in args):
                return convert(self._shaped(self._real(op, expr), expr.dims), expr.dtype)
            case _:
                return with_children(expr, tuple(self.of(c) for c in children(expr))) if children(expr) else expr

    def _real(self, op: str, expr: Apply) -> Expr:
        pairs = [self.pair(a) for a in expr.args]
        maths = self._maths(expr.args[0].dtype)
        a = maths.kept(pairs[0])
        match op:
            case "real" | "imag":
                return maths.some(a.re if op == "real" else a.im)
            case "abs":
                return maths.abs(a)
            case "eq":
                return maths.equal(a, pairs[1])
            case "ne":
                return apply("not", maths.equal(a, pairs[1]))
            case "cast" if expr.dtype is DType.BOOL:
                return maths.truth(a)
            case "cast":
                return maths.some(a.re)
            case _:
                raise UnsupportedError(f"`{op}` of complex numbers has no real form")

    def pair(self, expr: Expr) -> Pair:
        """The parts of a complex expression."""
        dtype = self._dtype(expr.dtype)
        match expr:
            case Const(value=value):
                return Pair(*(_constant(part, dtype) for part in (complex(value).real, complex(value).imag)))
            case Read() | Final():
                return Pair(*(self._read(expr, k) for k in range(2)))
            case Apply():
                return self._apply(expr)
            case Reduce(op="sum"):
                return self._each(expr, expr.arg)
            case Reduce(op="prod", arg=arg):
                maths = self._maths(expr.dtype)
                a = maths.kept(self.pair(arg))
                length = replace(expr, arg=self._shaped(maths.abs(a), arg.dims), dtype=dtype)
                angle = replace(expr, op="sum", arg=self._shaped(maths.angle(a), arg.dims), dtype=dtype)
                return maths.polar(length, angle)
            case Contract(left=left, right=right):
                a, b = self.pair(left), self.pair(right)

                def times(x: Part, y: Part) -> Part:
                    if x is None or y is None:
                        return None
                    x, y = self._shaped(x, left.dims), self._shaped(y, right.dims)
                    return replace(expr, left=x, right=y, dtype=dtype)

                maths = self._maths(expr.dtype)
                first = maths.sub(Pair(times(a.re, b.re), None), Pair(times(a.im, b.im), None)).re
                return Pair(first, maths.add(Pair(times(a.re, b.im), None), Pair(times(a.im, b.re), None)).re)
            case Reaxis() | Broadcast() | Unfold():
                return self._each(expr, expr.arg)
            case Gather(arg=arg, index=index):
                place = self.of(index)
                pair = self.pair(arg)
                return Pair(*(
                    None if p is None else replace(expr, arg=self._shaped(p, arg.dims), index=place, dtype=dtype)
                    for p in (pair.re, pair.im)
                ))  # fmt: skip
            case Linalg(op=op):
                raise UnsupportedError(f"`{op}` of complex matrices has no real form")
            case _:
                raise UnsupportedError(f"{type(expr).__name__} of complex numbers has no real form")

    def _each(self, expr: Reduce | Reaxis | Broadcast | Unfold, arg: Expr) -> Pair:
        """A node that treats both parts alike."""
        pair, dtype = self.pair(arg), self._dtype(expr.dtype)
        return Pair(*(
            None if part is None else replace(expr, arg=self._shaped(part, arg.dims), dtype=dtype)
            for part in (pair.re, pair.im)
        ))  # fmt: skip

    def _apply(self, expr: Apply) -> Pair:
        maths, op, args = self._maths(expr.dtype), expr.op, expr.args
        if op == "cast":
            return self._cast(expr, args[0])
        if op == "select":
            condition, *branches = args
            return self._typed(maths.select(self.of(condition), *(self.pair(b) for b in branches)), expr)
        pairs = [self.pair(a) for a in args]
        if op == "stop_gradient":
            return pairs[0]
        functions: dict[str, Callable[..., Pair]] = {
            "neg": maths.neg, "conj": maths.conj, "add": maths.add, "sub": maths.sub, "mul": maths.mul,
            "div": maths.div, "pow": maths.pow, "exp": maths.exp, "log": maths.log, "sqrt": maths.sqrt,
            "sin": maths.sin, "cos": maths.cos,
        }  # fmt: skip
        if op not in functions:
            raise UnsupportedError(f"`{op}` of complex numbers has no real form")
        return self._typed(functions[op](*pairs), expr)

    def _cast(self, expr: Apply, arg: Expr) -> Pair:
        dtype = self._dtype(expr.dtype)
        if arg.dtype.kind is Kind.COMPLEX:
            pair = self.pair(arg)
            return Pair(*(None if p is None else convert(p, dtype) for p in (pair.re, pair.im)))
        return Pair(convert(self.of(arg), dtype), None)

    def _typed(self, pair: Pair, expr: Expr) -> Pair:
        dtype = self._dtype(expr.dtype)
        return Pair(*(None if p is None else convert(p, dtype) for p in (pair.re, pair.im)))

    def _read(self, expr: Read | Final, which: int) -> Part:
        name = part_name(expr.name, which)
        if name in self.zero:
            return None
        if name in self.instead:
            return self.instead[name]
        return replace(expr, name=name, dtype=self._dtype(expr.dtype))

    # --- shapes and names ---------------------------------------------------------------------------------------------

    def _maths(self, dtype: DType) -> Arithmetic:
        return Arithmetic(self._dtype(dtype), self._keep)

    def _keep(self, expr: Expr) -> Expr:
        """A name for an expression, where there is room for one more equation."""
        if self.body is None or isinstance(expr, Read | Const) or not any(True for _ in reads(expr)):
            return expr
        if expr not in self.kept:
            name, number = f"{self.owner}.part", 1
            while name in self.taken:
                number += 1
                name = f"{self.owner}.part{number}"
            self.taken.add(name)
            self.body.append(Equation(name, expr, expr.span))
            self.kept[expr] = Read(name, 0, expr.dims, expr.dtype, expr.span)
        return self.kept[expr]

    def _number(self, part: Part, like: Expr) -> Expr:
        return Const(0.0, self._dtype(like.dtype)) if part is None else part

    def _fit(self, part: Expr, like: Expr) -> Expr:
        return convert(self._shaped(part, like.dims), self._dtype(like.dtype))

    def _shaped(self, part: Expr, dims: Dims) -> Expr:
        """The expression with exactly these dims: a part may lack some, or have found them in another order."""
        if part.dims == dims:
            return part
        if set(part.dims) == set(dims) and len(set(dims)) == len(dims):
            axes = tuple(part.dims.index(d) for d in dims)
            return Reaxis(part, axes, dims, part.dtype, span=part.span)
        return Broadcast(part, dims, part.dtype, part.span)


def _pruned(body: Sequence[Equation], needed: set[str]) -> tuple[Equation, ...]:
    """The equations that what is needed is made of."""
    wanted, kept = set(needed), list[Equation]()
    for equation in reversed(body):
        if equation.name in wanted:
            wanted |= {r.name for r in reads(equation.expr)}
            kept.append(equation)
    return tuple(reversed(kept))


def _constant(value: float, dtype: DType) -> Part:
    return None if value == 0 else Const(value, dtype)


def _given(buffer: Buffer) -> bool:
    return buffer.role not in (Role.SEQUENCE, Role.ONCE)
