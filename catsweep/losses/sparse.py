"""Losses that are the cross-entropy to a target distribution with few entries: their gradient in closed form.

Source: [ours]. With c = sum_k w_k + u such a loss is sum_k w_k (lse - z_k) + u (lse - mean_v z_v), and its gradient by the
logits c * p_S - (w at the entries) - u / V.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import LossInputs


@dataclass(frozen=True)
class SparseTarget:
    """ids_CK: int64, may repeat. weights_CK: of the logits' dtype, at least 0. uniform: u, weight of the uniform distribution."""

    ids_CK: Tensor
    weights_CK: Tensor
    uniform: float = 0.0


def sparse_target(spec: LossSpec, inputs: LossInputs) -> SparseTarget | None:
    """The target distributions of a loss; None where it is no cross-entropy."""
    ids_C1 = inputs.target_ids_N[:, None]
    ones_C1 = inputs.logits_NV.new_ones(ids_C1.shape)
    match spec:
        case XentLoss() | CatXentLoss():
            return SparseTarget(ids_C1, ones_C1)
        case LabelSmoothingLoss(smoothing=smoothing):
            return SparseTarget(ids_C1, (1 - smoothing) * ones_C1, smoothing)
        case DistLoss() | CatDistLoss() if spec.divergence == "forward_kl":
            teacher = inputs.teacher
            assert teacher is not None
            assert teacher.ids_NK is not None
            assert teacher.weights_NK is not None
            weights_CK = torch.cat([spec.weight * ones_C1, (1 - spec.weight) * teacher.weights_NK.to(ones_C1.dtype)], 1)
            return SparseTarget(torch.cat([ids_C1, teacher.ids_NK], 1), weights_CK)
        case GatekeeperLoss(pretrain_share=share) if inputs.is_in_first(share):
            return SparseTarget(ids_C1, ones_C1)
        case _:
            return None
