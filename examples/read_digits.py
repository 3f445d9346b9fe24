"""An LSTM and a GRU read handwritten digits, one row of pixels per step. Their weights are the untrained ones of the
initialisers; only a linear readout of the last state is fitted, so what it can tell is what the recurrence kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from examples.case import Example, axes, main
from examples.data import digits

HIDDEN = 128
TRAIN = 1200
GAIN = 3.0  # larger weights than the initialisers' make the untrained states differ more between digits


def example(system: str) -> Example:
    import recurc

    images, labels = digits()
    fresh = recurc.zoo.load(system).init_params(rng=0, D=8, H=HIDDEN)
    params = {name: np.asarray(value, dtype=np.float32) * GAIN for name, value in fresh.items()}

    def predictions(h: np.ndarray) -> np.ndarray:
        """Ridge regression onto the ten digits, from the state after the last row."""
        features = np.hstack([h[:, -1], np.ones((len(h), 1))]).astype(np.float64)
        train = features[:TRAIN]
        wanted = np.eye(10)[labels[:TRAIN]]
        weights = np.linalg.solve(train.T @ train + 1e-1 * np.eye(train.shape[1]), train.T @ wanted)
        return (features[TRAIN:] @ weights).argmax(axis=1)

    def says(h: np.ndarray) -> str:
        right = (predictions(h) == labels[TRAIN:]).mean()
        return f"a linear readout of the last state names {right:.1%} of {len(labels) - TRAIN} unseen digits"

    def draw(h: np.ndarray, path: Path) -> None:
        title = f"{system.upper()}: the rows of each digit, and the state after each row (difference from the mean)"
        figure, panels = axes(title, rows=2, height=2.4, ratios=(1, 3))
        shown = 12
        ticks = np.arange(shown) * 8 + 3.5, [str(n) for n in labels[:shown]]
        strip = images[:shown].transpose(1, 0, 2).reshape(8, -1)
        panels[0].imshow(strip, cmap="gray_r", aspect="auto")
        panels[0].set_yticks([])
        panels[0].set_xticks([])
        states = (h - h.mean(axis=0))[:shown].transpose(2, 0, 1).reshape(h.shape[2], -1)
        top = float(np.quantile(np.abs(states), 0.99))
        panels[1].imshow(states[:48], cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto", interpolation="nearest")
        panels[1].set_xticks(*ticks)
        panels[1].set_ylabel(f"48 of {h.shape[2]} units of h")
        for panel in panels:
            panel.grid(False)
        figure.savefig(path)

    arrays = {"x": images.astype(np.float32), **params}
    return Example(system, f"{system.upper()} over digit rows", arrays, says, draw, tuple(params))


if __name__ == "__main__":
    for name in ("lstm", "gru"):
        main(example(name))
