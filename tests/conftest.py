"""What every test may ask for: a fresh seed that is printed, golden files, and an order that puts fast tests first."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
_ORDER = ("unit", "good", "bad", "golden", "cli", "docs", "property", "numerics", "zoo", "gpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write the golden files instead of comparing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast folders first, so that a mistake shows early."""
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(root).parts[0] if item.path.is_relative_to(root) else ""
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=rank)


@pytest.fixture
def seed() -> int:
    """A fresh seed, printed so that a failure can be repeated with RECURC_TEST_SEED."""
    value = int(os.environ.get("RECURC_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
    print(f"seed: RECURC_TEST_SEED={value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def _session_seed() -> int:
    return int(os.environ.get("RECURC_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))


@pytest.fixture
def session_seed(_session_seed: int) -> int:
    """One printed seed for the whole session, so that a reference result can serve several tests."""
    print(f"seed: RECURC_TEST_SEED={_session_seed}")
    return _session_seed


class Goldens:
    """Compares a text with `tests/golden/NAME`; `pytest --update-goldens` writes it."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, name: str, text: str) -> None:
        path = GOLDEN / name
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"no golden file {name}; `pytest --update-goldens` writes it"
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; `pytest --update-goldens` if that is meant"


@pytest.fixture
def goldens(request: pytest.FixtureRequest) -> Goldens:
    return Goldens(update=bool(request.config.getoption("--update-goldens")))
