"""`Matmul` stages: one tiled matrix product for all t. Rows are (sequence, step, the free axes of the operand with
time), columns the free axes of the constant operand; axes both share and keep are separate products."""

from __future__ import annotations

from dataclasses import dataclass

from recurc.backends.base import Specialization
from recurc.backends.cuda.program import Launch, Step, Term
from recurc.backends.cuda.scalars import C_TYPE, accumulate, arithmetic, product_of
from recurc.backends.cuda.scope import Scope, product
from recurc.errors import CompilerBug
from recurc.ir import Expr, Read
from recurc.plan import Buffer, Matmul, Plan

ROWS, COLUMNS, DEPTH = 64, 64, 16  # of the tile a block computes
PER_THREAD = 4  # a thread computes PER_THREAD x PER_THREAD of it
BLOCK = (ROWS // PER_THREAD) * (COLUMNS // PER_THREAD)


@dataclass(frozen=True)
class Roles:
    """The labels of the contraction by what they do."""

    moving: Buffer  # the operand with a time axis
    moving_labels: tuple[int, ...]
    fixed: Buffer
    fixed_labels: tuple[int, ...]
    out_labels: tuple[int, ...]
    size: dict[int, int]
    separate: tuple[int, ...]  # on both sides and kept
    row: tuple[int, ...]
    column: tuple[int, ...]
    depth: tuple[int, ...]  # summed


def roles(stage: Matmul, plan: Plan, spec: Specialization) -> Roles:
    """Which operand moves with t, and what each axis is for."""
    expr = stage.expr
    sides = [(_buffer(expr.left, plan), expr.left_axes), (_buffer(expr.right, plan), expr.right_axes)]
    sides.sort(key=lambda side: not side[0].has_time)
    (moving, moving_labels), (fixed, fixed_labels) = sides
    if not moving.has_time or fixed.has_time:
        raise CompilerBug("a matmul stage needs one operand with a time axis and one without")
    size = {label: spec.size(d) for b, labels in sides for label, d in zip(labels, b.dims, strict=True)}
    kept = set(expr.out_axes)
    return Roles(
        moving, moving_labels, fixed, fixed_labels, expr.out_axes, size,
        separate=tuple(x for x in moving_labels if x in fixed_labels and x in kept),
        row=tuple(x for x in moving_labels if x not in fixed_labels and x in kept),
        column=tuple(x for x in fixed_labels if x not in moving_labels and x in kept),
        depth=tuple(dict.fromkeys(x for x in (*moving_labels, *fixed_labels) if x not in kept)),
    )  # fmt: skip


def _buffer(expr: Expr, plan: Plan) -> Buffer:
    if not isinstance(expr, Read) or expr.lag != 0:
        raise CompilerBug("a matmul stage takes buffers read at this step")
    return plan.buffer(expr.name)


def emit_matmul(stage: Matmul, plan: Plan, spec: Specialization, kernel: str, scope: Scope) -> tuple[Step, list[str]]:
    """Writes the kernel's body into `scope`; returns how to launch it and the buffer it writes."""
    r, target = roles(stage, plan, spec), plan.buffer(stage.target)
    kind = C_TYPE[arithmetic(stage.expr.dtype, spec)]
    size = {what: product([r.size[x] for x in labels]) for what, labels in _groups(r).items()}
    steps, batch = scope.steps(), scope.batch()
    label = {x: f"l{x}" for x in r.size}

    def along(what: str, index: str) -> str:
        """Declares the index of every label of a group from a flat one."""
        below, out = size[what], list[str]()
        for x in _groups(r)[what]:
            below //= r.size[x]
            out.append(f"const int {label[x]} = int({index} / {below} % {r.size[x]});")
        return " ".join(out)

    def address(buffer: Buffer, labels: tuple[int, ...]) -> str:
        return scope.address(buffer, [label[x] for x in labels])

    per_step = size["row"]
    column_tiles = -(-size["column"] // COLUMNS)
    scope.line("RC_DYNAMIC_SHARED(memory);")
    scope.line(f"{kind} (*const left)[{ROWS}] = ({kind}(*)[{ROWS}])memory;  // [depth][row]")
    scope.line(f"{kind} (*const right)[{COLUMNS}] = ({kind}(*)[{COLUMNS}])(memory + sizeof({kind}) * {ROWS * DEPTH});")
    scope.line("// Sequences may have weights of their own, so a tile never spans two of them.")
    scope.line(f"const i64 row_tiles = ({steps} * {per_step} + {ROWS - 1}) / {ROWS};")
    scope.line(
        f"i64 tile = blockIdx.x; const i64 first_column = tile % {column_tiles} * {COLUMNS}; tile /= {column_tiles};"
    )
    scope.line(f"const i64 first_row = tile % row_tiles * {ROWS}; tile /= row_tiles;")
    scope.line(f"const i64 b = tile % {batch}; tile /= {batch};")
    scope.line(along("separate", "tile"))
    scope.line(f"const i64 rows = {steps} * {per_step};")
    scope.line(f"const int my_row = threadIdx.x / {COLUMNS // PER_THREAD} * {PER_THREAD};")
    scope.line(f"const int my_column = threadIdx.x % {COLUMNS // PER_THREAD} * {PER_THREAD};")
    scope.line(f"{kind} sum[{PER_THREAD}][{PER_THREAD}] = {{}};")
    with scope.block(f"for (int first = 0; first < {size['depth']}; first += {DEPTH})"):
        scope.line("// Neighbouring threads fetch neighbours along the summed axes, the innermost ones in memory.")
        for operand, extent, what, base, bound in (
            ("left", ROWS, "row", "first_row", "rows"),
            ("right", COLUMNS, "column", "first_column", str(size["column"])),
        ):
            with scope.block(f"for (int i = threadIdx.x; i < {extent * DEPTH}; i += {BLOCK})"):
                scope.line(f"const int place = i / {DEPTH}, k = first + i % {DEPTH};")
                scope.line(f"const i64 {what} = {base} + place;")
                scope.line(f"{kind} value = 0;")
                with scope.block(f"if ({what} < {bound} && k < {size['depth']})"):
                    scope.line(along(what, what))
                    scope.line(along("depth", "k"))
                    if what == "row":
                        scope.line(f"const i64 t = row / {per_step};")
                        scope.line(f"value = rc_load({address(r.moving, r.moving_labels)});")
                    else:
                        scope.line(f"value = rc_load({address(r.fixed, r.fixed_labels)});")
                scope.line(f"{operand}[i % {DEPTH}][place] = value;")
        scope.line("__syncthreads();")
        scope.line("#pragma unroll")
        with scope.block(f"for (int k = 0; k < {DEPTH}; ++k)"), scope.unrolled([("i", PER_THREAD), ("j", PER_THREAD)]):
            term = product_of("left[k][my_row + i]", "right[k][my_column + j]", stage.expr.dtype)
            scope.line(accumulate("sum", "sum[i][j]", term, stage.expr.dtype))
        scope.line("__syncthreads();")
    with scope.unrolled([("i", PER_THREAD), ("j", PER_THREAD)]):
        scope.line("const i64 row = first_row + my_row + i, column = first_column + my_column + j;")
        with scope.block(f"if (row < rows && column < {size['column']})"):
            scope.line(f"{along('row', 'row')} {along('column', 'column')}")
            scope.line(f"const i64 t = row / {per_step};")
            scope.line(f"rc_store({address(target, r.out_labels)}, sum[i][j]);")
    shared = arithmetic(stage.expr.dtype, spec).itemsize * DEPTH * (ROWS + COLUMNS)
    grid = (Term(column_tiles * size["separate"]), Term(per_step, ROWS, steps=True), Term(batch=True))
    what = f"matrix product for all t, {size['depth']} deep, {size['column']} columns"
    return Step(what, (Launch(kernel, scope.arguments, grid, block=BLOCK, shared_bytes=shared),)), [stage.target]


def _groups(r: Roles) -> dict[str, tuple[int, ...]]:
    return {"separate": r.separate, "row": r.row, "column": r.column, "depth": r.depth}
