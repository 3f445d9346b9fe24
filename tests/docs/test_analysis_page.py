"""docs/analysis.md is what happens, and has every class."""

from __future__ import annotations

import re
from pathlib import Path

from recurc.facts import CLASSES
from tests.docs import blocks

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "analysis.md"
PAGE = FILE.read_text(encoding="utf-8")


def test_every_block_prints_what_the_page_says() -> None:
    assert blocks.check(FILE) == 4


def test_every_class_has_a_row_with_its_name_in_words() -> None:
    rows = dict(re.findall(r"^\| `([A-Z][A-Za-z0-9-]*)` \| ([^|]*?) \|", PAGE, re.MULTILINE))
    assert rows == CLASSES


def test_the_lines_of_explain_have_their_names() -> None:
    source = (ROOT / "recurc" / "explain.py").read_text(encoding="utf-8")
    for word in re.findall(r"^\| `([a-z ]+)` \| ", PAGE.split("## Reading")[1], re.MULTILINE):
        assert f'"{word}"' in source or f"    {word} " in source, word
