"""What one example is: a system of the zoo, arrays for it, and what its output says about the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Example:
    """`arrays` are inputs `(*batch, T, *dims)` and params `(*dims)` by name; `says` turns the output into a sentence;
    `draw` leaves a picture of data and output."""

    system: str  # its name in the zoo
    title: str
    arrays: dict[str, Array]
    says: Callable[[Array], str]
    draw: Callable[[Array, Path], None]
    params: tuple[str, ...] = field(default=())

    def run(self, **options: Any) -> Array:
        """Compile the system and run it on the arrays; options go to `Recurrence.compile`."""
        import recurc

        return np.asarray(recurc.zoo.load(self.system).compile(**options)(**self.arrays))


def main(example: Example) -> None:
    """What each example does when it is run by itself."""
    print(f"{example.title}: {example.says(example.run())}")


def axes(title: str, rows: int = 1, height: float = 3.4, ratios: tuple[float, ...] | None = None) -> tuple[Any, Any]:
    """A figure and its panels, one below the other, in the style of all pictures here."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(10, height * rows), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.02, ha="left")
    panels = figure.subplots(rows, 1, squeeze=False, height_ratios=ratios)[:, 0]
    for panel in panels:
        panel.grid(True, color="#e5e9ee", lw=0.7)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, panels
