"""Every recurrence of the small zoo gets the class it has, and never a better one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recurc.ir import Const, Equation, Input, Param, Read, Recurrence, State
from recurc.ops import add, apply, mul, number, sub
from recurc.passes import analyze
from recurc.source import Span
from recurc.types import DType
from tests.passes_zoo import ONE, ZOO, h, one_state, x, z
from tests.systems import SYSTEMS


@pytest.mark.parametrize("name", ZOO)
def test_each_group_has_its_class_and_its_legal_schedules(name: str) -> None:
    build, classes, schedules = ZOO[name]
    analysis = analyze(build())
    assert tuple(g.cls for g in analysis.groups) == classes
    assert tuple(g.schedules for g in analysis.groups) == schedules
    for group in analysis.groups:
        assert group.reasons, "every class has a reason"
        assert (group.monoid is not None) == ("scan" in group.schedules)


@pytest.mark.parametrize(
    ("name", "cls", "schedules", "invariant"),
    [
        ("ema", "EA", ("sequential", "scan", "convolution"), True),
        ("lstm", "NL-f", ("sequential",), False),
        ("gru", "NL-f", ("sequential",), False),
        ("selective_scan", "EA", ("sequential", "scan"), False),
        ("aaren", "OS", ("sequential", "scan"), False),
    ],
)
def test_each_system_is_one_group_of_its_class(
    name: str, cls: str, schedules: tuple[str, ...], invariant: bool
) -> None:
    recurrence = SYSTEMS[name]()
    (group,) = analyze(recurrence).groups
    assert (group.cls, group.schedules, group.linear_time_invariant) == (cls, schedules, invariant)
    assert set(group.states) == {s.name for s in recurrence.states}


def test_the_coefficients_of_the_selective_scan_are_those_of_the_paper() -> None:
    (group,) = analyze(SYSTEMS["selective_scan"]()).groups
    assert group.monoid is not None
    decay, write = group.monoid.lift
    update = SYSTEMS["selective_scan"]().equations[1].expr
    assert update == add(mul(decay, Read("h", 1, ("D", "N"), DType.REAL)), write)


def test_a_scalar_rate_stays_a_scalar_component() -> None:
    (group,) = analyze(SYSTEMS["ema"]()).groups
    assert group.monoid is not None
    assert [c.dims for c in group.monoid.components] == [(), ("D",)]


def test_a_refusal_names_the_operator_and_the_place() -> None:
    place = Span("cell.rec", 12, 9, 12, 20)
    update = add(mul(number(0.5), h), apply("sigmoid", add(h, x), span=place))
    (group,) = analyze(one_state(update, {"x": ("D",)})).groups
    assert str(group.reasons[0]) == (
        "`h[t-1]` reaches `sigmoid`, so the update is nonlinear in the state (at cell.rec:12:9)"
    )


def test_a_threshold_is_refused_before_its_derivative_is_asked_for() -> None:
    (group,) = analyze(ZOO["lif"][0]()).groups
    assert "`>`, a threshold or rounding" in group.reasons[0].text or "condition" in group.reasons[0].text


def test_rounding_to_half_precision_inside_the_update_forbids_a_scan() -> None:
    rounded = apply("cast", add(mul(number(0.5), h), x))
    update = replace(rounded, dtype=DType.BF16)
    (group,) = analyze(one_state(apply("add", update, number(0.0)), {"x": ("D",)})).groups
    assert (group.cls, group.schedules) == ("EA", ("sequential",))
    assert any("rounded to half precision" in r.text for r in group.reasons)


def complex_recurrence(emit: str, feedback: bool) -> Recurrence:
    lam, s, c = (
        Read("lam", 0, ("D",), DType.COMPLEX),
        Read("s", 1, ("D",), DType.COMPLEX),
        Read("x", 0, ("D",), DType.REAL),
    )
    update = add(mul(lam, apply(emit, s) if feedback else s), c)
    return Recurrence(
        "Rotation", (), (Input("x", ("D",)),), (Param("lam", ("D",), DType.COMPLEX),),
        (State("s", ("D",), DType.COMPLEX, Const(0j, DType.COMPLEX)),),
        (Equation("s", update), Equation("y", apply("real", Read("s", 0, ("D",), DType.COMPLEX)))), ("y",),
    )  # fmt: skip


def test_a_complex_factor_per_element_is_its_own_class_and_conj_inside_is_not() -> None:
    (group,) = analyze(complex_recurrence("real", feedback=False), prove=True).groups
    assert (group.cls, group.linear_time_invariant, group.certificate.status) == ("CA", True, "proved")
    (group,) = analyze(complex_recurrence("conj", feedback=True)).groups
    assert (group.cls, group.schedules) == ("BA", ("sequential", "convolution"))  # linear over the reals


MUTATIONS = {
    "the light recurrence reads its cell": ("sru", "sru_v"),
    "abs in an average": ("ema", "abs_ema"),
    "a rate from the state": ("ema", "state_rate"),
    "a sign before the maximum": ("running_max", "max_of_minus"),
    "a factor in the maximum": ("max_plus", "max_of_product"),
    "a maximum in the weighted value": ("mlstm", "value_reads_maximum"),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_one_changed_operator_changes_the_class(what: str) -> None:
    good, bad = (analyze(ZOO[name][0]()).groups for name in MUTATIONS[what])
    assert [g.cls for g in good] != [g.cls for g in bad]


def test_the_gate_polarity_and_the_form_of_an_average_do_not_matter() -> None:
    rate = apply("sigmoid", z)
    forms = [
        add(mul(sub(ONE, rate), h), mul(rate, x)),
        add(h, mul(rate, sub(x, h))),
        sub(h, mul(rate, sub(h, x))),
        add(mul(x, rate), sub(h, mul(h, rate))),
    ]
    for update in forms:
        (group,) = analyze(one_state(update, {"x": ("D",), "z": ("D",)})).groups
        assert (group.cls, group.schedules) == ("EA", ("sequential", "scan"))
