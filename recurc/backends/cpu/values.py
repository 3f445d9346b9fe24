"""Where the values of one step live: the C text that reads and writes locals, arrays on the stack and buffers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from recurc.backends.cpu.names import Spelling, at, element, offset, pairs, stride_of
from recurc.backends.cpu.program import Program
from recurc.backends.emit.expr import C_TYPES, Printer
from recurc.backends.emit.nodes import Index, Load, Matrix, Node, Stmt, Var, dim_of, index_vars, loads, plain
from recurc.backends.emit.places import limits
from recurc.backends.emit.text import Text
from recurc.plan import Buffer, Carry, Role
from recurc.types import Dims, DType, axis_ids

_STACK_BYTES = 256 * 1024  # arrays of one function kept on the stack


@dataclass(frozen=True)
class Array:
    """A local array: the variables (or axis ids) of its axes, in storage order, the lane axis last and padded."""

    name: str
    order: tuple[int, ...]  # storage axis -> axis of an index
    dims: Dims  # in storage order
    has_lane: bool


@dataclass
class Values:
    program: Program
    spell: Spelling
    made: dict[str, tuple[int, Stmt]] = field(init=False)
    carries: dict[str, Carry] = field(init=False)
    nest: int = 0  # the nest being printed
    stack: int = 0  # bytes of arrays on the stack so far
    rooms: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])  # field -> C type, count
    rows: bool = False  # inside a tile: fold results are arrays over its rows

    def __post_init__(self) -> None:
        self.made = {s.name: (k, s) for k, n in enumerate(self.program.nests) for s in n.stmts}
        self.carries = {c.name: c for c in self.program.stage.carries}

    # --- types and names --------------------------------------------------------------------------------------

    def compute(self, dtype: DType) -> DType:
        return self.spell.spec.dtype(dtype).accumulator

    @property
    def suffix(self) -> str:
        return f"v{self.program.real.value}"

    @property
    def ragged(self) -> bool:
        """Whether the last vector of lanes is partly empty."""
        lane = self.program.lane
        return lane is not None and self.spell.extent(dim_of(lane)) % (self.lanes) != 0

    @property
    def lane_count(self) -> str:
        """How many lanes of the vector at hand are in use."""
        return "lanes" if self.ragged else "LANES"

    lanes: int = 16
    vectors: int = 1  # of lanes that go through each step together, in a loop whose lanes stand outside
    function: str = ""  # the C function being printed
    packing: bool = False  # printing the pack function, whose lanes are split between the threads

    def c_type(self, dtype: DType, vector: bool) -> str:
        dtype = self.compute(dtype)
        return "vec" if vector else "real" if dtype is self.program.real else C_TYPES[dtype]

    def is_vector(self, stmt: Stmt) -> bool:
        return self.program.lane is not None and self.program.lane in stmt.index

    def each(self, lines: Iterable[str], text: Text, vector: bool = True) -> None:
        """Lines about one vector of lanes, for each of those that go through the step together."""
        lane = self.program.lane
        if lane is None or self.vectors == 1 or not vector:
            text(*lines)
            return
        var = self.spell.var(lane)
        text("UNROLL")
        with text.braces(f"for (long each = 0, {var} = lane; each < {self.vectors}; each++, {var} += LANES)"):
            text(*lines)

    def variable(self, kind: str, name: str, value: str, words: str, text: Text, vector: bool, fixed: bool) -> None:
        """Declares a variable, or one for each vector of lanes."""
        if not vector or self.vectors == 1:
            text(f"{'const ' if fixed else ''}{kind} {name} = {value};{words}")
            return
        text(f"{kind} {name}[{self.vectors}];{words}")
        self.each([f"{name}[each] = {value};"], text)

    @property
    def first_lane(self) -> str:
        """The variable of the lane loop that stands outside."""
        return "lane" if self.vectors > 1 else self.spell.var(self.program.lane or "")

    def is_carry(self, stmt: Stmt) -> bool:
        return self.program.elements[stmt.name][0] in self.carries

    def local(self, stmt: Stmt) -> str:
        """The C variable of a value in the iteration that computes it."""
        return self.spell(f"{stmt.name}@new" if self.is_carry(stmt) else stmt.name)

    def is_local(self, stmt: Stmt, load: Load) -> bool:
        """Whether a read of the value in the current nest sees the variable itself."""
        place, _ = self.made[stmt.name]
        nest = self.program.nests[place]
        if isinstance(stmt.value, Matrix):
            return False
        if not nest.vars or nest.accumulated(stmt):
            return True
        return place == self.nest and load.index == stmt.index

    def needs_array(self, stmt: Stmt) -> bool:
        """Whether the value is read outside of the iteration that computes it."""
        home, _ = self.made[stmt.name]
        nest = self.program.nests[home]
        if isinstance(stmt.value, Matrix):
            return True
        if not nest.vars or nest.accumulated(stmt):
            return False
        return any(
            load.name == stmt.name and not load.lag and (k != home or load.index != stmt.index)
            for k, n in enumerate(self.program.nests) for s in n.stmts for load in loads(s.value)
        )  # fmt: skip

    # --- arrays -----------------------------------------------------------------------------------------------

    def _array(self, name: str, axes: tuple[Var, ...]) -> Array:
        """Storage of a value over `axes`; with the lane loop outside, the lane axis is the vector itself."""
        lane = self.program.lane
        order = [i for i, v in enumerate(axes) if v != lane]
        if lane in axes and not self.program.lanes_outside:
            order.append(axes.index(lane))
        return Array(name, tuple(order), tuple(dim_of(axes[i]) for i in order), lane in axes)

    def carry_array(self, name: str, new: bool) -> Array:
        c_name = self.spell(name)
        if new and name in self.program.doubled:
            c_name = self.spell(f"{name}@next")
        return self._array(c_name, axis_ids(self.carries[name].dims))

    def value_array(self, stmt: Stmt, index: Index) -> tuple[Array, Index]:
        """Where a value of this step is kept between nests, and the full index of its element at `index`."""
        base, places = self.program.elements[stmt.name]
        if base in self.carries:
            return self.carry_array(base, True), self.full_index(base, places, index)
        return self._array(self.spell(f"{stmt.name}@row"), stmt.index), index

    def full_index(self, base: str, places: tuple[int, ...], index: Index) -> Index:
        """The index along all axes of an equation, unrolled ones included."""
        if not places:
            return index
        dims = self.program.dims[base]
        free, fixed = iter(index), iter(places)
        return tuple(next(fixed) if d in self.program.unrolled else next(free) for d in dims)

    def array_read(self, array: Array, index: Index) -> str:
        stored = tuple(index[i] for i in array.order)
        padded = array.has_lane and not self.program.lanes_outside
        place = self.place(stored, array.dims, padded)
        axis = self.lane_axis(stored)
        if axis is None or (array.has_lane and not padded):
            return self._own(array, place)
        if padded and stored[-1] == self.program.lane:
            return f"rc_load_{self.suffix}({at(array.name, place)})"
        if axis == len(stored) - 1:
            return self._vector_at(at(array.name, place))
        # kept by another variable over the lane dim, as plain numbers in a row, or read across
        stride = self.spell.padded_stride(axis, array.dims) if padded else stride_of(axis, array.dims, self.spell)
        return f"rc_gather_{self.suffix}({at(array.name, place)}, {stride}, {self.lane_count})"

    def _own(self, array: Array, place: str) -> str:
        """An element that is one number, or one vector of lanes."""
        if self.vectors > 1 and array.has_lane:
            before = f"({place}) * {self.vectors} + " if " + " in place else f"{place} * {self.vectors} + "
            return f"{array.name}[{before if place else ''}each]"
        return element(array.name, place) if array.dims else array.name

    def array_write(self, array: Array, index: Index, value: str) -> str:
        stored = tuple(index[i] for i in array.order)
        padded = array.has_lane and not self.program.lanes_outside
        place = self.place(stored, array.dims, padded)
        if padded and array.dims:
            return f"rc_store_{self.suffix}({at(array.name, place)}, {value});"
        return f"{self._own(array, place)} = {value};"

    def array_count(self, array: Array) -> str:
        padded = array.dims[-1] if array.has_lane and not self.program.lanes_outside and array.dims else None
        sizes = [self.spell.size(d) for d in array.dims[:-1]]
        if array.dims:
            sizes.append(self.spell.padded(array.dims[-1]) if padded else self.spell.size(array.dims[-1]))
        if array.has_lane and self.vectors > 1:
            sizes.append(str(self.vectors))
        return " * ".join(sizes) or "1"

    def fits_stack(self, array: Array, vector: bool) -> bool:
        """Take room for an array on the stack if there is some left: a thread's stack may be small."""
        each = self.vectors * self.lanes * self.program.real.itemsize if vector else 8
        return self.takes_stack(each * math.prod(self.spell.extent(d) for d in array.dims))

    def takes_stack(self, size: int) -> bool:
        """Take so many bytes of the stack if they are left."""
        if self.stack + size > _STACK_BYTES:
            return False
        self.stack += size
        return True

    # --- loads ------------------------------------------------------------------------------------------------

    @property
    def printer(self) -> Printer:
        return Printer(self.compute, self.load, self.spell.var, self._bounded, self.program.lane)

    def _bounded(self, node: Node) -> bool:
        low, high = limits(node, self.spell.sizes)
        last = 2 ** (8 * self.compute(node.dtype).itemsize - 1)
        return -last < low and high < last - 1

    def place(self, index: Index, dims: Dims, padded: bool = False) -> str:
        """The offset of an element, computed places included."""
        return self.spell.place(index, dims, padded, self.printer.term)

    def lane_axis(self, index: Index) -> int | None:
        """The axis along which the lanes lie, if the element depends on the lane."""
        lane = self.program.lane
        return next((k for k, i in enumerate(index) if lane is not None and lane in index_vars(i)), None)

    def _vector_at(self, address: str) -> str:
        """The vector that starts at an address."""
        if self.ragged:
            return f"rc_load_part_{self.suffix}({address}, lanes)"
        return f"rc_load_{self.suffix}({address})"

    def load(self, load: Load) -> str:
        if not load.lag and load.name in self.made:
            stmt = self.made[load.name][1]
            if self.is_local(stmt, load):
                return self.value(stmt)
            array, full = self.value_array(stmt, load.index)
            return self.array_read(array, full)
        if load.name in self.carries:
            return self.array_read(self.carry_array(load.name, not load.lag), load.index)
        return self.buffer_read(load)

    def in_weights(self, stmt: Stmt) -> bool:
        return any(stmt in w.folds for w in self.program.weights.get(self.made[stmt.name][0], ()))

    def preloaded(self, load: Load) -> bool:
        """Params that stay in local variables: scalars, and with the lane loop outside everything along lanes."""
        if self.spell.buffers[load.name].role not in (Role.PARAM, Role.ONCE) or self.program.tiled:
            return False
        return not load.index or (plain(load.index) and self.program.lanes_outside and self.program.lane in load.index)

    def param_array(self, load: Load) -> Array:
        return self._array(self.spell(load.name), axis_ids(self.spell.buffers[load.name].dims))

    def buffer_read(self, load: Load, direct: bool = False) -> str:
        if not direct and self.preloaded(load) and self._lane_axis_plain(load):
            return self.array_read(self.param_array(load), load.index)
        buffer = self.spell.buffers[load.name]
        pointer = self.pointer(load.name, load.lag)
        place = self.place(load.index, buffer.dims)
        axis = self.lane_axis(load.index)
        if axis is None:
            return element(pointer, offset(place, buffer))
        if axis != len(load.index) - 1:
            stride = stride_of(axis, buffer.dims, self.spell, buffer)
            return f"rc_gather_{self.suffix}({at(pointer, offset(place, buffer))}, {stride}, {self.lane_count})"
        if buffer.part is None:
            return self._vector_at(at(pointer, place))
        which = ("evens", "odds")[buffer.part[1]]
        part = ("_part", ", lanes") if self.ragged else ("", "")
        return f"rc_{which}{part[0]}_{self.suffix}({at(pointer, pairs(place))}{part[1]})"

    def contiguous(self, load: Load) -> bool:
        """Whether neighbours along the load's last axis lie side by side, as numbers arithmetic is done in."""
        if not load.lag and load.name in self.made:
            stmt = self.made[load.name][1]
            if self.is_local(stmt, load) or self.compute(stmt.value.dtype) is not self.program.real:
                return False
            array, full = self.value_array(stmt, load.index)
        elif load.name in self.carries:
            array, full = self.carry_array(load.name, not load.lag), load.index
            if self.compute(self.carries[load.name].dtype) is not self.program.real:
                return False
        else:
            buffer = self.spell.buffers[load.name]
            return buffer.spacing == 1 and self.compute(buffer.dtype) is self.program.real
        return bool(array.order) and full[array.order[-1]] == load.index[-1]

    def _lane_axis_plain(self, load: Load) -> bool:
        """The lane variable stands at the axis it names, so a preloaded copy serves this read."""
        axes = axis_ids(self.spell.buffers[load.name].dims)
        lane = self.program.lane
        return not load.index or (lane in axes and load.index.index(lane) == axes.index(lane))

    def pointer(self, name: str, lag: int = 0) -> str:
        """The pointer to the element of the current sequence and step."""
        buffer = self.spell.buffers[name]
        home = buffer.part[0] if buffer.part else name
        if buffer.has_time:
            return self.spell(f"{home}@before" if lag else f"{home}@t")
        return self.spell(f"{home}@b")

    def homes(self, names: Iterable[str]) -> list[tuple[str, Buffer]]:
        """One buffer for each array that holds some of those named, in the order of their names."""
        found: dict[str, str] = {}
        for name in sorted(names):
            found.setdefault(self.spell.field(name), name)
        return [(name, self.spell.buffers[name]) for name in found.values()]

    def buffers_read(self) -> dict[str, set[int]]:
        """Buffers the stage reads, with the lags."""
        found: dict[str, set[int]] = {}
        for nest in self.program.nests:
            for stmt in nest.stmts:
                for load in loads(stmt.value):
                    if (
                        load.name in self.spell.buffers
                        and load.name not in self.carries
                        and (load.lag or load.name not in self.made)
                    ):
                        found.setdefault(load.name, set()).add(load.lag)
        return found

    def value(self, stmt: Stmt) -> str:
        """The variable of a value: one of several, for rows or vectors of lanes that go together."""
        if self.rows and self.in_weights(stmt):
            return f"{self.local(stmt)}[q]"
        return f"{self.local(stmt)}[each]" if self.vectors > 1 and self.is_vector(stmt) else self.local(stmt)
