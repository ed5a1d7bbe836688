"""Shared by the tests of catsweep.tasks: a task from a few settings, and one cache of package pools for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

HUB = Path(__file__).parents[3] / "shared" / "data" / "hub"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches: dictionaries are read once in a test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def hub_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Real rows of public datasets in the hub's layout; skips where they are absent."""
    if not HUB.is_dir():
        pytest.skip(f"{HUB} is absent")
    monkeypatch.setenv("CATSWEEP_DATA", str(HUB))
    return HUB
