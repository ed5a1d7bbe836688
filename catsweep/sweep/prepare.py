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
from ray import train

from catsweep import storage
from catsweep.errors import CatsweepError, is_out_of_space
from catsweep.records import NO_SPACE, read_json, write_json
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.sweep.cluster import worker_resources
from catsweep.sweep.group import run_group


class PrepareTask(Protocol):
    """Makes everything that the trials of a task share, below `root`, and returns plain facts about it. Idempotent."""

    def __call__(self, task: TaskSpec | MixtureSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]: ...


@dataclass(frozen=True)
class UnitResult:
    """How the unit of a task ended. error: empty where it went well."""

    task: str
    facts: dict[str, Any]
    seconds: float
    error: str = ""


class Preparation:
    """The units of all unfinished tasks."""

    def __init__(
        self, tasks: list[TaskSpec | MixtureSpec], spec: SweepSpec, prepare_task: PrepareTask, root: Path
    ) -> None:
        large = spec.resources.large
        held = worker_resources(large) if large.num_workers == 1 else {"CPU": 0.0, "GPU": 0.0}
        unit = ray.remote(_prepare).options(num_cpus=held["CPU"], num_gpus=held["GPU"], max_retries=3)
        self.folder = root / spec.name / "prepare"
        self.waiting = {unit.remote(prepare_task, task, spec, root): task.task for task in tasks}

    @property
    def num_unfinished(self) -> int:
        """Units that have not ended."""
        return len(self.waiting)

    def poll(self, seconds: float = 0.0) -> list[UnitResult]:
        """The units that ended since the last call, waiting at most so long for the first one."""
        if not self.waiting:
            return []
        refs = list(self.waiting)
        ended, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        if ended:
            ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        return [self._take(ref) for ref in ended]

    def _take(self, ref: Any) -> UnitResult:
        task = self.waiting.pop(ref)
        try:
            result: UnitResult = ray.get(ref)
        except ray.exceptions.RayError as error:  # its process or node is gone, also after retries
            result = UnitResult(task, {}, 0.0, str(error))
        storage.get(self.folder.parent / "prepared" / f"{task}.json")
        storage.get_folder(self.folder.parent / "prepared" / task)
        path = self.folder / f"{task}.json"
        write_json(path, {"task": task, "facts": result.facts, "seconds": result.seconds, "error": result.error})
        return result


def _prepare(prepare_task: PrepareTask, task: TaskSpec | MixtureSpec, spec: SweepSpec, root: Path) -> UnitResult:
    started = time.time()
    try:
        _bring(task.task, spec, root)
        if spec.resources.large.num_workers > 1:
            facts = _prepare_in_group(prepare_task, task, spec, root)
        else:
            facts = prepare_task(task, spec, root=root)
    except CatsweepError as error:
        return UnitResult(task.task, {}, time.time() - started, str(error))
    except Exception as error:
        text = f"{task.task}: {error}: {NO_SPACE}" if is_out_of_space(error) else traceback.format_exc()
        return UnitResult(task.task, {}, time.time() - started, text)
    return UnitResult(task.task, facts, time.time() - started)


def _bring(task: str, spec: SweepSpec, root: Path) -> None:
    """What an object store knows of a task that was prepared before, and whether it has trials."""
    folder = root / spec.name
    storage.get(folder / "prepared" / f"{task}.json")
    storage.get_folder(folder / "prepared" / task)
    if storage.exists(folder / "trials" / task):
        (folder / "trials" / task).mkdir(parents=True, exist_ok=True)


def _prepare_in_group(
    prepare_task: PrepareTask, task: TaskSpec | MixtureSpec, spec: SweepSpec, root: Path
) -> dict[str, Any]:
    """Prepare on several workers of Ray Train, which sets up torch.distributed; they hold the unit's resources."""
    logs = root / spec.name / "logs" / "train"
    facts = logs / f"prepare {task.task.replace('/', '+')}.json"
    config = {"prepare_task": prepare_task, "task": task, "spec": spec, "root": root, "facts": facts}
    run_group(_prepare_worker, config, spec.resources.large, name=facts.stem, logs=logs)
    storage.get(facts)
    result: dict[str, Any] = read_json(facts)
    return result


def _prepare_worker(config: dict[str, Any]) -> None:
    _bring(config["task"].task, config["spec"], config["root"])  # it may run on another node
    facts = config["prepare_task"](config["task"], config["spec"], root=config["root"])
    if train.get_context().get_world_rank() == 0:
        write_json(config["facts"], facts)
