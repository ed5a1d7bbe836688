"""One trial, from its spec to its rows and record. This file is the place to start reading."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from catsweep import storage
from catsweep.cascade.compare import macro_mean
from catsweep.cascade.cost import ModelShape, train_flops_per_step
from catsweep.cascade.curve import audc
from catsweep.cascade.latency import BatchSeconds, fit_latency
from catsweep.cascade.rows import make_cascade, objective_value
from catsweep.commits import at_commit
from catsweep.errors import TrialDivergedError
from catsweep.evaluate import evaluate
from catsweep.federated import RunClients, cut_clients, run_in_turn, train_federated
from catsweep.filters.injected import DETECTION
from catsweep.health import starved
from catsweep.large import EVALUATION_SPLITS, gather_rows, task_metrics
from catsweep.lora import add_adapters, merged, num_parameters, num_trained_parameters
from catsweep.models import TargetLogits, build_model, load_config
from catsweep.prepare import Prepared, load_prepared
from catsweep.records import (
    SECOND_OBJECTIVE,
    StepMetrics,
    TrialRecord,
    append_step,
    member_objective,
    read_steps,
    write_record,
    write_rows,
)
from catsweep.shapes import model_shape
from catsweep.sharding import whole_weights
from catsweep.spec.filters import CleanOnlyFilter, NamedQuadrants
from catsweep.spec.mixture import MixtureSpec, members, result_name
from catsweep.spec.search import ObjectiveSpec, lower_is_better
from catsweep.spec.sweep import TrialSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import CatDistLoss, CatXentLoss, DistLoss, LossSpec
from catsweep.teacher import any_of, load_signal
from catsweep.tensors import TeacherSignal
from catsweep.train import MixedData, TrainingData, train
from catsweep.workers import Workers, current_workers, device_name, peak_memory_bytes, share_of

Report = Callable[[StepMetrics], None]
"""The whole border to the tuner. It may end the trial by raising; then rows and record are the caller's business."""


def run_trial(
    spec: TrialSpec, *, root: Path, folder: Path, report: Report, run_clients: RunClients = run_in_turn
) -> TrialRecord:
    """Train one small model and leave its rows and record in `folder`.

    The task must be prepared (see catsweep.prepare). Search trials are evaluated on validation only; confirm runs also
    answer calibration and test after their last step. Under a process group every rank calls this; rank 0 writes.
    run_clients: where the clients of federated training run.
    Raises TrialDivergedError where the loss is not finite.
    """
    started_at = time.time()
    workers = current_workers(spec.parallel)
    torch.manual_seed(spec.seed)
    unit = [Member(task, load_prepared(root, spec.sweep, result_name(spec.task, task))) for task in members(spec.task)]
    spec = at_commit(spec, unit[0].prepared.facts.get("commit"))
    tokenizer = unit[0].prepared.tokenizer()
    model = build_model(spec.small, tokenizer, seed=spec.seed).to(workers.build_device)
    module = TargetLogits(model)
    start_id = getattr(model.config, "decoder_start_token_id", None)
    training_data = make_training_data(spec, unit, pad_id=int(tokenizer.pad_token_id), start_id=start_id)
    module.choose_path(training_data.batch(np.arange(min(4, len(training_data)))))
    training_data = training_data.packed_for(module)
    if spec.training.lora is not None:
        add_adapters(model, spec.training.lora, seed=spec.seed)

    timings: list[BatchSeconds] = []

    def answers(split: str) -> list[pa.Table]:
        return answer_split(split, module, tokenizer, unit, spec, workers, timings)

    record: TrialRecord | None = None

    def on_evaluation(step: int) -> None:
        nonlocal record
        final = step == spec.training.steps
        timings.clear()
        rows = answers("validation")
        (objective, *second), metrics = validation_metrics(rows, spec, unit)
        metrics |= dict(zip([SECOND_OBJECTIVE], second, strict=False))
        if workers.rank == 0:
            append_step(folder, step, {**metrics, "validation/objective": objective})
        if final:
            others = [answers(split) for split in EVALUATION_SPLITS[1:]] if spec.role == "confirm" else []
            keys = load_prepared(root, spec.sweep, spec.task.task).facts["keys"]
            found = noise_found(read_steps(folder))
            record = make_record(
                spec, unit, training_data, keys, module, objective, metrics, started_at, timings, found
            )
            weights = whole_weights(module) if spec.role == "confirm" else {}
            if workers.rank == 0:
                record = with_warnings(record, folder, unit)
                write_rows(folder / "rows.parquet", join_rows(spec.task, [rows, *others]))
                if spec.role == "confirm":
                    model.save_pretrained(folder / "model", state_dict=merged(model, weights))
                    tokenizer.save_pretrained(folder / "model")
                    storage.put_folder(folder / "model")
                write_record(folder, record)
            if workers.size > 1:
                dist.barrier()
        report(StepMetrics(step, objective, metrics, final))

    fit(module, training_data, spec, unit, workers, on_evaluation, root=root, folder=folder, run_clients=run_clients)
    assert record is not None
    return record


