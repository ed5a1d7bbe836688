"""From a loss's spec to a function LossInputs -> LossOutput.

Every loss is a weighted sum over the target tokens: sum_i alpha_i * term_i. xent and dist have alpha = 1; cat_xent and
cat_dist (Cascade-Aware Training, arXiv 2406.00060) take alpha from a filter. alpha is an indicator: no gradient flows
through it. p_S is the model being trained, so its half of the filter changes at every step; the large model's half is
a constant of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from catsweep.filters.build import filter_weights
from catsweep.filters.quadrants import quadrants
from catsweep.losses.dist import dist
from catsweep.losses.xent import xent
from catsweep.spec.training import CatDistLoss, CatXentLoss, DistLoss, LossSpec, XentLoss
from catsweep.tensors import LossInputs, LossOutput

Loss = Callable[[LossInputs], LossOutput]


def build_loss(spec: LossSpec) -> Loss:
    """The loss of a spec. A micro-batch in which every token is filtered gives loss 0 with a live gradient of zeros."""

    def loss(inputs: LossInputs) -> LossOutput:
        logsumexp_N = torch.logsumexp(inputs.logits_NV, dim=1)
        alpha_N, sums = _alpha(spec, inputs)
        match spec:
            case XentLoss() | CatXentLoss():
                terms_N = xent(inputs, logsumexp_N)
            case DistLoss(weight=weight) | CatDistLoss(weight=weight):
                terms_N = dist(inputs, logsumexp_N, weight=weight)
            case _:
                assert_never(spec)
        num_target = torch.tensor(float(alpha_N.shape[0]), device=alpha_N.device)
        return LossOutput((alpha_N * terms_N).sum(), num_target, alpha_N.sum(), sums)

    return loss


def _alpha(spec: LossSpec, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """alpha (N,) and, where the large model's signal is there, the sizes of the four quadrants."""
    ones_N = torch.ones(inputs.target_ids_N.shape[0], device=inputs.logits_NV.device)
    if inputs.teacher is None:
        assert not isinstance(spec, CatXentLoss | CatDistLoss)
        return ones_N, {}
    with torch.no_grad():
        small_right_N = inputs.logits_NV.argmax(dim=1) == inputs.target_ids_N
        masks = quadrants(small_right_N, inputs.teacher.rank_N == 0)
        sums = {f"quadrant/{name}": mask.float().sum() for name, mask in masks.items()}
        if isinstance(spec, CatXentLoss | CatDistLoss):
            return filter_weights(spec.filter, masks, inputs.generator), sums
    return ones_N, sums
