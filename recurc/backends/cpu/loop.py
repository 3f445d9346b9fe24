"""One C function for a stage that goes through time one sequence at a time (`Loop`) or has no feedback (`Map`).

With the lane loop outside, one vector of lanes (or a few together) goes through all steps with its states in registers
or the first-level cache; otherwise each step runs its nests over whole rows, which streams through memory in order.
"""

from __future__ import annotations

from dataclasses import replace

from recurc.backends.cpu.body import Body
from recurc.backends.cpu.matrices import scratch
from recurc.backends.cpu.names import STORED, at, offset, stride_of
from recurc.backends.cpu.program import STATE_BYTES, state_bytes
from recurc.backends.cpu.values import Array
from recurc.backends.emit.expr import C_TYPES
from recurc.backends.emit.indexed import lower
from recurc.backends.emit.nodes import Call, Load, Matrix, Node, Place, dim_of, free_vars, loads
from recurc.backends.emit.text import Text
from recurc.types import DType, axis_ids

_BLOCKS = 8  # of lanes for the threads to share
_STEPS_AHEAD = 8  # how far a loop over time asks for its inputs in advance
SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long lane0, long lane1"


def print_loop(body: Body, function: str, why: str) -> str:
    """`static void FUNCTION(...)`: sequences b0..b1, steps t0..t1, lanes lane0..lane1 of the stage."""
    text = Text()
    program = body.program
    text(*(f"// {line}" for line in why.splitlines()))
    with text.braces(f"static void {function}({SIGNATURE})"):
        if not (program.lanes_apart and program.lane):
            text("(void)lane0, (void)lane1;")
        with text.braces("for (long b = b0; b < b1; b++)"):
            _sequence_pointers(body, text)
            if program.lanes_outside and program.lane is not None:
                body.vectors = _vectors(body)
                var, stride = body.first_lane, f"{body.vectors} * LANES" if body.vectors > 1 else "LANES"
                if body.vectors > 1:
                    text(f"// {body.vectors} vectors of lanes take each step together: while one waits, others work.")
                with text.braces(f"for (long {var} = lane0; {var} < lane1; {var} += {stride})"):
                    if body.ragged:
                        text(f"const long lanes = rc_lanes(lane1 - {var});")
                    _through_time(body, text)
            else:
                _through_time(body, text)
        if any(body.streams(name) for name in program.stage.writes):
            text("rc_streamed();")
    return str(text)


def _vectors(body: Body) -> int:
    """How many vectors of lanes go through time together: what one waits for (its exponentials, its cache lines), the
    others fill. They must leave enough of the lanes for other threads and their states in the first-level cache."""
    stage, lane = body.program.stage, body.program.lane
    assert lane is not None
    extent = body.spell.extent(dim_of(lane))
    states = state_bytes(stage, lane, body.spell.spec)
    for count in (4, 2):
        blocks, rest = divmod(extent, count * body.lanes)
        if stage.packs and rest == 0 and blocks >= _BLOCKS and count * states <= STATE_BYTES:
            return count
    return 1


def _through_time(body: Body, text: Text) -> None:
    _preload(body, text)
    _declare(body, text)
    for carry in body.program.stage.carries:
        copy_state(body, carry.name, text, save=False)
    with text.braces("for (long t = t0; t < t1; t++)"):
        step_pointers(body, text, "b")
        _look_ahead(body, text)
        body.all_nests(text)
        _rotate(body, text)
    for carry in body.program.stage.carries:
        with text.braces(f"if (call->{body.spell(f'{carry.name}@out')}.data)"):
            copy_state(body, carry.name, text, save=True)


def _look_ahead(body: Body, text: Text) -> None:
    """Asks for what a later step reads: one vector of lanes goes through time in strides of a whole row, which some
    processors do not see coming."""
    lane, spell = body.program.lane, body.spell
    if lane is None or not body.program.lanes_outside:
        return
    read = {n for n, lags in body.buffers_read().items() if 0 in lags and spell.buffers[n].has_time}
    lines = [
        f"PREFETCH_L1({body.pointer(n)} + {spell.var(lane)} + {_STEPS_AHEAD} * call->{spell.field(n)}.time);"
        for n, buffer in body.homes(read)
        if buffer.dims == (dim_of(lane),) and buffer.spacing == 1
    ]
    if lines:
        body.each(lines, text)


