"""What a task needs before its trials, made once and shared by all of them: data, large model, its signal and answers.

    data     texts and token ids of all splits
    large    the large model's fine-tune, where the sweep asks for one
    signal   rank and log-probability (and, for dist losses, the distribution) of each training target
    answers  the large model's rows of validation, calibration and test

Each lies in a content-addressed folder of <root>/cache; <root>/<sweep>/prepared/<task>.json names the four.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from catsweep.cascade.latency import BatchSeconds, fit_latency
from catsweep.cascade.metrics import Metric, metric_of
from catsweep.crossfit import Folded, cross_fit
from catsweep.data import TaskData, TokenSplit, write_task_data
from catsweep.errors import ModelError, SweepChangedError
from catsweep.evaluate import evaluate
from catsweep.folds import IntArray
from catsweep.inputs import Inputs, chain_inputs, read_inputs, shared_texts
from catsweep.models import (
    Architecture,
    TargetLogits,
    build_model,
    load_config,
    model_key,
    model_shape,
    position_limit,
)
from catsweep.partition import partition
from catsweep.records import building, held, is_complete, read_json, read_rows, write_json, write_rows
from catsweep.space import federated_options
from catsweep.spec.mixture import MixtureSpec
from catsweep.spec.model import FinetuneSpec, LargePretrained, LargeScratch
from catsweep.spec.sweep import DistributionSpec, SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import TrainingSpec, XentLoss
from catsweep.tasks.fingerprint import source_fingerprint, unit_fingerprint
from catsweep.teacher import (
    HELD_OUT,
    SignalArrays,
    near_chance,
    optimism,
    signal_summary,
    target_places,
    teacher_pass,
)
from catsweep.train import (
    MixedData,
    TrainingData,
    Workers,
    barrier,
    current_workers,
    device_name,
    first_rank_says,
    peak_memory_bytes,
    train,
)

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

    def of(self, name: str) -> Prepared:
        """The same with a further model of the chain in the large one's place."""
        return prepared_from(self.data.parent.parent, self.facts["chain"][name])

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
    workers = current_workers()
    path = prepared_path(root, spec.name, task.task)
    trials = root / spec.name / "trials" / task.task
    inputs = read_inputs(task, spec, root=root)
    refuse_other_data(path, trials, inputs.keys)
    facts = _prepare_model(task, spec, inputs, root=root, workers=workers)
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
        large.finetune_once(large.training_data(data.tokens(finetune.train_split)), finetune, weights)
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
        )
    barrier(workers)
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
        Folded(data.tokens("train"), inputs.folds, inputs.folders(root)["signal"])
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


def sum_shares(arrays: SignalArrays, workers: Workers, chunk_bytes: int = 1 << 26) -> None:
    """Put the shares that the ranks have of a signal together, in place and on all ranks.

    Each byte is zero on all ranks but one, so that a sum of bytes is exact for every type.
    """
    if workers.size == 1:
        return
    for array in vars(arrays).values():
        flat = np.empty(0, np.uint8) if array is None else array.reshape(-1).view(np.uint8)
        for start in range(0, len(flat), chunk_bytes):
            part = torch.from_numpy(flat[start : start + chunk_bytes]).to(workers.device)
            dist.all_reduce(part)
            flat[start : start + chunk_bytes] = part.cpu().numpy()


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


def is_missing(folder: Path, workers: Workers) -> bool:
    """Whether a folder has to be made, as the first rank sees it: another sweep may finish it at any time."""
    return first_rank_says(workers.rank == 0 and not is_complete(folder), workers)


def _check_lengths(data: TaskData, task: TaskSpec, spec: SweepSpec, tokenizer: PreTrainedTokenizerBase) -> None:
    finetune = spec.large.finetune
    splits = dict.fromkeys(("train", *EVALUATION_SPLITS, finetune.train_split if finetune else "train"))
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


