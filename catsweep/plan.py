"""What a sweep will do and cost, before it does: trials, steps, FLOPs, disk, and what the caches already hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from catsweep.cascade.cost import ModelShape, forward_flops, train_flops_per_step
from catsweep.models import load_config, model_shape
from catsweep.prepare import Inputs, read_inputs
from catsweep.records import is_complete, read_records
from catsweep.space import rungs, strata, training_tree
from catsweep.spec.load import Sweep
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.tasks.examples import Example

SAMPLED_EXAMPLES = 500
"""Token counts are estimated from so many examples of a split."""


@dataclass(frozen=True)
class TaskPlan:
    """One task's part of a sweep. FLOPs are upper bounds where trials may stop early."""

    task: str
    group: str
    num_rows: dict[str, int]
    num_search_trials: int
    num_confirm_runs: int
    num_done: int
    small_parameters: int
    large_parameters: int
    mean_prompt_tokens: float
    mean_target_tokens: float
    flops_search: float
    flops_confirm: float
    flops_large_finetune: float
    flops_large_pass: float
    disk_bytes: float
    cached: dict[str, bool]

    @property
    def flops(self) -> float:
        """All FLOPs of the task."""
        return self.flops_search + self.flops_confirm + self.flops_large_finetune + self.flops_large_pass


@dataclass(frozen=True)
class Plan:
    """A whole sweep's plan."""

    sweep: str
    strata: list[str]
    rungs: list[int]
    num_samples: int
    confirm_seeds: int
    tasks: list[TaskPlan]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, totals included."""
        total = {
            "num_search_trials": sum(task.num_search_trials for task in self.tasks),
            "num_confirm_runs": sum(task.num_confirm_runs for task in self.tasks),
            "flops": sum(task.flops for task in self.tasks),
            "disk_bytes": sum(task.disk_bytes for task in self.tasks),
        }
        return {**asdict(self), "total": total}


def make_plan(sweep: Sweep, *, root: Path) -> Plan:
    """The plan of a sweep: reads every task's data, but starts neither Ray nor a model. Raises DataError, ModelError."""
    spec = sweep.spec
    names = list(strata(training_tree(spec), spec.search.stratify))
    tasks = [_plan_task(task, spec, len(names), root) for task in sweep.tasks]
    return Plan(spec.name, names, rungs(spec), spec.search.num_samples, spec.search.confirm_seeds, tasks)


def _plan_task(task: TaskSpec, spec: SweepSpec, num_strata: int, root: Path) -> TaskPlan:
    inputs = read_inputs(task, spec, root=root)
    small = model_shape(load_config(spec.small, inputs.tokenizer))
    large = model_shape(load_config(spec.large, inputs.tokenizer))
    prompt, target = _mean_tokens(inputs.examples["train"], inputs.tokenizer)
    num_rows = {split: len(rows) for split, rows in inputs.examples.items()}

    def steps_flops(shape: ModelShape, steps: int, batch_size: int) -> float:
        return steps * train_flops_per_step(
            shape, batch_size=batch_size, mean_prompt_tokens=prompt, mean_target_tokens=target
        )

    def answer_flops(shape: ModelShape, splits: tuple[str, ...]) -> float:
        return float(forward_flops(shape, [prompt], [target])[0]) * sum(num_rows[split] for split in splits)

    training, finetune = spec.training, spec.large.finetune
    run = steps_flops(small, training.steps, training.batch_size)
    num_search = num_strata * spec.search.num_samples
    num_confirm = num_strata * spec.search.confirm_seeds
    evaluated = num_search * len(rungs(spec)) * answer_flops(small, ("validation",))
    tested = ("validation", "calibration", "test")
    cached = {name: is_complete(folder, hashes=False) for name, folder in inputs.folders(root).items()}
    return TaskPlan(
        task=task.task,
        group=task.group,
        num_rows=num_rows,
        num_search_trials=num_search,
        num_confirm_runs=num_confirm,
        num_done=_num_done(root / spec.name, task.task),
        small_parameters=_parameters(small),
        large_parameters=_parameters(large),
        mean_prompt_tokens=prompt,
        mean_target_tokens=target,
        flops_search=num_search * run + evaluated,
        flops_confirm=num_confirm * (run + answer_flops(small, tested)),
        flops_large_finetune=steps_flops(large, finetune.steps, finetune.batch_size) if finetune else 0.0,
        flops_large_pass=answer_flops(large, ("train", *tested)),
        disk_bytes=_disk_of_cache(inputs, num_rows, prompt + target, target, _parameters(large) if finetune else 0)
        + _disk_of_trials(num_rows, target, _parameters(small), num_search, num_confirm),
        cached=cached,
    )


def _mean_tokens(examples: list[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
    some = examples[:: max(1, len(examples) // SAMPLED_EXAMPLES)]
    prompts = tokenizer([example.prompt for example in some])["input_ids"]
    targets = tokenizer([example.target for example in some], add_special_tokens=False)["input_ids"]
    return float(np.mean([len(ids) for ids in prompts])), float(np.mean([len(ids) + 1 for ids in targets]))


def _parameters(shape: ModelShape) -> int:
    return (
        shape.decoder_parameters + shape.head_parameters + shape.encoder_parameters + shape.cross_key_value_parameters
    )


def _disk_of_cache(inputs: Inputs, num_rows: dict[str, int], tokens: float, target: float, large: int) -> float:
    """Bytes of data (4 a token id), signal (3 a target token, and the distribution) and the large model (4 a weight)."""
    entry = 3 + (2 * inputs.distribution.num_entries if inputs.distribution else 0)
    return 4 * sum(num_rows.values()) * tokens + num_rows["train"] * target * entry + 4 * large


def _disk_of_trials(num_rows: dict[str, int], target: float, small: int, num_search: int, num_confirm: int) -> float:
    """Bytes of rows (12 an output token), of the confirmed runs' weights, and of one checkpoint with both moments."""
    validation, tested = num_rows["validation"], num_rows["calibration"] + num_rows["test"]
    rows = num_search * validation + (num_confirm + 1) * (validation + tested)
    return 12 * target * rows + 4 * small * num_confirm + 12 * small


def _num_done(folder: Path, task: str) -> int:
    if not folder.exists():
        return 0
    return sum(record.task == task for role in ("trials", "confirm") for record in read_records(folder, role))
