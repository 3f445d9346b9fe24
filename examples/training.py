"""What the training examples share: a loop with a progress bar, and its loss as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.case import axes


@dataclass(frozen=True)
class Trained:
    """`says`: what came out, in a sentence; `losses`: after each step, by the name of what was trained."""

    title: str
    says: str
    losses: dict[str, list[float]]


def fit(parameters: Any, loss: Callable[[int], Any], steps: int, rate: float, title: str) -> list[float]:
    """Adam with a rate that falls to zero along a cosine, and gradients of at most norm 1. `loss` of a step is a scalar
    tensor; returns its values."""
    import torch
    from rich.progress import track

    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    values: list[float] = []
    for step in track(range(steps), f"training {title}"):
        optimizer.zero_grad(set_to_none=True)
        value = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        falling.step()
        values.append(float(value.detach()))
    return values


def draw(trained: Trained, path: Path) -> None:
    """The loss over the steps, smoothed over a fortieth of them."""
    figure, (panel,) = axes(trained.title)
    lowest, highest = np.inf, 0.0
    for name, values in trained.losses.items():
        width = max(1, len(values) // 40)
        smooth = np.convolve(values, np.ones(width) / width, "valid")
        lowest, highest = min(lowest, smooth.min()), max(highest, smooth.max())
        panel.plot(np.arange(len(smooth)) + width, smooth, lw=1.6, label=name)
    panel.set_yscale("log" if highest > 5 * lowest else "linear")
    panel.set_xlabel("step")
    panel.set_ylabel("loss")
    panel.legend(frameon=False)
    figure.savefig(path)


def main(train: Callable[[], Trained], picture: str) -> None:
    """What each of them does when it is run by itself: trains, says what came out, leaves a picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="where the picture goes")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    trained = train()
    draw(trained, folder / picture)
    print(f"{trained.title}: {trained.says}\n{folder / picture}")
