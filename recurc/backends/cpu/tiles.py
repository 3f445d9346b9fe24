"""C functions for stages with matrix products against params (`U @ h[t-1]`, a hoisted `W @ x`).

The params are packed once per call into panels: for each vector of outputs, the vectors the inner loop needs, one
after the other. A tile is one vector of outputs for a few rows (sequences of a `Loop`, steps of a `Map` or `Matmul`):
its sums stay in registers, each panel vector is loaded once for all rows, and the elementwise rest of the nest
follows at once. With few sequences the threads split the outputs and wait for each other after every step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from recurc.backends.cpu.body import Body
from recurc.backends.cpu.loop import copy_state, step_pointers
from recurc.backends.cpu.panels import field, in_place, pack_function, panel_place, print_in_place
from recurc.backends.cpu.values import Array
from recurc.backends.cpu.weights import Weights
from recurc.backends.emit.nodes import Load, Node, dim_of, loads
from recurc.backends.emit.text import Text

LINE_BYTES = 64  # of a cache
_IN_FLIGHT = 8  # additions a processor works on at a time
_AHEAD = 32  # lines of a panel between the one asked for and the one in use
_BLOCK_BYTES = 512 * 1024  # of a second cache, for the rows that go through a product together
SIGNATURE = "const struct call *call, long b0, long b1, long t0, long t1, long lane0, long lane1, rc_team *team"


def print_tiled(body: Body, function: str, why: str) -> str:
    """Pack, tile and driver functions of the stage."""
    pieces = [pack_function(body)]
    for number in range(len(body.program.nests)):
        if number in body.program.weights:
            pieces.append(_products_functions(body, function, number))
        pieces.append(_rows_function(body, function, number))
    pieces.append(_driver(body, function, why))
    return "\n\n".join(pieces)


def layout(body: Body) -> list[str]:
    """Room for the states of all sequences."""
    lines: list[str] = []
    for name, array, copies in _rows_arrays(body):
        count = _apart(body, array)
        room = f"rc_take(base, &used, {copies} * batch * ({count}) * (int64_t)sizeof(real))"
        lines.append(f"call->{name} = (rc_array){{{room}, {count}, 0, 0}};")
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


def _apart(body: Body, array: Array) -> str:
    """How far the rows of such an array lie from each other. A tile reads many of them at the same place, and rows
    that are a power of two apart would drive each other out of the first-level cache."""
    count = body.array_count(array)
    return f"APART({count})" if array.has_lane and array.dims else count


# --- tiles --------------------------------------------------------------------------------------------------------


def _registers(body: Body) -> int:
    return 32 if body.lanes * body.program.real.itemsize == 64 else 16


def vectors_per_tile(body: Body, nest: int) -> int:
    """How many vectors of outputs a tile takes. Where its rows have one sum each, a number that is read for one vector
    would be multiplied once, and a processor reads no faster than it multiplies: so it serves two."""
    lane = body.program.lane
    if lane is None or nest not in body.program.weights or len(_sums(body, nest)) > 1:
        return 1
    return min(2, -(-body.spell.extent(dim_of(lane)) // body.lanes)) or 1


def rows_per_tile(body: Body, nest: int) -> int:
    """Rows whose sums fit the vector registers beside the panel vectors."""
    registers, vectors = _registers(body), vectors_per_tile(body, nest)
    groups = body.program.weights.get(nest, ())
    sums = len({name for w in groups for name in w.into}) or 4
    params = max((len(w.params) for w in groups), default=2)
    return max(1, min(12, (registers - (params if vectors == 1 else vectors) - 2) // (vectors * sums)))


def tile_sizes(body: Body, nest: int) -> tuple[int, ...]:
    """Rows for which a nest has a function of its own; as many rows as there are take the next larger one, which
    computes the last row again. A few sizes keep the compiler fast; where the rows are steps, only the last tile of
    a sequence is not full."""
    most = rows_per_tile(body, nest)
    if not body.program.stage.carries:
        return tuple(dict.fromkeys((1, most)))
    return tuple(sorted({1, -(-most // 3), -(-most * 2 // 3), most}))


def _certain(body: Body, nest: int, rows: int) -> int:
    """How many rows a tile for up to `rows` has at least."""
    return 1 + max((size for size in tile_sizes(body, nest) if size < rows), default=0)


def _parameters(body: Body, nest: int, types: bool, rows: int = 0) -> str:
    """Where a tile is in the stage and, where that matters, how many rows it has (`nb`), which ones share its panel
    (`b0` to `b1`) and how many lanes of its vector (`lanes`) or its vectors (`width`) count. `rows`: of the products of
    a tile for up to so many."""
    variables = [body.spell.var(v) for v in body.program.nests[nest].vars]
    most = rows or (rows_per_tile(body, nest) if nest in body.program.weights else 1)
    shared = ["b0", "b1"] if body.program.stage.carries and most > 1 else []
    count = ["nb"] if not rows or rows > _certain(body, nest, rows) else []
    lanes = ["lanes"] if body.ragged and (not rows or _meets_parts(body, rows)) else []
    if vectors_per_tile(body, nest) > 1 and rows != 1:
        lanes = ["width"]
    words = ["call", *count, "b", "t", *variables, *shared, *lanes]
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
    for name, buffer in body.homes(names):
        if not buffer.has_time:
            kind = spell.stored(name)
            text(f"const {kind} *{body.pointer(name)} = ROW(call->{spell.field(name)}, {kind}, {sequence});")
    step_pointers(body, text, sequence, step, only=names, writes=writes)
    for carry in body.program.stage.carries:
        if carry.name not in old | states:
            continue
        array = body.carry_array(carry.name, False)
        rows, count = spell(f"{carry.name}@rows"), _apart(body, array)
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
            text(f"real *{array.name} = ROW(call->{spell(f'{stmt.name}@rows')}, real, {sequence});")


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


def _sums(body: Body, number: int) -> list[str]:
    """The different sums of a nest's products: one vector for each row of a tile."""
    groups = body.program.weights.get(number, ())
    return list(dict.fromkeys(body.local(body.made[into][1]) for w in groups for into in w.into))


