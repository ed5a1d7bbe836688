"""Micro-batches, against what a loop over their examples makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from catsweep.batches import packed_batch, padded_batch
from catsweep.data import Tokens, ranges

PAD, START = 0, 1
Lists = list[NDArray[np.int32]]


def some_lists(draw: np.random.Generator, num: int, longest: int) -> Lists:
    return [draw.integers(3, 99, size).astype(np.int32) for size in draw.integers(1, longest + 1, num)]


def written_out(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [[*row, *[PAD] * (width - len(row))] for row in rows]


@pytest.mark.parametrize("seed", range(20))
def test_a_padded_batch_is_its_examples_written_out(seed: int) -> None:
    draw = np.random.default_rng(seed)
    num = int(draw.integers(1, 9))
    prompts, targets = some_lists(draw, num, 7), some_lists(draw, num, 1 + seed % 5)
    lists = Tokens.of(prompts), Tokens.of(targets)
    texts = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]

    batch = padded_batch(*lists, architecture="decoder", pad_id=PAD, start_id=None)
    assert batch.input_ids_BS.tolist() == written_out(texts)
    assert batch.attention_mask_BS is not None
    assert batch.attention_mask_BS.tolist() == written_out([[1] * len(text) for text in texts])
    assert batch.target_ids_N.tolist() == [token for target in targets for token in target]
    width = max(map(len, texts))
    assert batch.target_places_N.tolist() == [
        row * width + len(prompts[row]) - 1 + place for row in range(num) for place in range(len(targets[row]))
    ]

    batch = padded_batch(*lists, architecture="encoder_decoder", pad_id=PAD, start_id=START)
    assert batch.input_ids_BS.tolist() == written_out([prompt.tolist() for prompt in prompts])
    assert batch.decoder_input_ids_BT is not None
    assert batch.decoder_input_ids_BT.tolist() == written_out([[START, *target[:-1]] for target in targets])
    width = max(map(len, targets))
    assert batch.target_places_N.tolist() == [
        row * width + place for row in range(num) for place in range(len(targets[row]))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_packed_batch_is_its_examples_written_out(seed: int) -> None:
    draw = np.random.default_rng(seed)
    num = int(draw.integers(2, 9))
    prompts, targets = some_lists(draw, num, 7), some_lists(draw, num, 5)
    texts = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
    order = draw.permutation(num).tolist()
    middle = int(draw.integers(1, num))
    rows = [order[:middle], order[middle:]]

    batch = packed_batch(Tokens.of(prompts), Tokens.of(targets), rows, pad_id=PAD)
    assert batch.input_ids_BS.tolist() == written_out(
        [[token for index in row for token in texts[index]] for row in rows]
    )
    width = batch.input_ids_BS.shape[1]
    assert batch.position_ids_BS is not None
    for row, positions in zip(rows, batch.position_ids_BS.tolist(), strict=True):
        expected = [place for index in row for place in range(len(texts[index]))]
        assert positions == expected + list(range(width - len(expected)))
    flat = batch.input_ids_BS.flatten()
    places = np.split(batch.target_places_N.numpy(), np.cumsum([len(target) for target in targets])[:-1])
    for prompt, target, own in zip(prompts, targets, places, strict=True):
        assert flat[own].tolist() == [prompt[-1], *target[:-1]]
    assert batch.target_ids_N.tolist() == [token for target in targets for token in target]


def test_ranges_may_be_empty() -> None:
    assert ranges(np.array([5, 2, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
