"""What a task needs before its trials, made once and shared by all of them: data, large model, its signal and answers.

    data     texts and token ids of all splits
    large    the large model's fine-tune, where the sweep asks for one
    signal   rank and log-probability (and, for dist losses, the distribution) of each training target
    answers  the large model's rows of validation, calibration and test

Each lies in a content-addressed folder of <root>/cache; <root>/<sweep>/prepared/<task>.json names the four.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from catsweep.commits import at_commit, small_facts
from catsweep.crossfit import Folded, cross_fit
from catsweep.data import TaskData, write_task_data
from catsweep.errors import ModelError, SweepChangedError
from catsweep.inputs import Inputs, chain_inputs, read_inputs
from catsweep.large import EVALUATION_SPLITS, LargeModel, settle
from catsweep.models import (
    load_config,
    model_key,
    position_limit,
)
from catsweep.partition import partition
from catsweep.records import read_json, read_rows, write_json
from catsweep.space import federated_options
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.sweep import SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.tasks.fingerprint import unit_fingerprint
from catsweep.workers import Workers, barrier, current_workers


@dataclass(frozen=True)
class Prepared:
    """Where a task's data, signal and answers lie. large_model is None where the large model is used as it is."""

    data: Path
    large_model: Path | None
    signal: Path
    answers: Path
    facts: dict[str, Any]

    def task_data(self) -> TaskData:
        """Texts and token ids."""
        return TaskData(self.data)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokeniser of both models."""
        return saved_tokenizer(self.data / "tokenizer")

    def of(self, name: str) -> Prepared:
        """The same with a further model of the chain in the large one's place."""
        return prepared_from(self.data.parent.parent, self.facts["chain"][name])

    def large_rows(self, split: str | None = None) -> pa.Table:
        """The large model's rows."""
        return read_rows(self.answers / "rows.parquet", split)


@functools.lru_cache(maxsize=8)
def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokeniser in a folder of prepared data."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def prepared_path(root: Path, sweep: str, task: str) -> Path:
    """The file that names a task's prepared folders."""
    return root / sweep / "prepared" / f"{task}.json"


def load_prepared(root: Path, sweep: str, task: str) -> Prepared:
    """What was made for a task, or for a member of a mixture, `mixture/task`. Raises StorageError where it has not run."""
    return prepared_from(root / "cache", read_json(prepared_path(root, sweep, task)))


def prepared_from(cache: Path, facts: dict[str, Any]) -> Prepared:
    """Where the folders that these facts name lie."""
    large = cache / "large" / facts["keys"]["large"] if facts["keys"]["large"] else None
    return Prepared(
        cache / "data" / facts["keys"]["data"],
        large,
        cache / "signal" / facts["keys"]["signal"],
        cache / "answers" / facts["keys"]["answers"],
        facts,
    )


def prepare_task(task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]:
    """Make what is missing (or damaged) of a task's data, large model, signal and answers; returns facts about them.

    Called by every rank where the large model trains on several. Raises DataError, ModelError, and SweepChangedError
    where the sweep has results that were made from other data.
    """
    workers = current_workers(spec.resources.large.parallel)
    path = prepared_path(root, spec.name, task.task)
    trials = root / spec.name / "trials" / task.task
    known = small_facts(spec.small, path)
    spec = at_commit(spec, known["commit"])
    inputs = read_inputs(task, spec, root=root)
    refuse_other_data(path, trials, inputs.keys)
    facts = _prepare_model(task, spec, inputs, root=root, workers=workers) | known
    for model in spec.chain:
        changed = spec.with_large(model)
        own = chain_inputs(inputs, task, changed)
        refuse_other_data(path, trials, own.keys, model.name)
        found = _prepare_model(task, changed, own, root=root, workers=workers)
        facts.setdefault("chain", {})[model.name] = found
    if workers.rank == 0:
        write_json(path, facts)
    barrier(workers)
    return facts


def _prepare_model(task: TaskSpec, spec: SweepSpec, inputs: Inputs, *, root: Path, workers: Workers) -> dict[str, Any]:
    """Data, large model, signal and answers of one task; returns facts about them."""
    data = write_data(inputs, task, spec, root=root, workers=workers)
    for federated in federated_options(spec):  # a client without examples fails here, not in every trial
        partition(data.texts("train"), federated, task.task)
    large = LargeModel(spec.large, inputs.tokenizer, inputs.architecture, workers)
    folders = inputs.folders(root)
    weights = folders.get("large")
    if spec.large.finetune is not None and weights is not None:
        finetune = spec.large.finetune
        large.finetune_once(large.training_data(data.tokens(spec.large_split)), finetune, weights)
        cross_fit_signals([(data, inputs)], spec, root=root, rates=None, workers=workers)
    return large.judge(data, task, spec, inputs, weights, root=root)


