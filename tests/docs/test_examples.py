"""The examples find in the data what they say they find."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("statsmodels")
pytest.importorskip("sklearn")

ROOT = Path(__file__).resolve().parents[2]


def test_the_smoothed_sunspots_are_the_weighted_mean_of_the_past() -> None:
    from examples.data import sunspots
    from examples.smooth_sunspots import HALF_LIFE, example

    _, spots = sunspots()
    decay = 0.5 ** (1 / HALF_LIFE)
    weights = (1 - decay) * decay ** np.arange(len(spots))[::-1]
    np.testing.assert_allclose(example().run(backend="numpy")[-1, 0], weights @ spots, rtol=1e-10)


def test_attention_over_a_prefix_is_softmax_attention() -> None:
    from examples.attend_sunspots import SHARPNESS, example
    from examples.data import sunspots

    years, spots = sunspots()
    o = example().run(backend="numpy")
    for t in (0, 17, len(years) - 1):
        weights = np.exp(SHARPNESS * (spots[: t + 1] - spots[: t + 1].max()))
        np.testing.assert_allclose(o[t], weights @ np.stack([spots, years], 1)[: t + 1] / weights.sum(), rtol=1e-9)


@pytest.mark.parametrize("system", ["lstm", "gru"])
def test_an_untrained_cell_keeps_enough_of_a_digit_to_name_it(system: str) -> None:
    from examples.read_digits import example

    case = example(system)
    (share,) = re.findall(r"([\d.]+)%", case.says(case.run(backend="numpy")))
    assert float(share) > 80, "a linear readout of the pixels of the last row alone gets about 44%"


def test_the_forecast_beats_next_year_is_as_this_year() -> None:
    from examples.forecast_sunspots import example

    case = example()
    ours, naive = map(float, re.findall(r"(?:error|against) ([\d.]+)", case.says(case.run(backend="numpy"))))
    assert ours < naive


def test_an_example_runs_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.smooth_sunspots"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("EMA of sunspots: ")


@pytest.mark.slow
def test_the_demo_leaves_a_table_pictures_and_kernels(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not written" not in done.stdout
    for system in ("ema", "lstm", "gru", "selective_scan", "aaren"):
        assert (tmp_path / "graphs" / f"{system}.svg").stat().st_size > 1000
        assert (tmp_path / "data" / f"{system}.png").stat().st_size > 1000
        for target in ("numpy", "cpu", "triton", "cuda"):
            assert (tmp_path / "kernels" / target / system / "manifest.json").exists()
