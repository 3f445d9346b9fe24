"""`use "other.rec"`: names come in with their own meaning; nothing outside the roots is read; messages point into the
right file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import recurc
from recurc.frontend import load_file, load_text
from recurc.frontend.uses import MAX_FILES

CELLS = """use "gates.rec"
const  eps = 0.25

fn bump(u) = gate(u) + eps

recurrence Decay(D):
    input  u[D]
    param  a
    state  s[D] = 0
    s = a * s[t-1] + bump(u)
    output s
"""
GATES = "const  slope = 2\nfn gate(slope_of) = sigmoid(slope * slope_of)\n"
MAIN = """use "lib/cells.rec"

const  slope = 7

recurrence Main(H):
    input  x[H]
    y = Decay(x, a = 0.5)
    output z = slope * bump(y) + eps
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "cells.rec").write_text(CELLS)
    (tmp_path / "lib" / "gates.rec").write_text(GATES)
    (tmp_path / "main.rec").write_text(MAIN)
    return tmp_path


def codes(path: Path, **options: object) -> list[str]:
    with pytest.raises(recurc.RecError) as caught:
        recurc.load(path, **options)
    return [d.code for d in caught.value.diagnostics]


def using(folder: Path, *paths: str) -> Path:
    uses = "".join(f'use "{p}"\n' for p in paths)
    made = folder / "using.rec"
    made.write_text(uses + "\nrecurrence A(D):\n    input  x[D]\n    output x\n")
    return made


def test_what_another_file_defines_keeps_its_meaning(folder: Path) -> None:
    plain = """recurrence Main(H):
    input  x[H]
    state  y_s[H] = 0
    y_s = 0.5 * y_s[t-1] + (sigmoid(2 * x) + 0.25)
    y = y_s
    output z = 7 * (sigmoid(2 * y) + 0.25) + 0.25
"""
    found = recurc.load(folder / "main.rec")
    assert [found.ir] == load_text(plain)
    assert recurc.load(text=MAIN, roots=[str(folder)]) == found
    assert recurc.load(text=MAIN.replace("lib/", ""), roots=folder / "lib") == found
    assert found.compile("numpy", sizes={"H": 2}).plan


def test_names_of_files_that_are_used_in_turn_are_not_handed_on(folder: Path) -> None:
    path = folder / "main.rec"
    path.write_text(MAIN.replace("bump(y)", "gate(y)"))
    assert codes(path) == ["E0202"]
    path.write_text('use "lib/gates.rec"\n' + MAIN.replace("const  slope = 7", "").replace("bump(y)", "gate(y)"))
    assert recurc.load(path).name == "Main"


def test_a_text_without_a_file_reads_nothing() -> None:
    with pytest.raises(recurc.RecError, match="a text without a file has no folder"):
        load_text(MAIN)
    with pytest.raises(recurc.RecurcError, match="there is no folder '/nowhere'"):
        recurc.load(text=MAIN, roots=["/nowhere"])
    with pytest.raises(recurc.RecurcError, match="roots should be folders"):
        recurc.load(text=MAIN, roots=3)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/passwd.rec", "../up.rec", "lib/../../up.rec", "", "lib", "a\\b.rec", "lib/link.rec"]
)
def test_nothing_outside_the_roots_is_read(folder: Path, path: str) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (folder / "up.rec").write_text(GATES)
    (inner / "lib").mkdir()
    (inner / "lib" / "link.rec").symlink_to(folder / "up.rec")
    assert codes(using(inner, path)) == ["E0602"]
    if "up" in path or "link" in path:
        assert recurc.load(using(inner, path), roots=[folder]).name == "A"


def test_devices_and_missing_files_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "fifo.rec")
    (folder / "folder.rec").mkdir()
    (folder / "dangling.rec").symlink_to(folder / "gone.rec")
    start = time.monotonic()
    found = codes(using(folder, "fifo.rec", "folder.rec", "dangling.rec", "nothing.rec"))
    assert found == ["E0601"] * 4
    assert time.monotonic() - start < 5


def test_a_link_to_a_file_of_another_kind_is_refused(folder: Path) -> None:
    (folder / "secret.txt").write_text("const key = 1\n")
    (folder / "link.rec").symlink_to(folder / "secret.txt")
    assert codes(using(folder, "link.rec")) == ["E0602"]


def test_a_link_that_is_put_in_place_later_is_not_followed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "gates.rec").write_text(GATES)
    lexists = os.path.lexists

    def swapped(path: str) -> bool:
        found = lexists(path)
        (folder / "lib").rename(folder / "moved")
        (folder / "lib").symlink_to(outside)
        return found

    monkeypatch.setattr(os.path, "lexists", swapped)
    assert codes(using(folder, "lib/gates.rec")) == ["E0601"]


def test_files_that_links_make_look_alike_are_kept_apart(folder: Path) -> None:
    (folder / "q" / "sub").mkdir(parents=True)
    (folder / "q" / "x.rec").write_text("fn f(u) = 3 * u\n")
    (folder / "x.rec").write_text("fn f(u) = 2 * u\n")
    (folder / "link").symlink_to(folder / "q" / "sub")
    (folder / "y.rec").write_text('use "link/../x.rec"\nfn g(u) = f(u)\n')
    path = folder / "main.rec"
    text = "recurrence A(D):\n    input  x[D]\n    a = f(x)\n    b = g(x)\n    output a, b\n"
    path.write_text(f'use "x.rec"\nuse "y.rec"\n{text}')
    assert recurc.load(path).ir == load_text(text.replace("f(x)", "2 * x").replace("g(x)", "3 * x"))[0]


