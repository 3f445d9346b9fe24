"""recurc as its users call it: load, compile for the CPU, call with arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import recurc


def system(name: str) -> Any:
    """A recurrence of the zoo."""
    return recurc.zoo.load(name)


def call(rec: Any, arrays: Mapping[str, np.ndarray], **options: Any) -> Callable[[], np.ndarray]:
    """A call of the compiled recurrence, warm: built, specialised and cached."""
    compiled = rec.compile(backend="cpu", **options)
    compiled(**arrays)
    return lambda: compiled(**arrays)


def check_against(ours: np.ndarray, peer: Any, case: str, tolerance: float = 2e-4) -> None:
    """A fast wrong answer is no result: both must agree, relative to the largest value. Raises `AssertionError`."""
    expected = np.asarray(peer, dtype=np.float64)
    error = float(np.max(np.abs(np.asarray(ours, dtype=np.float64) - expected)) / (np.max(np.abs(expected)) + 1e-30))
    assert error < tolerance, f"{case}: recurc and the peer differ by {error:.2e} of the largest value"
