"""The picture says what the plan is, nothing lies on top of anything, and no name can break out of its place."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from recurc import targets, zoo
from recurc.formula import equation_lines, formula, wrapped
from recurc.ir import Const, Equation, Expr, Read, Reaxis
from recurc.ops import add, apply, div, mul, neg, number, select, sub
from recurc.passes import make_plan
from recurc.picture.dot import to_dot
from recurc.picture.layout import LOOP_BEND, LOOP_SPAN, MONO_WIDTH, SMALL, Rect, arrange, size
from recurc.picture.model import Arrow, Kind, Picture, picture
from recurc.plan import Plan
from recurc.types import DType
from tests.systems import plans

PLANS = plans()
ALL = pytest.mark.parametrize("key", PLANS, ids="-".join)


def value(name: str, lag: int = 0) -> Read:
    return Read(name, lag, (), DType.REAL)


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (mul(sub(number(1.0), value("a")), value("h", 1)), "(1 - a)·h[t-1]"),
        (sub(value("a"), sub(value("b"), value("c"))), "a - (b - c)"),
        (sub(sub(value("a"), value("b")), value("c")), "a - b - c"),
        (div(value("a"), mul(value("b"), value("c"))), "a / (b·c)"),
        (mul(neg(value("a")), value("b")), "-a·b"),
        (neg(add(value("a"), value("b"))), "-(a + b)"),
        (apply("exp", sub(value("m", 1), value("m"))), "exp(m[t-1] - m)"),
        (select(apply("gt", value("a"), number(0.0)), value("a"), number(float("-inf"))), "if a > 0 then a else -∞"),
    ],
)
def test_formulas_have_the_brackets_they_need_and_no_more(expr: Expr, text: str) -> None:
    assert formula(expr) == text


def test_random_formulas_mean_what_the_expression_means(rng: np.random.Generator) -> None:
    values = {name: float(rng.uniform(0.5, 2.0)) for name in "abcd"}

    def grow(depth: int) -> tuple[Expr, float]:
        if depth == 0 or rng.random() < 0.2:
            name = str(rng.choice(list(values)))
            return value(name), values[name]
        (x, p), (y, q) = grow(depth - 1), grow(depth - 1)
        match rng.integers(5):
            case 0:
                return add(x, y), p + q
            case 1:
                return sub(x, y), p - q
            case 2:
                return mul(x, y), p * q
            case 3:
                return (div(x, y), p / q) if abs(q) > 1e-3 else (mul(x, y), p * q)
            case _:
                return neg(x), -p

    for _ in range(200):
        expr, want = grow(5)
        got = eval(formula(expr).replace("·", "*"), {"__builtins__": {}}, dict(values))
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9), formula(expr)


def sliced(whole: str, count: int, *parts: tuple[str, int]) -> list[Equation]:
    """`name = whole[place]` for each of `parts`, of a value that has `count` places."""
    value = Read(whole, 0, (str(count), "H"), DType.REAL)
    return [Equation(n, Reaxis(value, (1,), ("H",), DType.REAL, at=0, index=i)) for n, i in parts]


G_O = Equation("g_o", add(Read("x", 0, ("2", "H"), DType.REAL), Read("y", 0, ("2", "H"), DType.REAL)))
W, Z = Equation("w", Read("U", 0, ("3", "H"), DType.REAL)), Equation("z", neg(Read("g_o", 0, ("2", "H"), DType.REAL)))


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ([G_O, *sliced("g_o", 2, ("g", 0), ("o", 1))], ["g, o = x + y"]),
        ([G_O, *sliced("g_o", 2, ("o", 1), ("g", 0))], ["g, o = x + y"]),
        ([G_O, *sliced("g_o", 2, ("o", 1))], ["o = (x + y)[1]"]),
        ([G_O, *sliced("g_o", 3, ("o", 1), ("g", 0))], ["g_o = x + y", "o = g_o[1]", "g = g_o[0]"]),
        (sliced("U", 2, ("g", 0), ("o", 1)), ["g, o = U"]),
        (sliced("U", 3, ("o", 2)), ["o = U[2]"]),
        ([W, *sliced("w", 3, ("o", 2), ("g", 1))], ["o = U[2]", "g = U[1]"]),
        ([G_O, *sliced("g_o", 2, ("g", 0), ("o", 1)), Z], ["g_o = x + y", "g, o = g_o", "z = -g_o"]),
    ],
)
def test_slices_of_one_value_stand_on_one_line_if_they_are_all_of_it(body: list[Equation], lines: list[str]) -> None:
    assert equation_lines(body) == lines


@pytest.mark.parametrize(
    ("number", "text"), [(1 + 0j, "1"), (1 / 6 + 0j, "0.166667"), (1j, "1j"), (-0.5j, "-0.5j"), (1 - 2j, "(1-2j)")]
)
def test_complex_numbers_show_the_parts_they_have(number: complex, text: str) -> None:
    assert formula(Const(number, DType.COMPLEX)) == text


def test_long_lines_wrap_and_lose_nothing() -> None:
    text = "h = " + " + ".join(f"exp(-alpha{i}·beta{i})·h[t-1]" for i in range(8))
    lines = wrapped(text, 46)
    assert len(lines) > 3 and all(len(line) <= 54 for line in lines)
    assert "".join("".join(line.split()) for line in lines) == "".join(text.split())


def test_a_line_breaks_behind_what_is_too_long_to_be_kept_whole() -> None:
    name = "a" * 60
    assert wrapped(f"h = {name} + b + c", 46) == [f"h = {name}", "    + b + c"]


def test_a_param_of_an_initial_value_is_drawn_and_leads_to_its_state() -> None:
    drawn = picture(load_plan("titans_linear"))
    state = next(b for b in drawn.boxes if b.title == "states M, S")
    assert Arrow("param:M0", state.key) in drawn.arrows


@pytest.mark.parametrize("name", ["lstm", "dnc"])
def test_the_arrow_back_shows_on_both_sides_of_its_label(name: str) -> None:
    for box in picture(load_plan(name)).boxes:
        if box.feedback:
            label = MONO_WIDTH * SMALL * len(box.feedback)
            assert size(box)[0] * LOOP_SPAN >= label + 2 * LOOP_BEND - 1e-9


def load_plan(name: str) -> Plan:
    rec = zoo.load(name).ir
    sizes = {d.name: d.default or 8 for d in rec.dims}
    return make_plan(rec, sizes, 2, 64, DType.F32, targets.named("cpu"))


def test_what_leaves_the_recurrence_is_drawn_outside_of_it() -> None:
    drawn = picture(PLANS["selective_scan", "scan"])
    kinds = {b.kind: b for b in drawn.boxes}
    assert "y = (h @ C + skip·x)·z·sigmoid(z)" in kinds[Kind.AFTER].lines
    assert "h = a·h[t-1] + b" in kinds[Kind.PARALLEL].lines
    assert kinds[Kind.PARALLEL].feedback == "h[t-1]"
    assert {b.title for b in drawn.boxes if b.kind is Kind.INPUT} == {"x", "delta", "B", "C", "z"}
    lstm = picture(PLANS["lstm", "sequential"])
    assert any(b.kind is Kind.BEFORE and "Wx = W @ x" in b.lines for b in lstm.boxes)
    assert any(b.kind is Kind.NONLINEAR and b.title == "states h, c" for b in lstm.boxes)


@pytest.mark.parametrize(
    ("name", "kinds", "says"),
    [
        ("ema", {Kind.PARALLEL}, "EA, elementwise affine · one step after another (legal too: parallel scan over t"),
        ("gated_delta_net", {Kind.CHUNKED}, "GH, generalised Householder (delta rule)"),
        ("kalman_filter", {Kind.PARALLEL, Kind.SERIAL}, "MB, linear fractional (Möbius) · one step after another"),
        ("logistic_map", {Kind.NONLINEAR}, "QP, polynomial, not closed"),
    ],
)
def test_a_group_has_the_colour_of_its_class_and_its_name(name: str, kinds: set[Kind], says: str) -> None:
    states = {Kind.PARALLEL, Kind.CHUNKED, Kind.SERIAL, Kind.NONLINEAR}
    boxes = [b for b in picture(load_plan(name)).boxes if b.kind in states]
    assert {b.kind for b in boxes} == kinds
    assert any(says in b.subtitle for b in boxes), [b.subtitle for b in boxes]


@pytest.mark.parametrize("name", ["clockwork_rnn", "dnc", "s4d", "mlstm", "kalman_filter", "titans_linear"])
def test_labels_do_not_lie_on_each_other_nor_on_boxes(name: str) -> None:
    layout = arrange(picture(load_plan(name)))
    half = {label: MONO_WIDTH * SMALL * len(label.text) / 2 for label in layout.labels}
    texts = {n: Rect(n.x - w, n.y - SMALL / 2, 2 * w, SMALL) for n, w in half.items()}
    for (one, a), (other, b) in combinations(texts.items(), 2):
        assert not _overlap(a, b), f"{one} lies on {other}"
    for label, text in texts.items():
        assert not [k for k, box in layout.boxes.items() if _overlap(text, box)], label


@ALL
def test_every_input_and_output_is_connected(key: tuple[str, str]) -> None:
    drawn = picture(PLANS[key])
    ends = {a.source for a in drawn.arrows} | {a.target for a in drawn.arrows}
    assert {b.key for b in drawn.boxes} == ends
    outputs = [b.title for b in drawn.boxes if b.kind is Kind.OUTPUT]
    assert outputs == list(PLANS[key].recurrence.outputs)


@ALL
def test_boxes_do_not_overlap_and_arrows_go_right(key: tuple[str, str]) -> None:
    layout = arrange(picture(PLANS[key]))
    for (one, a), (other, b) in combinations(layout.boxes.items(), 2):
        assert not _overlap(a, b), f"{one} lies on {other}"
    for route in layout.routes:
        xs = [x for x, _ in route.points]
        assert xs == sorted(xs)
        for (x0, y0), (x1, _) in zip(route.points[1:-1:2], route.points[2:-1:2], strict=False):
            crossed = [k for k, r in layout.boxes.items() if r.x < x1 and x0 < r.right and r.y < y0 < r.top]
            assert not crossed, f"{route.arrow} runs through {crossed}"


def _overlap(a: Rect, b: Rect) -> bool:
    return a.x < b.right and b.x < a.right and a.y < b.top and b.y < a.top


def test_a_group_that_is_taken_apart_shows_what_runs_where() -> None:
    sizes = {"H": 2, "K": 8, "V": 8}
    plan = make_plan(zoo.load("mlstm").ir, sizes, 2, 64, DType.F32, targets.named("cpu"), "chunkwise")
    boxes = [b for b in picture(plan).boxes if ":group" in b.key]
    assert [b.title for b in boxes] == ["state m", "states S, n"]
    assert ["one step after another" in boxes[0].subtitle, "chunks of steps" in boxes[1].subtitle] == [True, True]


def test_a_title_cannot_break_out_of_a_dot_file() -> None:
    drawn = replace(picture(PLANS["ema", "scan"]), title='a" ]; x [label="\\"')
    text = to_dot(drawn)
    assert 'digraph "a\\" ]; x [label=\\"\\\\\\""' in text
    assert text.count("{") == text.count("}") == 1


def test_dollar_signs_are_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from recurc.picture.draw import draw

    drawn: Picture = replace(picture(PLANS["ema", "scan"]), subtitle="$\\frac{$ from $HOME")
    draw(drawn, tmp_path / "g.svg")
    assert (tmp_path / "g.svg").stat().st_size > 1000
