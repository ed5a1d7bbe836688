"""The course of a sweep without Ray: trials are taken in turn and end as the test says."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import DAMAGES
from sweep_fakes import SPACE, check_counts, finish, finished_record, make_sweep, play, score

from catsweep.damage import set_aside_damaged
from catsweep.errors import StorageError
from catsweep.records import read_record, write_json, write_record
from catsweep.space import build_confirm
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import TrialSpec
from catsweep.sweep.changes import check_unchanged
from catsweep.sweep.search import Search
from catsweep.sweep.studies import suggest
from catsweep.sweep.trainable import _failure


def open_search(sweep: Sweep, folder: Path) -> Search:
    search = Search(sweep, folder)
    search.ready = {task.task for task in sweep.tasks}
    return search


def test_runs_that_are_left_are_counted_anew_with_every_record(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a", "b"]), tmp_path)
    while (trial := search.next()) is not None:
        check_counts(search)
        finish(search, trial)
        check_counts(search)
    assert search.num_remaining == 0
    again = open_search(make_sweep(["a", "b"], search__num_samples=6), tmp_path)
    assert again.num_remaining == 4 * (2 + 2)  # of four studies two more trials, and both confirm runs of whoever wins
    check_counts(again)


def test_equal_budgets_and_at_most_a_quarter_in_flight(tmp_path: Path) -> None:
    sweep = make_sweep(["a", "b"], search__num_samples=12)
    search = open_search(sweep, tmp_path)
    first = [search.next() for _ in range(20)]
    counts = Counter((trial.task.task, trial.stratum) for trial in first if trial is not None)
    assert set(counts.values()) == {3}  # 12 // 4
    assert len(counts) == 4
    for trial in first:
        if trial is not None:
            finish(search, trial)
    play(search, slots=5)
    assert search.finished
    assert search.num_remaining == 0
    assert search.num_runs == len(search.records) == 4 * (12 + 2)
    counts = Counter((record.task, record.stratum, record.role) for record in search.records)
    assert set(counts.values()) == {12, 2}


def test_the_confirmation_repeats_the_winner_with_new_seeds_once_all_trials_ended(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"]), tmp_path)
    order = play(search)
    for study in search.studies.values():
        mine = [trial for trial in order if trial.stratum == study.stratum]
        assert [trial.role for trial in mine] == ["trial"] * 4 + ["confirm"] * 2
        best = max(mine[:4], key=lambda trial: score(trial, 9))
        assert {(trial.number, trial.seed) for trial in mine[4:]} == {(best.number, 1), (best.number, 2)}
        assert all(trial.training == best.training for trial in mine[4:])


def test_a_search_that_was_cut_off_goes_on_with_the_same_suggestions(tmp_path: Path) -> None:
    # One slot fixes the order of results; more than eight trials, so that the estimator has its say.
    sweep = make_sweep(["a"], search__num_samples=14)
    whole = {trial.trial_id: trial.parameters for trial in play(open_search(sweep, tmp_path / "whole"), slots=1)}
    parts: list[TrialSpec] = []
    while not (search := open_search(sweep, tmp_path / "parts")).finished:
        parts += play(search, slots=1, limit=5)
        search.next()  # given out, but its driver is killed before it ends
    assert {trial.trial_id: trial.parameters for trial in parts} == whole
    assert len(parts) == len(whole) == 2 * (14 + 2)


def test_a_suggestion_is_ready_before_a_slot_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def noting(tree: Any, sampler: Any, objectives: Any, task: str, number: int, *rest: Any) -> Any:
        asked.append((task, number))
        return suggest(tree, sampler, objectives, task, number, *rest)

    sweep = make_sweep(["a", "b", "c"], search__num_samples=14, space={"learning_rate": SPACE["learning_rate"]})
    whole = {trial.trial_id: trial.parameters for trial in play(open_search(sweep, tmp_path / "whole"), slots=1)}
    monkeypatch.setattr("catsweep.sweep.search.suggest", noting)
    search = open_search(sweep, tmp_path / "ahead")
    running = [search.next(), search.next()]
    while (ended := running.pop(0)) is not None:
        search.look_ahead()
        asked.clear()
        search.look_ahead()  # nothing new to see
        finish(search, ended)
        running.append(trial := search.next())
        anew = [(trial.task.task, trial.number)] if trial and trial.role == "trial" else []
        assert asked == (anew if trial and trial.task == ended.task else [])
    assert {record.trial_id: dict(record.parameters) for record in search.records} == whole


def test_a_suggestion_that_was_made_ahead_knows_a_result_that_came_since(tmp_path: Path) -> None:
    sweep = make_sweep(["a"], search__num_samples=14, space={"learning_rate": SPACE["learning_rate"]})
    ahead, plain = open_search(sweep, tmp_path / "ahead"), open_search(sweep, tmp_path / "plain")
    for search in (ahead, plain):
        running = [search.next(), search.next()]
        while (ended := running.pop(0)) is not None:
            for study in search.studies.values() if search is ahead else ():
                study.look_ahead()  # a search looks ahead for a study of its own that runs less
            finish(search, ended)
            running.append(search.next())
    assert [record.parameters for record in ahead.records] == [record.parameters for record in plain.records]


def test_unfinished_trials_come_first(tmp_path: Path) -> None:
    sweep = make_sweep(["a"])
    cut = open_search(sweep, tmp_path)
    given = [cut.next() for _ in range(3)]
    assert given[0] is not None
    finish(cut, given[0])
    again = open_search(sweep, tmp_path)
    assert {trial.trial_id for _ in range(2) if (trial := again.next())} == {t.trial_id for t in given[1:] if t}


def test_extending_adds_to_every_stratum_and_confirms_only_a_new_winner(tmp_path: Path) -> None:
    play(open_search(make_sweep(["a"]), tmp_path))
    search = open_search(make_sweep(["a"], search__num_samples=8), tmp_path)
    assert search.num_remaining == 2 * (4 + 2)
    added = [trial for _ in range(4) if (trial := search.next())]
    assert {trial.number for trial in added} == {4, 5}
    for trial in added:  # all of xent's new trials lose; one of dist's wins
        finish(search, trial, 99.0 if (trial.stratum, trial.number) == ("dist", 5) else -99.0)
    while (trial := search.next()) is not None:
        finish(search, trial, -99.0)
        added.append(trial)
    counts = Counter((trial.stratum, trial.role) for trial in added)
    assert counts == {("xent", "trial"): 4, ("dist", "trial"): 4, ("dist", "confirm"): 2}
    assert search.finished
    assert search.num_remaining == 0
    assert all(trial.number == 5 for trial in added if trial.role == "confirm")


def test_more_confirm_seeds_add_runs_of_the_same_winner(tmp_path: Path) -> None:
    play(open_search(make_sweep(["a"]), tmp_path))
    added = play(open_search(make_sweep(["a"], search__confirm_seeds=3), tmp_path))
    assert {(trial.role, trial.stratum, trial.seed) for trial in added} == {
        ("confirm", "xent", 3), ("confirm", "dist", 3),
    }  # fmt: skip


def test_a_stopped_trial_informs_the_sampler_but_cannot_win(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}, search__num_samples=2), tmp_path)
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    search.heard(first.trial_id, {"step": 3, "objective": 0.9, "final": False, "validation/quality": 0.8})
    search.running[first.trial_id].stopped = True
    record = search.end(first.trial_id)
    assert (record.status, record.num_steps, record.objective) == ("stopped", 3, 0.9)
    assert record.metrics == {"validation/quality": 0.8}
    assert record == read_record(tmp_path / first.trial_id)
    study = search.studies["a", "xent"]
    assert [item.value for item in study._history()] == [0.9, None]
    finish(search, second, 0.1)
    assert study.winner == second


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_trial_that_failed_counts_as_tried_and_is_left_out_of_the_history(tmp_path: Path, status: str) -> None:
    search = open_search(make_sweep(["a"], space={}, search__num_samples=1), tmp_path)
    trial = search.next()
    assert trial is not None
    search.heard(trial.trial_id, {"step": 3, "objective": 0.9, "final": False})
    search.heard(trial.trial_id, {"failure": status, "error": "Traceback\nout of luck", "started_at": 5.0})
    record = search.end(trial.trial_id)
    assert (record.status, record.error, record.num_steps) == (status, "Traceback\nout of luck", 3)
    assert search.studies["a", "xent"]._history() == []
    assert search.finished  # no winner, so nothing to confirm
    assert Search(make_sweep(["a"], space={}, search__num_samples=1), tmp_path).finished


def test_only_failed_runs_that_the_sweep_still_wants_are_tried_again(tmp_path: Path) -> None:
    sweep = make_sweep(["a"], space={}, search__num_samples=3, search__confirm_seeds=2)
    search = open_search(sweep, tmp_path)
    play(search, limit=3)
    confirm = [trial for trial in (search.next(), search.next()) if trial is not None]
    finish(search, confirm[0])
    search.heard(confirm[1].trial_id, {"failure": "failed", "error": "out of luck"})
    assert search.end(confirm[1].trial_id).status == "failed"
    former = build_confirm(
        next(t for t in search.studies["a", "xent"].trials.values() if t.number != confirm[0].number), 0
    )
    for trial in (former, build_confirm(confirm[0], 7)):  # of no winner, and of a seed that nobody asks for
        write_record(tmp_path / trial.trial_id, replace(finished_record(trial, 0.1), status="failed"))
        write_json(tmp_path / trial.trial_id / "spec.json", trial.to_json())
    again = open_search(sweep, tmp_path)
    assert again.finished
    assert [record.trial_id for record in again.retry_failed()] == [confirm[1].trial_id]
    assert again.num_remaining == 1
    assert [trial.trial_id for trial in play(again)] == [confirm[1].trial_id]
    assert (tmp_path / confirm[1].trial_id / "record.failed-1.json").exists()
    check_counts(again)
    assert again.retry_failed() == []


def test_a_process_that_died_fails_its_trial_with_the_reason(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}), tmp_path)
    trial = search.next()
    assert trial is not None
    search.running[trial.trial_id].death = "the actor died"
    assert search.end(trial.trial_id).error == "the actor died"


def test_a_record_on_storage_wins_over_what_the_driver_heard(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}), tmp_path)
    trial = search.next()
    assert trial is not None
    search.running[trial.trial_id].stopped = True
    write_record(tmp_path / trial.trial_id, finished_record(trial, 0.7))
    assert search.end(trial.trial_id).status == "finished"


def test_tasks_wait_until_they_are_ready_and_failed_ones_are_left_out(tmp_path: Path) -> None:
    search = Search(make_sweep(["a", "b"], space={}), tmp_path)
    assert search.next() is None
    assert not search.finished
    search.ready.add("b")
    search.failed_tasks["a"] = "no data"
    assert {trial.task.task for trial in play(search)} == {"b"}
    assert search.finished
    assert [task.task for task in search.unfinished_tasks] == ["a"]


def test_a_late_task_catches_up(tmp_path: Path) -> None:
    search = Search(make_sweep(["a", "b"], space={}, search__num_samples=20), tmp_path)
    search.ready.add("a")
    play(search, limit=10)
    search.ready.add("b")
    assert {trial.task.task for trial in play(search, limit=5, slots=1)} == {"b"}


def test_a_trial_spec_of_another_version_is_refused(tmp_path: Path) -> None:
    play(open_search(make_sweep(["a"], space={}), tmp_path))
    path = tmp_path / "trials/a/xent/00000/spec.json"
    path.write_text(path.read_text().replace('"number"', '"numero"'))
    with pytest.raises(StorageError, match="written by another version"):
        Search(make_sweep(["a"], space={}), tmp_path)


def test_equal_objectives_go_to_the_lower_number_and_min_objectives_to_the_lower_value(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}, search__num_samples=3), tmp_path)
    values = {0: 0.5, 1: 0.7, 2: 0.7}
    for _ in range(3):
        trial = search.next()
        assert trial is not None
        finish(search, trial, values[trial.number])
    winner = search.studies["a", "xent"].winner
    assert winner is not None
    assert winner.number == 1

    metric: dict[str, Any] = {"kind": "cost_at_quality", "quality": 0.5}
    lower = Search(make_sweep(["a"], space={}, search__num_samples=3, search__metric=metric), tmp_path)
    lowest = lower.studies["a", "xent"].winner
    assert lowest is not None
    assert lowest.number == 0


def test_a_large_search_is_quick_to_ask(tmp_path: Path) -> None:
    search = open_search(make_sweep([f"t{i}" for i in range(50)], search__num_samples=24), tmp_path)
    while (trial := search.next()) is not None:
        record = replace(finished_record(trial, 0.5), status="stopped")
        write_record(tmp_path / trial.trial_id, record)
        search.end(trial.trial_id)
        if len(search.records) >= 400:
            break
    started = time.perf_counter()
    for _ in range(10):
        assert not search.finished
        assert search.num_remaining
    assert (time.perf_counter() - started) / 10 < 0.05


def test_a_full_disk_ends_the_sweep_and_leaves_its_trials_to_the_next(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}), tmp_path)
    trial = search.next()
    assert trial is not None
    error = OSError(errno.ENOSPC, "No space left on device")
    search.heard(trial.trial_id, _failure(error))
    with pytest.raises(StorageError, match=r"00000 could not write its files.*No space left.*clean NAME"):
        raise search.error or error
    assert open_search(make_sweep(["a"], space={}), tmp_path).next() == trial


def test_a_trial_without_memory_says_what_to_lower_and_the_sweep_goes_on(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}), tmp_path)
    trial = search.next()
    assert trial is not None
    search.heard(trial.trial_id, _failure(MemoryError()))
    record = search.end(trial.trial_id)
    assert record.status == "failed"
    assert record.error.splitlines()[-1].startswith("out of memory; lower training.micro_batch_size")
    assert search.error is None
    assert search.next() is not None


def test_a_trial_that_hung_says_so(tmp_path: Path) -> None:
    search = open_search(make_sweep(["a"], space={}), tmp_path)
    trial = search.next()
    assert trial is not None
    (tmp_path / trial.trial_id / "hang.txt").write_text("Thread 0x1 (most recent call first):")
    search.running[trial.trial_id].death = "the actor died"
    error = search.end(trial.trial_id).error
    assert error.startswith("the actor died\nthe run wrote nothing for resources.hang_minutes")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_was_damaged_on_storage_runs_again_and_no_other(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    sweep = make_sweep(["a"])
    whole = {trial.trial_id for trial in play(open_search(sweep, tmp_path))}
    [victim] = [name for name in whole if name.startswith("trials/a/dist/00002")]
    before = read_record(tmp_path / victim)
    damage(tmp_path / victim / "record.json")
    assert set_aside_damaged(tmp_path) == [tmp_path / victim]
    again = play(open_search(sweep, tmp_path))
    assert [trial.trial_id for trial in again] == [victim]
    assert read_record(tmp_path / victim) == before


def test_an_added_task_and_an_added_stratum_run_alone(tmp_path: Path) -> None:
    play(open_search(make_sweep(["a"]), tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    options = [*SPACE["loss"]["options"], {"kind": "cat_xent"}]  # type: ignore[index]
    wider = make_sweep(["a", "b"], space={**SPACE, "loss": {"space": "choice", "options": options}})
    check_unchanged(wider, tmp_path)
    added = play(open_search(wider, tmp_path))
    counts = Counter((trial.task.task, trial.stratum, trial.role) for trial in added)
    new = [("a", "cat_xent"), ("b", "xent"), ("b", "dist"), ("b", "cat_xent")]
    assert counts == {(*pair, role): number for pair in new for role, number in (("trial", 4), ("confirm", 2))}
    assert all(path.read_bytes() == data for path, data in before.items())
