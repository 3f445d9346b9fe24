"""A small minGRU learns to forecast next year's sunspot number from all years before it."""

from __future__ import annotations

import numpy as np

from examples.data import sunspots
from examples.training import Trained, fit, main

HIDDEN, STEPS, TRAIN = 16, 400, 220  # years that are learned from; the rest is forecast


def train(steps: int = STEPS) -> Trained:
    import torch

    import recurc

    torch.manual_seed(0)
    _, spots = sunspots()
    mean, scale = spots[:TRAIN].mean(), spots[:TRAIN].std()
    numbers = torch.as_tensor((spots - mean) / scale, dtype=torch.float32)
    lagged = torch.stack([numbers, torch.cat([numbers[:1] * 0, numbers.diff()])], 1)  # this year, and its change
    layer = recurc.zoo.load("min_gru").module(D=2, H=HIDDEN)
    readout = torch.nn.Linear(HIDDEN + 2, 1)

    def forecasts(years: int) -> torch.Tensor:
        """Of the years 1 to `years`, each from those before it: this year's number and a learned change."""
        seen = lagged[:years]
        h, _ = layer(seen)
        return seen[:, 0] + readout(torch.cat([h, seen], 1))[:, 0]

    def loss(step: int) -> torch.Tensor:
        wrong = forecasts(TRAIN - 1) - numbers[1:TRAIN]
        return wrong.square().mean() + 1e-3 * readout.weight.square().sum()

    losses = fit([*layer.parameters(), *readout.parameters()], loss, steps, 1e-2, "minGRU on sunspots")
    with torch.no_grad():
        made = forecasts(len(spots) - 1).numpy() * scale + mean
    error = np.abs(made - spots[1:])[TRAIN - 1 :].mean()
    same = np.abs(np.diff(spots))[TRAIN - 1 :].mean()
    says = f"mean error in {len(spots) - TRAIN} unseen years {error:.1f}, against {same:.1f} for 'as this year'"
    return Trained("Sunspots, a year ahead", says, {"minGRU": losses})


if __name__ == "__main__":
    main(train, "sunspots.png")