def _sequence_pointers(body: Body, text: Text) -> None:
    spell, read = body.spell, body.buffers_read()
    for name, buffer in body.homes(set(read) - _only_packed(body)):
        if buffer.has_time:
            continue
        kind = spell.stored(name)
        text(f"const {kind} *{body.pointer(name)} = ROW(call->{spell.field(name)}, {kind}, b);")
    for name, buffer in body.homes(n for n in body.program.stage.writes if body.streams(n)):
        kind, field = spell.stored(name), spell.field(name)
        whole = spell.count(buffer.dims) if buffer.spacing == 1 else f"2 * {spell.count(buffer.dims)}"
        size = f"call->batch * call->steps * {whole}"
        text(f"const int {spell(f'{field}@stream')} = rc_streams(&call->{field}, b, {size}, sizeof({kind}));")
    for carry in body.program.stage.carries:
        if carry.name not in body.program.stage.identity:
            source, kind = spell(f"{carry.name}@in"), _state_type(body, carry.name)
            text(f"const {kind} *{source} = ROW(call->{source}, {kind}, b);")
        target, kind = spell(f"{carry.name}@out"), _state_type(body, carry.name)
        text(f"{kind} *{target} = ROW(call->{target}, {kind}, b);")


def _only_packed(body: Body) -> set[str]:
    """Params that are read from their packed copies alone."""
    groups = [w for each in body.program.weights.values() for w in each]
    folds = {s.name for w in groups for s in w.folds}
    values = [s.value for n in body.program.nests for s in n.stmts if s.name not in folds]
    values += [factor for w in groups for _, factor in w.factors]
    return {load.name for w in groups for load in w.params} - {load.name for v in values for load in loads(v)}


def _state_type(body: Body, carry: str) -> str:
    return STORED[body.compute(body.carries[carry].dtype)]


def step_pointers(
    body: Body, text: Text, sequence: str, step: str = "t", only: set[str] | None = None, writes: bool = True
) -> None:
    """Pointers to the row of a sequence and step, for every buffer with a time axis (or those in `only`)."""
    spell = body.spell
    used = {
        name: lags for name, lags in body.buffers_read().items()
        if spell.buffers[name].has_time and (only is None or name in only)
    }  # fmt: skip
    for name in body.program.stage.writes if writes else ():
        if only is not None and name not in only:
            continue
        if not spell.buffers[name].has_time:
            if name not in used:
                field, kind = spell.field(name), spell.stored(name)
                text(f"{kind} *{body.pointer(name)} = ({kind} *)call->{field}.data;")
            continue
        used.setdefault(name, set())
    written = {spell.field(n) for n in body.program.stage.writes}
    for name, _ in body.homes(used):
        field, kind = spell.field(name), spell.stored(name)
        lags = {lag for n in used if spell.field(n) == field for lag in used[n]}
        constant = "" if writes and field in written else "const "
        if 0 in lags or field in written:
            place = f"AT(call->{field}, {kind}, {sequence}, {step})"
            text(f"{constant}{kind} *{body.pointer(name)} = {place};")
        if 1 in lags:
            before = f"AT(call->{field}, {kind}, {sequence}, {step} - 1)"
            initial = f"ROW(call->{spell.field(f'{name}@initial')}, {kind}, {sequence})"
            text(f"const {kind} *{body.pointer(name, 1)} = {step} > 0 ? {before} : {initial};")


def _preload(body: Body, text: Text) -> None:
    """Params that do not change with time, into variables."""
    seen: set[str] = set()
    for nest in body.program.nests:
        for stmt in nest.stmts:
            for load in loads(stmt.value):
                if load.name in seen or load.lag or load.name in body.made or load.name in body.carries:
                    continue
                if body.preloaded(load):
                    seen.add(load.name)
                    _preload_one(body, load, text)


def _preload_one(body: Body, load: Load, text: Text) -> None:
    buffer = body.spell.buffers[load.name]
    array = body.param_array(load)
    axes = axis_ids(buffer.dims)
    direct = Load(load.name, 0, axes, load.dtype)
    value = body.buffer_read(direct, direct=True)
    if not array.dims:
        kind = "vec" if array.has_lane else body.c_type(buffer.dtype, False)
        body.variable(kind, array.name, value, "", text, array.has_lane, True)
        return
    _declare_array(body, array.name, array, buffer.dtype, text, False)
    inner = Text()
    body.each([body.array_write(array, axes, value)], inner, array.has_lane)
    body.loops(tuple(v for v in axes if v != body.program.lane), inner, text)


def _declare(body: Body, text: Text) -> None:
    program = body.program
    for carry in program.stage.carries:
        for new in (
            (False, True) if carry.name in program.doubled and body.carry_array(carry.name, False).dims else (False,)
        ):
            array = body.carry_array(carry.name, new)
            _declare_array(body, array.name, array, carry.dtype, text, bool(new or carry.name in program.doubled))
    for _, stmt in body.made.values():
        if body.needs_array(stmt) and not body.is_carry(stmt):
            array, _ = body.value_array(stmt, stmt.index)
            _declare_array(body, array.name, array, stmt.value.dtype, text, False)
        if isinstance(stmt.value, Matrix):
            name, dtype, count, number = scratch(body, stmt, stmt.value)
            _declare_memory(body, name, C_TYPES[dtype], count, body.takes_stack(number * dtype.itemsize), text)


