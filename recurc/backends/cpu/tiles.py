"""C functions for stages with matrix products against params (`U @ h[t-1]`, a hoisted `W @ x`).

The params are packed once per call into panels: for each vector of outputs, the vectors the inner loop needs, one
after the other. A tile is one vector of outputs for a few rows (sequences of a `Loop`, steps of a `Map` or `Matmul`):
its sums stay in registers, each panel vector is loaded once for all rows, and the elementwise rest of the nest
follows at once. With few sequences the threads split the outputs and wait for each other after every step.
"""

from __future__ import annotations

from recurc.backends.cpu.body import Array, Body
from recurc.backends.cpu.loop import copy_state, step_pointers
from recurc.backends.cpu.names import at, stride_of
from recurc.backends.cpu.weights import Weights
from recurc.backends.emit.indexed import Load, Node, Var, dim_of, loads
from recurc.backends.emit.text import Text

SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long lane0, long lane1, rc_team *team"


def print_tiled(body: Body, function: str, why: str) -> str:
    """Pack, tile and driver functions of the stage."""
    pieces = [_pack_function(body, function)]
    for number in range(len(body.program.nests)):
        pieces.append(_tile_function(body, function, number))
        pieces.append(_rows_function(body, function, number))
    pieces.append(_driver(body, function, why))
    return "\n\n".join(pieces)


# --- packing ------------------------------------------------------------------------------------------------------


def _field(body: Body, function: str, nest: int, group: int) -> str:
    return body.spell(f"{function}@packed{nest}{'abcdefgh'[group]}")


def _groups(body: Body) -> list[tuple[int, int, Weights]]:
    return [(n, g, w) for n, groups in sorted(body.program.weights.items()) for g, w in enumerate(groups)]


def packed_params(body: Body) -> set[str]:
    """Params whose packed form serves every sequence."""
    return {load.name for _, _, w in _groups(body) for load in w.params} if body.program.tiled else set()


def _outer_vars(weights: Weights, lane: Var | None) -> tuple[Var, ...]:
    """Variables of the nest that choose the panel, besides the vector of outputs."""
    found = dict.fromkeys(i for load in weights.params for i in load.index if isinstance(i, str))
    return tuple(v for v in found if v not in (lane, weights.over))


def _panel(body: Body, weights: Weights) -> str:
    """Which panel: the number of the outer place and of the vector of outputs, times the vectors in one panel."""
    spell, lane = body.spell, body.program.lane
    assert lane is not None
    vectors = f"(PADDED({spell.size(dim_of(lane))}) / LANES)"
    outer = _outer_vars(weights, lane)
    number = f"{spell.var(lane)} / LANES"
    if outer:
        place = spell.place(outer, tuple(dim_of(v) for v in outer))
        number = f"(({place}) * {vectors} + {number})"
    count = len(weights.params)
    each = spell.size(dim_of(weights.over)) + (f" * {count}" if count > 1 else "")
    return f"{number} * ({each})"


def _panel_bytes(body: Body, weights: Weights) -> str:
    lane = body.program.lane
    assert lane is not None
    dims = [dim_of(v) for v in _outer_vars(weights, lane)] + [dim_of(weights.over)]
    sizes = " * ".join([body.spell.padded(dim_of(lane)), *(body.spell.size(d) for d in dims)])
    return f"(int64_t){len(weights.params)} * {sizes} * (int64_t)sizeof(real)"


