"""Label smoothing: a baseline that also keeps a model from being too sure, without a large model.

Source: Szegedy et al., arXiv 1512.00567; the same term as torch.nn.functional.cross_entropy(label_smoothing=s).
"""

from __future__ import annotations

from torch import Tensor

from catsweep.losses.tokens import cross_entropy
from catsweep.tensors import LossInputs


def label_smoothing(inputs: LossInputs, logsumexp_N: Tensor, *, smoothing: float) -> Tensor:
    """(1 - s) * -log p_S(y_i) + s * mean_v -log p_S(v) of each target token: float32 (N,).

    smoothing: s in [0, 1); 0 is xent. The mean runs over the width of the logits.
    """
    hard_N = cross_entropy(inputs.logits_NV, logsumexp_N, inputs.target_ids_N)
    return (1 - smoothing) * hard_N + smoothing * (logsumexp_N - inputs.logits_NV.mean(1))
