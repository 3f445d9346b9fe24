"""What is legal but not lowered yet, in several spellings: each is a limitation that names the construct."""

from __future__ import annotations

import pytest

import recurc
from recurc.frontend import format_text
from recurc.frontend.functions import FUNCTIONS, Form

_HEAD = (
    "recurrence A(D, N = 3):\n    input  x[D], w[N], new: bool, i: int, a, z: complex\n"
    "    param  M[D, D], m[N]\n    state  h[D] = 0\n"
)
_STEP, _OUT = "    h = 0.5 * h[t-1] + x\n", "    output h\n"
_CELL = (
    "recurrence Cell(D):\n    input  u[D]\n    param  a\n    state  s[D] = 0\n    s = a * s[t-1] + u\n    output s\n\n"
)


def step(expression: str) -> str:
    return f"{_HEAD}    h = {expression}\n{_OUT}"


def lines(text: str) -> str:
    return f"{_HEAD}{text}{_OUT}"


CASES: list[tuple[str, str, str]] = [  # code, a word of the message, source
    *(("E0901", "derivative", step(e)) for e in (
        "grad(grad(sum(phi1(a * M) @ x), a), a) * x", "x + grad(grad(sum(phi1(a * a * M) @ x), a), a)",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("code", "word", "source"), CASES)
def test_a_limitation_names_the_construct_and_its_place(code: str, word: str, source: str) -> None:
    with pytest.raises(recurc.UnsupportedError) as caught:
        recurc.load(text=source, name="A")
    assert {d.code for d in caught.value.diagnostics} == {code}
    for diagnostic in caught.value.diagnostics:
        assert diagnostic.severity == "limitation"
        assert word in diagnostic.message
        assert "not supported yet" in diagnostic.message
        assert 1 <= diagnostic.span.line <= source.count("\n")
        assert diagnostic.help


@pytest.mark.parametrize("source", sorted({source for _, _, source in CASES}))
def test_what_is_not_supported_yet_can_be_formatted(source: str) -> None:
    assert format_text(format_text(source)) == format_text(source)


def test_every_function_that_is_not_lowered_is_in_the_table() -> None:
    everything = "".join(source for _, _, source in CASES)
    missing = [name for name, f in FUNCTIONS.items() if f.form is Form.UNSUPPORTED and f"{name}(" not in everything]
    assert missing == []
