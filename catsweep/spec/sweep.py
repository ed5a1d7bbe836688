"""A sweep: one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from catsweep.spec.base import Json, Mismatch, Name, Spec
from catsweep.spec.cascade import CascadeSpec, CostSpec, DeferralRuleName, FlopsCost
from catsweep.spec.mixture import TaskEntry, Unit
from catsweep.spec.model import ChainModel, ChainPretrained, LargePretrained, LargeScratch, LargeSpec, SmallSpec
from catsweep.spec.noise import LabelNoise
from catsweep.spec.search import ObjectiveSpec, SearchSpec
from catsweep.spec.switches import check_bf16
from catsweep.spec.training import TrainingSpec


class DataSpec(Spec):
    """Limits on the rows of every task, which are picked by hash of their group; and noise in the training targets."""

    max_train_rows: int | None = Field(None, description="Use at most so many training rows", ge=10)
    max_evaluation_rows: int | None = Field(None, description="Use at most so many rows of every other split", ge=10)
    verify: Literal["all", "schema"] = Field(
        "all", description="Compare datasets with all that their task expects of them, or leave row counts uncompared"
    )

    label_noise: LabelNoise | None = Field(None, description="Wrong training targets on purpose; null: none")

    def data_key(self) -> Json:
        """What determines which rows are used, and their targets."""
        return self.model_dump(mode="json", exclude={"verify"})

    @model_serializer(mode="wrap")
    def _without_absent_noise(self, handler: SerializerFunctionWrapHandler) -> Json:
        """A sweep without noise stands on storage, and has the keys, as before there was any."""
        data: Json = handler(self)
        return {name: value for name, value in data.items() if name != "label_noise" or value is not None}


class ParallelSpec(Spec):
    """How several workers hold one model."""

    kind: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="ddp: each worker holds all of it. fsdp: each holds its share of the weights, gradients and the "
        "optimiser's state (torch's FSDP2), also while answering; results are the same",
    )


DDP = ParallelSpec()


class WorkerSpec(Spec):
    """What one worker process holds on the cluster."""

    num_workers: int = Field(
        1, description="Worker processes; two or more share the batch under Ray Train", ge=1, le=4096
    )
    cpus_per_worker: float = Field(1, description="CPU cores a worker", gt=0)
    gpus_per_worker: float = Field(
        0, description="GPUs a worker: whole ones, or with one worker a fraction of one that trials share", ge=0
    )
    parallel: ParallelSpec = Field(DDP, description="How several workers hold the model")

    def describe(self) -> str:
        """2 x 4 CPUs and 1 GPUs."""
        return f"{self.num_workers} x {self.cpus_per_worker:g} CPUs and {self.gpus_per_worker:g} GPUs"

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpus(cls, value: float, info: ValidationInfo) -> float:
        workers = info.data.get("num_workers", 1)
        if value % 1 and (workers > 1 or value > 1):
            found = f"{value:g} GPUs a worker" + (f" with num_workers: {workers}" if workers > 1 else "")
            raise Mismatch(found=found, expected="a whole number of GPUs, or a fraction below one with num_workers: 1")
        return value

    @model_validator(mode="after")
    def _shards_need_workers(self) -> WorkerSpec:
        if self.parallel.kind == "fsdp" and self.num_workers == 1:
            raise Mismatch(found="parallel: {kind: fsdp} with num_workers: 1", expected="two or more workers")
        return self

    @model_serializer(mode="wrap")
    def _without_ddp(self, handler: SerializerFunctionWrapHandler) -> Json:
        """The default changes no stored settings."""
        return _without_default(handler(self), "parallel", DDP.to_json())


class ResourcesSpec(WorkerSpec):
    """What a trial holds on the cluster, and what the large model's fine-tune and pass hold."""

    large: WorkerSpec = Field(WorkerSpec(), description="Resources of the large model's unit of each task")
    evaluation_batch_size: int = Field(128, description="Examples in memory at once while evaluating", ge=1)
    hang_minutes: float | None = Field(
        120,
        description="A run that writes nothing for so long is taken for hung: its process is ended, and it starts again from "
        "its checkpoint, twice. null: never",
        gt=0,
    )

    @property
    def hang_seconds(self) -> float | None:
        """The same in seconds."""
        return None if self.hang_minutes is None else 60 * self.hang_minutes

    @model_serializer(mode="wrap")
    def _without_default_hang(self, handler: SerializerFunctionWrapHandler) -> Json:
        """Sweeps stand on storage as before there was the key."""
        data: Json = handler(self)
        return {name: value for name, value in data.items() if name != "hang_minutes" or value != 120}


