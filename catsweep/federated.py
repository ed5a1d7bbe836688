"""Federated averaging of the small model (arXiv 1602.05629): the data stay on their clients.

A client is a folder with its own examples' token ids and nothing of the others'. It judges its examples with the large
model itself, trains on them, and returns a `ClientUpdate`: weights, a count and sums. Where a round's clients run is the
caller's business (`RunClients`): one after another in this process, or as Ray tasks (sweep.clients).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from catsweep.cache import building, held, is_complete
from catsweep.checkpoint import load_checkpoint, save_checkpoint, unique_tensors
from catsweep.data import TaskData
from catsweep.large import LargeModel
from catsweep.models import TargetLogits, architecture_of, build_model
from catsweep.partition import partition
from catsweep.prepare import Prepared, saved_tokenizer
from catsweep.records import append_step
from catsweep.spec.base import digest
from catsweep.spec.federated import FederatedSpec
from catsweep.spec.model import SmallSpec
from catsweep.spec.sweep import TrialSpec
from catsweep.spec.training import CatDistLoss, DistLoss
from catsweep.teacher import load_signal
from catsweep.train import TrainingData, frozen_copy, judges_by_initial, mix_seed, readable, train_part, was_evaluated
from catsweep.workers import current_workers

Weights = dict[str, Tensor]
"""Parameters and saved buffers by name, on the CPU, shared ones once."""


@dataclass(frozen=True)
class ClientSite:
    """Where a client's data lie. data: its examples' token ids, and the tokeniser. signal: what the large model thinks of
    them; the client makes it itself where it is missing. large_model: fine-tuned weights, or None where the large model is
    used as it is."""

    number: int
    data: Path
    signal: Path
    large_model: Path | None


@dataclass(frozen=True)
class ClientJob:
    """What a client is asked to do in a round, beside the shared weights: the steps first_step to last_step of a trial.

    fast: the path that the trial's model takes to its logits (see TargetLogits.choose_path).
    """

    site: ClientSite
    spec: TrialSpec
    seed: int
    first_step: int
    last_step: int
    fast: bool


@dataclass(frozen=True)
class ClientUpdate:
    """All that leaves a client after a round.

    weights: of the model that it trained. num_target_tokens: of all its examples, its weight in the mean. sums: the
    round's loss and further training sums, one number each (see train.train_part).
    """

    weights: Weights
    num_target_tokens: int
    sums: dict[str, float]


RunClients = Callable[[Sequence[ClientJob], Weights], list[ClientUpdate]]
"""Runs `run_client` on each job with the shared weights; the updates come in the order of the jobs."""


def run_in_turn(jobs: Sequence[ClientJob], weights: Weights) -> list[ClientUpdate]:
    """The clients one after another in this process."""
    return [run_client(job, weights) for job in jobs]


def train_federated(
    module: TargetLogits,
    sites: Sequence[ClientSite],
    spec: TrialSpec,
    *,
    on_evaluation: Callable[[int], None],
    folder: Path,
    run_clients: RunClients = run_in_turn,
) -> None:
    """Train `module` in place for all rounds; `on_evaluation(step)` runs after the rounds that end at a step of
    spec.evaluate_at.

    Each round stands in steps.jsonl with the step at its end: the means of its training metrics over all clients, its
    number, and `train/client_drift`, the root mean square distance (L2) of the clients' weights from their mean. A
    checkpoint is kept after each round, and a later call goes on behind it. Raises TrialDivergedError.
    """
    federated = spec.training.federated
    assert federated is not None
    done = load_checkpoint(folder, module, None)
    if done in spec.evaluate_at and not was_evaluated(folder, done):
        on_evaluation(done)
    for number in range(done // federated.local_steps + 1, federated.rounds + 1):
        step = number * federated.local_steps
        jobs = [
            ClientJob(
                site, spec, client_seed(spec.seed, site.number), step - federated.local_steps + 1, step, module.fast
            )
            for site in sites
        ]
        updates = run_clients(jobs, copy_weights(module))
        mean = average(updates)
        set_weights(module, mean)
        metrics = readable(_total([update.sums for update in updates]), spec.training, step)
        append_step(folder, step, metrics | {"train/round": number, "train/client_drift": _drift(updates, mean)})
        if number < federated.rounds:
            save_checkpoint(folder, module, None, step)
        if step in spec.evaluate_at:
            on_evaluation(step)


def run_client(job: ClientJob, weights: Weights) -> ClientUpdate:
    """One client's part of a round. Reads its own folders and the large model, nothing else of the task.

    The optimiser starts afresh in each round [ours]: its state would be further numbers that leave a client or stay on
    it. Raises TrialDivergedError.
    """
    workers = current_workers()
    data = _client_data(job.site, job.spec)
    module = _module(_as_key(job.spec), job.site.data / "tokenizer").to(workers.device)
    module.fast = job.fast
    set_weights(module, weights)
    data = data.packed_for(module)
    initial = None
    if judges_by_initial(job.spec.training):  # as the trial built it: the shared weights have moved on since
        tokenizer = saved_tokenizer(job.site.data / "tokenizer")
        initial = frozen_copy(
            TargetLogits(build_model(job.spec.small, tokenizer, seed=job.spec.seed)).to(workers.device)
        )
        initial.fast = job.fast
    sums = train_part(
        module,
        data,
        job.spec.training,
        initial,
        seed=job.seed,
        workers=workers,
        first=job.first_step,
        last=job.last_step,
    )
    return ClientUpdate(copy_weights(module), int(data.tokens.targets.offsets[-1]), sums)


def client_seed(seed: int, number: int) -> int:
    """Seed of a client's batches, dropout and drawn masks. The first client has the trial's own, so that one client
    trains as in one place."""
    return seed if number == 0 else mix_seed(seed, number, 0, 0, 0)


def average(updates: Sequence[ClientUpdate]) -> Weights:
    """The mean of the clients' weights, weighted by their target tokens [ours: the losses are means over these; the
    paper counts examples]. Sums in float64, so that equal weights stay as they are; integers are the first client's."""
    total = sum(update.num_target_tokens for update in updates)
    mean = {}
    for name, first in updates[0].weights.items():
        if not first.is_floating_point():
            mean[name] = first
            continue
        summed = torch.zeros_like(first, dtype=torch.float64)
        for update in updates:
            summed += update.num_target_tokens * update.weights[name].double()
        mean[name] = (summed / total).to(first.dtype)
    return mean


