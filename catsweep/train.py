"""Train a model on a task's targets: one process, or one of several that share the batch (DDP), or the weights too (FSDP).

Backward runs on sums; one count over every micro-batch and rank of a step scales the gradients before the optimiser's
step. Otherwise the gradient would depend on how the batch was split.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from catsweep.batches import collate, collate_parts, packed_batch
from catsweep.checkpoint import load_checkpoint, save_checkpoint
from catsweep.data import TokenSplit
from catsweep.errors import TrialDivergedError
from catsweep.filters.build import compares_tokens
from catsweep.filters.injected import detection
from catsweep.health import KeptShareWatch
from catsweep.losses import build_chunked_loss, build_loss
from catsweep.mixing import MixtureOrder
from catsweep.models import Architecture, TargetLogits, checkpoint_activations
from catsweep.records import append_step, read_steps
from catsweep.sharding import local, release, shard, whole
from catsweep.spec.training import CatDistLoss, CatXentLoss, TrainingSpec
from catsweep.tensors import Batch, Head, HeadInputs, LossInputs, LossOutput, TeacherSignal, to_device
from catsweep.workers import Workers, first_rank_says

CHUNKED_ABOVE = 2**24
"""Logits of a micro-batch (target tokens times vocabulary) above which they are made chunk by chunk (see
catsweep.losses.chunked). Fewer fit into one chunk anyway, and tiny models are as fast without."""
LOGGED_STEPS = 100
"""Training metrics are written about so many times a run."""


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on: a split's tokens, the large model's signal where the loss needs it, and how to pad.

    only: the examples of the split that it trains on, int64; None: all of them. pack: put several examples into a row.
    """

    tokens: TokenSplit
    teacher: TeacherSignal | None
    architecture: Architecture
    pad_id: int
    start_id: int | None
    only: NDArray[np.int64] | None = None
    pack: bool = False

    def packed_for(self, module: TargetLogits) -> TrainingData:
        """The same examples, packed where the model reads them so: tried on two of them, in eval mode."""
        few = self.places(np.arange(min(2, len(self))))
        prompts, targets = (lists.select(few) for lists in (self.tokens.prompts, self.tokens.targets))
        one_row = packed_batch(prompts, targets, [[*range(len(few))]], pad_id=self.pad_id)
        padded = replace(self, pack=False).batch(np.arange(len(few)))
        return replace(self, pack=module.reads_packed(padded, one_row))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """A micro-batch of the examples `indices`."""
        return collate(
            self.tokens,
            self.places(indices),
            architecture=self.architecture,
            pad_id=self.pad_id,
            start_id=self.start_id,
            teacher=self.teacher,
            pack=self.pack,
        )

    def order(self, batch_size: int, seed: int) -> BatchOrder:
        """The examples of every step."""
        return BatchOrder(len(self), batch_size, seed)

    def places(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the examples `indices` of this run stand in the split."""
        return indices if self.only is None else self.only[indices]

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the examples `indices`, prompt and target together."""
        places = self.places(indices)
        prompts, targets = self.tokens.prompts.offsets, self.tokens.targets.offsets
        return prompts[places + 1] - prompts[places] + targets[places + 1] - targets[places]

    def mean_lengths(self) -> tuple[float, float]:
        """Mean number of prompt and of target tokens."""
        places = self.places(np.arange(len(self)))
        return float(self.tokens.prompts.lengths[places].mean()), float(self.tokens.targets.lengths[places].mean())

    def __len__(self) -> int:
        return len(self.tokens) if self.only is None else len(self.only)


@dataclass(frozen=True)
class MixedData:
    """What a run on a mixture trains on: each member's examples, and its share in a batch."""

    parts: tuple[TrainingData, ...]
    rates: tuple[float, ...]

    def packed_for(self, module: TargetLogits) -> MixedData:
        """The same examples, packed where the model reads them so."""
        pack = self.parts[0].packed_for(module).pack
        return replace(self, parts=tuple(replace(part, pack=pack) for part in self.parts))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """A micro-batch of some examples, counted through all members, in the order of members."""
        first = self.parts[0]
        chosen = self._by_member(indices)
        return collate_parts(
            [(part.tokens, part.places(own), part.teacher) for part, _, own in chosen],
            architecture=first.architecture,
            pad_id=first.pad_id,
            start_id=first.start_id,
            pack=self.pack,
        )

    @property
    def pack(self) -> bool:
        """Whether several examples are put into a row."""
        return self.parts[0].pack

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the examples `indices`, prompt and target together."""
        found = np.empty(len(indices), np.int64)
        for part, where, own in self._by_member(indices):
            found[where] = part.lengths(own)
        return found

    def _by_member(self, indices: NDArray[np.int64]) -> list[tuple[TrainingData, NDArray[np.bool_], NDArray[np.int64]]]:
        """Each member that has some of these examples: which, and where they stand in the member."""
        ends = np.cumsum([len(part) for part in self.parts])
        member = np.searchsorted(ends, indices, side="right")
        return [
            (part, member == number, indices[member == number] - (ends[number] - len(part)))
            for number, part in enumerate(self.parts)
            if (member == number).any()
        ]

    def order(self, batch_size: int, seed: int) -> MixtureOrder:
        """The examples of every step."""
        return MixtureOrder([len(part) for part in self.parts], self.rates, batch_size, seed)

    def mean_lengths(self) -> tuple[float, float]:
        """Mean number of prompt and of target tokens, of an example as it is drawn."""
        lengths = [part.mean_lengths() for part in self.parts]
        prompt, target = (
            sum(rate * pair[side] for rate, pair in zip(self.rates, lengths, strict=True)) for side in (0, 1)
        )
        return prompt, target

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


def train(
    module: TargetLogits,
    data: TrainingData | MixedData,
    spec: TrainingSpec,
    *,
    seed: int,
    workers: Workers,
    evaluate_at: list[int],
    on_evaluation: Callable[[int], None],
    folder: Path | None = None,
) -> None:
    """Train `module` in place for spec.steps steps; `on_evaluation(step)` runs after each step of `evaluate_at`.

    seed: of data order, dropout and filters that draw. folder: where steps.jsonl and the checkpoint go; a checkpoint
    found there is continued, with the same batches as without the interruption. Raises TrialDivergedError where the
    loss is not finite, ValueError where the batch cannot be shared equally.
    """
    if spec.batch_size % workers.size:
        raise ValueError(f"batch_size {spec.batch_size} is not a multiple of the {workers.size} workers")
    # Before a checkpoint is loaded: the weights that the trial's seed gave, also when it goes on.
    initial = frozen_copy(module) if judges_by_initial(spec) else None
    if spec.gradient_checkpointing:
        checkpoint_activations(module)
    replicated: nn.Module = module
    if workers.sharded:
        for model in (module, initial):
            if model is not None:
                shard(model, workers.device)
    elif workers.size > 1:
        replicated = DistributedDataParallel(module)
    if spec.torch_compile:
        replicated = torch.compile(replicated, dynamic=True)  # type: ignore[assignment]
    batch_loss = BatchLoss(spec, module, replicated, initial)
    optimizer = make_optimizer(module, spec)
    order = data.order(spec.batch_size, seed)
    every = max(1, spec.steps // LOGGED_STEPS)
    done = load_checkpoint(folder, module, optimizer, num_ranks=workers.size) if folder else 0
    module.train()
    watch = KeptShareWatch(spec.loss.kind, spec.steps)
    if done in evaluate_at and folder and not first_rank_says(was_evaluated(folder, done), workers):
        on_evaluation(done)
        release(module)
    for step in range(done + 1, spec.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        mine = order.batch(step - 1)[workers.rank :: workers.size]
        sums = _step(batch_loss, optimizer, data, mine, seed=seed, step=step, workers=workers)
        if step % every == 0 or step == spec.steps or step in evaluate_at:
            metrics = readable(sums, spec, step)
            if folder and workers.rank == 0:
                append_step(folder, step, metrics)
            if workers.rank == 0:
                watch.see(step, metrics["train/kept_share"])
        if step in evaluate_at:
            if folder and step < spec.steps and (workers.rank == 0 or workers.sharded):
                save_checkpoint(folder, module, optimizer, step)
            on_evaluation(step)
            release(module)


def make_optimizer(module: TargetLogits, spec: TrainingSpec) -> torch.optim.Optimizer:
    """AdamW over the weights that are trained."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)


def train_part(
    module: TargetLogits,
    data: TrainingData,
    spec: TrainingSpec,
    initial: TargetLogits | None,
    *,
    seed: int,
    workers: Workers,
    first: int,
    last: int,
) -> dict[str, float]:
    """Train `module` in place for the steps first to last of a run, with an optimiser of their own.

    initial: the run's first weights, where a filter judges by them.
    Batches and learning rates are those of these steps of the run. Returns sums over the steps, as `readable` takes
    them; the gradient's norm is their largest. Raises TrialDivergedError.
    """
    batch_loss = BatchLoss(spec, module, module, initial)
    optimizer = make_optimizer(module, spec)
    order = data.order(spec.batch_size, seed)
    module.train()
    total: dict[str, Tensor] = {}
    for step in range(first, last + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step)
        mine = order.batch(step - 1)
        sums = _step(batch_loss, optimizer, data, mine, seed=seed, step=step, workers=workers)
        norm = torch.maximum(sums["grad_norm"], total.get("grad_norm", sums["grad_norm"]))
        total = {name: value + total.get(name, 0) for name, value in sums.items()} | {"grad_norm": norm}
    values = {name: float(value) for name, value in total.items()}
    readable(values, spec, last)
    return values


class BatchLoss:
    """The loss of a micro-batch: from all its logits, or where these are many and hidden states times head, in chunks.

    module: the model. replicated: the same as the ranks call it. initial: the model that the filter asks, where that is
    the one before the first step.
    """

    def __init__(
        self, spec: TrainingSpec, module: TargetLogits, replicated: nn.Module, initial: TargetLogits | None
    ) -> None:
        self.spec = spec
        self.module = module
        self.replicated = replicated
        self.initial = initial
        self.plain = build_loss(spec.loss)
        self.chunked = build_chunked_loss(spec.loss)

    def __call__(self, batch: Batch, generator: torch.Generator, step: int) -> LossOutput:
        """step: 1 to spec.steps. generator: see LossInputs."""
        known, steps = (batch.target_ids_N, batch.teacher, generator), (step, self.spec.steps)
        module, initial = self.module, self.initial
        head = module.plain_head
        chunked = head is not None and len(batch.target_ids_N) * head.weight.shape[0] > CHUNKED_ABOVE
        with torch.autocast(batch.target_ids_N.device.type, torch.bfloat16, enabled=self.spec.bf16):
            with torch.no_grad():
                first = None if initial is None else initial(batch, head=not chunked)
            result = self.replicated(batch, head=not chunked)
        if not chunked:
            return self.plain(LossInputs(result, *known, *steps, first, batch.injected_N))
        asked = None if initial is None or first is None else self._head(initial, first)
        return self.chunked(HeadInputs(self._head(module, result), *known, *steps, asked, batch.injected_N))

    def _head(self, module: TargetLogits, hidden_ND: Tensor) -> Head:
        """Hidden states and the head's weights. Of a model in shards these are whole after its forward pass."""
        assert module.plain_head is not None
        weight_VD = module.plain_head.weight
        if self.spec.bf16:
            return Head(hidden_ND.bfloat16(), weight_VD.bfloat16())
        return Head(hidden_ND, weight_VD)


def _step(
    batch_loss: BatchLoss,
    optimizer: torch.optim.Optimizer,
    data: TrainingData | MixedData,
    mine: NDArray[np.int64],
    *,
    seed: int,
    step: int,
    workers: Workers,
) -> dict[str, Tensor]:
    """One optimiser step; returns sums over the whole batch and the gradient's norm."""
    spec, replicated = batch_loss.spec, batch_loss.replicated
    _seed_torch(mix_seed(seed, step, workers.rank))
    generator = torch.Generator().manual_seed(mix_seed(seed, step, workers.rank, 1))
    optimizer.zero_grad(set_to_none=True)
    micro_batches = cut(mine, data, spec)
    total: dict[str, Tensor] = {}
    for number, indices in enumerate(micro_batches):
        last = number == len(micro_batches) - 1
        # Shards add each micro-batch's gradient to their own part at once: a whole one would take the memory they save.
        with nullcontext() if last or workers.size == 1 or workers.sharded else replicated.no_sync():  # type: ignore[operator]
            batch = to_device(data.batch(indices), workers.device)
            output = batch_loss(batch, generator, step)
            torch.autograd.backward(output.loss_sum)
        sums = {"loss": output.loss_sum.detach(), "target": output.num_target, "kept": output.num_kept, **output.sums}
        total = {name: value + total.get(name, 0) for name, value in sums.items()}
    names = list(total)
    stacked = torch.stack([total[name].double() for name in names])
    if workers.size > 1:
        dist.all_reduce(stacked)
    total = dict(zip(names, stacked, strict=True))
    # DDP and FSDP have averaged the ranks' gradients of sums, so the number of ranks stands in the numerator.
    count = total["kept" if spec.loss.normalize == "kept_tokens" else "target"]
    count = torch.where(count > 0, count, 1.0)  # weights between 0 and 1 may sum to less than one token
    scale = workers.size / count
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients)) * scale
    if spec.max_grad_norm is not None:  # as torch's clip_grad_norm_, but the gradients are multiplied once
        scale = scale * torch.clamp(spec.max_grad_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_([local(gradient) for gradient in gradients], scale.float())
    optimizer.step()
    return total | {"grad_norm": norm, "denominator": count}


def cut(mine: NDArray[np.int64], data: TrainingData | MixedData, spec: TrainingSpec) -> list[NDArray[np.int64]]:
    """The micro-batches of a step. Examples that get a row each are put together by length, so that rows hold less padding; not
    where a filter compares the tokens of a micro-batch, which would see other ones."""
    num = math.ceil(len(mine) / (spec.micro_batch_size or len(mine)))
    asked = spec.loss.filter if isinstance(spec.loss, CatXentLoss | CatDistLoss) else None
    if num > 1 and not data.pack and not (asked is not None and compares_tokens(asked)):
        mine = mine[np.argsort(data.lengths(mine), kind="stable")]
    return np.array_split(mine, num)


def readable(sums: Mapping[str, Tensor | float], spec: TrainingSpec, step: int) -> dict[str, float]:
    """The training metrics of steps.jsonl from the sums of a step, or of several. Raises TrialDivergedError."""
    values = {name: float(value) for name, value in sums.items()}
    target = values["target"]
    metrics = {
        "train/loss": values["loss"] / values["denominator"],
        "train/grad_norm": values["grad_norm"],
        "train/learning_rate": learning_rate(spec, step),
        "train/kept_share": values["kept"] / target,
    }
    if not math.isfinite(metrics["train/loss"]) or not math.isfinite(metrics["train/grad_norm"]):
        raise TrialDivergedError(
            f"the training loss is {metrics['train/loss']} and the gradient's norm {metrics['train/grad_norm']} at step "
            f"{step}; expected finite numbers. Lower learning_rate {spec.learning_rate}"
        )
    metrics |= {f"train/{name}": value / target for name, value in values.items() if "/" in name}
    return metrics | {f"train/{name}": value for name, value in detection(values).items()}


def judges_by_initial(spec: TrainingSpec) -> bool:
    """Whether the loss's filter asks the weights that the run started from."""
    return getattr(spec.loss, "judge", "current") == "initial"


def frozen_copy(module: TargetLogits) -> TargetLogits:
    """The model as it is, without dropout and gradients."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """The rate of step 1 to spec.steps: a linear warm-up, then linear to zero behind the last step, or constant."""
    warmup = math.ceil(spec.warmup_share * spec.steps)
    if step <= warmup:
        return spec.learning_rate * step / warmup
    if spec.schedule == "constant":
        return spec.learning_rate
    return spec.learning_rate * (spec.steps - step + 1) / (spec.steps - warmup)


class BatchOrder:
    """The examples of every step: each epoch is a permutation of its own, and batches run on over its end.

    A pure function of the seed and the step, so that a resumed run and any number of ranks see the same batches.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def batch(self, step: int) -> NDArray[np.int64]:
        """Indices of step 0, 1, ...: int64 (batch_size,)."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.num_examples
        places = positions % self.num_examples
        return np.array(
            [self._epoch(epoch)[place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
        )

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            self._epochs[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
        return self._epochs[epoch]


def mix_seed(*parts: int) -> int:
    """One seed from several numbers, so that neighbours share nothing."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def was_evaluated(folder: Path, step: int) -> bool:
    """Whether steps.jsonl holds an evaluation of this step: a kill may fall between a checkpoint and its evaluation."""
    lines = [line for line in read_steps(folder) if line["step"] == step]
    return any(name.startswith("validation/") for line in lines for name in line)


def _seed_torch(seed: int) -> None:
    """Seed dropout. Without a GPU only the CPU's generator: torch.manual_seed would note a call for GPUs at every step,
    with a stack trace, which costs a tiny model 5% of its time."""
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