def _declare_array(body: Body, name: str, array: Array, dtype: DType, text: Text, pointer: bool) -> None:
    vector = array.has_lane and body.program.lanes_outside
    kind = body.c_type(dtype, vector)
    count = body.array_count(array)
    if not array.dims:
        text(f"{kind} {name}{f'[{count}]' if vector and body.vectors > 1 else ''};")
        return
    fits = body.fits_stack(array, vector)
    if fits and pointer:
        room = body.spell(f"{name}@room")
        text(f"{kind} {room}[{count}] ALIGNED, *{name} = {room};")
    else:
        _declare_memory(body, name, kind, count, fits, text)


def _declare_memory(body: Body, name: str, kind: str, count: str, on_stack: bool, text: Text) -> None:
    if on_stack:
        text(f"{kind} {name}[{count}] ALIGNED;")
        return
    room = body.spell(f"{body.function}@{name}@room")
    body.rooms[room] = (kind, count)
    text(f"{kind} *{name} = ROW(call->{room}, {kind}, RC_THREAD);  // too large for the stack")


def thread_rooms(body: Body) -> list[str]:
    """Workspace of the arrays that are too large for the stack, one of each for every thread."""
    return [
        f"call->{room} = (rc_array){{rc_take(base, &used, threads * (int64_t)({count}) * (int64_t)sizeof({kind})), "
        f"{count}, 0, 0}};"
        for room, (kind, count) in body.rooms.items()
    ]


def _rotate(body: Body, text: Text) -> None:
    """After a step the new states become the old ones."""
    for carry in body.program.stage.carries:
        array = body.carry_array(carry.name, False)
        if not array.dims:
            several = array.has_lane and body.vectors > 1
            new = body.spell(f"{carry.name}@new") + ("[each]" if several else "")
            body.each([f"{array.name}{'[each]' if several else ''} = {new};"], text, array.has_lane)
        elif carry.name in body.program.doubled:
            new = body.carry_array(carry.name, True).name
            with text.braces(""):
                text(f"{body.c_type(carry.dtype, array.has_lane and body.program.lanes_outside)} *swap = {array.name};")
                text(f"{array.name} = {new};", f"{new} = swap;")


def _in_reals(node: Node) -> Node:
    """`node` with places compared as real numbers, which a vector of lanes can be."""
    match node:
        case Call("eq", (Place() as a, Place() as b)):
            return replace(node, args=tuple(Call("cast", (place,), DType.REAL) for place in (a, b)))
        case Call(args=args):
            return replace(node, args=tuple(_in_reals(a) for a in args))
        case _:
            return node


def copy_state(body: Body, carry: str, text: Text, save: bool) -> None:
    """Between a state's array and its place in memory: `NAME_in` before the first step, `NAME_out` after the last."""
    program, spell = body.program, body.spell
    dims = body.carries[carry].dims
    axes = axis_ids(dims)
    array = body.carry_array(carry, False)
    pointer = spell(f"{carry}@{'out' if save else 'in'}")
    given = spell.buffers.get(f"{carry}@initial")  # how what is copied from and to lies in memory
    place = offset(spell.place(axes, dims), given)
    one = Text()
    lane = program.lane
    in_a_row = lane in axes and axes[-1] == lane and (given is None or given.spacing == 1)
    if save:
        value = body.array_read(array, axes)
        if in_a_row:
            part = ", lanes" if body.ragged else ""
            one(f"rc_store{'_part' if part else ''}_{body.suffix}({at(pointer, place)}, {value}{part});")
        elif lane in axes:
            stride = stride_of(axes.index(lane), dims, spell, given)
            count = "lanes" if body.ragged else "LANES"
            one(f"rc_scatter_{body.suffix}({at(pointer, place)}, {stride}, {value}, {count});")
        else:
            guard = ""
            if program.lanes_apart and lane is not None:
                guard = f"if ({body.first_lane if program.lanes_outside else 'lane0'} == 0) "
            one(f"{guard}{pointer}[{place or '0'}] = {value};")
    else:
        identity = program.stage.identity.get(carry)
        if identity is not None:
            node = lower(identity, axis_ids(identity.dims), spell.sizes)
            node = _in_reals(node) if lane in free_vars(node) else node
            value = body.printer(node)
            if lane in axes and lane not in free_vars(node):
                value = f"rc_spread_{body.suffix}({value})"
        elif in_a_row:
            value = (
                f"rc_load_part_{body.suffix}({at(pointer, place)}, lanes)"
                if body.ragged
                else f"rc_load_{body.suffix}({at(pointer, place)})"
            )
        elif lane in axes:
            stride = stride_of(axes.index(lane), dims, spell, given)
            value = f"rc_gather_{body.suffix}({at(pointer, place)}, {stride}, {'lanes' if body.ragged else 'LANES'})"
        else:
            value = f"{pointer}[{place or '0'}]"
        one(body.array_write(array, axes, value))
    order = [v for v in axes if v != lane]
    if lane is not None and lane in axes and not program.lanes_outside:
        order.append(lane)
    inner = Text()
    body.each(one.lines, inner, array.has_lane)
    body.loops(tuple(order), inner, text)