def cut_clients(spec: TrialSpec, prepared: Prepared, root: Path) -> list[ClientSite]:
    """Lay each client's training examples into a folder of its own, once for all trials with the same partition.

    Raises DataError where a client would have no example.
    """
    federated = spec.training.federated
    assert federated is not None
    key = digest([1, prepared.facts["keys"]["data"], federated.clients, federated.partition.to_json()])
    folder = root / "cache" / "clients" / key
    if not is_complete(folder, hashes=False):
        with held(folder):
            if not is_complete(folder):
                _cut(folder, prepared, federated, spec.task.task)
    return [
        ClientSite(
            number,
            folder / f"{number}",
            root / "cache" / "signal" / digest([prepared.facts["keys"]["signal"], key, number, _distils(spec)]),
            prepared.large_model,
        )
        for number in range(federated.clients)
    ]


def copy_weights(module: TargetLogits) -> Weights:
    """A copy of a model's weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in unique_tensors(module.model).items()}


@torch.no_grad()
def set_weights(module: TargetLogits, weights: Weights) -> None:
    """Give a model these weights."""
    for name, value in unique_tensors(module.model).items():
        value.copy_(weights[name])


def _cut(folder: Path, prepared: Prepared, federated: FederatedSpec, task: str) -> None:
    tokens = prepared.task_data().tokens("train")
    parts = partition(prepared.task_data().texts("train"), federated, task)
    with building(folder, num_examples=[len(places) for places in parts]) as temporary:
        for number, places in enumerate(parts):
            own = temporary / f"{number}"
            own.mkdir()
            tokens.select(places).save(own, "train")
            prepared.tokenizer().save_pretrained(own / "tokenizer")


def _client_data(site: ClientSite, spec: TrialSpec) -> TrainingData:
    """A client's examples with the large model's signal, which is made here where it is missing."""
    tokens = TaskData(site.data).tokens("train")
    tokenizer = saved_tokenizer(site.data / "tokenizer")
    config = _module(_as_key(spec), site.data / "tokenizer").model.config
    architecture = architecture_of(config)
    if not is_complete(site.signal, hashes=False):
        with held(site.signal):
            large = LargeModel(spec.large, tokenizer, architecture, current_workers())
            distribution = spec.distribution if _distils(spec) else None
            large.make_signal(tokens, distribution, site.signal, site.large_model, spec.evaluation_batch_size)
    return TrainingData(
        tokens,
        load_signal(site.signal, distribution=_distils(spec)),
        architecture,
        pad_id=int(tokenizer.pad_token_id),
        start_id=getattr(config, "decoder_start_token_id", None),
    )


@functools.lru_cache(maxsize=1)
def _module(small: str, tokenizer: Path) -> TargetLogits:
    """The small model that this process's clients train, one after another; each gets its weights anew."""
    spec = TypeAdapter(SmallSpec).validate_json(small)
    return TargetLogits(build_model(spec, saved_tokenizer(tokenizer), seed=0))


def _as_key(spec: TrialSpec) -> str:
    return json.dumps(spec.small.to_json(), sort_keys=True)


def _distils(spec: TrialSpec) -> bool:
    return isinstance(spec.training.loss, DistLoss | CatDistLoss)


def _total(sums: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums of all clients together; of the gradient's norms the largest."""
    total = {name: math.fsum(part[name] for part in sums) for name in sums[0]}
    return total | {"grad_norm": max(part["grad_norm"] for part in sums)}


def _drift(updates: Sequence[ClientUpdate], mean: Weights) -> float:
    total = sum(update.num_target_tokens for update in updates)
    squares = 0.0
    for update in updates:
        apart = sum(
            float((value.double() - mean[name].double()).square().sum()) for name, value in update.weights.items()
        )
        squares += update.num_target_tokens / total * apart
    return math.sqrt(squares)
