"""From a filter's spec to the weights of target tokens."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from catsweep.filters.excess_loss import excess_loss
from catsweep.filters.injected import clean_only
from catsweep.filters.opinions import Opinions
from catsweep.filters.probability import better_probability, threshold
from catsweep.filters.quadrants import keep_quadrants
from catsweep.filters.shuffled import shuffle
from catsweep.filters.top_k import top_k
from catsweep.spec.filters import (
    QUADRANT_SETS,
    CleanOnlyFilter,
    DropInjectedFilter,
    ExcessLossFilter,
    FilterSpec,
    NamedQuadrants,
    QuadrantsFilter,
    ShuffledFilter,
    SoftFilter,
    ThresholdFilter,
    TopKFilter,
)


@torch.no_grad()
def filter_weights(spec: FilterSpec, opinions: Opinions, generator: torch.Generator) -> Tensor:
    """alpha of each target token: float32 (N,) in [0, 1], without gradient. All but `soft` give zeros and ones.
    Those of label noise need opinions.injected_N."""
    match spec:
        case NamedQuadrants(kind=name):
            kept = keep_quadrants(opinions.quadrants, QUADRANT_SETS[name])
        case QuadrantsFilter(keep=keep):
            kept = keep_quadrants(opinions.quadrants, keep)
        case ShuffledFilter():
            kept = shuffle(keep_quadrants(opinions.quadrants, QUADRANT_SETS["either"]), generator)
        case TopKFilter(k=k):
            assert opinions.small.rank_N is not None
            kept = top_k(opinions.small.rank_N, opinions.large_rank_N, k=k)
        case ThresholdFilter(t=t):
            kept = threshold(opinions.small.logprob_N, opinions.large_logprob_N, t=t)
        case SoftFilter():
            kept = better_probability(opinions.small.logprob_N, opinions.large_logprob_N)
        case ExcessLossFilter(keep=share):
            kept = excess_loss(opinions.small.logprob_N, opinions.large_logprob_N, keep=share)
        case DropInjectedFilter():
            assert opinions.injected_N is not None
            kept = ~opinions.injected_N
        case CleanOnlyFilter(filter=inner):
            assert opinions.injected_N is not None
            clean = opinions.where(~opinions.injected_N)
            kept = clean_only(filter_weights(inner, clean, generator), opinions.injected_N)
        case _:
            assert_never(spec)
    return kept.float()


def asks_for_rank(spec: FilterSpec) -> bool:
    """Whether the filter needs how many tokens the small model puts before the target."""
    return isinstance(spec.filter if isinstance(spec, CleanOnlyFilter) else spec, TopKFilter)


def compares_tokens(spec: FilterSpec) -> bool:
    """Whether the weight of a target token depends on the other tokens of its micro-batch."""
    inner = spec.filter if isinstance(spec, CleanOnlyFilter) else spec
    return isinstance(inner, ShuffledFilter | ExcessLossFilter)