class DistributionSpec(Spec):
    """What the large model's pass keeps of its distribution for dist and cat_dist, a target token.

    sampled: tokens drawn from the distribution with equal weight, an unbiased estimate (arXiv 2503.16870).
    top_k: the k most probable tokens with their probabilities; biased unless k reaches the vocabulary.
    """

    kind: Literal["sampled", "top_k"] = Field("sampled", description="Draw tokens, or keep the most probable ones")
    num_entries: int = Field(12, description="Entries a target token", ge=1, le=4096)

    def entries(self, vocab_size: int) -> int:
        """Entries a target token of a vocabulary of so many tokens: no more of the most probable ones than there are."""
        return min(self.num_entries, vocab_size) if self.kind == "top_k" else self.num_entries


CLEAN_TRAIN = "clean_train"
"""The training examples with their clean targets, beside the noisy ones."""


class SweepSpec(Spec):
    """A search for the best small model of a cascade on each of a list of tasks."""

    name: Name = Field(description="Name of the sweep and of its folder")
    tasks: list[TaskEntry] = Field(
        description="Task names, patterns such as `superglue/*`, tags, task YAML files, {group: NAME}, or mixtures "
        "{mixture: NAME, tasks: [...]}",
        min_length=1,
    )
    small: SmallSpec = Field(
        description="The model that is trained", examples=["small:\n  pretrained: google/t5-v1_1-small"]
    )
    large: LargeSpec = Field(
        description="The model that answers what the small one defers",
        examples=["large:\n  pretrained: google/t5-v1_1-large"],
    )
    chain: list[ChainModel] = Field(
        [],
        description="Further models, prepared as the large one is: filters name them in `models`, and the confirmed runs' "
        "chains with them are compared with every pair",
    )
    distribution: DistributionSpec = Field(DistributionSpec(), description="What dist losses see of the large model")
    training: TrainingSpec = Field(description="Settings of every training run; the space draws over them")
    search: SearchSpec = Field(SearchSpec(), description="What is searched and how")
    data: DataSpec = Field(DataSpec(), description="Limits on rows")
    data_root: str | None = Field(
        None,
        description="Folder with copies of hub datasets and test sets, as `catsweep fetch` writes it; relative to this "
        "file. Default: CATSWEEP_DATA. What it holds is not looked for on the hub",
        min_length=1,
    )
    cascade: CascadeSpec = Field(CascadeSpec(), description="Deferral rules and cost models")
    resources: ResourcesSpec = Field(ResourcesSpec(), description="What trials hold on the cluster")
    keep_models: int | None = Field(
        None,
        description="Keep the weights of so many confirmed runs, the best over the whole sweep: first the best of every task, "
        "then the second of every task, and so on. Default: those of all",
        ge=0,
    )

    @property
    def data_folder(self) -> Path | None:
        """`data_root` as a path."""
        return None if self.data_root is None else Path(self.data_root)

    @property
    def large_split(self) -> str:
        """The split of token ids that the large model trains on: its own part of train, or train; a copy of train with clean
        targets where noise is kept from the large model."""
        finetune, noise = self.large.finetune, self.data.label_noise
        split = finetune.train_split if finetune else "train"
        return CLEAN_TRAIN if split == "train" and noise is not None and noise.clean_large else split

    def with_large(self, model: ChainModel) -> SweepSpec:
        """The same with a further model of the chain in the large one's place: what is prepared for it."""
        own = {name: value for name, value in model.to_json().items() if name not in ("name", "place")}
        kind = LargePretrained if isinstance(model, ChainPretrained) else LargeScratch
        return self.model_copy(update={"large": kind.model_validate(own), "chain": []})

    @model_validator(mode="after")
    def _chain_fits(self) -> SweepSpec:
        names = [model.name for model in self.chain]
        if len({*names, "small", "large"}) < len(names) + 2:
            raise Mismatch(
                found=f"chain: the names {', '.join(names)}", expected="different ones, none of them small or large"
            )
        ways = {model.name: _data_way(model) for model in self.chain if model.finetune}
        for name, way in ways.items():
            if way != _data_way(self.large):
                raise Mismatch(
                    found=f"chain: {name} keeps {way or 'nothing'} of the training groups from itself, large "
                    f"{_data_way(self.large) or 'nothing'}",
                    expected="one cut of the data: the same holdout, or neither",
                )
        asked = {name for tree in (self.search.space, self.training.to_json()) for name in _models_of_filters(tree)}
        if unknown := sorted(asked - {*names, "large"}):
            raise Mismatch(
                found=f"a filter that asks {', '.join(unknown)}",
                expected=f"models among {', '.join([*names, 'large'])}",
            )
        return self

    @model_validator(mode="after")
    def _one_asks_a_server(self) -> SweepSpec:
        if isinstance(self.large, LargePretrained) and self.large.endpoint is not None:
            num_workers = self.resources.large.num_workers
            if num_workers > 1:
                raise Mismatch(
                    found=f"large.endpoint with resources.large.num_workers: {num_workers}",
                    expected="1: one process asks the server, with max_concurrent requests at once",
                )
            if self.training.federated is not None or "federated" in self.search.space:
                raise Mismatch(found="large.endpoint with federated clients", expected="a model that each client loads")
        return self

    @model_validator(mode="after")
    def _float32_weights(self) -> SweepSpec:
        check_bf16("training", self.training.bf16, self.small.dtype)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_chain(self, handler: SerializerFunctionWrapHandler) -> Json:
        """A sweep of two models that keeps all weights stands on storage as before there were these keys."""
        data: Json = handler(self)
        return {
            name: value
            for name, value in data.items()
            if not (name == "chain" and not value) and not (name == "keep_models" and value is None)
        }


