"""What `catsweep plan` says about a cluster and about hours; the plan itself is tests/test_plan.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import ONE_TASK, copy_sweep

from catsweep.cli.estimate import fits, hours, measured
from catsweep.errors import ClusterError
from catsweep.plan import Plan, TaskPlan
from catsweep.records import read_records
from catsweep.spec.load import Sweep

CLUSTERS = Path(__file__).parents[2] / "clusters"
MakeSweep = Callable[..., Sweep]


def test_a_trial_that_no_node_can_hold_is_refused_with_the_largest_node(make_sweep: MakeSweep) -> None:
    spec = make_sweep(resources={"gpus_per_worker": 2}).spec
    with pytest.raises(
        ClusterError, match=r"a trial needs 1 x 1 CPUs and 2 GPUs, but the largest of 5 nodes has 8 CPUs and 1 GPU"
    ):
        fits(spec, str(CLUSTERS / "aws.yaml"))
    spec = make_sweep(resources={"gpus_per_worker": 0.5, "large": {"gpus_per_worker": 1}}).spec
    assert fits(spec, str(CLUSTERS / "aws.yaml")).endswith("has 5 nodes and runs 8 trials at once")


def test_without_a_cluster_it_says_that_it_could_not_look(make_sweep: MakeSweep) -> None:
    spec = make_sweep(resources={"gpus_per_worker": 64}).spec
    assert "a trial needs 1 x 1 CPUs and 64 GPUs" in fits(spec, None)
    assert "no cluster was asked whether they fit: name one with --cluster" in fits(spec, None)


def make_plan(**fields: Any) -> Plan:
    empty: dict[str, Any] = dict.fromkeys(TaskPlan.__dataclass_fields__, 0.0)
    return Plan("tiny", ["xent"], [10], 1, 1, [TaskPlan(**{**empty, **fields})], [], [], {})


def test_hours_are_flops_over_what_accelerators_reach(make_sweep: MakeSweep, tmp_path: Path) -> None:
    plan = make_plan(flops_search=3e18, flops_confirm=0.6e18, flops_large_pass=7.2e18)
    assert plan.accelerator_hours(1e15 * 0.3) == pytest.approx(10.0)  # 10.8e18 FLOPs at 3e14 a second
    spec = make_sweep().spec
    (line,) = hours(plan, spec, tmp_path, 3e14)
    assert line.startswith("about 10 accelerator-hours at 3e+14 FLOP/s")
    (line,) = hours(plan, spec, tmp_path, None)
    assert "give --accelerator-flops" in line


def test_hours_that_are_left_follow_from_the_runs_that_have_ended(make_sweep: MakeSweep, tmp_path: Path) -> None:
    root = copy_sweep(tmp_path, ONE_TASK)
    records = [*read_records(root / "tiny", "trials"), *read_records(root / "tiny", "confirm")]
    ended = [record for record in records if record.status == "finished"]
    per_step = sum(record.ended_at - record.started_at for record in ended) / sum(record.num_steps for record in ended)
    found = measured(root / "tiny")
    assert found is not None
    assert (found.num_runs, found.seconds_per_step) == (len(ended), pytest.approx(per_step))
    assert measured(root / "none") is None
    spec = make_sweep(training={"steps": 500}, resources={"gpus_per_worker": 0.5}).spec
    plan = make_plan(num_search_trials=30, num_confirm_runs=6, num_done=16)
    line = hours(plan, spec, root, None)[1]
    assert f"the 20 runs that are left take at most {20 * 500 * per_step * 0.5 / 3600:.3g} GPU-hours" in line
