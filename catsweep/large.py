"""The large model of a task: its fine-tune, its signal on the training targets, its answers, each made once.

Every part is shared among the ranks of a process group; the first rank writes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from catsweep import storage
from catsweep.cache import building, is_complete, try_held
from catsweep.cascade.latency import BatchSeconds, fit_latency
from catsweep.cascade.metrics import Metric, metric_of
from catsweep.data import TaskData, TokenSplit
from catsweep.endpoint import Endpoint
from catsweep.evaluate import evaluate
from catsweep.folds import IntArray
from catsweep.health import measure_chance, near_chance_answers
from catsweep.inputs import Inputs, shared_texts
from catsweep.lora import add_adapters, merged
from catsweep.models import (
    Architecture,
    TargetLogits,
    build_model,
    load_config,
)
from catsweep.records import read_rows, write_rows
from catsweep.served import served_rows, served_signal
from catsweep.shapes import model_shape
from catsweep.sharding import shard, whole_weights
from catsweep.spec.model import FinetuneSpec, LargePretrained, LargeScratch
from catsweep.spec.sweep import DistributionSpec, SweepSpec
from catsweep.spec.task import TaskSpec
from catsweep.spec.training import TrainingSpec, XentLoss
from catsweep.tasks.fingerprint import source_fingerprint
from catsweep.teacher import (
    HELD_OUT,
    SignalArrays,
    near_chance,
    noise_summary,
    optimism,
    signal_summary,
    teacher_pass,
)
from catsweep.train import MixedData, TrainingData, train
from catsweep.workers import Workers, barrier, device_name, first_rank_says, peak_memory_bytes, share_of

EVALUATION_SPLITS = ("validation", "calibration", "test")
LOCK_POLL_SECONDS = 1.0


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
        self.served = spec.endpoint if isinstance(spec, LargePretrained) else None

    def module(self, folder: Path | None, data: TrainingData | MixedData) -> TargetLogits:
        """The model itself, loaded once. folder: of its fine-tuned weights. data: something to try it on."""
        if self._module is None:
            seed = self.spec.finetune.seed if self.spec.finetune else 0
            model = build_model(self.spec, self.tokenizer, seed=seed, folder=folder)
            self._module = TargetLogits(model.to(self.workers.build_device))
            few = data.batch(np.arange(min(4, len(data))))
            self._module.choose_path(few)
        return self._module

    def ready(self, folder: Path | None, data: TrainingData) -> TargetLogits:
        """The model for passes without a gradient, in shards where its workers hold it together."""
        module = self.module(folder, data)
        if self.workers.sharded:
            shard(module, self.workers.device)
        return module

    def training_data(self, tokens: TokenSplit, only: IntArray | None = None) -> TrainingData:
        """A split, or its examples `only`, as the large model trains on it."""
        return TrainingData(tokens, None, self.architecture, self.pad_id, self.start_id, only)

    def finetune_once(self, data: TrainingData | MixedData, finetune: FinetuneSpec, folder: Path) -> None:
        """Train on the large model's part, where that has not been done; interrupted, it goes on from its checkpoint."""
        with held_together(folder, self.workers):
            if is_missing(folder, self.workers):
                self._finetune(data, finetune, folder)
            settle(folder, self.workers)

    def judge(
        self, data: TaskData, task: TaskSpec, spec: SweepSpec, inputs: Inputs, weights: Path | None, *, root: Path
    ) -> dict[str, Any]:
        """The large model's signal and answers where they are missing; returns facts about the task."""
        folders, batch_size = inputs.folders(root), spec.resources.evaluation_batch_size
        seen = self.spec.finetune is not None and not self.spec.finetune.unseen_signal
        held_out = data.tokens("validation") if seen else None
        train = data.tokens("train")
        self.make_signal(train, inputs.distribution, folders["signal"], weights, batch_size, held_out=held_out)
        signal, noise = signal_summary(folders["signal"]), noise_summary(folders["signal"], train)
        warnings = shared_texts(task.task, inputs.examples) + data.warnings(task.task)
        self.answer(data, task, folders["answers"], weights, batch_size)
        chance = measure_chance(
            task,
            inputs.examples["train"],
            inputs.examples["validation"],
            read_rows(folders["answers"] / "rows.parquet", "validation"),
        ).to_json()
        about_large = optimism(task.task, signal) + near_chance(task.task, train, signal)
        about_large += near_chance_answers(task, chance)
        return {
            "keys": inputs.keys,
            "num_rows": {split: len(rows) for split, rows in inputs.examples.items()},
            "source": source_fingerprint(task, spec.data_folder),
            "architecture": inputs.architecture,
            "large_shape": model_shape(self.config).to_dict(),
            "signal": signal,
            **({"label_noise": noise} if noise else {}),
            "chance": chance,
            "large_warnings": about_large,
            "warnings": warnings + about_large,
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _finetune(self, data: TrainingData | MixedData, finetune: FinetuneSpec, folder: Path) -> None:
        training = TrainingSpec(
            steps=finetune.steps,
            batch_size=finetune.batch_size,
            learning_rate=finetune.learning_rate,
            loss=XentLoss(),
            micro_batch_size=finetune.micro_batch_size,
            gradient_checkpointing=finetune.gradient_checkpointing,
            bf16=finetune.bf16,
            torch_compile=finetune.torch_compile,
        )
        work = unfinished(folder)
        work.mkdir(parents=True, exist_ok=True)
        storage.get_folder(work)  # another node may have begun it
        module = self.module(None, data)
        data = data.packed_for(module)
        if finetune.lora is not None:
            add_adapters(module.model, finetune.lora, seed=finetune.seed)
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
        weights = whole_weights(module)
        if self.workers.rank == 0:
            with building(folder, steps=finetune.steps) as temporary:
                module.model.save_pretrained(temporary, state_dict=merged(module.model, weights))
                shutil.copy(work / "steps.jsonl", temporary / "steps.jsonl")
            storage.delete(work)
        if finetune.lora is not None:
            self._module = None  # its passes take the stored weights, as those of a later process do

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
        parts = unfinished(folder)
        with held_together(parts, self.workers):
            if not is_missing(folder, self.workers):  # another sweep has made it meanwhile
                return
            facts: dict[str, float] = {}
            if self.served is not None:
                size, server = len(self.tokenizer), Endpoint(self.served)
                found = served_signal(server, tokens, distribution, vocab_size=size, parts=parts, only=only)
                found = found if only is None else found.take(tokens.target_places(only))
            else:
                seen = None if self.workers.sharded else parts
                found = self._look(tokens, distribution, weights, batch_size, only, seen)
                if held_out is not None:
                    ranks = self._look(held_out, None, weights, batch_size).rank
                    facts[HELD_OUT] = float(np.mean(ranks == 0))
            if self.workers.rank == 0:
                kept = distribution.to_json() if distribution else None
                with building(folder, distribution=kept, **facts) as temporary:
                    found.save(temporary)
                shutil.rmtree(parts, ignore_errors=True)
            settle(folder, self.workers)

    def _look(
        self,
        tokens: TokenSplit,
        distribution: DistributionSpec | None,
        weights: Path | None,
        batch_size: int,
        only: IntArray | None = None,
        parts: Path | None = None,
    ) -> SignalArrays:
        """The pass itself, over all targets of a split or those of the examples `only`. parts: where it keeps what it has
        seen."""
        arrays = teacher_pass(
            self.ready(weights, self.training_data(tokens)),
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
            parts=parts,
        )
        sum_shares(arrays, self.workers)
        return arrays if only is None else arrays.take(tokens.target_places(only))

    def answer(self, data: TaskData, task: TaskSpec, folder: Path, weights: Path | None, batch_size: int) -> None:
        """The rows of validation, calibration and test, shared among the ranks."""
        if not is_missing(folder, self.workers):
            return
        if self.served is not None:
            parts, server = unfinished(folder), Endpoint(self.served)
            with held_together(parts, self.workers):
                if not is_missing(folder, self.workers):
                    return
                served = [
                    served_rows(server, self.tokenizer, data, split, task, task_metrics(task), parts=parts / split)
                    for split in EVALUATION_SPLITS
                ]
                with building(folder, latency=None) as temporary:
                    write_rows(temporary / "rows.parquet", pa.concat_tables(served))
                shutil.rmtree(parts, ignore_errors=True)
            return
        module = self.ready(weights, self.training_data(data.tokens("train")))
        tables, timings = [], list[BatchSeconds]()
        for split in EVALUATION_SPLITS:
            mine = share_of(len(data.tokens(split)), self.workers)
            rows = evaluate(
                module, self.tokenizer, data, split, task, task_metrics(task), architecture=self.architecture,
                batch_size=batch_size, indices=mine, timings=timings,
            )  # fmt: skip
            tables.append(gather_rows(rows, mine, self.workers))
        if self.workers.rank == 0:
            latency = fit_latency(timings, device=device_name(), batch_size=batch_size)
            with building(folder, latency=latency.to_dict() if latency else None) as temporary:
                write_rows(temporary / "rows.parquet", pa.concat_tables(tables))
        settle(folder, self.workers)


def unfinished(folder: Path) -> Path:
    """Where the parts of a folder lie until it is whole."""
    return folder.with_name(f"{folder.name}.unfinished")


def task_metrics(task: TaskSpec) -> dict[str, Metric]:
    """The metrics of a task by name; the first is the one that is searched."""
    return {item.metric: metric_of(item) for item in task.metric_list}


def gather_rows(rows: pa.Table, indices: NDArray[np.int64], workers: Workers) -> pa.Table:
    """Every rank's rows put together in the order of their indices, each once, on all ranks."""
    if workers.size == 1:
        return rows
    parts: list[Any] = [None] * workers.size
    dist.all_gather_object(parts, (indices, rows))
    _, order = np.unique(np.concatenate([part[0] for part in parts]), return_index=True)
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


def is_missing(folder: Path, workers: Workers) -> bool:
    """Whether a folder has to be made, as the first rank sees it: another sweep may finish it at any time."""
    missing = first_rank_says(workers.rank == 0 and not is_complete(folder), workers)
    if not missing:
        settle(folder, workers)
    return missing


def settle(folder: Path, workers: Workers) -> None:
    """Wait until the first rank has made a folder; from an object store it is brought to the nodes of the others."""
    barrier(workers)
    if workers.rank:
        is_complete(folder, hashes=False)


@contextmanager
def held_together(folder: Path, workers: Workers) -> Iterator[None]:
    """Hold a content-addressed folder for all ranks while it is made (see cache.held).

    The first rank asks for the lock again and again: to wait for it, for the hours that another sweep's fine-tune takes, would
    outlast the time that the others' collective may take.
    """
    with try_held(folder) as take:
        while not first_rank_says(workers.rank == 0 and take(), workers):
            time.sleep(LOCK_POLL_SECONDS)
        yield
