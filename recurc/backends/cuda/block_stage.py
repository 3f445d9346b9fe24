"""`Map` and `Loop` stages that one thread cannot hold: one block per sequence (in a map, per sequence and step) keeps
every value in shared memory and evaluates equation after equation together. The form that always works; not the fast
one."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cuda.body import Body, Local, contract_places
from recurc.backends.cuda.flatten import flatten, is_matrix_operation
from recurc.backends.cuda.matrices import together, work_bytes
from recurc.backends.cuda.program import Launch, Step, Term, Workspace
from recurc.backends.cuda.scalars import (
    C_TYPE,
    Index,
    accumulate,
    arithmetic,
    beats,
    by_axis,
    c_type,
    identity_of,
    product_of,
)
from recurc.backends.cuda.scope import Scope, flat, product, sizes_of
from recurc.ir import Contract, Equation, Expr, Linalg, Reduce
from recurc.plan import Buffer, Carry, Loop, Map, Plan
from recurc.types import Dims, DType, axis_ids

BLOCK = 256
SHARED_BUDGET = 96 * 1024  # what a block may have on every GPU since sm_80 but the smallest; beyond it, device memory
_CELL = 8  # every value starts at a multiple of this many bytes


@dataclass(frozen=True)
class Shared(Local):
    """A value that lies whole in the block's memory."""

    def at(self, index: Index) -> str:
        return f"{self.name}[{flat(index, sizes_of(self.dims, self.spec))}]"


def emit_block(
    stage: Map | Loop, plan: Plan, spec: Specialization, kernel: str, scope: Scope
) -> tuple[Step, list[str]]:
    """Writes the kernel's body into `scope`; returns how to launch it and the buffers it writes."""
    equations = flatten(stage.body)
    carries = {c.name: c for c in stage.carries} if isinstance(stage, Loop) else {}
    body = Body(scope, ())
    over_time = isinstance(stage, Loop) or stage.over_time
    needed = _memory(equations, carries, spec)
    length = Term(needed, batch=over_time, steps=isinstance(stage, Map) and over_time)
    workspaces: tuple[Workspace, ...] = ()
    if needed <= SHARED_BUDGET:
        scope.line("RC_DYNAMIC_SHARED(memory);")
    else:
        scope.line(
            f"unsigned char* const memory = {scope.workspace('values', 'unsigned char')} + i64(blockIdx.x) * {needed};"
        )
        workspaces = (Workspace("values", 1, (length,)),)
    held = _carve(scope, equations, carries)
    if isinstance(stage, Loop):
        written = _loop(stage, plan, scope, body, equations, held)
        what = f"loop over t, one block of {BLOCK} threads per sequence"
    else:
        if over_time:
            scope.line(f"const i64 t = i64(blockIdx.x) % {scope.steps()}, b = i64(blockIdx.x) / {scope.steps()};")
        else:
            scope.line("const i64 b = 0;")
        written = _step(stage, plan, scope, body, equations, {}, held)
        what = "map over all t, one block per step" if over_time else "map, once per call"
    grid = Term(batch=over_time, steps=isinstance(stage, Map) and over_time)
    shared = needed if needed <= SHARED_BUDGET else 0
    return Step(
        what, (Launch(kernel, scope.arguments, (grid,), block=BLOCK, shared_bytes=shared),), workspaces
    ), written


def _slots(equations: list[Equation], carries: dict[str, Carry]) -> list[tuple[str, Dims, DType]]:
    """(key, dims, dtype) of every value the block keeps."""
    values = [(e.name, carries[e.name].dims if e.name in carries else e.expr.dims, e.expr.dtype) for e in equations]
    return values + [(f"{c.name}@prev", c.dims, c.dtype) for c in carries.values()]


