"""Shared by the tests of catsweep.tasks: a task from a few settings, and one cache of package pools for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catsweep.spec.task import TaskSpec

HUB = Path(__file__).parents[3] / "shared" / "data" / "hub"

MakeTask = Callable[..., TaskSpec]


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


@pytest.fixture
def make_task() -> MakeTask:
    """A generation task over columns `question` and `answer`; keywords replace its fields."""

    def make(**fields: Any) -> TaskSpec:
        settings: dict[str, Any] = {
            "task": "toy",
            "group": "toys",
            "source": {"kind": "files", "format": "jsonl", "train": "train.jsonl"},
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "exact_match"}],
        }
        if "doc_to_choice" in fields:
            settings |= {"output_type": "multiple_choice", "metric_list": [{"metric": "accuracy"}]}
        return TaskSpec.model_validate(settings | fields)

    return make
