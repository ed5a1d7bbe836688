"""Processes and nodes that are killed while a sweep runs. Each sweep must end as an undisturbed one does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import s3_server, uri
from sweep_fakes import calls, make_sweep, play, prepare_task, run_trial, score
from test_kill import all_records, finish, start

from catsweep.cache import is_complete
from catsweep.records import read_records, storage_root
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.driver import run_sweep
from catsweep.sweep.search import Search

HERE = Path(__file__).parent


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> bool:
    """Whether it came true before the process ended."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return True


def check_as_undisturbed(root: Path, fields: dict[str, Any]) -> None:
    """Every run ended once, with the settings and the result that it has without any fault.

    At most eight trials a stratum: their settings follow from their numbers alone.
    """
    records = all_records(root)
    search = Search(make_sweep(**fields), root / "expected")
    search.ready = set(fields["tasks"])
    expected = {trial.trial_id: trial for trial in play(search)}
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(expected, "finished")
    assert {name: record.parameters for name, record in records.items()} == {
        name: trial.parameters for name, trial in expected.items()
    }
    assert {name: record.objective for name, record in records.items()} == {
        name: pytest.approx(score(trial, trial.training.steps)) for name, trial in expected.items()
    }
    ended = Counter(trial_id for trial_id, _ in calls(root, "end"))
    assert ended == Counter(dict.fromkeys(expected, 1))


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that only drives, and one worker node with two slots: `nodes.worker`.

    Addresses of their own: a driver joins the first node that has its machine's address, and must not go down with a worker.
    """
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1])]))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.worker = nodes.add_node(num_cpus=2, node_ip_address="127.0.0.2")
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("notice", [False, True], ids=["without notice", "with notice"])
def test_a_node_with_running_trials_is_lost_and_another_one_joins(tmp_path: Path, two_nodes: Any, notice: bool) -> None:
    fields = {"tasks": ["slow"], "search__num_samples": 6}
    driver = start(tmp_path, fields)
    assert wait_for(lambda: len(calls(tmp_path, "end")) >= 3, driver)
    if notice:
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", two_nodes.address,
            "--node-id", two_nodes.worker.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message", "taken back", "--deadline-remaining-seconds", "2",
        ]  # fmt: skip
        subprocess.run(command, check=True, timeout=120)
        time.sleep(2)
    two_nodes.remove_node(two_nodes.worker, allow_graceful=False)
    two_nodes.worker = two_nodes.add_node(num_cpus=2, node_ip_address="127.0.0.3")
    output = driver.communicate(timeout=400)[0]
    assert driver.returncode == 0, output
    check_as_undisturbed(tmp_path, fields)
    begun = Counter(trial_id for trial_id, _ in calls(tmp_path, "start"))
    assert begun.total() <= len(begun) + 2  # only what ran on the node began twice

    finish(tmp_path, fields)  # the same job again
    assert Counter(trial_id for trial_id, _ in calls(tmp_path, "start")) == begun


@pytest.mark.slow
def test_a_rank_of_two_is_killed_and_its_group_starts_again(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "tasks": ["slow"],
        "space": {},
        "resources": {"num_workers": 2},
        "search__num_samples": 2,
        "search__confirm_seeds": 1,
    }
    driver = start(tmp_path, fields)
    assert wait_for(lambda: bool(calls(tmp_path, "start")), driver)
    os.kill(int(calls(tmp_path, "start")[0][1]), signal.SIGKILL)
    output = driver.communicate(timeout=500)[0]
    assert driver.returncode == 0, output
    check_as_undisturbed(tmp_path, fields)
    assert Counter(trial_id for trial_id, _ in calls(tmp_path, "start")).total() == 4


@pytest.mark.slow
def test_a_driver_that_is_killed_at_twenty_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    fields = {"tasks": ["slow-late", "b-slow"], "search__num_samples": 8}
    chance = random.Random(0)
    num_runs = 2 * 2 * (8 + 2)
    moments = sorted(chance.uniform(0, 2 * num_runs + 4) for _ in range(20))  # in lines of calls.txt
    num_killed = 0

    def lines() -> int:
        path = tmp_path / "calls.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    for moment in moments:
        driver = start(tmp_path, fields)
        if wait_for(lambda moment=moment: lines() >= moment, driver):  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.6))
            driver.send_signal(signal.SIGKILL)
            num_killed += 1
        driver.wait()
    finish(tmp_path, fields)
    assert num_killed >= 15
    check_as_undisturbed(tmp_path, fields)
    begun = Counter(trial_id for trial_id, _ in calls(tmp_path, "start"))
    assert begun.total() <= num_runs + 2 * num_killed  # two slots were cut off each time


def run(root: Path, fields: dict[str, Any], cluster: Cluster) -> None:
    run_sweep(
        make_sweep(**fields), root=root, run_trial=run_trial, prepare_task=prepare_task,
        on_event=lambda event: None, on_record=lambda folder, record: None, cluster=cluster,
    )  # fmt: skip


@pytest.mark.slow
def test_the_large_models_pass_is_killed_half_way_and_a_trial_behind_its_record(
    tmp_path: Path, cluster: Cluster
) -> None:
    fields = {"tasks": ["halfway", "unlucky"], "search__num_samples": 4}
    run(tmp_path, fields, cluster)
    assert (tmp_path / "killed").exists()
    assert (tmp_path / "unlucky").exists()
    assert [task for task, _ in calls(tmp_path, "prepared")].count("halfway") == 1
    assert is_complete(tmp_path / "cache" / "signal" / "key")
    assert {path.name for path in (tmp_path / "cache" / "signal" / "key").iterdir()} == {
        "rank.npy", "logprob.npy", "manifest.json",
    }  # fmt: skip
    check_as_undisturbed(tmp_path, fields)


@pytest.mark.slow
def test_a_sweep_on_an_object_store_goes_on_from_another_machine(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as port:
        fields = {"tasks": ["a"], "search__num_samples": 4}
        monkeypatch.setenv("CATSWEEP_MIRROR", str(tmp_path / "first"))
        first = storage_root(uri(port))
        first.mkdir(parents=True)  # the fakes' own notes
        run(first, fields, cluster)
        check_as_undisturbed(first, fields)
        before = read_records(first / "fake", "trials")

        monkeypatch.setenv("CATSWEEP_MIRROR", str(tmp_path / "second"))  # a machine that has seen nothing
        second = storage_root(uri(port))
        second.mkdir(parents=True)
        run(second, {**fields, "search__num_samples": 6}, cluster)
        assert set(map(str, before)) <= set(map(str, read_records(second / "fake", "trials")))
        started = [trial_id for trial_id, _ in calls(second, "start") if trial_id.startswith("trials")]
        assert sorted(started) == sorted(f"trials/a/{kind}/0000{n}" for kind in ("xent", "dist") for n in (4, 5))
