"""Which target tokens count in a cascade-aware loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from catsweep.spec.base import Json, Name, Spec

Quadrant = Literal["both", "only_small", "only_large", "neither"]

QUADRANT_SETS: dict[str, tuple[Quadrant, ...]] = {
    "all": ("both", "only_small", "only_large", "neither"),
    "either": ("both", "only_small", "only_large"),
    "large": ("both", "only_large"),
    "not_large": ("only_small", "neither"),
    "small": ("both", "only_small"),
    "both": ("both",),
    "learnable": ("only_large",),
}
"""Named sets of quadrants. A quadrant says which of the two models gets a target token right; `either` is the paper's."""


class NamedQuadrants(Spec):
    """Keep the target tokens of a named set of quadrants; `either` is the paper's filter."""

    kind: Literal["all", "either", "large", "not_large", "small", "both", "learnable"] = Field(
        "either", description="Name of the set"
    )
    models: list[Name] = Field(
        ["large"],
        description="A token counts as right for the large model where any of these is right: large, and models of `chain`",
        min_length=1,
    )

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> Json:
        """The large model alone is what filters ask: it changes no stored settings."""
        data: Json = handler(self)
        return {name: value for name, value in data.items() if name != "models" or value != ["large"]}


class QuadrantsFilter(Spec):
    """Keep the target tokens of any set of quadrants."""

    kind: Literal["quadrants"] = "quadrants"
    keep: list[Quadrant] = Field(description="Quadrants to keep", min_length=1)


class ShuffledFilter(Spec):
    """The mask of `either`, permuted among the target tokens of a micro-batch: the same kept rate, no information.

    The control that every claim about a filter needs.
    """

    kind: Literal["shuffled"] = "shuffled"


class TopKFilter(Spec):
    """Keep the target tokens among the k most probable tokens of either model; 1 is `either`."""

    kind: Literal["top_k"] = "top_k"
    k: int = Field(description="Ranks that count as right; the large model's are stored up to 255", ge=1, le=255)


class ThresholdFilter(Spec):
    """Keep the target tokens to which either model gives at least a probability."""

    kind: Literal["threshold"] = "threshold"
    t: float = Field(description="Smallest probability of the target token, of the better model", ge=0, le=1)


class SoftFilter(Spec):
    """Weigh each target token by the larger of the two probabilities that the models give it; no gradient flows through."""

    kind: Literal["soft"] = "soft"


class ExcessLossFilter(Spec):
    """Keep the target tokens of a micro-batch on which the small model loses most against the large one (arXiv 2404.07965).

    It compares the tokens of one micro-batch, so its result depends on how a batch is split.
    """

    kind: Literal["excess_loss"] = "excess_loss"
    keep: float = Field(description="Share of the target tokens of each micro-batch to keep", gt=0, le=1)


PlainFilter = Annotated[
    NamedQuadrants | QuadrantsFilter | ShuffledFilter | TopKFilter | ThresholdFilter | SoftFilter | ExcessLossFilter,
    Field(discriminator="kind"),
]


class DropInjectedFilter(Spec):
    """Keep exactly the target tokens that `data.label_noise` has not replaced: what a perfect detector of noise would gain."""

    kind: Literal["drop_injected"] = "drop_injected"


class CleanOnlyFilter(Spec):
    """Ask a filter about the clean target tokens alone; those that `data.label_noise` has replaced are all kept, as without a
    filter: what it gains by easier tokens, and not by removing noise."""

    kind: Literal["clean_only"] = "clean_only"
    filter: PlainFilter = Field(NamedQuadrants(), description="The filter that is asked; it sees the clean tokens only")


NOISE_FILTERS = ("drop_injected", "clean_only")
"""Kinds that need `data.label_noise`."""

FilterSpec = Annotated[
    NamedQuadrants
    | QuadrantsFilter
    | ShuffledFilter
    | TopKFilter
    | ThresholdFilter
    | SoftFilter
    | ExcessLossFilter
    | DropInjectedFilter
    | CleanOnlyFilter,
    Field(discriminator="kind"),
]
