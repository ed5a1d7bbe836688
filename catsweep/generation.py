"""Greedy answers, with the statistics of every token from the pass that found it.

`cached_tokens` is a loop of our own: the prompt pass needs no mask, the cache grows in place, rows that ended leave the batch,
and log-probabilities come from the logits that a token was picked by, many steps at once. `plain_tokens` is transformers'
generate, the reference and the way of models that the loop cannot serve.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from catsweep.answers import Answer, FloatArray, answer_columns, token_statistics
from catsweep.data import TokenSplit, sequence_batch
from catsweep.first_choice import first_choice
from catsweep.logit_rows import SLICE_LOGITS
from catsweep.models import Architecture, TargetLogits
from catsweep.reading import Gaps, Reading, agrees, can_read_on, hidden_as_minus, padded
from catsweep.tensors import to_device

Ids = NDArray[np.int32]
Found = list[tuple[list[int], FloatArray]]
"""Of each prompt: the tokens of its answer, the end token included, and their `token_statistics`."""
SHARE_THAT_LEAVES = 1 / 32
"""Rows that ended leave the batch once they are this share of it: what leaving costs hardly depends on how many do. [ours]"""


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
    prompts = [data.prompts[index] for index in indices]
    if serves_loop(module, tokenizer, architecture):
        found = cached_tokens(module, tokenizer, prompts, max_new_tokens, until)
    else:
        found = plain_tokens(module, tokenizer, prompts, max_new_tokens)
    ends = [cut_output(tokenizer, ids, until) for ids, _ in found]
    return [
        Answer(output.strip(), len(prompt), *answer_columns(statistics[:num_tokens]))
        for (output, num_tokens), (_, statistics), prompt in zip(ends, found, prompts, strict=True)
    ]


def cut_output(tokenizer: PreTrainedTokenizerBase, ids: list[int], until: Sequence[str]) -> tuple[str, int]:
    """The text of output tokens before the first text of `until`, and how many tokens it takes to see that text."""
    text = _text(tokenizer, ids)
    places = [text.find(stop) for stop in until if stop in text]
    if not places:
        return text, len(ids)
    needed = bisect_left(range(len(ids)), True, key=lambda n: any(stop in _text(tokenizer, ids[:n]) for stop in until))
    return text[: min(places)], needed


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    # The clean-up that many checkpoints ask for would turn "do n't ." into "don't.": metrics want what was written.
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def serves_loop(module: TargetLogits, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> bool:
    """Whether `cached_tokens` serves a model: what it finds on two made-up prompts must have the log-probabilities that one
    pass over prompt and answer gives. Decided once; the prompts are the same on every rank."""
    if "generation" not in module.served:
        module.served["generation"] = can_read_on(module) and _agrees(module, tokenizer, architecture)
    return module.served["generation"]


@torch.no_grad()
def _agrees(module: TargetLogits, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> bool:
    width = module.model.get_output_embeddings().weight.shape[0]
    prompts = [
        (np.arange(start, start + length) * 7919 % width).astype(np.int32) for start, length in ((1, 9), (20, 5))
    ]
    try:
        found = cached_tokens(module, tokenizer, prompts, 4, (), end_id=-1)
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):  # a model that does not take these inputs
        return False
    batch = sequence_batch(
        prompts,
        [np.array(ids, np.int32) for ids, _ in found],
        architecture=architecture,
        pad_id=int(tokenizer.pad_token_id),
        start_id=getattr(module.model.config, "decoder_start_token_id", None),
    )
    parts = module.in_parts(to_device(batch, module.model.device))
    plain = np.concatenate([token_statistics(logits_NV).cpu().numpy() for _, logits_NV in parts])
    return agrees(np.concatenate([statistics for _, statistics in found])[:, 0], plain[:, 0], module)


@torch.no_grad()
def cached_tokens(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    until: Sequence[str] = (),
    *,
    end_id: int | None = None,
) -> Found:
    """Greedy tokens behind each prompt up to the end token (end_id, where given), to a text of `until`, or to
    `max_new_tokens`."""
    batch: _DecoderBatch | _EncoderDecoderBatch
    batch = (_EncoderDecoderBatch if module.model.config.is_encoder_decoder else _DecoderBatch)(
        module, prompts, max_new_tokens, int(tokenizer.pad_token_id)
    )
    end_id = int(tokenizer.eos_token_id) if end_id is None else end_id
    stops = _Stops(tokenizer, until)
    log = _Log(module, len(prompts), max_new_tokens)
    running, alive = np.arange(len(prompts)), np.ones(len(prompts), dtype=bool)
    whole = batch.first()
    for step in range(1, max_new_tokens + 1):
        ids_B, ids = log.add(whole, running, alive, step)
        alive &= ids != end_id
        if until:
            for place in np.flatnonzero(alive & stops.may_end(running, ids)):
                alive[place] = not stops.ends(running[place], log.ids[running[place], :step].tolist())
        num_alive = int(alive.sum())
        if step == max_new_tokens or not num_alive:
            break
        if len(alive) - num_alive >= SHARE_THAT_LEAVES * len(alive):
            gaps = Gaps.of(alive, ids_B.device)
            batch.close(gaps)
            ids_B = gaps.close(ids_B)
            running = Gaps.of(alive, torch.device("cpu")).close(torch.from_numpy(running)).numpy()
            alive = np.ones(num_alive, dtype=bool)
        whole = batch.next(ids_B)
    return log.found()


class _DecoderBatch:
    """Prompts padded on the right; the tokens of all answers stand behind the longest."""

    def __init__(self, module: TargetLogits, prompts: Sequence[Ids], max_new_tokens: int, pad_id: int) -> None:
        self.reading = Reading(module)
        device, dtype = module.model.device, module.model.dtype
        self.prompts_BS = padded(prompts, pad_id).to(device)
        _num_rows, longest = self.prompts_BS.shape
        lengths = np.array([len(prompt) for prompt in prompts])
        self.lengths_B = torch.from_numpy(lengths).to(device)
        self.num_read = longest
        self.hidden: Tensor | None = None  # none where no row has padding
        if lengths.min() < longest:
            column = torch.arange(longest + max_new_tokens, device=device)
            seen_B1L = (column < self.lengths_B[:, None, None]) | (column >= longest)
            self.hidden = hidden_as_minus(seen_B1L, dtype)
        self.positions_B1 = self.lengths_B[:, None].clone()

    def first(self) -> Tensor:
        """What is behind the prompts."""
        rows = torch.arange(len(self.lengths_B), device=self.lengths_B.device)
        return self.reading.read(self.prompts_BS, rows, self.lengths_B - 1)

    def next(self, ids_B: Tensor) -> Tensor:
        """What is behind one more token of each row."""
        self.num_read += 1
        inputs = {}
        if self.hidden is not None:
            inputs = {"attention_mask": self.hidden[..., : self.num_read], "position_ids": self.positions_B1}
        whole = self.reading.read(ids_B[:, None], **inputs)
        self.positions_B1 = self.positions_B1 + 1
        return whole

    def close(self, gaps: Gaps) -> None:
        """Let rows leave."""
        self.reading.close(gaps)
        self.positions_B1 = gaps.close(self.positions_B1)
        if self.hidden is not None:
            self.hidden = gaps.close(self.hidden)


class _EncoderDecoderBatch:
    """Prompts that the encoder reads once; every answer begins with the decoder's start token."""

    def __init__(self, module: TargetLogits, prompts: Sequence[Ids], max_new_tokens: int, pad_id: int) -> None:
        self.reading = Reading(module)
        prompts_BS = padded(prompts, pad_id).to(module.model.device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=prompts_BS.device)
        column_S = torch.arange(prompts_BS.shape[1], device=prompts_BS.device)
        self.reading.encode(prompts_BS, (column_S < lengths_B[:, None]).long())
        self.starts_B = torch.full_like(lengths_B, module.model.config.decoder_start_token_id)

    def first(self) -> Tensor:
        """What is behind the start token."""
        return self.next(self.starts_B)

    def next(self, ids_B: Tensor) -> Tensor:
        """What is behind one more token of each row."""
        return self.reading.read(ids_B[:, None])

    def close(self, gaps: Gaps) -> None:
        """Let rows leave."""
        self.reading.close(gaps)


