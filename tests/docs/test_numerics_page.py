"""docs/numerics.md says what its script would say now, but for the digits measured, and these are within the bounds."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.numerics.long_cases import CASES, legal
from tests.numerics.page import LENGTHS, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"
NUMBER = re.compile(r"\d\.\de[-+]\d\d \(\d\.\de[-+]\d\d\)")


def test_the_page_is_the_one_its_script_makes() -> None:
    made = page(lambda what: defaultdict(lambda: (0.0, 0.0)))
    assert NUMBER.sub("#", PAGE.read_text(encoding="utf-8")) == NUMBER.sub("#", made), "python -m tests.numerics.page"


def test_what_was_measured_is_allowed_and_was_measured() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if NUMBER.search(line)
    ]
    assert [(r[0], r[1]) for r in rows] == [(what, s) for what, case in CASES.items() for s in legal(case)]
    for what, schedule, *cells, _ in rows:
        assert len(cells) == len(LENGTHS)
        for steps, cell in zip(LENGTHS, cells, strict=True):
            largest, mean = (float(n) for n in re.findall(r"\d\.\de[-+]\d\d", cell))
            assert mean > 0 and 0 < largest <= CASES[what].room(steps), f"{what} by {schedule}, T {steps}"
