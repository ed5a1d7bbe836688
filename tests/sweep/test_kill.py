"""A driver is killed with SIGKILL, and the same command given again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_fakes import SPACE, calls, make_sweep, play

from catsweep.records import read_records
from catsweep.spec.sweep import TrialSpec
from catsweep.sweep.search import Search

HERE = Path(__file__).parent


def start(root: Path, fields: dict[str, Any]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    return subprocess.Popen(
        [sys.executable, str(HERE / "sweep_driver.py"), str(root), json.dumps(fields)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def kill_when(root: Path, fields: dict[str, Any], ready: Callable[[], bool]) -> None:
    process = start(root, fields)
    deadline = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


def finish(root: Path, fields: dict[str, Any]) -> str:
    output = start(root, fields).communicate(timeout=500)[0]
    assert "Traceback" not in output, output
    return output


def all_records(root: Path) -> dict[str, Any]:
    return {r.trial_id: r for role in ("trials", "confirm") for r in read_records(root / "fake", role)}  # type: ignore[arg-type]


@pytest.mark.slow
def test_killed_in_prepare_and_twice_in_the_search_a_sweep_loses_and_repeats_nothing(tmp_path: Path) -> None:
    # A trial holds both slots, so that results come in a fixed order; ten trials, so that the estimator has its say.
    fields = {"tasks": ["slow-late"], "search__num_samples": 10, "resources": {"cpus_per_worker": 2}}
    kill_when(tmp_path, fields, lambda: bool(calls(tmp_path, "prepare")))
    assert not calls(tmp_path, "prepared")
    kill_when(tmp_path, fields, lambda: len(calls(tmp_path, "end")) >= 7)
    kill_when(tmp_path, fields, lambda: len(calls(tmp_path, "end")) >= 15)
    finish(tmp_path, fields)

    records = all_records(tmp_path)
    assert Counter(record.role for record in records.values()) == {"trial": 20, "confirm": 4}
    ended = Counter(trial_id for trial_id, _ in calls(tmp_path, "end"))
    assert ended == Counter(dict.fromkeys(records, 1))  # every run came to its end once
    begun = Counter(trial_id for trial_id, _ in calls(tmp_path, "start"))
    assert begun.total() <= 24 + 2  # only the two that were cut off began twice
    expected: dict[str, TrialSpec] = {}
    search = Search(make_sweep(**fields), tmp_path / "expected")
    search.ready = {"slow-late"}
    expected = {trial.trial_id: trial for trial in play(search, slots=1)}
    assert {trial_id: record.parameters for trial_id, record in records.items()} == {
        trial_id: trial.parameters for trial_id, trial in expected.items()
    }

    before = time.monotonic()
    assert "connected" not in finish(tmp_path, fields)
    assert time.monotonic() - before < 30
    assert Counter(trial_id for trial_id, _ in calls(tmp_path, "start")) == begun


@pytest.mark.slow
def test_two_drivers_of_one_sweep_are_refused_and_a_killed_one_is_not_in_the_way(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"tasks": ["slow"], "space": {}}
    first = start(tmp_path, {**fields, "search__num_samples": 60})
    while not calls(tmp_path, "start"):
        time.sleep(0.05)
    assert "another driver runs the sweep" in start(tmp_path, fields).communicate(timeout=60)[0]
    first.send_signal(signal.SIGKILL)
    first.wait()
    finish(tmp_path, fields)
    assert sum(record.role == "confirm" for record in all_records(tmp_path).values()) == 2


@pytest.mark.slow
def test_two_workers_train_under_ray_train_one_rank_writes_and_a_stopped_trial_frees_its_places(tmp_path: Path) -> None:
    # Of three trials the first is finished, the second diverges, and the third is worse than the first at step 1.
    fields: dict[str, Any] = {
        "tasks": ["diverging"],
        "space": {"learning_rate": SPACE["learning_rate"]},
        "resources": {"num_workers": 2},
        "search__num_samples": 3,
        "search__confirm_seeds": 1,
        "search__scheduler": {"type": "asha", "grace_period": 1, "reduction_factor": 3},
    }
    output = finish(tmp_path, fields)
    records = all_records(tmp_path)
    trials = [records[f"trials/diverging/xent/0000{number}"] for number in range(3)]
    assert [trial.status for trial in trials] == ["finished", "diverged", "stopped"], output
    assert trials[1].error == "the training loss is nan at step 3"
    assert trials[2].num_steps == 1
    assert records["confirm/diverging/xent/00000-seed1"].status == "finished"
    ended = [trial_id for trial_id, _ in calls(tmp_path, "end")]
    assert ended == ["trials/diverging/xent/00000", "confirm/diverging/xent/00000-seed1"]
