"""The backends that the numeric tests run on."""

from __future__ import annotations

import pytest

from recurc.errors import BackendError


@pytest.fixture(params=["numpy", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend that runs on a CPU; skipped with its own words where this machine cannot."""
    name = str(request.param)
    if name == "cpu":
        try:
            from recurc.backends.cpu import BACKEND
        except ImportError as missing:
            raise BackendError("the cpu backend is missing from the package") from missing
        reason = BACKEND.unavailable()
        if reason:
            pytest.skip(reason)
    return name
