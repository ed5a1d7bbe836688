"""A small finished sweep on disk, made without training anything: input for curves, tracking and reports.

Three tasks of three kinds; the third has too few test rows for macro claims. Each stratum has its own quality, so that
results are known in their direction: cat_xent/either is better than xent, cat_xent/shuffled is not.
"""

from __future__ import annotations

import functools
import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catsweep.cascade.cost import ModelShape
from catsweep.cascade.metrics import Metric, get_metric
from catsweep.curves import compute_task, summarise
from catsweep.records import Status, TrialRecord, append_step, rows_schema, write_json, write_record, write_rows
from catsweep.records import write_sweep as write_sweep_json
from catsweep.space import Place, build_confirm, build_trial, draw, strata, training_tree
from catsweep.spec.dimensions import Interval
from catsweep.spec.load import Sweep, load_sweep
from catsweep.spec.sweep import TrialSpec
from catsweep.spec.task import TaskSpec

TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
"""The config of a model that trains in a blink."""


SWEEP_YAML = """
name: tiny
tasks: [lemma.yaml, nordic.yaml, emoji.yaml]
small: {config: {model_type: llama, hidden_size: 64}, tokenizer: {kind: char}}
large:
  config: {model_type: llama, hidden_size: 256}
  finetune: {steps: 400, learning_rate: 1e-3}
training: {steps: 120, batch_size: 16}
search:
  num_samples: 4
  confirm_seeds: 3
  scheduler: {type: asha, grace_period: 40}
  space:
    learning_rate: {space: loguniform, lower: 1e-4, upper: 1e-2}
    loss:
      space: choice
      options:
        - {kind: xent}
        - {kind: dist, weight: {space: uniform, lower: 0, upper: 1}}
        - kind: cat_xent
          filter: {space: choice, options: [{kind: either}, {kind: shuffled}]}
cascade: {deferral: [mean, max], num_resamples: 100}
"""

TASK_YAML = """
task: {task}
group: {group}
source: {{kind: files, format: jsonl, train: train.jsonl}}
output_type: {output_type}
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{target}}}}"
{choices}metric_list: {metrics}
"""

TASKS = {
    "lemma": ("lemma/cs", "lemmatisation", "generate_until", "", "[{metric: exact_match}]"),
    "nordic": (
        "langid/nordic", "language_identification", "multiple_choice", "doc_to_choice: [da, nb, nn, sv]\n",
        "[{metric: accuracy}]",
    ),
    "emoji": ("emoji/en-fr", "translation", "generate_until", "", "[{metric: chrf}, {metric: bleu}]"),
}  # fmt: skip
NUM_ROWS = {"lemma/cs": 600, "langid/nordic": 600, "emoji/en-fr": 120}
SKILL = {"xent": 0.0, "dist": 0.05, "cat_xent/either": 0.25, "cat_xent/shuffled": -0.02}
"""Added to the small model's ability, in logits."""
SMALL = ModelShape("decoder", 400_000, 64_000, 4, 64)
LARGE = ModelShape("decoder", 6_400_000, 256_000, 8, 256)
START = 1_767_225_600.0
"""When the first trial started: seconds since the epoch."""


class RandomChooser:
    """Draws uniformly; see space.Chooser."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def categorical(self, place: Place, shown: list[Any]) -> int:
        return self.random.randrange(len(shown))

    def number(self, place: Place, interval: Interval) -> float:
        if interval.log:
            return math.exp(self.random.uniform(math.log(interval.lower), math.log(interval.upper)))
        return self.random.uniform(interval.lower, interval.upper)


def load_synthetic(folder: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """The sweep's YAML files, written to a folder and read back."""
    (folder / "tiny.yaml").write_text(SWEEP_YAML)
    for name, (task, group, output_type, choices, metrics) in TASKS.items():
        text = TASK_YAML.format(task=task, group=group, output_type=output_type, choices=choices, metrics=metrics)
        (folder / f"{name}.yaml").write_text(text)
    return load_sweep(folder / "tiny.yaml", overrides)


