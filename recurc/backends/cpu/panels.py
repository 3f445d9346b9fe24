"""Packed params: what a matrix product against a param reads, copied once per call so that the inner loop reads
vectors one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from recurc.backends.cpu.names import at, offset, stride_of
from recurc.backends.cpu.weights import Weights
from recurc.backends.emit.indexed import substitute
from recurc.backends.emit.nodes import Load, Stmt, Var, dim_of
from recurc.backends.emit.text import Text

if TYPE_CHECKING:
    from recurc.backends.cpu.body import Body


def field(body: Body, nest: int, group: int) -> str:
    """The workspace field of a panel."""
    return body.spell(f"{body.function}@packed{nest}{'abcdefgh'[group]}")


def groups(body: Body) -> list[tuple[int, int, Weights]]:
    return [(n, g, w) for n, groups in sorted(body.program.weights.items()) for g, w in enumerate(groups)]


def packed_params(body: Body) -> set[str]:
    """Params whose packed form serves every sequence."""
    return {load.name for _, _, w in groups(body) for load in w.params}


def _outer_vars(weights: Weights, lane: Var | None) -> tuple[Var, ...]:
    """Variables of the nest that choose the panel, besides the vector of outputs."""
    found = dict.fromkeys(i for load in weights.params for i in load.index if isinstance(i, str))
    return tuple(v for v in found if v not in (lane, weights.over))


def panel_place(body: Body, weights: Weights) -> str:
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


def in_place(body: Body) -> bool:
    """Whether the weights can also be read where they lie, row by row: each product is a param whose last axis is
    summed and whose axis before it is the lanes, times numbers that lie side by side. For a single row of a single
    call that reads every weight once, where packing would read it, write it and read it again."""
    lane = body.program.lane
    if not body.program.tiled:
        return False
    for nest, _, weights in groups(body):
        body.nest = nest
        for which, factor in weights.factors:
            buffer = body.spell.buffers[weights.params[which].name]
            if weights.params[which].index[-2:] != (lane, weights.over) or not isinstance(factor, Load):
                return False
            if factor.index[-1:] != (weights.over,) or weights.over in factor.index[:-1]:
                return False
            if buffer.spacing != 1 or body.compute(buffer.dtype) is not body.program.real:
                return False
            if not body.contiguous(factor):
                return False
    return bool(body.program.weights)


def print_in_place(body: Body, weights: Weights, local: Callable[[Stmt], str], text: Text) -> None:
    """The sums of one row from the params themselves."""
    spell = body.spell
    count = spell.size(dim_of(weights.over))
    lanes = body.lane_count
    for into, (which, factor) in zip(weights.into, weights.factors, strict=True):
        load = weights.params[which]
        first = substitute(load, {weights.over: 0})
        assert isinstance(first, Load)
        place = spell.place(first.index, spell.buffers[load.name].dims)
        source = at(f"(const {spell.stored(load.name)} *)call->{spell.field(load.name)}.data", place)
        numbers = body.printer(substitute(factor, {weights.over: 0}))
        numbers = numbers.removesuffix("[0]") if numbers.endswith("[0]") else f"&{numbers}"
        target = local(body.made[into][1])
        text(f"{target} += rc_dots_{body.suffix}({source}, {numbers}, {count}, {lanes});")


def _panel_bytes(body: Body, weights: Weights) -> str:
    lane = body.program.lane
    assert lane is not None
    dims = [dim_of(v) for v in _outer_vars(weights, lane)] + [dim_of(weights.over)]
    sizes = " * ".join([body.spell.padded(dim_of(lane)), *(body.spell.size(d) for d in dims)])
    return f"(int64_t){len(weights.params)} * {sizes} * (int64_t)sizeof(real)"


def weight_bytes(body: Body) -> int:
    """How much a step reads of all panels."""
    lane, spec = body.program.lane, body.spell.spec
    total = 0
    for _, _, w in groups(body):
        dims = [dim_of(v) for v in (*_outer_vars(w, lane), w.over, *([lane] if lane else []))]
        total += len(w.params) * math.prod(spec.size(d) for d in dims) * body.program.real.itemsize
    return total


def pack_function(body: Body) -> str:
    text, spell, lane = Text(), body.spell, body.program.lane
    assert lane is not None
    body.packing = True
    text("// Copies the params into panels, once per call.")
    with text.braces(f"static void {body.function}_pack(const struct call *call, long lane0, long lane1)"):
        for nest, group, weights in groups(body):
            room = field(body, nest, group)
            inner = Text()
            inner(f"vec *panel = (vec *)call->{room}.data + {panel_place(body, weights)};")
            count, n = len(weights.params), spell.size(dim_of(weights.over))
            lanes = "lanes" if body.ragged else "LANES"
            for number, load in enumerate(weights.params):
                first = substitute(load, {weights.over: 0})
                assert isinstance(first, Load)
                buffer = spell.buffers[load.name]
                data = f"(const {spell.stored(load.name)} *)call->{spell.field(load.name)}.data"
                source = at(data, offset(spell.place(first.index, buffer.dims), buffer))
                step, stride = (_stride(load, var, body) for var in (weights.over, lane))
                target = at("panel", str(number or ""))
                inner(f"rc_pack_{body.suffix}({target}, {count}, {source}, {n}, {step}, {stride}, {lanes});")
            body.loops((*_outer_vars(weights, lane), lane), inner, text)
    body.packing = False
    return str(text)


def _stride(load: Load, var: Var, body: Body) -> str:
    """The distance between the elements of a param at two neighbouring places of a variable."""
    buffer = body.spell.buffers[load.name]
    axes = [axis for axis, index in enumerate(load.index) if index == var]
    return " + ".join(stride_of(axis, buffer.dims, body.spell, buffer) for axis in axes)


def pack_calls(body: Body, guard: str) -> list[str]:
    """How the entry packs, the outputs split between the threads."""
    lane = body.program.lane
    assert lane is not None
    size = body.spell.size(dim_of(lane))
    if in_place(body):
        guard = guard.replace("if (", "if (!one_row(&self) && ") or "if (!one_row(&self)) "
    return [
        f"{guard}{{",
        "    long from, to;",
        f"    rc_split({size}, LANES, thread, count, &from, &to);",
        f"    {body.function}_pack(&self, from, to);",
        "}",
    ]


def panel_room(body: Body) -> list[str]:
    """The workspace of the panels."""
    return [
        f"call->{field(body, n, g)} = (rc_array){{rc_take(base, &used, {_panel_bytes(body, w)}), 0, 0, 0}};"
        for n, g, w in groups(body)
    ]


def print_sums(body: Body, nest: int, group: int, weights: Weights, text: Text) -> None:
    """The sums of one row at one place of a nest, from the panel."""
    spell = body.spell
    panel = body.spell(f"panel@{weights.over}")
    for stmt in weights.folds:
        text(f"vec {body.local(stmt)} = rc_spread_{body.suffix}(0);  // {stmt.text}")
    text(f"const vec *{panel} = (const vec *)call->{field(body, nest, group)}.data + {panel_place(body, weights)};")
    over, count = spell.var(weights.over), len(weights.params)
    step = f"{panel} += {count}" if count > 1 else f"{panel}++"
    with text.braces(f"for (long {over} = 0; {over} < {spell.size(dim_of(weights.over))}; {over}++, {step})"):
        for stmt, (which, factor) in zip(weights.folds, weights.factors, strict=True):
            text(f"{body.local(stmt)} += {panel}[{which}] * {body.printer.term(factor)};")
