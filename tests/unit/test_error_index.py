"""The registry of error codes, the page made from it, and what the source uses, agree."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from recurc.error_index import codes, entry
from recurc.errors import RecError, RecurcError, UnsupportedError
from recurc.frontend import format_text, load_text

ROOT = Path(__file__).parents[2]


def used_codes() -> set[str]:
    sources = (p.read_text(encoding="utf-8") for p in (ROOT / "recurc").rglob("*.py"))
    return {code for text in sources for code in re.findall(r'"(E0\d{3})"', text)}


def test_every_code_in_the_source_is_registered_and_every_registered_code_is_used() -> None:
    assert used_codes() == set(codes())


def test_the_committed_pages_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "error_pages.py"))["pages"]()
    folder = ROOT / "docs" / "errors"
    assert {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.md")} == pages, "run `make docs`"
    assert set(pages) == {"index.md", *(f"{code}.md" for code in codes())}
    shown = pages["E0402.md"]
    assert "## Wrong" in shown
    assert "error[E0402]" in shown
    assert "## Right" in shown


@pytest.mark.parametrize("code", codes())
def test_the_wrong_example_gives_the_code_and_the_fix_loads(code: str) -> None:
    found = entry(code)
    assert found.title
    assert len(found.explanation) > 40
    if found.wrong:
        with pytest.raises((RecError, UnsupportedError)) as caught:
            load_text(found.wrong)
        assert {d.code for d in caught.value.diagnostics} == {code}
        assert isinstance(caught.value, UnsupportedError) == found.is_limitation
    if found.fix:
        assert load_text(found.fix)
        assert format_text(found.fix) == found.fix


def test_an_entry_reads_as_text_and_an_unknown_code_says_so() -> None:
    shown = entry("e0312").to_text()
    assert shown.startswith("E0312: dims do not match")
    assert "Wrong:" in shown
    assert "Right:" in shown
    with pytest.raises(RecurcError, match="E9999"):
        entry("E9999")
