"""Mixtures: one small model that is trained on several tasks and evaluated on each.

What a sweep searches is a unit: a task, or a mixture with its members.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from catsweep.spec.base import Name, Spec
from catsweep.spec.task import TaskSpec

MAX_RATE = 30_000


class ExamplesProportional(Spec):
    """A member's share is proportional to its number of training examples, at most `cap` of which count, as FLAN does.
    (FLAN takes 30,000 rows of each task at most, which is `data.max_train_rows`, and a cap of 3,000.)"""

    kind: Literal["examples_proportional"] = "examples_proportional"
    cap: int = Field(MAX_RATE, description="Examples of a member that count at most", ge=1)


class EqualSampling(Spec):
    """Every member has the same share."""

    kind: Literal["equal"] = "equal"


class TemperatureSampling(Spec):
    """A member's share is proportional to its number of training examples (at most `cap`) to the power 1/temperature:
    1 is examples_proportional, and large ones come close to equal."""

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(2.0, description="The larger, the more equal the shares", ge=1, le=1_000)
    cap: int = Field(MAX_RATE, description="Examples of a member that count at most", ge=1)


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Sampling = ExamplesProportional | EqualSampling | TemperatureSampling
SamplingSpec = Annotated[Sampling, Field(discriminator="kind"), BeforeValidator(_named)]


class GroupEntry(Spec):
    """All tasks of a kind, in a sweep's list of tasks."""

    group: Name = Field(description="Kind of task: what the task files call their group")


def _entry_tag(value: Any) -> str:
    if isinstance(value, dict | GroupEntry | MixtureEntry):
        return (
            "mixture"
            if isinstance(value, MixtureEntry) or (isinstance(value, dict) and "mixture" in value)
            else "group"
        )
    return "name"


MemberEntry = Annotated[Annotated[str, Tag("name")] | Annotated[GroupEntry, Tag("group")], Discriminator(_entry_tag)]


class MixtureEntry(Spec):
    """One small model trained on many tasks and evaluated on each, in a sweep's list of tasks."""

    mixture: Name = Field(description="Name of the mixture: of its folder and of its lines in the results")
    tasks: list[MemberEntry] = Field(
        description="The members: task names, patterns, tags, task YAML files, or {group: NAME}", min_length=1
    )
    sampling: SamplingSpec = Field(ExamplesProportional(), description="Shares of the members in each batch")
    min_task_delta: float | None = Field(
        None,
        description="Guard: no trial wins whose objective on any member lies further than this behind that of the best "
        "xent trial, on validation. In units of the metric's range (0.01 is one point of 100), for cost_at_quality in "
        "shares of the large model's cost. Null: no guard",
        ge=0,
    )


TaskEntry = Annotated[
    Annotated[str, Tag("name")] | Annotated[GroupEntry, Tag("group")] | Annotated[MixtureEntry, Tag("mixture")],
    Discriminator(_entry_tag),
]


class MixtureSpec(Spec):
    """A mixture with its members resolved."""

    task: Name = Field(description="Name of the mixture")
    members: tuple[TaskSpec, ...] = Field(description="The tasks", min_length=2)
    sampling: SamplingSpec = Field(description="Shares of the members in each batch")
    min_task_delta: float | None = Field(description="How far a member may fall behind the best xent trial")

    @model_validator(mode="after")
    def _members_differ(self) -> MixtureSpec:
        names = [member.task for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError("a member stands twice in the mixture")
        return self

    @property
    def group(self) -> str:
        """What stands where a task's kind would."""
        return "mixture"


def _unit_tag(value: Any) -> str:
    return "mixture" if isinstance(value, MixtureSpec) or (isinstance(value, dict) and "members" in value) else "task"


Unit = Annotated[Annotated[TaskSpec, Tag("task")] | Annotated[MixtureSpec, Tag("mixture")], Discriminator(_unit_tag)]
UNIT: TypeAdapter[TaskSpec | MixtureSpec] = TypeAdapter(Unit)


def members(unit: TaskSpec | MixtureSpec) -> tuple[TaskSpec, ...]:
    """The tasks that a unit is evaluated on."""
    return unit.members if isinstance(unit, MixtureSpec) else (unit,)


def result_name(unit: TaskSpec | MixtureSpec, member: TaskSpec) -> str:
    """The name of a member's results: a task's own name, or `mixture/task`."""
    return f"{unit.task}/{member.task}" if isinstance(unit, MixtureSpec) else unit.task


def sampling_rates(sampling: Sampling, sizes: list[int]) -> list[float]:
    """The share of each member in the training examples; they sum to 1. sizes: number of training examples of each."""
    match sampling:
        case EqualSampling():
            weights = [1.0 for _ in sizes]
        case ExamplesProportional(cap=cap):
            weights = [float(min(size, cap)) for size in sizes]
        case TemperatureSampling(temperature=temperature, cap=cap):
            weights = [min(size, cap) ** (1 / temperature) for size in sizes]
    return [weight / sum(weights) for weight in weights]
