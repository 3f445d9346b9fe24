"""Temporal logic as recurrences, as searches through the past."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle


@oracle("past_time_logic", sizes={"D": 4}, p="bool:0.7", q="bool:0.2")
def past_time_logic(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    for t in range(len(xs)):
        ps, qs = np.array([x.p for x in xs[: t + 1]]), np.array([x.q for x in xs[: t + 1]])
        since = [any(qs[s, i] and ps[s + 1 :, i].all() for s in range(t + 1)) for i in range(4)]
        run = [next((n for n in range(t + 1) if not ps[t - n, i]), t + 1) for i in range(4)]
        yield ps.any(0), ps.all(0), since, ps.sum(0), run
