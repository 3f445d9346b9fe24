"""Recurrences over images and graphs, as loops over places and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle

# --- graphs -----------------------------------------------------------------------------------------------------------


def _averages(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


@oracle("graph_diffusion", sizes={"N": 5, "D": 2}, A=_averages, rate="gate")
def graph_diffusion(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((5, 2))
    for x in xs:
        h = ((1 - p.rate) * np.eye(5) + p.rate * x.A) @ h + x.x
        yield h