def _pack_function(body: Body, function: str) -> str:
    text, spell, lane = Text(), body.spell, body.program.lane
    assert lane is not None
    text("// Copies the params into panels, once per call.")
    with text.braces(f"static void {function}_pack(const struct call *call, long lane0, long lane1)"):
        for nest, group, weights in _groups(body):
            field = _field(body, function, nest, group)
            inner = Text()
            over = spell.var(weights.over)
            inner(f"vec *panel = (vec *)call->{field}.data + {_panel(body, weights)};")
            with inner.braces(f"for (long {over} = 0; {over} < {spell.size(dim_of(weights.over))}; {over}++)"):
                for load in weights.params:
                    buffer = spell.buffers[load.name]
                    source = f"(const {spell.stored(load.name)} *)call->{spell(load.name)}.data"
                    axis = load.index.index(lane)
                    stride = stride_of(axis, buffer.dims, spell)
                    count = "lanes" if body.ragged else "LANES"
                    place = spell.place(load.index, buffer.dims)
                    inner(f"*panel++ = rc_gather_{body.suffix}({at(source, place)}, {stride}, {count});")
            body.loops((*_outer_vars(weights, lane), lane), inner, text)
    return str(text)


def pack_calls(body: Body, function: str, guard: str) -> list[str]:
    """How the entry packs, the outputs split between the threads."""
    lane = body.program.lane
    assert lane is not None
    size = body.spell.size(dim_of(lane))
    return [
        f"{guard}{{",
        "    long from, to;",
        f"    rc_split({size}, LANES, thread, count, &from, &to);",
        f"    {function}_pack(&self, from, to);",
        "}",
    ]


def layout(body: Body, function: str, states: bool) -> list[str]:
    """Room for the panels and, if `states`, for the states of all sequences."""
    lines = [
        f"call->{_field(body, function, n, g)} = (rc_array){{rc_take(base, &used, {_panel_bytes(body, w)}), 0, 0, 0}};"
        for n, g, w in _groups(body)
    ]
    for name, array, copies in _rows_arrays(body) if states else ():
        count = body.array_count(array)
        lines.append(
            f"call->{name} = (rc_array){{rc_take(base, &used, {copies} * batch * ({count}) * (int64_t)sizeof(real)), {count}, 0, 0}};"
        )
    return lines


def _rows_arrays(body: Body) -> list[tuple[str, Array, int]]:
    """Workspace fields that hold one array per sequence: name, layout, how many copies."""
    out: list[tuple[str, Array, int]] = []
    for carry in body.program.stage.carries:
        array = body.carry_array(carry.name, False)
        out.append((body.spell(f"{carry.name}@rows"), array, 2 if carry.name in body.program.doubled else 1))
    for _, stmt in body.made.values():
        if body.needs_array(stmt) and not body.is_carry(stmt):
            array, _ = body.value_array(stmt, stmt.index)
            out.append((body.spell(f"{stmt.name}@rows"), array, 1))
    return out


# --- tiles --------------------------------------------------------------------------------------------------------


