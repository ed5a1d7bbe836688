"""One trial, from its spec to its rows and record. This file is the place to start reading."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed as dist

from catsweep.cascade.cost import ModelShape, train_flops_per_step
from catsweep.cascade.curve import audc
from catsweep.cascade.rows import make_cascade, objective_value
from catsweep.errors import TrialDivergedError
from catsweep.evaluate import evaluate
from catsweep.models import TargetLogits, build_model, load_config, model_shape
from catsweep.prepare import EVALUATION_SPLITS, Prepared, gather_rows, load_prepared, task_metrics
from catsweep.records import StepMetrics, TrialRecord, append_step, write_record, write_rows
from catsweep.spec.sweep import TrialSpec
from catsweep.spec.training import CatDistLoss, DistLoss
from catsweep.teacher import load_signal
from catsweep.train import TrainingData, current_workers, peak_memory_bytes, train

Report = Callable[[StepMetrics], None]
"""The whole border to the tuner. It may end the trial by raising; then rows and record are the caller's business."""


def run_trial(spec: TrialSpec, *, root: Path, folder: Path, report: Report) -> TrialRecord:
    """Train one small model and leave its rows and record in `folder`.

    The task must be prepared (see catsweep.prepare). Search trials are evaluated on validation only; confirm runs also
    answer calibration and test after their last step. Under a process group every rank calls this; rank 0 writes.
    Raises TrialDivergedError where the loss is not finite.
    """
    started_at = time.time()
    workers = current_workers()
    torch.manual_seed(spec.seed)
    prepared = load_prepared(root, spec.sweep, spec.task.task)
    tokenizer = prepared.tokenizer()
    model = build_model(spec.small, tokenizer, seed=spec.seed).to(workers.device)
    module = TargetLogits(model)
    data = prepared.task_data()
    distils = isinstance(spec.training.loss, DistLoss | CatDistLoss)
    training_data = TrainingData(
        data.tokens("train"),
        load_signal(prepared.signal, distribution=distils),
        prepared.facts["architecture"],
        pad_id=int(tokenizer.pad_token_id),
        start_id=getattr(model.config, "decoder_start_token_id", None),
    )
    module.choose_path(training_data.batch(np.arange(min(4, len(training_data.tokens)))))

    def answers(split: str) -> pa.Table:
        mine = np.arange(len(data.tokens(split)))[workers.rank :: workers.size]
        rows = evaluate(
            module,
            tokenizer,
            data,
            split,
            spec.task,
            task_metrics(spec.task),
            architecture=training_data.architecture,
            batch_size=spec.evaluation_batch_size,
            indices=mine,
        )
        return gather_rows(rows, mine, workers)

    record: TrialRecord | None = None

    def on_evaluation(step: int) -> None:
        nonlocal record
        final = step == spec.training.steps
        rows = answers("validation")
        objective, metrics = validation_metrics(rows, spec, prepared)
        if workers.rank == 0:
            append_step(folder, step, {**metrics, "validation/objective": objective})
        if final:
            others = [answers(split) for split in EVALUATION_SPLITS[1:]] if spec.role == "confirm" else []
            record = make_record(spec, prepared, module, objective, metrics, started_at)
            if workers.rank == 0:
                write_rows(folder / "rows.parquet", pa.concat_tables([rows, *others]))
                if spec.role == "confirm":
                    model.save_pretrained(folder / "model", safe_serialization=True)
                    tokenizer.save_pretrained(folder / "model")
                write_record(folder, record)
            if workers.size > 1:
                dist.barrier()
        report(StepMetrics(step, objective, metrics, final))

    train(
        module,
        training_data,
        spec.training,
        seed=spec.seed,
        workers=workers,
        evaluate_at=spec.evaluate_at,
        on_evaluation=on_evaluation,
        folder=folder,
    )
    assert record is not None
    return record


def validation_metrics(rows: pa.Table, spec: TrialSpec, prepared: Prepared) -> tuple[float, dict[str, float]]:
    """The objective on validation, and quality and audc of each metric, named `validation/...`; a quality that is not
    defined (a correlation of answers that are all equal) is left out."""
    if not np.isfinite(pc.list_flatten(rows["token_logprobs"]).to_numpy()).all():
        raise TrialDivergedError(
            "the model's log-probabilities are not finite; expected numbers. Lower the learning rate"
        )
    large_rows = prepared.large_rows("validation")
    small_shape, large_shape = shapes(spec, prepared)
    values: dict[str, float] = {}
    objectives = []
    for metric in task_metrics(spec.task).values():
        cascade = make_cascade(rows, large_rows, metric, small_shape=small_shape, large_shape=large_shape)
        curve = cascade.curve(spec.deferral)
        objectives.append(objective_value(spec.objective, curve))
        values |= {f"validation/{metric.name}": curve.quality_small, f"validation/{metric.name}_audc": audc(curve)}
    return objectives[0], {name: value for name, value in values.items() if not math.isnan(value)}


def shapes(spec: TrialSpec, prepared: Prepared) -> tuple[ModelShape, ModelShape]:
    """The shapes of the small and the large model, from which FLOPs follow."""
    small = model_shape(load_config(spec.small, prepared.tokenizer()))
    return small, ModelShape.from_dict(prepared.facts["large_shape"])


def make_record(
    spec: TrialSpec,
    prepared: Prepared,
    module: TargetLogits,
    objective: float,
    metrics: dict[str, float],
    started_at: float,
) -> TrialRecord:
    """The record of a trial that ran its full steps."""
    small_shape, large_shape = shapes(spec, prepared)
    tokens = prepared.task_data().tokens("train")
    flops_a_step = train_flops_per_step(
        small_shape,
        batch_size=spec.training.batch_size,
        mean_prompt_tokens=float(tokens.prompts.lengths.mean()),
        mean_target_tokens=float(tokens.targets.lengths.mean()),
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
        train_flops=flops_a_step * spec.training.steps,
        num_parameters=sum(parameter.numel() for parameter in module.model.parameters()),
        small_shape=small_shape.to_dict(),
        large_shape=large_shape.to_dict(),
        facts=run_facts()
        | {
            "keys": prepared.facts["keys"],
            "target_positions_only": module.fast,
            "peak_memory_bytes": peak_memory_bytes(),
        },
    )


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
