"""What of a sweep may go, what stays, and whether a sweep fits on its disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import ONE_TASK, copy_sweep

from catsweep.cli.clean import clean_command
from catsweep.errors import StorageError
from catsweep.records import TrialRecord, existing_sweep, read_json, read_records
from catsweep.retention import bytes_on_storage, check_space, kept_runs, prune_weights, removable, remove, size
from catsweep.sweep.cluster import only_driver

TASK = "langid/nordic"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A finished sweep whose confirm runs have weights, and whose trials have checkpoints."""
    copy_sweep(tmp_path, ONE_TASK)
    for record in all_records(tmp_path):
        part = "model" if record.role == "confirm" else "checkpoint"
        (tmp_path / "tiny" / record.trial_id / part).mkdir()
        (tmp_path / "tiny" / record.trial_id / part / "x.safetensors").write_bytes(bytes(1000))
    return tmp_path


def all_records(root: Path) -> list[TrialRecord]:
    return [*read_records(root / "tiny", "trials"), *read_records(root / "tiny", "confirm")]


def weights(root: Path) -> set[str]:
    return {str(path.parent.relative_to(root / "tiny")) for path in (root / "tiny").glob("confirm/**/model")}


def everything_else(root: Path) -> dict[str, bytes]:
    """Rows, records, steps, specs and results."""
    names = {"record.json", "rows.parquet", "steps.jsonl", "spec.json", "sweep.json", "summary.json"}
    return {str(path): path.read_bytes() for path in (root / "tiny").rglob("*") if path.name in names}


def test_the_best_runs_of_all_tasks_stay_in_rounds(root: Path) -> None:
    spec, _ = existing_sweep(root / "tiny")
    records = all_records(root)
    confirm = [record for record in records if record.role == "confirm"]
    assert len(confirm) == 4
    # A second task, of which every run is worse than every run of the first.
    values = {record.trial_id: 0.5 + 0.1 * index for index, record in enumerate(confirm)}
    mine = [replace(record, objective=values.get(record.trial_id, record.objective)) for record in records]
    theirs = [
        replace(
            record,
            task="other",
            trial_id=record.trial_id.replace(TASK, "other"),
            objective=(record.objective or 1.0) / 9,
        )
        for record in mine
    ]
    best = [record.trial_id for record in reversed(confirm)]
    other = [name.replace(TASK, "other") for name in best]
    everyone = [*mine, *theirs]
    assert kept_runs(everyone, spec, 1) == {best[0]}
    assert kept_runs(everyone, spec, 3) == {best[0], other[0], best[1]}
    assert kept_runs(everyone, spec, 0) == set()
    assert kept_runs(everyone, spec, None) == kept_runs(everyone, spec, 8) == {*best, *other}


def test_weights_beyond_the_best_go_and_nothing_else(root: Path) -> None:
    spec, _ = existing_sweep(root / "tiny")
    before = everything_else(root)
    prune_weights(root / "tiny", all_records(root), spec)
    assert len(weights(root)) == 4
    prune_weights(root / "tiny", all_records(root), spec.model_copy(update={"keep_models": 1}))
    assert weights(root) == kept_runs(all_records(root), spec, 1)
    assert everything_else(root) == before


def test_a_dry_run_deletes_nothing_and_yes_leaves_rows_records_and_what_failed_runs_need(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "tiny" / "logs" / "tune").mkdir(parents=True)
    (root / "tiny" / "logs" / "tune" / "x").write_bytes(bytes(50))
    (root / "tiny" / "curves" / ".summary.json.abc").write_bytes(bytes(20))
    half_made, in_the_making = (root / "cache" / "signal" / name for name in (".old.x", ".new.x"))
    for path in (half_made, in_the_making):
        path.mkdir(parents=True)
    os.utime(half_made, (time.time() - 90_000,) * 2)
    before = everything_else(root)
    failed = next(record.trial_id for record in all_records(root) if record.status == "failed")

    def clean(*, yes: bool) -> dict[str, int]:
        clean_command("tiny", out=root, keep=1, cache=False, yes=yes, as_json=True)
        listed = json.loads(capsys.readouterr().out)
        assert listed["total_bytes"] == sum(item["bytes"] for item in listed["items"])
        return {str(Path(item["path"]).relative_to(root)): item["bytes"] for item in listed["items"]}

    listed = clean(yes=False)
    assert all((root / path).exists() for path in listed)
    ended = [record.trial_id for record in all_records(root) if record.role == "trial" and record.trial_id != failed]
    assert {path for path in listed if path.endswith("checkpoint")} == {f"tiny/{name}/checkpoint" for name in ended}
    assert len([path for path in listed if path.endswith("model")]) == 3
    assert listed["tiny/logs/tune"] == 50
    assert listed["tiny/curves/.summary.json.abc"] == 20
    assert "cache/signal/.old.x" in listed
    assert "cache/signal/.new.x" not in listed
    assert clean(yes=True) == listed
    assert not any((root / path).exists() for path in listed)
    assert (root / "tiny" / failed / "checkpoint").exists()
    assert everything_else(root) == before
    assert clean(yes=True) == {}


def test_clean_touches_no_sweep_that_a_driver_runs_and_makes_no_folder(root: Path) -> None:
    with pytest.raises(StorageError, match="holds no sweep"):
        clean_command("nosuch", out=root, keep=None, cache=False, yes=True, as_json=False)
    assert not (root / "nosuch").exists()
    shutil.copytree(root / "tiny", root / "twin")
    with only_driver(root / "twin"):
        clean_command("tiny", out=root, keep=None, cache=True, yes=False, as_json=False)
        with pytest.raises(StorageError, match="another driver runs the sweep"):
            clean_command("tiny", out=root, keep=None, cache=True, yes=True, as_json=False)
        clean_command("tiny", out=root, keep=None, cache=False, yes=True, as_json=False)


def test_only_cache_that_no_other_sweep_names_may_go_and_answers_never(root: Path) -> None:
    keys = read_json(root / "tiny" / "prepared" / f"{TASK}.json")["keys"]
    folders = {kind: root / "cache" / kind / keys[kind] for kind in ("data", "large", "signal", "answers")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / "tiny", root / "twin")
    (root / "twin" / "prepared" / f"{TASK}.json").write_text(json.dumps({"keys": {"large": keys["large"]}}))
    found = {item.path for item in removable(root, "tiny", cache=True)}
    assert {folders["data"], folders["signal"]} <= found
    assert not found & {folders["large"], folders["answers"]}
    assert not any("cache" in item.why for item in removable(root, "tiny"))


def test_a_sweep_that_does_not_fit_is_refused_with_both_numbers(root: Path) -> None:
    there = bytes_on_storage(root, "tiny")
    assert there > size(root / "tiny") > 0
    free = shutil.disk_usage(root).free
    check_space(root, "tiny", 0.5 * free)
    check_space(root, "tiny", there)  # all of it is there
    with pytest.raises(
        StorageError, match=r"tiny needs about [\d.,]+ GB more below .*, where [\d.,]+ GB are free.*clean NAME"
    ):
        check_space(root, "tiny", 2.0 * free + there + 1e9)
    with pytest.raises(StorageError, match="new needs about"):
        check_space(root / "not" / "there", "new", 2.0 * free + 1e9)


def test_removing_returns_what_is_free_now(root: Path) -> None:
    items = removable(root, "tiny", keep=0)
    before = size(root)
    assert before - remove(items) == size(root)
