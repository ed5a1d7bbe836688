"""Whole sweeps of fake trials on a real Ray with two slots."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sweep_fakes import calls, make_sweep, prepare_task, run_trial

from catsweep.errors import ClusterError, StorageError, SweepChangedError
from catsweep.records import TrialRecord, read_json, read_records
from catsweep.spec.load import Sweep
from catsweep.sweep.cluster import Cluster, only_driver
from catsweep.sweep.driver import Event, SweepResult, run_sweep


def run(sweep: Sweep, root: Path, cluster: Cluster, events: list[Event] | None = None) -> SweepResult:
    recorded: list[str] = []

    def on_record(folder: Path, record: TrialRecord) -> None:
        assert (folder / "record.json").exists()
        recorded.append(record.trial_id)

    result = run_sweep(
        sweep, root=root, run_trial=run_trial, prepare_task=prepare_task,
        on_event=(events if events is not None else []).append, on_record=on_record, cluster=cluster,
    )  # fmt: skip
    assert len(recorded) == len(set(recorded))
    return result


def statuses(root: Path, role: Any = "trials") -> dict[str, str]:
    return {record.trial_id: record.status for record in read_records(root / "fake", role)}


def test_every_stratum_gets_its_budget_and_its_winner_is_confirmed(tmp_path: Path, cluster: Cluster) -> None:
    events: list[Event] = []
    result = run(make_sweep(["a", "b"]), tmp_path, cluster, events)
    counts = Counter((record.task, record.stratum, record.role) for record in result.records)
    for task in "ab":
        for stratum in ("xent", "dist"):
            assert counts[task, stratum, "trial"] == 4
            assert counts[task, stratum, "confirm"] == 2
            assert [record.seed for record in result.confirmed[task, stratum]] == [1, 2]
    assert set(statuses(tmp_path).values()) == {"finished"}
    assert events[-1].num_ended == events[-1].num_total == 24
    assert not list((tmp_path / "fake" / "logs" / "tune").glob("*"))

    events.clear()
    again = run(make_sweep(["a", "b"]), tmp_path, Cluster(tmp_path / "unused"), events)
    assert [event.kind for event in events] == ["start", "end"]
    assert again.winners == result.winners
    assert again.confirmed == result.confirmed
    assert len(calls(tmp_path, "start")) == 24


def test_trials_and_tasks_that_go_wrong_end_with_their_reason_and_the_sweep_goes_on(
    tmp_path: Path, cluster: Cluster
) -> None:
    tasks = ["diverging", "nan", "raising", "forgetful"]
    events: list[Event] = []
    result = run(make_sweep([*tasks, "broken"], space={}), tmp_path, cluster, events)
    by_id = {record.trial_id: record for record in result.records}
    bad = {task: by_id[f"trials/{task}/xent/00001"] for task in tasks}
    assert [bad[task].status for task in tasks] == ["diverged", "diverged", "failed", "failed"]
    assert bad["diverging"].error == "the training loss is nan at step 3"
    assert bad["nan"].error == "the objective is nan after step 1"
    assert "RuntimeError: out of luck" in bad["raising"].error
    assert bad["forgetful"].error == "the trial ended without a record.json"
    assert Counter(record.status for record in result.records)["finished"] == 4 * (3 + 2)
    assert {record.task for record in result.failed_trials} == {"raising", "forgetful"}
    assert set(result.winners) == {(task, "xent") for task in tasks}

    reason = "broken: train.jsonl has no column `text`"
    assert result.failed_tasks == {"broken": reason}
    assert [event.text for event in events if event.kind == "task_failed"] == [f"broken failed: {reason}"]
    assert read_json(tmp_path / "fake/prepare/broken.json")["error"] == reason
    assert read_json(tmp_path / "fake/prepare/nan.json")["facts"] == {"num_rows": 10}


def test_neither_trials_nor_late_tasks_wait_for_ever(tmp_path: Path, cluster: Cluster) -> None:
    # Two slots. `a` is ready at once, but its trials must leave the slot that `patient` still waits for; then `patient`
    # is ready only when the trials of `a` have run beside it.
    result = run(make_sweep(["a", "late", "patient"], space={}), tmp_path, cluster)
    assert result.failed_tasks == {}
    assert Counter(record.task for record in result.records) == {"a": 6, "late": 6, "patient": 6}
    begun = {task: float(at) for task, at in calls(tmp_path, "prepare")}
    done = {task: float(at) for task, at in calls(tmp_path, "prepared")}
    assert done["a"] < begun["patient"] < done["late"] + 1.0


@pytest.mark.slow
def test_a_slot_that_gets_free_late_is_used_though_its_process_takes_longer_to_start_than_a_trial_runs(
    tmp_path: Path, cluster: Cluster
) -> None:
    # `slow-patient` holds the second slot until trials of `a` have run in the first one; then its own trials take 0.5 s.
    result = run(make_sweep(["a", "slow-patient"], space={}, search__num_samples=50), tmp_path, cluster)
    assert Counter(record.task for record in result.records) == {"a": 52, "slow-patient": 52}
    processes = Counter(pid for trial_id, pid in calls(tmp_path, "start") if "slow-patient" in trial_id)
    assert len(processes) == 2, processes


@pytest.mark.slow
def test_asha_stops_trials_and_the_sweep_can_be_extended(tmp_path: Path, cluster: Cluster) -> None:
    scheduler = {"type": "asha", "grace_period": 1, "reduction_factor": 3}
    result = run(make_sweep(["a"], search__num_samples=8, search__scheduler=scheduler), tmp_path, cluster)
    for stratum in ("xent", "dist"):
        trials = [r for r in result.records if (r.role, r.stratum) == ("trial", stratum)]
        assert len(trials) == 8
        assert {r.status for r in trials} == {"finished", "stopped"}
        assert all(r.num_steps < 9 and r.objective is not None for r in trials if r.status == "stopped")
        assert all(r.num_steps == 9 for r in result.confirmed["a", stratum])
    before = statuses(tmp_path)
    extended = run(make_sweep(["a", "b"], search__num_samples=10, search__scheduler=scheduler), tmp_path, cluster)
    counts = Counter((r.task, r.stratum) for r in extended.records if r.role == "trial")
    assert counts == {(task, stratum): 10 for task in "ab" for stratum in ("xent", "dist")}
    assert before.items() <= statuses(tmp_path).items()
    ended = [trial_id for trial_id, _ in calls(tmp_path, "end")]
    assert len(ended) == len(set(ended))


def test_an_error_of_the_driver_itself_ends_the_sweep_and_leaves_its_trials_to_the_next(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(["a"], space={})
    with monkeypatch.context() as patch:
        patch.setattr(
            "catsweep.sweep.search.write_json", lambda path, value: (_ for _ in ()).throw(OSError("disk full"))
        )
        with pytest.raises(OSError, match="disk full"):
            run(sweep, tmp_path, cluster)
    assert statuses(tmp_path) == {}
    assert len(run(sweep, tmp_path, cluster).records) == 6


def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path, cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="a trial needs 3 x 1 CPUs and 0 GPUs"):
        run(make_sweep(["a"], resources={"num_workers": 3}), tmp_path, cluster)
    with only_driver(tmp_path / "fake"), pytest.raises(StorageError, match="another driver"):
        run(make_sweep(["a"]), tmp_path, cluster)
    with pytest.raises(SweepChangedError, match=r"training\.steps is 5"):
        run(make_sweep(["a"], steps=5), tmp_path, cluster)
    assert calls(tmp_path, "prepare") == []


def test_what_failed_is_tried_once_more_by_the_next_driver(tmp_path: Path, cluster: Cluster) -> None:
    sweep = make_sweep(["raising", "diverging"], space={}, search__num_samples=2, search__confirm_seeds=1)
    assert [record.trial_id for record in run(sweep, tmp_path, cluster).failed_trials] == ["trials/raising/xent/00001"]
    folder = tmp_path / "fake/trials/raising/xent/00001"
    events: list[Event] = []
    again = run(sweep, tmp_path, cluster, events)  # it fails again, and everything else is left alone
    assert [event.kind for event in events if event.kind == "trial_ended"] == ["trial_ended"]
    assert "1 runs that failed are tried again: trials/raising/xent/00001" in next(
        event.text for event in events if event.kind == "warning"
    )
    assert len(again.failed_trials) == 1
    (tmp_path / "mended").touch()
    mended = run(sweep, tmp_path, cluster)
    assert mended.failed_trials == []
    assert {path.name for path in folder.glob("record*")} == {
        "record.json", "record.failed-1.json", "record.failed-2.json",
    }  # fmt: skip
    assert statuses(tmp_path)["trials/diverging/xent/00001"] == "diverged"
    started = Counter(trial_id for trial_id, _ in calls(tmp_path, "start"))
    assert started.pop("trials/raising/xent/00001") == 3
    assert set(started.values()) == {1}


@pytest.mark.slow
def test_a_process_that_keeps_dying_fails_its_trial_after_three_starts(tmp_path: Path, cluster: Cluster) -> None:
    result = run(make_sweep(["dying"], space={}), tmp_path, cluster)
    [failed] = result.failed_trials
    assert failed.number == 1
    assert "died" in failed.error
    assert [trial_id for trial_id, _ in calls(tmp_path, "start")].count(failed.trial_id) == 3
    assert len(result.confirmed["dying", "xent"]) == 2
