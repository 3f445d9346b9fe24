"""What a notebook shows of a recurrence: complete, escaped, and with nothing from elsewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import recurc
from recurc.notebook import recurrence_html

VOID = {"br", "img", "hr", "input", "meta", "link"}
ALLOWED = {
    "div", "b", "span", "details", "summary", "pre", "table", "tr", "td", "th",
    "svg", "g", "path", "defs", "use", "clippath", "rect", "style",
}  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are closed in order; keeps tags, attributes and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(text: str) -> Page:
    page = Page(text)
    assert page.tags <= ALLOWED, page.tags - ALLOWED
    for name, value in page.attributes:
        assert not name.startswith("on") and name not in ("src", "action", "srcdoc"), name
        if name in ("href", "xlink:href"):
            assert value.startswith("#"), value
        assert not re.search(r"url\((?!#)|javascript:|expression\(|@import", value), value
    assert "<!DOCTYPE" not in text and "<?xml" not in text and "<!--" not in text
    return page


def test_a_recurrence_shows_source_picture_groups_and_plan() -> None:
    pytest.importorskip("matplotlib")
    page = checked(recurc.zoo.load("gru")._repr_html_())
    assert {"svg", "pre", "table", "details"} <= page.tags
    for words in ("recurrence GRU(D, H)", "Picture", "NL-f, nonlinear, full Jacobian", "Schedules weighed", "Plan"):
        assert words in page.text, words
    assert "came from `x` alone, without `h[t-1]`" in page.text


def test_a_compiled_one_shows_what_ran(rng: np.random.Generator) -> None:
    pytest.importorskip("matplotlib")
    ema = recurc.zoo.load("ema")
    f = ema.compile(backend="numpy", schedule="scan")
    before = checked(f._repr_html_())
    assert "sizes" in before.text or "scan" in before.text
    f(x=rng.standard_normal((3, 17, 5)), **dict.fromkeys(ema.params, 0.25))
    page = checked(f._repr_html_())
    assert "on the `numpy` backend" in page.text and "D=5" in page.text and "T 17" in page.text
    assert "an associative scan over t" in page.text and "svg" in page.tags


def test_the_reference_has_no_plan_and_says_so() -> None:
    f = recurc.zoo.load("ema").compile(backend="reference", sizes={"D": 3})
    assert "every equation as written" in checked(f._repr_html_()).text


EVIL = '<img src=x onerror=alert(1)><script>alert("2")</script>'


def test_a_stranger_s_texts_stay_text(tmp_path: Path) -> None:
    """Comments come with the source, file names with the places of reasons; names are taken to be anything."""
    path = tmp_path / "<img src=x onerror=alert(1)>&quot;.rec"
    path.write_text(
        f"# {EVIL}\nrecurrence R(D):\n    input  x[D]\n    state  h[D] = 0\n    h = tanh(h[t-1] + x)\n    output h\n",
        encoding="utf-8",
    )
    rec = recurc.load(path)
    for ir in (rec.ir, replace(rec.ir, name=EVIL), replace(rec.ir, doc=EVIL)):
        page = checked(recurrence_html(ir, f"{EVIL}\n{rec.to_text()}"))
        assert EVIL in page.text and "onerror=alert(1)>&quot;.rec:5:9" in page.text
    with_evil = replace(rec.ir, inputs=tuple(replace(i, name=EVIL) for i in rec.ir.inputs))
    checked(recurrence_html(with_evil, ""))


def test_without_matplotlib_the_rest_still_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = checked(recurc.zoo.load("ema")._repr_html_())
    assert "no picture: drawing needs matplotlib" in page.text and "svg" not in page.tags
    assert "EA, elementwise affine" in page.text and "recurrence EMA" in page.text


def test_colours_are_those_of_the_notebook() -> None:
    """Only the picture has a ground of its own; other texts take the colour around them, dark or light."""
    text = recurc.zoo.load("ema")._repr_html_()
    outside = re.sub(r'<div style="overflow-x:auto;background:#fff.*?</svg>\s*</div>', "", text, flags=re.DOTALL)
    assert not re.search(r"(?<!-)color:(?!inherit)|#[0-9a-f]{3}", outside)