def _products_functions(body: Body, function: str, number: int) -> str:
    """The sums of one vector of outputs, a function for each size of a tile. Every sum is a variable of its own:
    compilers keep those in registers, which they do not promise for arrays, however short."""
    return "\n\n".join(_products_function(body, function, number, rows) for rows in tile_sizes(body, number))


def _products_function(body: Body, function: str, number: int, rows: int) -> str:
    text, spell = Text(), body.spell
    body.nest = number
    sums = _sums(body, number)
    out = ", ".join(f"vec *{name}__out" for name in sums)
    where, strands = _parameters(body, number, True, rows), _strands(body, number, rows)
    vectors = vectors_per_tile(body, number) if rows > 1 else 1
    outputs = "one vector" if vectors == 1 else f"{vectors} vectors"
    text(f"// {', '.join(sums)} of {outputs} of outputs for {f'up to {rows} rows' if rows > 1 else 'a row'}.")
    with text.braces(f"INLINE void {function}_products{number}_{rows}({where}, {out})"):
        for name in sums:
            for vector in range(vectors):
                own = [_strand(_of_vector(name, vector), k) for k in range(strands[name])]
                text("vec " + ", ".join(f"{part}__{q} = {{0}}" for q in range(rows) for part in own) + ";")
        certain = _certain(body, number, rows)
        for q in range(certain, rows):
            text(f"const long row__{q} = {q} < nb ? {q} : nb - 1;")
        if _meets_parts(body, rows):
            _one_row(body, number, sums, text)
        for group, weights in enumerate(body.program.weights[number]):
            panel = spell(f"panel@{weights.over}")
            place = panel_place(body, weights)
            text(f"const vec *{panel} = (const vec *)call->{field(body, number, group)}.data + {place};")
            places = [str(q) if q < certain else f"row__{q}" for q in range(rows)]
            for vector in range(1, vectors):  # where there is no such vector any more, one before it is made again
                last = _of_vector(panel, vector - 1)
                there = f"{last} + {_panel_size(body, weights)}"
                text(f"const vec *{_of_vector(panel, vector)} = width > {vector} * LANES ? {there} : {last};")
            _product_loop(body, weights, panel, places, strands, vectors, text)
        most = rows_per_tile(body, number)
        for name in sums:
            for vector in range(vectors):
                own = [_strand(_of_vector(name, vector), k) for k in range(strands[name])]
                found = (" + ".join(f"{part}__{q}" for part in own) for q in range(rows))
                text(" ".join(f"{name}__out[{vector * most + q}] = {total};" for q, total in enumerate(found)))
    return str(text)


