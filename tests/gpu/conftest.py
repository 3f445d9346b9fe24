"""Fixtures of the GPU tests."""

from __future__ import annotations

import pytest

from recurc.runtime import choose
from tests.gpu.cuda_stand_in import OnCpu


@pytest.fixture
def on_cpu(seed: int, monkeypatch: pytest.MonkeyPatch) -> OnCpu:
    known, stand_in = choose.backend, OnCpu(seed)
    monkeypatch.setattr(choose, "backend", lambda name: stand_in if name == "cuda" else known(name))
    return stand_in
