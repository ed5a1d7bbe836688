"""A trial's checkpoint from storage beside a copy of a model that the process keeps: `python benchmarks/speed/loading.py`.

Sizes in parameters. safetensors are memory-mapped, so what another process of the node has read is there. By the clock, one
thread; the weights are read once in each, as a first forward pass would.
"""

from __future__ import annotations

import copy
import tempfile

import torch
from measure import Row, paired, row, write
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.utils import logging

from catsweep.models import build_model
from catsweep.spec.model import ByteTokenizer, PretrainedModel
from catsweep.tokenization import make_tokenizer

SHAPES = {"25 M": (256, 8, 32_000), "75 M": (512, 10, 32_000), "190 M": (768, 12, 50_000)}
"""Width, layers, vocabulary."""


def touched(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with all weights read."""
    for parameter in model.parameters():
        parameter.detach().sum()
    return model


def measure(name: str) -> Row:
    """Seconds of both."""
    width, layers, vocabulary = SHAPES[name]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=8
    )  # fmt: skip
    tokenizer = make_tokenizer(ByteTokenizer(), [])
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        spec = PretrainedModel(pretrained=folder)
        kept = touched(build_model(spec, tokenizer, seed=0))
        seconds = paired(
            lambda: touched(build_model(spec, tokenizer, seed=0)), lambda: touched(copy.deepcopy(kept)), repeats=9
        )
    return row(
        f"a checkpoint of {name} parameters", seconds, peer_name="copy.deepcopy of a model in memory", target="none"
    )


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    rows = [measure(name) for name in SHAPES]
    for item in rows:
        print(item.what, item.ours, item.peer, [round(x, 2) for x in item.ratios])
    write("loading", rows, "python benchmarks/speed/loading.py")


if __name__ == "__main__":
    main()
