"""What a task needs before its trials, made once and shared by all of them: data, large model, its signal and answers.

    data     texts and token ids of all splits
    large    the large model's fine-tune, where the sweep asks for one
    signal   rank and log-probability (and, for dist losses, the distribution) of each training target
    answers  the large model's rows of validation, calibration and test

Each lies in a content-addressed folder of <root>/cache; <root>/<sweep>/prepared/<task>.json names the four.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from catsweep.cascade.metrics import Metric, metric_of
from catsweep.data import TaskData, TokenSplit, write_task_data
from catsweep.errors import ModelError, SweepChangedError
from catsweep.evaluate import evaluate
from catsweep.models import (
    Architecture,
    TargetLogits,
    architecture_of,
    build_model,
    check_pair,
    load_config,
    load_tokenizer,
    model_key,
    model_shape,
    position_limit,
    tokenizer_key,
)
from catsweep.records import building, held, is_complete, read_json, read_rows, write_json, write_rows
from catsweep.spec.base import digest
from catsweep.spec.model import AnyModel, FinetuneSpec, LargePretrained, LargeScratch, ScratchModel
from catsweep.spec.sweep import DistributionSpec, SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import TrainingSpec, XentLoss
from catsweep.tasks.examples import Example, load_examples
from catsweep.tasks.fingerprint import source_fingerprint
from catsweep.teacher import SignalArrays, teacher_pass
from catsweep.train import TrainingData, Workers, current_workers, peak_memory_bytes, train

EVALUATION_SPLITS = ("validation", "calibration", "test")


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
        return _tokenizer(self.data / "tokenizer")

    def large_rows(self, split: str | None = None) -> pa.Table:
        """The large model's rows."""
        return read_rows(self.answers / "rows.parquet", split)


@functools.lru_cache(maxsize=8)
def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def prepared_path(root: Path, sweep: str, task: str) -> Path:
    """The file that names a task's prepared folders."""
    return root / sweep / "prepared" / f"{task}.json"


def load_prepared(root: Path, sweep: str, task: str) -> Prepared:
    """What `prepare_task` made. Raises StorageError where it has not run."""
    facts = read_json(prepared_path(root, sweep, task))
    cache = root / "cache"
    large = cache / "large" / facts["keys"]["large"] if facts["keys"]["large"] else None
    return Prepared(
        cache / "data" / facts["keys"]["data"],
        large,
        cache / "signal" / facts["keys"]["signal"],
        cache / "answers" / facts["keys"]["answers"],
        facts,
    )


@dataclass(frozen=True)
class Inputs:
    """A task's examples and tokeniser, and the keys of everything that is made from them."""

    examples: dict[str, list[Example]]
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    distribution: DistributionSpec | None
    keys: dict[str, str | None]

    def folders(self, root: Path) -> dict[str, Path]:
        """The folder of each key."""
        return {name: root / "cache" / name / key for name, key in self.keys.items() if key is not None}


def read_inputs(task: TaskSpec, spec: SweepSpec, *, root: Path) -> Inputs:
    """Read a task's data and the tokeniser of the pair, and check that both models fit. Raises DataError, ModelError."""
    examples = load_examples(
        task,
        max_train_rows=spec.data.max_train_rows,
        max_evaluation_rows=spec.data.max_evaluation_rows,
        cache=root / "cache",
        data_root=spec.data_folder,
        verify=spec.data.verify,
    )
    finetune = spec.large.finetune
    if finetune is not None:
        examples = hold_out(examples, finetune)
    tokenizer, architecture = _tokenizer_of_pair(spec, examples)
    limits = [spec.training.max_prompt_tokens, spec.training.max_target_tokens]
    data_key = digest(
        [
            *[2, task.data_key(), source_fingerprint(task, spec.data_folder), tokenizer_key(tokenizer), architecture],
            *[spec.data.data_key(), *limits, finetune.holdout if finetune else None],
        ]
    )
    large_key = digest([1, data_key, model_key(spec.large)])
    distribution = spec.distribution if needs_distribution(spec) else None
    keys = {
        "data": data_key,
        "large": large_key if finetune else None,
        "signal": digest([large_key, distribution.to_json() if distribution else None]),
        "answers": digest([large_key, [metric.to_json() for metric in task.metric_list], task.normalize]),
    }
    return Inputs(examples, tokenizer, architecture, distribution, keys)


