"""docs/benchmarks.md answers for every number the project promises, with the command that made it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
KERNELS = {
    "affine scan B4 T2048 D512 f32": ("lax.scan", "lax.associative_scan", "large copy"),
    "selective scan B4 T2048 D512 N16 f32": ("lax.scan", "torch eager loop"),
    "Aaren B4 T4096 D64 H8 f32": ("lax.scan",),
} | {
    f"{kind} forward B{b} T{t} D{d} H{h} f32": (f"torch.nn.{kind}",)
    for kind in ("LSTM", "GRU")
    for b, t, d, h in ((1, 512, 256, 256), (32, 512, 256, 256), (64, 256, 512, 512), (8, 512, 64, 64))
}
WAITING = (
    "import recurc",
    "recurc check lstm.rec",
    *(f"analysis of {n}" for n in ("ema", "lstm", "gru", "selective_scan", "aaren")),
    *(f"C build of {n}" for n in ("ema", "lstm", "gru", "selective_scan", "aaren")),
    "a cached call",
)


def _table(name: str) -> list[list[str]]:
    found = re.search(
        rf"<!-- bench:{name} -->\n(.*?)<!-- /bench:{name} -->", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found, f"no marks for {name}"
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("case", KERNELS)
def test_every_promised_case_stands_beside_its_peers(case: str) -> None:
    rows = [row for row in _table("kernels") if row[0] == case]
    for peer in KERNELS[case]:
        assert any(peer in row[2] for row in rows), f"{case}: no row against {peer}"
    assert any(row[-1] in ("met", "not met") for row in rows), f"{case}: no row says whether its target is met"
    assert any(row[0] == case for row in _table("floors")), f"{case}: no floor"


@pytest.mark.parametrize("what", WAITING)
def test_every_promised_waiting_time_is_measured(what: str) -> None:
    rows = [row for row in _table("latency") if row[0] == what]
    assert len(rows) == 1
    assert rows[0][3] in ("met", "not met")


def test_the_page_names_the_command_and_the_machine() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "Made by `make bench` on 20" in text
    assert re.search(r"\d+ cores and all of them for every candidate", text)
    assert "GB/s" in text


def test_every_target_that_is_not_met_is_named_below_the_tables_and_no_other() -> None:
    found = re.search(
        r"<!-- bench:missed -->\n(.*?)<!-- /bench:missed -->", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found
    kernels = [f"{row[0]}, against {row[2]}: {row[4]}" for row in _table("kernels") if row[-1] == "not met"]
    waiting = [f"{row[0]}: {row[1]}" for row in _table("latency") if row[3] == "not met"]
    said = [line.removeprefix("- ").split(", the ")[0] for line in found[1].splitlines() if line.startswith("- ")]
    assert said == kernels + waiting
    assert bool(said) != ("Every target is met" in found[1])
