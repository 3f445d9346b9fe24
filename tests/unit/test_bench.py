"""The harness measures what it says: fair turns, right counts, tables that land between their marks."""

from __future__ import annotations

import pytest

from bench.floors import count
from bench.measure import interleaved, repeated
from bench.report import kernels_table, latency_table, markdown, missed, put
from bench.rows import Row, seconds
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
    assert missed(rows).splitlines()[2:] == [
        "- c, against a loop: 4.90x, the target is 5x",
        "- m, against large copy: 50%, the target is 70%",
        "- check: 600 ms, the limit is 300 ms",
    ]
    assert missed(rows[:1]) == "Every target is met in this run."


def test_a_table_lands_between_its_marks_and_nowhere_else() -> None:
    page = "x\n<!-- bench:k -->\nold\n<!-- /bench:k -->\ny\n"
    assert put(page, "k", r"new \1") == "x\n<!-- bench:k -->\nnew \\1\n<!-- /bench:k -->\ny\n"
    with pytest.raises(ValueError, match="no marks for other"):
        put(page, "other", "new")
