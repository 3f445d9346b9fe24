"""Programs that are right: they load, or name the limitation they meet; they print, format and load back."""

from __future__ import annotations

from pathlib import Path

import pytest

from recurc import ir, zoo
from recurc.errors import RecError, RecurcError, UnsupportedError
from recurc.frontend import format_text, load_text
from recurc.frontend.functions import FUNCTIONS
from recurc.frontend.render import to_text
from recurc.zoo.header import header
from tests.property.random_recurrences import make

FOLDER = Path(__file__).parents[1] / "good"
FILES = sorted(FOLDER.glob("*.rec"))
ZOO = {name: zoo.text(name) for name in zoo.names()}


def expected(text: str) -> str:
    return text.split("\n")[0].removeprefix("# expect: ")


def by_name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_a_good_program_loads_or_names_the_limitation(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if expected(text) == "ok":
        assert load_text(text, path.name)
        return
    with pytest.raises(UnsupportedError) as caught:
        load_text(text, path.name)
    assert not isinstance(caught.value, RecError)
    assert {d.code for d in caught.value.diagnostics} == {expected(text)}
    assert all(d.severity == "limitation" for d in caught.value.diagnostics)
    assert "not supported yet" in str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_good_programs_are_in_the_standard_layout(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert format_text(text) == text


@pytest.mark.parametrize("name", ZOO)
def test_zoo_files_are_in_the_standard_layout_and_name_their_source(name: str) -> None:
    assert format_text(ZOO[name]) == ZOO[name]
    assert load_text(ZOO[name])
    paper = header(ZOO[name]).paper
    assert any(year in paper for year in ("19", "20")), "the header names a publication"


@pytest.mark.parametrize("text", [*ZOO.values(), *(p.read_text(encoding="utf-8") for p in FILES)])
def test_a_recurrence_written_as_text_loads_back_equal(text: str) -> None:
    try:
        recs = load_text(text)
    except UnsupportedError:
        return
    for rec in recs:
        assert load_text(to_text(rec)) == [rec]


def test_random_recurrences_written_as_text_load_back_equal(seed: int) -> None:
    for offset in range(100):
        rec = make(seed + offset)
        assert load_text(to_text(rec)) == [rec], f"seed {seed + offset}"


def test_every_function_of_the_language_is_used_by_a_good_program() -> None:
    everything = "\n".join(p.read_text(encoding="utf-8") for p in FILES)
    assert [name for name in FUNCTIONS if f"{name}(" not in everything] == []


def test_equations_stand_in_dependence_order_whatever_the_order_of_the_lines() -> None:
    (rec,) = load_text((FOLDER / "order_does_not_matter.rec").read_text(encoding="utf-8"))
    seen: set[str] = {i.name for i in rec.inputs}
    for equation in rec.equations:
        assert {r.name for r in ir.reads(equation.expr) if r.lag == 0} <= seen
        seen.add(equation.name)
    assert [e.name for e in rec.equations] == ["a", "b", "y", "h"]


def test_unpacking_makes_one_packed_equation_and_one_view_per_name() -> None:
    (rec,) = load_text(ZOO["lstm"])
    assert [e.name for e in rec.equations] == ["i_f_g_o", "i", "f", "g", "o", "c", "h"]
    for index, equation in enumerate(rec.equations[1:5]):
        assert isinstance(equation.expr, ir.Reaxis)
        assert (equation.expr.at, equation.expr.index) == (0, index)
        assert equation.expr.arg == ir.Read("i_f_g_o", 0, ("4", "H"), equation.expr.dtype)


def test_the_name_of_a_packed_value_never_collides() -> None:
    text = "recurrence A(D):\n    input  x[2, D]\n    a, b = x\n    a_b = a + b\n    output a_b\n"
    (rec,) = load_text(text)
    assert [e.name for e in rec.equations] == ["a_b_", "a", "b", "a_b"]
    assert load_text(to_text(rec)) == [rec]


def test_a_state_takes_its_value_in_its_own_order_of_dims() -> None:
    (rec,) = load_text((FOLDER / "state_order.rec").read_text(encoding="utf-8"))
    assert rec.equations[0].expr.dims == ("D", "N")


def test_numbers_are_folded_as_python_would() -> None:
    text = "recurrence A:\n    input  x\n    output y = x * (-1/2 + 2**3 * pi)\n"
    (rec,) = load_text(text)
    folded = [e for e in ir.walk(rec.equations[0].expr) if isinstance(e, ir.Const)]
    assert [c.value for c in folded] == [-1 / 2 + 2**3 * 3.141592653589793]


def test_the_doc_of_a_recurrence_is_the_comment_above_it() -> None:
    first, second = load_text((FOLDER / "two_recurrences.rec").read_text(encoding="utf-8"))
    assert second.doc == "The second one."
    assert first.doc == "expect: ok"


def test_the_zoo_gives_texts_and_files_by_name() -> None:
    assert {"ema", "lstm", "gru", "selective_scan", "aaren", "diagonal_affine"} <= set(zoo.names())
    for name in zoo.names():
        assert zoo.path(name).read_text(encoding="utf-8") == zoo.text(name)
    with pytest.raises(RecurcError, match=r"^the zoo has no 'lsmt'; did you mean 'lstm'"):
        zoo.text("lsmt")
    with pytest.raises(KeyError):
        zoo.path("../api")


def test_the_formatter_repairs_layout_and_nothing_else() -> None:
    messy = (
        "\n\nrecurrence   A( D,N=16 ) :\n\n\tinput x [ D ],y[N]#note\n"
        "\tparam Wide[N,D]~uniform( -1 / sqrt(D),1/sqrt(D) )\n"
        "\tparam b[N] ~ zeros\n\n\n\n\tstate h[N]=0\n\th=-h [t - 1]+Wide@x*2 ** -1\n\n\toutput h\n\n\n"
    )
    assert format_text(messy) == (
        "recurrence A(D, N = 16):\n"
        "    input  x[D], y[N]  # note\n"
        "    param  Wide[N, D] ~ uniform(-1/sqrt(D), 1/sqrt(D))\n"
        "    param  b[N]       ~ zeros\n"
        "\n"
        "    state  h[N] = 0\n"
        "    h = -h[t-1] + Wide @ x * 2**-1\n"
        "\n"
        "    output h\n"
    )
