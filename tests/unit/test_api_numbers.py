"""A param that is one number may be given in any way a number is written, again and again."""

from __future__ import annotations

import numpy as np
import pytest

import recurc


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.array])
def test_repeated_calls_take_each_number_anew(kind: type, dtype: str) -> None:
    f = recurc.zoo.load("ema").compile()
    x = np.ones((5, 1), dtype)
    for alpha in (0.5, 0.25, 0.125):
        assert f(x=x, alpha=kind(alpha))[0, 0] == alpha
