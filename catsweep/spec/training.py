"""How a small model is trained: optimiser, loss and filter. A search space draws any of these fields."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from catsweep.spec.base import Json, Mismatch, Spec
from catsweep.spec.federated import FederatedSpec
from catsweep.spec.filters import FilterSpec, NamedQuadrants
from catsweep.spec.switches import (
    Bf16,
    GradientCheckpointing,
    Lora,
    MicroBatch,
    TorchCompile,
    check_micro_batch,
    without_off,
)

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

_OFF = {"divergence": "forward_kl", "jsd_beta": 0.5, "filter_warmup_share": 0.0, "judge": "current"}


class _Loss(Spec):
    normalize: Literal["target_tokens", "kept_tokens"] = Field(
        "target_tokens", description="Divide the summed loss of a step by all its target tokens, or by the kept ones"
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> Json:
        """Switches that are off change no stored settings."""
        data: Json = handler(self)
        return {name: value for name, value in data.items() if name not in _OFF or value != _OFF[name]}


class XentLoss(_Loss):
    """Cross-entropy on the target tokens: plain fine-tuning."""

    kind: Literal["xent"] = "xent"


class _Distillation(_Loss):
    divergence: Divergence = Field(
        "forward_kl",
        description="What pulls the small model's distribution to the large one's; forward_kl is the paper's. The others "
        "(arXiv 2306.13649) need `distribution: {kind: top_k}`",
    )
    jsd_beta: float = Field(
        0.5, description="Share of the large model in jsd's mixture; towards 0 it acts as forward_kl", gt=0, lt=1
    )


class _CascadeAware(Spec):
    filter: FilterSpec = Field(NamedQuadrants(), description="Which target tokens to keep")
    filter_warmup_share: float = Field(
        0.0, description="Share of the steps, at the start, in which all target tokens count", ge=0, le=1
    )
    judge: Literal["current", "initial"] = Field(
        "current",
        description="The small model that the filter asks: as it is at each step, or as it was before the first one (one "
        "more forward pass a step, and the weights twice in memory)",
    )


class DistLoss(_Distillation):
    """Cross-entropy mixed with distillation from the large model's distribution."""

    kind: Literal["dist"] = "dist"
    weight: float = Field(
        0.5, description="Share of the cross-entropy; 1 is xent. The paper's value is unknown", ge=0, le=1
    )


class CatXentLoss(_CascadeAware, _Loss):
    """Cascade-aware cross-entropy: target tokens that the filter drops do not count."""

    kind: Literal["cat_xent"] = "cat_xent"


class CatDistLoss(_CascadeAware, _Distillation):
    """Cascade-aware distillation: dist on the target tokens that the filter keeps."""

    kind: Literal["cat_dist"] = "cat_dist"
    weight: float = Field(0.5, description="Share of the cross-entropy; 1 is cat_xent", ge=0, le=1)


class GatekeeperLoss(_Loss):
    """Fine-tuning, then confidence tuning (arXiv 2502.19335): sure where the small model is right, unsure where it is wrong.

    Its steps, both parts together, are those of every other loss.
    """

    kind: Literal["gatekeeper"] = "gatekeeper"
    alpha: float = Field(
        0.5, description="Weight of the cross-entropy on right tokens; the rest pulls wrong ones to uniform", ge=0, le=1
    )
    pretrain_share: float = Field(
        0.5,
        description="Share of the steps, at the start, that are plain xent: the loss tunes a trained model",
        ge=0,
        lt=1,
    )


class LabelSmoothingLoss(_Loss):
    """Cross-entropy with a target that is mixed with the uniform distribution."""

    kind: Literal["label_smoothing"] = "label_smoothing"
    smoothing: float = Field(0.1, description="Share of the uniform distribution in the target; 0 is xent", ge=0, lt=1)


LossSpec = Annotated[
    XentLoss | DistLoss | CatXentLoss | CatDistLoss | GatekeeperLoss | LabelSmoothingLoss, Field(discriminator="kind")
]


def distils(kind: object) -> bool:
    """Whether losses of this kind ask for the large model's distribution: those whose class is a distillation."""
    return any(
        issubclass(loss, _Distillation) and loss.model_fields["kind"].default == kind
        for loss in get_args(get_args(LossSpec)[0])
    )


class TrainingSpec(Spec):
    """One training run of a small model."""

    steps: int = Field(description="Optimiser steps", ge=1)
    batch_size: int = Field(32, description="Examples a step over all workers", ge=1)
    micro_batch_size: MicroBatch = None
    learning_rate: float = Field(1e-4, description="Peak learning rate of AdamW", gt=0, le=1)
    weight_decay: float = Field(0.0, description="AdamW's decoupled weight decay", ge=0, le=1)
    warmup_share: float = Field(0.05, description="Share of the steps in which the learning rate rises", ge=0, lt=1)
    schedule: Literal["linear", "constant"] = Field("linear", description="After the warm-up: fall to zero, or stay")
    max_grad_norm: float | None = Field(1.0, description="Clip the gradient's norm; null: never", gt=0)
    max_prompt_tokens: int = Field(512, description="Longer prompts lose their beginning", ge=1)
    max_target_tokens: int = Field(256, description="Longer targets lose their end in training", ge=1)
    loss: LossSpec = Field(XentLoss(), description="The training loss")
    federated: FederatedSpec | None = Field(
        None, description="Train on clients that average weights; null: in one place"
    )
    gradient_checkpointing: GradientCheckpointing = False
    bf16: Bf16 = False
    torch_compile: TorchCompile = False
    lora: Lora = None

    @model_serializer(mode="wrap")
    def _without_switches_that_are_off(self, handler: SerializerFunctionWrapHandler) -> Json:
        data: Json = handler(self)
        return without_off(data)

    @property
    def num_clients(self) -> int:
        """How many models train side by side, each for all steps: 1 in one place."""
        return self.federated.clients if self.federated else 1

    @field_validator("federated")
    @classmethod
    def _rounds_fill_the_steps(cls, value: FederatedSpec | None, info: ValidationInfo) -> FederatedSpec | None:
        steps = info.data.get("steps")
        if value is not None and steps is not None and value.rounds * value.local_steps != steps:
            total = f"rounds {value.rounds} * local_steps {value.local_steps} = {value.rounds * value.local_steps}"
            raise Mismatch(found=total, expected=f"as many as training.steps, {steps}")
        return value

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> TrainingSpec:
        check_micro_batch(self.micro_batch_size, self.batch_size)
        return self

    @model_validator(mode="after")
    def _clients_train_plainly(self) -> TrainingSpec:
        switches = [name for name in ("gradient_checkpointing", "torch_compile", "lora") if getattr(self, name)]
        if self.federated is not None and switches:
            raise Mismatch(found=f"federated with {' and '.join(switches)}", expected="clients without them")
        return self
