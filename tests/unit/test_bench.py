"""The harness measures what it says: fair turns, right counts, tables that land between their marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import recurc
from bench import choice
from bench.floors import count
from bench.machine import Machine
from bench.measure import interleaved, repeated
from bench.report import kernels_table, latency_table, markdown, missed, peaks_table, put
from bench.rows import Peak, Row, seconds
from recurc.passes import analyze
from recurc.runtime.machine import cpu_target
from tests.systems import ema, lstm, selective_scan


def test_every_candidate_runs_once_per_round_and_the_order_rotates() -> None:
    calls: list[str] = []
    times = interleaved({n: lambda n=n: calls.append(n) for n in "abc"}, budget=0.0, warmups=1)
    assert calls[:3] == ["a", "b", "c"]
    # an untimed and a timed call in every turn
    assert calls[3:21] == [name for name in "abcbcacab" for _ in range(2)]
    assert {t.rounds for t in times.values()} == {11}
    assert all(0 <= t.best <= t.median for t in times.values())


def test_a_short_call_is_timed_over_many() -> None:
    calls: list[int] = []
    assert 0 < repeated(lambda: calls.append(1), calls=100, rounds=3) < 1e-3
    assert len(calls) == 301


def test_bytes_and_operations_of_an_affine_recurrence() -> None:
    batch, steps, width = 3, 11, 5
    moved, flops = count(ema(), {"D": width}, batch, steps)
    assert moved == 4 * (2 * batch * steps * width + 1)
    # per element: two products and a sum; 1 - alpha once per call
    assert flops == 3 * batch * steps * width + 1


def test_a_matrix_product_counts_two_operations_per_term() -> None:
    batch, steps, d, h = 2, 7, 30, 50
    _, flops = count(lstm(), {"D": d, "H": h}, batch, steps)
    products = 2 * 4 * h * (d + h) * batch * steps
    assert products < flops < products + 200 * h * batch * steps


def test_what_reads_only_params_counts_once() -> None:
    sizes = {"D": 6, "N": 5}
    _, short = count(selective_scan(), sizes, 1, 1)
    _, long = count(selective_scan(), sizes, 1, 2)
    _, longer = count(selective_scan(), sizes, 1, 3)
    assert longer - long == long - short
    assert short > long - short


def test_a_target_is_met_when_the_ratio_reaches_it() -> None:
    assert Row("kernels", "c", 1.0, "p", 5.0, 5.0).met is True
    assert Row("kernels", "c", 1.0, "p", 4.9, 5.0).met is False
    assert Row("kernels", "c", 1.0, "p", 4.9).met is None
    assert Row("latency", "c", 0.1, "limit", 0.15, 1.0).met is True


def test_tables_say_shares_in_percent_and_times_with_units() -> None:
    share = Row("kernels", "c", 2e-3, "large copy of as many bytes", 1e-3, 0.7)
    assert kernels_table([share])[1][4:] == ["50%", "", "70%", "not met"]
    limit = Row("latency", "c", 15e-6, "limit", 20e-6, 1.0, "why")
    assert latency_table([limit])[1] == ["c", "15 µs", "20 µs", "met", "why"]
    assert seconds(3.21e-9) == "3.21 ns"
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_what_is_not_met_is_listed_with_how_far_it_is() -> None:
    rows = [
        Row("kernels", "good", 1.0, "p", 5.0, 5.0),
        Row("kernels", "c", 1.0, "a loop", 4.9, 5.0),
        Row("kernels", "free", 1.0, "p", 0.1),
        Row("kernels", "m", 2.0, "large copy", 1.0, 0.7),
        Row("latency", "check", 0.6, "limit", 0.3, 1.0),
    ]
    peaks = [Peak("step", 2_000_000, "p", 1_500_000), Peak("step", 2_000_000, "q", 2_000_000)]
    assert missed(rows, peaks).splitlines()[2:] == [
        "- c, against a loop: 4.90x, the target is 5x",
        "- m, against large copy: 50%, the target is 70%",
        "- check: 600 ms, the limit is 300 ms",
        "- memory of step, against p: 2.0 MB to 1.5",
    ]
    assert missed(rows[:1], peaks[1:]) == "Every target is met in this run."
    assert [line[-1] for line in peaks_table(peaks)[1:]] == ["not met", "met"]


def test_a_table_lands_between_its_marks_and_nowhere_else() -> None:
    page = "x\n<!-- bench:k -->\nold\n<!-- /bench:k -->\ny\n"
    assert put(page, "k", r"new \1") == "x\n<!-- bench:k -->\nnew \\1\n<!-- /bench:k -->\ny\n"
    with pytest.raises(ValueError, match="no marks for other"):
        put(page, "other", "new")


def cell(chosen: str, **best: float) -> choice.Cell:
    return choice.Cell("ema", "EA", {"D": 3}, 1, 64, chosen, best, best)


def test_a_choice_is_good_within_the_bound_and_the_share_is_of_all_cells() -> None:
    cells = [cell("scan", scan=1.3, sequential=1.0), cell("scan", scan=1.4, sequential=1.0), cell("scan", scan=0.5)]
    assert [c.ratio for c in cells] == [1.3, 1.4, 1.0] and cells[0].fastest == "sequential"
    assert choice.share(cells) == 2 / 3
    assert choice.verdict(cells).startswith("2 of 3 cells (66.7%)") and choice.verdict(cells).endswith("not met.")
    assert choice.verdict(cells[:1] * 9 + cells[1:2]).endswith(": met.")
    assert choice.systems_table(cells)[1:] == [["ema", "EA", "3", "67%", "1.40x", "scan 3"]]
    assert choice.misses_table(cells)[1:] == [["ema D3 B1 T64", "scan", "1.4 s", "sequential", "1 s", "1.40x"]]


def test_what_was_measured_is_read_as_it_was_written() -> None:
    cells = [cell("scan", scan=1.25e-5, sequential=2e-3)]
    here = Machine("a processor", 2, "AVX2", "Linux", "3.11", "cc", {}, 0.0)
    target, read = choice.read(choice.kept(cells, here, 1, 7))
    assert read == cells and target == cpu_target()


def test_a_hopeless_schedule_is_timed_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    takes = {"quick": 1e-3, "close": 2e-3, "slow": 4e-3, "long": 0.5}

    def timed(run: Callable[[], Any]) -> float:
        run()
        return takes[calls[-1]]

    monkeypatch.setattr(choice, "_timed", timed)
    best, median = choice.race({n: lambda n=n: calls.append(n) for n in takes}, budget=0.0)
    assert best == median == takes
    rounds = dict.fromkeys(takes, 1 + 2 * 3)  # the first builds it; then an untimed and a timed call in every turn
    assert {n: calls.count(n) for n in takes} == rounds | {"quick": 15, "close": 15, "long": 3}


def test_every_system_of_the_grid_has_a_choice_and_every_class_a_system() -> None:
    groups = [g for s in choice.GRID for g in analyze(recurc.zoo.load(s.name).ir).groups]
    assert all(len(choice.combinations(recurc.zoo.load(s.name))) > 1 for s in choice.GRID)
    classes = {g.cls for g in groups if len(g.schedules) > 1}
    assert classes >= {"EA", "CA", "SR1", "DR1", "GH", "DA", "BA", "SL", "CL", "OS", "MB", "ID", "AM", "SEG"}


@pytest.mark.slow
def test_a_small_grid_is_measured() -> None:
    (system,) = (s for s in choice.GRID if s.name == "lindley_queue")
    cells = choice.measure(np.random.default_rng(0), 0.1, (system,))
    assert [(c.batch, c.steps) for c in cells] == [(b, t) for b in choice.BATCHES for t in choice.STEPS]
    assert all(c.best.keys() == {"sequential", "scan"} and 0 < c.best[c.chosen] < 1 for c in cells)
