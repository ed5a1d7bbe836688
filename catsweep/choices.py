"""The log-likelihood of each choice behind its prompt, for all choices of an example from one pass over the prompt.

A decoder reads the prompts, then, behind its cache, all choices of an example as one row: a token sees the prompt and what
precedes it in its own choice, and positions count on from the prompt's end. Nothing of the cache is copied. An
encoder-decoder's encoder reads each prompt once; the cache behind the start token has a row for each choice. Models that
cannot be read so take a row for each choice, prompt and all: `plain_statistics`, the reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from catsweep.answers import Answer, FloatArray, answer_columns, token_statistics
from catsweep.batches import sequence_batch
from catsweep.data import TokenSplit
from catsweep.models import Architecture, TargetLogits
from catsweep.reading import Reading, agrees, can_read_on, hidden_as_minus, padded
from catsweep.tensors import to_device

Ids = NDArray[np.int32]


@torch.no_grad()
def score_choices(
    module: TargetLogits,
    tokenizer: PreTrainedTokenizerBase,
    data: TokenSplit,
    indices: NDArray[np.int64],
    choice_texts: list[list[str]],
    *,
    architecture: Architecture,
    normalize: str,
) -> list[Answer]:
    """The choice with the highest summed log-likelihood (normalize "tokens": mean over its tokens) for each example.

    Of equal choices the first is taken.
    """
    pad_id = int(tokenizer.pad_token_id)
    prompts = [data.prompts[index] for index in indices]
    choices = [
        [data.choices[choice] for choice in range(data.choice_offsets[index], data.choice_offsets[index + 1])]
        for index in indices
    ]
    statistics = shared_statistics if shares_prompts(module, pad_id, architecture) else plain_statistics
    answers = []
    for prompt, texts, parts in zip(
        prompts, choice_texts, statistics(module, prompts, choices, pad_id, architecture), strict=True
    ):
        sums = np.array([part[:, 0].sum() for part in parts], dtype=np.float32)
        counts = np.array([len(part) for part in parts], dtype=np.int32)
        picked = int(np.argmax(sums / counts if normalize == "tokens" else sums))
        answers.append(Answer(texts[picked], len(prompt), *answer_columns(parts[picked]), sums, counts))
    return answers


def num_rows(module: TargetLogits, data: TokenSplit, pad_id: int, architecture: Architecture) -> int:
    """Rows of a batch that an example of a split takes at most."""
    if shares_prompts(module, pad_id, architecture) or not len(data.choices):
        return 1
    longer = (data.choices.lengths > 1).astype(np.int64)
    several = np.add.reduceat(longer, data.choice_offsets[:-1])
    return int(np.maximum(several + (several < np.diff(data.choice_offsets)), 1).max())


def shares_prompts(module: TargetLogits, pad_id: int, architecture: Architecture) -> bool:
    """Whether one pass over a prompt serves all choices of this model: the numbers of two made-up examples decide, once.

    They are the same on every rank, and hold choices of one token, of several, and two that begin alike.
    """
    if "choices" not in module.served:
        module.served["choices"] = can_read_on(module) and _agree(module, pad_id, architecture)
    return module.served["choices"]


@torch.no_grad()
def _agree(module: TargetLogits, pad_id: int, architecture: Architecture) -> bool:
    width = module.model.get_output_embeddings().weight.shape[0]
    ids = iter(np.arange(1, 60, dtype=np.int64) * 7919 % width)
    prompts, choices = (
        [np.fromiter(itertools.islice(ids, length), np.int32) for length in lengths]
        for lengths in ((9, 5), (3, 1, 4, 2, 4))
    )
    choices[2][:2] = choices[0][:2]
    examples = [choices[:3], choices[3:]]
    plain = plain_statistics(module, prompts, examples, pad_id, architecture)
    try:
        shared = shared_statistics(module, prompts, examples, pad_id, architecture)
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):  # a model that does not take these inputs
        return False
    first, second = (np.concatenate([part[:, 0] for part in itertools.chain(*found)]) for found in (shared, plain))
    return agrees(first, second, module)


@dataclass(frozen=True)
class _Choices:
    """Where the tokens of choices stand. A model never reads the last token of a choice, and reads once what several
    choices of an example have before it, such as nothing where each is one token.

    begins: the tokens to read, with the number of their example. ids, places: all tokens of all choices behind one another,
    and where the logits stand that predict each. Places are numbered from 0: those behind the prompts, then those behind the
    tokens of `begins`. lengths: of each choice.
    """

    begins: list[tuple[int, Ids]]
    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    lengths: list[int]

    @classmethod
    def of(cls, examples: Sequence[Sequence[Ids]]) -> _Choices:
        known: dict[tuple[int, bytes], int] = {}
        begins: list[tuple[int, Ids]] = []
        places: list[NDArray[np.int64]] = []
        free = len(examples)
        for example, choices in enumerate(examples):
            for choice in choices:
                begin = choice[:-1]
                key = (example, begin.tobytes())
                if key not in known:
                    known[key] = free
                    free += len(begin)
                    if len(begin):
                        begins.append((example, begin))
                places.append(np.concatenate([[example], known[key] + np.arange(len(begin))]))
        flat = [choice for choices in examples for choice in choices]
        ids = np.concatenate(flat).astype(np.int64)
        return cls(begins, ids, np.concatenate(places), [len(choice) for choice in flat])


@torch.no_grad()
def shared_statistics(
    module: TargetLogits,
    prompts: Sequence[Ids],
    examples: Sequence[Sequence[Ids]],
    pad_id: int,
    architecture: Architecture,
) -> list[list[FloatArray]]:
    """`token_statistics` of the tokens of each choice of each example, from one pass over each prompt."""
    choices = _Choices.of(examples)
    read = _read_decoder if architecture == "decoder" else _read_encoder_decoder
    whole = torch.cat(read(module, prompts, choices, pad_id))
    parts = module.head_in_parts(whole)
    return _by_example(_statistics(parts, choices.places, choices.ids), choices.lengths, examples)


def _read_decoder(module: TargetLogits, prompts: Sequence[Ids], choices: _Choices, pad_id: int) -> list[Tensor]:
    """What is behind each prompt, and behind each token of `begins`."""
    device = module.model.device
    reading = Reading(module)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    prompts_BS = padded(prompts, pad_id).to(device)
    found = [reading.read(prompts_BS, torch.arange(len(prompts), device=device), lengths_B - 1)]
    if not choices.begins:
        return found
    rows = np.concatenate([np.full(len(begin), example) for example, begin in choices.begins])
    numbers = np.concatenate([np.full(len(begin), number) for number, (_, begin) in enumerate(choices.begins)])
    steps = np.concatenate([np.arange(len(begin)) for _, begin in choices.begins])
    starts = np.searchsorted(rows, np.arange(len(prompts)))  # begins stand in the order of their examples
    columns = np.arange(len(rows)) - starts[rows]
    shape = len(prompts), int(columns.max()) + 1
    ids_BT, step_BT = np.full(shape, pad_id), np.zeros(shape, np.int64)
    number_BT = -1 - np.broadcast_to(np.arange(shape[1]), shape)  # padding sees itself alone
    ids_BT[rows, columns] = np.concatenate([begin for _, begin in choices.begins])
    step_BT[rows, columns], number_BT[rows, columns] = steps, numbers
    ids, step, number, rows_N, columns_N = (
        torch.from_numpy(array).to(device) for array in (ids_BT, step_BT, number_BT, rows, columns)
    )
    seen_prompt = torch.arange(prompts_BS.shape[1], device=device)[None, None] < lengths_B[:, None, None]
    seen_own = (number[:, :, None] == number[:, None]) & torch.ones(shape[1], shape[1], device=device).tril().bool()
    seen = torch.cat([seen_prompt.expand(-1, shape[1], -1), seen_own], dim=2)
    mask = hidden_as_minus(seen, module.model.dtype)
    found.append(reading.read(ids, rows_N, columns_N, attention_mask=mask, position_ids=lengths_B[:, None] + step))
    return found


def _read_encoder_decoder(module: TargetLogits, prompts: Sequence[Ids], choices: _Choices, pad_id: int) -> list[Tensor]:
    """The same; behind a prompt means behind the decoder's start token."""
    device = module.model.device
    reading = Reading(module)
    prompts_BS = padded(prompts, pad_id).to(device)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask_BS = (torch.arange(prompts_BS.shape[1], device=device) < lengths_B[:, None]).long()
    reading.encode(prompts_BS, mask_BS)
    found = [reading.read(torch.full_like(prompts_BS[:, :1], module.model.config.decoder_start_token_id))]
    if choices.begins:
        reading.select(torch.tensor([example for example, _ in choices.begins], device=device))
        begins = [begin for _, begin in choices.begins]
        rows = np.concatenate([np.full(len(begin), row) for row, begin in enumerate(begins)])
        columns = np.concatenate([np.arange(len(begin)) for begin in begins])
        rows_N, columns_N = (torch.from_numpy(array).to(device) for array in (rows, columns))
        found.append(reading.read(padded(begins, pad_id).to(device), rows_N, columns_N))
    return found


