"""docs/cost_model.md has the figures of the code, and the model it describes chooses well on what was measured."""

from __future__ import annotations

import re
import runpy

import recurc
from bench import choice
from recurc.passes import analyze, core_form
from recurc.passes.cost import Shape
from recurc.passes.schedule import KNOWN, choose

PAGE = choice.PAGE.read_text(encoding="utf-8")


def _between(mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", PAGE, re.DOTALL)
    assert found, f"no marks for {mark}"
    return found[1]


def test_the_figures_of_the_targets_are_those_of_the_code() -> None:
    made = runpy.run_path(str(choice.PAGE.parent / "cost_tables.py"))["table"]()
    assert _between("targets") == made, "docs/cost_model.md: `make docs`"


def test_every_schedule_has_its_formula() -> None:
    for schedule in KNOWN:
        assert re.search(rf"^\| {schedule}\b.* \| .* \| .* \|$", PAGE, re.MULTILINE), schedule


def test_the_page_has_every_system_that_was_measured_and_the_verdict() -> None:
    _, cells = choice.read(choice.KEPT.read_text(encoding="utf-8"))
    told = _between("bench:choice")
    assert choice.verdict(cells) in told
    assert choice.markdown(choice.systems_table(cells)) in told
    assert all(f"| {c.title} |" in told for c in cells if c.ratio > choice.WITHIN)


def test_the_model_chooses_well_on_what_was_measured() -> None:
    """Weighed anew for the machine of the measurement; a schedule that is newer than it has no time there."""
    target, cells = choice.read(choice.KEPT.read_text(encoding="utf-8"))
    known = {name: recurc.zoo.load(name).ir for name in {c.system for c in cells}}
    forms = {name: (core_form(rec), analyze(rec)) for name, rec in known.items()}
    good = judged = 0
    for cell in cells:
        core, analysis = forms[cell.system]
        shape = Shape(dict(cell.sizes), cell.batch, cell.steps, 4)
        chosen = "+".join(choose(core, analysis, shape, target).schedules)
        if chosen in cell.best:
            judged += 1
            good += cell.best[chosen] <= choice.WITHIN * min(cell.best.values())
    assert judged > 0.9 * len(cells), "measure anew: `python -m bench choice`"
    assert good >= choice.SHARE * judged, f"{good} of {judged}"
