"""Exponential moving averages of the sunspot numbers: the 11-year cycle, and the slow rise and fall below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.case import Example, axes, main
from examples.data import sunspots

HALF_LIFE = 11.0  # years, about one cycle


def example() -> Example:
    years, spots = sunspots()
    alpha = 1 - 0.5 ** (1 / HALF_LIFE)

    def says(h: np.ndarray) -> str:
        smooth = h[:, 0]
        late = slice(50, None)
        low, high = years[late][smooth[late].argmin()], years[late][smooth[late].argmax()]
        return f"the average of past cycles is lowest in {low:.0f}, the Dalton minimum, and highest in {high:.0f}"

    def draw(h: np.ndarray, path: Path) -> None:
        figure, (panel,) = axes("Sunspots per year, and their exponential moving average")
        panel.plot(years, spots, color="#9db7d1", lw=1, label="sunspot number")
        panel.plot(years, h[:, 0], color="#c2410c", lw=2, label=f"EMA, half-life {HALF_LIFE:.0f} years")
        panel.legend(frameon=False, loc="upper left")
        figure.savefig(path)

    arrays = {"x": spots[:, None], "alpha": np.array(alpha)}
    return Example("ema", "EMA of sunspots", arrays, says, draw, ("alpha",))


if __name__ == "__main__":
    main(example())