def test_a_path_is_relative_to_the_file_that_says_it_only(folder: Path) -> None:
    (folder / "lib" / "a.rec").write_text('use "top.rec"\n')
    (folder / "top.rec").write_text(GATES)
    assert codes(using(folder, "lib/a.rec")) == ["E0601"]
    assert recurc.load(using(folder, "lib/a.rec"), roots=folder).name == "A"


@pytest.mark.parametrize("odd", ["\ud800", "\x1b[31m", "\u202e", "\0"])
def test_a_path_of_characters_that_show_nothing_is_refused(folder: Path, odd: str) -> None:
    with pytest.raises(recurc.RecError) as caught:
        recurc.load(text=f'use "{odd}.rec"\n' + MAIN, roots=[folder])
    assert [d.code for d in caught.value.diagnostics] == ["E0602"]
    assert odd[0] not in caught.value.diagnostics[0].to_text()


def test_the_name_of_a_file_cannot_command_the_terminal(folder: Path) -> None:
    (folder / "\x1b[31m.rec").write_text("fn f(u) =\n")
    (folder / "link.rec").symlink_to(folder / "\x1b[31m.rec")
    with pytest.raises(recurc.RecError) as caught:
        load_file(using(folder, "link.rec"))
    assert "\x1b" not in caught.value.diagnostics[0].to_text()


def test_a_file_that_is_wrong_is_read_and_reported_once(folder: Path) -> None:
    (folder / "bad.rec").write_text("# " + "x" * 200_000 + "\nfn f(u) = 2 *\n")
    for name in ("a.rec", "b.rec"):
        (folder / name).write_text('use "bad.rec"\n')
    assert codes(using(folder, "a.rec", "b.rec")) == ["E0100"]


def test_what_a_missing_file_would_define_is_not_reported_too(folder: Path) -> None:
    (folder / "main.rec").write_text(MAIN.replace("lib/cells", "lib/sells"))
    assert codes(folder / "main.rec") == ["E0601"]
    assert set(codes(using(folder, *(f"none{i}.rec" for i in range(99))))) == {"E0601"}


def test_circles_are_named(folder: Path) -> None:
    (folder / "a.rec").write_text('use "b.rec"\n' + GATES)
    (folder / "b.rec").write_text('use "a.rec"\n')
    with pytest.raises(recurc.RecError, match=r"in a circle: a\.rec -> b\.rec -> a\.rec"):
        load_file(using(folder, "a.rec"))
    (folder / "using.rec").write_text('use "using.rec"\n')
    assert codes(folder / "using.rec") == ["E0603"]


def test_a_name_is_defined_once_among_all_files(folder: Path) -> None:
    (folder / "other.rec").write_text("fn gate(u) = u\n")
    assert codes(using(folder, "lib/gates.rec", "other.rec")) == ["E0604"]
    assert recurc.load(using(folder, "lib/gates.rec", "lib/gates.rec", "lib/cells.rec")).name == "A"
    (folder / "main.rec").write_text(MAIN + "\nrecurrence Decay(D):\n    input  x[D]\n    output x\n")
    assert "E0604" in codes(folder / "main.rec")


def test_number_and_size_of_files_are_bounded(folder: Path) -> None:
    for i in range(MAX_FILES + 5):
        (folder / f"f{i}.rec").write_text(f"const c{i} = {i}\n")
    assert set(codes(using(folder, *(f"f{i}.rec" for i in range(MAX_FILES + 5))))) == {"E0605"}
    for i in range(3):
        (folder / f"f{i}.rec").write_text("# " + "x" * 100_000 + "\nconst c = 1\n")
    assert codes(using(folder, "f0.rec", "f1.rec", "f2.rec"))[0] in ("E0604", "E0605")


def test_messages_point_into_the_file_that_is_wrong(folder: Path) -> None:
    (folder / "lib" / "gates.rec").write_text(
        "fn gate(u) = sigmoid(nothing * u)\n\nrecurrence G(D):\n    input x[D]\n    output y = gate(x)\n"
    )
    with pytest.raises(recurc.RecError) as caught:
        recurc.load(folder / "main.rec")
    (found,) = caught.value.diagnostics
    assert (found.code, Path(found.span.file).name, found.span.line) == ("E0201", "gates.rec", 1)
    assert "fn gate(u) = sigmoid(nothing * u)" in found.to_text()
    (folder / "lib" / "gates.rec").write_text(GATES)
    (folder / "main.rec").write_text(MAIN.replace("a = 0.5", "b = 0.5"))
    with pytest.raises(recurc.RecError) as caught:
        recurc.load(folder / "main.rec")
    text = caught.value.diagnostics[0].to_text()
    assert "y = Decay(x, b = 0.5)" in text
    assert "cells.rec:6:1" in text
    assert "recurrence Decay(D):" in text


def test_the_commands_follow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recurc.cli import invoke

    for command in (["check"], ["explain", "--sizes", "H=2"]):
        assert invoke([command[0], str(folder / "main.rec"), *command[1:]]) == 0, capsys.readouterr().out
