"""What expressions cost is counted, not guessed: operations and recurrent work against numbers worked out by hand."""

from __future__ import annotations

import pytest

import recurc
from recurc import targets
from recurc.ops import OPS
from recurc.passes import make_plan
from recurc.passes.cost import Shape, expr_flops
from recurc.types import DType

D, N, R = 7, 5, 7
SHAPE = Shape({"D": D, "N": N, "R": R}, 1, 1, 4)


@pytest.mark.parametrize(
    ("expression", "operations"),
    [
        ("x + y", D),
        ("x * w", D * N),
        ("exp(x) * w", D * OPS["exp"].flops + D * N),
        ("sum(x, D)", D),
        ("sum(x * w, N)", D * N + D * N),
        ("sum(x * w)", D * N + D * N),
        ("A @ w", 2 * D * N),
        ("B @ (x as [R])", 2 * D * R),
        ("4.0", 0),
    ],
)
def test_operations_are_counted(expression: str, operations: int) -> None:
    head = "recurrence C(D, N, R):\n    input  x[D], y[D], w[N]\n    param  A[D, N], B[D, R]\n"
    rec = recurc.load(text=f"{head}    output o = {expression}\n")
    assert expr_flops(rec.ir.equations[-1].expr, SHAPE) == operations


def test_bytes_of_a_loop_are_its_inputs_and_outputs() -> None:
    rec, batch, steps = recurc.zoo.load("ema").ir, 3, 100
    plan = make_plan(rec, {"D": D}, batch, steps, DType.F64, targets.named("cpu"), "sequential")
    (loop,) = [c for c in plan.candidates if c.chosen]
    assert loop.bytes_moved == 8 * batch * steps * (D + D)


def test_flops_of_a_scan_on_a_gpu_stay_near_those_of_the_loop() -> None:
    """One combination per step and a few per tile, each of a few operations."""
    rec = recurc.zoo.load("ema").ir
    plan = make_plan(rec, {"D": 16}, 1, 65_536, DType.F32, targets.named("sm_90"), "auto")
    loop, scan = (next(c for c in plan.candidates if c.schedule == s) for s in ("sequential", "scan"))
    assert scan.chosen
    assert loop.flops < scan.flops < 4 * loop.flops


@pytest.mark.parametrize("name", ["mlstm", "mlstm_unstabilised"])
def test_a_loop_over_a_matrix_state_counts_what_its_reads_take(name: str) -> None:
    batch, steps, heads, size = 3, 100, 2, 16
    sizes = {"H": heads, "K": size, "V": size}
    rec = recurc.zoo.load(name).ir
    plan = make_plan(rec, sizes, batch, steps, DType.F32, targets.named("cpu"), "sequential")
    loop = next(c for c in plan.candidates if c.schedule.endswith("sequential"))
    update, read = 3 * size * size, 2 * size * size
    assert (update + read) <= loop.flops / (batch * steps * heads) < (update + read) * 1.5
