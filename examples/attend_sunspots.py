"""Aaren, attention as a recurrence, over every prefix of the sunspot numbers. The score of a year is its sunspot
number, its value is (the number, the year), so the output looks at the strongest year so far."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.case import Example, axes, main
from examples.data import sunspots

SHARPNESS = 0.25  # per sunspot: how much more a stronger year is looked at


def example() -> Example:
    years, spots = sunspots()

    def says(o: np.ndarray) -> str:
        strongest = years[spots.argmax()]
        return f"attention over all {len(years)} years rests on {o[-1, 1]:.0f} (the strongest year is {strongest:.0f})"

    def draw(o: np.ndarray, path: Path) -> None:
        figure, panels = axes("Softmax attention over every prefix", rows=2, height=2.6)
        panels[0].plot(years, spots, color="#9db7d1", lw=1.2, label="sunspot number")
        panels[0].plot(years, o[:, 0], color="#7c5cb8", lw=2, label="attended value: a soft running maximum")
        panels[0].set_ylim(top=260)
        panels[0].legend(frameon=False, loc="upper left")
        panels[1].plot(years, o[:, 1], color="#c2410c", lw=2, label="attended year")
        panels[1].plot(years, years, color="#cbd5e1", lw=1, ls="--", label="the year itself")
        panels[1].legend(frameon=False, loc="upper left")
        figure.savefig(path)

    arrays = {"s": SHARPNESS * spots, "v": np.stack([spots, years], axis=1)}
    return Example("aaren", "Aaren over sunspots", arrays, says, draw)


if __name__ == "__main__":
    main(example())
