"""What is searched, by which sampler, stopped by which scheduler, and judged by which objective."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from catsweep.spec.base import Mismatch, Spec


class AudcObjective(Spec):
    """Area under the deferral curve: quality averaged over all deferral rates. Higher is better."""

    kind: Literal["audc"] = "audc"


class QualityAtCostObjective(Spec):
    """The highest quality of an operating point within a cost. Higher is better."""

    kind: Literal["quality_at_cost"] = "quality_at_cost"
    cost: float = Field(description="Largest cost, as a share of the mean cost of the large model alone", gt=0, le=2)


class CostAtQualityObjective(Spec):
    """The lowest cost of an operating point that reaches a quality, as a share of the large model alone, and the cost of
    deferring everything where none does. Lower is better. With `gap` the quality follows from the task: xent is searched
    first (docs/statistics.md)."""

    kind: Literal["cost_at_quality"] = "cost_at_quality"
    quality: float | None = Field(None, description="Quality to reach, in the metric's own unit", ge=-1, le=100)
    gap: float | None = Field(
        None,
        description="In place of `quality`: the share of the way from the task's best xent small model to the large one",
        gt=0,
        le=1,
    )

    @model_validator(mode="after")
    def _one_target(self) -> CostAtQualityObjective:
        given = [name for name in ("quality", "gap") if getattr(self, name) is not None]
        if len(given) != 1:
            raise Mismatch(found=" and ".join(given) or "neither quality nor gap", expected="one of quality and gap")
        return self


ObjectiveSpec = Annotated[AudcObjective | QualityAtCostObjective | CostAtQualityObjective, Field(discriminator="kind")]


def _number_of(value: Any) -> str:
    return "two" if isinstance(value, list | tuple) else "one"


MetricSpec = Annotated[
    Annotated[ObjectiveSpec, Tag("one")]
    | Annotated[Annotated[list[ObjectiveSpec], Field(min_length=2, max_length=2)], Tag("two")],
    Discriminator(_number_of),
]


def lower_is_better(objective: ObjectiveSpec) -> bool:
    """Whether the search wants as little as possible of the objective: a cost."""
    return objective.kind == "cost_at_quality"


def has_gap(objective: ObjectiveSpec) -> bool:
    """Whether the quality to reach is known only once the baseline has been searched."""
    return isinstance(objective, CostAtQualityObjective) and objective.gap is not None


class TpeSampler(Spec):
    """Optuna's tree-structured Parzen estimator; the first trials are random, the same for every stratum of a task."""

    type: Literal["tpe"] = "tpe"
    seed: int = Field(0, description="Seed of the suggestions", ge=0)
    num_startup_trials: int = Field(8, description="Random trials before the estimator starts", ge=1)


class RandomSampler(Spec):
    """Random search."""

    type: Literal["random"] = "random"
    seed: int = Field(0, description="Seed of the suggestions", ge=0)


class GridSampler(Spec):
    """Every combination of the space's choices once, in the order of the file; `num_samples` says how many of them.

    The space holds no intervals, so that all strata try the same values.
    """

    type: Literal["grid"] = "grid"
    seed: int = Field(0, description="Seed of the trials' weights and data order", ge=0)


SamplerSpec = Annotated[TpeSampler | RandomSampler | GridSampler, Field(discriminator="type")]


class AshaScheduler(Spec):
    """Asynchronous successive halving: at each rung only the best 1/reduction_factor go on. One for each task and
    stratum, so that strata never stop each other."""

    type: Literal["asha"] = "asha"
    grace_period: int = Field(description="Steps before the first rung", ge=1)
    reduction_factor: int = Field(
        3, description="Rungs are this factor apart; the share that goes on is its inverse", ge=2
    )


class NoScheduler(Spec):
    """Every trial runs its full steps."""

    type: Literal["none"] = "none"


SchedulerSpec = Annotated[AshaScheduler | NoScheduler, Field(discriminator="type")]


def evaluation_steps(scheduler: AshaScheduler | NoScheduler, steps: int) -> list[int]:
    """The steps after which a trial is evaluated: grace_period * reduction_factor^i below `steps`, and `steps`."""
    result: list[int] = []
    if isinstance(scheduler, AshaScheduler):
        rung = scheduler.grace_period
        while rung < steps:
            result.append(rung)
            rung *= scheduler.reduction_factor
    return [*result, steps]


BASELINE = "xent"
"""The stratum that all others are compared with: plain fine-tuning."""
DEFAULT_STRATIFY = ["loss.kind", "loss.filter.kind"]


class SearchSpec(Spec):
    """The search over one task's training settings; each task and stratum has a study of its own."""

    num_samples: int = Field(8, description="Trials for each task and each stratum", ge=1, le=100_000)
    stratify: list[str] = Field(
        DEFAULT_STRATIFY,
        description="Dotted paths of the space; every combination of their options gets the same tuning budget",
    )
    metric: MetricSpec = Field(
        AudcObjective(),
        description="What the search optimises, on validation; a list of two objectives asks for their Pareto set, and the "
        "first one decides what is stopped early and what is confirmed",
    )
    sampler: SamplerSpec = Field(TpeSampler(), description="How trials are suggested")
    scheduler: SchedulerSpec = Field(NoScheduler(), description="Which trials are stopped early")
    confirm_seeds: int = Field(
        3, description="Runs of each stratum's winner with new seeds; only they see test", ge=1, le=64
    )
    space: dict[str, Any] = Field({}, description="Fields of `training` with their dimensions; options may be nested")

    @property
    def objectives(self) -> list[ObjectiveSpec]:
        """One objective, or two."""
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]
