"""Greedy answers, with the statistics of every token from the pass that found it.

`cached_tokens` is a loop of our own: the prompt pass needs no mask, the cache grows in place, rows that ended leave the batch,
the next prompts take their places, and log-probabilities come from the logits that a token was picked by, many steps at once.
`plain_tokens` is transformers' generate, the reference and the way of models that the loop cannot serve.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from catsweep.answers import Answer, FloatArray, answer_columns, token_statistics
from catsweep.batches import sequence_batch
from catsweep.cascade.latency import BatchSeconds
from catsweep.data import TokenSplit
from catsweep.first_choice import first_choice
from catsweep.inference import inference
from catsweep.joining import DecoderBatch, EncoderDecoderBatch
from catsweep.logit_rows import SCAN_LOGITS
from catsweep.models import Architecture, TargetLogits
from catsweep.reading import Gaps, agrees, can_read_on
from catsweep.tensors import to_device

Ids = NDArray[np.int32]
Found = list[tuple[list[int], FloatArray]]
"""Of each prompt: the tokens of its answer, the end token included, and their `token_statistics`."""
SHARE_THAT_LEAVES, SHARE_THAT_JOINS = 1 / 32, 1 / 8
"""Rows that ended leave the batch once they are more than this share of it, or have stayed for as long as the longest answer
takes: what leaving costs hardly depends on how many do. The next prompts join it once there is room for this share: each time
is a pass of its own. [ours]"""


def generate(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenSplit,
    indices: NDArray[np.int64],
    *,
    architecture: Architecture,
    max_new_tokens: int,
    until: Sequence[str] = (),
    batch_size: int | None = None,
    timings: list[BatchSeconds] | None = None,
) -> list[Answer]:
    """Greedy answers to some prompts, with the statistics of every output token, the end token included.

    until: texts that end an answer. The output is what stands before the first of them; its tokens are those that had
    to be generated to see it. batch_size: rows at once (default: all). timings: gets the seconds of each batch, or of each
    stretch between two times at which prompts joined the batch; where the loop serves the model, without the seconds that texts
    are made of tokens in.
    """
    by_length = indices[np.argsort(-data.prompts.lengths[indices], kind="stable")]
    batch_size = batch_size or len(indices) or 1
    serves = serves_loop(module, tokenizer, architecture)
    at_once = len(indices) or 1 if serves and architecture == "decoder" else batch_size
    answers: dict[int, Answer] = {}
    for start in range(0, len(indices), at_once):
        chosen = by_length[start : start + at_once]
        prompts = [data.prompts[index] for index in chosen]
        clock = _Clock([] if timings is None else timings)
        if serves:
            found = cached_tokens(module, tokenizer, prompts, max_new_tokens, until, batch_size=batch_size, clock=clock)
        else:
            clock.joins(data.prompts.lengths[chosen])
            found = plain_tokens(module, tokenizer, prompts, max_new_tokens)
        ends = [cut_output(tokenizer, ids, until) for ids, _ in found]
        if not serves:
            clock.stop(sum(num_tokens for _, num_tokens in ends))
        for index, prompt, (output, num_tokens), (_, statistics) in zip(
            chosen.tolist(), prompts, ends, found, strict=True
        ):
            answers[index] = Answer(output.strip(), len(prompt), *answer_columns(statistics[:num_tokens]))
    return [answers[index] for index in indices.tolist()]


class _Clock:
    """Seconds of the stretches of a loop, each from the time that prompts join it to the next such time."""

    def __init__(self, timings: list[BatchSeconds]) -> None:
        self.timings = timings
        self.started_at = time.perf_counter()
        self.joined, self.num_output_tokens = np.zeros(0, dtype=np.int64), 0

    def joins(self, lengths: NDArray[np.int64], num_output_tokens: int = 0) -> None:
        """Prompts of these lengths are read next. num_output_tokens: of all answers so far."""
        if len(self.joined):
            self.stop(num_output_tokens, goes_on=True)
        self.joined = lengths

    def stop(self, num_output_tokens: int, *, goes_on: bool = False) -> None:
        """A stretch is over; on a GPU, too, the tokens that are counted are there. goes_on: see BatchSeconds."""
        now, new = time.perf_counter(), num_output_tokens - self.num_output_tokens
        self.timings.append(BatchSeconds(len(self.joined), int(self.joined.sum()), new, now - self.started_at, goes_on))
        self.started_at, self.num_output_tokens = now, num_output_tokens


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
    """Whether `cached_tokens` serves a model: what it finds on three made-up prompts, one of which takes the place of another
    beside the first, must have the log-probabilities that one pass over prompt and answer gives. Decided once; the prompts are
    the same on every rank."""
    if "generation" not in module.served:
        module.served["generation"] = can_read_on(module) and _agrees(module, tokenizer, architecture)
    return module.served["generation"]


@torch.no_grad()
def _agrees(module: TargetLogits, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> bool:
    width = module.model.get_output_embeddings().weight.shape[0]
    prompts = [
        (np.arange(start, start + length) * 7919 % width).astype(np.int32)
        for start, length in ((1, 9), (20, 5), (30, 3))
    ]
    try:
        found = cached_tokens(module, tokenizer, prompts, 5, batch_size=2, exactly=[5, 2, 4])
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


@inference
def cached_tokens(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    until: Sequence[str] = (),
    *,
    batch_size: int | None = None,
    exactly: Sequence[int] | None = None,
    clock: _Clock | None = None,
) -> Found:
    """Greedy tokens behind each prompt up to the end token, to a text of `until`, or to `max_new_tokens`. batch_size: rows at
    once (default, and an encoder-decoder's: all). exactly: where given, how many tokens of each, whatever they are."""
    lengths = np.array([len(prompt) for prompt in prompts])
    waiting = np.argsort(-lengths, kind="stable")  # what joins is never longer than what runs
    capacity = min(batch_size or len(prompts), len(prompts))
    batch: DecoderBatch | EncoderDecoderBatch
    if module.model.config.is_encoder_decoder:
        batch, capacity = EncoderDecoderBatch(module, int(tokenizer.pad_token_id)), len(prompts)
    else:
        batch = DecoderBatch(module, lengths, capacity, max_new_tokens, int(tokenizer.pad_token_id))
    log = _Log(module, len(prompts), max_new_tokens, capacity)
    end_id = int(tokenizer.eos_token_id) if exactly is None else -1
    limits = np.full(len(prompts), max_new_tokens) if exactly is None else np.array(exactly)
    stops = _Stops(tokenizer, until)

    def pick(whole: Tensor, rows: NDArray[np.int64], needed: NDArray[np.bool_]) -> tuple[Tensor, NDArray[np.bool_]]:
        """The next token of each of these rows, and which of them go on."""
        ids_B, ids = log.add(whole, rows, needed)
        goes_on = needed & (ids != end_id)
        if until:
            for place in np.flatnonzero(goes_on & stops.may_end(rows, ids)):
                goes_on[place] = not stops.ends(rows[place], log.so_far(rows[place]))
        return ids_B, goes_on & (log.lengths[rows] < limits[rows])

    running, alive, num_passes = waiting[:0], np.ones(0, dtype=bool), np.zeros(0, dtype=np.int64)
    ids_B = torch.empty(0, dtype=torch.int64, device=module.model.device)
    while len(waiting) or alive.any():
        # No row takes part in more passes than its longest answer would: columns and positions are counted on that.
        is_late = (num_passes[~alive] >= max_new_tokens - 1).any()
        if (~alive).sum() > SHARE_THAT_LEAVES * len(alive) or is_late:
            gaps = Gaps(alive, ids_B.device)
            batch.close(gaps)
            ids_B = gaps.close(ids_B)
            num_passes, running, alive = (gaps.close_array(values) for values in (num_passes, running, alive))
        num_free = capacity - len(running)
        if num_free >= min(len(waiting), SHARE_THAT_JOINS * capacity) > 0:
            joining, waiting = waiting[:num_free], waiting[num_free:]
            if clock is not None:
                clock.joins(lengths[joining], log.num_tokens)
            whole = batch.join([prompts[row] for row in joining])
            new_ids_B, goes_on = pick(whole, joining, np.ones(len(joining), dtype=bool))
            ids_B = torch.cat([ids_B, new_ids_B])
            running, alive = np.concatenate([running, joining]), np.concatenate([alive, goes_on])
            num_passes = np.concatenate([num_passes, np.zeros_like(joining)])
        else:
            ids_B, alive = pick(batch.next(ids_B), running, alive)
            num_passes += 1
    found = log.found()
    if clock is not None:
        clock.stop(log.num_tokens)
    return found


class _Log:
    """The tokens that were picked, and their statistics, which are computed of several steps at once.

    ids: (prompts, steps), of which each row's first `lengths` are its answer.
    """

    def __init__(self, module: TargetLogits, num_prompts: int, max_new_tokens: int, capacity: int) -> None:
        self.module = module
        self.ids = np.zeros((num_prompts, max_new_tokens), dtype=np.int64)
        self.lengths = np.zeros(num_prompts, dtype=np.int64)
        self.num_tokens = 0
        self.owners: list[NDArray[np.int64]] = []
        self.logits: list[Tensor] = []
        self.statistics: list[Tensor] = []
        self.room = module.room_for(capacity)

    def add(
        self, whole: Tensor, rows: NDArray[np.int64], needed: NDArray[np.bool_]
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """The most probable tokens of some rows, on their device and here. rows: their prompts; needed: whether they are part
        of an answer."""
        picked = []
        # Few logits are kept for some steps; of many, each part is summarised before the next one takes its place.
        keeps = len(whole) * self.module.model.get_output_embeddings().weight.shape[0] <= SCAN_LOGITS
        for _, logits_NV in self.module.head_in_parts(whole, room=None if keeps else self.room):
            picked.append(first_choice(logits_NV))
            self.logits.append(logits_NV)
            if not keeps or sum(logits.numel() for logits in self.logits) > SCAN_LOGITS:
                self._summarise()
        ids_B = picked[0] if len(picked) == 1 else torch.cat(picked)
        ids = ids_B.cpu().numpy()
        self.ids[rows[needed], self.lengths[rows[needed]]] = ids[needed]
        self.lengths[rows[needed]] += 1
        self.num_tokens += int(needed.sum())
        self.owners.append(np.where(needed, rows, -1))
        return ids_B, ids

    def so_far(self, row: int) -> list[int]:
        """The tokens of an answer."""
        return self.ids[row, : self.lengths[row]].tolist()  # type: ignore[no-any-return]

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
        parts = np.split(statistics[order], np.cumsum(self.lengths)[:-1])
        return [(self.so_far(row), part) for row, part in enumerate(parts)]


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
