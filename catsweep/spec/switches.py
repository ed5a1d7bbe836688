"""Settings of large models that a training run of the small and a fine-tune of the large model share.

All of them are off by default, and what is off is not written: it changes no stored settings and no key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from catsweep.spec.base import Json, Mismatch, Spec

MicroBatch = Annotated[
    int | None,
    Field(
        description="Examples in memory at once, a worker; default: all. Gradients of the others of a step accumulate",
        ge=1,
    ),
]
GradientCheckpointing = Annotated[
    bool,
    Field(
        description="Keep the layers' inputs alone and compute their activations again in the backward pass: less memory, "
        "about a third more time"
    ),
]
Bf16 = Annotated[
    bool,
    Field(
        description="Compute the steps in bfloat16 (autocast) on weights, gradients and an optimiser in float32; needs "
        "dtype float32. Answers and signals are computed in dtype"
    ),
]
TorchCompile = Annotated[bool, Field(description="Compile the training steps (torch.compile, dynamic shapes)")]


class LoraSpec(Spec):
    """Low-rank adapters (arXiv 2106.09685), trained in place of the weights and added to them at the end."""

    r: int = Field(8, description="Rank of the adapters", ge=1, le=4096)
    alpha: float = Field(16, description="Adapters are scaled by alpha / r", gt=0)
    target_modules: list[str] | Literal["all-linear"] | None = Field(
        None,
        description="Last parts of the names of the linear layers that get adapters, such as [q_proj, v_proj]; all-linear: "
        "all but the head; null: those that peft takes for the model's type",
    )
    dropout: float = Field(0.0, description="Dropout before the adapters", ge=0, lt=1)


Lora = Annotated[LoraSpec | None, Field(description="Train low-rank adapters only; null: all weights")]

OFF: Json = {"gradient_checkpointing": False, "bf16": False, "torch_compile": False, "lora": None}


def without_off(data: Json, off: Json = OFF) -> Json:
    """Stored settings without switches that are off."""
    return {name: value for name, value in data.items() if name not in off or value != off[name]}


def check_micro_batch(micro_batch_size: int | None, batch_size: int) -> None:
    """Raise ValueError where a micro-batch would be larger than the batch."""
    if micro_batch_size is not None and micro_batch_size > batch_size:
        raise ValueError(f"micro_batch_size {micro_batch_size} is larger than batch_size {batch_size}")


def check_bf16(what: str, bf16: bool, dtype: str) -> None:
    """Raise Mismatch where a run in bfloat16 would have no float32 weights to update."""
    if bf16 and dtype != "float32":
        raise Mismatch(
            found=f"{what}.bf16: true with dtype: {dtype}",
            expected="dtype: float32, which bf16 keeps as the weights that the optimiser updates",
        )
