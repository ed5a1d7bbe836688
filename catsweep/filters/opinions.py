"""What a filter is told: both models' opinions on the target tokens of a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from catsweep.filters.quadrants import quadrants
from catsweep.filters.top_k import target_rank
from catsweep.first_choice import first_choice
from catsweep.spec.filters import Quadrant


@dataclass(frozen=True)
class SmallOpinion:
    """The small model that judges, on each target token: bool, whether the target is its first choice (of equal ones the
    first); float32, log p_S(y_i); int64, how many tokens it puts before the target, or None where no filter asks."""

    right_N: Tensor
    logprob_N: Tensor
    rank_N: Tensor | None = None

    @classmethod
    def of(
        cls, logits_NV: Tensor, target_ids_N: Tensor, logsumexp_N: Tensor | None = None, *, ranked: bool = True
    ) -> SmallOpinion:
        """That of some logits. logsumexp_N: theirs, where it is known. ranked: whether to count the rank."""
        logits_NV = logits_NV.detach()
        target_N = logits_NV.gather(1, target_ids_N[:, None]).squeeze(1)
        logsumexp_N = logits_NV.logsumexp(1) if logsumexp_N is None else logsumexp_N.detach()
        rank_N = target_rank(logits_NV, target_ids_N) if ranked else None
        return cls(first_choice(logits_NV) == target_ids_N, target_N - logsumexp_N, rank_N)


@dataclass(frozen=True)
class Opinions:
    """large_rank_N: int64 in [0, 255]. large_logprob_N: float32, natural log. injected_N: bool, target tokens that label
    noise has replaced."""

    small: SmallOpinion
    large_rank_N: Tensor
    large_logprob_N: Tensor
    injected_N: Tensor | None = None

    @cached_property
    def quadrants(self) -> dict[Quadrant, Tensor]:
        """Which model gets the target right: four masks, bool (N,) each."""
        return quadrants(self.small.right_N, self.large_rank_N == 0)

    def where(self, chosen_N: Tensor) -> Opinions:
        """Those on the chosen target tokens alone. chosen_N: bool."""
        small, rank_N = self.small, self.small.rank_N
        chosen = SmallOpinion(
            small.right_N[chosen_N], small.logprob_N[chosen_N], None if rank_N is None else rank_N[chosen_N]
        )
        return Opinions(chosen, self.large_rank_N[chosen_N], self.large_logprob_N[chosen_N])
