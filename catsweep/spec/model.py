"""The small and the large model: a pretrained checkpoint, or a config to be trained from scratch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from catsweep.spec.base import Json, Spec


class ByteTokenizer(Spec):
    """256 bytes and the special tokens; needs no training."""

    kind: Literal["byte"] = "byte"


class CharTokenizer(Spec):
    """Every character of the training texts is a token; others become the unknown token."""

    kind: Literal["char"] = "char"


class BpeTokenizer(Spec):
    """Byte-level BPE, trained on the training texts of the task."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(2_000, description="Tokens, special ones included", ge=300, le=200_000)


TokenizerSpec = Annotated[ByteTokenizer | CharTokenizer | BpeTokenizer, Field(discriminator="kind")]


class PretrainedModel(Spec):
    """A causal or sequence-to-sequence transformers checkpoint with safetensors."""

    pretrained: str = Field(
        description="Name on the Hugging Face hub, or a local folder, relative to the sweep file", min_length=1
    )
    revision: str | None = Field(None, description="Commit or tag of the checkpoint; part of the cache key")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights")


class ScratchModel(Spec):
    """A model made from a transformers config with random weights."""

    config: dict[str, Any] = Field(description="Fields of the transformers config; `model_type` names its class")
    tokenizer: TokenizerSpec | None = Field(
        None, description="Tokeniser to make; the large model takes the small one's"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number format of the weights")


class FinetuneSpec(Spec):
    """How the large model is trained on the task before its pass.

    It trains a fixed number of steps; none of its checkpoints is chosen on validation. Its predictions on data that it
    was trained on are useless as a filter, so it trains on one part of the training groups and every small model on
    the other.
    """

    steps: int = Field(description="Optimiser steps", ge=1)
    learning_rate: float = Field(description="Peak learning rate", gt=0, le=1)
    batch_size: int = Field(32, description="Examples a step over all workers", ge=1)
    holdout: float = Field(
        0.5,
        description="Share of the training groups kept from the large model; the small ones train on it",
        gt=0,
        lt=1,
    )
    seed: int = Field(0, description="Seed of weights and data order", ge=0)


class LargePretrained(PretrainedModel):
    """The large model from a checkpoint."""

    finetune: FinetuneSpec | None = Field(None, description="Train it on each task first; absent: used as it is")


class LargeScratch(ScratchModel):
    """The large model from a config; without a fine-tune it would answer at random."""

    finetune: FinetuneSpec = Field(description="How it is trained on each task")


def _model_tag(value: Any) -> str:
    keys: Json | Any = (
        value if isinstance(value, dict) else {name: True for name in ("config",) if hasattr(value, name)}
    )
    return "config" if "config" in keys else "pretrained"


SmallSpec = Annotated[
    Annotated[PretrainedModel, Tag("pretrained")] | Annotated[ScratchModel, Tag("config")], Discriminator(_model_tag)
]
LargeSpec = Annotated[
    Annotated[LargePretrained, Tag("pretrained")] | Annotated[LargeScratch, Tag("config")], Discriminator(_model_tag)
]
AnyModel = PretrainedModel | ScratchModel
