"""The offline suite on a cluster of four nodes, one of which is lost in the middle of the sweep while another one joins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catsweep.records import TrialRecord, read_records

REPOSITORY = Path(__file__).parents[2]
TASKS = ["langid/nordic", "dates/en", "unicode/category", "hyphenation/es", "numbers/fr"]
RUN = [
    sys.executable, "-m", "catsweep.cli.main", "run", "search_spaces/offline.yaml", f"tasks=[{', '.join(TASKS)}]",
    "training.steps=60", "large.finetune.steps=40", "search.num_samples=4", "search.confirm_seeds=1",
    "data={max_train_rows: 800, max_evaluation_rows: 100}",
]  # fmt: skip
"""Some minutes; without the overrides the whole suite runs."""
NUM_RUNS = len(TASKS) * 2 * (4 + 1)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that only drives, and four nodes of one slot each. Every node has an address of its own."""
    from ray.cluster_utils import Cluster as Nodes

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for number in range(2, 6):
        cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}")
    yield cluster
    cluster.shutdown()


def raylet(node: Any) -> int:
    """The process id of a node."""
    return int(node.all_processes["raylet"][0].process.pid)


def trials_below(process: int) -> bool:
    """Whether a child of a process runs a trial."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"ImplicitFunc.train" in (folder / "cmdline").read_bytes():
                return True
        except (OSError, ValueError):  # it has ended
            continue
    return False


def records_of(home: Path) -> dict[str, TrialRecord]:
    return {
        str(record.trial_id): record
        for role in ("trials", "confirm")
        for record in read_records(home / "offline", role)
    }


def tables(output: str, home: Path) -> list[str]:
    return [line for line in output.splitlines() if str(home) not in line]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_node_leaves_and_one_joins_and_the_results_are_those_of_an_undisturbed_sweep(
    tmp_path: Path, nodes: Any
) -> None:
    homes = {name: tmp_path / name for name in ("disturbed", "calm")}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200", "RAY_ADDRESS": nodes.address}
    log = (tmp_path / "disturbed.err").open("w")
    driver = subprocess.Popen(
        RUN, cwd=REPOSITORY, env={**environment, "CATSWEEP_HOME": str(homes["disturbed"])},
        stdout=subprocess.PIPE, stderr=log, text=True,
    )  # fmt: skip
    used: set[int] = set()

    def watch(until: int) -> None:
        """Notes which nodes run trials until so many runs have ended."""
        while driver.poll() is None and len(records_of(homes["disturbed"])) < until:
            used.update(raylet(node) for node in nodes.worker_nodes if trials_below(raylet(node)))
            time.sleep(0.3)

    watch(5)
    lost = next(node for node in nodes.worker_nodes if trials_below(raylet(node)))
    nodes.remove_node(lost, allow_graceful=False)
    joined = raylet(nodes.add_node(num_cpus=1, node_ip_address="127.0.0.7"))
    watch(NUM_RUNS)
    output = driver.communicate(timeout=300)[0]
    assert driver.returncode == 0, (tmp_path / "disturbed.err").read_text()
    assert joined in used
    assert len(used) >= 3

    found = records_of(homes["disturbed"])
    assert len(found) == NUM_RUNS
    assert {record.status for record in found.values()} == {"finished"}
    told = [
        line.split("] ")[1].split(" finished after ")[0]
        for line in (tmp_path / "disturbed.err").read_text().splitlines()
        if " finished after " in line
    ]
    assert sorted(told) == sorted(found)  # no run ended twice
    statuses = mlflow_statuses(homes["disturbed"])
    assert set(statuses.values()) == {"FINISHED"}
    assert set(found) <= set(statuses)

    del environment["RAY_ADDRESS"]
    calm = subprocess.run(
        RUN, cwd=REPOSITORY, env={**environment, "CATSWEEP_HOME": str(homes["calm"])},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert calm.returncode == 0, calm.stderr
    expected = records_of(homes["calm"])
    assert {name: record.parameters for name, record in found.items()} == {
        name: record.parameters for name, record in expected.items()
    }
    assert {name: record.objective for name, record in found.items()} == {
        name: pytest.approx(record.objective, rel=1e-6) for name, record in expected.items()
    }
    assert tables(output, homes["disturbed"]) == tables(calm.stdout, homes["calm"])


def mlflow_statuses(home: Path) -> dict[str, str]:
    """The status of each trial's MLflow run; every trial has one."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiments = [item.experiment_id for item in client.search_experiments() if item.name != "Default"]
    runs = list(client.search_runs(experiments, max_results=1000))
    named = [
        (run.data.tags["catsweep.trial_id"], run.info.status) for run in runs if "catsweep.trial_id" in run.data.tags
    ]
    assert len(named) == len(dict(named))
    return dict(named)
