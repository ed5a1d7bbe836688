"""The large model's pass over training targets beside the bare forward pass of the same batches, and bytes on storage.

    python benchmarks/speed/large_pass.py

Ours is catsweep.teacher.teacher_pass, collating and all. The bare pass gets the same length-sorted batches, collated
beforehand: once with the head at target positions only (the floor), once as the model's own forward pass gives logits of all
positions (what a script would write). CPU seconds of one thread. The first peer sets the ratio demanded: 1 / 1.15 = 0.87.
"""

from __future__ import annotations

import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Row, paired, row, write
from step import llama
from transformers import AutoModelForCausalLM

from catsweep.batches import collate
from catsweep.data import Tokens, TokenSplit
from catsweep.models import TargetLogits
from catsweep.spec.sweep import DistributionSpec
from catsweep.teacher import SignalArrays, teacher_pass
from catsweep.tensors import Batch

AT_TARGETS, WHOLE = "bare forward pass, head at target positions", "bare forward pass, logits of all positions"
SAMPLED, TOP_K = DistributionSpec(), DistributionSpec(kind="top_k")
# name: config, prompt and target tokens, batch, batches, distributions
CASES: dict[str, tuple[Any, int, int, int, int, tuple[DistributionSpec | None, ...]]] = {
    "the study's L, 12/10 tokens": (llama(64, 2, 96, 4), 12, 10, 128, 8, (None, SAMPLED, TOP_K)),
    "12 M decoder, all targets, 4/160 tokens": (llama(256, 4, 32_000, 4), 4, 160, 4, 4, (None, SAMPLED, TOP_K)),
    "12 M decoder, 160/8 tokens": (llama(256, 4, 32_000, 4), 160, 8, 8, 4, (None, TOP_K)),
    "50 M decoder, all targets, 4/160 tokens": (llama(512, 8, 32_000, 8), 4, 160, 4, 2, (None, SAMPLED, TOP_K)),
    "50 M decoder, 160/8 tokens": (llama(512, 8, 32_000, 8), 160, 8, 8, 2, (None, SAMPLED)),
}


def make_split(vocabulary: int, prompt: int, target: int, num_examples: int) -> TokenSplit:
    """Random tokens; lengths vary by a fifth."""
    draw = np.random.default_rng(0)

    def lists(mean: int) -> Tokens:
        sizes = draw.integers(max(1, int(0.8 * mean)), int(1.2 * mean) + 1, num_examples)
        return Tokens(draw.integers(3, vocabulary, sizes.sum()).astype(np.int32), np.cumsum([0, *sizes]))

    empty = Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    return TokenSplit(lists(prompt), lists(target), empty, np.zeros(num_examples + 1, np.int64))


@torch.no_grad()
def bare(model: Any, batches: list[Batch], *, whole: bool) -> None:
    """The forward pass alone."""
    for batch in batches:
        inputs = {"input_ids": batch.input_ids_BS, "attention_mask": batch.attention_mask_BS, "use_cache": False}
        if whole:
            model(**inputs)
        else:
            hidden_BSD = model.base_model(**inputs).last_hidden_state
            model.get_output_embeddings()(hidden_BSD.flatten(0, 1)[batch.target_places_N])


def measure(name: str) -> list[Row]:
    """The rows of a case."""
    config, prompt, target, batch_size, num_batches, distributions = CASES[name]
    repeats = 61 if config.vocab_size < 1000 else 9  # a quarter of a second each, which a busy machine moves by a half
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    split = make_split(config.vocab_size, prompt, target, batch_size * num_batches)
    settings: dict[str, Any] = {"architecture": "decoder", "pad_id": 0, "start_id": None}
    by_length = np.argsort(split.prompts.lengths + split.targets.lengths, kind="stable")
    starts = range(0, len(split), batch_size)
    batches = [collate(split, by_length[start : start + batch_size], **settings) for start in starts]
    module = TargetLogits(model)
    assert module.choose_path(batches[0])
    rows = []
    for distribution in distributions:
        ours = functools.partial(
            teacher_pass, module, split, distribution=distribution, vocab_size=config.vocab_size, batch_size=batch_size,
            seed=0, device=torch.device("cpu"), **settings,
        )  # fmt: skip
        kept = "no distribution" if distribution is None else f"12 tokens, {distribution.kind}"
        for whole in (False, True) if distribution is None else (False,):
            peer = functools.partial(bare, model, batches, whole=whole)
            seconds = paired(ours, peer, repeats=repeats, clock=time.process_time)
            item = row(
                f"{name}; {kept}", seconds, peer_name=WHOLE if whole else AT_TARGETS,
                target="" if whole else "at least 0.87 (1.15x)", note="CPU seconds of one thread",
            )  # fmt: skip
            rows.append(item)
            print(item.what, "|", item.peer_name, item.ours, item.peer, [round(x, 2) for x in item.ratios], flush=True)
    return rows


def stored(distribution: DistributionSpec | None, vocabulary: int, num_targets: int = 10_000) -> float:
    """Bytes of the files of a signal, headers left out, a target token."""
    draw = np.random.default_rng(0)
    signal = SignalArrays(np.zeros(num_targets, np.uint8), np.zeros(num_targets, np.float16))
    if distribution is not None:
        shape, dtype = (num_targets, distribution.num_entries), np.uint16 if vocabulary <= 2**16 else np.uint32
        weights = np.zeros(shape, np.float16) if distribution.kind == "top_k" else None
        signal = SignalArrays(signal.rank, signal.logprob, draw.integers(0, vocabulary, shape).astype(dtype), weights)
    with tempfile.TemporaryDirectory() as folder:
        signal.save(Path(folder))
        return sum(np.load(path).nbytes for path in Path(folder).iterdir()) / num_targets


def sizes() -> list[Row]:
    """Bytes a target token, beside ids of four bytes and the same float16 numbers."""
    rows = []
    for vocabulary in (32_000, 128_000):
        for distribution in (None, SAMPLED, TOP_K):
            kept = "rank and log-probability" if distribution is None else f"with 12 tokens, {distribution.kind}"
            plain = 3 if distribution is None else 3 + 12 * (6 if distribution.kind == "top_k" else 4)
            ours, wanted = stored(distribution, vocabulary), "3" if distribution is None else "at most 60"
            what = f"storage, V = {vocabulary:,}: {kept}"
            rows.append(Row(what, ours, plain, "B a target token", "ids of four bytes", [plain / ours], wanted))
            print(what, ours, flush=True)
    return rows


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    rows = [item for name in CASES for item in measure(name)]
    write("large_pass", rows + sizes(), "python benchmarks/speed/large_pass.py")


if __name__ == "__main__":
    main()
