"""Clients as Ray tasks: the same updates as by plain calls, and their own errors."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch

from catsweep.errors import TrialDivergedError
from catsweep.federated import ClientJob, client_seed, copy_weights, cut_clients, run_in_turn
from catsweep.models import TargetLogits, build_model
from catsweep.prepare import load_prepared, prepare_task
from catsweep.space import build_trial
from catsweep.spec.load import Sweep
from catsweep.sweep.clients import _processes, run_as_tasks
from catsweep.sweep.cluster import Cluster


def test_a_process_of_clients_serves_all_rounds_and_starts_again_when_it_was_killed(cluster: Cluster) -> None:
    context = ray.get_runtime_context()
    (process,) = _processes(context.get_job_id(), context.get_node_id(), 1)

    def number_of_its_process() -> int:
        return ray.get(process.__ray_call__.remote(lambda self: os.getpid()))  # type: ignore[no-any-return]

    first = number_of_its_process()
    (same,) = _processes(context.get_job_id(), context.get_node_id(), 1)
    assert same is process
    assert number_of_its_process() == first
    os.kill(first, signal.SIGKILL)
    assert number_of_its_process() != first


def test_clients_as_tasks_return_what_they_return_in_turn(
    make_sweep: Callable[..., Sweep], tmp_path: Path, cluster: Cluster
) -> None:
    federated = {"clients": 3, "rounds": 2, "local_steps": 2, "partition": {"kind": "iid"}}
    sweep = make_sweep(training={"steps": 4, "batch_size": 8, "learning_rate": 1e-2, "federated": federated})
    prepare_task(sweep.tasks[0], sweep.spec, root=tmp_path)
    spec = build_trial(sweep.spec, sweep.tasks[0], "any", 0, sweep.spec.training.to_json(), {})
    prepared = load_prepared(tmp_path, spec.sweep, spec.task.task)
    weights = copy_weights(TargetLogits(build_model(spec.small, prepared.tokenizer(), seed=0)))
    sites = cut_clients(spec, prepared, tmp_path)
    jobs = [ClientJob(site, spec, client_seed(spec.seed, site.number), 1, 2, False) for site in sites]
    in_turn, as_tasks = run_in_turn(jobs, weights), run_as_tasks(2, jobs, weights)
    for one, other in zip(in_turn, as_tasks, strict=True):
        assert all(torch.allclose(other.weights[name], value, atol=1e-6) for name, value in one.weights.items())
        assert other.num_target_tokens == one.num_target_tokens
        assert other.sums == pytest.approx(one.sums)
    spoilt = {name: value * float("nan") for name, value in weights.items()}
    with pytest.raises(TrialDivergedError, match="Lower learning_rate"):
        run_as_tasks(1, [dataclasses.replace(jobs[0], first_step=2)], spoilt)
