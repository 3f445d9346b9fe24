"""`recurc check`, and what every command does with files it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke

BAD = "recurrence A(D):\n    input  x[D]\n    state  h[D] = 0\n    h = h[t-1] + y\n    output h\n"


def test_a_good_file_gives_0_and_nothing_on_stdout(recurc: Invoke, ema: Path) -> None:
    got = recurc("check", ema)
    assert (got.code, got.out) == (0, "")
    assert "no problems" in got.err


def test_every_file_of_the_zoo_is_good(recurc: Invoke) -> None:
    import recurc as package

    got = recurc("check", *(package.zoo.path(name) for name in package.zoo.names()))
    assert got.code == 0


def test_a_bad_file_gives_1_and_the_diagnostic_with_its_place(recurc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "bad.rec"
    path.write_text(BAD, encoding="utf-8")
    got = recurc("check", path)
    assert got.code == 1
    assert "error[E0201]" in got.out and f"{path}:4:18" in got.out and "help:" in got.out
    assert "1 of 1 files with problems" in got.err


def test_systems_of_the_zoo_are_checked_by_name(recurc: Invoke) -> None:
    assert recurc("check", "zoo:lstm", "zoo:ema").err == "2 files checked, no problems\n"
    got = recurc("check", "zoo:lsmt")
    assert got.code == 1 and "did you mean 'lstm'?" in got.err


def test_a_limitation_says_so_once(recurc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "grad.rec"
    path.write_text(
        "recurrence A(D):\n    input  M[D, D], x[D], a\n    output y = grad(grad(sum(phi1(a * M) @ x), a), a)\n",
        encoding="utf-8",
    )
    got = recurc("explain", path)
    assert got.code == 1 and got.out == ""
    assert (
        got.err.startswith("limitation[E0901]: the second derivative of `phi1`") and got.err.count("not supported") == 1
    )


def test_all_bad_files_are_reported_not_only_the_first(recurc: Invoke, tmp_path: Path, ema: Path) -> None:
    for name in ("one.rec", "two.rec"):
        (tmp_path / name).write_text(BAD, encoding="utf-8")
    got = recurc("check", tmp_path / "one.rec", ema, tmp_path / "two.rec")
    assert got.code == 1
    assert "one.rec:4" in got.out and "two.rec:4" in got.out
    assert "2 of 3 files" in got.err


def test_json_has_the_fields_editors_read(recurc: Invoke, tmp_path: Path, ema: Path) -> None:
    path = tmp_path / "bad.rec"
    path.write_text(BAD, encoding="utf-8")
    got = recurc("check", "--json", path)
    (found,) = json.loads(got.out)
    fields = {"code", "severity", "message", "file", "line", "column", "end_line", "end_column", "labels", "help"}
    assert fields <= found.keys()
    assert (found["code"], found["line"], found["column"]) == ("E0201", 4, 18)
    assert json.loads(recurc("check", "--json", ema).out) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00bad", "\ufeffrecurrence".encode(), b"recurrence A(D):\r\n\tx", b"(" * 3000, b"\x00" * 100],
    ids=["empty", "not UTF-8", "BOM", "tabs and CRLF", "deep nesting", "NULs"],
)
def test_no_bytes_make_a_traceback(recurc: Invoke, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "strange.rec"
    path.write_bytes(content)
    got = recurc("check", path)
    assert got.code in (0, 1)
    assert "Traceback" not in got.err


@pytest.mark.parametrize(
    "command",
    [
        ["check", "{}"],
        ["explain", "{}"],
        ["fmt", "{}"],
        ["graph", "{}", "--out", "g.dot"],
        ["run", "{}"],
        ["bench", "{}"],
        ["compile", "{}", "--target", "numpy", "--out", "k"],
    ],
    ids=lambda c: c[0],
)
def test_a_missing_file_or_a_directory_is_named(recurc: Invoke, tmp_path: Path, ema: Path, command: list[str]) -> None:
    for path, words in ((tmp_path / "emma.rec", "does not exist; did you mean"), (tmp_path, "is a directory")):
        got = recurc(*(part.format(path) for part in command))
        assert got.code == 1
        assert str(path) in got.err and words in got.err
        assert "Traceback" not in got.err


def test_a_file_with_several_recurrences_asks_which(recurc: Invoke, ema: Path) -> None:
    text = ema.read_text(encoding="utf-8")
    ema.write_text(text + "\n" + text.replace("EMA", "Second"), encoding="utf-8")
    got = recurc("explain", ema)
    assert got.code == 1 and "EMA, Second" in got.err
    assert recurc("explain", ema, "--name", "Second").code == 0
    assert "did you mean `Second`" in recurc("explain", ema, "--name", "Secnd").err


@pytest.mark.parametrize(
    "arguments",
    [
        ["chek"],
        ["check"],
        ["explain"],
        ["check", "--nope", "x"],
        ["graph", "x.rec"],
        ["compile", "x.rec", "--out", "k"],
    ],
    ids=" ".join,
)
def test_wrong_usage_gives_2_and_says_how(recurc: Invoke, arguments: list[str]) -> None:
    got = recurc(*arguments)
    assert got.code == 2
    assert got.out == "" and "Usage:" in got.err


@pytest.mark.parametrize("sizes", ["D", "D=x", "D=0", "D=-1", "D=1.5", "D=nan", "D=3,D=4", "=3"])
def test_sizes_that_are_no_sizes_are_usage_errors(recurc: Invoke, ema: Path, sizes: str) -> None:
    got = recurc("explain", ema, "--sizes", sizes)
    assert got.code == 2 and "--sizes" in got.err


def test_a_misspelt_command_is_guessed(recurc: Invoke) -> None:
    assert "did you mean 'explain'" in recurc("explian").err


def test_a_bug_gives_70_and_asks_for_a_report(recurc: Invoke, ema: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recurc import frontend

    def broken(path: Path) -> None:
        raise ZeroDivisionError("inside the compiler")

    monkeypatch.setattr(frontend, "load_file", broken)
    got = recurc("check", ema)
    assert got.code == 70
    assert "bug in recurc" in got.err and "inside the compiler" in got.err and "report" in got.err