class _Log:
    """The tokens that were picked, and their statistics, which are computed of several steps at once.

    ids: (prompts, steps), of which each row's first are its answer.
    """

    def __init__(self, module: TargetLogits, num_prompts: int, max_new_tokens: int) -> None:
        self.module = module
        self.ids = np.zeros((num_prompts, max_new_tokens), dtype=np.int64)
        self.owners: list[NDArray[np.int64]] = []
        self.logits: list[Tensor] = []
        self.statistics: list[Tensor] = []
        self.room = module.room_for(num_prompts)

    def add(
        self, whole: Tensor, running: NDArray[np.int64], alive: NDArray[np.bool_], step: int
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """The most probable tokens of the rows of a batch, on its device and here. running: their prompts; alive: whether
        they still need them."""
        picked = []
        # Few logits are kept for some steps; of many, each part is summarised before the next one takes its place.
        keeps = len(whole) * self.module.model.get_output_embeddings().weight.shape[0] <= SLICE_LOGITS
        for _, logits_NV in self.module.head_in_parts(whole, room=None if keeps else self.room):
            picked.append(first_choice(logits_NV))
            self.logits.append(logits_NV)
            if not keeps or sum(logits.numel() for logits in self.logits) > SLICE_LOGITS:
                self._summarise()
        ids_B = picked[0] if len(picked) == 1 else torch.cat(picked)
        ids = ids_B.cpu().numpy()
        self.ids[running, step - 1] = ids
        self.owners.append(np.where(alive, running, -1))
        return ids_B, ids

    def _summarise(self) -> None:
        self.statistics.append(token_statistics(self.logits[0] if len(self.logits) == 1 else torch.cat(self.logits)))
        self.logits.clear()

    def found(self) -> Found:
        """Tokens and statistics of each prompt."""
        if self.logits:
            self._summarise()
        statistics = torch.cat(self.statistics).cpu().numpy()
        owners = np.concatenate(self.owners)
        order = np.argsort(owners, kind="stable")[(owners < 0).sum() :]
        lengths = np.bincount(owners[owners >= 0], minlength=len(self.ids))
        parts = np.split(statistics[order], np.cumsum(lengths)[:-1])
        return [(ids[:length].tolist(), part) for ids, length, part in zip(self.ids, lengths, parts, strict=True)]


class _Stops:
    """Finds the step at which a text of `until` stands in an answer and nothing that follows could change where it is cut.

    Only tokens that may write the last character of such a text are looked at: to decode every row at every step takes longer
    than a small model does. What is missed so costs steps, since `cut_output` looks again.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str]) -> None:
        self.tokenizer, self.until = tokenizer, until
        self.last = {stop[-1] for stop in until if stop}
        self.parts_of_last = not all(character.isascii() for character in self.last)
        """Whether a token with a part of a character, which reads as U+FFFD alone, may complete the last one of a text. An
        ASCII character has no parts."""
        self.may: dict[int, bool] = {}
        self.open: set[int] = set()

    def may_end(self, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are worth a look behind a new token."""
        may = self.may
        for token in set(ids.tolist()) - may.keys():
            text = _text(self.tokenizer, [token])
            may[token] = not self.last.isdisjoint(text) or (self.parts_of_last and "\ufffd" in text)
        return np.array(
            [may[token] or row in self.open for row, token in zip(rows.tolist(), ids.tolist(), strict=True)]
        )

    def ends(self, row: int, ids: list[int]) -> bool:
        """Whether an answer is over. A text that begins before the one found may still become whole."""
        text = _text(self.tokenizer, ids)
        places = [text.find(stop) for stop in self.until if stop in text]
        if not places:
            return False
        begun = (len(text) - size for stop in self.until for size in range(1, len(stop)) if text.endswith(stop[:size]))
        if any(place < min(places) for place in begun):
            self.open.add(int(row))
            return False
        return True


def plain_tokens(
    module: TargetLogits, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids], max_new_tokens: int
) -> Found:
    """The same from transformers' generate, up to the end token or to `max_new_tokens`."""
    model = module.model
    is_decoder = not model.config.is_encoder_decoder
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):  # a decoder continues at the right end, so it is padded on the left
        where = slice(longest - len(prompt), longest) if is_decoder else slice(0, len(prompt))
        input_ids[row, where] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
        mask[row, where] = 1
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
    )
    model.generation_config = config  # a checkpoint's own may add processors or beams
    recorder = _Recorder()
    sequences = module.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([recorder]),
    )
    new_BT = sequences[:, longest:] if is_decoder else sequences[:, 1:]
    statistics = torch.stack(recorder.steps, dim=1).cpu().numpy()
    ended = (new_BT == tokenizer.eos_token_id).cpu().numpy()
    lengths = np.where(ended.any(1), ended.argmax(1) + 1, new_BT.shape[1])
    return [(row[:n].tolist(), part[:n]) for row, n, part in zip(new_BT, lengths, statistics, strict=True)]


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Notes the statistics of the most probable token at every step of generation."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(token_statistics(scores.float()))
        return scores
