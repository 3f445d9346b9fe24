"""What expressions cost is counted, not guessed: operations and recurrent work against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

import recurc
from recurc import targets
from recurc.ops import OPS
from recurc.passes import analyze, core_form, cost_cpu, make_plan
from recurc.passes.cost import Shape, expr_flops
from recurc.passes.work import Steps
from recurc.plan import Candidate, Plan
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


MATRIX = {"H": 8, "K": 64, "V": 64}
SAMPLE = (
    "ema",
    "selective_scan",
    "aaren",
    "simple_gla",
    "gla",
    "delta_net",
    "gated_delta_net",
    "lssl",
    "lstm",
    "biquad",
)
TARGETS = [targets.cpu(4, 64), *(targets.named(t) for t in ("sm_80", "sm_90", "sm_100"))]


def weighed(name: str, target: targets.Target, batch: int, steps: int, dtype: DType = DType.F32) -> Plan:
    rec = recurc.zoo.load(name).ir
    sizes = {d.name: MATRIX.get(d.name, d.default or 16) for d in rec.dims}
    return make_plan(rec, sizes, batch, steps, dtype, target)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", SAMPLE)
def test_more_steps_and_more_sequences_never_cost_less(name: str, target: targets.Target) -> None:
    def costs(batch: int, steps: int) -> dict[str, Candidate]:
        found = weighed(name, target, batch, steps).candidates
        return {c.schedule: c for c in found if not c.schedule.startswith(("map ", "matmul "))}

    base = costs(2, 256)
    for batch, steps in ((2, 1024), (8, 256), (16, 16_384)):
        more = costs(batch, steps)
        assert more.keys() == base.keys()
        for schedule, cost in more.items():
            before = base[schedule]
            assert cost.flops > before.flops and cost.bytes_moved > before.bytes_moved, schedule
            assert cost.seconds >= before.seconds * 0.999, schedule
            assert cost.depth >= before.depth if steps > 256 else cost.depth > 0, schedule


def test_a_loop_is_as_deep_as_it_is_long_and_the_others_are_not() -> None:
    steps = 4096
    deep = {c.schedule: c.depth for c in weighed("simple_gla", targets.cpu(4), 1, steps).candidates}
    assert deep["sequential"] == steps
    assert deep["scan"] == 2 * steps // 8 + 8  # two segments for each of four threads
    assert deep["chunkwise"] == steps // 16
    assert {c.schedule: c.depth for c in weighed("ema", targets.cpu(4), 1, steps).candidates}["convolution"] == 26
    on_gpu = {c.schedule: c.depth for c in weighed("simple_gla", targets.named("sm_90"), 1, steps).candidates}
    assert on_gpu["chunkwise"] == steps // 64 and on_gpu["scan"] == 2 * 12 + steps // 1024


@pytest.mark.parametrize("target", TARGETS[1:], ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["simple_gla", "gated_delta_net", "kda", "rwkv6"])  # SR1, GH, GH, DR1
def test_a_gpu_takes_matrix_memories_in_chunks_and_a_single_step_as_it_is(name: str, target: targets.Target) -> None:
    assert weighed(name, target, 16, 8192, DType.BF16).schedules == ("chunkwise",)
    assert weighed(name, target, 16, 1, DType.BF16).schedules == ("sequential",)


def test_one_head_goes_in_chunks_on_one_core_and_over_its_columns_on_many() -> None:
    """A head is one thread's work in chunks, and many threads' in a loop: they share out its columns."""
    rec = recurc.zoo.load("simple_gla").ir
    for cores, schedule in ((1, "chunkwise"), (8, "sequential")):
        sizes = {"H": 1, "K": 64, "V": 128}
        assert make_plan(rec, sizes, 1, 4096, DType.F32, targets.cpu(cores, 64)).schedules == (schedule,)


def test_what_has_no_place_along_the_row_is_computed_again_for_every_vector() -> None:
    rec = core_form(recurc.load(text=GATED).ir)
    (group,) = analyze(rec).groups
    work = Steps(rec, Shape({"K": 3, "V": 32}, 1, 1, 4)).work(group)
    assert (work.lanes, work.row, work.apart) == (96, 32, True)
    assert work.single == 3 * OPS["exp"].flops  # of each row; the decay is no value of a column
    assert work.flops - work.single == 3 * 32 * 3 + 2 * 3 * 32  # decay, key times value and their sum; the read
    one, two = (
        cost_cpu.sequential(replace(work, row=row), Shape({"K": 3, "V": row}, 1, 1 << 20, 4), targets.cpu(1, 64))
        for row in (16, 32)
    )
    again = work.single * 2**20 / targets.cpu(1, 64).single_flops
    assert two.seconds - one.seconds == pytest.approx(again, rel=0.5)


GATED = """recurrence Gated(K, V):
    input  q[K], k[K], v[V], g[K]
    state  S[K, V] = 0
    S = exp(g) * S[t-1] + k * v
    output o = q @ S
"""


def test_params_alone_and_products_with_them_are_no_work_of_a_step() -> None:
    text = """recurrence Given(D, H):
    input  x[D]
    param  W[H, D], a[H]
    state  h[H] = 0
    h = exp(-exp(a)) * h[t-1] + W @ x
    output h
"""
    rec = core_form(recurc.load(text=text).ir)
    work = Steps(rec, Shape({"D": 64, "H": 48}, 1, 1, 4)).work(analyze(rec).groups[0])
    assert work.flops == 2 * 48 and work.matmul_flops == 0


ONLY_CPU = {"single_flops", "core_bandwidth", "l3_bytes"}
ONLY_GPU = {"shared_bytes", "latency_bytes"}


@pytest.mark.parametrize("name", targets.names())
def test_no_figure_of_a_target_is_missing(name: str) -> None:
    target = targets.named(name)
    other = ONLY_GPU if target.kind == "cpu" else ONLY_CPU
    for figure in fields(target):
        value = getattr(target, figure.name)
        assert isinstance(value, str) or (value > 0) == (figure.name not in other), figure.name


def test_a_gpu_sustains_less_than_its_data_sheet_says() -> None:
    """Bytes/s, f32 of the ordinary units, bf16 of the tensor cores, and lanes of an SM, as the sheets print them."""
    sheets = {
        "sm_80": (2.039e12, 19.5e12, 312e12, 64),
        "sm_90": (3.35e12, 67e12, 989e12, 128),
        "sm_100": (7.7e12, 75e12, 2250e12, 128),
    }
    for name, (bandwidth, flops, tensor, lanes) in sheets.items():
        target = targets.named(name)
        assert 0.7 * bandwidth < target.bandwidth < bandwidth
        assert 0.5 * flops < target.flops < flops
        assert 0.2 * tensor < target.matmul_flops < 0.6 * tensor
        assert target.cores * lanes * 2 * target.clock_hz == pytest.approx(flops)


@pytest.mark.parametrize("name", ["mlstm", "mlstm_unstabilised"])
def test_a_loop_over_a_matrix_state_counts_what_its_reads_take(name: str) -> None:
    batch, steps, heads, size = 3, 100, 2, 64
    sizes = {"H": heads, "K": size, "V": size}
    rec = recurc.zoo.load(name).ir
    plan = make_plan(rec, sizes, batch, steps, DType.F32, targets.named("cpu"), "sequential")
    loop = next(c for c in plan.candidates if c.schedule.endswith("sequential"))
    update, read = 3 * size * size, 2 * size * size
    assert (update + read) <= loop.flops / (batch * steps * heads) < (update + read) * 1.5
