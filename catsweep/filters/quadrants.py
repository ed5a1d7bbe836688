"""Filters that judge a target token by which of the two models gets it right.

Right means that the target is the model's most probable token. Source: Cascade-Aware Training, arXiv 2406.00060;
its filter is the set `either`: only tokens that both models get wrong are dropped. The other sets are [ours].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from catsweep.spec.filters import Quadrant


def quadrants(small_right_N: Tensor, large_right_N: Tensor) -> dict[Quadrant, Tensor]:
    """The four quadrants of the target tokens: bool (N,) each, exactly one true for each token."""
    return {
        "both": small_right_N & large_right_N,
        "only_small": small_right_N & ~large_right_N,
        "only_large": ~small_right_N & large_right_N,
        "neither": ~small_right_N & ~large_right_N,
    }


def keep_quadrants(masks: dict[Quadrant, Tensor], keep: Iterable[Quadrant]) -> Tensor:
    """Which target tokens to keep: bool (N,), true in any of the quadrants `keep`."""
    kept = torch.zeros_like(masks["both"])
    for quadrant in keep:
        kept = kept | masks[quadrant]
    return kept
