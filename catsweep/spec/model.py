"""The small and the large model: a pretrained checkpoint, or a config to be trained from scratch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer, model_validator

from catsweep.spec.base import Json, Mismatch, Name, Spec
from catsweep.spec.endpoint import EndpointSpec
from catsweep.spec.switches import (
    OFF,
    Bf16,
    GradientCheckpointing,
    Lora,
    MicroBatch,
    TorchCompile,
    check_bf16,
    check_micro_batch,
    without_off,
)


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
    was trained on are useless as a filter. So it trains on one part of the training groups and every small model on the
    other (`holdout`), or the signal of each part comes from a model that was trained on the other parts (`cross_fit`).
    """

    steps: int = Field(description="Optimiser steps", ge=1)
    learning_rate: float = Field(description="Peak learning rate", gt=0, le=1)
    batch_size: int = Field(32, description="Examples a step over all workers", ge=1)
    holdout: float | None = Field(
        None,
        description="Share of the training groups kept from the large model; the small ones train on it. Default: 0.5, "
        "unless cross_fit or unseen_signal is given",
        gt=0,
        lt=1,
    )
    cross_fit: int | None = Field(
        None,
        description="Instead of holdout: so many fold models, each trained on the other folds' groups, give the signal; "
        "the large model that answers, and every small one, train on all groups",
        ge=2,
        le=100,
    )
    unseen_signal: bool = Field(
        True,
        description="false, instead of holdout: the signal is the large model's on the very targets that it was trained "
        "on. Useless as a filter; there to show by how much",
    )
    seed: int = Field(0, description="Seed of weights and data order", ge=0)
    micro_batch_size: MicroBatch = None
    gradient_checkpointing: GradientCheckpointing = False
    bf16: Bf16 = False
    torch_compile: TorchCompile = False
    lora: Lora = None

    @property
    def train_split(self) -> str:
        """The split that the large model which answers trains on."""
        return "train" if self.holdout is None else "large_train"

    @model_validator(mode="before")
    @classmethod
    def _hold_half_out(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("unseen_signal", True) in (False, "false"):
            return data
        given = data.get("holdout") is not None or data.get("cross_fit") is not None
        return data if given else {**data, "holdout": 0.5}

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> FinetuneSpec:
        check_micro_batch(self.micro_batch_size, self.batch_size)
        return self

    @model_validator(mode="after")
    def _one_way(self) -> FinetuneSpec:
        found = [f"{name}: {value}" for name in ("holdout", "cross_fit") if (value := getattr(self, name)) is not None]
        found += [] if self.unseen_signal else ["unseen_signal: false"]
        if len(found) > 1:
            raise Mismatch(
                found=" and ".join(found),
                expected="one way to a signal on unseen data; remove one (on a command line: large.finetune.holdout=null)",
            )
        return self

    @model_serializer(mode="wrap")
    def _only_the_way_taken(self, handler: SerializerFunctionWrapHandler) -> Json:
        """Settings that are not in use are left out, so that they change no key."""
        data: Json = handler(self)
        unused = [name for name in ("holdout", "cross_fit") if data[name] is None]
        unused += ["unseen_signal"] if self.unseen_signal else []
        used = {name: value for name, value in data.items() if name not in unused}
        return without_off(used, {**OFF, "micro_batch_size": None})


class LargePretrained(PretrainedModel):
    """The large model from a checkpoint."""

    finetune: FinetuneSpec | None = Field(None, description="Train it on each task first; absent: used as it is")
    endpoint: EndpointSpec | None = Field(
        None,
        description="Ask a server instead of loading weights. `pretrained` then names the tokeniser and the config alone; "
        "default: endpoint.model",
    )

    @model_validator(mode="before")
    @classmethod
    def _named_by_endpoint(cls, data: Any) -> Any:
        endpoint = data.get("endpoint") if isinstance(data, dict) else None
        return {"pretrained": endpoint.get("model"), **data} if isinstance(endpoint, dict) else data

    @model_validator(mode="after")
    def _served_as_it_is(self) -> LargePretrained:
        if self.endpoint is not None and self.finetune is not None:
            raise Mismatch(found="endpoint and finetune", expected="one of them: a served model is used as it is")
        return self

    @model_serializer(mode="wrap")
    def _without_endpoint(self, handler: SerializerFunctionWrapHandler) -> Json:
        """A model on this machine stands on storage as before there were endpoints."""
        data: Json = handler(self)
        return {name: value for name, value in data.items() if name != "endpoint" or value is not None}

    @model_validator(mode="after")
    def _float32_weights(self) -> LargePretrained:
        check_bf16("finetune", self.finetune is not None and self.finetune.bf16, self.dtype)
        return self


class LargeScratch(ScratchModel):
    """The large model from a config; without a fine-tune it would answer at random."""

    finetune: FinetuneSpec = Field(description="How it is trained on each task")

    @model_validator(mode="after")
    def _float32_weights(self) -> LargeScratch:
        check_bf16("finetune", self.finetune.bf16, self.dtype)
        return self


class _ChainModel(Spec):
    name: Name = Field(description="Name of the model, for filters and tables; not small or large")
    place: Literal["between", "below"] = Field(
        "between",
        description="Asked between the small and the large model, in the order of the list; or before the small one",
    )


class ChainPretrained(LargePretrained, _ChainModel):
    """A further model of the chain from a checkpoint, such as the folder `model` of a confirmed run."""

    @model_validator(mode="after")
    def _on_this_machine(self) -> ChainPretrained:
        if self.endpoint is not None:
            raise Mismatch(found=f"chain: endpoint of {self.name}", expected="endpoint of `large` alone")
        return self


class ChainScratch(LargeScratch, _ChainModel):
    """A further model of the chain from a config."""


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
ChainModel = Annotated[
    Annotated[ChainPretrained, Tag("pretrained")] | Annotated[ChainScratch, Tag("config")], Discriminator(_model_tag)
]
AnyModel = PretrainedModel | ScratchModel
