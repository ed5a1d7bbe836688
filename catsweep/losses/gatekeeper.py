"""Confidence tuning for cascades: sure where the small model is right, unsure where it is wrong.

Source: Gatekeeper, arXiv 2502.19335. It starts from a small model that was trained on the task; here the first steps of
the same run do that (`pretrain_share`), so that its budget of steps is that of every other loss [ours].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from catsweep.losses.tokens import cross_entropy
from catsweep.tensors import LossInputs


def gatekeeper(inputs: LossInputs, logsumexp_N: Tensor, right_N: Tensor, *, alpha: float) -> Tensor:
    """a * 1[S right] * -log p_S(y_i) + (1 - a) * 1[S wrong] * KL(p_S || uniform) of each target token: float32 (N,).

    KL(p_S || uniform) = log V + sum_v p_S(v) log p_S(v), V being the width of the logits. right_N: bool, whether the
    target is the most probable token of the model as it is now; no gradient flows through it. alpha: a in [0, 1]. The
    sum is divided by all N target tokens, as in the paper.
    """
    hard_N = cross_entropy(inputs.logits_NV, logsumexp_N, inputs.target_ids_N)
    logprobs_NV = inputs.logits_NV - logsumexp_N[:, None]
    to_uniform_N = math.log(logprobs_NV.shape[1]) + (logprobs_NV.exp() * logprobs_NV).sum(1)
    return torch.where(right_N, alpha * hard_N, (1 - alpha) * to_uniform_N)
