"""Objectives that a search fixes on its way, in whole sweeps of real small trials on a real Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catsweep.cascade.cost import ModelShape
from catsweep.cascade.metrics import metric_of
from catsweep.cascade.rows import make_cascade
from catsweep.prepare import prepare_task
from catsweep.records import read_json, read_rows
from catsweep.spec.load import Sweep
from catsweep.spec.task import TaskSpec
from catsweep.sweep.cluster import Cluster
from catsweep.sweep.driver import run_sweep
from catsweep.trial import run_trial


@pytest.mark.slow
def test_every_loss_is_judged_by_the_cost_of_the_quality_that_the_baseline_has_fixed(
    cluster: Cluster, make_sweep: Callable[..., Sweep], tmp_path: Path
) -> None:
    losses = {"space": "choice", "options": [{"kind": "xent"}, {"kind": "cat_xent"}]}
    rates = {"space": "loguniform", "lower": 3e-3, "upper": 3e-2}
    sweep = make_sweep(
        tasks=("parity.yaml",),
        search={
            "num_samples": 3, "confirm_seeds": 1, "stratify": ["loss.kind"], "metric": {"kind": "cost_at_quality", "gap": 0.5},
            "space": {"learning_rate": rates, "loss": losses},
        },
    )  # fmt: skip
    result = run_sweep(
        sweep, root=tmp_path, run_trial=run_trial, prepare_task=prepare_task, on_event=lambda event: None,
        on_record=lambda folder, record: None, cluster=cluster,
    )  # fmt: skip
    assert {record.status for record in result.records} == {"finished"}
    searched = [record for record in result.records if record.role == "trial"]
    baseline_ended = max(record.ended_at for record in searched if record.stratum == "xent")
    assert all(record.started_at > baseline_ended for record in searched if record.stratum != "xent")

    task = sweep.tasks[0]
    assert isinstance(task, TaskSpec)
    anchor = read_json(tmp_path / "tiny" / "anchors" / "made/parity.json")
    wanted = (anchor["quality_small"] + anchor["quality_large"]) / 2
    answers = read_json(tmp_path / "tiny" / "prepared" / "made/parity.json")["keys"]["answers"]
    large = read_rows(tmp_path / "cache" / "answers" / answers / "rows.parquet", "validation")
    judged = []
    for record in searched:
        small = read_rows(tmp_path / "tiny" / record.trial_id / "rows.parquet", "validation")
        shapes = ModelShape.from_dict(record.small_shape), ModelShape.from_dict(record.large_shape)
        cascade = make_cascade(
            small, large, metric_of(task.metric_list[0]), small_shape=shapes[0], large_shape=shapes[1]
        )
        curve = cascade.curve("mean")
        reached = np.flatnonzero(np.asarray(curve.quality) >= wanted - 1e-9)
        if len(reached):
            judged.append(record.stratum)
            assert record.objective == pytest.approx(curve.cost[reached[0]] / curve.cost_large)
    assert set(judged) == {"xent", "cat_xent"}
    costs = {record.number: record.objective for record in searched if record.stratum == "xent"}
    assert result.winners["made/parity", "xent"].number == min(costs, key=lambda number: (costs[number], number))
