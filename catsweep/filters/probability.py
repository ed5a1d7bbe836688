"""Filters by the probability that the models give the target, instead of whether it is their first choice.

Source: [ours]. The large model's probability comes from the stored float16 logarithm: its relative error is at most
|log p_L| / 2048.
"""

from __future__ import annotations

import torch
from torch import Tensor


def better_probability(small_logprob_N: Tensor, large_logprob_N: Tensor) -> Tensor:
    """max(p_S(y_i), p_L(y_i)) of each target token: float32 (N,) in [0, 1], without gradient. Judges each token alone.

    As a weight it is the filter `soft`: it never drops a token for good, and is 1 where either model is sure.
    """
    return torch.maximum(small_logprob_N, large_logprob_N).detach().exp().clamp(max=1)


def threshold(small_logprob_N: Tensor, large_logprob_N: Tensor, *, t: float) -> Tensor:
    """Which target tokens have max(p_S(y_i), p_L(y_i)) >= t: bool (N,). t in [0, 1]. Judges each token alone."""
    return better_probability(small_logprob_N, large_logprob_N) >= t
