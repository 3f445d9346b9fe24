"""The training examples reach what docs/examples.md says they reach."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
pytest.importorskip("statsmodels")
pytest.importorskip("sklearn")

if TYPE_CHECKING:
    from examples.training import Trained

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


def test_a_delta_rule_counts_modulo_2_if_its_steps_reach_2() -> None:
    from examples.train_parity import train

    two, one = _parity(train(300, names=("DeltaNet, steps to 2", "DeltaNet, steps to 1")))
    assert two > 95 and one < 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_counts_modulo_2_and_who_does_not_is_the_same_for_other_seeds(seed: int) -> None:
    from examples.train_parity import train

    lstm, two, one, min_gru = _parity(train(seed=seed))
    assert min(lstm, two) > 99 and max(one, min_gru) < 60


def _parity(trained: Trained) -> list[float]:
    return [float(share) for share in re.findall(r"([\d.]+)%", trained.says)]


def test_runs_of_characters_are_counted_by_witten_and_bell() -> None:
    from examples.train_characters import counted

    alone = (1 + 2 * 1 / 2) / (4 + 2)  # "b" in "aaba": one of four, two kinds of which the rest is shared
    after = (1 + 2 * alone) / (2 + 2)  # after "a": one of two, two kinds
    assert counted("aaba", "b", 1) == pytest.approx(-math.log2(alone))
    assert counted("aaba", "b", 2) == pytest.approx(-math.log2(after))
    again = (0 + 1 * alone) / (1 + 1)  # after "b": none of one, one kind
    assert counted("aaba", "bb", 2) == pytest.approx(-(math.log2(after) + math.log2(again)) / 2)


@pytest.mark.parametrize("name", ["LSTM", "minGRU", "Mamba", "Gated DeltaNet", "Titans"])
def test_a_text_in_two_pieces_with_carried_states_is_the_text_in_one(name: str, seed: int) -> None:
    import torch

    from examples.train_characters import LAYERS, Characters

    torch.manual_seed(seed)
    net = Characters(7, LAYERS[name]()).double()
    text = torch.randint(7, (3, 21))
    with torch.no_grad():
        whole, final = net(text)
        first, states = net(text[:, :8])
        second, last = net(text[:, 8:], states)
    # Two ways to go through 21 steps of contracting states: some hundred roundings of numbers around 1.
    assert (torch.cat([first, second], 1) - whole).abs().max() < 1e-11
    assert all((last[n] - final[n]).abs().max() < 1e-11 * final[n].abs().max().clamp(min=1) for n in final)
    assert (net(text[:, 8:])[0] - second).abs().max() > 1e-3  # the states matter


def test_characters_are_guessed_better_than_by_counting_pairs() -> None:
    from examples.train_characters import train

    found = _characters(train(80, names=("LSTM", "minGRU")))
    assert max(found["LSTM"], found["minGRU"]) < found["2 characters"]


@pytest.mark.slow
def test_all_five_guess_characters_better_than_by_counting_triples() -> None:
    from examples.train_characters import LAYERS, train

    found = _characters(train())
    assert max(found[name] for name in LAYERS) < found["3 characters"]


def _characters(trained: Trained) -> dict[str, float]:
    says = trained.says.split("\n")[0]
    return {name.strip(): float(v) for name, v in re.findall(r"(?:: |, |of )([A-Za-z0-9 ]+?) ([\d.]+)(?=,|;|$)", says)}


@pytest.mark.parametrize("name", ["train_characters", "train_digits", "train_parity", "train_sunspots"])
def test_the_page_says_how_to_run_it(name: str) -> None:
    assert f"python -m examples.{name}" in PAGE
