"""`recurc explain`, `zoo`, `new`, `fmt`, `cache`, `doctor`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from recurc import zoo
from recurc.cli.cases import case_for
from recurc.explain import to_json, to_text
from recurc.passes import make_plan
from recurc.picture.model import picture
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
    assert data["residual_bytes_per_step"] == data["residual_bytes"]["fast"] == data["residual_bytes"]["balanced"]
    assert data["residual_bytes"]["balanced"] == 8 * 16 * 4  # the states before each step
    assert data["residual_bytes"]["minimal"] == (10 + 10) * 8 * 16 * 4  # 10 segments of 10 steps
    assert {"sequential", "scan"} <= data["cost"].keys()


GROUP = {
    "states": list, "class": str, "class_in_words": str, "linear_time_invariant": bool, "schedules": list,
    "on_request": list, "refused": list, "chosen": str, "candidates": dict, "reasons": list,
    "operator": (dict, type(None)), "low_rank": (dict, type(None)), "certificate": dict,
}  # fmt: skip
WHOLE = {
    "recurrence": str, "sizes": dict, "batch": int, "steps": int, "dtype": str, "target": str, "target_figures": dict,
    "triangular": bool, "groups": list, "hoisted": list, "sunk": list, "not_causal": list, "plan": list, "memory": dict,
    "residual_bytes_per_step": (int, type(None)), "residual_bytes": (dict, type(None)), "cost": dict, "reasons": list,
}  # fmt: skip
WEIGHED = {"seconds": float, "bytes_moved": float, "flops": float, "depth": int, "reason": str, "chosen": bool}


def has(data: dict[str, Any], fields: dict[str, Any]) -> None:
    assert data.keys() == fields.keys()
    for name, kind in fields.items():
        assert isinstance(data[name], (int, float) if kind is float else kind), (name, data[name])


@pytest.mark.parametrize(
    "name", ["ema", "lstm", "gated_delta_net", "gated_delta_product", "aaren", "s4d", "kalman_filter", "dfa", "sru"]
)
def test_explain_json_is_complete_and_nothing_else_is_on_stdout(recurc: Invoke, name: str) -> None:
    got = recurc("explain", f"zoo:{name}", "--json", "-B", "2", "-T", "64")
    data = json.loads(got.out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    has(data, WHOLE)
    for group in data["groups"]:
        has(group, GROUP)
        assert group["candidates"].keys() == {*group["schedules"], *group["on_request"]}
        assert [s for s, c in group["candidates"].items() if c["chosen"]] == [group["chosen"]]
        assert (group["operator"] is not None) == ("scan" in (*group["schedules"], *group["on_request"]))
        assert (group["low_rank"] is not None) == ("chunkwise" in group["schedules"])
        if group["operator"] is not None:
            parts = group["operator"]
            assert parts["element"].keys() == parts["combine"].keys() == parts["identity"].keys()
            assert parts["apply"].keys() == {*group["states"]}
    for weighed in [*data["cost"].values(), *(c for g in data["groups"] for c in g["candidates"].values())]:
        has(weighed, WEIGHED)
    assert all({"stage", "what", "equations", "writes"} == stage.keys() for stage in data["plan"])


def test_the_operator_is_there_in_formulas(recurc: Invoke) -> None:
    (group,) = json.loads(recurc("explain", "zoo:gated_delta_net", "--json").out)["groups"]
    form = group["low_rank"]
    assert form["formulas"] == ["S = decay ∘ S[t-1] + key ⊗ (value + probe · S[t-1])"]
    assert form["where"].keys() == {"decay", "key", "probe", "value"}
    assert (form["rows"], form["columns"]) == (["K"], ["V"])
    assert form["formulas"][0] in recurc("explain", "zoo:gated_delta_net").out
    (group,) = json.loads(recurc("explain", "zoo:ema", "--json").out)["groups"]
    assert group["operator"]["combine"] == {"a": "a₂·a₁", "b": "a₂·b₁ + b₂"}
    assert group["operator"]["identity"] == {"a": "1", "b": "0"}


@pytest.mark.parametrize("columns", ["30", "60", "100", "400"])
@pytest.mark.parametrize("name", ["s4d", "gated_delta_product", "clockwork_rnn"])
def test_lines_fit_the_terminal(recurc: Invoke, monkeypatch: pytest.MonkeyPatch, columns: str, name: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = recurc("explain", f"zoo:{name}").out
    assert "Schedules weighed" in text and "depth" in text
    width = min(max(int(columns), 61), 140)
    long = [line for line in text.splitlines() if len(line) > width and len(line.split()) > 3]
    assert not [line for line in long if "·" not in line], long  # a product of long names has no place to break


def test_every_candidate_has_its_depth_and_its_reason(recurc: Invoke) -> None:
    text = recurc("explain", "zoo:s4d", "-T", "1000").out
    table = text[text.index("Schedules weighed") : text.index("Plan")].splitlines()
    for name in ("sequential", "scan", "convolution"):
        (row,) = [line for line in table if line.split()[0:1] == [name] or line.split()[1:2] == [name]]
        assert re.search(r" (B|kB|MB|GB) .*flop +[\d,]+ +limited by ", row + " " + table[table.index(row) + 1]), row
    assert "1,000" in text


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


@pytest.mark.parametrize("target", ["cpu", "sm_90"])
def test_every_system_with_few_elements_over_a_long_time_is_explained(target: str) -> None:
    """The schedules that the other tests meet least: scans of matrices and of tables among them."""
    made: set[str] = set()
    for name in zoo.names():
        rec = zoo.load(name).ir
        sizes = {d.name: 4 for d in rec.dims if d.default is None and d.same_as is None}
        case = case_for(rec, sizes, 1, 1 << 16, None, target)
        plan = make_plan(rec, case.sizes, 1, 1 << 16, case.real, case.target)
        made |= {type(stage).__name__ for stage in plan.stages}
        assert rec.name in to_text(plan, case)
        json.dumps(to_json(plan, case), allow_nan=False)
        assert picture(plan).boxes
    assert {"Scan", "Loop", "Chunk", "Map"} <= made