ONE_TASK = (
    "tasks=[nordic.yaml]",
    "search.confirm_seeds=2",
    "search.space.loss={space: choice, options: [{kind: xent}, {kind: cat_xent, filter: {kind: either}}]}",
)
"""Overrides that leave one task, two strata and twelve runs."""


@functools.cache
def _built(overrides: tuple[str, ...]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    build_sweep(Path(folder.name), overrides)
    return folder


def copy_sweep(root: Path, overrides: tuple[str, ...] = ()) -> Path:
    """A copy of the sweep, with curves, below root; it is built once in a process. Returns root."""
    shutil.copytree(_built(overrides).name, root, dirs_exist_ok=True)
    return root


def build_sweep(root: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """Write the whole sweep below root: sweep.json, prepared tasks, answers of the large model, trials, confirm runs,
    and the curves computed from them."""
    root.mkdir(parents=True, exist_ok=True)
    sweep = load_synthetic(root, overrides)
    folder = root / sweep.spec.name
    write_sweep_json(folder, sweep.spec, sweep.tasks)
    for index, task in enumerate(sweep.tasks):
        _write_prepared(root, sweep, task)
        for stratum, tree in strata(training_tree(sweep.spec), sweep.spec.search.stratify).items():
            ability = SKILL[stratum]
            for number in range(sweep.spec.search.num_samples):
                value, parameters = draw(tree, RandomChooser(number))
                trial = build_trial(sweep.spec, task, stratum, number, value, parameters)
                _write_trial(folder, trial, index, ability)
                if number == 0:
                    for seed in range(sweep.spec.search.confirm_seeds):
                        _write_confirm(folder, build_confirm(trial, seed), index, ability)
    summarise(root, sweep.spec.name, [compute_task(root, sweep.spec.name, task.task) for task in sweep.tasks])
    return sweep


def make_record(trial: TrialSpec, status: Status, objective: float | None, minute: int) -> TrialRecord:
    """The record of a trial that started so many minutes after START."""
    steps = {"finished": 120, "stopped": 40, "diverged": 10, "failed": 0}[status]
    return TrialRecord(
        trial_id=trial.trial_id, task=trial.task.task, stratum=trial.stratum, number=trial.number, role=trial.role,
        seed=trial.seed, status=status, parameters=dict(trial.parameters), num_steps=steps, objective=objective,
        metrics={} if objective is None else {"validation/quality": objective},
        started_at=START + 60 * minute, ended_at=START + 60 * minute + 30.5, train_flops=1e9 * steps,
        num_parameters=500_000, small_shape=SMALL.to_dict(), large_shape=LARGE.to_dict(),
        facts={"commit": "0123456789abcdef0123456789abcdef01234567", "versions": {"catsweep": "0.1.0"}},
        error="RuntimeError: <out of luck> at https://me:hunter2@example.org/x" if status == "failed" else "",
    )  # fmt: skip


def _write_trial(folder: Path, trial: TrialSpec, index: int, ability: float) -> None:
    """Number 0 wins, 1 finishes, 2 is stopped at its first rung, 3 fails or diverges (finishes where not xent)."""
    bad: Status = "diverged" if index else "failed"
    statuses: list[Status] = ["finished", "finished", "stopped", bad if trial.stratum == "xent" else "finished"]
    status = statuses[trial.number]
    objective = None if status in ("failed", "diverged") else 0.6 + ability / 5 - 0.01 * trial.number
    record = make_record(trial, status, objective, 100 * index + trial.number)
    _write_steps(folder / trial.trial_id, record)
    write_json(folder / trial.trial_id / "spec.json", trial.to_json())
    write_record(folder / trial.trial_id, record)


def _write_confirm(folder: Path, trial: TrialSpec, index: int, ability: float) -> None:
    record = make_record(trial, "finished", 0.6, 100 * index + 10 + trial.seed)
    _write_steps(folder / trial.trial_id, record)
    write_json(folder / trial.trial_id / "spec.json", trial.to_json())
    write_rows(folder / trial.trial_id / "rows.parquet", make_rows(trial.task, 0.2 + ability, seed=trial.seed))
    write_record(folder / trial.trial_id, record)


def _write_steps(folder: Path, record: TrialRecord) -> None:
    folder.mkdir(parents=True)
    for step in range(10, record.num_steps + 1, 10):
        metrics = {"train/loss": 3.0 * 0.98**step, "train/kept_share": 1.0 if record.stratum == "xent" else 0.8}
        if step in (40, 120):
            metrics["validation/objective"] = 0.6 * step / 120
        append_step(folder, step, metrics, at=record.started_at + step / 10)


def _write_prepared(root: Path, sweep: Sweep, task: TaskSpec) -> None:
    name = task.task.replace("/", "-")
    keys = {"data": f"data-{name}", "large": f"large-{name}", "signal": f"signal-{name}", "answers": f"answers-{name}"}
    test = NUM_ROWS[task.task]
    num_rows = {"large_train": 900, "train": 900, "validation": 120, "calibration": 120, "test": test}
    facts = {"keys": keys, "num_rows": num_rows, "architecture": "decoder", "large_shape": LARGE.to_dict()}
    write_json(root / sweep.spec.name / "prepared" / f"{task.task}.json", facts)
    write_rows(root / "cache" / "answers" / keys["answers"] / "rows.parquet", make_rows(task, 1.5, seed=0))


def make_rows(task: TaskSpec, ability: float, *, seed: int) -> pa.Table:
    """Answers to 120 validation, 120 calibration and all test queries of a model with so much ability.

    A query's difficulty is the same for all models; the surer a model is, the more often it is right.
    """
    metrics = {item.metric: get_metric(item.metric) for item in task.metric_list}
    columns: dict[str, list[Any]] = {field.name: [] for field in rows_schema(list(metrics))}
    for split, size in {"validation": 120, "calibration": 120, "test": NUM_ROWS[task.task]}.items():
        difficulty = np.random.default_rng(len(split)).normal(size=size)
        noise = np.random.default_rng([seed, round(1000 * ability), *task.task.encode()])
        for index in range(size):
            logit = ability + 0.3 - difficulty[index]
            right = noise.random() < 1 / (1 + math.exp(-2 * logit))
            logprob = -math.log1p(math.exp(-logit + 0.5 * noise.normal()))
            _add_row(columns, task, metrics, f"{split}-{index}", split, bool(right), logprob)
    return pa.table(columns, schema=rows_schema(list(metrics)))


def _add_row(
    columns: dict[str, list[Any]], task: TaskSpec, metrics: dict[str, Metric], name: str, split: str, right: bool,
    logprob: float,
) -> None:  # fmt: skip
    is_choice = task.output_type == "multiple_choice"
    target = "nb" if is_choice else f"le mot de la ligne {len(name)}"
    output = target if right else "da" if is_choice else "le mot sans suite"
    values = {
        "id": name, "group": name, "split": split, "output": output, "num_prompt_tokens": 12, "num_output_tokens": 6,
        "token_logprobs": [logprob, logprob / 2], "token_entropies": [0.5, 0.5], "token_margins": [0.5, 0.5],
        "choice_logprobs": [logprob, logprob - 1.0] if is_choice else [],
        "choice_num_tokens": [2, 2] if is_choice else [],
    }  # fmt: skip
    values |= {f"statistics/{key}": _statistics(metric, output, target) for key, metric in metrics.items()}
    for column, value in values.items():
        columns[column].append(value)


@functools.lru_cache
def _statistics(metric: Metric, output: str, target: str) -> list[float]:
    return metric.statistics(output, [target])
