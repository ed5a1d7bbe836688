"""Distillation beside the cross-entropy: the second baseline of arXiv 2406.00060."""

from __future__ import annotations

from typing import assert_never

from torch import Tensor

from catsweep.losses.divergence import jsd, reverse_kl
from catsweep.losses.tokens import cross_entropy, distillation
from catsweep.spec.training import Divergence
from catsweep.tensors import LossInputs


def dist(
    inputs: LossInputs,
    logsumexp_N: Tensor,
    *,
    weight: float,
    divergence: Divergence = "forward_kl",
    jsd_beta: float = 0.5,
) -> Tensor:
    """w * -log p_S(y_i) + (1 - w) * D(p_L, p_S) of each target token: float32 (N,).

    weight: w in [0, 1]; 1 is xent. The paper prints no temperature and no value of w. divergence: D. The paper's,
    forward_kl, is -sum_v p_L(v) log p_S(v): KL(p_L || p_S) and a constant. Needs the large model's distribution in
    inputs.teacher; for reverse_kl and jsd it must be of the kind top_k.
    """
    assert inputs.teacher is not None
    assert inputs.teacher.ids_NK is not None
    assert inputs.teacher.weights_NK is not None
    logits_NV, ids_NK, weights_NK = inputs.logits_NV, inputs.teacher.ids_NK, inputs.teacher.weights_NK
    hard_N = cross_entropy(logits_NV, logsumexp_N, inputs.target_ids_N)
    match divergence:
        case "forward_kl":
            soft_N = distillation(logits_NV, logsumexp_N, ids_NK, weights_NK)
        case "reverse_kl":
            soft_N = reverse_kl(logits_NV, logsumexp_N, ids_NK, weights_NK)
        case "jsd":
            soft_N = jsd(logits_NV, logsumexp_N, ids_NK, weights_NK, beta=jsd_beta)
        case _:
            assert_never(divergence)
    return weight * hard_N + (1 - weight) * soft_N
