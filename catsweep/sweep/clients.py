"""The clients of a federated trial as Ray tasks on the trial's node."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:  # it imports torch, which the driver has no use for
    from catsweep.federated import ClientJob, ClientUpdate, Weights


class ClientProcess:
    """Takes clients' parts one after another, as tasks of an actor.

    Its process stays, with the models and data that it has loaded. Those of plain tasks Ray ends after a second without work
    where a node has more processes than cores, and to import torch anew takes longer than a small model's rounds.
    """

    def run(self, job: ClientJob, weights: Weights) -> ClientUpdate:
        """One client's part of a round."""
        from catsweep.federated import run_client

        return run_client(job, weights)


@functools.lru_cache(maxsize=1)
def _processes(job_id: str, node_id: str, number: int) -> list[Any]:
    """So many processes on a node, for all trials of this one. One that dies is started again with the part that it had: a
    client's part follows from its job alone."""
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    settings = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 3, "scheduling_strategy": here}
    return [ray.remote(ClientProcess).options(**settings).remote() for _ in range(number)]


def run_as_tasks(num_at_once: int, jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
    """Run each client's part of a round as a Ray task; a federated.RunClients when `num_at_once` is bound.

    The tasks ask the cluster for nothing: their trial waits for them, so they have its place, and at most `num_at_once`
    run side by side. Raises what a client raised.
    """
    context = ray.get_runtime_context()
    free = list(_processes(context.get_job_id(), context.get_node_id(), num_at_once))
    shared = ray.put(weights)
    waiting = list(enumerate(jobs))
    running: dict[Any, tuple[int, Any]] = {}
    updates: dict[int, ClientUpdate] = {}
    while waiting or running:
        while waiting and free:
            place, job = waiting.pop(0)
            process = free.pop()
            running[process.run.remote(job, shared)] = (place, process)
        (ended,), _ = ray.wait(list(running), num_returns=1)
        place, process = running.pop(ended)
        free.append(process)
        try:
            updates[place] = ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
    return [updates[place] for place in range(len(jobs))]
