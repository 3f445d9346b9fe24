"""Every example of docs/language.md is what the page says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recurc.errors import RecError, UnsupportedError
from recurc.frontend import format_text, load_text
from recurc.frontend.functions import FUNCTIONS, INITIALIZERS, Form
from recurc.frontend.lexer import MAX_CHARACTERS, MAX_NESTING
from recurc.frontend.lower import MAX_NODES
from recurc.frontend.symbols import DTYPES

PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(rec|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = [(text, BLOCKS[i + 1][1] if BLOCKS[i + 1 : i + 2] and BLOCKS[i + 1][0] == "text" else "")
            for i, (kind, text) in enumerate(BLOCKS) if kind == "rec"]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), EXAMPLES)
def test_an_example_does_what_the_page_says(text: str, message: str) -> None:
    assert format_text(text) == text
    expected = re.match(r"# expect: (E\d{4})\n", text)
    if expected is None:
        assert load_text(text, "example.rec")
        return
    with pytest.raises((RecError, UnsupportedError)) as caught:
        load_text(text, "example.rec")
    assert {d.code for d in caught.value.diagnostics} == {expected.group(1)}
    if message:
        assert "\n\n".join(d.to_text() for d in caught.value.diagnostics) == message.rstrip("\n")


def test_the_page_has_examples_and_names_every_function_type_and_initialiser() -> None:
    assert len(EXAMPLES) >= 12
    for name in [*FUNCTIONS, *DTYPES, *INITIALIZERS]:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    for words in (
        f"at most {MAX_CHARACTERS // 1024} KiB",
        f"at most {MAX_NESTING} levels deep",
        f"at most {MAX_NODES:,} operations",
    ):
        assert words in " ".join(PAGE.split())


def test_functions_are_said_to_be_supported_if_and_only_if_they_are() -> None:
    expressions, unsupported = (PAGE.split(f"\n## {title}\n")[1] for title in ("Expressions", "Not supported yet"))
    table = "\n".join(line for line in unsupported.splitlines() if line.startswith("|"))
    for name, function in FUNCTIONS.items():
        if function.form is Form.UNSUPPORTED:
            assert re.search(rf"`[^`\n]*\b{name}\b", table), f"{name} is missing from the table of limitations"
            assert not re.search(rf"\b{name}\(", expressions.split("\n## ")[0])
        else:
            assert not re.search(rf"^\| `{name}\b", table, re.MULTILINE), f"{name} works, and the page says it does not"


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [("i + 1", "i64"), ("i // 2", "i64"), ("i % 2", "i64"), ("i / 2", "real"), ("i**2", "real"), ("i + x", "real"),
     ("x + 2j", "complex"), ("i > 1", "bool"), ("cast(x, i64)", "i64"), ("abs(z)", "real")],
)  # fmt: skip
def test_types_meet_as_the_page_says(expression: str, dtype: str) -> None:
    (rec,) = load_text(f"recurrence A:\n    input  i: int, x, z: complex\n    output y = {expression}\n")
    assert rec.equations[0].expr.dtype.value == dtype
