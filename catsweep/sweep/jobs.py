"""Plain functions over many items as Ray tasks: the curves of a sweep, computed on its cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import ray

from catsweep.sweep.cluster import Cluster

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], *, cluster: Cluster, cpus: float = 1.0
) -> list[Result]:
    """function(item) for each item, in their order, each in a Ray task that holds `cpus`.

    The first exception of the function travels on, as an error that is both Ray's and of the function's own type.
    """
    if not items:
        return []
    cluster.connect()
    task = ray.remote(_call).options(num_cpus=cpus)
    results: list[Result] = ray.get([task.remote(function, item) for item in items])
    return results


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """Ray takes functions only; `function` may be any callable that pickles."""
    return function(item)