def prepare_task(task: TaskSpec, spec: SweepSpec, *, root: Path) -> dict[str, Any]:
    """Make what is missing (or damaged) of a task's data, large model, signal and answers; returns facts about them.

    Called by every rank where the large model trains on several. Raises DataError, ModelError, and SweepChangedError
    where the sweep has results that were made from other data.
    """
    workers = current_workers()
    inputs = read_inputs(task, spec, root=root)
    path = prepared_path(root, spec.name, task.task)
    _refuse_other_data(path, root / spec.name / "trials" / task.task, inputs.keys)
    folders = inputs.folders(root)
    if workers.rank == 0:
        write_task_data(
            folders["data"],
            inputs.examples,
            task,
            inputs.tokenizer,
            inputs.architecture,
            max_prompt_tokens=spec.training.max_prompt_tokens,
            max_target_tokens=spec.training.max_target_tokens,
        )
    _barrier(workers)
    data = TaskData(folders["data"])
    _check_lengths(data, task, spec, inputs.tokenizer)
    large = _Large(spec.large, inputs.tokenizer, inputs.architecture, workers)
    weights = folders.get("large")
    if spec.large.finetune is not None and weights is not None:
        with held(weights) if workers.rank == 0 else nullcontext():
            _barrier(workers)  # nobody looks before the first rank holds the folder
            if not is_complete(weights):
                large.finetune(data.tokens("large_train"), spec.large.finetune, weights)
            _barrier(workers)
    batch_size = spec.resources.evaluation_batch_size
    large.sign(data.tokens("train"), inputs.distribution, folders["signal"], weights, batch_size)
    large.answer(data, task, folders["answers"], weights, batch_size)
    facts = {
        "keys": inputs.keys,
        "num_rows": {split: len(rows) for split, rows in inputs.examples.items()},
        "source": source_fingerprint(task, spec.data_folder),
        "small": model_key(spec.small),
        "architecture": inputs.architecture,
        "large_shape": model_shape(large.config).to_dict(),
        "signal": signal_summary(folders["signal"]),
        "warnings": data.warnings(task.task),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if workers.rank == 0:
        write_json(path, facts)
    _barrier(workers)
    return facts


def hold_out(examples: dict[str, list[Example]], finetune: FinetuneSpec) -> dict[str, list[Example]]:
    """Cut the training groups in two: `large_train` for the large model, `train` for every small one.

    A group goes by a hash of its key, so that no group lies on both sides.
    """

    def is_held_out(group: str) -> bool:
        value = int.from_bytes(hashlib.blake2b(f"holdout:{group}".encode(), digest_size=8).digest(), "big")
        return value < finetune.holdout * 2**64

    train = [example for example in examples["train"] if is_held_out(example.group)]
    large = [example for example in examples["train"] if not is_held_out(example.group)]
    return {"large_train": large, **examples, "train": train}


def needs_distribution(spec: SweepSpec) -> bool:
    """Whether any loss of the sweep distils: then the large model's pass keeps its distribution too."""

    def names(value: object) -> bool:
        if isinstance(value, dict):
            return value.get("kind") in ("dist", "cat_dist") or any(names(child) for child in value.values())
        return isinstance(value, list) and any(names(child) for child in value)

    return names(spec.search.space) or spec.training.loss.kind in ("dist", "cat_dist")


def signal_summary(folder: Path) -> dict[str, float]:
    """How often the large model gets a training target right, and the stored bytes a target token."""
    rank = np.load(folder / "rank.npy", mmap_mode="r")
    files = [np.load(path, mmap_mode="r") for path in folder.glob("*.npy")]
    return {
        "num_target_tokens": len(rank),
        "large_right_share": float(np.mean(rank == 0)),
        "bytes_a_token": sum(array.nbytes for array in files) / max(1, len(rank)),
    }


def task_metrics(task: TaskSpec) -> dict[str, Metric]:
    """The metrics of a task by name; the first is the one that is searched."""
    return {item.metric: metric_of(item) for item in task.metric_list}


def gather_rows(rows: pa.Table, indices: NDArray[np.int64], workers: Workers) -> pa.Table:
    """Every rank's rows put together in the order of their indices, on all ranks."""
    if workers.size == 1:
        return rows
    parts: list[Any] = [None] * workers.size
    dist.all_gather_object(parts, (indices, rows))
    order = np.argsort(np.concatenate([part[0] for part in parts]), kind="stable")
    return pa.concat_tables([part[1] for part in parts]).take(pa.array(order)).combine_chunks()


def check_sources(root: Path, spec: SweepSpec, tasks: tuple[TaskSpec, ...]) -> None:
    """Raise SweepChangedError where the data files, packages or the small model's files of a sweep with results are not
    those that its results were made from."""
    for task in tasks:
        path = prepared_path(root, spec.name, task.task)
        known = read_json(path) if path.exists() else {}
        for name, now in (("source", source_fingerprint(task, spec.data_folder)), ("small", model_key(spec.small))):
            if known.get(name, now) != now:
                what = "the data of the task" if name == "source" else "the small model's checkpoint"
                raise SweepChangedError(
                    f"{path}: {what} has changed since this sweep's trials were made; results would not be comparable. Give "
                    "the sweep a new name, or remove its folder"
                )


def _refuse_other_data(path: Path, trials: Path, keys: dict[str, str | None]) -> None:
    if not path.exists() or not trials.exists():
        return
    known = read_json(path)["keys"]
    for name in ("data", "large", "signal", "answers"):
        if known[name] != keys[name]:
            raise SweepChangedError(
                f"{path}: this sweep's trials were made with {name} {known[name]}, now it would be {keys[name]} (another "
                "data file, package version or checkpoint); results would not be comparable. Give the sweep a new "
                "name, or remove its folder"
            )


def _barrier(workers: Workers) -> None:
    if workers.size > 1:
        dist.barrier()


def _tokenizer_of_pair(
    spec: SweepSpec, examples: dict[str, list[Example]]
) -> tuple[PreTrainedTokenizerBase, Architecture]:
    texts = [f"{row.prompt}{row.target}" for name in ("large_train", "train") for row in examples.get(name, [])]
    choices = sorted({choice for row in examples["train"][:1000] for choice in row.choices})
    small = load_tokenizer(spec.small, [*texts, *choices])
    large_spec = large_with_tokenizer(spec.large, spec.small)
    large = load_tokenizer(large_spec, [*texts, *choices])
    small_config, large_config = load_config(spec.small, small), load_config(spec.large, large)
    check_pair(small, large, small_config, large_config)
    return small, architecture_of(small_config)


def large_with_tokenizer(large: LargePretrained | LargeScratch, small: AnyModel) -> AnyModel:
    """The large model's spec; from scratch and without a tokeniser of its own it takes the small model's."""
    if isinstance(large, LargeScratch) and large.tokenizer is None:
        if not isinstance(small, ScratchModel):
            return small
        return large.model_copy(update={"tokenizer": small.tokenizer})
    return large


def _check_lengths(data: TaskData, task: TaskSpec, spec: SweepSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    splits = ("train", *EVALUATION_SPLITS, *(("large_train",) if spec.large.finetune else ()))
    for name, model in (("small", spec.small), ("large", spec.large)):
        limit = position_limit(load_config(model, tokenizer))
        for split in splits:
            tokens = data.tokens(split)
            answer = task.generation_kwargs.max_gen_toks if task.output_type == "generate_until" else 0
            longest = int(tokens.prompts.lengths.max(initial=0)) + max(
                answer, int(tokens.targets.lengths.max(initial=0)), int(tokens.choices.lengths.max(initial=0))
            )
            if limit is not None and longest > limit:
                raise ModelError(
                    f"task {task.task}: prompt and answer take up to {longest} tokens in split {split}, the {name} model "
                    f"has {limit} positions; lower training.max_prompt_tokens or the task's generation_kwargs.max_gen_toks"
                )


class _Large:
    """The large model, loaded when something is missing."""

    def __init__(
        self,
        spec: LargePretrained | LargeScratch,
        tokenizer: PreTrainedTokenizerBase,
        architecture: Architecture,
        workers: Workers,
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.architecture: Architecture = architecture
        self.workers = workers
        self.config = load_config(spec, tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)
        self.start_id = getattr(self.config, "decoder_start_token_id", None)
        self._module: TargetLogits | None = None

    def module(self, folder: Path | None, data: TokenSplit) -> TargetLogits:
        if self._module is None:
            seed = self.spec.finetune.seed if self.spec.finetune else 0
            model = build_model(self.spec, self.tokenizer, seed=seed, folder=folder)
            self._module = TargetLogits(model.to(self.workers.device))
            few = self._training_data(data).batch(np.arange(min(4, len(data))))
            self._module.choose_path(few)
        return self._module

    def _training_data(self, tokens: TokenSplit) -> TrainingData:
        return TrainingData(tokens, None, self.architecture, self.pad_id, self.start_id)

    def finetune(self, tokens: TokenSplit, finetune: FinetuneSpec, folder: Path) -> None:
        """Train on the large model's part; interrupted, it goes on from its own checkpoint."""
        training = TrainingSpec(
            steps=finetune.steps, batch_size=finetune.batch_size, learning_rate=finetune.learning_rate, loss=XentLoss()
        )
        work = folder.with_name(f"{folder.name}.unfinished")
        work.mkdir(parents=True, exist_ok=True)
        module = self.module(None, tokens)
        train(
            module,
            self._training_data(tokens),
            training,
            seed=finetune.seed,
            workers=self.workers,
            evaluate_at=sorted({finetune.steps * part // 5 for part in range(1, 6)} - {0}),
            on_evaluation=lambda step: None,
            folder=work,
        )
        if self.workers.rank == 0:
            with building(folder, steps=finetune.steps) as temporary:
                module.model.save_pretrained(temporary, safe_serialization=True)
                shutil.copy(work / "steps.jsonl", temporary / "steps.jsonl")
            shutil.rmtree(work)
        _barrier(self.workers)

    def sign(
        self,
        tokens: TokenSplit,
        distribution: DistributionSpec | None,
        folder: Path,
        weights: Path | None,
        batch_size: int,
    ) -> None:
        """The pass over the small models' training targets, on the first rank."""
        if self.workers.rank == 0 and not is_complete(folder):
            arrays: SignalArrays = teacher_pass(
                self.module(weights, tokens),
                tokens,
                architecture=self.architecture,
                pad_id=self.pad_id,
                start_id=self.start_id,
                distribution=distribution,
                vocab_size=len(self.tokenizer),
                batch_size=batch_size,
                seed=0,
                device=self.workers.device,
            )
            with building(folder, distribution=distribution.to_json() if distribution else None) as temporary:
                arrays.save(temporary)
        _barrier(self.workers)

    def answer(self, data: TaskData, task: TaskSpec, folder: Path, weights: Path | None, batch_size: int) -> None:
        """The rows of validation, calibration and test, shared among the ranks."""
        if is_complete(folder):
            return
        module = self.module(weights, data.tokens("train"))
        tables = []
        for split in EVALUATION_SPLITS:
            mine = np.arange(len(data.tokens(split)))[self.workers.rank :: self.workers.size]
            rows = evaluate(
                module,
                self.tokenizer,
                data,
                split,
                task,
                task_metrics(task),
                architecture=self.architecture,
                batch_size=batch_size,
                indices=mine,
            )
            tables.append(gather_rows(rows, mine, self.workers))
        if self.workers.rank == 0:
            with building(folder) as temporary:
                write_rows(temporary / "rows.parquet", pa.concat_tables(tables))
        _barrier(self.workers)
