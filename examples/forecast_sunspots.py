"""Mamba's selective scan (S6) as a memory of the sunspot numbers: untrained, with random projections in front, it gives
features of the past from which a linear readout forecasts the next year."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.case import Example, axes, main
from examples.data import sunspots

CHANNELS, STATES = 24, 16
TRAIN = 220  # years the readout is fitted on; the rest is forecast


def example() -> Example:
    years, spots = sunspots()
    rng = np.random.default_rng(7)
    signal = (spots - spots[:TRAIN].mean()) / spots[:TRAIN].std()
    both = np.stack([signal, np.r_[0.0, np.diff(signal)]], axis=1)

    def project(width: int, scale: float) -> np.ndarray:
        return (both @ rng.standard_normal((2, width)) * scale).astype(np.float32)

    arrays = {
        "x": project(CHANNELS, 0.7),
        "delta": project(CHANNELS, 0.3),
        "B": project(STATES, 0.4) + 0.5,
        "C": project(STATES, 0.4) + 0.5,
        "z": project(CHANNELS, 0.4) + 1.0,
        "A_log": np.log(np.tile(np.arange(1, STATES + 1, dtype=np.float32), (CHANNELS, 1))),
        "skip": np.ones(CHANNELS, dtype=np.float32),
        "delta_bias": np.linspace(-4.0, 0.0, CHANNELS, dtype=np.float32),
    }

    def forecasts(y: np.ndarray) -> np.ndarray:
        """For each year from the second on, the number forecast from the years before it."""
        features = np.hstack([y, both, np.ones((len(y), 1))]).astype(np.float64)[:-1]
        train = features[: TRAIN - 1]
        gram = train.T @ train + 3.0 * np.eye(train.shape[1])
        return features @ np.linalg.solve(gram, train.T @ spots[1:TRAIN])

    def says(y: np.ndarray) -> str:
        error = np.abs(forecasts(y) - spots[1:])[TRAIN - 1 :].mean()
        same = np.abs(np.diff(spots))[TRAIN - 1 :].mean()
        return f"next year's number, unseen years: mean error {error:.1f}, against {same:.1f} for 'as this year'"

    def draw(y: np.ndarray, path: Path) -> None:
        figure, panels = axes("Forecasting next year's sunspots from the selective scan's output", rows=2, height=2.8)
        panels[0].plot(years, spots, color="#9db7d1", lw=1.2, label="sunspot number")
        panels[0].plot(
            years[TRAIN:], forecasts(y)[TRAIN - 1 :], color="#2f9e62", lw=1.6, label="forecast, unseen years"
        )
        panels[0].legend(frameon=False, loc="upper left")
        top = float(np.quantile(np.abs(y), 0.98))
        extent = (float(years[0]), float(years[-1]), float(CHANNELS), 0.0)
        panels[1].imshow(y.T, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", extent=extent, interpolation="nearest")
        panels[1].set_ylabel(f"{CHANNELS} channels of y")
        panels[1].grid(False)
        figure.savefig(path)

    params = ("A_log", "skip", "delta_bias")
    return Example("selective_scan", "S6 over sunspots", arrays, says, draw, params)


if __name__ == "__main__":
    main(example())
