"""Plain fine-tuning: the baseline of every comparison."""

from __future__ import annotations

from torch import Tensor

from catsweep.losses.tokens import cross_entropy
from catsweep.tensors import LossInputs


def xent(inputs: LossInputs, logsumexp_N: Tensor) -> Tensor:
    """-log p_S(y_i) of each target token: float32 (N,)."""
    return cross_entropy(inputs.logits_NV, logsumexp_N, inputs.target_ids_N)
