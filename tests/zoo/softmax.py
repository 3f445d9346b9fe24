"""Softmax as a recurrence, as loops over the definitions."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


@oracle("aaren", sizes={"D": 4})
def aaren(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        weights = np.exp([x.s for x in xs[: t + 1]])
        yield sum(w * x.v for w, x in zip(weights, xs, strict=False)) / weights.sum()