@torch.no_grad()
def plain_statistics(
    module: TargetLogits,
    prompts: Sequence[Ids],
    examples: Sequence[Sequence[Ids]],
    pad_id: int,
    architecture: Architecture,
) -> list[list[FloatArray]]:
    """The same from a row for each choice, prompt and all; choices of one example that are alike up to their last token
    are one row."""
    starts: dict[tuple[int, bytes], int] = {}
    rows: list[tuple[Ids, Ids]] = []
    places: list[NDArray[np.int64]] = []
    free = 0
    for example, (prompt, choices) in enumerate(zip(prompts, examples, strict=True)):
        for choice in choices:
            key = (example, choice[:-1].tobytes())
            if key not in starts:
                starts[key] = free
                free += len(choice)
                rows.append((prompt, choice))
            places.append(starts[key] + np.arange(len(choice)))
    batch = sequence_batch(
        [prompt for prompt, _ in rows],
        [choice for _, choice in rows],
        architecture=architecture,
        pad_id=pad_id,
        start_id=getattr(module.model.config, "decoder_start_token_id", None),
    )
    flat = [choice for choices in examples for choice in choices]
    parts = module.in_parts(to_device(batch, module.model.device))
    statistics = _statistics(parts, np.concatenate(places), np.concatenate(flat).astype(np.int64))
    return _by_example(statistics, [len(choice) for choice in flat], examples)


def _statistics(
    parts: Iterable[tuple[slice, Tensor]], places_N: NDArray[np.int64], ids_N: NDArray[np.int64]
) -> FloatArray:
    """`token_statistics` of tokens whose logits stand at these places."""
    statistics = np.empty((len(ids_N), 3), np.float32)
    for part, logits_PV in parts:
        (here,) = np.nonzero((places_N >= part.start) & (places_N < part.stop))
        places, ids = (torch.from_numpy(array[here]).to(logits_PV.device) for array in (places_N - part.start, ids_N))
        statistics[here] = token_statistics(logits_PV, ids, places).cpu().numpy()
    return statistics


def _by_example(
    statistics: FloatArray, lengths: list[int], examples: Sequence[Sequence[Ids]]
) -> list[list[FloatArray]]:
    by_choice = iter(np.split(statistics, np.cumsum(lengths)[:-1]))
    return [list(itertools.islice(by_choice, len(choices))) for choices in examples]
