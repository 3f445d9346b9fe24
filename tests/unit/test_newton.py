"""Newton's method over time: when it is legal and why not, that nobody gets it unasked, and the rules of its plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import recurc
from recurc import targets
from recurc.backends.base import Specialization
from recurc.backends.plan_numpy import PlanKernel
from recurc.errors import CompilerBug, UnsupportedError
from recurc.facts import Group
from recurc.irtext.printer import plan_to_text
from recurc.passes import core_form, make_plan
from recurc.passes.newton import refusal
from recurc.passes.verify_plan import verify_plan
from recurc.plan import Map, Matmul, Newton, Plan
from recurc.types import DType

SIZES = {"D": 5, "H": 7, "N": 3}


def one(update: str, state: str = "h[D] = 0.25") -> recurc.Recurrence:
    declared = f"input x[D], z[D], on: bool\n    param a[D], w[N]\n    state {state}"
    return recurc.load(text=f"recurrence One(D, N):\n    {declared}\n    h = {update}\n    output h\n")


def last(rec: recurc.Recurrence) -> Group:
    return rec.analyze().groups[-1]


def plan(rec: recurc.Recurrence, schedule: str = "newton", target: str = "cpu", steps: int = 1000) -> Plan:
    sizes = {d.name: SIZES[d.name] for d in rec.ir.dims}
    return make_plan(rec.ir, sizes, 2, steps, DType.F64, targets.named(target), schedule)


@pytest.mark.parametrize("name", ["indrnn", "gru_diagonal", "sru", "lstm_cifg_diagonal"])
def test_it_is_offered_to_diagonal_cells_and_taken_by_nobody_unasked(name: str) -> None:
    rec = recurc.zoo.load(name)
    group = last(rec)
    assert group.on_request == ("newton",) and "newton" not in group.schedules
    for target in targets.names():
        for steps in (1, 100_000, 10_000_000):
            found = plan(rec, "auto", target, steps)
            assert found.schedules == ("sequential",)
            weighed = {c.schedule: c for c in found.candidates}
            assert not weighed["newton"].chosen and "opt-in" in weighed["newton"].reason
            assert "if 4 rounds suffice" in weighed["newton"].reason
    assert plan(rec).schedules == ("newton",)
    assert any(isinstance(s, Newton) for s in plan(rec).stages)


@pytest.mark.parametrize(
    ("update", "says"),
    [
        ("if h[t-1] > x then 0.5 * h[t-1] else z", "`gt`, a threshold or rounding"),
        ("if h[t-1] == x then 0.5 * h[t-1] * h[t-1] else z", "`eq`, a threshold or rounding"),
        ("floor(h[t-1]) + x * h[t-1]", "`floor`, a threshold or rounding"),
        ("round(3 * sin(h[t-1])) / 3", "`round`, a threshold or rounding"),
        ("h[t-1] % 2 + x", "`mod`, a threshold or rounding"),
        ("sign(h[t-1]) * x", "`sign`, a threshold or rounding"),
        ("elu(h[t-1]) + x", "`gt`, a threshold or rounding"),
        ("tanh(cast(cast(h[t-1], int), real)) + x", "`cast to i64`, a threshold or rounding"),
        ("tanh(cast(h[t-1], bf16)) + x", "`cast to bf16`, a threshold or rounding"),
        ("tanh(x) + 0.1 * cast(argmax(w * h[t-1], N), real)", "`argmax`, a threshold or rounding"),
    ],
)
def test_a_jump_is_refused_by_name(update: str, says: str) -> None:
    rec = one(update)
    group = last(rec)
    assert group.cls == "NL-d" and group.on_request == ()
    reason = refusal(core_form(rec.ir), group)
    assert reason is not None and says in str(reason)
    with pytest.raises(UnsupportedError, match="Newton's method needs a derivative"):
        rec.compile(schedule="newton")
    with pytest.raises(UnsupportedError, match="Newton's method needs a derivative"):
        rec.compile(schedule="h=newton")


@pytest.mark.parametrize(
    "update",
    [
        "if on then sin(h[t-1]) else x",
        "if x > 0 then sin(h[t-1]) else x",
        "0.5 * abs(h[t-1]) * sigmoid(h[t-1]) + x",
        "relu(0.5 * h[t-1] * x - relu(h[t-1]))",
        "floor(x) * sin(h[t-1])",
        "cast(argmax(w, N), real) * tanh(0.1 * h[t-1])",
    ],
)
def test_a_jump_that_no_state_reaches_and_a_kink_are_none(update: str) -> None:
    assert last(one(update)).on_request == ("newton",)


def test_unequal_dims_many_states_and_others_are_refused_in_words() -> None:
    def why(rec: recurc.Recurrence) -> str:
        with pytest.raises(UnsupportedError) as refused:
            rec.compile(schedule="newton")
        return str(refused.value)

    assert "h, c differ in dims or type" in why(recurc.zoo.load("lstm_projected"))
    assert "9 states feed each other, and at most 4" in why(recurc.zoo.load("dnc"))
    assert "h (class EA) needs no Newton's method" in why(recurc.zoo.load("ema"))
    assert "needs real numbers" in why(one("h[t-1] // 2 + 1", "h[D]: int = 3"))
    assert "needs real numbers" in why(one("sin(h[t-1]) * x", "h[D]: complex = 0"))
    names = "abcde"
    five = "".join(f"    {p} = sin({q}[t-1]) + x\n" for p, q in zip(names, names[1:] + "a", strict=True))
    declared = ", ".join(f"{n}[D] = 0" for n in names)
    rec = recurc.load(text=f"recurrence Five(D):\n    input x[D]\n    state {declared}\n{five}    output a\n")
    assert last(rec).cls == "NL-b" and "5 states feed each other, and at most 4" in why(rec)
    wide = recurc.load(
        text="recurrence Wide(D, N):\n    input x[D]\n    state g = 0.1, h[D] = 0\n"
        "    g = 0.5 * sin(g[t-1]) + 0.1 * mean(x, D) * tanh(h0)\n    h0 = 0.2 * g[t-1]\n"
        "    h = sin(h[t-1]) * g\n    output h\n"
    )
    assert [g.on_request for g in wide.analyze().groups] == [("newton",), ("newton",)]
    nothing = recurc.load(text="recurrence Nothing(D):\n    input x[D]\n    output y = 2 * x\n")
    assert "needs a state" in why(nothing)


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "gru_reset_before", "slstm", "conv_lstm"])
def test_cells_whose_elements_meet_have_it_when_asked_for(name: str) -> None:
    rec = recurc.zoo.load(name)
    assert last(rec).cls == "NL-f" and last(rec).on_request == ("newton",)
    sizes = {d.name: 4 for d in rec.ir.dims}
    for target in targets.names():
        found = make_plan(rec.ir, sizes, 2, 100_000, DType.F64, targets.named(target), "auto")
        assert found.schedules == ("sequential",)
        weighed = {c.schedule: c for c in found.candidates}["newton"]
        assert not weighed.chosen and "if 24 rounds suffice" in weighed.reason and "opt-in" in weighed.reason


def test_a_jump_is_refused_where_elements_meet_too() -> None:
    rec = recurc.load(
        text="recurrence Jump(D):\n    input x[D]\n    param U[D, D]\n    state h[D] = 0\n"
        "    h = (if U @ h[t-1] > 0 then 1 else 0) * sin(h[t-1]) + x\n    output h\n"
    )
    assert last(rec).cls == "NL-f" and last(rec).on_request == ()
    with pytest.raises(UnsupportedError, match="`gt`, a threshold or rounding"):
        rec.compile(schedule="newton")


def test_a_group_that_cannot_stays_as_it_is_and_says_so() -> None:
    rec = recurc.load(
        text="recurrence Two(D):\n    input x[D]\n    state e[D] = 0, h[D] = 0\n"
        "    e = 0.9 * e[t-1] + x\n    h = sin(h[t-1]) + e\n    output h\n"
    )
    found = plan(rec)
    assert found.schedules[1] == "newton"
    assert any("e stays" in str(r) and "needs no Newton's method" in str(r) for r in found.reasons)


def test_a_backend_without_it_says_so() -> None:
    from recurc.runtime import choose

    spec = Specialization(tuple(sorted(SIZES.items())), DType.F32)
    found = plan(recurc.zoo.load("gru_diagonal"))
    assert any("Newton's method over time" in limit for limit in choose.backend("cuda").limitations(found, spec))
    assert not choose.backend("triton").limitations(found, spec)


def test_complex_numbers_beside_it_are_a_limitation_of_native_code(rng: np.random.Generator) -> None:
    rec = recurc.load(
        text="recurrence Turned(D):\n    input x[D]: complex\n    state h[D] = 0\n"
        "    h = 0.5 * tanh(h[t-1]) + real(x)\n    output h\n"
    )
    x = rng.standard_normal((2, 50, 4)) + 1j * rng.standard_normal((2, 50, 4))
    wanted = rec.compile(backend="reference")(x=x)
    np.testing.assert_allclose(rec.compile(backend="numpy", schedule="newton")(x=x), wanted, rtol=1e-9, atol=1e-9)
    with pytest.raises(UnsupportedError, match="meets complex numbers"):
        rec.compile(backend="cpu", schedule="newton")(x=x)


def test_what_explain_says_of_it() -> None:
    f = recurc.zoo.load("gru_diagonal").compile(backend="numpy", schedule="newton", sizes={"D": 5, "H": 7})
    text = f.explain()
    assert "legal       sequential, newton (when asked for)" in text
    assert "newton: all t at once for h: at most 32 rounds" in text
    assert f.rounds == {} and "between stages" in text  # the guess and the next one
    f(**arrays_of(f))
    assert "Newton's method for h: of 2 sequences of the last run, 2 solved in" in f.explain()
    full = recurc.zoo.load("lstm").compile(backend="numpy", schedule="newton", sizes={"D": 5, "H": 37})
    said = " ".join(full.explain().split())
    assert (
        "newton: all t at once for h, c: at most 128 rounds, each a scan of the equations, linearised element" in said
    )
    assert "the loop for sequences that do not converge, or too slowly" in said
    printed = plan_to_text(full.plan)
    assert "newton at most 128 rounds by %h'error that falls by 0.8" in printed and "matmul {" in printed
    text = plan_to_text(f.plan)
    assert "newton at most 32 rounds by %h'error" in text and "map writes h'guess" in text


def arrays_of(f: recurc.Compiled) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    rec = f.plan.recurrence
    arrays = {i.name: rng.standard_normal((2, 60, *(SIZES[d] for d in i.dims))) for i in rec.inputs}
    return arrays | {
        p.name: rng.uniform(-0.5, 0.5, [int(d) if d.isdigit() else SIZES[d] for d in p.dims]) for p in rec.params
    }


def broken(found: Plan, **changes: object) -> Plan:
    """The plan with some fields of its Newton stage exchanged."""
    stages = tuple(replace(s, **changes) if isinstance(s, Newton) else s for s in found.stages)
    return replace(found, stages=stages)


def test_a_plan_that_breaks_the_rules_is_refused() -> None:
    found = plan(recurc.zoo.load("lstm_cifg_diagonal"))
    (stage,) = (s for s in found.stages if isinstance(s, Newton))
    verify_plan(found)
    for changes, says in (
        ({"first": replace(stage.first, writes=())}, "not one for every state"),
        ({"first": replace(stage.first, body=stage.first.body[:-1])}, "not one for every state"),
        ({"error": "nowhere"}, "no residual"),
        ({"step": replace(stage.step, writes=())}, "no next guess"),
        ({"step": replace(stage.step, carries=stage.step.carries[:1])}, "not one update|apply reads"),
        ({"step": replace(stage.step, pre=stage.step.pre[1:])}, "nothing has made"),
        ({"loop": replace(stage.loop, body=stage.loop.body[1:])}, "nothing has made|no equation"),
        ({"known": stage.known[:-1]}, "not known from the guess"),
    ):
        with pytest.raises(CompilerBug, match=says):
            verify_plan(broken(found, **changes))


def test_products_of_a_round_that_break_the_rules_are_refused() -> None:
    rec = recurc.zoo.load("gru")
    found = make_plan(rec.ir, {"D": 5, "H": 37}, 2, 1000, DType.F64, targets.named("cpu"), "newton")
    verify_plan(found)
    (stage,) = (s for s in found.stages if isinstance(s, Newton))
    into, product = stage.before
    assert isinstance(into, Map) and isinstance(product, Matmul)
    for before, says in (
        ((product,), "nothing has made"),
        ((into,), "nothing has made"),
        ((product, into), "nothing has made"),
        ((replace(into, body=()), product), "does not compute"),
        ((replace(into, over_time=False), product), "does not compute"),
        ((into, replace(product, target="W")), "the name of another buffer"),
        ((into, replace(product, expr=replace(product.expr, right=product.expr.left))), "exactly one operand"),
    ):
        with pytest.raises(CompilerBug, match=says):
            verify_plan(broken(found, before=before))


@pytest.mark.parametrize("wrong", [0.0, 0.5, -3.0])
def test_a_wrong_jacobian_makes_it_slow_or_hand_over_to_the_loop_but_never_wrong(
    wrong: float, rng: np.random.Generator
) -> None:
    rec = recurc.zoo.load("gru_diagonal")
    found = plan(rec)
    (stage,) = (s for s in found.stages if isinstance(s, Newton))
    monoid = stage.step.monoid
    lift = (recurc.ir.Const(wrong, DType.REAL), monoid.lift[1])
    bad = broken(found, step=replace(stage.step, monoid=replace(monoid, lift=lift)))
    verify_plan(bad)
    f = rec.compile(backend="numpy", schedule="newton", sizes={"D": 5, "H": 7})
    arrays = arrays_of(f)
    wanted = rec.compile(backend="reference")(**arrays)
    given: dict[str, np.ndarray] = {n: a if n == "x" else a[np.newaxis] for n, a in arrays.items()}
    given |= {"h@initial": np.zeros((2, 7)), "h@final": np.empty((2, 7)), "h": np.empty((2, 60, 7))}
    spec = Specialization(tuple(sorted(SIZES.items())), DType.F64)
    good, poor = PlanKernel(found, spec), PlanKernel(bad, spec)
    good(given, 2, 60)
    poor(given, 2, 60)
    np.testing.assert_allclose(given["h"], wanted, rtol=1e-9, atol=1e-9)
    assert np.all((poor.rounds["h"] > good.rounds["h"]) | (poor.rounds["h"] == 0))
