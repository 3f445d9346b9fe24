"""Printing one step of a stage: its nests, with every value read from and stored to where it lives."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recurc.backends.cpu.matrices import print_matrix
from recurc.backends.cpu.names import at, element, offset, pairs, stride_of
from recurc.backends.cpu.panels import print_sums
from recurc.backends.cpu.values import Values
from recurc.backends.cpu.weights import Weights
from recurc.backends.emit.nests import Nest
from recurc.backends.emit.nodes import Fold, Index, Matrix, Stmt, Var, dim_of, loads
from recurc.backends.emit.text import Text
from recurc.plan import Role
from recurc.types import Kind, axis_ids

_LANES = re.compile(r"\blanes\b")
_NEUTRAL = {"sum": "0", "prod": "1", "max": "-INFINITY", "min": "INFINITY", "any": "0", "all": "1"}


@dataclass
class Body(Values):
    # --- nests ------------------------------------------------------------------------------------------------

    def all_nests(self, text: Text) -> None:
        for number in range(len(self.program.nests)):
            self.print_nest(number, text)

    def print_nest(self, number: int, text: Text) -> None:
        self.nest = number
        nest = self.program.nests[number]
        if isinstance(nest.stmts[0].value, Matrix):
            print_matrix(self, nest.stmts[0], nest.stmts[0].value, text)
            return
        folds = [s for s in nest.stmts if nest.accumulated(s)]
        for stmt in folds:
            self._declare_fold(stmt, text, across=nest)
        inner = Text()
        self.iteration(nest, inner)
        self.loops(nest.vars, inner, text)
        for stmt in folds:
            self._finish_fold(stmt, text)
        for stmt in folds:
            self.keep(stmt, text)

    def loops(self, variables: tuple[Var, ...], inner: Text, text: Text) -> None:
        if not variables:
            text.block(inner)
            return
        first, rest = variables[0], variables[1:]
        name, dim = self.spell.var(first), dim_of(first)
        if first == self.program.lane:
            bounds = (
                ("lane0", "lane1")
                if self.program.lanes_apart or self.program.tiled or self.packing
                else ("0", self.spell.size(dim))
            )
            with text.braces(f"for (long {name} = {bounds[0]}; {name} < {bounds[1]}; {name} += LANES)"):
                body = Text()
                self.loops(rest, inner, body)
                if self.ragged and any(_LANES.search(line) for line in body.lines):
                    text(f"const long lanes = rc_lanes({bounds[1]} - {name});")
                text.block(body)
            return
        with text.braces(f"for (long {name} = 0; {name} < {self.spell.size(dim)}; {name}++)"):
            self.loops(rest, inner, text)

    def iteration(self, nest: Nest, text: Text) -> None:
        """One place of a nest."""
        printed: set[str] = set()
        for stmt in nest.stmts:
            if stmt.name in printed or (self.rows and self.in_weights(stmt)):
                continue
            if nest.accumulated(stmt):
                self._update_fold(stmt, text)
            elif isinstance(stmt.value, Fold):
                product = self._product(stmt)
                if product is not None:
                    number, weights = product
                    print_sums(self, self.nest, number, weights, text)
                    printed.update(s.name for s in weights.folds)
                    continue
                group = [s for s in nest.stmts if self._shares(s, stmt, nest)]
                for s in group:
                    self._declare_fold(s, text)
                inner = Text()
                for s in group:
                    self._update_fold(s, inner)
                self.loops(stmt.value.over, inner, text)
                for s in group:
                    self._finish_fold(s, text)
                printed.update(s.name for s in group)
            else:
                self.assign(stmt, text)
        for stmt in nest.stmts:
            if not nest.accumulated(stmt):
                self.keep(stmt, text)

    def _product(self, stmt: Stmt) -> tuple[int, Weights] | None:
        """The packed matrix product a fold belongs to, outside of tiles."""
        groups = self.program.weights.get(self.nest, ())
        return next(((g, w) for g, w in enumerate(groups) if stmt in w.folds), None)

    def _shares(self, stmt: Stmt, first: Stmt, nest: Nest) -> bool:
        """Whether a fold may share the loop of an earlier one: it needs nothing computed between them."""
        if not isinstance(stmt.value, Fold) or not isinstance(first.value, Fold) or stmt.value.over != first.value.over:
            return False
        if nest.accumulated(stmt) or self.in_weights(stmt):
            return False
        start = nest.stmts.index(first)
        if nest.stmts.index(stmt) < start:
            return False
        later = {s.name for s in nest.stmts[start:]}
        return not any(load.name in later and not load.lag for load in loads(stmt.value))

    def assign(self, stmt: Stmt, text: Text) -> None:
        vector = self.is_vector(stmt)
        value = self.printer(stmt.value)
        if vector and not self.printer.is_vector(stmt.value):
            value = f"rc_spread_{self.suffix}({value})"
        kind = self.c_type(stmt.value.dtype, vector)
        self.variable(kind, self.local(stmt), value, comment(stmt), text, vector, True)

    def keep(self, stmt: Stmt, text: Text, value: str = "") -> None:
        """Store a value to the arrays that hold it: carry, scratch, output."""
        lines = Text()
        self._keep(stmt, lines, value)
        if lines.lines:
            self.each(lines.lines, text, self.is_vector(stmt))

    def _keep(self, stmt: Stmt, text: Text, value: str) -> None:
        base, places = self.program.elements[stmt.name]
        value = value or self.value(stmt)
        if base in self.carries:
            array = self.carry_array(base, True)
            if array.dims:
                text(self.array_write(array, self.full_index(base, places, stmt.index), value))
        elif self.needs_array(stmt):
            array, full = self.value_array(stmt, stmt.index)
            text(self.array_write(array, full, value))
        if base in self.program.stage.writes:
            self._write_buffer(base, self.full_index(base, places, stmt.index), value, stmt, text)

    def _other_part(self, name: str, stmt: Stmt) -> Stmt | None:
        """The statement that makes the other part of the same elements of a complex array, at the same place."""
        buffer, elements = self.spell.buffers[name], self.program.elements
        nest = self.program.nests[self.made[stmt.name][0]]
        for other in nest.stmts if buffer.part else ():
            base, places = elements[other.name]
            part = self.spell.buffers[base].part if base in self.program.stage.writes else None
            if part and buffer.part and part[0] == buffer.part[0] and part[1] != buffer.part[1]:
                same = places == elements[stmt.name][1] and other.index == stmt.index
                return other if same and nest.accumulated(other) == nest.accumulated(stmt) else None
        return None

    def _write_buffer(self, name: str, index: Index, value: str, stmt: Stmt, text: Text) -> None:
        buffer = self.spell.buffers[name]
        pointer = self.pointer(name)
        place = self.place(index, buffer.dims)
        lane = self.program.lane
        if lane is not None and lane in index:
            axis = index.index(lane)
            other = self._other_part(name, stmt) if axis == len(index) - 1 else None
            if other is not None and buffer.part and not buffer.part[1]:
                return  # stored together with the imaginary part
            if axis != len(index) - 1 or (other is None and buffer.part):
                target, stride = at(pointer, offset(place, buffer)), stride_of(axis, buffer.dims, self.spell, buffer)
                text(f"rc_scatter_{self.suffix}({target}, {stride}, {value}, {self.lane_count});")
                return
            both, values = ("_pairs", f"{self.value(other)}, {value}") if other else ("", value)
            target = at(pointer, pairs(place) if other else place)
            if self.ragged:
                text(f"rc_store{both}_part_{self.suffix}({target}, {values}, lanes);")
            elif self.streams(name):
                stream = self.spell(f"{self.spell.field(name)}@stream")
                text(f"if ({stream}) rc_stream{both}_{self.suffix}({target}, {values});")
                text(f"else rc_store{both}_{self.suffix}({target}, {values});")
            else:
                text(f"rc_store{both}_{self.suffix}({target}, {values});")
        else:
            once = "if (lane0 == 0) " if self.program.lanes_apart and not self.program.lanes_outside else ""
            if self.program.lanes_outside and lane is not None:
                once = f"if ({self.first_lane} == 0) "
            text(f"{once}{element(pointer, offset(place, buffer))} = {value};")

    def streams(self, name: str) -> bool:
        """Whether an output may go around the caches: whole rows are written in order, and nothing here reads them."""
        program, buffer = self.program, self.spell.buffers[name]
        lane = program.lane
        if buffer.role is not Role.OUTPUT or lane is None or program.lanes_outside or program.tiled or self.ragged:
            return False
        read = {self.spell.field(n) for n in self.buffers_read()}
        return bool(buffer.dims) and axis_ids(buffer.dims)[-1] == lane and self.spell.field(name) not in read

    # --- folds ------------------------------------------------------------------------------------------------

    def _fold_vector(self, stmt: Stmt) -> bool:
        """Whether the running value of a fold is a vector."""
        assert isinstance(stmt.value, Fold)
        lane = self.program.lane
        return lane is not None and (lane in stmt.index or lane in stmt.value.over)

    def _running(self, stmt: Stmt) -> str:
        """The variable a fold runs in; one along the lanes is folded across them at the end."""
        assert isinstance(stmt.value, Fold)
        across = self.program.lane is not None and self.program.lane in stmt.value.over
        return self.spell(f"{stmt.name}@lanes") if across else self.local(stmt)

    def _declare_fold(self, stmt: Stmt, text: Text, across: Nest | None = None) -> None:
        assert isinstance(stmt.value, Fold)
        fold, name, vector = stmt.value, self._running(stmt), self._fold_vector(stmt)
        kind = self.c_type(fold.dtype, vector)
        if fold.op.startswith("arg"):
            text(f"int64_t {name} = 0;{comment(stmt)}", f"{self.c_type(fold.arg.dtype, False)} {name}_best = 0;")
            return
        neutral = _NEUTRAL[fold.op]
        if fold.dtype.kind is Kind.INT and fold.op in ("max", "min"):
            bits = self.compute(fold.dtype).value[1:]
            neutral = f"INT{bits}_{'MIN' if fold.op == 'max' else 'MAX'}"
        neutral = f"rc_spread_{self.suffix}({neutral})" if vector else neutral
        self.variable(kind, name, neutral, comment(stmt), text, vector, False)

    def _update_fold(self, stmt: Stmt, text: Text) -> None:
        assert isinstance(stmt.value, Fold)
        fold, name, vector = stmt.value, self._running(stmt), self._fold_vector(stmt)
        value = self.printer(fold.arg)
        if vector and not self.printer.is_vector(fold.arg):
            value = f"rc_spread_{self.suffix}({value})"
        if vector and self.vectors > 1:
            name = f"{name}[each]"
        lane = self.program.lane
        if self.ragged and lane in fold.over:
            value = f"rc_keep_{self.suffix}({value}, lanes, {_NEUTRAL[fold.op]})"
        if fold.op.startswith("arg"):
            var = self.spell.var(fold.over[0])
            best = f"{name}_best"
            better = f"{value} {'>' if fold.op == 'argmax' else '<'} {best}"
            if fold.arg.dtype.kind is Kind.REAL:  # the first NaN wins, as in NumPy
                better += f" || ({value} != {value} && {best} == {best})"
            with text.braces(f"if ({var} == 0 || {better})"):
                text(f"{name}_best = {value};", f"{name} = {var};")
            return
        match fold.op:
            case ("sum" | "prod") as op if fold.dtype.kind is Kind.INT:
                what = {"sum": "add", "prod": "mul"}[op]
                text(f"{name} = rc_{what}_{self.compute(fold.dtype).value}({name}, {value});")
            case "sum" | "prod":
                self.each([f"{name} {'+' if fold.op == 'sum' else '*'}= {value};"], text, vector)
            case "any" | "all":
                self.each([f"{name} {'|' if fold.op == 'any' else '&'}= {value};"], text, vector)
            case _:
                suffix = self.suffix if vector else self.compute(fold.dtype).value
                self.each([f"{name} = rc_{fold.op}_{suffix}({name}, {value});"], text, vector)

    def _finish_fold(self, stmt: Stmt, text: Text) -> None:
        assert isinstance(stmt.value, Fold)
        running = self._running(stmt)
        if running != self.local(stmt):
            text(f"const real {self.local(stmt)} = rc_{stmt.value.op}_lanes_{self.suffix}({running});")


def comment(stmt: Stmt) -> str:
    place = f"line {stmt.span.line}" if stmt.span else ""
    what = stmt.text if stmt.text and "@" in stmt.name and (" in " in stmt.text) else ""
    words = ": ".join(w for w in (place, what) if w)
    return f"  // {words}" if words else ""