def _without_default(data: Json, name: str, default: object) -> Json:
    return {key: value for key, value in data.items() if key != name or value != default}


def _data_way(model: LargePretrained | LargeScratch) -> float | None:
    return model.finetune.holdout if model.finetune else None


def _models_of_filters(value: object) -> list[str]:
    """The names under every key `models` of a space or of settings."""
    if isinstance(value, list):
        return [name for item in value for name in _models_of_filters(item)]
    if not isinstance(value, dict):
        return []
    own = value.get("models")
    here = [str(name) for name in own] if isinstance(own, list) else []
    return here + [name for item in value.values() for name in _models_of_filters(item)]


class TrialSpec(Spec):
    """Everything that determines one training run of a small model; stands in the trial's folder as spec.json."""

    sweep: Name = Field(description="Name of the sweep")
    task: Unit = Field(description="The task, or the mixture of tasks")
    stratum: str = Field(description="Values of the stratified paths, joined by slashes, for example cat_xent/either")
    number: int = Field(description="Number of the trial in its task and stratum", ge=0)
    role: Literal["trial", "confirm"] = Field(description="A search trial, or a run of a winner with a new seed")
    seed: int = Field(description="Seed of weights, dropout, data order and shuffled masks", ge=0)
    parameters: dict[str, str | float | int | bool | None] = Field(description="Drawn values by dotted path")
    small: SmallSpec = Field(description="The model that is trained")
    large: LargeSpec = Field(description="The model that answers deferred queries")
    distribution: DistributionSpec = Field(description="What dist losses see of the large model")
    training: TrainingSpec = Field(description="Settings of the run")
    data: DataSpec = Field(description="Limits on rows")
    objective: ObjectiveSpec = Field(description="What the search optimises")
    second_objective: ObjectiveSpec | None = Field(None, description="The second of two objectives")
    deferral: DeferralRuleName = Field(description="The deferral rule of the objective")
    cost: CostSpec = Field(FlopsCost(), description="The cost model of the objective")
    evaluate_at: list[int] = Field(
        description="Steps after which validation is evaluated and reported; ends at `steps`"
    )
    evaluation_batch_size: int = Field(description="Examples in memory at once while evaluating", ge=1)
    parallel: ParallelSpec = Field(DDP, description="How several workers hold the model")

    @model_serializer(mode="wrap")
    def _without_ddp(self, handler: SerializerFunctionWrapHandler) -> Json:
        return _without_default(handler(self), "parallel", DDP.to_json())

    @property
    def trial_id(self) -> str:
        """The trial's folder below the sweep: task/stratum/number, for confirm runs with their seed."""
        stem = f"{self.task.task}/{self.stratum.replace('/', '+')}/{self.number:05d}"
        return f"trials/{stem}" if self.role == "trial" else f"confirm/{stem}-seed{self.seed}"