def _bytes(dims: Dims, dtype: DType, spec: Specialization) -> int:
    whole = product(sizes_of(dims, spec)) * arithmetic(dtype, spec).itemsize
    return -(-whole // _CELL) * _CELL


def _memory(equations: list[Equation], carries: dict[str, Carry], spec: Specialization) -> int:
    kept = sum(_bytes(dims, dtype, spec) for _, dims, dtype in _slots(equations, carries))
    return kept + -(-work_bytes(equations, spec) // _CELL) * _CELL


def _carve(scope: Scope, equations: list[Equation], carries: dict[str, Carry]) -> dict[str, Shared]:
    """Gives every value its place in the block's memory."""
    held: dict[str, Shared] = {}
    offset = 0
    for key, dims, dtype in _slots(equations, carries):
        kind = c_type(dtype, scope.spec)
        held[key] = Shared(scope.names(key), dims, (), scope.spec)
        scope.line(f"{kind}* const {held[key].name} = ({kind}*)(memory + {offset});")
        offset += _bytes(dims, dtype, scope.spec)
    if work_bytes(equations, scope.spec):
        scope.line(f"unsigned char* const {_work(scope)} = memory + {offset};")
    return held


def _work(scope: Scope) -> str:
    """The memory for operations on matrices."""
    return scope.names("matrices@work")


def _loop(
    stage: Loop, plan: Plan, scope: Scope, body: Body, equations: list[Equation], held: dict[str, Shared]
) -> list[str]:
    carries = {c.name: c for c in stage.carries}
    scope.line("const i64 b = blockIdx.x;")
    for carry in stage.carries:
        previous = body.bind(carry.name, 1, held[f"{carry.name}@prev"])
        initial = plan.buffer(f"{carry.name}@initial")
        with _each(scope, carry.dims) as index:
            scope.line(f"{previous.at(index)} = {scope.load(initial, index)};")
    scope.line("__syncthreads();")
    with scope.block(f"for (i64 t = 0; t < {scope.steps()}; ++t)"):
        written = _step(stage, plan, scope, body, equations, carries, held)
        for carry in stage.carries:
            with _each(scope, carry.dims) as index:
                scope.line(f"{held[f'{carry.name}@prev'].at(index)} = {held[carry.name].at(index)};")
        scope.line("__syncthreads();")
    for carry in stage.carries:
        if plan.has(f"{carry.name}@final"):
            _store(scope, plan.buffer(f"{carry.name}@final"), held[f"{carry.name}@prev"])
            written.append(f"{carry.name}@final")
    return written


def _step(
    stage: Map | Loop, plan: Plan, scope: Scope, body: Body, equations: list[Equation], carries: dict[str, Carry],
    held: dict[str, Shared],
) -> list[str]:  # fmt: skip
    for equation in equations:
        value = held[equation.name]
        scope.comment(equation.name, equation.span or equation.expr.span)
        if isinstance(equation.expr, Linalg) and is_matrix_operation(equation.expr):
            together(body, equation.expr, value, _work(scope), BLOCK)
        elif isinstance(equation.expr, Reduce | Contract):
            _together(scope, body, equation.expr, value)
        else:
            with _each(scope, value.dims) as index:
                places = dict(zip(axis_ids(value.dims), index, strict=True))
                scope.line(f"{value.at(index)} = {body.scalar(equation.expr, places)};")
        scope.line("__syncthreads();")
        body.bind(equation.name, 0, value)
    for name in stage.writes:
        _store(scope, plan.buffer(name), held[name])
    return list(stage.writes)


def _store(scope: Scope, buffer: Buffer, value: Shared) -> None:
    with _each(scope, buffer.dims) as index:
        scope.line(f"rc_store({scope.address(buffer, index)}, {value.at(index)});")


class _each:
    """A loop that deals the elements of a value out to the threads (or its `by` to the warps); gives the index."""

    def __init__(self, scope: Scope, dims: Dims, start: str = "threadIdx.x", stride: int = BLOCK) -> None:
        self.scope, self.dims, self.start, self.stride = scope, dims, start, stride

    def __enter__(self) -> list[str]:
        scope, sizes = self.scope, sizes_of(self.dims, self.scope.spec)
        scope.line(f"for (int element = {self.start}; element < {product(sizes)}; element += {self.stride}) {{")
        scope.depth += 1
        return split(scope, [scope.place(axis) for axis in axis_ids(self.dims)], sizes, "element")

    def __exit__(self, *_: object) -> None:
        self.scope.depth -= 1
        self.scope.line("}")


def split(scope: Scope, names: list[str], sizes: tuple[int, ...], whole: str) -> list[str]:
    """Declares the index along each axis of a row-major `whole`."""
    below = product(sizes)
    for name, size in zip(names, sizes, strict=True):
        below //= size
        quotient = f"{whole} / {below}" if below > 1 else whole
        outermost = name == names[0]
        scope.line(f"const int {name} = {quotient if outermost else f'{quotient} % {size}'};")
    return names


def _together(scope: Scope, body: Body, expr: Reduce | Contract, value: Shared) -> None:
    """A sum or other reduction: one warp per element of the result, its lanes along what is reduced."""
    spec = scope.spec
    with _each(scope, value.dims, "threadIdx.x / 32", BLOCK // 32) as index:
        places = dict(zip(axis_ids(value.dims), index, strict=True))
        target = value.at(index)
        if isinstance(expr, Reduce) and expr.op in ("argmax", "argmin"):
            _first_best(scope, body, expr, places, target)
            return
        dtype = arithmetic(expr.dtype, spec)
        op = expr.op if isinstance(expr, Reduce) else "sum"
        scope.line(f"{C_TYPE[dtype]} total = {identity_of(op, dtype)};")
        if isinstance(expr, Contract):
            labels, summed = contract_places(scope, expr, places)
            left = body.scalar_at(expr.left, [labels[label] for label in expr.left_axes])
            right = body.scalar_at(expr.right, [labels[label] for label in expr.right_axes])
            term = product_of(left, right, expr.dtype)
        else:
            summed = [(scope.place(dim), spec.size(dim)) for dim in expr.over]
            term = body.scalar_at(expr.arg, by_axis(expr.arg.dims, places | {d: scope.place(d) for d in expr.over}))
        sizes = tuple(n for _, n in summed)
        with scope.block(f"for (int along = threadIdx.x & 31; along < {product(sizes)}; along += 32)"):
            split(scope, [name for name, _ in summed], sizes, "along")
            scope.line(accumulate(op, "total", term, dtype))
        with scope.block("for (int offset = 16; offset >= 1; offset /= 2)"):
            other = "__shfl_xor_sync(0xffffffffu, {}, offset)"
            moved = f"bool({other.format('int(total)')})" if dtype is DType.BOOL else other.format("total")
            scope.line(accumulate(op, "total", moved, dtype))
        scope.line(f"if ((threadIdx.x & 31) == 0) {target} = total;")


def _first_best(scope: Scope, body: Body, expr: Reduce, places: dict[str, str], target: str) -> None:
    """argmax or argmin: rare and small, so the first lane looks alone."""
    (dim,) = expr.over
    inside: Expr = expr.arg
    with scope.block("if ((threadIdx.x & 31) == 0)"):
        scope.line(f"{target} = 0;")
        scope.line(f"{c_type(inside.dtype, scope.spec)} best = {body.scalar(inside, places | {dim: '0'})};")
        with scope.block(f"for (int along = 1; along < {scope.spec.size(dim)}; ++along)"):
            term = body.scalar(inside, places | {dim: "along"})
            scope.line(f"if ({beats(expr, term, 'best')}) {{ best = {term}; {target} = along; }}")
