"""Divergences between the two models' distributions, from the large model's k most probable tokens.

Source: on-policy distillation, arXiv 2306.13649, equations 1 and 2, on the training targets as in supervised
distillation; how they are computed from k tokens is [ours].

Both distributions are compared over k + 1 buckets: each of the k tokens, and all others together. Joining tokens can
only lower a divergence of this kind, so the result is a lower bound of the exact one, equal to it where k is the
vocabulary, and pulls nowhere within the rest: its bias is what the two models disagree on there. Tokens drawn from p_L
(`distribution: {kind: sampled}`) cannot serve: both divergences need the values of p_L where p_S has its mass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_PROBABILITY = 2.0**-24
"""The smallest number above zero that is stored (float16): smaller probabilities count as this, so that a logarithm
stays finite."""
SMALLEST_REST = 2.0**-11
"""Resolution of the stored probabilities' sum: a smaller rest of the large model cannot be told from none."""


def reverse_kl(logits_NV: Tensor, logsumexp_N: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """KL(p_S || p_L) = sum_v p_S(v) (log p_S(v) - log p_L(v)) of each target token: float32 (N,), at least 0.

    ids_NK: different token ids of each row; weights_NK: their probabilities under the large model.
    """
    small_NB, large_NB = _buckets(logits_NV, logsumexp_N, ids_NK, weights_NK)
    return _kl(small_NB, large_NB)


def jsd(logits_NV: Tensor, logsumexp_N: Tensor, ids_NK: Tensor, weights_NK: Tensor, *, beta: float) -> Tensor:
    """b KL(p_L || m) + (1 - b) KL(p_S || m) with m = b p_L + (1 - b) p_S of each target token: float32 (N,), at least 0.

    The generalised Jensen-Shannon divergence. beta: b in (0, 1); jsd/b goes to KL(p_L || p_S) for b to 0, and
    jsd/(1 - b) to KL(p_S || p_L) for b to 1. ids_NK, weights_NK: as in reverse_kl.
    """
    small_NB, large_NB = _buckets(logits_NV, logsumexp_N, ids_NK, weights_NK)
    mixed_NB = torch.logaddexp(large_NB + math.log(beta), small_NB + math.log(1 - beta))
    return beta * _kl(large_NB, mixed_NB) + (1 - beta) * _kl(small_NB, mixed_NB)


def _kl(log_p_NB: Tensor, log_q_NB: Tensor) -> Tensor:
    return (log_p_NB.exp() * (log_p_NB - log_q_NB)).sum(1)


def _buckets(logits_NV: Tensor, logsumexp_N: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both models over the k tokens and, where there are others, the rest: (N, B) each.

    Both are made to sum to one, which float16 has kept from being exact.
    """
    small_NB = logits_NV.gather(1, ids_NK) - logsumexp_N[:, None]
    large_NB = weights_NK.clamp(min=SMALLEST_PROBABILITY)
    if ids_NK.shape[1] < logits_NV.shape[1]:
        # The log-sum-exp of the others, not one minus the sum of the k: that would lose its digits, and its gradient.
        others_N = logits_NV.scatter(1, ids_NK, -torch.inf).logsumexp(1) - logsumexp_N
        small_NB = torch.cat([small_NB, others_N[:, None]], 1)
        rest_N = (1 - weights_NK.sum(1)).clamp(min=SMALLEST_REST)
        large_NB = torch.cat([large_NB, rest_N[:, None]], 1)
    return small_NB, (large_NB / large_NB.sum(1, keepdim=True)).log()
