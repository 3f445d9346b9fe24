"""Linear state-space models, as loops over their equations."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle, silu, softplus


@oracle("selective_scan", sizes={"D": 4, "N": 3})
def selective_scan(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    h = np.zeros((4, 3))
    for x in xs:
        y = np.zeros(4)
        for d in range(4):
            dt = softplus(x.delta[d] + p.delta_bias[d])
            h[d] = np.exp(-dt * np.exp(p.A_log[d])) * h[d] + dt * x.B * x.x[d]
            y[d] = x.C @ h[d] + p.skip[d] * x.x[d]
        yield y * silu(x.z)
