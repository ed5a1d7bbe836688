"""What a filter is told: both models' opinions on the target tokens of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from catsweep.filters.quadrants import quadrants
from catsweep.filters.top_k import target_rank
from catsweep.spec.filters import Quadrant


@dataclass(frozen=True)
class Opinions:
    """small_logits_NV: of the small model that judges, without gradient. target_ids_N: int64. large_rank_N: int64 in
    [0, 255]. large_logprob_N: float32, natural log. injected_N: bool, target tokens that label noise has replaced."""

    small_logits_NV: Tensor
    target_ids_N: Tensor
    large_rank_N: Tensor
    large_logprob_N: Tensor
    injected_N: Tensor | None = None

    @cached_property
    def quadrants(self) -> dict[Quadrant, Tensor]:
        """Which model gets the target right: four masks, bool (N,) each."""
        return quadrants(self.small_logits_NV.argmax(dim=1) == self.target_ids_N, self.large_rank_N == 0)

    @cached_property
    def small_rank_N(self) -> Tensor:
        """How many tokens the small model puts before the target: int64 (N,)."""
        return target_rank(self.small_logits_NV, self.target_ids_N)

    @cached_property
    def small_logprob_N(self) -> Tensor:
        """log p_S(y_i): float32 (N,)."""
        target_N = self.small_logits_NV.gather(1, self.target_ids_N[:, None]).squeeze(1)
        return target_N - torch.logsumexp(self.small_logits_NV, dim=1)

    def where(self, chosen_N: Tensor) -> Opinions:
        """Those on the chosen target tokens alone. chosen_N: bool."""
        parts = (self.small_logits_NV, self.target_ids_N, self.large_rank_N, self.large_logprob_N)
        return Opinions(*(part[chosen_N] for part in parts))
