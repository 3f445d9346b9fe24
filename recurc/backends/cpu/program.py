"""What one stage becomes before it is printed: statements in nests, the lane variable, and where every value lives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recurc.backends.base import Specialization
from recurc.backends.cpu.weights import Weights, find_weights, merge_sums
from recurc.backends.emit.indexed import hoist_uniform, statements
from recurc.backends.emit.lanes import crossed_dims
from recurc.backends.emit.nests import Nest, build_nests
from recurc.backends.emit.nodes import (
    Axis,
    Call,
    Fold,
    Load,
    Matrix,
    Node,
    Place,
    Stmt,
    Var,
    dim_of,
    extent,
    free_vars,
    index_vars,
    loads,
    nodes,
    parts,
    plain,
)  # fmt: skip
from recurc.ir import Equation, Expr, Linalg, walk
from recurc.ops import OPS
from recurc.plan import Buffer, Carry, Role
from recurc.types import Dims, DType, Kind

_VECTOR_BYTES = 64  # of the widest registers there are
_MATRIX_ROWS = 16
STATE_BYTES = 24 * 1024  # states that go through time together and still leave room in the first-level cache


@dataclass(frozen=True)
class StageInput:
    """A stage in the form all kinds share: what is kept from step to step, the equations, and what is stored."""

    name: str
    carries: tuple[Carry, ...]
    body: tuple[Equation, ...]
    writes: tuple[str, ...]
    identity: Mapping[str, Expr] = field(default_factory=dict[str, Expr])  # carries that start from a constant
    packs: bool = True  # matrix products may have packed copies of their weights; the loops of a scan make none


@dataclass(frozen=True)
class Program:
    stage: StageInput
    lane: Var | None  # the SIMD variable, None for scalar code
    lanes_apart: bool  # positions along the lane variable never meet: it can be split between threads
    lanes_outside: bool  # the lane loop stands outside of the time loop, one vector at a time
    nests: tuple[Nest, ...]
    elements: Mapping[str, tuple[str, tuple[int, ...]]]  # statement name -> (equation name, unrolled places)
    doubled: frozenset[str]  # carries that need the old and the new value at once
    shared: frozenset[str]  # values of this step that are read at other places than where they were made
    weights: Mapping[int, tuple[Weights, ...]]  # nest number -> its matrix products
    dims: Mapping[str, Dims]  # of each equation's value
    real: DType  # what arithmetic is done in
    unrolled: frozenset[str]  # literal dims that are written out element by element

    @property
    def tiled(self) -> bool:
        """Whether several rows (sequences or steps) go through each nest together: there is a matrix product, and
        every nest runs over the lane variable."""
        if not self.weights or self.lanes_outside or not all(self.lane in n.vars for n in self.nests):
            return False
        return bool(self.stage.carries) or len(self.nests) == 1


def analyse(stage: StageInput, buffers: Mapping[str, Buffer], spec: Specialization) -> Program:
    sizes = dict(spec.sizes)
    declared = {b.name: b.dims for b in buffers.values()} | {c.name: c.dims for c in stage.carries}
    stmts, unrolled = statements(stage.body, sizes, declared)
    real = spec.real.accumulator
    lane = _choose_lane(stmts, stage, buffers, spec)
    apart = lane is not None and not any(dim_of(lane) in _crossed(e.expr) for e in stage.body)
    outside = apart and lane is not None and _lanes_outside(stmts, stage, lane, spec)
    stmts = hoist_uniform(stmts, lane)
    if outside:
        stmts = [replace(s, value=_by_variables(s.value)) for s in stmts]
    nests = tuple(build_nests(stmts, (lane,) if outside and lane else ()))
    for nest in nests:
        if lane in nest.vars:
            nest.vars = (*(v for v in nest.vars if v != lane), lane)
    dims = {e.name: declared.get(e.name, e.expr.dims) for e in stage.body}
    elements = {s.name: _element(s.name, stage) for s in stmts}
    doubled = frozenset(c.name for c in stage.carries if _doubled(c.name, nests, elements))
    made = {s.name: (k, s) for k, n in enumerate(nests) for s in n.stmts}
    crossing = frozenset(
        load.name
        for nest in nests for s in nest.stmts for load in loads(s.value)
        if not load.lag and load.name in made and load.index != made[load.name][1].index
    )  # fmt: skip
    weights: dict[int, tuple[Weights, ...]] = {}
    kept = {c.name for c in stage.carries} | set(stage.writes)
    plain = outside or not stage.packs or _once(stage, buffers) or _folds_lanes(nests, lane)
    for k, nest in enumerate(nests):
        elsewhere = {load.name for j, n in enumerate(nests) if j != k for s in n.stmts for load in loads(s.value)}
        nest.inlinable = (
            frozenset(s.name for s in nest.stmts)
            - elsewhere
            - crossing
            - {n for n in elements if elements[n][0] in kept}
        )
        found = find_weights(nest, lane, buffers, spec) if lane in nest.vars and not plain else ()
        if found:
            weights[k] = found
    program = Program(
        stage, lane, apart, outside, nests, elements, doubled, crossing, weights, dims, real, frozenset(unrolled)
    )
    if program.tiled:
        return replace(program, weights={k: merge_sums(nests[k], w) for k, w in weights.items()})
    return program


def describe(program: Program) -> str:
    """Along which dim the SIMD lanes of a stage lie, for a reader of its code."""
    if program.lane is None:
        return "Scalar code: no dim serves as SIMD lanes."
    dim = dim_of(program.lane)
    if program.lanes_outside:
        return f"SIMD lanes along {dim}, which never meet: one vector goes through all steps, its states close by."
    if program.tiled:
        return f"SIMD lanes along {dim}; several rows share each packed matrix product."
    apart = "which never meet" if program.lanes_apart else "which meet within a step"
    return f"SIMD lanes along {dim}, {apart}; each step runs over whole rows, which stream through memory in order."


def _by_variables(node: Node) -> Node:
    """Products of three and more with the factors of the same variables together, so that the compiler can take what
    an inner loop does not change out of it: `(dt[D] * B[N]) * x[D]` as `(dt[D] * x[D]) * B[N]`."""
    match node:
        case Call("mul", _, dtype) if dtype.kind is Kind.REAL:
            groups: dict[frozenset[Var], Node] = {}
            for factor in map(_by_variables, _factors(node, dtype)):
                variables = free_vars(factor)
                before = groups.get(variables)
                groups[variables] = factor if before is None else Call("mul", (before, factor), dtype)
            first, *others = groups.values()
            for other in others:
                first = Call("mul", (first, other), dtype)
            return first
        case Call(args=args):
            return replace(node, args=tuple(_by_variables(a) for a in args))
        case Fold(arg=arg):
            return replace(node, arg=_by_variables(arg))
        case _:
            return node


def _factors(node: Node, dtype: DType) -> list[Node]:
    if isinstance(node, Call) and node.op == "mul" and node.dtype is dtype:
        return [factor for arg in node.args for factor in _factors(arg, dtype)]
    return [node]


def _once(stage: StageInput, buffers: Mapping[str, Buffer]) -> bool:
    """Whether the stage runs once per call: too little work for packed products."""
    return any(w in buffers and buffers[w].role is Role.ONCE for w in stage.writes)


def _folds_lanes(nests: Sequence[Nest], lane: Var | None) -> bool:
    """Whether a value is gathered over the lanes, which rows that share a tile cannot do."""
    return any(isinstance(n, Fold) and lane in n.over for nest in nests for s in nest.stmts for n in nodes(s.value))


def _element(name: str, stage: StageInput) -> tuple[str, tuple[int, ...]]:
    """`i_f_g_o@2` -> (`i_f_g_o`, (2,)); names the compiler made (`y@sum`) stand for themselves."""
    base, *places = name.split("@")
    if places and all(p.isdigit() for p in places) and any(e.name == base for e in stage.body):
        return base, tuple(int(p) for p in places)
    return name, ()


def _crossed(expr: Expr) -> set[str]:
    """Dims along which positions meet; here also the batch dims of matrix operations, which are done one by one."""
    return crossed_dims(expr) | {
        d for n in walk(expr) if isinstance(n, Linalg) for d in (*n.dims, *(d for a in n.args for d in a.dims))
    }


# --- the lane variable ------------------------------------------------------------------------------------------


def _choose_lane(
    stmts: Sequence[Stmt], stage: StageInput, buffers: Mapping[str, Buffer], spec: Specialization
) -> Var | None:
    """The variable along which the stage costs least, among those every value can be a vector along. One along which
    nothing meets comes first, if vectors along it are at least half full: they go through time by themselves."""
    crossed = {d for e in stage.body for d in _crossed(e.expr)}
    candidates = {v for s in stmts if not isinstance(s.value, Matrix) for v in s.index if "+" not in v}
    avoided = _against_the_row(stmts, candidates)

    def rank(var: Var) -> tuple[bool, bool, float, Var]:
        alone = dim_of(var) not in crossed and _filled(spec.size(dim_of(var)), spec) >= 0.5
        return var in avoided, not alone, _lane_cost(var, stmts, stage, buffers, spec), var

    for var in sorted(candidates, key=rank):
        if spec.size(dim_of(var)) > 1 and _vectorisable(var, stmts, stage, buffers, spec):
            return var
    return None


_GATHER, _FOLD = 12.0, 10.0  # operations that a strided vector and a sum over lanes cost


def _lane_cost(
    lane: Var, stmts: Sequence[Stmt], stage: StageInput, buffers: Mapping[str, Buffer], spec: Specialization
) -> float:
    """About how many vector and scalar operations a step takes with lanes along a variable."""
    lanes, sizes = _VECTOR_BYTES // spec.real.accumulator.itemsize, dict(spec.sizes)

    def passes(variables: Iterable[Var]) -> float:
        found = 1.0
        for var in variables:
            size = extent(dim_of(var), sizes)
            found *= -(-size // lanes) if var == lane else size
        return found

    def of(node: Node, around: frozenset[Var]) -> float:
        match node:
            case Fold(over=over, arg=arg):
                inner = around | {*over}
                fold = _FOLD * passes(around) if lane in over else 0.0
                return of(arg, inner) + fold + passes(inner)
            case Load(name=name, index=index):
                used = [v for v in around if v in free_vars(node)]
                strided = name in buffers and lane in free_vars(node) and index[-1:] != (lane,)
                return passes(used if len(index) else ()) * (_GATHER if strided else 1.0)
            case Call(op=op):
                price = OPS[op].flops if op in OPS else 1
                used = [v for v in around if v in free_vars(node)]
                return price * passes(used) + sum(of(part, around) for part in parts(node))
            case _:
                return sum((of(part, around) for part in parts(node)), 0.0)

    total = 0.0
    for stmt in stmts:
        total += of(stmt.value, frozenset(stmt.index))
        if stmt.name.split("@")[0] in stage.writes:
            total += passes(stmt.index) * (_GATHER if lane in stmt.index and stmt.index[-1] != lane else 1.0)
    return total


def _filled(size: int, spec: Specialization) -> float:
    """Which share of the lanes of vectors along a dim do something."""
    lanes = _VECTOR_BYTES // spec.real.accumulator.itemsize
    return size / (-(-size // lanes) * lanes) if size else 1.0


def _against_the_row(stmts: Sequence[Stmt], candidates: Iterable[Var]) -> list[Var]:
    """Variables along which a convolution would read what does not lie side by side, once for each product."""
    found: list[Var] = []
    for var in candidates:
        for stmt in stmts:
            read = list(loads(stmt.value)) if isinstance(stmt.value, Fold) else []
            if not all(plain(load.index) for load in read) and any(
                var in index_vars(i) for load in read for i in load.index[:-1]
            ):
                found.append(var)
                break
    return found


def _vectorisable(
    lane: Var, stmts: Sequence[Stmt], stage: StageInput, buffers: Mapping[str, Buffer], spec: Specialization
) -> bool:
    """Whether every value can be a vector along the variable."""
    real = spec.real.accumulator
    carried = {c.name for c in stage.carries}

    def fits(node: Node) -> bool:
        match node:
            case Fold(op=op, over=over, arg=arg) if lane in over:
                return op in ("sum", "prod", "max", "min") and lane in free_vars(arg) and fits(arg)
            case _ if lane not in free_vars(node):
                return True
            case Call("cast", (Place(),)):
                return spec.dtype(node.dtype).accumulator is real
            case _:
                pass
        dtype = spec.dtype(node.dtype).accumulator
        if dtype is not real and dtype is not DType.BOOL:
            return False
        if not isinstance(node, Load):
            return all(fits(part) for part in parts(node))
        stored = spec.dtype(buffers[node.name].dtype).accumulator if node.name in buffers else real
        if dtype is DType.BOOL or (node.name not in carried and stored is not real):
            return False
        along = [i for i in node.index if lane in index_vars(i)]
        return len(along) == 1 and _in_a_row(along[0], lane)

    for stmt in stmts:
        if not fits(stmt.value):
            return False
        if lane in stmt.index and spec.dtype(stmt.value.dtype).accumulator is not real:
            return False
        if lane in stmt.index and lane not in free_vars(stmt.value) and stmt.value.dtype.kind is not Kind.REAL:
            return False
    return True


def _in_a_row(axis: Axis, lane: Var) -> bool:
    """Whether a place moves on by one where the lane does: the lane itself, or so many places beside it."""
    match axis:
        case str():
            return axis == lane
        case Place(var=var):
            return var == lane
        case Call("add", (a, b)):
            return (_in_a_row(a, lane) and lane not in free_vars(b)) or (
                _in_a_row(b, lane) and lane not in free_vars(a)
            )
        case Call("sub", (a, b)):
            return _in_a_row(a, lane) and lane not in free_vars(b)
        case _:
            return False


def _lanes_outside(stmts: Sequence[Stmt], stage: StageInput, lane: Var, spec: Specialization) -> bool:
    """One vector of lanes at a time through all of T: worth it if states have other dims too, and still fit."""
    other = any(set(s.index) - {lane} and lane in s.index for s in stmts) and bool(stage.carries)
    if not other or any(isinstance(s.value, Matrix) for s in stmts):
        return False
    if any(s.name.split("@")[0] in stage.writes and _rows_across(s, lane, spec) >= _MATRIX_ROWS for s in stmts):
        return False  # a matrix that is stored at every step is written as it lies, not line by line for each vector
    return state_bytes(stage, lane, spec) <= STATE_BYTES


def _rows_across(stmt: Stmt, lane: Var, spec: Specialization) -> int:
    """How many rows of contiguous lanes a value has."""
    return math.prod(spec.size(dim_of(v)) for v in stmt.index[:-1]) if stmt.index[-1:] == (lane,) else 0


def state_bytes(stage: StageInput, lane: Var, spec: Specialization) -> int:
    """Of the states of one vector of lanes."""
    return sum(64 * math.prod(spec.size(d) for d in c.dims if d != dim_of(lane)) for c in stage.carries)


# --- carries --------------------------------------------------------------------------------------------------------


def _doubled(carry: str, nests: Sequence[Nest], elements: Mapping[str, tuple[str, tuple[int, ...]]]) -> bool:
    """Whether overwriting the state in place could destroy values still to be read, here or by another thread."""
    written = {k for k, n in enumerate(nests) for s in n.stmts if elements[s.name][0] == carry}
    definitions = [s for n in nests for s in n.stmts if elements[s.name][0] == carry]
    if not written:
        return False
    if len(written) > 1 or len(definitions) > 1:
        return any(load.name == carry and load.lag for n in nests for s in n.stmts for load in loads(s.value))
    place, definition = written.pop(), definitions[0]
    for k, nest in enumerate(nests):
        for stmt in nest.stmts:
            for load in loads(stmt.value):
                if load.name != carry or not load.lag:
                    continue
                if k > place or load.index != definition.index:
                    return True
    return False
