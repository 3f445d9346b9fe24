"""docs/python.md is what happens, and the names it speaks of are those of the package."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import recurc
from recurc.compiled import Compiled
from recurc.options import CALL_OPTIONS
from recurc.passes.schedule import KNOWN
from recurc.runtime.choose import BACKENDS
from tests.docs import blocks

FILE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
PAGE = FILE.read_text(encoding="utf-8")


def test_every_block_prints_what_the_page_says() -> None:
    assert blocks.check(FILE) >= 7


def test_the_options_are_named_in_their_order() -> None:
    words = PAGE.split("`compile` takes, in this order:")[1]
    names = list(inspect.signature(recurc.Recurrence.compile).parameters)[1:]
    places = [words.index(f"`{name}`") for name in names]
    assert places == sorted(places)
    for choice in ("auto", *BACKENDS, *KNOWN):
        assert f'`"{choice}"`' in words


def test_the_arguments_of_a_call_are_those_of_the_page() -> None:
    assert set(inspect.signature(Compiled.__call__).parameters) >= CALL_OPTIONS
    for option in CALL_OPTIONS - {"steps"}:  # which is for recurrences without inputs
        assert f"{option}=" in PAGE


@pytest.mark.parametrize("name", ["RecError", "ShapeError", "UnsupportedError", "BackendError"])
def test_the_exceptions_are_as_the_page_says(name: str) -> None:
    assert f"| `recurc.{name}` |" in PAGE
    assert issubclass(getattr(recurc, name), recurc.RecurcError)
    assert not issubclass(getattr(recurc, name), recurc.CompilerBug)


def test_every_public_name_can_be_had() -> None:
    for name in dir(recurc):
        assert getattr(recurc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = recurc.nothing  # type: ignore[attr-defined]
