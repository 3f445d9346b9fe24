"""Programs that are wrong: each gives exactly its code, at a place that exists, and never a traceback."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from recurc.diagnostics import Diagnostic
from recurc.error_index import codes
from recurc.errors import RecError, UnsupportedError
from recurc.frontend import decode, format_text, load_file, load_text

FOLDER = Path(__file__).parents[1] / "bad"
FILES = sorted(FOLDER.glob("*.rec"))
GOLDEN = [
    "misspelt_keyword", "implicit_product", "brackets_crossed", "if_without_else", "misspelt_name", "loop_of_three",
    "matmul_dims_swapped", "state_grows_a_dim", "next_step", "unpack_count", "several_syntax_errors",
    "unicode_name_unknown",
]  # fmt: skip


def problems(text: str, name: str = "test.rec") -> list[Diagnostic]:
    try:
        load_text(text, name)
    except (RecError, UnsupportedError) as wrong:
        return wrong.diagnostics
    return []


def assert_is_a_good_message(diagnostic: Diagnostic, text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    for span in (diagnostic.span, *(span for span, _ in diagnostic.labels)):
        assert 1 <= span.line <= len(lines)
        assert span.end_line <= len(lines)
        assert 1 <= span.column <= len(lines[span.line - 1]) + 1
    shown = diagnostic.to_text()
    assert shown.startswith(f"{diagnostic.severity}[{diagnostic.code}]: ")
    assert "^" in shown
    assert "help:" in shown, "every message says what to do"
    data = json.loads(json.dumps(diagnostic.to_json()))
    assert list(data) == [
        "code", "severity", "message", "file", "line", "column", "end_line", "end_column", "labels", "help",
    ]  # fmt: skip
    assert diagnostic.code in codes()


def test_there_are_many_bad_programs_and_most_codes_have_one() -> None:
    assert len(FILES) >= 70
    used = {p.read_text(encoding="utf-8").split("\n")[0].removeprefix("# expect: ") for p in FILES}
    by_byte = {"E0101", "E0102", "E0109"}  # files that no editor would keep: made below
    by_file = {"E0601", "E0603", "E0604", "E0605"}  # what goes wrong with used files: see test_uses.py
    errors = {c.code for c in codes().values() if not c.is_limitation}
    assert errors - by_byte - by_file == used


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_bad_program_gives_its_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = problems(text, path.name)
    assert {d.code for d in found} == {text.split("\n")[0].removeprefix("# expect: ")}
    for diagnostic in found:
        assert_is_a_good_message(diagnostic, text)


@pytest.mark.parametrize("name", GOLDEN)
def test_messages_read_as_they_did(name: str, goldens) -> None:
    path = FOLDER / f"{name}.rec"
    shown = "\n\n".join(d.to_text() for d in problems(path.read_text(encoding="utf-8"), path.name))
    goldens.check(f"diagnostics/{name}.txt", shown + "\n")


GOOD = "recurrence A(D):\n    input  x[D]\n    output y = 2 * x\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (GOOD.encode() + b"# \xff\xfe\n", "E0101"),
        (GOOD.encode("utf-16"), "E0101"),
        (GOOD.encode("latin-1") + "# é\n".encode("latin-1"), "E0101"),
        (GOOD.encode() + b"\xef\xbb\xbf" + GOOD.encode(), "E0102"),
        (b"\x00\x01\x02\x03", "E0105"),
        (GOOD.encode() + b"\x00", "E0105"),
        (GOOD.replace("\n", "\r").encode(), "E0105"),
        (b"", "E0119"),
        (b"\n\n   \n", "E0119"),
        (b"x" * 10_000_000, "E0109"),
        (b"(" * 10_000_000, "E0109"),
        (b"\n" * 10_000_000, "E0109"),
        (b"\xff" * 10_000_000, "E0101"),
        (GOOD.encode() * 100_000, "E0109"),
    ],
    ids=lambda v: v if isinstance(v, str) else repr(v[:12]),
)
def test_odd_bytes_give_a_diagnostic_quickly(data: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.rec"
    path.write_bytes(data)
    start = time.process_time()
    with pytest.raises(RecError) as caught:
        load_file(path)
    assert time.process_time() - start < 2
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert len(str(caught.value)) < 20_000, "the message does not repeat the file"


@pytest.mark.parametrize(
    "data", [GOOD.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + GOOD.encode(), GOOD[:-1].encode()]
)
def test_windows_files_are_read_as_they_are(data: bytes) -> None:
    assert load_text(decode(data)) == load_text(GOOD)
    assert format_text(decode(data)) == GOOD


HEAD = "recurrence A(D):\n    input  x[D]\n    state  h[D] = 0\n"


@pytest.mark.parametrize(
    "text",
    [
        "recurrence A(D):\n    input  x[D]\n    output y = " + "exp(" * 1000 + "x" + ")" * 1000 + "\n",
        "recurrence A(D):\n    input  x[D]\n    output y = " + "if x > 0 then " * 1000 + "\n",
        "recurrence A(D):\n    input  x[D]\n    output y = " + "not " * 10_000 + "true\n",
        "recurrence A(D):\n    input  x[D]\n    output y = x" + "**x" * 10_000 + "\n",
        "recurrence A(D):\n    input  x[D]\n    output y = x" + ".T" * 10_000 + "\n",
        "recurrence A(D):\n    input  x[D]\n    output y = x" + "[t-1]" * 5_000 + "\n",
        "".join("    " * i + "when x:\n" for i in range(400)),
        "recurrence A(D):\n" + "".join("    " * (i + 1) + "when x:\n" for i in range(300)) + "    " * 302 + "y = 1\n",
        "recurrence A(D):\n    input  x[D]\n"
        + "".join(f"    a{i} = a{i + 1} + x\n" for i in range(2000))
        + "    output a0\n",
        "recurrence A(D):\n    input  x[D]\n    state  h[D] = 0\n    h = 9**9**9**9 * h[t-1]\n    output h\n",
        "recurrence A(D):\n    output y = iterate(1000, u = 1, iterate(1000, v = u, iterate(1000, w = v, w + t)))\n",
        "recurrence A(D):\n"
        + "".join(f"    fn f{i}(u) = f{i + 1}(u) + f{i + 1}(u)\n" for i in range(100))
        + "    output y = f0(t)\n",
        "recurrence A(D):\n    const  " + ", ".join(f"c{i} = c{i + 1}" for i in range(1000)) + "\n    output t\n",
        HEAD + "".join(f"    a{i} = b{i}{i}+x\n" for i in range(2500)),
        HEAD + "    h = x\n" * 5000,
        HEAD + "    h = x\n    output " + ", ".join(["h"] * 15_000) + "\n",
        HEAD + "".join(f"    a{i} = a{(i + 1) % 2500}+x\n" for i in range(2500)) + "    h = x\n",
        HEAD + "    a b c\n" * 5000,
        HEAD + "    h = max(" + ",".join(["x"] * 20_000) + ")\n",
        HEAD + "    h = " + "iterate(1000, u = x, " * 20 + "u" + ")" * 20 + "\n",
        HEAD + "".join(f"    y{i} = iterate(1000, u = x, exp(x))\n" for i in range(1400)),
        "".join(f"recurrence A{i}:\n    output y = iterate(990, u = 1, t)\n" for i in range(1000)),
        "recurrence A("
        + ", ".join(f"D{i}" for i in range(3000))
        + "):\n"
        + "    input x["
        + ", ".join(f"E{i}" for i in range(5000))
        + "]\n",
        "recurrence " + "A" * 60_000 + "(D):\n",
        "recurrence A(D):\n    input x[" + "9" * 60_000 + "]\n    output x\n",
        "recurrence A(D):\n    output y = " + "9" * 60_000 + "\n",
        "recurrence A(D):\n    output y = 1e" + "9" * 60_000 + "\n",
    ],
    ids=lambda t: t[:60].replace("\n", " ") + f"({len(t)})",
)
def test_hostile_text_under_64_kib_takes_under_two_seconds(text: str) -> None:
    start = time.process_time()
    found = problems(text)
    assert time.process_time() - start < 2
    assert found
    for diagnostic in found:
        assert_is_a_good_message(diagnostic, text)


def test_a_large_but_honest_file_loads_in_under_two_seconds() -> None:
    body = "".join(f"    a{i} = tanh(x * {i}.5 + h[t-1]) - exp(-abs(x)) * a{i - 1 if i else 'x'}\n" for i in range(900))
    head = "recurrence A(D):\n    input  x[D], ax[D]\n    state  h[D] = 0\n"
    text = head + body + "    h = a899\n    output h\n"
    assert 50_000 < len(text) < 64 * 1024
    start = time.process_time()
    assert len(load_text(text)[0].equations) == 901
    assert time.process_time() - start < 2


def test_carets_stand_under_wide_characters_and_tabs() -> None:
    text = "recurrence A(D):\n    input  漢字[D]\n    output y = 漢字\t+ nothing\n"
    (found,) = problems(text)
    line, carets = (row.split("| ", 1)[1] for row in found.to_text().split("\n")[3:5])
    at = line.index("nothing")
    wide = sum(2 if ord(c) > 0x2E80 else 1 for c in line[:at])
    assert carets == " " * wide + "^" * len("nothing")


def test_all_errors_of_a_stage_come_together() -> None:
    text = "recurrence A(D):\n    input  x[D]\n    a = b + c\n    d = sum(x, D, D)\n    output y = sigmod(x)\n"
    assert [d.code for d in problems(text)] == ["E0201", "E0201", "E0314", "E0202"]


def test_a_limitation_is_no_error_and_errors_come_before_limitations() -> None:
    limited = "recurrence A(D):\n    input  M[D, D], x[D], a\n    output y = grad(grad(sum(phi1(a * M) @ x), a), a)\n"
    assert [d.severity for d in problems(limited)] == ["limitation"]
    both = limited + "    output u = nothing\n"
    assert [d.code for d in problems(both)] == ["E0201"]


def test_the_error_of_one_equation_is_not_repeated_by_those_that_read_it() -> None:
    text = "recurrence A(D):\n    input  x[D]\n    a = nothing\n    b = a + 1\n    output y = a * b\n"
    assert [d.code for d in problems(text)] == ["E0201"]
