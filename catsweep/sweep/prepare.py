"""What a task needs before its trials: one Ray task for each, from data to the large model's pass.

A unit holds its resources from start to end and all units are submitted before the first trial starts, because the
processes of trials never give their place up while a search lasts.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from catsweep.errors import CatsweepError
from catsweep.records import write_json
from catsweep.spec.sweep import SweepSpec, WorkerSpec
from catsweep.spec.task import TaskSpec


class PrepareTask(Protocol):
    """Makes everything that the trials of a task share, below `root`, and returns plain facts about it. Idempotent."""

    def __call__(self, task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Prepared:
    """How the unit of a task ended. error: empty where it went well."""

    task: str
    facts: dict[str, Any]
    seconds: float
    error: str = ""


class Preparation:
    """The units of all unfinished tasks."""

    def __init__(self, tasks: list[TaskSpec], spec: SweepSpec, prepare_task: PrepareTask, root: Path) -> None:
        held = unit_resources(spec.resources.large)
        unit = ray.remote(_prepare).options(num_cpus=held["CPU"], num_gpus=held["GPU"], max_retries=3)
        self.folder = root / spec.name / "prepare"
        self.waiting = {unit.remote(prepare_task, task, spec, root): task.task for task in tasks}

    @property
    def num_unfinished(self) -> int:
        """Units that have not ended."""
        return len(self.waiting)

    def poll(self, seconds: float = 0.0) -> list[Prepared]:
        """The units that ended since the last call, waiting at most so long for the first one."""
        if not self.waiting:
            return []
        refs = list(self.waiting)
        ended, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        if ended:
            ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._take(ref) for ref in ended]

    def _take(self, ref: Any) -> Prepared:
        task = self.waiting.pop(ref)
        try:
            result: Prepared = ray.get(ref)
        except ray.exceptions.RayError as error:  # its process or node is gone, also after retries
            result = Prepared(task, {}, 0.0, str(error))
        path = self.folder / f"{task}.json"
        write_json(path, {"task": task, "facts": result.facts, "seconds": result.seconds, "error": result.error})
        return result


def unit_resources(large: WorkerSpec) -> dict[str, float]:
    """What the one process of a unit holds."""
    return {"CPU": large.num_workers * large.cpus_per_worker, "GPU": large.num_workers * large.gpus_per_worker}


def _prepare(prepare_task: PrepareTask, task: TaskSpec, spec: SweepSpec, root: Path) -> Prepared:
    started = time.time()
    try:
        facts = prepare_task(task, spec, root=root)
    except CatsweepError as error:
        return Prepared(task.task, {}, time.time() - started, str(error))
    except Exception:
        return Prepared(task.task, {}, time.time() - started, traceback.format_exc())
    return Prepared(task.task, facts, time.time() - started)
