"""`Map` and `Loop` stages with one thread per lane: a position along the lane dims of one sequence (and, in a map, one
step). Neighbouring threads take neighbouring positions of the innermost lane dim, so their accesses are coalesced; the
loop over t runs inside the thread with the states in registers and the inputs of coming steps already on their way."""

from __future__ import annotations

from collections.abc import Sequence

from recurc.backends.base import Specialization
from recurc.backends.cuda.body import Body, Local, constant_reads, gathered_reads, inner_axes, time_reads
from recurc.backends.cuda.flatten import flatten
from recurc.backends.cuda.matrices import IN_REGISTERS, largest_matrix
from recurc.backends.cuda.program import Launch, Step, Term
from recurc.backends.cuda.scalars import arithmetic, c_type
from recurc.backends.cuda.scope import Scope, product
from recurc.backends.emit.lanes import lane_dims
from recurc.ir import Equation
from recurc.plan import Buffer, Loop, Map, Plan
from recurc.types import Dims

REGISTER_BUDGET = 160  # values one thread may keep across equations before the block form takes over
PREFETCH_BUDGET = 16  # registers for values on their way ahead of the step that needs them; an f64 takes two
KEPT_CONSTANTS = 64  # a param that takes at most this many registers of a thread is loaded once, before the loop
BLOCK = 64  # small blocks spread few lanes over many multiprocessors


def fits_registers(stage: Map | Loop, plan: Plan, spec: Specialization) -> bool:
    """Whether one thread can hold what one lane of the stage needs."""
    lanes = lane_dims(stage)
    equations = flatten(stage.body, _carried(stage))
    shapes = [e.expr.dims for e in equations]
    if isinstance(stage, Loop):
        shapes += [c.dims for c in stage.carries] * 2
    if largest_matrix([e.expr for e in equations], spec) > IN_REGISTERS:
        return False
    inner = [product([n for _, n in inner_axes(dims, lanes, spec)]) for dims in shapes]
    return sum(n for n in inner if n > 1) <= REGISTER_BUDGET


def _carried(stage: Map | Loop) -> list[str]:
    return [c.name for c in stage.carries] if isinstance(stage, Loop) else []


def emit_lanes(
    stage: Map | Loop, plan: Plan, spec: Specialization, kernel: str, scope: Scope
) -> tuple[Step, tuple[str, ...]]:
    """Writes the kernel's body into `scope`; returns how to launch it and the buffers it writes."""
    lanes = lane_dims(stage)
    per_sequence = product([spec.size(d) for d in lanes])
    over_time = isinstance(stage, Loop) or stage.over_time
    open_lanes(scope, lanes, batched=over_time, stepped=isinstance(stage, Map) and over_time)
    term = Term(per_sequence, BLOCK, batch=over_time, steps=isinstance(stage, Map) and over_time)
    if isinstance(stage, Loop):
        written = _loop(stage, plan, spec, scope, lanes)
        what = f"loop over t, {per_sequence} lane{'s' * (per_sequence != 1)} per sequence in registers"
    else:
        written = _map(stage, plan, scope, lanes)
        what = "map over all t" if stage.over_time else "map, once per call"
    return Step(what, (Launch(kernel, scope.arguments, (term,), block=BLOCK),)), written


def open_lanes(scope: Scope, lanes: Dims, batched: bool, stepped: bool) -> None:
    """Finds which sequence, step and lane this thread is."""
    sizes = [scope.spec.size(d) for d in lanes]
    total = product(sizes)
    limit = " * ".join(([scope.batch()] if batched else []) + ([scope.steps()] if stepped else []) + [str(total)])
    scope.line("const i64 lane = i64(blockIdx.x) * blockDim.x + threadIdx.x;")
    scope.line(f"if (lane >= {limit}) return;")
    split_lanes(scope, lanes, "lane")
    rest = f"lane / {total}" if total > 1 else "lane"
    if stepped:
        scope.line(f"const i64 t = ({rest}) % {scope.steps()}, b = ({rest}) / {scope.steps()};")
    else:
        scope.line(f"const i64 b = {rest if batched else 0};")


def split_lanes(scope: Scope, lanes: Dims, lane: str) -> None:
    """The index along each lane dim, innermost fastest."""
    below = 1
    for dim in reversed(lanes):
        size = scope.spec.size(dim)
        if size == 1:
            continue  # no address depends on it
        quotient = f"{lane} / {below}" if below > 1 else lane
        scope.line(f"const int {scope.place(dim)} = int({quotient} % {size});  // along {_dim_word(dim)}")
        below *= size


def _dim_word(dim: str) -> str:
    return dim if dim.isascii() and dim.isidentifier() else "a lane dim"


def _map(stage: Map, plan: Plan, scope: Scope, lanes: Dims) -> tuple[str, ...]:
    body = Body(scope, lanes)
    values = {e.name: body.equation(e) for e in flatten(stage.body)}
    for name in stage.writes:
        body.store(plan.buffer(name), values[name])
    return stage.writes


