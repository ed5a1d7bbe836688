"""What a model's FLOPs follow from."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from catsweep.cascade.cost import ModelShape
from catsweep.models import architecture_of

_CROSS_KEY_VALUE = re.compile(
    r"(EncDecAttention|encoder_attn|cross_attn|crossattention)\.(k|v|k_proj|v_proj|key|value)\."
)
"""Names of cross-attention's key and value projections in transformers' encoder-decoders."""


def model_shape(config: Any) -> ModelShape:
    """The numbers that a model's FLOPs follow from, counted on a model without memory for its weights.

    Of a mixture of experts only those that one token visits count.
    """
    kind: Any = type(config)
    return _counted(kind, config.to_json_string(use_diff=False))


@functools.lru_cache(maxsize=256)
def _counted(config_class: Any, stored: str) -> ModelShape:
    config = config_class.from_dict(json.loads(stored))
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    head = model.get_output_embeddings().weight
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)} | {id(head)}
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    visited = (getattr(config, "num_experts_per_tok", None) or experts) / experts if experts else 1.0
    counts = {"decoder": 0.0, "encoder": 0.0, "cross_key_value": 0.0}
    for name, parameter in model.named_parameters():
        if id(parameter) in embeddings:
            continue
        part = "encoder" if config.is_encoder_decoder and "encoder." in name and "decoder." not in name else "decoder"
        if part == "decoder" and _CROSS_KEY_VALUE.search(name):
            part = "cross_key_value"
        counts[part] += parameter.numel() * (visited if ".experts." in name else 1.0)
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    width = heads * (getattr(text, "d_kv", None) or getattr(text, "head_dim", None) or text.hidden_size // heads)
    layers = (
        getattr(text, "num_decoder_layers", None) or getattr(text, "decoder_layers", None) or text.num_hidden_layers
    )
    encoder_layers = getattr(config, "num_layers", None) or getattr(config, "encoder_layers", None) or 0
    is_pair = config.is_encoder_decoder
    return ModelShape(
        architecture=architecture_of(config),
        decoder_parameters=round(counts["decoder"]),
        head_parameters=head.numel(),
        num_decoder_layers=layers,
        decoder_attention_width=width,
        encoder_parameters=round(counts["encoder"]),
        cross_key_value_parameters=round(counts["cross_key_value"]),
        num_encoder_layers=encoder_layers if is_pair else 0,
        encoder_attention_width=width if is_pair else 0,
    )
