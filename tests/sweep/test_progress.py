"""What the caller of a sweep hears."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sweep_fakes import finish, finished_record, make_sweep

from catsweep.records import TrialRecord
from catsweep.sweep.progress import Event, Progress
from catsweep.sweep.search import Search


def test_events_count_all_runs_and_estimate_the_rest_from_those_that_ended(tmp_path: Path) -> None:
    search = Search(make_sweep(["a"], space={}), tmp_path)  # four trials and two confirm runs
    search.ready = {"a"}
    events: list[Event] = []
    recorded: list[Path] = []
    progress = Progress(search, events.append, lambda folder, record: recorded.append(folder))
    progress.tell("start", "hello")
    assert (events[-1].num_ended, events[-1].num_total, events[-1].eta_seconds) == (0, 6, None)
    trial = search.next()
    assert trial is not None
    progress.trial_started(trial.trial_id)
    finish(search, trial)
    progress.started_at -= 10.0  # as if it had taken ten seconds
    progress.trial_ended(search.records[0])
    assert events[-1].text.startswith("trials/a/xent/00000 finished after 9 steps: 0.9")
    assert events[-1].num_ended == 1
    assert events[-1].eta_seconds is not None
    assert 50 <= events[-1].eta_seconds < 51
    assert recorded == [tmp_path / "trials/a/xent/00000"]


def test_a_record_that_cannot_be_logged_is_a_warning(tmp_path: Path) -> None:
    def broken(folder: Path, record: TrialRecord) -> None:
        raise ConnectionError("the tracking server is down")

    search = Search(make_sweep(["a"], space={}), tmp_path)
    search.ready = {"a"}
    trial = search.next()
    assert trial is not None
    events: list[Event] = []
    record = replace(finished_record(trial, 0.5), status="failed", error="Traceback\n  File\nRuntimeError: out of luck")
    Progress(search, events.append, broken).trial_ended(record)
    assert [event.kind for event in events] == ["trial_ended", "warning"]
    assert events[0].text.endswith("(RuntimeError: out of luck)")
    assert "the tracking server is down" in events[1].text
