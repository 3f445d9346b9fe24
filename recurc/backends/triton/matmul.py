"""A `Matmul` stage as one GEMM over all steps: rows are (sequence, t), columns the param's own output dims."""

from __future__ import annotations

import math
from dataclasses import replace

from recurc import ir
from recurc.backends.triton.kernel import ALL_REGISTERS, Arg, Options, StageText, power_of_two, stored, triton_type
from recurc.backends.triton.lanes import finish
from recurc.backends.triton.scope import Scope
from recurc.backends.triton.values import Context, TileCode, label_ids
from recurc.plan import Matmul
from recurc.types import DType, axis_ids

Label = tuple[int, str]


def emit_matmul(context: Context, stage: Matmul, name: str, options: Options) -> StageText:
    """out[row, n] = sum over k of data[row, k] weight[n, k], by tl.dot on blocks."""
    expr, plan = stage.expr, context.plan
    left, right = plan.buffer(_name(expr.left)), plan.buffer(_name(expr.right))
    data_left = left.has_time
    data, weight = (left, right) if data_left else (right, left)
    data_axes, weight_axes = (expr.left_axes, expr.right_axes) if data_left else (expr.right_axes, expr.left_axes)
    dims = dict(zip(expr.left_axes, expr.left.dims, strict=True)) | dict(
        zip(expr.right_axes, expr.right.dims, strict=True)
    )
    shared = [k for k in expr.out_axes if k in data_axes and k in weight_axes]
    columns = [k for k in expr.out_axes if k not in data_axes]
    rows = [k for k in expr.out_axes if k in data_axes and k not in shared]
    summed = [k for k in dims if k not in expr.out_axes]

    def size(labels: list[int]) -> int:
        return math.prod(context.size(dims[k]) for k in labels)

    block_n = min(max(power_of_two(size(columns)), 16), 64)
    block_k = min(max(power_of_two(size(summed)), 16), 32)
    axes = label_ids(expr, axis_ids(expr.dims))
    code = _Gemm(context, {k: str(a) for k, a in axes.items()})
    dtype = dot_type(context, stored(data, context.spec.real), stored(weight, context.spec.real))
    accumulator = triton_type(dtype.accumulator)
    block_m = 64 if dtype.itemsize <= 4 else 32
    block_n = block_n if dtype.itemsize <= 4 else min(block_n, 32)

    code.args |= {
        "batch": Arg("batch", "i32", "batch"),
        "steps": Arg("steps", "i32", "steps"),
        "PER_SEQUENCE": Arg("PER_SEQUENCE", "constexpr", "per_sequence", False),
        "end_k": Arg("end_k", "i32", str(size(summed)), aligned=size(summed) % 16 == 0),
        "BLOCK_M": Arg("BLOCK_M", "constexpr", str(block_m), block_m),
        "BLOCK_N": Arg("BLOCK_N", "constexpr", str(block_n), block_n),
        "BLOCK_K": Arg("BLOCK_K", "constexpr", str(block_k), block_k),
    }
    n_blocks, inner = math.ceil(size(columns) / block_n), size(rows)
    line = "line" if rows else "m"
    lines = ["pid = tl.program_id(0)"]
    lines += [f"n = (pid % {n_blocks}) * BLOCK_N + tl.arange(0, BLOCK_N)", f"pid = pid // {n_blocks}"]
    lines += code.unfold("pid", shared, dims, rest="pid")
    lines += [
        f"# a row is (sequence, t{''.join(', ' + dims[k] for k in rows)}); params of each sequence keep its rows apart",
        f"rows = (1 if PER_SEQUENCE else batch) * steps * {inner}",
        "row_blocks = tl.cdiv(rows, BLOCK_M)",
        "own = (pid // row_blocks).to(tl.int64)",
        "m = (pid % row_blocks) * BLOCK_M + tl.arange(0, BLOCK_M)",
        "in_m = m < rows",
        f"in_n = n < {size(columns)}",
        "m = tl.minimum(m, rows - 1)",
        *code.unfold("m", rows, dims, rest="line", suffix="[:, None]"),
        f"seq = own + ({line} // steps).to(tl.int64)[:, None]",
        f"t = ({line} % steps).to(tl.int64)[:, None]",
        *code.unfold("n", columns, dims, suffix="[None, :]"),
        f"total = tl.zeros((BLOCK_M, BLOCK_N), {accumulator})",
    ]
    text = ["    " + line for line in lines]
    text.append("    for k0 in range(0, end_k, BLOCK_K):  # no constant: unrolled, it would need too many registers")
    text.append("        k = k0 + tl.arange(0, BLOCK_K)")
    text.append(f"        in_k = k < {size(summed)}")
    text += ["        " + line for line in code.unfold("k", summed, dims, suffix="[None, :]")]
    on_data = code.pointer(data, tuple(code.names[k] for k in data_axes))
    text.append(f"        data = tl.load({on_data}, mask=in_k[None, :], other=0).to({triton_type(dtype)})")
    text += ["        " + line for line in code.unfold("k", summed, dims, suffix="[:, None]")]
    on_weight = code.pointer(weight, tuple(code.names[k] for k in weight_axes))
    text.append(
        f"        weight = tl.load({on_weight}, mask=in_k[:, None] & in_n[None, :], other=0).to({triton_type(dtype)})"
    )
    precision = f'"{options.dot_precision if dtype is DType.F32 else "ieee"}"'
    text.append(f"        total = tl.dot(data, weight, total, input_precision={precision}, out_dtype={accumulator})")
    target = plan.buffer(stage.target)
    on_target = code.pointer(target, tuple(code.names[k] for k in expr.out_axes))
    text.append(f"    tl.store({on_target}, total, mask=in_m[:, None] & in_n[None, :])")
    about = (f"{stage.target} = {left.name} @ {right.name} for all t, as one matrix product on blocks.",)
    outer = f"{size(shared)} * " if shared else ""
    grid = (
        f"({outer}{n_blocks} * (batch * triton.cdiv(steps * {inner}, {block_m}) if per_sequence "
        f"else triton.cdiv(batch * steps * {inner}, {block_m})),)"
    )
    limit = f'assert batch * steps * {inner} < 2**31, "too many rows for one matrix product: use smaller batches"'
    # Rows that start anywhere: every element has an address and a mask of its own, and so more threads share them
    even = size(summed) % 16 == 0
    kernel = finish(code, name, "matmul", about, text, grid, 4 if even else 8)
    # Named, or the assembler spills to fit one more program on a multiprocessor; with two thirds of all, three fit.
    return (limit, replace(kernel, registers=168 if even else ALL_REGISTERS))


