"""How a small model is trained: optimiser, loss and filter. A search space draws any of these fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

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


FilterSpec = Annotated[NamedQuadrants | QuadrantsFilter | ShuffledFilter, Field(discriminator="kind")]


class _Loss(Spec):
    normalize: Literal["target_tokens", "kept_tokens"] = Field(
        "target_tokens", description="Divide the summed loss of a step by all its target tokens, or by the kept ones"
    )


class XentLoss(_Loss):
    """Cross-entropy on the target tokens: plain fine-tuning."""

    kind: Literal["xent"] = "xent"


class DistLoss(_Loss):
    """Cross-entropy mixed with distillation from the large model's distribution."""

    kind: Literal["dist"] = "dist"
    weight: float = Field(
        0.5, description="Share of the cross-entropy; 1 is xent. The paper's value is unknown", ge=0, le=1
    )


class CatXentLoss(_Loss):
    """Cascade-aware cross-entropy: target tokens that the filter drops do not count."""

    kind: Literal["cat_xent"] = "cat_xent"
    filter: FilterSpec = Field(NamedQuadrants(), description="Which target tokens to keep")


class CatDistLoss(_Loss):
    """Cascade-aware distillation: dist on the target tokens that the filter keeps."""

    kind: Literal["cat_dist"] = "cat_dist"
    weight: float = Field(0.5, description="Share of the cross-entropy; 1 is cat_xent", ge=0, le=1)
    filter: FilterSpec = Field(NamedQuadrants(), description="Which target tokens to keep")


LossSpec = Annotated[XentLoss | DistLoss | CatXentLoss | CatDistLoss, Field(discriminator="kind")]


class TrainingSpec(Spec):
    """One training run of a small model."""

    steps: int = Field(description="Optimiser steps", ge=1)
    batch_size: int = Field(32, description="Examples a step over all workers", ge=1)
    micro_batch_size: int | None = Field(None, description="Examples in memory at once, a worker; default: all", ge=1)
    learning_rate: float = Field(1e-4, description="Peak learning rate of AdamW", gt=0, le=1)
    weight_decay: float = Field(0.0, description="AdamW's decoupled weight decay", ge=0, le=1)
    warmup_share: float = Field(0.05, description="Share of the steps in which the learning rate rises", ge=0, lt=1)
    schedule: Literal["linear", "constant"] = Field("linear", description="After the warm-up: fall to zero, or stay")
    max_grad_norm: float | None = Field(1.0, description="Clip the gradient's norm; null: never", gt=0)
    max_prompt_tokens: int = Field(512, description="Longer prompts lose their beginning", ge=1)
    max_target_tokens: int = Field(256, description="Longer targets lose their end in training", ge=1)
    loss: LossSpec = Field(XentLoss(), description="The training loss")

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> TrainingSpec:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} is larger than batch_size {self.batch_size}")
        return self
