"""Early stopping, with reports given by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_fakes import make_sweep

from catsweep.errors import StorageError
from catsweep.records import append_step, read_json
from catsweep.sweep.schedule import SweepScheduler
from catsweep.sweep.search import Search

ASHA: dict[str, Any] = {"type": "asha", "grace_period": 1, "reduction_factor": 3}


class Play:
    """A scheduler with trials whose reports the test makes up; all trials run at once."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        sweep = make_sweep(["a"], search__num_samples=40, search__scheduler=ASHA, **fields)
        self.search = Search(sweep, folder)
        self.search.ready = {"a"}
        self.scheduler = SweepScheduler(self.search)
        self.trials: dict[str, Any] = {}

    def start(self) -> str:
        spec = self.search.next()
        assert spec is not None
        trial = SimpleNamespace(trial_id=f"tune-{len(self.trials)}", config={"trial_id": spec.trial_id})
        self.trials[spec.trial_id] = trial
        self.scheduler.on_trial_add(None, trial)
        return spec.trial_id

    def report(self, trial_id: str, step: int, objective: float) -> str:
        append_step(self.search.folder / trial_id, step, {"validation/objective": objective}, 0.0)
        result = {"step": step, "objective": objective, "final": step == 9}
        return self.scheduler.on_trial_result(None, self.trials[trial_id], result)

    def end(self, trial_id: str) -> str:
        self.scheduler.on_trial_complete(None, self.trials[trial_id], {})
        return self.search.end(trial_id).status


def test_a_bad_trial_is_stopped_at_a_rung_and_a_good_one_is_not(tmp_path: Path) -> None:
    play = Play(tmp_path, space={})
    first, second, third = play.start(), play.start(), play.start()
    assert play.report(first, 1, 0.5) == "CONTINUE"
    assert play.report(second, 1, 0.6) == "CONTINUE"
    assert play.report(third, 1, 0.1) == "STOP"
    assert play.end(third) == "stopped"
    assert play.report(first, 3, 0.5) == "CONTINUE"
    assert play.report(second, 9, 0.0) == "CONTINUE"  # the last report is never stopped


def test_strata_never_stop_each_other(tmp_path: Path) -> None:
    play = Play(tmp_path)
    ids = [play.start() for _ in range(6)]
    good = [trial_id for trial_id in ids if "/xent/" in trial_id]
    bad = [trial_id for trial_id in ids if "/dist/" in trial_id]
    for position, trial_id in enumerate(good):
        assert play.report(trial_id, 1, 0.9 + position) == "CONTINUE"
    for position, trial_id in enumerate(bad):  # far worse than every xent trial, but not among themselves
        assert play.report(trial_id, 1, 0.1 + position / 100) == "CONTINUE"


def test_a_lower_cost_is_better_where_the_objective_is_a_cost(tmp_path: Path) -> None:
    play = Play(tmp_path, space={}, search__metric={"kind": "cost_at_quality", "quality": 0.5})
    first, second = play.start(), play.start()
    assert play.report(first, 1, 0.2) == "CONTINUE"
    assert play.report(second, 1, 0.9) == "STOP"


def test_confirm_runs_and_sweeps_without_a_scheduler_are_never_stopped(tmp_path: Path) -> None:
    play = Play(tmp_path, space={})
    first = play.start()
    spec = play.search.running[first].spec.model_copy(update={"role": "confirm", "seed": 1})
    play.search.running[spec.trial_id] = play.search.running[first]
    play.search.running[spec.trial_id].spec = spec
    play.trials[spec.trial_id] = SimpleNamespace(trial_id="c", config={"trial_id": spec.trial_id})
    (tmp_path / spec.trial_id).mkdir(parents=True)
    for value in (0.9, 0.0, -5.0):
        assert play.report(spec.trial_id, 1, value) == "CONTINUE"


def test_another_driver_stops_at_the_same_marks(tmp_path: Path) -> None:
    before = Play(tmp_path, space={})
    first, second, third = before.start(), before.start(), before.start()
    before.report(first, 1, 0.5)
    before.report(second, 1, 0.6)
    before.report(second, 3, 0.8)
    before.search.running[first].stopped = True
    before.end(first)
    # The driver is killed. Second and third are unfinished: second goes on behind step 3, third starts again.
    after = Play(tmp_path, space={})
    assert [after.start(), after.start()] == [second, third]
    assert after.report(third, 1, 0.4) == "STOP"
    fresh = after.start()
    assert after.report(fresh, 1, 0.61) == "CONTINUE"
    assert after.report(fresh, 3, 0.7) == "STOP"


def test_a_failure_is_not_an_objective(tmp_path: Path) -> None:
    play = Play(tmp_path, space={})
    first = play.start()
    result = {"failure": "diverged", "error": "nan", "started_at": 1.0}
    assert play.scheduler.on_trial_result(None, play.trials[first], result) == "CONTINUE"
    assert play.end(first) == "diverged"


def test_after_an_error_of_our_own_every_trial_is_stopped(tmp_path: Path) -> None:
    play = Play(tmp_path, space={})
    first = play.start()
    play.search.error = RuntimeError("disk full")
    assert play.report(first, 1, 0.5) == "STOP"
    assert not play.search.running[first].stopped


def test_a_trial_with_several_workers_gets_its_decision_through_its_folder(tmp_path: Path) -> None:
    play = Play(tmp_path, space={}, resources={"num_workers": 2})
    first, second = play.start(), play.start()
    assert play.report(first, 1, 0.5) == "CONTINUE"
    assert read_json(tmp_path / first / "decision.json") == {"step": 1, "stop": False}
    assert play.report(second, 1, 0.1) == "CONTINUE"  # Tune must not stop it: its workers end by themselves
    assert read_json(tmp_path / second / "decision.json") == {"step": 1, "stop": True}
    assert play.report(second, 1, 0.1) == "CONTINUE"  # Tune hands the last report over again when a trial ends
    assert play.end(second) == "stopped"


def test_a_process_that_got_free_goes_to_the_newest_trial_and_not_to_one_whose_process_is_starting(
    tmp_path: Path,
) -> None:
    statuses = ("RUNNING", "PENDING", "PENDING", "RUNNING")
    trials = [SimpleNamespace(status=status, config={"trial_id": f"t{i}"}) for i, status in enumerate(statuses)]
    controller = SimpleNamespace(get_live_trials=lambda: trials[::-1])  # a set, in no order
    scheduler = Play(tmp_path, space={}).scheduler
    scheduler.search.running = {f"t{i}": None for i in range(len(trials))}
    assert scheduler.choose_trial_to_run(controller) is trials[2]
    trials[1].status = trials[2].status = "RUNNING"
    assert scheduler.choose_trial_to_run(controller) is None


def test_the_next_suggestion_is_made_once_nothing_waits_and_its_failure_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, broken = Play(tmp_path, space={}).scheduler, StorageError("out of luck")

    def fail() -> None:
        raise broken

    monkeypatch.setattr(scheduler.search, "look_ahead", fail)
    trial = SimpleNamespace(status="PENDING", config={"trial_id": "t"})
    controller = SimpleNamespace(get_live_trials=lambda: {trial.status: trial}.values())
    scheduler.choose_trial_to_run(controller)
    assert scheduler.search.error is None
    trial.status = "RUNNING"
    scheduler.choose_trial_to_run(controller)
    assert scheduler.search.error is broken
