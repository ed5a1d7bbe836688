"""What a group of workers does when it fails; Ray Train itself is played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import train
from ray.exceptions import ActorDiedError

from catsweep.errors import TrialDivergedError
from catsweep.spec.sweep import WorkerSpec
from catsweep.sweep.group import MAX_STARTS, run_group


def play(monkeypatch: pytest.MonkeyPatch, folder: Path, ends: list[dict[int, Exception] | None]) -> list[Any]:
    """Run a group whose starts end as listed, by rank (None: well); returns what was left of the list."""

    class Trainer:
        def __init__(self, *_: Any, **settings: Any) -> None:
            assert settings["scaling_config"].num_workers == 2

        def fit(self) -> None:
            if (failures := ends.pop(0)) is not None:
                raise train.WorkerGroupError("failed", failures)

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    run_group(lambda config: None, {}, WorkerSpec(num_workers=2), name="group", logs=folder)
    return ends


def test_a_group_whose_processes_died_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    died: dict[int, Exception] = {0: ActorDiedError(), 1: ActorDiedError()}
    assert play(monkeypatch, tmp_path, [died, died, None]) == []
    with pytest.raises(ActorDiedError):
        play(monkeypatch, tmp_path, [died] * MAX_STARTS)


def test_an_error_of_our_own_code_is_raised_at_once_also_where_it_took_others_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends: list[dict[int, Exception] | None] = [{0: ActorDiedError(), 1: TrialDivergedError("nan at step 3")}, None]
    with pytest.raises(TrialDivergedError, match="nan at step 3"):
        play(monkeypatch, tmp_path, ends)
    assert ends == [None]
