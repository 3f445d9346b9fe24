"""Classical recurrences of signal processing and control, as loops over their definitions."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


@oracle("diagonal_affine", sizes={"D": 4}, a="gate")
def diagonal_affine(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros(4)
    for x in xs:
        h = np.diag(x.a) @ h + x.b
        yield h


@oracle("ema", sizes={"D": 4}, alpha="gate")
def ema(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        yield sum(p.alpha * (1 - p.alpha) ** (t - s) * x.x for s, x in enumerate(xs[: t + 1]))