class LargeModel:
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

    def module(self, folder: Path | None, data: TrainingData | MixedData) -> TargetLogits:
        """The model itself, loaded once. folder: of its fine-tuned weights. data: something to try it on."""
        if self._module is None:
            seed = self.spec.finetune.seed if self.spec.finetune else 0
            model = build_model(self.spec, self.tokenizer, seed=seed, folder=folder)
            self._module = TargetLogits(model.to(self.workers.device))
            few = data.batch(np.arange(min(4, len(data))))
            self._module.choose_path(few)
        return self._module

    def training_data(self, tokens: TokenSplit, only: IntArray | None = None) -> TrainingData:
        """A split, or its examples `only`, as the large model trains on it."""
        return TrainingData(tokens, None, self.architecture, self.pad_id, self.start_id, only)

    def finetune_once(self, data: TrainingData | MixedData, finetune: FinetuneSpec, folder: Path) -> None:
        """Train on the large model's part, where that has not been done; interrupted, it goes on from its checkpoint."""
        with held(folder) if self.workers.rank == 0 else nullcontext():
            barrier(self.workers)  # nobody looks before the first rank holds the folder
            if is_missing(folder, self.workers):
                self._finetune(data, finetune, folder)
            barrier(self.workers)

    def judge(
        self, data: TaskData, task: TaskSpec, spec: SweepSpec, inputs: Inputs, weights: Path | None, *, root: Path
    ) -> dict[str, Any]:
        """The large model's signal and answers where they are missing; returns facts about the task."""
        folders, batch_size = inputs.folders(root), spec.resources.evaluation_batch_size
        seen = self.spec.finetune is not None and not self.spec.finetune.unseen_signal
        held_out = data.tokens("validation") if seen else None
        train = data.tokens("train")
        self.make_signal(train, inputs.distribution, folders["signal"], weights, batch_size, held_out=held_out)
        signal = signal_summary(folders["signal"])
        warnings = shared_texts(task.task, inputs.examples) + data.warnings(task.task)
        self.answer(data, task, folders["answers"], weights, batch_size)
        return {
            "keys": inputs.keys,
            "num_rows": {split: len(rows) for split, rows in inputs.examples.items()},
            "source": source_fingerprint(task, spec.data_folder),
            "small": model_key(spec.small),
            "architecture": inputs.architecture,
            "large_shape": model_shape(self.config).to_dict(),
            "signal": signal,
            "warnings": warnings + optimism(task.task, signal) + near_chance(task.task, train, signal),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _finetune(self, data: TrainingData | MixedData, finetune: FinetuneSpec, folder: Path) -> None:
        training = TrainingSpec(
            steps=finetune.steps, batch_size=finetune.batch_size, learning_rate=finetune.learning_rate, loss=XentLoss()
        )
        work = folder.with_name(f"{folder.name}.unfinished")
        work.mkdir(parents=True, exist_ok=True)
        module = self.module(None, data)
        train(
            module,
            data,
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
        barrier(self.workers)

    def make_signal(
        self,
        tokens: TokenSplit,
        distribution: DistributionSpec | None,
        folder: Path,
        weights: Path | None,
        batch_size: int,
        *,
        only: IntArray | None = None,
        held_out: TokenSplit | None = None,
    ) -> None:
        """The pass over the small models' training targets, shared among the ranks.

        only: keep the signal of these examples alone. held_out: targets on which the manifest notes how often the model
        is right, beside those that it has seen.
        """
        if not is_missing(folder, self.workers):
            return

        def look(tokens: TokenSplit, distribution: DistributionSpec | None) -> SignalArrays:
            arrays = teacher_pass(
                self.module(weights, self.training_data(tokens)),
                tokens,
                architecture=self.architecture,
                pad_id=self.pad_id,
                start_id=self.start_id,
                distribution=distribution,
                vocab_size=len(self.tokenizer),
                batch_size=batch_size,
                seed=0,
                device=self.workers.device,
                share=(self.workers.rank, self.workers.size),
                only=only,
            )
            sum_shares(arrays, self.workers)
            return arrays if only is None else arrays.take(target_places(tokens, only))

        arrays = look(tokens, distribution)
        facts = {} if held_out is None else {HELD_OUT: float(np.mean(look(held_out, None).rank == 0))}
        if self.workers.rank == 0:
            with building(folder, distribution=distribution.to_json() if distribution else None, **facts) as temporary:
                arrays.save(temporary)
        barrier(self.workers)

    def answer(self, data: TaskData, task: TaskSpec, folder: Path, weights: Path | None, batch_size: int) -> None:
        """The rows of validation, calibration and test, shared among the ranks."""
        if not is_missing(folder, self.workers):
            return
        module = self.module(weights, self.training_data(data.tokens("train")))
        tables, timings = [], list[BatchSeconds]()
        for split in EVALUATION_SPLITS:
            mine = np.arange(len(data.tokens(split)))[self.workers.rank :: self.workers.size]
            rows = evaluate(
                module, self.tokenizer, data, split, task, task_metrics(task), architecture=self.architecture,
                batch_size=batch_size, indices=mine, timings=timings,
            )  # fmt: skip
            tables.append(gather_rows(rows, mine, self.workers))
        if self.workers.rank == 0:
            latency = fit_latency(timings, device=device_name(), batch_size=batch_size)
            with building(folder, latency=latency.to_dict() if latency else None) as temporary:
                write_rows(temporary / "rows.parquet", pa.concat_tables(tables))
        barrier(self.workers)
