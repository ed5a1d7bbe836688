"""Greedy answers, with the statistics of every token from the pass that found it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from catsweep.answers import Answer, answer_columns, token_statistics
from catsweep.data import TokenSplit
from catsweep.models import Architecture, TargetLogits


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Notes log-probability, entropy and margin of the most probable token at every step of generation."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(token_statistics(scores.float()))
        return scores


def generate(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenSplit,
    indices: NDArray[np.int64],
    *,
    architecture: Architecture,
    max_new_tokens: int,
    until: Sequence[str] = (),
) -> list[Answer]:
    """Greedy answers to a batch of prompts, with the statistics of every output token, the end token included.

    until: texts that end an answer. The output is what stands before the first of them; its tokens are those that had
    to be generated to see it.
    """
    model = module.model
    device = model.device
    prompts = [data.prompts[index] for index in indices]
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):  # a decoder continues at the right end, so it is padded on the left
        where = slice(longest - len(prompt), longest) if architecture == "decoder" else slice(0, len(prompt))
        input_ids[row, where] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
        mask[row, where] = 1
    start_id = getattr(model.config, "decoder_start_token_id", None)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=start_id,
    )
    model.generation_config = config  # a checkpoint's own may add processors or beams
    recorder = _Recorder()
    sequences = module.generate(
        input_ids=input_ids.to(device),
        attention_mask=mask.to(device),
        generation_config=config,
        logits_processor=LogitsProcessorList([recorder]),
    )
    new_BT = sequences[:, longest:] if architecture == "decoder" else sequences[:, 1:]
    statistics = torch.stack(recorder.steps, dim=1).cpu().numpy()
    ended = (new_BT == tokenizer.eos_token_id).cpu().numpy()
    lengths = np.where(ended.any(1), ended.argmax(1) + 1, new_BT.shape[1])
    tokens = [row[:length].tolist() for row, length in zip(new_BT, lengths, strict=True)]
    ends = [cut_output(tokenizer, ids, until) for ids in tokens]
    return [
        Answer(output.strip(), len(prompt), *answer_columns(statistics[row, :num_tokens]))
        for row, ((output, num_tokens), prompt) in enumerate(zip(ends, prompts, strict=True))
    ]


def cut_output(tokenizer: PreTrainedTokenizerBase, ids: list[int], until: Sequence[str]) -> tuple[str, int]:
    """The text of output tokens before the first text of `until`, and how many tokens it takes to see that text."""

    def decode(num_tokens: int) -> str:
        # The clean-up that many checkpoints ask for would turn "do n't ." into "don't.": metrics want what was written.
        text: str = tokenizer.decode(ids[:num_tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    text = decode(len(ids))
    places = [text.find(stop) for stop in until if stop in text]
    if not places:
        return text, len(ids)
    needed = bisect_left(range(len(ids)), True, key=lambda n: any(stop in decode(n) for stop in until))
    return text[: min(places)], needed
