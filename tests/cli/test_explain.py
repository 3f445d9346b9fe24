"""`recurc explain`, `zoo`, `new`, `fmt`, `cache`, `doctor`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import EMA, Invoke


def test_explain_says_class_schedules_reasons_cost_and_memory(recurc: Invoke, ema: Path) -> None:
    got = recurc("explain", ema, "--sizes", "D=16")
    assert got.code == 0
    for words in ("elementwise affine", "sequential, scan", "because", "Schedules weighed", "Plan", "Memory", "D=16"):
        assert words in got.out


def test_explain_json_keeps_the_contract(recurc: Invoke) -> None:
    got = recurc(
        "explain", "zoo:selective_scan", "--sizes", "D=8", "-B", "2", "-T", "100", "--target", "sm_90", "--json"
    )
    data = json.loads(got.out)
    assert {"recurrence", "groups", "plan", "residual_bytes_per_step", "cost"} <= data.keys()
    (group,) = data["groups"]
    assert group["states"] == ["h"] and group["class"] == "EA" and group["schedules"] == ["sequential", "scan"]
    assert group["chosen"] in group["schedules"]
    assert group["linear_time_invariant"] is False
    assert group["reasons"] and {"method", "status"} <= group["certificate"].keys()
    assert data["residual_bytes_per_step"] == 8 * 16 * 4
    assert {"sequential", "scan"} <= data["cost"].keys()


def test_the_target_decides_the_schedule(recurc: Invoke, ema: Path) -> None:
    def chosen(target: str) -> str:
        got = recurc("explain", ema, "--json", "--sizes", "D=64", "-B", "4", "-T", "8192", "--target", target)
        return json.loads(got.out)["groups"][0]["chosen"]

    assert chosen("cpu") == "sequential"
    assert chosen("sm_90") == "scan"


def test_an_unknown_target_dim_or_schedule_is_refused_with_the_choices(recurc: Invoke, ema: Path) -> None:
    assert "sm_90" in recurc("explain", ema, "--target", "tpu").err
    assert "no dim `Q`" in recurc("explain", ema, "--sizes", "Q=3").err
    got = recurc("explain", "zoo:lstm", "--schedule", "scan")
    assert got.code == 1 and "sequential" in got.err


def test_sizes_nobody_gave_are_announced(recurc: Invoke, ema: Path) -> None:
    assert "assuming D=64" in recurc("explain", ema).err


def test_dumps_parse_back(recurc: Invoke, ema: Path) -> None:
    from recurc import irtext
    from recurc.frontend import load_text

    got = recurc("explain", ema, "--dump-after", "source")
    assert got.code == 0
    assert irtext.parse(got.out) == load_text(EMA)[0]
    assert recurc("explain", ema, "--dump-after", "nosuchpass").code == 1


def test_explaining_a_code_is_longer_than_the_message(recurc: Invoke) -> None:
    got = recurc("explain", "E0206")
    assert got.code == 0 and got.out.startswith("E0206:") and len(got.out) > 150
    assert recurc("explain", "e0206").out == got.out
    missing = recurc("explain", "E9999")
    assert missing.code == 1 and "no error code" in missing.err


def test_the_zoo_lists_and_shows(recurc: Invoke) -> None:
    rows = json.loads(recurc("zoo", "--json").out)
    assert {"ema", "lstm", "gru", "selective_scan", "aaren"} <= {row["name"] for row in rows}
    assert all(row["about"] and row["classes"] for row in rows)
    shown = recurc("zoo", "lstm")
    assert "recurrence LSTM" in shown.out
    drawn = re.search(r"^# picture: (.*\.svg)$", shown.out, re.MULTILINE)
    assert drawn is not None and Path(drawn[1]).read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert json.loads(recurc("zoo", "lstm", "--json").out)["picture"] == drawn[1]
    missing = recurc("zoo", "lstn")
    assert missing.code == 1 and "lstm" in missing.err


def test_new_starts_from_the_zoo_and_overwrites_nothing(recurc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "mine.rec"
    assert recurc("new", path, "--from", "gru").code == 0
    assert recurc("check", path).code == 0
    path.write_text("mine", encoding="utf-8")
    got = recurc("new", path)
    assert got.code == 1 and "--force" in got.err
    assert path.read_text(encoding="utf-8") == "mine"
    assert recurc("new", tmp_path / "a b").code == 2


def test_fmt_changes_files_only_when_asked(recurc: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "ugly.rec"
    path.write_text(EMA.replace("alpha * x", "alpha*x  # newest"), encoding="utf-8")
    before = path.read_bytes()
    assert recurc("fmt", "--check", path).code == 1
    assert path.read_bytes() == before
    assert recurc("fmt", path).code == 0
    assert b"alpha * x  # newest" in path.read_bytes()
    assert recurc("fmt", "--check", path).code == 0


def test_doctor_speaks_of_every_backend(recurc: Invoke) -> None:
    findings = json.loads(recurc("doctor", "--json").out)
    backends = {f["what"]: f for f in findings if f["topic"] == "backends"}
    assert set(backends) == {"reference", "numpy", "cpu", "triton", "cuda"}
    assert backends["reference"]["ok"] and backends["numpy"]["ok"]
    assert all(f["detail"] for f in findings)
    assert recurc("doctor").code == 0


def test_doctor_says_when_there_is_no_compiler(recurc: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    findings = json.loads(recurc("doctor", "--json").out)
    (cpu,) = [f for f in findings if f["topic"] == "backends" and f["what"] == "cpu"]
    assert cpu["ok"] is False and "/nowhere/cc" in cpu["detail"]


def test_the_cache_is_shown_and_cleared(recurc: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURC_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "old.so").write_bytes(b"x" * 10)
    assert json.loads(recurc("cache", "--json").out)["kernels"] == 1
    assert recurc("cache", "--clear").code == 0
    assert json.loads(recurc("cache", "--json").out)["kernels"] == 0
