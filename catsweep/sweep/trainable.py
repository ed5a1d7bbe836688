"""The border between a trial and Ray: the Tune functions that call `run_trial`, and its `report`.

With one worker a trial runs in its own process, which Tune reuses for the next trial. With two or more, `run_trial`
runs on every worker of a Ray Train group, which has set up torch.distributed. Where Tune stops such a trial, Ray 2.60
may keep its workers' places, and the next trial waits for ever. So Tune never stops it: the driver leaves its
decision beside the trial's files, and a report waits for it on every worker (seconds, since Ray Train polls).
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ray import train, tune

from catsweep import storage
from catsweep.cache import is_complete
from catsweep.errors import CatsweepError, TrialDivergedError, is_out_of_space
from catsweep.records import StepMetrics, TrialRecord, read_json, read_record, write_json
from catsweep.spec.sweep import ResourcesSpec, TrialSpec
from catsweep.sweep.clients import run_as_tasks
from catsweep.sweep.group import run_group
from catsweep.sweep.watch import watched

if TYPE_CHECKING:  # it imports torch, which the driver has no use for
    from catsweep.federated import RunClients


class RunTrial(Protocol):
    """Trains and evaluates one trial.

    Writes steps, rows and record.json below `folder`, all of it before the report with final=True; each reported
    objective stands in steps.jsonl as `validation/objective`. Called on every worker; only rank 0 writes. Goes on from
    its own checkpoint where there is one. A report ends the thread (SystemExit) where the trial is stopped early.
    run_clients is given where the trial trains on clients and holds no GPU, which their tasks would not see.
    """

    def __call__(
        self,
        spec: TrialSpec,
        *,
        root: Path,
        folder: Path,
        report: Callable[[StepMetrics], None],
        run_clients: RunClients = ...,
    ) -> TrialRecord: ...


def trainable(run_trial: RunTrial, root: Path, sweep_folder: Path, workers: ResourcesSpec) -> Any:
    """What Tune runs for each trial, with the resources that it holds. Its config is {"trial_id": ...}."""
    arguments = {"run_trial": run_trial, "root": root, "sweep_folder": sweep_folder}
    if workers.num_workers > 1:
        function = tune.with_parameters(_run_group, workers=workers, **arguments)
        # The workers hold the resources, in a group of their own. Tune refuses to hold nothing at all: one byte it is.
        return tune.with_resources(function, {"cpu": 0, "memory": 1})
    held = {"cpu": workers.cpus_per_worker, "gpu": workers.gpus_per_worker}
    return tune.with_resources(tune.with_parameters(_run_alone, workers=workers, **arguments), held)


def tell_decision(folder: Path, step: int, *, stop: bool) -> None:
    """The driver's answer to a report of a trial with several workers."""
    write_json(folder / "decision.json", {"step": step, "stop": stop})


def forget_decision(folder: Path) -> None:
    """Remove what an earlier driver decided, before the trial starts again."""
    storage.delete(folder / "decision.json")


def _must_stop(folder: Path, step: int) -> bool:
    path = folder / "decision.json"
    # Read past the mirror: to bring it could undo what the driver, on this machine too, is just sending.
    while (raw := storage.read(path)) is None or (decision := json.loads(raw))["step"] != step:
        time.sleep(0.2)
    return bool(decision["stop"])


def _run_alone(
    config: dict[str, Any], run_trial: RunTrial, root: Path, sweep_folder: Path, workers: ResourcesSpec
) -> None:
    # A trial that was stopped may take longer than Tune's two seconds to clean up; Tune would fail the next one.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")
    clients = None if workers.gpus_per_worker else functools.partial(run_as_tasks, max(1, int(workers.cpus_per_worker)))
    try:
        with watched(sweep_folder / config["trial_id"], workers.hang_seconds):
            _run(config["trial_id"], run_trial, root, sweep_folder, tune.report, run_clients=clients)
    except Exception as error:  # becomes the trial's record; the process stays good for the next trial
        tune.report(_failure(error))


