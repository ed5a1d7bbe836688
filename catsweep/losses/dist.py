"""Distillation beside the cross-entropy: the second baseline of arXiv 2406.00060."""

from __future__ import annotations

from torch import Tensor

from catsweep.losses.tokens import cross_entropy, distillation
from catsweep.tensors import LossInputs


def dist(inputs: LossInputs, logsumexp_N: Tensor, *, weight: float) -> Tensor:
    """w * -log p_S(y_i) + (1 - w) * -sum_v p_L(v) log p_S(v) of each target token: float32 (N,).

    weight: w in [0, 1]; 1 is xent. The paper prints no temperature and no value of w. Needs the large model's
    distribution in inputs.teacher.
    """
    assert inputs.teacher is not None
    assert inputs.teacher.ids_NK is not None
    assert inputs.teacher.weights_NK is not None
    hard_N = cross_entropy(inputs.logits_NV, logsumexp_N, inputs.target_ids_N)
    soft_N = distillation(inputs.logits_NV, logsumexp_N, inputs.teacher.ids_NK, inputs.teacher.weights_NK)
    return weight * hard_N + (1 - weight) * soft_N
