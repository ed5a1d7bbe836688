"""The control of every claim about a filter: the same number of kept tokens, chosen without information.

Source: suggested in arXiv 2406.00060 as a test of what the filter's gain comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shuffle(kept_N: Tensor, generator: torch.Generator) -> Tensor:
    """The mask (N,) permuted among the target tokens of this micro-batch: so its result depends on how a batch is
    split into micro-batches, unlike filters that judge each token alone."""
    order = torch.randperm(kept_N.shape[0], generator=generator).to(kept_N.device)
    return kept_N[order]
