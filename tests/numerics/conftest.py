"""One printed seed for the whole session, so that a reference result can serve several tests."""

from __future__ import annotations

import os

import pytest

from recurc.errors import BackendError


@pytest.fixture(scope="session")
def _session_seed() -> int:
    return int(os.environ.get("RECURC_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))


@pytest.fixture
def session_seed(_session_seed: int) -> int:
    print(f"seed: RECURC_TEST_SEED={_session_seed}")
    return _session_seed


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
