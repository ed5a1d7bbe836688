"""Keep what the small model still has to learn and the large one shows to be learnable.

Source: Rho-1, arXiv 2404.07965, with the large model as its reference model. It divides by the kept tokens
(`normalize: kept_tokens`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def excess_loss(small_logprob_N: Tensor, large_logprob_N: Tensor, *, keep: float) -> Tensor:
    """The tokens with the largest CE_S - CE_L = log p_L(y_i) - log p_S(y_i) of this micro-batch: bool (N,).

    keep: share in (0, 1] of the N tokens, rounded to a whole number and at least one. Of equal ones the first are kept.
    Compares the tokens of one micro-batch, so its result depends on how a batch is split into micro-batches, unlike
    filters that judge each token alone.
    """
    excess_N = large_logprob_N - small_logprob_N.detach()
    num_kept = max(1, round(keep * len(excess_N)))
    kept_N = torch.zeros_like(excess_N, dtype=torch.bool)
    kept_N[torch.sort(excess_N, descending=True, stable=True).indices[:num_kept]] = True
    return kept_N
