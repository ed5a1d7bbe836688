"""What fits on a cluster, and one driver a sweep."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest
import ray

from catsweep.errors import ClusterError, StorageError
from catsweep.spec.sweep import ResourcesSpec, WorkerSpec
from catsweep.sweep.cluster import (
    Cluster,
    ForeignLines,
    check_fits,
    check_shared,
    num_slots,
    only_driver,
    only_driver_on_cluster,
)
from catsweep.sweep.jobs import map_tasks

BOX = {"CPU": 8.0, "GPU": 2.0}


def test_slots_are_counted_node_by_node() -> None:
    assert num_slots([BOX], WorkerSpec()) == 8
    assert num_slots([BOX], WorkerSpec(gpus_per_worker=0.3)) == 6  # six thirds of two GPUs
    assert num_slots([BOX, {"CPU": 3.0}], WorkerSpec(cpus_per_worker=2)) == 5
    assert num_slots([{"CPU": 1.0}, {"CPU": 1.0}], WorkerSpec(cpus_per_worker=2)) == 0
    assert num_slots([BOX, BOX], WorkerSpec(num_workers=3, gpus_per_worker=1)) == 1
    assert num_slots([], WorkerSpec()) == 0


def test_units_take_their_room_first_and_those_that_must_wait_take_none() -> None:
    unit = {"CPU": 2.0, "GPU": 2.0}
    trial = WorkerSpec(gpus_per_worker=1)
    assert num_slots([BOX, BOX], trial, [unit]) == 2
    assert num_slots([BOX, BOX], trial, [unit] * 2) == 0
    assert num_slots([BOX, BOX], trial, [unit] * 5) == 0
    assert num_slots([{"CPU": 2.0}], WorkerSpec(), [{"CPU": 1.0}]) == 1


def test_ray_gets_three_tries_to_start_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ends = [Exception("The current node timed out during startup. This could happen"), None, RuntimeError("no port")]

    def init(**settings: Any) -> None:
        if (error := ends.pop(0)) is not None:
            raise error

    for name, value in {"init": init, "is_initialized": lambda: False, "shutdown": lambda: None}.items():
        monkeypatch.setattr(ray, name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Cluster(tmp_path) as cluster:
        cluster.connect()
        assert len(ends) == 1
    with Cluster(tmp_path) as cluster, pytest.raises(ClusterError, match="cannot reach Ray on this machine: no port"):
        cluster.connect()


def test_what_can_never_start_is_refused_with_the_largest_node() -> None:
    check_fits([BOX], ResourcesSpec())
    with pytest.raises(
        ClusterError, match="needs 1 x 1 CPUs and 3 GPUs, but the largest of 2 nodes has 8 CPUs and 2 GPUs"
    ):
        check_fits([{"CPU": 64.0}, BOX], ResourcesSpec(gpus_per_worker=3))
    with pytest.raises(ClusterError, match="large model's unit of a task needs 1 x 9 CPUs and 0 GPUs"):
        check_fits([BOX, BOX], ResourcesSpec(large=WorkerSpec(cpus_per_worker=9)))


def test_a_second_driver_of_a_sweep_is_refused_and_another_sweep_is_not(tmp_path: Path) -> None:
    with only_driver(tmp_path / "a"):
        with pytest.raises(StorageError, match="another driver runs the sweep"), only_driver(tmp_path / "a"):
            pass
        with only_driver(tmp_path / "b"):
            pass
    with only_driver(tmp_path / "a"):
        pass


def test_a_second_driver_on_the_cluster_is_refused_until_the_first_lets_go(tmp_path: Path, cluster: Cluster) -> None:
    with only_driver_on_cluster(tmp_path / "a"):
        with (
            pytest.raises(StorageError, match="another driver"),
            only_driver_on_cluster(tmp_path / "a", wait_seconds=0),
        ):
            pass
        with only_driver_on_cluster(tmp_path / "b", wait_seconds=0):
            pass
    with only_driver_on_cluster(tmp_path / "a"):
        pass


def test_several_nodes_need_a_root_that_all_of_them_see(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.connect()
    nodes = ray.nodes() * 2
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_shared(tmp_path)
    monkeypatch.setattr("catsweep.sweep.cluster._exists", lambda path: False)
    with pytest.raises(ClusterError, match=r"does not see .* needs a root on storage that all of them share"):
        check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _double(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return 2 * number


def test_tasks_come_back_in_order_and_errors_keep_their_type(cluster: Cluster) -> None:
    seen: list[int] = []
    assert map_tasks(_double, [3, 1, 2], cluster=cluster, on_result=seen.append) == [6, 2, 4]
    assert sorted(seen) == [2, 4, 6]
    assert map_tasks(_double, [], cluster=cluster) == []
    with pytest.raises(ValueError, match="-1 is negative"):
        map_tasks(_double, [5, -1], cluster=cluster, on_result=seen.append)


def test_what_other_code_prints_becomes_lines_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.FileHandler(tmp_path / "driver.log")
    logger = logging.getLogger("ray")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(ForeignLines()):
            print("(raylet) Raylet is terminated.")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert capsys.readouterr().out == ""
    assert (tmp_path / "driver.log").read_text() == "(raylet) Raylet is terminated.\n"
