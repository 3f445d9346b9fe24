"""What the elementwise operators mean: NumPy's functions, and here those that NumPy lacks.

Apart from the op table, so that checking a source, which computes nothing, need not wait for NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

_where: Callable[[Any, Any, Any], Any] = np.where


def _same(x: Any) -> Any:
    return x


def _rsqrt(x: Any) -> Any:
    return np.reciprocal(np.sqrt(x))


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return _where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _silu(x: Any) -> Any:
    return x * _sigmoid(x)


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _logsigmoid(x: Any) -> Any:
    return -_softplus(-x)


def _elu(x: Any) -> Any:
    return _where(x > 0, x, np.expm1(np.minimum(x, 0)))


_OURS: dict[str, Callable[..., Any]] = {
    "same": _same,
    "rsqrt": _rsqrt,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": _relu,
    "silu": _silu,
    "gelu": _gelu,
    "logsigmoid": _logsigmoid,
    "elu": _elu,
}


@cache
def function(name: str) -> Callable[..., Any]:
    """The function a row of the op table names: of arrays of any shape, elementwise."""
    return _OURS[name] if name in _OURS else getattr(np, name)