def dot_type(context: Context, *operands: DType) -> DType:
    """The element type of a dot's operands: the call's storage type where it is a half precision."""
    real = context.spec.real
    return real if real is not real.accumulator else max(operands, key=lambda d: d.itemsize).accumulator


def _name(expr: ir.Expr) -> str:
    assert isinstance(expr, ir.Read)
    return expr.name


class _Gemm(TileCode):
    """Index arithmetic of the GEMM: a flat row, column or summed index unfolds into one index per dim."""

    def __init__(self, context: Context, names: dict[int, str]) -> None:
        super().__init__(context, (), tuple(names.values()))
        self.names = names
        self.scope = Scope(
            frozenset(
                [
                    "n",
                    "m",
                    "k",
                    "k0",
                    "end_k",
                    "in_n",
                    "in_m",
                    "in_k",
                    "total",
                    "data",
                    "weight",
                    "line",
                    "line_seq",
                    "row_blocks",
                    "m_seq",
                ]
            )
        )

    def unfold(self, flat: str, labels: list[int], dims: dict[int, str], rest: str = "", suffix: str = "") -> list[str]:
        """Lines giving each label its position; the slowest keeps what is left, or `rest` does."""
        out: list[str] = []
        for place, label in enumerate(reversed(labels)):
            index, size = (
                self.scope(("index", self.names[label]), f"i_{dims[label]}"),
                self.context.constant(dims[label]),
            )
            last = place == len(labels) - 1 and not rest
            out.append(f"{index} = {_part(flat if last else f'{flat} % {size}', suffix)}")
            if not last:
                flat_next = f"({flat} // {size})"
                flat = flat_next
        if rest and labels:
            out.append(f"{rest} = {flat}")
        return out

    def mask(self, axis: str) -> str | None:
        return None


def _part(text: str, suffix: str) -> str:
    return text + suffix if not suffix or text.isidentifier() else f"({text}){suffix}"