def _of_vector(name: str, vector: int) -> str:
    """What belongs to a further vector of outputs of a tile."""
    return f"{name}__next{vector}" if vector else name


def _panel_size(body: Body, weights: Weights) -> str:
    count = len(weights.params)
    return f"{body.spell.size(dim_of(weights.over))}{f' * {count}' if count > 1 else ''}"


def _strands(body: Body, number: int, rows: int) -> dict[str, int]:
    """In how many parts each sum of a tile is added up: a processor begins two additions in a cycle, which take four,
    and only those of different parts run side by side. Of one sum as many as it has terms in a pass of its loop."""
    sums = _sums(body, number)
    groups = body.program.weights[number]
    terms = {name: max(sum(body.local(body.made[i][1]) == name for i in w.into) for w in groups) for name in sums}
    each = rows * len(sums) * (vectors_per_tile(body, number) if rows > 1 else 1)
    room = (_registers(body) - max(len(w.params) for w in groups) - 2) // each
    wanted = -(-_IN_FLIGHT // each)
    return {name: max(1, min(terms[name], wanted, room)) for name in sums}


def _strand(name: str, number: int) -> str:
    return f"{name}__part{number}" if number else name


def _meets_parts(body: Body, rows: int) -> bool:
    """Whether products of so many rows may read weights where they lie, the last vector of them in part; panels hold
    whole vectors."""
    nest = body.nest
    found = rows == 1 and in_place(body)
    body.nest = nest  # asking visits the others
    return found


def _one_row(body: Body, number: int, sums: list[str], text: Text) -> None:
    """The sums of the only row of a call, without panels."""
    with text.braces("if (one_row(call))"):
        for weights in body.program.weights[number]:
            names, old, states = _reads_of(body, [factor for _, factor in weights.factors])
            pointers, inner = Text(), Text()
            _row_pointers(body, pointers, names, old, states, writes=False)
            own = {found[1] for line in pointers.lines if (found := _DECLARED.search(line))}
            own |= set(sums)
            print_in_place(body, weights, body.local, inner)
            with text.braces(""):
                text(*(_of_row(line, 0, own) for line in (*pointers.lines, *inner.lines)))
        text(*(f"{name}__out[0] = {name}__0;" for name in sums), "return;")


_DECLARED = re.compile(r"\*?(\w+) = ")


def _product_loop(
    body: Body, weights: Weights, panel: str, rows: list[str], strands: Mapping[str, int], vectors: int, text: Text
) -> None:
    """The sums of `rows`, counted from the first of the tile. A panel is larger than the first cache and all of them
    than the second, so its vectors are asked for some iterations ahead, and of the panel that comes next every tile
    of a loop asks for its share."""
    spell = body.spell
    over, count = spell.var(weights.over), len(weights.params)
    names, old, states = _reads_of(body, [factor for _, factor in weights.factors])
    pointers = Text()
    _row_pointers(body, pointers, names, old, states, writes=False)
    loaded = [spell(f"{load.name}@{k}") for k, load in enumerate(weights.params)]
    known: dict[Node, str] = {}
    terms: dict[str, int] = {}  # of each sum so far
    inner: dict[int, Text] = {}  # by the param whose vectors it needs; all in one where these are loaded together
    added: set[str] = set()
    for into, (which, factor) in zip(weights.into, weights.factors, strict=True):
        lines = inner.setdefault(which if vectors > 1 else 0, Text())
        if factor not in known:
            name = f"{factor.name}@each" if isinstance(factor, Load) else f"{into}@factor"
            if spell(name) in known.values():  # another element of the same value, or the same one a step before
                name = f"{name}@{len(known)}"
            known[factor] = spell(name)
            lines(f"const real {known[factor]} = {body.printer(factor)};")
        name = body.local(body.made[into][1])
        terms[name] = terms.get(name, -1) + 1
        for vector in range(vectors):
            target = _strand(_of_vector(name, vector), terms[name] % strands[name])
            added.add(target)
            lines(f"{target} += {_of_vector(loaded[which], vector)} * {known[factor]};")
    own = {found[1] for line in pointers.lines if (found := _DECLARED.search(line))} | {*known.values()} | added
    for q, row in enumerate(rows):
        text(*(_of_row(line, q, own, row) for line in pointers.lines))
    ahead = spell(f"ahead@{weights.over}")
    if body.program.stage.carries and len(rows) > 1:
        size = _panel_size(body, weights) + (f" * {vectors}" if vectors > 1 else "")
        text(f"const vec *{ahead} = {panel} + {size} * (b - b0 + b1 - b0) / (b1 - b0);")
    panels = [_of_vector(panel, vector) for vector in range(vectors)]
    step = ", ".join(f"{p} += {count}" if count > 1 else f"{p}++" for p in panels)
    text("ONE_BY_ONE")
    with text.braces(f"for (long {over} = 0; {over} < {spell.size(dim_of(weights.over))}; {over}++, {step})"):
        if vectors == 1:
            text("const vec " + ", ".join(f"{v} = {panel}[{k}]" for k, v in enumerate(loaded)) + ";")
        if len(rows) == 1:  # nothing but the panel is read, in order: the processor sees it coming
            text(*(_of_row(line, 0, own) for line in inner[0].lines))
            return
        per_line = max(1, LINE_BYTES // (body.lanes * body.program.real.itemsize))
        text(*(f"PREFETCH_L1({p} + {k + _AHEAD * per_line});" for p in panels for k in range(0, count, per_line)))
        if body.program.stage.carries:
            text(*[f"PREFETCH_L2({ahead}++);"] * max(1, count * vectors // (3 * per_line)))
        for which, lines in inner.items():
            if vectors > 1:
                whole = (f"{_of_vector(loaded[which], v)} = {p}[{which}]" for v, p in enumerate(panels))
                text("const vec " + ", ".join(whole) + ";")
            for q in range(len(rows)):
                text(*(_of_row(line, q, own) for line in lines.lines))


def _of_row(line: str, q: int, own: set[str], row: str = "") -> str:
    """A line about row `q`, which lies at `row`, with the names that belong to the row numbered, in a way that
    `safe_name` keeps free."""
    numbered = re.sub(rf"(?<!->)(?<!\.)\b({'|'.join(map(re.escape, sorted(own)))})\b", rf"\1__{q}", line)
    return re.sub(r"\bq\b", row or str(q), numbered)


def _rows_function(body: Body, function: str, number: int) -> str:
    """One tile: its sums, then the elementwise rest of the nest row by row."""
    text = Text()
    rows, sums, vectors = rows_per_tile(body, number), _sums(body, number), vectors_per_tile(body, number)
    body.nest = number
    with text.braces(f"static void {function}_rows{number}({_parameters(body, number, True)})"):
        if not sums:
            _rest(body, number, text)
        elif vectors == 1:
            text("vec " + ", ".join(f"{name}[{rows}]" for name in sums) + ";")
            _sums_by_size(body, function, number, sums, text)
            _rest(body, number, text)
        else:
            lane = body.spell.var(body.program.lane or "")
            text("vec " + ", ".join(f"{name}__all[{vectors * rows}]" for name in sums) + ";")
            _sums_by_size(body, function, number, [f"{name}__all" for name in sums], text)
            with text.braces(f"for (long shift = 0; shift < width; shift += LANES, {lane} += LANES)"):
                text(*(f"const vec *{name} = {name}__all + shift / LANES * {rows};" for name in sums))
                if body.ragged:
                    text("const long lanes = rc_lanes(width - shift);")
                _rest(body, number, text)
    return str(text)


def _sums_by_size(body: Body, function: str, number: int, out: list[str], text: Text) -> None:
    """Calls the products of the tile size that fits `nb`."""
    most, vectors = rows_per_tile(body, number), vectors_per_tile(body, number)
    lane = body.spell.var(body.program.lane or "")
    for count in tile_sizes(body, number):
        words = _parameters(body, number, False, count).split(", ")
        start = "" if count == 1 else "else "
        if count < most:
            start += f"if (nb {'==' if count == 1 else '<='} {count}) "
        targets = out
        if count == 1 and vectors > 1:  # of a single row one vector after the other
            start += "for (long shift = 0; shift < width; shift += LANES) "
            replaced = {lane: f"{lane} + shift", "lanes": "rc_lanes(width - shift)"}
            words = [replaced.get(w, w) for w in words]
            targets = [f"{name} + shift / LANES * {most}" for name in out]
        text(f"{start}{function}_products{number}_{count}({', '.join([*words, *targets])});")


def _rest(body: Body, number: int, text: Text) -> None:
    """What a nest does with the sums of a vector of outputs, row by row."""
    nest = body.program.nests[number]
    with text.braces("for (long q = 0; q < nb; q++)"):
        folds = {s.name for w in body.program.weights.get(number, ()) for s in w.folds}
        names, old, states = _reads_of(body, [s.value for s in nest.stmts if s.name not in folds])
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
    inner = Text()
    first, last = ("b0", "b1") if row == "b" else ("t_block", "t_end")
    if number not in body.program.weights:  # no panel for rows to share: one after the other, as they lie in memory
        inner(f"{function}_rows{number}({_parameters(body, number, False).replace('nb', '1', 1)});")
        with text.braces(f"for (long {row} = {first}; {row} < {last}; {row}++)"):
            body.loops(nest.vars, inner, text)
        return
    rows = rows_per_tile(body, number)
    with inner.braces(head) if head else inner.braces(""):
        inner(f"const long rows = rc_even({last} - {first}, {rows});")
        with inner.braces(f"for (long {row} = {first}; {row} < {last}; {row} += rows)"):
            inner(f"const long nb = {row} + rows < {last} ? rows : {last} - {row};")
            inner(f"{function}_rows{number}({_parameters(body, number, False)});")
    vectors = vectors_per_tile(body, number)
    if vectors == 1:
        body.loops(nest.vars, inner, text)
        return
    lane, wide = body.spell.var(nest.vars[-1]), Text()
    with wide.braces(f"for (long {lane} = lane0; {lane} < lane1; {lane} += {vectors} * LANES)"):
        wide(f"const long width = lane1 - {lane} < {vectors} * LANES ? lane1 - {lane} : {vectors} * LANES;")
        wide.block(inner)
    body.loops(nest.vars[:-1], wide, text)


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
                count = _apart(body, array)
                text(f"real *{array.name} = (real *)call->{spell(f'{carry.name}@rows')}.data + {which} * ({count});")
                copy_state(body, carry.name, text, save)
        if not save:
            text("if (team) rc_wait(team);")


def _map_driver(body: Body, function: str, text: Text) -> None:
    """Some rows at a time go through all outputs: what is read of them and what is made stays in the second cache."""
    text("(void)team;")
    for number in range(len(body.program.nests)):
        most = _rows_per_block(body, number)
        text(f"const long sequences = rc_fitting({most}, t1 - t0);")
        with text.braces("for (long b_block = b0; b_block < b1; b_block += sequences)"):
            text("const long b_end = b_block + sequences < b1 ? b_block + sequences : b1;")
            with text.braces(f"for (long t_block = t0; t_block < t1; t_block += {most})"):
                text(f"const long t_end = t_block + {most} < t1 ? t_block + {most} : t1;")
                _tiled_loops(body, function, number, "for (long b = b_block; b < b_end; b++)", "t", text)


def _rows_per_block(body: Body, number: int) -> int:
    """A whole number of tiles: enough for the panels to be read seldom, few enough for the second cache."""
    spell, spec = body.spell, body.spell.spec
    names = {load.name for stmt in body.program.nests[number].stmts for load in loads(stmt.value)}
    timed = [spell.buffers[n] for n in (names | {*body.program.stage.writes}) & spell.buffers.keys()]
    row = sum(math.prod(spec.size(d) for d in b.dims) for b in timed if b.has_time) * body.program.real.itemsize
    tile = rows_per_tile(body, number)
    return tile * max(4, min(40, _BLOCK_BYTES // (tile * max(row, 1))))
