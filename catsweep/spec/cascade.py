"""How curves are computed from the rows: deferral rules and cost models."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from catsweep.spec.base import Mismatch, Spec

DEFERRAL_RULES = (
    "mean", "sum", "max", "token_entropy", "token_margin", "choice_max_probability", "choice_margin", "choice_entropy",
    "random", "learned",
)  # fmt: skip
LEARNED = "learned"


def _known_rule(rule: str) -> str:
    quantile = re.fullmatch(r"quantile:(0(\.\d+)?|1(\.0+)?)", rule)
    if rule not in DEFERRAL_RULES and not quantile:
        raise ValueError(
            f"unknown deferral rule {rule!r}: one of {', '.join(DEFERRAL_RULES)}, quantile:Q with Q in [0, 1]"
        )
    return rule


DeferralRuleName = Annotated[str, AfterValidator(_known_rule)]


class FlopsCost(Spec):
    """FLOPs of an answer, from token counts and the models' shapes alone."""

    kind: Literal["flops"] = "flops"


class LatencyCost(Spec):
    """Seconds of an answer: what the evaluation of each model took in batches on the machine that ran it, shared among its
    queries by their tokens. Waiting is not in it, and two machines cannot be compared."""

    kind: Literal["latency"] = "latency"


class TokenPrice(Spec):
    """What a model's tokens cost."""

    input_per_million: float = Field(description="Dollars for a million prompt tokens", ge=0)
    output_per_million: float = Field(description="Dollars for a million tokens of answers, or of choices", ge=0)


class PriceCost(Spec):
    """Dollars of an answer, from its prompt and output tokens."""

    kind: Literal["price"] = "price"
    small: TokenPrice = Field(description="Price of the small model")
    large: TokenPrice = Field(description="Price of the large model")

    @model_validator(mode="after")
    def _is_not_free(self) -> PriceCost:
        if self.large.input_per_million + self.large.output_per_million == 0:
            raise Mismatch(found="a large model that costs nothing", expected="a price above 0 for its tokens")
        return self


AnyCost = FlopsCost | LatencyCost | PriceCost


def _long_form(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _short_form(cost: AnyCost) -> Any:
    return cost.model_dump(mode="json") if isinstance(cost, PriceCost) else cost.kind


CostSpec = Annotated[
    Annotated[AnyCost, Field(discriminator="kind")], BeforeValidator(_long_form), PlainSerializer(_short_form)
]
"""A cost model; `flops` and `latency` may be written as their name alone."""

UNITS = {"flops": "FLOPs", "latency": "seconds", "price": "dollars"}
"""What a query's cost is counted in, by the kind of a cost model."""


def _once(costs: list[AnyCost]) -> list[AnyCost]:
    kinds = [cost.kind for cost in costs]
    if len(set(kinds)) < len(kinds):
        raise Mismatch(found=", ".join(kinds), expected="each cost model once")
    return costs


class CascadeSpec(Spec):
    """How curves are computed from the rows."""

    deferral: list[DeferralRuleName] = Field(
        ["mean"],
        description="Deferral rules; objectives use the first, which may not be `learned`. The others cost no training",
        min_length=1,
    )
    costs: Annotated[list[CostSpec], AfterValidator(_once)] = Field(
        [FlopsCost()],
        description="Cost models: `flops`, `latency`, or {kind: price, small: ..., large: ...}; objectives use the first, "
        "which for them may not be `latency`",
        min_length=1,
    )
    num_resamples: int = Field(1_000, description="Bootstrap resamples of the intervals", ge=100, le=100_000)
    seed: int = Field(0, description="Seed of the resamples, and of the learned rule's folds", ge=0)


def objective_cost(cascade: CascadeSpec) -> AnyCost:
    """The cost model of a search's objective: the first; FLOPs in place of latency, which stands first only where no
    objective names a cost."""
    first = cascade.costs[0]
    return FlopsCost() if isinstance(first, LatencyCost) else first


def uses_cost(metric: Any) -> bool:
    """Whether an objective of `search.metric`, as in YAML or JSON, one or a list, depends on the cost model."""
    items = metric if isinstance(metric, list) else [metric]
    return any(isinstance(item, dict) and item.get("kind", "audc") != "audc" for item in items)