def _run_group(
    config: dict[str, Any], run_trial: RunTrial, root: Path, sweep_folder: Path, workers: ResourcesSpec
) -> None:
    from ray.tune.integration.ray_train import TuneReportCallback

    arguments = {**config, "run_trial": run_trial, "root": root, "sweep_folder": sweep_folder}
    arguments["hang_seconds"] = workers.hang_seconds
    name, logs = config["trial_id"].replace("/", "+"), sweep_folder / "logs" / "train"
    try:
        run_group(_run_worker, arguments, workers, name=name, logs=logs, callbacks=[TuneReportCallback()])
    except Exception as error:
        tune.report(_failure(error))


def _run_worker(config: dict[str, Any]) -> None:
    arguments = (config["run_trial"], config["root"], config["sweep_folder"])
    folder = config["sweep_folder"] / config["trial_id"]
    with contextlib.suppress(SystemExit), watched(folder, config["hang_seconds"]):  # SystemExit: stopped early
        first = train.get_context().get_world_rank() == 0
        _run(config["trial_id"], *arguments, train.report, waits=True, first=first)


def _run(
    trial_id: str,
    run_trial: RunTrial,
    root: Path,
    sweep_folder: Path,
    send: Callable[..., Any],
    *,
    waits: bool = False,
    first: bool = True,
    run_clients: RunClients | None = None,
) -> None:
    folder = sweep_folder / trial_id
    _bring(root, sweep_folder, folder)
    spec = TrialSpec.model_validate(read_json(folder / "spec.json"))
    ended = read_record(folder)
    if waits:
        ended = _first_ranks(ended)  # on an object store another node may not have it yet
    if ended is not None:  # its process died between its record and its last report
        told = {"step": ended.num_steps, "objective": ended.objective, "final": True, "started_at": ended.started_at}
        send({**ended.metrics, **told})
        return
    started_at = time.time()

    def report(metrics: StepMetrics) -> None:
        if not math.isfinite(metrics.objective):
            raise TrialDivergedError(f"the objective is {metrics.objective} after step {metrics.step}")
        own = {"step": metrics.step, "objective": metrics.objective, "final": metrics.final, "started_at": started_at}
        if first and (folder / "steps.jsonl").exists():
            storage.put(folder / "steps.jsonl")
        send({**metrics.metrics, **own})
        if waits and not metrics.final and _must_stop(folder, metrics.step):
            raise SystemExit

    where = {"run_clients": run_clients} if spec.training.federated and run_clients else {}
    run_trial(spec, root=root, folder=folder, report=report, **where)


def _first_ranks(record: TrialRecord | None) -> TrialRecord | None:
    """What the first of the group's workers found, on all of them."""
    import torch.distributed as dist

    found = [record]
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    return found[0]


def _bring(root: Path, sweep_folder: Path, folder: Path) -> None:
    """What a trial needs from an object store: its own folder with its checkpoint, and all that was prepared."""
    if storage.place_of(root) is None:
        return
    storage.get_folder(folder)
    spec = TrialSpec.model_validate(read_json(folder / "spec.json"))
    task = spec.task.task
    prepared = sweep_folder / "prepared"
    storage.get(prepared / f"{task}.json")
    storage.get_folder(prepared / task)
    for path in [prepared / f"{task}.json", *(prepared / task).rglob("*.json")]:
        facts = read_json(path) if path.exists() else {}
        for part in (facts, *facts.get("chain", {}).values()):
            for kind, key in part.get("keys", {}).items():
                if key and (kind != "large" or spec.training.federated):  # clients make their signal themselves
                    is_complete(root / "cache" / kind / key, hashes=False)


def _failure(error: BaseException) -> dict[str, str]:
    if is_out_of_space(error):
        return {"failure": "no_space", "error": str(error)}
    text = str(error) if isinstance(error, CatsweepError) else "".join(traceback.format_exception(error))
    # OutOfMemoryError is torch's, which is not imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        text = (
            f"{text.rstrip()}\nout of memory; lower training.micro_batch_size or resources.evaluation_batch_size, or give "
            "a trial more of the machine (resources.cpus_per_worker, gpus_per_worker)"
        )
    return {"failure": "diverged" if isinstance(error, TrialDivergedError) else "failed", "error": text}
