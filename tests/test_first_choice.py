"""The first choice by blocks is argmax's, ties and all."""

from __future__ import annotations

import pytest
import torch

from catsweep.first_choice import BLOCK, MIN_WIDTH, first_choice


@pytest.mark.parametrize("width", [7, MIN_WIDTH, MIN_WIDTH + 1, MIN_WIDTH + BLOCK - 1, 32_000])
@pytest.mark.parametrize("levels", [2, 50, 10**6])
def test_it_is_argmax_of_random_rows_with_few_and_with_many_levels(width: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(width + levels)
    logits = torch.randint(levels, (40, width), generator=generator).float()
    assert torch.equal(first_choice(logits), logits.argmax(1))


def test_of_equal_logits_it_is_the_smallest_id_across_blocks_and_in_the_rest_behind_them() -> None:
    width = MIN_WIDTH + 10
    logits = torch.full((4, width), -torch.inf)
    logits[0, [5, 6, 3 * BLOCK]] = 1.0
    logits[1, [BLOCK, MIN_WIDTH + 9]] = 2.0
    logits[2, [MIN_WIDTH + 8, MIN_WIDTH + 9]] = 3.0
    assert first_choice(logits).tolist() == [5, BLOCK, MIN_WIDTH + 8, 0]


def test_rows_of_a_wider_buffer_and_no_rows() -> None:
    buffer = torch.randn(6, MIN_WIDTH + 3, generator=torch.Generator().manual_seed(0))
    view = buffer[1:5, :MIN_WIDTH]
    assert torch.equal(first_choice(view), view.argmax(1))
    assert first_choice(buffer[:0]).shape == (0,)


def test_nan_is_found_as_argmax_finds_it() -> None:
    logits = torch.zeros(2, MIN_WIDTH)
    logits[0, 70], logits[1, 3] = torch.nan, 1.0
    assert first_choice(logits).tolist() == [70, 3] == logits.argmax(1).tolist()
