"""Chunks in one stage: which of a plan's chunks share their keys, what is said of it, and the rules of the stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

import recurc
from recurc import explain, targets
from recurc.errors import CompilerBug
from recurc.facts import LowRank, Reason
from recurc.ir import Const, Read
from recurc.irtext import plan_to_text
from recurc.passes import core_form, make_plan
from recurc.passes.low_rank import column, low_rank
from recurc.passes.verify_plan import verify_plan
from recurc.picture.model import picture
from recurc.plan import Chunk, JointChunk, Loop, Plan, taken_apart
from recurc.types import DType

SIZES = {"H": 2, "K": 6, "V": 5, "J": 6}
HEAD = (
    "recurrence R(H, K, V):\n    input q[H, K], k[H, K], v[H, V], w[H, V], a[H], b[H]\n"
    "    state S[H, K, V] = 0\n    state z[H, K] = 0\n"
)


def plan_of(name: str, schedule: str = "chunkwise", target: str = "cpu", steps: int = 1024) -> Plan:
    rec = recurc.load(text=name) if "\n" in name else recurc.zoo.load(name)
    return make_plan(rec.ir, SIZES, 2, steps, DType.F32, targets.named(target), schedule)


def joint(plan: Plan) -> list[list[str]]:
    return [[p.form.states[0] for p in s.parts] for s in plan.stages if isinstance(s, JointChunk)]


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("linear_attention", [["S", "z"]]),
        ("mlstm_sigmoid", [["S", "n"]]),
        ("mlstm", [["S", "n"]]),
        ("mlstm_unstabilised", [["S@scaled", "n@scaled"]]),
        ("based", [["S1", "z1"], ["S2", "z2"]]),
        ("jrt", [["E", "e"], ["S", "z"]]),
        ("abc", []),  # the keys of one memory are the values of the other
        ("gsa", []),
        ("mesa_net", []),
        ("mamba2", []),
    ],
)
def test_which_chunks_of_the_zoo_share_their_keys(name: str, parts: list[list[str]], target: str) -> None:
    assert joint(plan_of(name, target=target)) == parts


@pytest.mark.parametrize(
    ("update", "value"),
    [
        ("z = a * z[t-1] + k", None),
        ("z = k + z[t-1] * a", None),
        ("z = a * z[t-1] - k", "neg"),
        ("z = a * z[t-1] + b * k", "b"),
        ("z = a * z[t-1] + k * a / b", "div"),
        ("key = k\n    z = a * z[t-1] + key", None),
    ],
)
def test_a_vector_is_a_column_with_numbers_of_its_own(update: str, value: str | None) -> None:
    core = core_form(
        recurc.load(
            text=f"{HEAD}    S = a * S[t-1] + k * v\n    {update}\n    output o = q @ S, d = sum(q * z, K)\n"
        ).ir
    )
    matrix = low_rank(core, ("S",))
    assert isinstance(matrix, LowRank)
    found = column(core, "z", matrix)
    assert isinstance(found, LowRank) and found.alike(matrix) and found.columns == ()
    (write,) = found.writes
    shown = write.value.name if isinstance(write.value, Read) else getattr(write.value, "op", None)
    assert shown == value and (value is not None or write.value == Const(1.0, DType.REAL))


@pytest.mark.parametrize(
    ("update", "outputs", "why"),
    [
        ("z = b * z[t-1] + k", "d = sum(q * z, K)", "z does not decay as S does"),
        ("z = z[t-1] + k", "d = sum(q * z, K)", "z does not decay as S does"),
        ("z = a * z[t-1] + q", "d = sum(q * z, K)", "z is not written with the keys of S"),
        ("z = a * z[t-1] + k * k", "d = sum(q * z, K)", "z is not written with the keys of S"),
        ("z = a * z[t-1] + k + q", "d = sum(q * z, K)", "z takes more writes than S"),
        ("z = tanh(z[t-1]) + k", "d = sum(q * z, K)", "the update of z is no decay"),
        ("z = a * z[t-1] + k", "z", "z is an output"),
        ("z = a * z[t-1] + k", "d = max(z, K)", "z is needed whole"),
        ("z = a * z[t-1] + k", "d = sum(q * z[T] * z, K)", "z is read by what is known after the last step only"),
        ("z = a * z[t-1] + k", "d = q @ z as [G, K]", ""),
    ],
)
def test_a_vector_is_no_column_for_a_reason(update: str, outputs: str, why: str) -> None:
    if not why:
        text = (
            "recurrence R(H, K, V, G):\n    input q[G, K], k[K], v[V], a\n    state S[K, V] = 0\n    state z[K] = 0\n"
        )
        text += "    S = a * S[t-1] + k * v\n    z = a * z[t-1] + k\n    output o = sum(q * S, K), d = q @ z\n"
        why = "z is read by several rows in one step"
    else:
        text = f"{HEAD}    S = a * S[t-1] + k * v\n    {update}\n    output o = q @ S, {outputs}\n"
    core = core_form(recurc.load(text=text).ir)
    matrix = low_rank(core, ("S",))
    assert isinstance(matrix, LowRank), matrix
    found = column(core, "z", matrix)
    assert isinstance(found, Reason) and why in found.text


def test_a_matrix_that_is_read_by_the_end_of_another_state_is_not_chunkwise() -> None:
    core = core_form(
        recurc.load(text=f"{HEAD}    S = a * S[t-1] + k * v\n    z = z[t-1] + k\n    output o = (q * z[T]) @ S\n").ir
    )
    found = low_rank(core, ("S",))
    assert isinstance(found, Reason) and "S is read by what is known after the last step only" in found.text


def test_an_analysis_says_what_a_vector_is_beside() -> None:
    matrix, vector = recurc.zoo.load("linear_attention").analyze().groups
    assert "chunkwise" in vector.schedules and vector.cls == "EA"
    assert "one more column" in " ".join(r.text for r in vector.reasons)
    assert matrix.low_rank is not None and vector.low_rank is not None and vector.low_rank.alike(matrix.low_rank)


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_a_vector_without_its_matrix_in_chunks_is_not_taken_by_them(target: str) -> None:
    plan = plan_of("linear_attention", "S=sequential", target)
    assert plan.schedules[0] == "sequential" and plan.schedules[1] != "chunkwise" and not joint(plan)
    (weighed,) = (c for c in plan.candidates if c.schedule == "z: chunkwise")
    assert "only when asked for: no matrix with its keys goes by chunks beside it" in weighed.reason
    together = plan_of("linear_attention", "S=chunkwise", target)
    (beside,) = (c for c in together.candidates if c.schedule == "z: chunkwise")
    assert beside.seconds < weighed.seconds / 2 and beside.flops <= weighed.flops


def test_a_vector_may_be_asked_for_by_itself() -> None:
    """Where nothing is shared, it still means the same; who has no kernel for it takes the loop."""
    plan = plan_of("linear_attention", "S=sequential,z=chunkwise")
    (chunk,) = (s for s in plan.stages if isinstance(s, Chunk))
    assert chunk.form.states == ("z",) and not chunk.form.columns
    apart = taken_apart(plan)
    assert not any(isinstance(s, Chunk) for s in apart.stages) and chunk.loop in apart.stages
    verify_plan(apart)


def test_apart_a_matrix_keeps_its_chunks_and_a_vector_goes_step_by_step() -> None:
    plan = plan_of("linear_attention")
    apart = taken_apart(plan)
    verify_plan(apart)
    before, chunk, loop, after = apart.stages
    assert isinstance(chunk, Chunk) and chunk.form.states == ("S",)
    assert isinstance(loop, Loop) and [c.name for c in loop.carries] == ["z"]
    assert (before, after) == (plan.stages[0], plan.stages[2]) and apart.buffers == plan.buffers


def test_what_is_said_of_it() -> None:
    plan = plan_of("mlstm_sigmoid")
    (reason,) = (r.text for r in plan.reasons if "in one stage" in r.text)
    assert reason == (
        "S and n in one stage: what chunks of steps make of keys, decays and queries is made once; n as one more column"
    )
    (stage,) = (s for s in plan.stages if isinstance(s, JointChunk))
    kind, what, lines = explain.describe(stage, 100)
    assert (kind, what) == ("joint", "S and n in the same chunks of steps, by the same keys")
    assert any("keeping n (rows K)" in line for line in lines)
    text = plan_to_text(plan)
    assert "  joint writes S_read, n_read {" in text and "    chunk carries n: real[H, K]; writes n_read {" in text
    boxes = {b.title: b.subtitle for b in picture(plan).boxes}
    assert "in one pass with n" in boxes["state S"] and "in one pass with S" in boxes["state n"]


def test_the_verifier_knows_the_rules_of_the_stage() -> None:
    plan = plan_of("linear_attention")
    (stage,) = (s for s in plan.stages if isinstance(s, JointChunk))
    matrix, vector = stage.parts

    def changed(*parts: Chunk) -> Plan:
        return replace(plan, stages=tuple(JointChunk(parts) if s is stage else s for s in plan.stages))

    verify_plan(changed(matrix, vector))
    verify_plan(changed(vector, matrix))
    other = replace(vector.form, factors=((Const(0.5, DType.REAL),),))
    for wrong, why in (
        (changed(matrix), "fewer than two parts"),
        (changed(matrix, vector, vector), "two parts have one state"),
        (changed(matrix, replace(vector, form=other)), "part 1: it has not the keys and factors of the others"),
    ):
        with pytest.raises(CompilerBug, match=why):
            verify_plan(wrong)
