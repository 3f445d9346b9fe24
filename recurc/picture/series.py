"""Inputs and outputs over time, with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recurc.errors import BackendError
from recurc.ir import Recurrence

_LINES = 6  # more lanes than this are drawn as an image
_COLOURS = ("#3b82c4", "#e08a1e", "#2f9e62", "#7c5cb8", "#c2410c", "#64748b")


def plot_series(
    rec: Recurrence, inputs: Mapping[str, Any], outputs: Mapping[str, Any], path: Path, time_axis: int | None = None
) -> None:
    """One panel per input and output, time to the right: few lanes as lines, many as an image. The first sequence of a
    batch is shown. Arrays are `(*batch, T, *dims)`; `time_axis` 0 means time first.

    Raises `BackendError` where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise BackendError("plotting needs matplotlib: pip install 'recurc[plot]'") from missing
    dims = {i.name: i.dims for i in rec.inputs} | {e.name: e.expr.dims for e in rec.equations}
    panels = [(n, a, "input") for n, a in inputs.items()] + [(n, a, "output") for n, a in outputs.items()]
    figure: Any = Figure(figsize=(10, 1.1 + 1.9 * len(panels)), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(rec.name, fontsize=14, fontweight="bold", x=0.02, ha="left", parse_math=False)
    axes: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, array, role) in zip(axes, panels, strict=True):
        _panel(panel, _lanes(np.asarray(array), len(dims.get(name, ())), time_axis), f"{role} {name}")
    axes[-1].set_xlabel("t")
    figure.savefig(path)


def _lanes(array: Any, rank: int, time_axis: int | None) -> Any:
    """`(T, lanes)` of the first sequence."""
    if time_axis == 0:
        array = np.moveaxis(array, 0, array.ndim - 1 - rank)
    while array.ndim > rank + 1:
        array = array[0]
    return array.reshape(array.shape[0], -1)


def _panel(axes: Any, lanes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", color="#1f2933", parse_math=False)
    if np.iscomplexobj(lanes):
        lanes = np.abs(lanes)
    if lanes.shape[1] <= _LINES:
        for k, colour in zip(range(lanes.shape[1]), _COLOURS, strict=False):
            axes.plot(lanes[:, k], lw=1.1, color=colour)
        axes.grid(True, color="#e5e9ee", lw=0.7)
    elif lanes.size:
        finite = np.abs(lanes[np.isfinite(lanes)])
        top = float(np.quantile(finite, 0.995)) if finite.size else 1.0
        low = 0.0 if lanes.min() >= 0 else -top
        axes.imshow(
            lanes.T,
            aspect="auto",
            interpolation="nearest",
            cmap="viridis" if low == 0 else "RdBu_r",
            vmin=low,
            vmax=top,
        )
        axes.set_ylabel(f"{lanes.shape[1]} lanes", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
