"""C functions for stages with matrix products against params (`U @ h[t-1]`, a hoisted `W @ x`).

The params are packed once per call into panels: for each vector of outputs, the vectors the inner loop needs, one
after the other. A tile is one vector of outputs for a few rows (sequences of a `Loop`, steps of a `Map` or `Matmul`):
its sums stay in registers, each panel vector is loaded once for all rows, and the elementwise rest of the nest
follows at once. With few sequences the threads split the outputs and wait for each other after every step.
"""

from __future__ import annotations

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
        count = body.array_count(array)
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


# --- tiles --------------------------------------------------------------------------------------------------------


def _registers(body: Body) -> int:
    return 32 if body.lanes * body.program.real.itemsize == 64 else 16


def rows_per_tile(body: Body, nest: int) -> int:
    """Rows whose sums fit the vector registers beside the panel vectors."""
    registers = _registers(body)
    groups = body.program.weights.get(nest, ())
    sums = len({name for w in groups for name in w.into}) or 4
    params = max((len(w.params) for w in groups), default=2)
    return max(1, min(12, (registers - params - 2) // sums))


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
    (`b0` to `b1`) and how many lanes of its vector count. `rows`: of the products of a tile for up to so many."""
    variables = [body.spell.var(v) for v in body.program.nests[nest].vars]
    most = rows or (rows_per_tile(body, nest) if nest in body.program.weights else 1)
    shared = ["b0", "b1"] if body.program.stage.carries and most > 1 else []
    count = ["nb"] if not rows or rows > _certain(body, nest, rows) else []
    lanes = ["lanes"] if body.ragged and (not rows or _meets_parts(body, rows)) else []
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
    text(f"// {', '.join(sums)} of one vector of outputs for {f'up to {rows} rows' if rows > 1 else 'a row'}.")
    out = ", ".join(f"vec *{name}__out" for name in sums)
    where, strands = _parameters(body, number, True, rows), _strands(body, number, rows)
    with text.braces(f"INLINE void {function}_products{number}_{rows}({where}, {out})"):
        for name in sums:
            parts = (f"{_strand(name, k)}__{q} = {{0}}" for q in range(rows) for k in range(strands[name]))
            text("vec " + ", ".join(parts) + ";")
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
            _product_loop(body, weights, panel, places, strands, text)
        for name in sums:
            found = (" + ".join(f"{_strand(name, k)}__{q}" for k in range(strands[name])) for q in range(rows))
            text(" ".join(f"{name}__out[{q}] = {total};" for q, total in enumerate(found)))
    return str(text)


def _strands(body: Body, number: int, rows: int) -> dict[str, int]:
    """In how many parts each sum of a tile is added up: a processor begins two additions in a cycle, which take four,
    and only those of different parts run side by side. Of one sum as many as it has terms in a pass of its loop."""
    sums = _sums(body, number)
    groups = body.program.weights[number]
    terms = {name: max(sum(body.local(body.made[i][1]) == name for i in w.into) for w in groups) for name in sums}
    room = (_registers(body) - max(len(w.params) for w in groups) - 2) // (rows * len(sums))
    wanted = -(-_IN_FLIGHT // (rows * len(sums)))
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
    body: Body, weights: Weights, panel: str, rows: list[str], strands: Mapping[str, int], text: Text
) -> None:
    """The sums of `rows`, counted from the first of the tile. A panel is larger than the first cache and all of them
    than the second, so its vectors are asked for some iterations ahead, and of the panel that comes next every tile
    of a loop asks for its share."""
    spell = body.spell
    over, count = spell.var(weights.over), len(weights.params)
    names, old, states = _reads_of(body, [factor for _, factor in weights.factors])
    pointers, inner = Text(), Text()
    _row_pointers(body, pointers, names, old, states, writes=False)
    vectors = [spell(f"{load.name}@{k}") for k, load in enumerate(weights.params)]
    known: dict[Node, str] = {}
    terms: dict[str, int] = {}  # of each sum so far
    for into, (which, factor) in zip(weights.into, weights.factors, strict=True):
        if factor not in known:
            name = f"{factor.name}@each" if isinstance(factor, Load) else f"{into}@factor"
            if spell(name) in known.values():  # another element of the same value, or the same one a step before
                name = f"{name}@{len(known)}"
            known[factor] = spell(name)
            inner(f"const real {known[factor]} = {body.printer(factor)};")
        name = body.local(body.made[into][1])
        terms[name] = terms.get(name, -1) + 1
        inner(f"{_strand(name, terms[name] % strands[name])} += {vectors[which]} * {known[factor]};")
    own = {found[1] for line in pointers.lines if (found := _DECLARED.search(line))}
    own |= {*known.values(), *(_strand(name, k) for name in terms for k in range(strands[name]))}
    for q, row in enumerate(rows):
        text(*(_of_row(line, q, own, row) for line in pointers.lines))
    ahead = spell(f"ahead@{weights.over}")
    if body.program.stage.carries and len(rows) > 1:
        size = spell.size(dim_of(weights.over)) + (f" * {count}" if count > 1 else "")
        text(f"const vec *{ahead} = {panel} + {size} * (b - b0 + b1 - b0) / (b1 - b0);")
    step = f"{panel} += {count}" if count > 1 else f"{panel}++"
    text("ONE_BY_ONE")
    with text.braces(f"for (long {over} = 0; {over} < {spell.size(dim_of(weights.over))}; {over}++, {step})"):
        text("const vec " + ", ".join(f"{v} = {panel}[{k}]" for k, v in enumerate(vectors)) + ";")
        if len(rows) == 1:  # nothing but the panel is read, in order: the processor sees it coming
            text(*(_of_row(line, 0, own) for line in inner.lines))
            return
        per_line = max(1, LINE_BYTES // (body.lanes * body.program.real.itemsize))
        text(*(f"PREFETCH_L1({panel} + {k + _AHEAD * per_line});" for k in range(0, count, per_line)))
        if body.program.stage.carries:
            text(f"PREFETCH_L2({ahead}++);")
        for q in range(len(rows)):
            text(*(_of_row(line, q, own) for line in inner.lines))


def _of_row(line: str, q: int, own: set[str], row: str = "") -> str:
    """A line about row `q`, which lies at `row`, with the names that belong to the row numbered, in a way that
    `safe_name` keeps free."""
    numbered = re.sub(rf"(?<!->)(?<!\.)\b({'|'.join(map(re.escape, sorted(own)))})\b", rf"\1__{q}", line)
    return re.sub(r"\bq\b", row or str(q), numbered)


def _rows_function(body: Body, function: str, number: int) -> str:
    """One tile: its sums, then the elementwise rest of the nest row by row."""
    text = Text()
    nest, rows, sums = body.program.nests[number], rows_per_tile(body, number), _sums(body, number)
    body.nest = number
    with text.braces(f"static void {function}_rows{number}({_parameters(body, number, True)})"):
        if sums:
            text("vec " + ", ".join(f"{name}[{rows}]" for name in sums) + ";")
            for count in tile_sizes(body, number):
                where = _parameters(body, number, False, count)
                start = "" if count == 1 else "else "
                if count < rows:
                    start += f"if (nb {'==' if count == 1 else '<='} {count}) "
                text(f"{start}{function}_products{number}_{count}({', '.join([where, *sums])});")
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
            inner(f"const long nb = {row} + rows < {last} ? rows : {last} - {row};")
            inner(f"{function}_rows{number}({_parameters(body, number, False)});")
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