def write_data(inputs: Inputs, task: TaskSpec, spec: SweepSpec, *, root: Path, workers: Workers) -> TaskData:
    """Make a task's token ids where they are missing, and check that both models can hold them. Raises ModelError."""
    folder = inputs.folders(root)["data"]
    if workers.rank == 0:
        write_task_data(
            folder,
            inputs.examples,
            task,
            inputs.tokenizer,
            inputs.architecture,
            max_prompt_tokens=spec.training.max_prompt_tokens,
            max_target_tokens=spec.training.max_target_tokens,
            noise=spec.data.label_noise,
        )
    settle(folder, workers)
    data = TaskData(folder)
    _check_lengths(data, task, spec, inputs.tokenizer)
    return data


def cross_fit_signals(
    unit: Sequence[tuple[TaskData, Inputs]],
    spec: SweepSpec,
    *,
    root: Path,
    rates: Sequence[float] | None,
    workers: Workers,
) -> None:
    """Make the signals of a task, or of the members of a mixture, where the sweep asks for cross-fitted ones."""
    finetune, first = spec.large.finetune, unit[0][1]
    folded = [
        Folded(data.tokens("train"), data.tokens(spec.large_split), inputs.folds, inputs.folders(root)["signal"])
        for data, inputs in unit
        if inputs.folds is not None
    ]
    if not folded or finetune is None:
        return
    cross_fit(
        folded,
        lambda: LargeModel(spec.large, first.tokenizer, first.architecture, workers),
        finetune,
        large=first.folders(root)["large"].name,
        rates=rates,
        distribution=first.distribution,
        batch_size=spec.resources.evaluation_batch_size,
        workers=workers,
    )


def check_sources(root: Path, spec: SweepSpec, tasks: tuple[TaskSpec | MixtureSpec, ...]) -> None:
    """Raise SweepChangedError where the data files, packages or the small model's files of a sweep with results are not
    those that its results were made from."""
    for task in tasks:
        path = prepared_path(root, spec.name, task.task)
        known = read_json(path) if path.exists() else {}
        for name, now in (("source", unit_fingerprint(task, spec.data_folder)), ("small", model_key(spec.small))):
            if known.get(name, now) != now:
                what = "the data of the task" if name == "source" else "the small model's checkpoint"
                raise SweepChangedError(
                    f"{path}: {what} has changed since this sweep's trials were made; results would not be comparable. Give "
                    "the sweep a new name, or remove its folder"
                )


def refuse_other_data(path: Path, trials: Path, keys: dict[str, str | None], model: str | None = None) -> None:
    """Raise SweepChangedError where the trials of a sweep were made from other folders than these. model: of the chain;
    None: the large one."""
    if not path.exists() or not trials.exists():
        return
    facts = read_json(path)
    known = (facts if model is None else facts.get("chain", {}).get(model, {})).get("keys", keys)
    for name in ("data", "large", "signal", "answers"):
        if known[name] != keys[name]:
            raise SweepChangedError(
                f"{path}: this sweep's trials were made with {name} {known[name]}, now it would be {keys[name]} (another "
                "data file, package version or checkpoint); results would not be comparable. Give the sweep a new "
                "name, or remove its folder"
            )


def _check_lengths(data: TaskData, task: TaskSpec, spec: SweepSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    splits = dict.fromkeys(("train", *EVALUATION_SPLITS, spec.large_split))
    for name, model in (("small", spec.small), ("large", spec.large)):
        limit = position_limit(load_config(model, tokenizer))
        for split in splits:
            tokens = data.tokens(split)
            answers = {
                "generation_kwargs": task.generation_kwargs.max_gen_toks if task.output_type == "generate_until" else 0,
                "doc_to_target": int(tokens.targets.lengths.max(initial=0)),
                "doc_to_choice": int(tokens.choices.lengths.max(initial=0)),
            }
            concerned = max(answers, key=lambda field: answers[field])
            longest = int(tokens.prompts.lengths.max(initial=0)) + answers[concerned]
            if limit is not None and longest > limit:
                where = task.origin.prefix(concerned) or task.origin.prefix("doc_to_target")
                raise ModelError(
                    f"{where}task {task.task}: prompt and answer take up to {longest} tokens in split {split}, the {name} model "
                    f"has {limit} positions; lower training.max_prompt_tokens or the task's generation_kwargs.max_gen_toks"
                )