@dataclass(frozen=True)
class Member:
    """A task that a trial is evaluated on, and what was prepared for it."""

    task: TaskSpec
    prepared: Prepared


def fit(
    module: TargetLogits,
    data: TrainingData | MixedData,
    spec: TrialSpec,
    unit: list[Member],
    workers: Workers,
    on_evaluation: Callable[[int], None],
    *,
    root: Path,
    folder: Path,
    run_clients: RunClients,
) -> None:
    """Train the trial's model in place, in one piece or on clients."""
    if spec.training.federated is not None:
        sites = cut_clients(spec, unit[0].prepared, root)
        train_federated(module, sites, spec, on_evaluation=on_evaluation, folder=folder, run_clients=run_clients)
        return
    train(
        module,
        data,
        spec.training,
        seed=spec.seed,
        workers=workers,
        evaluate_at=spec.evaluate_at,
        on_evaluation=on_evaluation,
        folder=folder,
    )


def answer_split(
    split: str,
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    unit: list[Member],
    spec: TrialSpec,
    workers: Workers,
    timings: list[BatchSeconds],
) -> list[pa.Table]:
    """Each member's rows of a split, on all ranks. timings: those of this rank's batches are added."""
    tables = []
    for member in unit:
        data = member.prepared.task_data()
        mine = share_of(len(data.tokens(split)), workers)
        rows = evaluate(
            module,
            tokenizer,
            data,
            split,
            member.task,
            task_metrics(member.task),
            architecture=member.prepared.facts["architecture"],
            batch_size=spec.evaluation_batch_size,
            indices=mine,
            timings=timings,
        )
        tables.append(gather_rows(rows, mine, workers))
    return tables


def with_warnings(record: TrialRecord, folder: Path, unit: list[Member]) -> TrialRecord:
    """The record with what makes its numbers mean little, where there is anything: a large model near chance, a filter that
    kept next to nothing."""
    found = [text for member in unit for text in member.prepared.facts.get("large_warnings", [])]
    if (text := starved(folder, record)) is not None:
        found.append(text)
    return replace(record, facts=record.facts | {"warnings": found}) if found else record


def make_training_data(
    spec: TrialSpec, unit: list[Member], *, pad_id: int, start_id: int | None
) -> TrainingData | MixedData:
    """What the trial trains on: the task's examples, or those of all members of a mixture."""
    distils = isinstance(spec.training.loss, DistLoss | CatDistLoss)
    parts = tuple(
        TrainingData(
            member.prepared.task_data().tokens("train"),
            opinions(member.prepared, spec.training.loss, distribution=distils),
            member.prepared.facts["architecture"],
            pad_id=pad_id,
            start_id=start_id,
        )
        for member in unit
    )
    if isinstance(spec.task, MixtureSpec):
        return MixedData(parts, tuple(member.prepared.facts["rate"] for member in unit))
    return parts[0]


def opinions(prepared: Prepared, loss: LossSpec, *, distribution: bool) -> TeacherSignal:
    """The signal that a loss sees: the large model's, or that of all models which its filter asks, as one."""
    large = load_signal(prepared.signal, distribution=distribution)
    asked = loss.filter if isinstance(loss, CatXentLoss | CatDistLoss) else None
    asked = asked.filter if isinstance(asked, CleanOnlyFilter) else asked
    if not isinstance(asked, NamedQuadrants) or asked.models == ["large"]:
        return large
    named = [
        large if name == "large" else load_signal(prepared.of(name).signal, distribution=False) for name in asked.models
    ]
    return any_of(named, large)


def join_rows(unit: TaskSpec | MixtureSpec, tables: list[list[pa.Table]]) -> pa.Table:
    """The rows of some splits, each a list of the members' rows, as one table.

    Rows of a mixture have one more column, `task`; statistics of metrics that a member does not have are null.
    """
    if not isinstance(unit, MixtureSpec):
        return pa.concat_tables([rows for split in tables for rows in split])
    named = [
        rows.add_column(0, "task", pa.array([task.task] * rows.num_rows, pa.string()))
        for split in tables
        for task, rows in zip(members(unit), split, strict=True)
    ]
    return pa.concat_tables(named, promote_options="default")


