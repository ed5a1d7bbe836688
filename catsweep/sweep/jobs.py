"""Plain functions over many items as Ray tasks: the curves of a sweep, computed on its cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import ray

from catsweep import storage
from catsweep.cache import is_complete
from catsweep.curves import compute_task
from catsweep.damage import answer_folders
from catsweep.spec.base import Json
from catsweep.sweep.cluster import Cluster

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cluster: Cluster,
    cpus: float = 1.0,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """function(item) for each item, in their order, each in a Ray task that holds `cpus`.

    on_result: called with every result as soon as it is there. The first exception of the function travels on, as an error
    that is both Ray's and of the function's own type.
    """
    if not items:
        return []
    cluster.connect()
    task = ray.remote(_call).options(num_cpus=cpus)
    waiting = references = [task.remote(function, item) for item in items]
    results: dict[ray.ObjectRef, Result] = {}
    while waiting:
        (done,), waiting = ray.wait(waiting)
        results[done] = ray.get(done)
        on_result(results[done])
    return [results[reference] for reference in references]


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    """Ray takes functions only; `function` may be any callable that pickles."""
    return function(item)


def compute_on_a_node(root: Path, name: str, task: str) -> Json:
    """compute_task, with what it reads brought from an object store."""
    if storage.place_of(root) is not None:
        storage.get_folder(root / name, skip=storage.NOT_PULLED)  # beside others on this node: nothing goes
        for folder in answer_folders(root, name, task):
            is_complete(folder)  # which brings it
    return compute_task(root, name, task)
