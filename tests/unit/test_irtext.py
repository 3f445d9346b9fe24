"""The textual IR parses back to an equal recurrence, and a mistake in it is reported where it stands."""

from __future__ import annotations

import math
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurc.build import REDUCTIONS
from recurc.errors import RecurcError
from recurc.frontend import load_text
from recurc.ir import (
    Apply,
    Const,
    Contract,
    Equation,
    Expr,
    Initializer,
    Input,
    Param,
    Read,
    Reaxis,
    Recurrence,
    Reduce,
    Size,
    State,
    Step,
)
from recurc.irtext import expr_to_text, parse, plan_to_text, to_text
from recurc.ops import OPS, neg
from recurc.types import DimDecl, DType
from tests.systems import SYSTEMS, ema, plans, read

ZOO = Path(__file__).resolve().parents[2] / "recurc" / "zoo"


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_five_systems_survive_a_round_trip(name: str) -> None:
    rec = SYSTEMS[name]()
    text = to_text(rec)
    assert parse(text) == rec
    assert to_text(parse(text)) == text
    assert max(map(len, text.splitlines())) <= 120


# --- any IR the node types can hold ----------------------------------------------------------------------------

_letters = string.ascii_letters + "_αΔβ"
names = st.one_of(
    st.text(_letters, min_size=1, max_size=6),
    st.sampled_from(
        ["output", "input", "t", "size", "inf", "nan", "true", "complex", "as", "x@initial", "cell.h", "H'1", "1.a"]
    ),
    st.text(min_size=1, max_size=4).filter(lambda s: s.isprintable()),
)
dim_names = st.one_of(
    st.text(string.ascii_uppercase, min_size=1, max_size=3), st.sampled_from(["4", "16", "inf", "as", "É"])
)
dims = st.lists(dim_names, max_size=3).map(tuple)
dtypes = st.sampled_from(list(DType))
axes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
numbers = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
)
leaves = st.one_of(
    st.builds(Const, numbers, dtypes),
    st.builds(Size, dim_names),
    st.builds(Step),
    st.builds(Read, names, st.integers(-2, 9), dims, dtypes),
)


