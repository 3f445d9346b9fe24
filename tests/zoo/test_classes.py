"""The analysis finds the classes that a system's header states, group by group."""

from __future__ import annotations

import re

import pytest

import recurc
from recurc.zoo.header import header
from tests.zoo.cases import NAMES, load

CODES = {
    "EA", "CA", "SR1", "DR1", "GH", "DA", "BA", "SL", "CL", "OS", "MB", "ID", "SEG", "FS", "AM", "KF", "SH", "CF",
    "NL-d", "NL-b", "NL-f", "QP",
}  # fmt: skip


def stated(name: str) -> str:
    """The codes behind `Class:` in the header, up to the first bracket, comma or full stop; `none` has no states."""
    line = re.split(r"[(.,;]", header(recurc.zoo.text(name)).classes)[0]
    codes = [w for w in line.split() if w not in ("+", "LTI", "none")]
    for code in codes:
        assert code in CODES, f"{name}: {code} is no class"
    return " ".join(codes)


def found(name: str) -> str:
    return " ".join(g.cls for g in load(name).analyze().groups)


@pytest.mark.parametrize("name", NAMES)
def test_the_class_in_the_header_is_found(name: str) -> None:
    assert found(name) == stated(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_what_it_is_where_it_is_from_and_of_which_class(name: str) -> None:
    head = header(recurc.zoo.text(name))
    assert head.about.endswith(".") and len(head.about) > 20
    assert re.fullmatch(r'.+ \((1[0-9]|20)\d\d\), ".+".*', head.paper), 'Paper: authors (year), "title".'
    assert head.classes


@pytest.mark.parametrize(
    ("name", "triangular"),
    [("kalman_filter", True), ("mamba3", True), ("mlstm", False), ("lstm", False), ("ema", False), ("adam", True)],
)
def test_groups_that_read_earlier_ones_are_a_triangular_system(name: str, triangular: bool) -> None:
    assert load(name).analyze().triangular == triangular