def validation_metrics(
    tables: list[pa.Table], spec: TrialSpec, unit: list[Member]
) -> tuple[list[float], dict[str, float]]:
    """The one or two objectives on validation, and quality and audc of each metric, named `validation/...`; a quality that is not
    defined (a correlation of answers that are all equal) is left out.

    Of a mixture the names are `validation/<task>/...`, and the objective is the macro mean of the members' objectives in
    units of the metric's range: kinds weigh equally, then tasks. tables: the rows of each member.
    """
    found = [member_metrics(rows, spec, member) for rows, member in zip(tables, unit, strict=True)]
    if not isinstance(spec.task, MixtureSpec):
        return found[0]
    values: dict[str, float] = {}
    shares = []
    for member, (objectives, metrics) in zip(unit, found, strict=True):
        scale = next(iter(task_metrics(member.task).values())).scale
        pairs = zip(objectives, objectives_of(spec), strict=True)
        shares.append([value if lower_is_better(objective) else value / scale for value, objective in pairs])
        values[member_objective(member.task.task)] = shares[-1][0]
        values |= {name.replace("validation/", f"validation/{member.task.task}/", 1): x for name, x in metrics.items()}
    kinds = [member.task.group for member in unit]
    return [macro_mean(kinds, column) for column in zip(*shares, strict=True)], values


def objectives_of(spec: TrialSpec) -> list[ObjectiveSpec]:
    """One objective, or two."""
    return [spec.objective] if spec.second_objective is None else [spec.objective, spec.second_objective]


def member_metrics(rows: pa.Table, spec: TrialSpec, member: Member) -> tuple[list[float], dict[str, float]]:
    """The objectives of one task on its validation rows, and quality and audc of each of its metrics."""
    if not np.isfinite(pc.list_flatten(rows["token_logprobs"]).to_numpy()).all():
        raise TrialDivergedError(
            "the model's log-probabilities are not finite; expected numbers. Lower the learning rate"
        )
    large_rows = member.prepared.large_rows("validation")
    small_shape, large_shape = shapes(spec, member.prepared)
    values: dict[str, float] = {}
    objectives = []
    for metric in task_metrics(member.task).values():
        cascade = make_cascade(
            rows, large_rows, metric, small_shape=small_shape, large_shape=large_shape, costs=[spec.cost]
        )
        curve = cascade.curve(spec.deferral)
        objectives.append([objective_value(objective, curve) for objective in objectives_of(spec)])
        values |= {f"validation/{metric.name}": curve.quality_small, f"validation/{metric.name}_audc": audc(curve)}
    return objectives[0], {name: value for name, value in values.items() if not math.isnan(value)}


def shapes(spec: TrialSpec, prepared: Prepared) -> tuple[ModelShape, ModelShape]:
    """The shapes of the small and the large model, from which FLOPs follow."""
    small = model_shape(load_config(spec.small, prepared.tokenizer()))
    return small, ModelShape.from_dict(prepared.facts["large_shape"])


def make_record(
    spec: TrialSpec,
    unit: list[Member],
    training_data: TrainingData | MixedData,
    keys: dict[str, str | None],
    module: TargetLogits,
    objective: float,
    metrics: dict[str, float],
    started_at: float,
    timings: list[BatchSeconds],
    noise: dict[str, float],
) -> TrialRecord:
    """The record of a trial that ran its full steps. keys: of the folders that were prepared. timings: of the batches
    of its last evaluation, on the first rank. noise: see `noise_found`."""
    latency = fit_latency(timings, device=device_name(), batch_size=spec.evaluation_batch_size)
    small_shape, large_shape = shapes(spec, unit[0].prepared)
    mean_prompt_tokens, mean_target_tokens = training_data.mean_lengths()
    flops_a_step = train_flops_per_step(
        small_shape,
        batch_size=spec.training.batch_size,
        mean_prompt_tokens=mean_prompt_tokens,
        mean_target_tokens=mean_target_tokens,
    )
    return TrialRecord(
        trial_id=spec.trial_id,
        task=spec.task.task,
        stratum=spec.stratum,
        number=spec.number,
        role=spec.role,
        seed=spec.seed,
        status="finished",
        parameters=dict(spec.parameters),
        num_steps=spec.training.steps,
        objective=objective,
        metrics=metrics,
        started_at=started_at,
        ended_at=time.time(),
        train_flops=flops_a_step * spec.training.steps * spec.training.num_clients,
        num_parameters=num_parameters(module.model),
        small_shape=small_shape.to_dict(),
        large_shape=large_shape.to_dict(),
        facts=run_facts()
        | {
            "keys": keys,
            "small_commit": unit[0].prepared.facts.get("commit"),
            "latency": latency.to_dict() if latency else None,
            "target_positions_only": module.fast,
            "num_trained_parameters": num_trained_parameters(module.model),
            "peak_memory_bytes": peak_memory_bytes(),
            **({"noise": noise} if noise else {}),
        },
    )


def noise_found(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the filter did with the tokens that label noise injected, means over the logged steps (see
    filters.injected.detection); empty where there was no noise."""
    values = {name: [step[f"train/{name}"] for step in steps if f"train/{name}" in step] for name in DETECTION}
    return {name: float(np.mean(found)) for name, found in values.items() if found}


@functools.cache
def run_facts() -> dict[str, Any]:
    """Versions, commit, host and device of this process."""
    packages = ("catsweep", "torch", "transformers", "datasets", "sacrebleu", "numpy")
    repository = Path(__file__).parent.parent
    head = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "commit": head.stdout.strip() or None,
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
