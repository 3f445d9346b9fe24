"""Which groups may run by convolution, what is refused and in which words, and what a plan then looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

import recurc
from recurc import targets
from recurc.backends.base import Specialization
from recurc.backends.cpu import BACKEND as CPU
from recurc.backends.cuda import BACKEND as CUDA
from recurc.backends.triton import BACKEND as TRITON
from recurc.errors import CompilerBug
from recurc.irtext import plan_to_text
from recurc.passes import make_plan
from recurc.passes.schedule import ScheduleError
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Convolution, Map, Plan
from recurc.runtime.choose import able_plan
from recurc.types import DType

STEP = """recurrence Step(D, H):
    input  x[H], g[H], on: bool
    param  A[H, H], w[H], c[H]
    state  h[H] = 0
    h = {update}
    output y = {output}
"""


def load(update: str, output: str = "h") -> recurc.Recurrence:
    return recurc.load(text=STEP.format(update=update, output=output))


def plan(rec: recurc.Recurrence, schedule: str = "convolution", steps: int = 4096, real: DType = DType.F32) -> Plan:
    sizes = {"D": 3, "H": 8, "N": 64, "M": 64, "K": 6, "V": 4}
    known = {d.name: sizes[d.name] for d in rec.ir.dims}
    target = targets.cpu(cores=1)
    return make_plan(rec.ir, known, 1, steps, real, target, schedule)


def stage(found: Plan) -> Convolution:
    (only,) = (s for s in found.stages if isinstance(s, Convolution))
    return only


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ("g * h[t-1] + x", "`g` of `h[t-1]` changes from step to step"),
        ("(t + 1) * h[t-1] + x", "`t` of `h[t-1]` changes from step to step"),
        ("h[t-1] * sigmoid(g + x) + x", "`g` of `h[t-1]` changes from step to step"),
        ("A @ (w * h[t-1]) + sum(A * g, H) * h[t-1]", "changes from step to step"),
        ("if on then x else 0.5 * h[t-1]", "`on` of `h[t-1]` changes from step to step"),
    ],
)
def test_what_changes_over_time_is_named(update: str, why: str) -> None:
    rec = load(update.replace("sum(A * g, H)", "sum(g, H)"))
    (group,) = rec.analyze().groups
    assert "convolution" not in group.schedules and not group.linear_time_invariant
    with pytest.raises(ScheduleError) as refused:
        plan(rec)
    assert "no convolution" in str(refused.value) and why in str(refused.value)
    assert any(r.span is not None for r in group.refused)


@pytest.mark.parametrize("update", ["tanh(A @ h[t-1]) + x", "h[t-1] * h[t-1] + x", "max(h[t-1], x)", "abs(h[t-1]) + x"])
def test_a_nonlinear_step_has_no_response(update: str) -> None:
    with pytest.raises(ScheduleError, match="`convolution` is not legal here"):
        plan(load(update))


def test_whole_numbers_stay_exact() -> None:
    rec = recurc.load(
        text="recurrence Count:\n    input x: int\n    state n: int = 0\n    n = 3 * n[t-1] + x\n    output n\n"
    )
    with pytest.raises(ScheduleError, match="whole number"):
        plan(rec)


def test_half_precision_in_the_step_is_refused() -> None:
    with pytest.raises(ScheduleError, match="rounded to half precision"):
        plan(load("cast(0.5 * h[t-1], f16) + x"))


def test_a_matrix_memory_is_not_stored_for_all_of_time() -> None:
    (group,) = recurc.zoo.load("retnet").analyze().groups
    assert "convolution" not in group.schedules and "matrix memory" in str(group.refused[0])


def test_a_nonlinear_read_gets_the_states_and_a_linear_one_the_answer() -> None:
    found = stage(plan(load("A @ h[t-1] + x", "sum(c * h, H)")))
    assert found.writes == ("y",) and found.sources == ("x",)
    nonlinear = plan(load("A @ h[t-1] + x", "sum(tanh(h), H)"))
    assert stage(nonlinear).writes == ("h",)
    assert isinstance(nonlinear.stages[-1], Map) and nonlinear.stages[-1].writes == ("y",)
    inside = plan(load("A @ h[t-1] + x", "tanh(sum(c * h, H)) * g"))
    assert stage(inside).writes == ("h_read",) and stage(inside).reads[-1].expr.dims == ()


def test_one_source_drives_every_state_of_a_channel() -> None:
    found = stage(plan(recurc.zoo.load("lssl")))
    assert (found.sources, found.lanes, found.blocks, found.writes) == (("u",), ("D",), (), ("s_read",))
    diagonal = stage(plan(recurc.zoo.load("s4d_real")))
    assert (diagonal.sources, diagonal.lanes, diagonal.blocks) == (("u",), ("D",), ("N",))


def test_a_constant_in_the_step_enters_with_the_sequence() -> None:
    found = plan(load("A @ h[t-1] + x + c"))
    assert stage(found).sources == ("h_drive",)
    assert isinstance(found.stages[0], Map) and found.stages[0].writes == ("h_drive",)


def test_auto_takes_it_where_the_steps_cost_more_and_says_why() -> None:
    rec = recurc.zoo.load("s4")
    found = plan(rec, "auto", 65_536)
    assert found.schedules == ("convolution",)
    assert "cost more than transforms" in str(found.reasons[0]) and "digits of f32" in str(found.reasons[0])
    assert plan(rec, "auto", 16).schedules == ("sequential",)
    assert plan(recurc.zoo.load("ema"), "auto", 65_536).schedules == ("sequential",)


def test_auto_leaves_it_in_f64_and_where_there_is_no_library() -> None:
    rec = recurc.zoo.load("s4")
    double = plan(rec, "auto", 65_536, DType.F64)
    assert double.schedules == ("sequential",)
    assert any("only when asked for: in f64" in c.reason for c in double.candidates)
    sizes, bare = {"D": 3, "N": 64, "M": 64}, replace(targets.cpu(cores=1), fft_flops=0.0)
    exported = make_plan(rec.ir, sizes, 1, 65_536, DType.F32, bare, "auto")
    assert exported.schedules == ("sequential",)
    assert any("no transforms between its kernels" in c.reason for c in exported.candidates)


def test_auto_takes_it_on_a_gpu_where_the_backend_has_it() -> None:
    """CUDA kernels have no library between them, so there the scheduler is asked again."""
    rec, sizes = recurc.zoo.load("s4"), {"D": 3, "N": 64, "M": 64}
    spec = Specialization(tuple(sorted(sizes.items())), DType.F32)

    def make(without: Sequence[str]) -> Plan:
        return make_plan(rec.ir, sizes, 1, 65_536, DType.F32, targets.named("sm_90"), "auto", without=without)

    found, _, limits = able_plan(TRITON, spec, "auto", make)
    assert found.schedules == ("convolution",) and not limits
    found, _, limits = able_plan(CUDA, spec, "auto", make)
    assert found.schedules == ("sequential",) and not limits


def test_backends_without_transforms_say_so() -> None:
    found = plan(load("A @ h[t-1] + x"))
    spec = Specialization((("D", 3), ("H", 8)), DType.F32)
    for backend in (CPU, CUDA):
        assert any("fast Fourier transform" in limit for limit in backend.limitations(found, spec))


def test_the_text_of_a_plan_shows_the_parts() -> None:
    text = plan_to_text(plan(recurc.zoo.load("lssl")))
    for part in ("convolution carries s", "sources %u", "lanes D", "enter {", "step {", "reads {"):
        assert part in text


def test_a_part_that_reads_what_is_not_its_own_is_a_bug() -> None:
    found = plan(load("A @ h[t-1] + x"))
    good = stage(found)
    bad = replace(good, step=good.enter)
    stages = tuple(bad if s is good else s for s in found.stages)
    with pytest.raises(CompilerBug):
        verify_plan(replace(found, stages=stages))
