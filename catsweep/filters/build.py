"""From a filter's spec to the weights of target tokens."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from catsweep.filters.quadrants import keep_quadrants
from catsweep.filters.shuffled import shuffle
from catsweep.spec.training import QUADRANT_SETS, FilterSpec, NamedQuadrants, Quadrant, QuadrantsFilter, ShuffledFilter


def filter_weights(spec: FilterSpec, masks: dict[Quadrant, Tensor], generator: torch.Generator) -> Tensor:
    """alpha of each target token: float32 (N,) in [0, 1], without gradient. masks: see `quadrants`."""
    match spec:
        case NamedQuadrants(kind=name):
            kept = keep_quadrants(masks, QUADRANT_SETS[name])
        case QuadrantsFilter(keep=keep):
            kept = keep_quadrants(masks, keep)
        case ShuffledFilter():
            kept = shuffle(keep_quadrants(masks, QUADRANT_SETS["either"]), generator)
        case _:
            assert_never(spec)
    return kept.float()
