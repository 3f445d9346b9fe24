"""The training examples reach what docs/examples.md says they reach."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("statsmodels")
pytest.importorskip("sklearn")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "examples.md").read_text(encoding="utf-8")


def test_an_lstm_learns_to_name_digits() -> None:
    from examples.train_digits import train

    trained = train()
    (right,) = re.findall(r"([\d.]+)%", trained.says)
    losses = trained.losses["LSTM"]
    assert float(right) > 95 and losses[-1] < losses[0] / 5


def test_a_min_gru_forecasts_sunspots_better_than_as_this_year(tmp_path: Path) -> None:
    from examples.train_sunspots import train
    from examples.training import draw

    trained = train()
    ours, same = map(float, re.findall(r"(?:years|against) ([\d.]+)", trained.says))
    assert ours < same
    draw(trained, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["train_digits", "train_sunspots"])
def test_the_page_says_how_to_run_it(name: str) -> None:
    assert f"python -m examples.{name}" in PAGE
