"""Runs on a real SQLite store: what is written, that nothing is doubled, and what happens when it cannot be written."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import NUM_ROWS, ONE_TASK, START, copy_sweep

from catsweep import tracking
from catsweep.cli.track import track_command
from catsweep.curves import results_on_storage
from catsweep.errors import CatsweepError, StorageError
from catsweep.records import read_json, read_record, read_records, write_json, write_record
from catsweep.report.runs import Point
from catsweep.tracking import Tracker, default_tracking_uri, prepare_store

TASK = "langid/nordic"
DEAD = "http://me:hunter2@127.0.0.1:9"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an empty store."""
    folder = tmp_path_factory.mktemp("store") / "new"
    prepare_store(default_tracking_uri(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path, store: Path) -> Path:
    """A root with a finished sweep and an empty store."""
    shutil.copy(store / "mlflow.db", tmp_path)
    return copy_sweep(tmp_path, ONE_TASK)


@pytest.fixture(scope="module")
def written(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose sweep has been written twice, for tests that only look."""
    folder = tmp_path_factory.mktemp("written")
    shutil.copy(store / "mlflow.db", folder)
    copy_sweep(folder, ONE_TASK)
    assert write(folder)
    before = {key: run.to_dictionary() for key, run in runs(folder).items()}
    assert write(folder)
    assert before == {key: run.to_dictionary() for key, run in runs(folder).items()}
    return folder


def fail(problem: str) -> None:
    raise AssertionError(problem)


def write(root: Path, on_problem: Callable[[str], None] = fail, *, uri: str | None = None) -> bool:
    """Write the whole sweep from what lies on storage; whether all of it was written."""
    uri = uri or default_tracking_uri(root)
    prepare_store(uri)
    tracker = Tracker(uri, root, "tiny", on_problem)
    tracker.complete = False  # nothing of it is known to be written
    tracker.log_sweep("finished" if (root / "tiny" / "curves" / "summary.json").exists() else "stopped")
    return tracker.complete


def client(root: Path) -> Any:
    return tracking.MlflowClient(default_tracking_uri(root))


def runs(root: Path) -> dict[str, Any]:
    """Runs by trial_id; fails where one stands twice."""
    experiment = client(root).get_experiment_by_name("catsweep/tiny")
    found = client(root).search_runs([experiment.experiment_id], max_results=1000)
    keys = Counter(run.data.tags["catsweep.trial_id"] for run in found)
    assert set(keys.values()) == {1}, keys
    return {run.data.tags["catsweep.trial_id"]: run for run in found}


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "file:mlruns", "/tmp/mlruns", "mlruns"])
def test_a_folder_is_refused_with_the_way_to_take_it_over(uri: str) -> None:
    with pytest.raises(CatsweepError, match="mlflow migrate-filestore"):
        prepare_store(uri)


def test_a_server_is_not_contacted_before_there_is_something_to_write() -> None:
    prepare_store(DEAD)
    tracker = Tracker(DEAD, Path("/nowhere"), "tiny", fail)
    assert tracker.complete


def test_a_store_is_made_once_and_quietly(store: Path) -> None:
    assert [path.name for path in store.iterdir()] == ["mlflow.db"]
    before = (store / "mlflow.db").stat()
    prepare_store(default_tracking_uri(store))
    assert (store / "mlflow.db").stat().st_ino == before.st_ino
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)
    assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(CatsweepError, match=r"mlflow\.db is no usable MLflow database.*move it away"):
        prepare_store(default_tracking_uri(tmp_path))


@pytest.mark.slow
def test_a_store_that_cannot_be_migrated_is_kept_as_it_was(root: Path) -> None:
    with sqlite3.connect(root / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = 'unknown'")
    before = (root / "mlflow.db").read_bytes()
    with pytest.raises(CatsweepError, match="could not be migrated"):
        prepare_store(default_tracking_uri(root))
    assert (root / "mlflow.db.before-upgrade").read_bytes() == before


def test_every_run_is_written_once_with_its_end_and_its_role(written: Path) -> None:
    found = runs(written)
    counts = Counter((run.data.tags["catsweep.role"], run.info.status) for run in found.values())
    assert counts == {
        ("sweep", "FINISHED"): 1,
        ("winner", "FINISHED"): 2,
        ("trial", "FINISHED"): 3,
        ("trial", "KILLED"): 2,
        ("trial", "FAILED"): 1,
        ("confirm", "FINISHED"): 4,
        ("curves", "FINISHED"): 2,
    }
    parent = found.pop("sweep")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}


def test_a_run_keeps_its_times_settings_and_metrics_by_step(written: Path) -> None:
    run = runs(written)[f"trials/{TASK}/cat_xent+either/00001"]
    record = read_record(written / "tiny" / "trials" / TASK / "cat_xent+either" / "00001")
    assert record is not None
    assert (run.info.start_time, run.info.end_time) == (1000 * (START + 60), 1000 * (START + 60) + 30_500)
    assert run.info.run_name == f"{TASK} cat_xent/either #1"
    assert run.data.params["loss.filter.kind"] == "either"
    assert float(run.data.params["learning_rate"]) == record.parameters["learning_rate"]
    assert run.data.tags["catsweep.seed"] == str(record.seed)
    assert run.data.tags["catsweep.commit"].startswith("0123456789")
    history = client(written).get_metric_history(run.info.run_id, "train/loss")
    assert [(item.step, item.timestamp) for item in history][:2] == [
        (10, 1000 * (START + 61)),
        (20, 1000 * (START + 62)),
    ]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == (TASK, "data-langid-nordic")
    assert json.loads(dataset.profile)["num_rows"]["test"] == NUM_ROWS[TASK]


def test_test_numbers_stand_on_confirmed_runs_and_curves_only(written: Path) -> None:
    for key, run in runs(written).items():
        has_test = any(name.startswith("test/") for name in run.data.metrics)
        assert has_test == key.startswith(("confirm/", "curves/")), key
    result = results_on_storage(written, "tiny")[0][0]
    stored = result["metrics"]["accuracy"]["strata"]["xent"]["rules"]["mean"][1]
    run = runs(written)[stored["trial_id"]]
    assert run.data.metrics["test/audc"] == stored["audc"]
    assert run.data.metrics["test/accuracy"] == stored["quality_small"]


def test_a_curve_has_the_deferral_percent_as_its_step_and_its_artifacts(written: Path) -> None:
    run = runs(written)[f"curves/{TASK}/cat_xent+either"]
    result = results_on_storage(written, "tiny")[0][0]
    curve = result["metrics"]["accuracy"]["strata"]["cat_xent/either"]["curve"]
    history = client(written).get_metric_history(run.info.run_id, "cascade/quality")
    assert [(item.step, item.value) for item in history] == list(enumerate(curve["quality"]))
    folder = written / "mlartifacts" / "tiny" / run.info.run_id / "artifacts"
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = read_json(folder / "points.json")
    assert len(table["data"]) == 101
    assert table["columns"][-1] == "exceeds_large_cost"
    assert (table["data"][0][-1], table["data"][-1][-1]) == (False, True)
    confirmed = runs(written)[f"confirm/{TASK}/xent/00000-seed1"]
    assert (written / "mlartifacts" / "tiny" / confirmed.info.run_id / "artifacts" / "rows.parquet").exists()


def test_writing_again_changes_nothing(written: Path) -> None:
    curve = runs(written)[f"curves/{TASK}/xent"].info.run_id
    assert len(client(written).get_metric_history(curve, "cascade/quality")) == 101


def test_curves_that_are_written_task_by_task_are_those_that_the_end_writes(root: Path, written: Path) -> None:
    problems: list[str] = []
    tracker = Tracker(default_tracking_uri(root), root, "tiny", problems.append)
    for result in results_on_storage(root, "tiny")[0]:
        tracker.log_task(result)
    early = {key: run for key, run in runs(root).items() if key.startswith("curves/")}
    assert write(root)
    assert not problems
    assert early
    at_the_end = runs(written)
    for key, run in early.items():
        assert runs(root)[key].info.run_id == run.info.run_id, "written once"
        assert run.data.metrics == at_the_end[key].data.metrics
        assert run.data.tags[tracking.WRITTEN] == at_the_end[key].data.tags[tracking.WRITTEN]
    assert runs(root).keys() == at_the_end.keys()


def test_a_logger_that_is_killed_before_it_ends_a_run_leaves_no_double(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    for name in ("log_inputs", "log_batch", "set_terminated"):
        with monkeypatch.context() as patch:
            patch.setattr(tracking.MlflowClient, name, killed)
            with pytest.raises(KeyboardInterrupt):
                write(root)
    assert any(run.info.status == "RUNNING" for run in runs(root).values())
    assert write(root)
    assert not any(run.info.status == "RUNNING" for run in runs(root).values())
    assert len(runs(root)) == 15


def test_a_dead_server_delays_nothing_and_loses_nothing(root: Path) -> None:
    problems: list[str] = []
    started = time.monotonic()
    tracker = Tracker(DEAD, root, "tiny", problems.append)
    records = [*read_records(root / "tiny", "trials"), *read_records(root / "tiny", "confirm")]
    for record in records:
        tracker.log_record(root / "tiny" / record.trial_id, record)
    tracker.log_results(*results_on_storage(root, "tiny"))
    assert time.monotonic() - started < 5
    assert len(problems) == 1
    assert "nothing" not in problems[0]
    tracker.log_sweep("finished")
    assert time.monotonic() - started < 8
    assert len(problems) == 2
    assert "the same command again writes what is missing" in problems[1]
    assert "hunter2" not in "".join(problems)
    assert not tracker.complete

    assert write(root)
    assert len(runs(root)) == 15


def test_a_server_that_comes_back_gets_everything_at_the_end_of_the_sweep(root: Path) -> None:
    problems: list[str] = []
    tracker = Tracker(DEAD, root, "tiny", problems.append)
    first, *others = read_records(root / "tiny", "trials")
    tracker.log_record(root / "tiny" / first.trial_id, first)
    tracker.uri = default_tracking_uri(root)
    for record in others:
        tracker.log_record(root / "tiny" / record.trial_id, record)
    tracker.log_sweep("finished")
    assert tracker.complete
    assert len(problems) == 1
    assert len(runs(root)) == 15


def test_one_run_that_is_refused_does_not_keep_the_others_out(root: Path) -> None:
    folder = root / "tiny" / "trials" / TASK / "xent" / "00000"
    record = read_record(folder)
    assert record is not None
    write_record(folder, replace(record, metrics={"validation//bad": 1.0}))
    problems: list[str] = []
    assert not write(root, problems.append)
    assert "00000 could not be written" in problems[0]
    assert sum(run.info.status != "RUNNING" for run in runs(root).values()) == 14


def test_new_results_replace_the_old_curves_and_winners(root: Path) -> None:
    write(root)
    folder = root / "tiny" / "curves"
    result = read_json(folder / f"{TASK}.json")
    result["metrics"]["accuracy"]["strata"]["xent"]["curve"]["quality"][50] = 0.5
    result["strata"]["xent"]["winner"]["number"] = 1
    write_json(folder / f"{TASK}.json", result)
    write(root)
    found = runs(root)
    assert len(found) == 15
    history = client(root).get_metric_history(found[f"curves/{TASK}/xent"].info.run_id, "cascade/quality")
    assert (len(history), history[50].value) == (101, 0.5)
    assert found[f"trials/{TASK}/xent/00000"].data.tags["catsweep.role"] == "trial"
    assert found[f"trials/{TASK}/xent/00001"].data.tags["catsweep.role"] == "winner"


def test_no_password_reaches_the_server(written: Path) -> None:
    failed = runs(written)[f"trials/{TASK}/xent/00003"]
    assert "https://***@example.org/x" in failed.data.tags["catsweep.error"]
    assert b"hunter2" not in (written / "mlflow.db").read_bytes()


def test_sweeps_of_one_name_from_two_folders_stay_apart(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(root)
    other = copy_sweep(tmp_path_factory.mktemp("other"), ONE_TASK)
    assert write(other, uri=default_tracking_uri(root))
    experiment = client(root).get_experiment_by_name("catsweep/tiny")
    found = client(root).search_runs([experiment.experiment_id], "tags.`catsweep.role` = 'sweep'")
    assert len(found) == 2


def test_more_values_than_a_request_may_hold_are_written_in_several(root: Path) -> None:
    tracker = Tracker(default_tracking_uri(root), root, "tiny", fail)
    run = tracker._open()
    points = [Point("train/loss", float(step), START, step) for step in range(2_500)]
    tracker._batches(run.run_id, points, {f"setting.{index}": "1" for index in range(250)})
    assert len(client(root).get_metric_history(run.run_id, "train/loss")) == 2_500
    assert len([name for name in client(root).get_run(run.run_id).data.params if name.startswith("setting.")]) == 250


def test_trials_of_a_pareto_set_have_a_tag_that_later_results_may_take_back(root: Path) -> None:
    path = root / "tiny" / "curves" / f"{TASK}.json"
    result = read_json(path)
    for numbers in ([0, 1], [1]):
        trials = [{"number": number, "parameters": {}, "objectives": [0.5, 0.5]} for number in numbers]
        result["strata"]["xent"]["pareto"] = trials
        write_json(path, result)
        assert write(root)
        tags = {key: run.data.tags.get("catsweep.pareto") for key, run in runs(root).items()}
        marked = {key for key, value in tags.items() if value == "true"}
        assert marked == {f"trials/{TASK}/xent/{number:05d}" for number in numbers}
    assert tags[f"trials/{TASK}/xent/00000"] == "false"


def test_a_failed_run_that_was_tried_again_loses_what_was_said_of_its_failure(root: Path) -> None:
    write(root)
    failed = next(record for record in read_records(root / "tiny", "trials") if record.status == "failed")
    before = runs(root)[failed.trial_id]
    assert before.info.status == "FAILED"
    assert before.data.tags["catsweep.error"] == failed.error
    assert before.data.tags["mlflow.note.content"]

    mended = replace(failed, status="finished", error="", objective=0.5, num_steps=100)
    write_record(root / "tiny" / failed.trial_id, mended)
    assert write(root)
    after = runs(root)[failed.trial_id]
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert not after.data.tags.get("catsweep.error")
    assert not after.data.tags.get("mlflow.note.content")


def test_track_writes_later_what_a_dead_server_did_not_get(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert track_command("tiny", out=root, tracking_uri=DEAD) == 1
    said = capsys.readouterr()
    assert "could not be written" in said.err
    assert "hunter2" not in said.err + said.out
    assert track_command("tiny", out=root, tracking_uri=None) == 0
    records = [*read_records(root / "tiny", "trials"), *read_records(root / "tiny", "confirm")]
    found = runs(root)
    statuses = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
    assert {record.trial_id: statuses[record.status] for record in records}.items() <= {
        key: run.info.status for key, run in found.items()
    }.items()
    before = {key: run.to_dictionary() for key, run in found.items()}
    assert track_command("tiny", out=root, tracking_uri=None) == 0
    assert {key: run.to_dictionary() for key, run in runs(root).items()} == before


def test_track_of_no_sweep_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no sweep.*catsweep ls"):
        track_command("nothing", out=tmp_path, tracking_uri=None)
