"""`Scan` stages: one block per sequence and tile of lanes walks over T in chunks. Each thread combines a few
consecutive steps, a warp joins its threads by shuffles (Kogge-Stone), the block joins its warps through shared
memory, and the states at a chunk's end start the next chunk. Every element is lifted twice (the second time from the
cache): once for the totals, once to advance the states, so nothing but the inputs and the outputs touches device
memory."""

from __future__ import annotations

from recurc.backends.base import Specialization
from recurc.backends.cuda.body import Body, Local
from recurc.backends.cuda.flatten import flatten
from recurc.backends.cuda.lane_stage import load_constants, split_lanes
from recurc.backends.cuda.program import Launch, Step, Term
from recurc.backends.cuda.scalars import arithmetic, c_type
from recurc.backends.cuda.scope import Scope, product
from recurc.backends.emit.lanes import lane_dims
from recurc.facts import Monoid
from recurc.ir import Equation, Expr, reads
from recurc.plan import Plan, Scan
from recurc.types import Dims

ITEMS = 8  # consecutive steps per thread
SECTOR = 32  # bytes the memory moves at once: so many bytes of neighbouring lanes lie side by side in a warp
SMALL_ELEMENT = 8  # words; a larger element leaves registers for fewer threads and no unrolling over the items


def element_words(monoid: Monoid, lanes: Dims, spec: Specialization) -> int:
    """The size of a lifted element of one lane in 32-bit words."""
    return sum(
        product([spec.size(d) for d in c.dims if d not in lanes]) * -(-arithmetic(c.dtype, spec).itemsize // 4)
        for c in monoid.components
    )


def emit_scan(stage: Scan, plan: Plan, spec: Specialization, kernel: str, scope: Scope) -> tuple[Step, list[str]]:
    """Writes the kernel's body into `scope`; returns how to launch it and the buffers it writes."""
    lanes = lane_dims(stage)
    per_sequence = product([spec.size(d) for d in lanes])
    width = 1  # lanes side by side in a warp
    while width < min(per_sequence, SECTOR // spec.real.itemsize):
        width *= 2
    members = 32 // width  # threads of a warp along time
    words = element_words(stage.monoid, lanes, spec)
    warps = 8 if words <= SMALL_ELEMENT else 4
    chunk = members * warps * ITEMS
    element = f"{kernel}_element"
    _element(stage.monoid, lanes, scope, element)

    tiles = -(-per_sequence // width)
    scope.line("RC_DYNAMIC_SHARED(memory);")
    scope.line(f"{element}* const totals = ({element}*)memory;  // [warp][lane]")
    scope.line(
        f"const int warp = threadIdx.x / 32, member = (threadIdx.x & 31) / {width}, column = threadIdx.x % {width};"
    )
    scope.line(
        f"const i64 b = i64(blockIdx.x) / {tiles}, lane_of_sequence = i64(blockIdx.x) % {tiles} * {width} + column;"
    )
    scope.line(f"const bool active = lane_of_sequence < {per_sequence};  // idle threads repeat the last lane, unseen")
    if per_sequence > 1:
        scope.line(f"const i64 lane = active ? lane_of_sequence : {per_sequence - 1};")
    split_lanes(scope, lanes, "lane")

    body = Body(scope, lanes)
    lifted = flatten([*stage.pre, *_lift(stage.monoid)])
    post = flatten(stage.post)
    hidden = frozenset(e.name for e in (*lifted, *post)) | {c.name for c in stage.carries}
    load_constants(body, [*lifted, *post], hidden)
    states: dict[str, Local] = {}
    for carry in stage.carries:
        states[carry.name] = body.local(f"{carry.name}@prev", carry.dims)
        body.load_local(plan.buffer(f"{carry.name}@initial"), states[carry.name])
    carried = _carry_struct(stage, lanes, scope, f"{kernel}_states")
    scope.line(f"{carried}* const boundary = ({carried}*)(totals + {warps * width});  // the states at a chunk's end")

    scope.line()
    with scope.block("auto lift = [&](const i64 t)", "};"):
        _print_lift(Body(scope, lanes), body, stage, lifted, element)
    with scope.block(f"auto apply = [&](const {element}& lifted)", "};"):
        _print_apply(stage, scope, lanes, states)
    with scope.block("auto advance = [&](const i64 t)", "};"):
        _print_advance(stage, plan, scope, body, states, lifted, post)

    unroll = "#pragma unroll" if words <= SMALL_ELEMENT else "#pragma unroll 1"
    scope.line()
    with scope.block(f"for (i64 chunk = 0; chunk < {scope.steps()}; chunk += {chunk})"):
        scope.line(f"const i64 first = chunk + (warp * {members} + member) * {ITEMS};")
        scope.line(f"{element} total = {element}_identity();")
        scope.line(unroll)
        with scope.block(f"for (int slot = 0; slot < {ITEMS}; ++slot)"):
            scope.line("const i64 t = first + slot;")
            scope.line(f"const {element} next = lift(t < {scope.steps()} ? t : {scope.steps()} - 1);")
            scope.line(f"if (t < {scope.steps()}) total = {element}_combine(total, next);")
        scope.line("// Kogge-Stone along time inside the warp")
        with scope.block(f"for (int offset = 1; offset < {members}; offset *= 2)"):
            scope.line(f"const {element} earlier = rc_shuffle_up(total, offset * {width});")
            scope.line(f"if (member >= offset) total = {element}_combine(earlier, total);")
        scope.line(
            f"{element} prefix = rc_shuffle_up(total, {width});  // of the steps before this thread's, in the warp"
        )
        scope.line(f"if (member == 0) prefix = {element}_identity();")
        scope.line(f"if (member == {members - 1}) totals[warp * {width} + column] = total;")
        scope.line("__syncthreads();")
        scope.line(
            f"for (int at = warp - 1; at >= 0; --at) prefix = {element}_combine(totals[at * {width} + column], prefix);"
        )
        scope.line("apply(prefix);")
        scope.line(unroll)
        with scope.block(f"for (int slot = 0; slot < {ITEMS}; ++slot)"):
            scope.line(f"if (first + slot < {scope.steps()}) advance(first + slot);")
        scope.line(
            "// The last thread along time holds the states at the chunk's end, also when the sequence ended before."
        )
        with scope.block(f"if (warp == {warps - 1} && member == {members - 1})"):
            _through(body, states, "boundary[column]", out=True)
        scope.line("__syncthreads();")
        _through(body, states, "boundary[column]", out=False)

    written = list(stage.writes)
    for carry in stage.carries:
        if plan.has(f"{carry.name}@final"):
            target = plan.buffer(f"{carry.name}@final")
            body.store(target, states[carry.name], guards=("active", "threadIdx.x < " + str(width)))
            written.append(target.name)
    state_words = sum(2 * product([spec.size(d) for d in c.dims if d not in lanes]) for c in stage.carries)
    shared = 4 * width * (warps * words + state_words) + 64
    beside = "1 lane" if width == 1 else f"{width} lanes"
    what = f"scan over t by the {stage.monoid.cls} monoid, chunks of {chunk} steps, {beside} a block"
    launch = Launch(kernel, scope.arguments, (Term(tiles), Term(batch=True)), block=32 * warps, shared_bytes=shared)
    return Step(what, (launch,)), written


def _lift(monoid: Monoid) -> list[Equation]:
    return [Equation(f"{c.name}@lift", e) for c, e in zip(monoid.components, monoid.lift, strict=True)]


def _fields(monoid: Monoid, lanes: Dims, scope: Scope, holder: str) -> dict[str, Local]:
    """The components of an element variable."""
    return {c.name: Local(f"{holder}.{scope.names(c.name)}", c.dims, lanes, scope.spec) for c in monoid.components}


def _element(monoid: Monoid, lanes: Dims, scope: Scope, element: str) -> None:
    """The struct of a lifted element, its identity and its combine, before the kernel."""
    spec = scope.spec
    text = Scope(scope.plan, spec)
    text.depth = 0
    with text.block(f"struct {element}", "};"):
        for component in monoid.components:
            field = Local(text.names(component.name), component.dims, lanes, spec)
            text.line(f"{c_type(component.dtype, spec)} {field.declarator};")
    text.line()
    body = Body(text, lanes)
    result = _fields(monoid, lanes, text, "result")
    with text.block(f"RC_INLINE {element} {element}_identity()"):
        text.line(f"{element} result;")
        for component, expr in zip(monoid.components, monoid.identity, strict=True):
            body.define(result[component.name], expr, declare=False)
        text.line("return result;")
    text.line()
    for side, holder in (("1", "earlier"), ("2", "later")):
        for name, field in _fields(monoid, lanes, text, holder).items():
            body.bind(f"{side}.{name}", 0, field)
    with text.block(f"RC_INLINE {element} {element}_combine(const {element}& earlier, const {element}& later)"):
        text.line(f"{element} result;")
        _print_into(body, monoid, list(monoid.combine), result)
        text.line("return result;")
    text.line()
    scope.preamble.extend(text.lines)


def _print_into(body: Body, monoid: Monoid, exprs: list[Expr], result: dict[str, Local]) -> None:
    named = [Equation(f"{c.name}@new", e) for c, e in zip(monoid.components, exprs, strict=True)]
    targets = {f"{c.name}@new": result[c.name] for c in monoid.components}
    for equation in flatten(named):
        if equation.name in targets:
            body.define(targets[equation.name], equation.expr, declare=False)
        else:
            body.equation(equation)


def _carry_struct(stage: Scan, lanes: Dims, scope: Scope, name: str) -> str:
    text = Scope(scope.plan, scope.spec)
    text.depth = 0
    with text.block(f"struct {name}", "};"):
        for carry in stage.carries:
            field = Local(scope.names(f"{carry.name}@prev"), carry.dims, lanes, scope.spec)
            text.line(f"{c_type(carry.dtype, scope.spec)} {field.declarator};")
    text.line()
    scope.preamble.extend(text.lines)
    return name


def _through(body: Body, states: dict[str, Local], holder: str, out: bool) -> None:
    """Copies the states to a struct in shared memory, or back."""
    for state in states.values():
        field = Local(f"{holder}.{state.name}", state.dims, state.lanes, state.spec)
        body.copy(field, state) if out else body.copy(state, field)


def _print_lift(fresh: Body, body: Body, stage: Scan, lifted: list[Equation], element: str) -> None:
    fresh.share(body)
    scope = fresh.scope
    scope.line(f"{element} result;")
    targets = {f"{n}@lift": field for n, field in _fields(stage.monoid, fresh.lanes, scope, "result").items()}
    for equation in lifted:
        if equation.name in targets:
            fresh.define(targets[equation.name], equation.expr, declare=False)
        else:
            fresh.equation(equation)
    scope.line("return result;")


def _print_apply(stage: Scan, scope: Scope, lanes: Dims, states: dict[str, Local]) -> None:
    """The states after the steps that an element stands for."""
    body = Body(scope, lanes)
    for name, field in _fields(stage.monoid, lanes, scope, "lifted").items():
        body.bind(name, 0, field)
    for name, state in states.items():
        body.bind(name, 1, state)
    new: dict[str, Local] = {}
    for equation in flatten(
        [Equation(f"{n}@new", e) for n, e in zip(stage.monoid.states, stage.monoid.apply, strict=True)]
    ):
        state = equation.name.removesuffix("@new")
        value = body.equation(equation, states[state].dims if state in states else None)
        if state in states:
            new[state] = value
    for name, value in new.items():
        body.copy(states[name], value)


def _print_advance(
    stage: Scan,
    plan: Plan,
    scope: Scope,
    body: Body,
    states: dict[str, Local],
    lifted: list[Equation],
    post: list[Equation],
) -> None:
    """One step: the element of this step applied to the states, then what reads them."""
    inside = Body(scope, body.lanes)
    inside.share(body)
    read_before = {r.name for e in post for r in reads(e.expr) if r.lag == 1}
    for carry in stage.carries:
        inside.bind(carry.name, 0, states[carry.name])
        if carry.name in read_before:
            before = inside.bind(carry.name, 1, inside.local(f"{carry.name}@before", carry.dims))
            scope.line(f"{c_type(carry.dtype, scope.spec)} {before.declarator};")
            inside.copy(before, states[carry.name])
    scope.line("apply(lift(t));")
    needed = _used(stage, post)
    values = {e.name: inside.equation(e) for e in flatten(stage.pre) if e.name in needed}
    values |= {e.name: inside.equation(e) for e in post}
    for name in stage.writes:
        inside.store(plan.buffer(name), values.get(name) or states[name], guards=("active",))


def _used(stage: Scan, post: list[Equation]) -> set[str]:
    """The `pre` values that `post` or the stage's writes need, directly or through others."""
    wanted = set(stage.writes) | {r.name for e in post for r in reads(e.expr)}
    for equation in reversed(flatten(stage.pre)):
        if equation.name in wanted:
            wanted |= {r.name for r in reads(equation.expr)}
    return wanted
