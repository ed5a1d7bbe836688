"""The four quadrants and their named sets, over all combinations."""

from __future__ import annotations

import pytest
import torch

from catsweep.filters.quadrants import keep_quadrants, quadrants
from catsweep.spec.filters import QUADRANT_SETS

SMALL = torch.tensor([True, True, False, False])
LARGE = torch.tensor([True, False, True, False])

KEPT = {
    "all": [True, True, True, True],
    "either": [True, True, True, False],
    "large": [True, False, True, False],
    "not_large": [False, True, False, True],
    "small": [True, True, False, False],
    "both": [True, False, False, False],
    "learnable": [False, False, True, False],
}


def test_every_token_lies_in_exactly_one_quadrant() -> None:
    masks = quadrants(SMALL, LARGE)
    assert torch.stack(list(masks.values())).sum(0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("name", sorted(KEPT))
def test_a_named_set_keeps_its_quadrants(name: str) -> None:
    assert keep_quadrants(quadrants(SMALL, LARGE), QUADRANT_SETS[name]).tolist() == KEPT[name]


def test_the_names_are_those_of_the_table() -> None:
    assert set(QUADRANT_SETS) == set(KEPT)


def test_the_papers_filter_is_an_or() -> None:
    assert torch.equal(keep_quadrants(quadrants(SMALL, LARGE), QUADRANT_SETS["either"]), SMALL | LARGE)