def _loop(stage: Loop, plan: Plan, spec: Specialization, scope: Scope, lanes: Dims) -> tuple[str, ...]:
    equations = flatten(stage.body, _carried(stage))
    exprs = [e.expr for e in equations]
    carried = {c.name: c for c in stage.carries}
    hidden = frozenset(e.name for e in equations) | carried.keys()
    buffers = {b.name: b for b in plan.buffers}
    body = Body(scope, lanes, tuple(carried))

    load_constants(body, equations, hidden)
    states: dict[str, Local] = {}
    for carry in stage.carries:
        states[carry.name] = body.bind(carry.name, 1, body.local(f"{carry.name}@prev", carry.dims))
        body.load_local(plan.buffer(f"{carry.name}@initial"), states[carry.name])

    inputs = time_reads(exprs, buffers, hidden)
    picked = gathered_reads(exprs)
    streamed = [b for b in inputs if not inner_axes(b.dims, lanes, spec) and b.name not in picked]
    depth = max(1, min(8, PREFETCH_BUDGET // max(1, sum(_words(b, spec) for b in streamed))))

    arrivals = {b.name: body.bind(b.name, 0, body.local(b.name, b.dims)) for b in streamed}
    parameters = ["const i64 t"] + [f"const {c_type(b.dtype, spec)} {arrivals[b.name].name}" for b in streamed]
    scope.line()
    with scope.block(f"auto advance = [&]({', '.join(parameters)})", "};"):
        for buffer in inputs:
            if buffer not in streamed and buffer.name not in picked:
                body.load_local(buffer, body.bind(buffer.name, 0, body.local(buffer.name, buffer.dims)))
        values = {e.name: body.equation(e, carried[e.name].dims if e.name in carried else None) for e in equations}
        for name in stage.writes:
            body.store(plan.buffer(name), values[name])
        for name, state in states.items():
            body.copy(state, values[name])

    scope.line()
    _run_ahead(
        scope,
        [(b.name, c_type(b.dtype, spec), scope.load(b, [scope.place(d) for d in b.dims], t="{t}")) for b in streamed],
        depth,
    )
    finals = [c for c in stage.carries if plan.has(f"{c.name}@final")]
    for carry in finals:
        body.store(plan.buffer(f"{carry.name}@final"), states[carry.name])
    return (*stage.writes, *(f"{c.name}@final" for c in finals))


def _words(buffer: Buffer, spec: Specialization) -> int:
    """The registers that one element takes."""
    return max(1, arithmetic(buffer.dtype, spec).itemsize // 4)


def load_constants(body: Body, equations: Sequence[Equation], hidden: frozenset[str]) -> None:
    """Params that fit the thread are loaded once; larger ones are read where they are used."""
    buffers = {b.name: b for b in body.scope.plan.buffers}
    exprs = [e.expr for e in equations]
    picked = gathered_reads(exprs)
    for buffer in constant_reads(exprs, buffers, hidden | picked):
        elements = product([n for _, n in inner_axes(buffer.dims, body.lanes, body.spec)])
        if elements * _words(buffer, body.spec) <= KEPT_CONSTANTS and len(set(buffer.dims)) == len(buffer.dims):
            body.load_local(buffer, body.bind(buffer.name, 0, body.local(buffer.name, buffer.dims)), t="0")


def _run_ahead(scope: Scope, streams: Sequence[tuple[str, str, str]], depth: int) -> None:
    """Runs `advance` over all t. `streams`: name, type and load (with `{t}`) of each value asked for `depth` steps
    early."""
    steps = scope.steps()
    if not streams:
        scope.line(f"for (i64 t = 0; t < {steps}; ++t) advance(t);")
        return
    ahead = [(scope.names(f"{name}@ahead"), kind, load) for name, kind, load in streams]
    now = [(scope.names(f"{name}@now"), kind) for name, kind, _ in streams]
    scope.line(f"// {depth} steps of inputs are always on their way.")
    declared = [f"{kind} {name}[{depth}];" for name, kind, _ in ahead]
    scope.line(" ".join(declared))

    def ask(start: str) -> None:
        with scope.unrolled([("slot", depth)]):
            scope.line(f"const i64 at = {start}slot < {steps} ? {start}slot : {steps} - 1;")
            for name, _, load in ahead:
                scope.line(f"{name}[slot] = {load.replace('{t}', 'at')};")

    ask("")
    scope.line("i64 t = 0;")
    with scope.block(f"for (; t + {depth} <= {steps}; t += {depth})"):
        scope.line(" ".join(f"{kind} {name}[{depth}];" for name, kind in now))
        with scope.unrolled([("slot", depth)]):
            for (held, _), (name, _, _) in zip(now, ahead, strict=True):
                scope.line(f"{held}[slot] = {name}[slot];")
        ask(f"t + {depth} + ")
        with scope.unrolled([("slot", depth)]):
            scope.line(f"advance(t + slot, {', '.join(f'{name}[slot]' for name, _ in now)});")
    with scope.unrolled([("slot", depth)]):
        scope.line(f"if (t + slot < {steps}) advance(t + slot, {', '.join(f'{name}[slot]' for name, _, _ in ahead)});")
