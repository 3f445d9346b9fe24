"""The way to core form: what expand, canonicalise, share and drop-dead change, and what they must leave alone."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from recurc import targets
from recurc.backends import reference
from recurc.build import matmul, transpose
from recurc.errors import CompilerBug, UnsupportedError
from recurc.ir import Apply, Const, Contract, Equation, Expr, Read, Recurrence, walk
from recurc.ops import OPS, add, apply, cast, div, mul, neg, number, select, sub
from recurc.passes import core_form, core_passes, make_plan, run_core
from recurc.passes.canonicalize import simplified
from recurc.passes.dependence import dependence
from recurc.passes.expand import shift_states
from recurc.passes.manager import Pass, run_passes
from recurc.passes.verify import verify
from recurc.source import Span
from recurc.types import DType
from tests.passes_zoo import SIZES, ZOO, old, one_state, random_arrays, rec, v
from tests.systems import SYSTEMS

x, y = v("x", "D"), v("z", "D")
I64 = DType.I64


@pytest.mark.parametrize("name", ZOO)
def test_the_core_form_means_the_same(name: str, rng: np.random.Generator) -> None:
    source = ZOO[name][0]()
    arrays = random_arrays(source, rng, 2, 7)
    core = core_form(source)
    shifted = {
        f"{s}@initial": arrays[f"{o}@initial"] for s, o in shift_states(core).items() if f"{o}@initial" in arrays
    }
    before, after = reference.run(source, arrays, 2, 7, SIZES), reference.run(core, arrays | shifted, 2, 7, SIZES)
    assert set(before) <= set(after), "outputs and final states keep their names"
    for output in before:
        np.testing.assert_allclose(after[output], before[output], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", [*ZOO, *SYSTEMS])
def test_the_core_form_is_a_fixed_point(name: str) -> None:
    core = core_form(SYSTEMS[name]() if name in SYSTEMS else ZOO[name][0]())
    assert core_form(core) == core
    assert not any(isinstance(n, Apply) and OPS[n.op].expands for e in core.equations for n in walk(e.expr))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (mul(x, number(1.0)), x),
        (mul(number(-1.0), x), neg(x)),
        (div(x, number(1.0)), x),
        (sub(x, number(0.0)), x),
        (sub(x, neg(y)), add(x, y)),
        (add(x, neg(y)), sub(x, y)),
        (neg(neg(x)), x),
        (add(number(2.0), mul(number(3.0), number(4.0))), number(14.0)),
        (apply("exp", number(0.0)), number(1.0)),
        (apply("log", number(0.0)), number(-math.inf)),
        (select(apply("gt", number(2.0), number(1.0)), x, y), x),
        (apply("add", Const(2, I64), Const(3, I64)), Const(5, I64)),
        (cast(x, DType.REAL), x),
        (
            matmul(transpose(v("A", "H", "D")), v("u", "H")),
            Contract(v("A", "H", "D"), v("u", "H"), (1, 0), (1,), (0,), ("D",), DType.REAL),
        ),
    ],
)  # fmt: skip
def test_an_identity_is_applied(before: Expr, after: Expr) -> None:
    assert simplified(before) == after


@pytest.mark.parametrize(
    "kept",
    [
        mul(number(0.0), x),  # not 0 where x is infinite or not a number
        add(x, number(0.0)),  # turns -0 into 0
        sub(x, number(-0.0)),
        sub(x, x),
        div(x, x),
        select(apply("gt", x, y), x, y),  # max, but for a NaN
        apply("pow", x, number(0.5)),
        cast(x, DType.F16),
        apply("floordiv", Const(1, I64), Const(0, I64)),
        sub(number(math.inf), number(math.inf)),  # a NaN does not equal itself, so it is no constant
    ],
)
def test_what_would_change_a_value_is_left_alone(kept: Expr) -> None:
    assert simplified(kept) == kept


def test_a_simplification_never_changes_dims_or_dtype() -> None:
    widened = mul(Const(1, I64), Read("n", 0, (), I64))
    assert simplified(widened) == Read("n", 0, (), I64)
    assert simplified(apply("mul", number(1.0), Read("f", 0, ("D",), DType.F16))).dtype is DType.REAL


def test_long_lags_become_shift_states_with_the_value_before_the_first_step() -> None:
    core = core_form(ZOO["lags"][0]())
    assert shift_states(core) == {"h@lag1": "h", "h@lag2": "h", "x@lag1": "x"}
    initial = {s.name: s.initial for s in core.states}
    assert initial["h@lag2"] == number(0.5) and initial["x@lag1"] == number(2.0)
    assert max(n.lag for e in core.equations for n in walk(e.expr) if isinstance(n, Read)) == 1


def test_an_absurd_lag_is_a_limitation() -> None:
    with pytest.raises(UnsupportedError, match=r"h\[t-5000\]"):
        core_form(one_state(add(old("h", "D", k=5000), x), {"x": ("D",)}))


def test_terms_used_twice_are_computed_once() -> None:
    core = core_form(SYSTEMS["aaren"]())
    exps = [n for e in core.equations for n in walk(e.expr) if isinstance(n, Apply) and n.op == "exp"]
    assert len(exps) == 2


def test_small_whole_powers_become_products_of_one_value() -> None:
    for power, products in ((2.0, 1), (3.0, 2), (4.0, 2)):
        source = one_state(add(old("h", "D"), apply("pow", sub(x, number(3.0)), number(power))), {"x": ("D",)})
        nodes = [n for e in core_form(source).equations for n in walk(e.expr) if isinstance(n, Apply)]
        assert not any(n.op == "pow" for n in nodes)
        assert sum(n.op == "sub" for n in nodes) == 1
        assert sum(n.op == "mul" for n in nodes) >= products


def nested(times: int) -> Expr:
    e: Expr = x
    for _ in range(times):
        e = apply("silu", e)
    return e


def test_nested_shorthand_stays_linear_in_size() -> None:
    core = core_form(one_state(add(old("h", "D"), nested(60)), {"x": ("D",)}))
    assert sum(1 for e in core.equations for _ in walk(e.expr)) < 600


def test_an_initial_value_of_exploding_shorthand_is_a_limitation() -> None:
    source = one_state(add(old("h", "D"), x), {"x": ("D",)})
    start = number(0.5)
    for _ in range(40):
        start = apply("silu", start)
    with pytest.raises(UnsupportedError, match="too deeply"):
        core_form(replace(source, states=(replace(source.states[0], initial=start),)))


def doubling(count: int, op: str) -> Recurrence:
    """Each equation reads the one before it twice: 2^count paths."""
    equations = {"e0": old("h", "D")}
    for i in range(1, count):
        last = v(f"e{i - 1}", "D")
        equations[f"e{i}"] = apply(op, last, last)
    equations["h"] = add(mul(number(1e-9), v(f"e{count - 1}", "D")), x)
    return rec("Doubling", {"x": ("D",)}, {}, {"h": (("D",), 0.0)}, equations, ("h",))


@pytest.mark.parametrize("op", ["add", "max", "mul", "logaddexp", "sub"])
def test_equations_that_double_at_each_step_do_not_blow_up(op: str) -> None:
    start = time.process_time()
    plan = make_plan(doubling(200, op), SIZES, 2, 8, DType.F32, targets.named("cpu"))
    assert plan.schedules == ("sequential",)
    assert time.process_time() - start < 2.0


def test_a_long_chain_of_equations_and_states_is_handled_in_order() -> None:
    count = 600
    equations: dict[str, Expr] = {"e0": mul(number(0.5), old("h", "D"))}
    for i in range(1, count):
        equations[f"e{i}"] = add(v(f"e{i - 1}", "D"), x)
    equations["h"] = v(f"e{count - 1}", "D")
    states = {"h": (("D",), 0.0)}
    for i in range(200):
        states[f"s{i}"] = (("D",), 0.0)
        equations[f"s{i}"] = add(old(f"s{i}", "D"), v(f"s{i - 1}" if i else "h", "D"))
    source = rec("Chain", {"x": ("D",)}, {}, states, equations, ("s199",))
    start = time.process_time()
    plan = make_plan(source, SIZES, 2, 8, DType.F32, targets.named("cpu"))
    assert len(plan.analysis.groups) == 201
    assert time.process_time() - start < 5.0


def test_an_equation_nobody_needs_is_dropped_and_a_state_never() -> None:
    source = rec(
        "Dead", {"x": ("D",)}, {}, {"h": (("D",), 0.0), "lost": (("D",), 0.0)},
        {"waste": apply("exp", x), "h": add(old("h", "D"), x), "lost": mul(x, x)}, ("h",),
    )  # fmt: skip
    assert [e.name for e in core_form(source).equations] == ["h", "lost"]


def test_made_nodes_point_at_what_they_were_made_from() -> None:
    place = Span("a.rec", 3, 5, 3, 12)
    source = one_state(add(old("h", "D"), apply("silu", x, span=place)), {"x": ("D",)})
    core = core_form(source)
    made = [n for e in core.equations for n in walk(e.expr) if isinstance(n, Apply) and n.op == "sigmoid"]
    assert made and all(n.span == place for n in made)


# --- dependence -------------------------------------------------------------------------------------------------------


def test_states_that_feed_each_other_are_one_group_in_reading_order() -> None:
    found = dependence(core_form(ZOO["stacked"][0]()))
    assert found.groups == (("h",), ("g",))
    assert set(found.sunk) == {"y", "both"} and found.hoisted == ()
    assert dependence(core_form(SYSTEMS["lstm"]())).groups == (("h", "c"),)


def test_hoisted_equations_read_no_state_and_sunk_ones_feed_none() -> None:
    found = dependence(core_form(SYSTEMS["selective_scan"]()))
    assert found.hoisted == ("dt",) and found.sunk == ("y",)


# --- the verifier and the manager -------------------------------------------------------------------------------------

EMA = SYSTEMS["ema"]()


def with_equation(name: str, expr: Expr, at: int = 0) -> Recurrence:
    equations = list(EMA.equations)
    equations.insert(at, Equation(name, expr))
    return replace(EMA, equations=tuple(equations))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (with_equation("y", v("nothing", "D")), "not defined"),
        (with_equation("y", Read("h", 0, ("D",), DType.REAL)), "not defined"),  # stands before h's equation
        (with_equation("y", Read("x", 1, ("D",), DType.REAL)), "no value before the first step"),
        (with_equation("y", Read("x", 0, ("K",), DType.REAL)), "reads x as"),
        (with_equation("y", Apply("add", (x, v("alpha")), ("K",), DType.REAL)), "its operands give"),
        (with_equation("y", Apply("add", (x, Const(1, I64)), ("D",), DType.REAL)), "casts"),
        (with_equation("y", replace(matmul(x, x), out_axes=(7,))), "result axes"),
        (with_equation("h", x, 1), "defined twice"),
        (replace(EMA, equations=()), "without an equation"),
        (replace(EMA, outputs=("q",)), "output q"),
        (with_equation("y", Const(1, DType.REAL)), "constant"),
    ],
)
def test_the_verifier_names_what_is_wrong(broken: Recurrence, says: str) -> None:
    with pytest.raises(CompilerBug, match=says):
        verify(broken, "source")


def test_shorthand_and_long_lags_are_legal_in_source_and_not_in_core() -> None:
    for source, says in (
        (with_equation("y", apply("silu", x)), "silu"),
        (with_equation("y", old("h", "D", k=2)), "lag above"),
    ):
        verify(source, "source")
        with pytest.raises(CompilerBug, match=says):
            verify(source, "core")


def test_a_pass_that_breaks_the_ir_is_named() -> None:
    bad = Pass("careless", "drops the equations", lambda r: replace(r, equations=()))
    with pytest.raises(CompilerBug, match="careless"):
        run_passes(EMA, [bad])


def test_passes_are_timed_and_dumped_as_text_that_parses_back() -> None:
    from recurc.irtext import parse

    record = run_core(SYSTEMS["aaren"](), ["all"])
    assert [t.name for t in record.timings] == [p.name for p in core_passes()]
    assert set(record.dumps) == {"source", *(p.name for p in core_passes())}
    assert parse(record.dumps["drop-dead"]) == record.result
    with pytest.raises(UnsupportedError, match="no pass `nope`"):
        run_core(EMA, ["nope"])
    assert all(p.description and p.name for p in core_passes())
