"""Every example of docs/language.md is what the page says it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recurc.errors import RecError, UnsupportedError
from recurc.frontend import format_text, load_text
from recurc.frontend.functions import FUNCTIONS, INITIALIZERS
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
