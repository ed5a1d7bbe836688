"""Several workers that train together: a group of Ray Train, which sets up torch.distributed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import train

from catsweep.spec.sweep import WorkerSpec
from catsweep.sweep.cluster import worker_resources

MAX_STARTS = 3
"""So often is a group started whose processes die. Also Ray itself may take one down: where the machine is so busy that
its state API has no answer, Ray 2.60 takes the group's controller for dead."""


def run_group(
    worker: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    workers: WorkerSpec,
    *,
    name: str,
    logs: Path,
    callbacks: list[Any] | None = None,
) -> None:
    """Run worker(config) on every worker of a group. Raises what a worker raised.

    A group whose processes died (not: whose code raised) is started again, and `worker` should go on from what it has
    left on storage.
    """
    from ray.train.torch import TorchTrainer  # imports torch, which the driver has no use for

    for start in range(1, MAX_STARTS + 1):
        trainer = TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(
                num_workers=workers.num_workers,
                use_gpu=workers.gpus_per_worker > 0,
                resources_per_worker=worker_resources(workers),
            ),
            run_config=train.RunConfig(name=name, storage_path=str(logs), callbacks=callbacks),
        )
        try:
            trainer.fit()
            return
        except train.TrainingFailedError as error:
            failure = first_failure(error)
            if start == MAX_STARTS or not is_rays_own(failure):
                raise failure from error
            logging.getLogger("ray.catsweep").warning("%s: its group is started again after %s", name, failure)


def first_failure(error: Exception) -> BaseException:
    """What went wrong first: an error of our own code on any worker, else of Ray, else the error itself."""
    failures = list(getattr(error, "worker_failures", {}).values())
    own = [failure for failure in failures if not is_rays_own(failure)]
    return next(iter([*own, *failures]), error)


def is_rays_own(failure: BaseException) -> bool:
    """Whether Ray raised it: a process died, or a group did not start. What a worker's code raises is no such error."""
    return type(failure).__module__.split(".")[0] == "ray"
