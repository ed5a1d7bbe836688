"""The two terms that all losses are made of, for each target token.

Both work from the logits and their log-sum-exp: the log-probabilities of the whole vocabulary never exist.
"""

from __future__ import annotations

from torch import Tensor


def cross_entropy(logits_NV: Tensor, logsumexp_N: Tensor, target_ids_N: Tensor) -> Tensor:
    """-log p(y): float32 (N,), at least 0. logits in float32."""
    return logsumexp_N - logits_NV.gather(1, target_ids_N[:, None]).squeeze(1)


def distillation(logits_NV: Tensor, logsumexp_N: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """-sum_v p_L(v) log p_S(v), with p_L given by sparse entries: float32 (N,), at least 0.

    ids_NK: token ids; weights_NK: their weights, at least 0. With sampled ids and weights 1/K the expectation over the
    samples is the exact cross-entropy of the two distributions (arXiv 2503.16870).
    """
    logprobs_NK = logits_NV.gather(1, ids_NK) - logsumexp_N[:, None]
    return -(weights_NK * logprobs_NK).sum(1)