def rows_per_tile(body: Body, nest: int) -> int:
    """Rows whose sums fit the vector registers beside the panel vectors."""
    registers = 32 if body.lanes * body.program.real.itemsize == 64 else 16
    groups = body.program.weights.get(nest, ())
    sums = len({name for w in groups for name in w.into}) or 4
    params = max((len(w.params) for w in groups), default=2)
    return max(1, min(12, (registers - params - 2) // sums))


def _parameters(body: Body, nest: int, types: bool) -> str:
    variables = [body.spell.var(v) for v in body.program.nests[nest].vars]
    lanes = ["lanes"] if body.ragged else []
    words = ["call", "b", "t", *variables, *lanes]
    if not types:
        return ", ".join(words)
    return "const struct call *call, " + ", ".join(f"long {w}" for w in words[1:])


def _row(body: Body) -> tuple[str, str]:
    """Sequence and step of row q: a loop's rows are sequences, otherwise steps."""
    return ("(b + q)", "t") if body.program.stage.carries else ("b", "(t + q)")


def _row_pointers(body: Body, text: Text, names: set[str], old: set[str], states: set[str], writes: bool) -> None:
    """Pointers of row q to buffers, to states before the step (`old`) and to values of the step (`states`)."""
    sequence, step = _row(body)
    spell = body.spell
    for name in sorted(names):
        buffer = spell.buffers[name]
        if not buffer.has_time:
            kind, field = spell.stored(name), spell(name)
            text(
                f"const {kind} *{body.pointer(name)} = (const {kind} *)call->{field}.data + {sequence} * call->{field}.batch;"
            )
    step_pointers(body, text, sequence, step, only=names, writes=writes)
    for carry in body.program.stage.carries:
        if carry.name not in old | states:
            continue
        array = body.carry_array(carry.name, False)
        rows, count = spell(f"{carry.name}@rows"), body.array_count(array)
        base = f"(real *)call->{rows}.data"
        if carry.name in body.program.doubled:
            if carry.name in old:
                text(f"const real *{array.name} = {base} + ((t & 1) * call->batch + {sequence}) * ({count});")
            new = body.carry_array(carry.name, True).name
            if carry.name in states:
                text(f"real *{new} = {base} + (((t + 1) & 1) * call->batch + {sequence}) * ({count});")
        else:
            text(f"real *{array.name} = {base} + {sequence} * ({count});")
    for _, stmt in body.made.values():
        if stmt.name in states and body.needs_array(stmt) and not body.is_carry(stmt):
            array, _ = body.value_array(stmt, stmt.index)
            text(
                f"real *{array.name} = (real *)call->{spell(f'{stmt.name}@rows')}.data + {sequence} * ({body.array_count(array)});"
            )


def _reads_of(body: Body, exprs: list[Node]) -> tuple[set[str], set[str], set[str]]:
    """Buffers, old states, and new states or values of other nests, that expressions read."""
    names: set[str] = set()
    old: set[str] = set()
    states: set[str] = set()
    for expr in exprs:
        for load in loads(expr):
            if load.name in body.made and not load.lag:
                states.add(body.program.elements[load.name][0] if body.is_carry(body.made[load.name][1]) else load.name)
            elif load.name in body.carries:
                old.add(load.name)
            else:
                names.add(load.name)
    return names, old, states


def _tile_function(body: Body, function: str, number: int) -> str:
    text, spell = Text(), body.spell
    nest = body.program.nests[number]
    body.nest = number
    groups = body.program.weights.get(number, ())
    rows = rows_per_tile(body, number)
    text("// One vector of outputs for `nb` rows.")
    with text.braces(f"INLINE void {function}_tile{number}(const int nb, {_parameters(body, number, True)})"):
        for group, weights in enumerate(groups):
            _products(body, function, number, group, weights, rows, text)
        text("UNROLL")
        with text.braces("for (int q = 0; q < nb; q++)"):
            rest = [s for s in nest.stmts if not any(s in w.folds for w in groups)]
            names, old, states = _reads_of(body, [s.value for s in rest])
            for stmt in nest.stmts:
                if body.is_carry(stmt):
                    states.add(body.program.elements[stmt.name][0])
                elif body.needs_array(stmt):
                    states.add(stmt.name)
            written = {body.program.elements[s.name][0] for s in nest.stmts} & set(body.program.stage.writes)
            _row_pointers(body, text, names | written, old, states, writes=True)
            body.rows = True
            body.iteration(nest, text)
            body.rows = False
        if not groups and not nest.stmts:
            text(f"(void){spell('call')};")
    return str(text)


def _products(body: Body, function: str, nest: int, group: int, weights: Weights, rows: int, text: Text) -> None:
    """The sums of a tile: panel vectors times one scalar of each row."""
    spell = body.spell
    field = _field(body, function, nest, group)
    own = [body.local(s) for s, into in zip(weights.folds, weights.into, strict=True) if into == s.name]
    if own:
        text(*(f"vec {name}[{rows}];" for name in own))
        text("UNROLL")
        with text.braces("for (int q = 0; q < nb; q++)"):
            text(*(f"{name}[q] = rc_spread_{body.suffix}(0);" for name in own))
    panel = body.spell(f"panel@{weights.over}") if group else "panel"
    text(f"const vec *{panel} = (const vec *)call->{field}.data + {_panel(body, weights)};")
    over, count = spell.var(weights.over), len(weights.params)
    step = f"{panel} += {count}" if count > 1 else f"{panel}++"
    text("ONE_BY_ONE")
    with text.braces(f"for (long {over} = 0; {over} < {spell.size(dim_of(weights.over))}; {over}++, {step})"):
        vectors = [spell(f"{load.name}@{k}") for k, load in enumerate(weights.params)]
        text("const vec " + ", ".join(f"{v} = {panel}[{k}]" for k, v in enumerate(vectors)) + ";")
        text("UNROLL")
        with text.braces("for (int q = 0; q < nb; q++)"):
            names, old, states = _reads_of(body, [factor for _, factor in weights.factors])
            _row_pointers(body, text, names, old, states, writes=False)
            known: dict[Node, str] = {}
            for into, (which, factor) in zip(weights.into, weights.factors, strict=True):
                if factor not in known:
                    known[factor] = spell(f"{factor.name}@each" if isinstance(factor, Load) else f"{into}@factor")
                    text(f"const real {known[factor]} = {body.printer(factor)};")
                text(f"{body.local(body.made[into][1])}[q] += {vectors[which]} * {known[factor]};")


def _rows_function(body: Body, function: str, number: int) -> str:
    """The tile for every number of rows, each unrolled by the compiler."""
    text = Text()
    rows = rows_per_tile(body, number)
    arguments = _parameters(body, number, False)
    with (
        text.braces(f"static void {function}_rows{number}(int nb, {_parameters(body, number, True)})"),
        text.braces("switch (nb)"),
    ):
        for count in range(1, rows + 1):
            text(f"case {count}: {function}_tile{number}({count}, {arguments}); break;")
    return str(text)


# --- the stage ----------------------------------------------------------------------------------------------------


def _driver(body: Body, function: str, why: str) -> str:
    text = Text()
    text(*(f"// {line}" for line in why.splitlines()))
    with text.braces(f"static void {function}({SIGNATURE})"):
        if body.program.stage.carries:
            _loop_driver(body, function, text)
        else:
            _map_driver(body, function, text)
    return str(text)


def _tiled_loops(body: Body, function: str, number: int, head: str, row: str, text: Text) -> None:
    nest = body.program.nests[number]
    rows = rows_per_tile(body, number)
    inner = Text()
    first, last = ("b0", "b1") if row == "b" else ("t0", "t1")
    with inner.braces(head) if head else inner.braces(""):
        inner(f"const long rows = rc_even({last} - {first}, {rows});")
        with inner.braces(f"for (long {row} = {first}; {row} < {last}; {row} += rows)"):
            inner(
                f"{function}_rows{number}({row} + rows < {last} ? rows : {last} - {row}, {_parameters(body, number, False)});"
            )
    body.loops(nest.vars, inner, text)


def _loop_driver(body: Body, function: str, text: Text) -> None:
    program, spell = body.program, body.spell
    for save in (False, True):
        if save:
            with text.braces("for (long t = t0; t < t1; t++)"):
                for number, nest in enumerate(program.nests):
                    _tiled_loops(body, function, number, "", "b", text)
                    last = number == len(program.nests) - 1
                    if last or any(s.name in program.shared for s in nest.stmts):
                        text("if (team) rc_wait(team);")
        for carry in program.stage.carries:
            field = spell(f"{carry.name}@{'out' if save else 'in'}")
            array = body.carry_array(carry.name, False)
            with text.braces(f"for (long b = b0; call->{field}.data && b < b1; b++)"):
                text(f"real *{field} = (real *)call->{field}.data + b * call->{field}.batch;")
                which = f"(({'t1' if save else 't0'} & 1) * call->batch + b)" if carry.name in program.doubled else "b"
                count = body.array_count(array)
                text(f"real *{array.name} = (real *)call->{spell(f'{carry.name}@rows')}.data + {which} * ({count});")
                copy_state(body, carry.name, text, save)
        if not save:
            text("if (team) rc_wait(team);")


def _map_driver(body: Body, function: str, text: Text) -> None:
    text("(void)team;")
    for number in range(len(body.program.nests)):
        _tiled_loops(body, function, number, "for (long b = b0; b < b1; b++)", "t", text)
