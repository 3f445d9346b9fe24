"""External memories, as loops over slots and heads."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.zoo.oracle import oracle

# --- neural Turing machines -------------------------------------------------------------------------------------------


@oracle("ntm_memory", sizes={"N": 5, "W": 4}, reading="gate", writing="gate", erase="gate")
def ntm_memory(p: SimpleNamespace, xs: list[SimpleNamespace]) -> Iterator[Any]:
    M = np.zeros((5, 4))
    for x in xs:
        for n in range(5):
            for w in range(4):
                M[n, w] = M[n, w] * (1 - x.writing[n] * x.erase[w]) + x.writing[n] * x.add[w]
        yield M.T @ x.reading


# --- the differentiable neural computer -------------------------------------------------------------------------------


# --- discrete key-value memories --------------------------------------------------------------------------------------
