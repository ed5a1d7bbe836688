"""The clients of a federated trial as Ray tasks on the trial's node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:  # it imports torch, which the driver has no use for
    from catsweep.federated import ClientJob, ClientUpdate, Weights


def run_as_tasks(num_at_once: int, jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
    """Run each client's part of a round as a Ray task; a federated.RunClients when `num_at_once` is bound.

    The tasks ask the cluster for nothing: their trial waits for them, so they have its place, and at most `num_at_once`
    run side by side. Tasks whose process dies are started again: a client's part follows from its job alone. Raises
    what a client raised.
    """
    from catsweep.federated import run_client

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = ray.remote(run_client).options(num_cpus=0, max_retries=3, scheduling_strategy=here)
    shared = ray.put(weights)
    waiting = list(enumerate(jobs))
    running: dict[Any, int] = {}
    updates: dict[int, ClientUpdate] = {}
    while waiting or running:
        while waiting and len(running) < num_at_once:
            place, job = waiting.pop(0)
            running[task.remote(job, shared)] = place
        ended, _ = ray.wait(list(running), num_returns=1)
        try:
            updates |= {running.pop(ref): ray.get(ref) for ref in ended}
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
    return [updates[place] for place in range(len(jobs))]
