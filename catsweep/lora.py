"""Low-rank adapters (LoRA, arXiv 2106.09685): train two thin matrices beside some weights, and add them in at the end.

peft puts the adapters into the model; what is stored afterwards is the model with the adapters added to its weights, which
plain transformers reads.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from catsweep.errors import ModelError
from catsweep.spec.switches import LoraSpec

ADAPTER = "default"
_OWN = re.compile(r"\.lora_[A-Za-z_]+\.")
"""Names of adapters' own weights."""


def add_adapters(model: PreTrainedModel, spec: LoraSpec, *, seed: int) -> None:
    """Put adapters beside the target modules, in place; from now on they alone are trained. The model's outputs stay as
    they are, since the second matrix starts at zero.

    seed: of the first matrix. Adapters are float32, also beside weights in bfloat16. Raises ModelError.
    """
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, which trials without adapters need not pay

    targets = spec.target_modules
    config = LoraConfig(r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=targets)
    torch.manual_seed(seed)
    shown = "the default of peft" if targets is None else repr(targets)
    config.target_modules = set(targets) if isinstance(targets, list) else targets
    try:
        inject_adapter_in_model(config, model, ADAPTER)
    except ValueError as error:
        raise ModelError(
            f"lora.target_modules: found {shown} ({error}); expected names of linear layers of {type(model).__name__}: "
            f"{', '.join(linear_names(model))}, or all-linear"
        ) from None
    for name, layer in adapted(model).items():
        if not isinstance(layer.get_base_layer(), nn.Linear | Conv1D) or layer is model.get_output_embeddings():
            raise ModelError(
                f"lora.target_modules: found {shown}, which takes {name}; expected linear layers inside the model, not its "
                "embeddings or its head, whose weights may be shared"
            )
    for name, parameter in model.named_parameters():
        if _OWN.search(name):
            parameter.data = parameter.data.float()


def adapted(model: nn.Module) -> dict[str, Any]:
    """The layers that have adapters (peft's LoraLayer), by name."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


def linear_names(model: nn.Module) -> list[str]:
    """The last parts of the names of a model's linear layers."""
    return sorted(
        {name.rsplit(".", 1)[-1] for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    )


def merged(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model with adapters, by name, as those of the model without: each adapter is added to its weight.

    A model without adapters keeps its weights. weights: whole tensors of all names.
    """
    result = {name: value for name, value in weights.items() if not _OWN.search(name)}
    for name, layer in adapted(model).items():
        first, second = (weights[f"{name}.lora_{side}.{ADAPTER}.weight"].float() for side in ("A", "B"))
        change = layer.scaling[ADAPTER] * (second @ first)
        base = result[f"{name}.base_layer.weight"]
        change = change.T if isinstance(layer.get_base_layer(), Conv1D) else change
        result[f"{name}.base_layer.weight"] = (base.float() + change).to(base.dtype)
    return {name.replace(".base_layer.", "."): value for name, value in result.items()}


def num_parameters(model: nn.Module) -> int:
    """A model's parameters without adapters."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not _OWN.search(name))


def num_trained_parameters(model: nn.Module) -> int:
    """The parameters that a run changes: all, or the adapters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