def _operations(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    def apply(op: str) -> st.SearchStrategy[Expr]:
        return st.builds(Apply, st.just(op), st.tuples(*[inner] * OPS[op].arity), dims, dtypes)

    return st.one_of(
        st.sampled_from(sorted(OPS)).flatmap(apply),
        st.builds(Reduce, st.sampled_from(REDUCTIONS), inner, dims, dims, dtypes),
        st.builds(Contract, inner, inner, axes, axes, axes, dims, dtypes),
        st.builds(Reaxis, inner, axes, dims, dtypes),
        st.builds(Reaxis, inner, axes, dims, dtypes, st.integers(0, 3), st.integers(0, 9)),
    )


exprs = st.recursive(leaves, _operations, max_leaves=12)
recurrences = st.builds(
    Recurrence,
    names,
    st.lists(st.builds(DimDecl, dim_names, st.none() | st.integers(1, 99), st.none() | dim_names), max_size=3).map(
        tuple
    ),
    st.lists(st.builds(Input, names, dims, dtypes, st.none() | exprs), max_size=2).map(tuple),
    st.lists(
        st.builds(
            Param,
            names,
            dims,
            dtypes,
            st.none() | st.builds(Initializer, names, st.lists(exprs, max_size=2).map(tuple)),
        ),
        max_size=2,
    ).map(tuple),
    st.lists(st.builds(State, names, dims, dtypes, exprs), max_size=2).map(tuple),
    st.lists(st.builds(Equation, names, exprs), max_size=3).map(tuple),
    st.lists(names, max_size=2).map(tuple),
    st.text(max_size=20),
)


@settings(max_examples=150, deadline=None)
@given(recurrences)
def test_any_recurrence_survives_a_round_trip(rec: Recurrence) -> None:
    back = parse(to_text(rec))
    assert back == rec
    assert back.doc == rec.doc
    assert to_text(back) == to_text(rec)


@settings(max_examples=150, deadline=None)
@given(numbers)
def test_numbers_keep_their_python_type_and_sign(value: complex) -> None:
    rec = Recurrence("R", (), (), (), (), (Equation("y", Const(value, DType.REAL)),), ("y",))
    back = parse(to_text(rec)).equations[0].expr
    assert isinstance(back, Const)
    assert type(back.value) is type(value)
    assert repr(back.value) == repr(value)


def test_nan_stays_nan() -> None:
    rec = Recurrence("R", (), (), (), (), (Equation("y", Const(math.nan, DType.REAL)),), ("y",))
    back = parse(to_text(rec)).equations[0].expr
    assert isinstance(back, Const)
    assert math.isnan(back.value.real)


def test_a_very_deep_expression_prints_and_parses() -> None:
    expr: Expr = read("x", "D")
    for _ in range(5000):
        expr = neg(expr)
    text = expr_to_text(expr)
    rec = parse(f"recurrence Deep(D) {{\n  input x: real[D]\n  %y = {text}\n  output y\n}}")
    assert expr_to_text(rec.equations[0].expr) == text


# --- mistakes --------------------------------------------------------------------------------------------------

MISTAKES = {
    "a missing brace": ("recurrence R() {\n  output y\n", "line 3, column 1: expected `}`"),
    "an unknown operator": (
        "recurrence R() {\n  %y = frob: real(t: i64)\n}",
        "line 2, column 8: frob is not an operator",
    ),
    "an unknown dtype": ("recurrence R() {\n  input x: f33\n}", "line 2, column 12: f33 is not a dtype"),
    "too few operands": (
        "recurrence R() {\n  %y = add: i64(t: i64)\n}",
        "line 2, column 23: `add` takes 2 operands, found 1",
    ),
    "a stray character": ("recurrence R() {\n\n  ?\n}", "line 3, column 3: unexpected character '?'"),
    "text after the end": ("recurrence R() {\n}\nagain", "line 3, column 1: expected the end of the text, found again"),
    "a bad lag": ("recurrence R() {\n  %y = %x[t-1.5]: real\n}", "line 2, column 12: expected a lag such as -1"),
    "an unknown reduction": (
        "recurrence R() {\n  %y = reduce{mode over D}: real(t: i64)\n}",
        "column 15: mode is not a reduction",
    ),
    "a broken string": ('recurrence R() {\n  doc "\\q"\n}', "line 2, column 7"),
    "nothing at all": ("", "line 1, column 1: expected `recurrence`"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_reported_where_it_stands(text: str, message: str) -> None:
    with pytest.raises(RecurcError) as problem:
        parse(text)
    assert message in str(problem.value)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.text('{}()[]:,->%="0t#', max_size=3))
def test_damaged_text_is_refused_or_read_but_never_crashes(at: int, cut: int, put: str) -> None:
    text = to_text(ema())
    at %= len(text)
    try:
        parse(text[:at] + put + text[at + cut :])
    except RecurcError as problem:
        assert "line " in str(problem)


# --- plans -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", plans(), ids="-".join)
def test_a_plan_shows_every_buffer_and_stage(key: tuple[str, str]) -> None:
    plan = plans()[key]
    text = plan_to_text(plan)
    assert max(map(len, text.splitlines())) <= 120
    for buffer in plan.buffers:
        assert f"buffer {buffer.name} " in text
    for stage in plan.stages:
        for target in stage.writes:
            assert target in text
    assert ("monoid" in text) == (key[1] == "scan")


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.rec")), ids=lambda p: p.stem)
def test_every_zoo_file_survives_a_round_trip(path: Path) -> None:
    for rec in load_text(path.read_text(encoding="utf-8"), path.name):
        back = parse(to_text(rec))
        assert back == rec
        assert back.doc == rec.doc
        assert max(len(line) for line in to_text(rec).splitlines() if not line.startswith("  doc ")) <= 120
