"""From a loss's spec to a function LossInputs -> LossOutput.

Every loss is a weighted sum over the target tokens: sum_i alpha_i * term_i. cat_xent and cat_dist (Cascade-Aware
Training, arXiv 2406.00060) take alpha from a filter; for all others alpha = 1. alpha is a constant: no gradient flows
through it. p_S is the model being trained, so its half of the filter changes at every step (or, with `judge: initial`,
the model before its first step, so that it never changes); the large model's half is a constant of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch
from torch import Tensor

from catsweep.filters.build import filter_weights
from catsweep.filters.injected import injected_sums
from catsweep.filters.opinions import Opinions
from catsweep.losses.dist import dist
from catsweep.losses.gatekeeper import gatekeeper
from catsweep.losses.label_smoothing import label_smoothing
from catsweep.losses.xent import xent
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import LossInputs, LossOutput

Loss = Callable[[LossInputs], LossOutput]


def build_loss(spec: LossSpec) -> Loss:
    """The loss of a spec. A micro-batch in which every token is filtered gives loss 0 with a live gradient of zeros.

    `sums` of the output holds, where the large model's signal is there, the sizes of the four quadrants, judged by the
    model as it is now; for gatekeeper, in its second part, the number of tokens that the model gets right; and where label
    noise is known, how many tokens are injected and what is kept of them.
    """

    def loss(inputs: LossInputs) -> LossOutput:
        logsumexp_N = torch.logsumexp(inputs.logits_NV, dim=1)
        sums: dict[str, Tensor] = {}
        alpha_N = _alpha(spec, inputs, sums)
        if inputs.injected_N is not None:
            sums |= injected_sums(alpha_N, inputs.injected_N)
        match spec:
            case XentLoss() | CatXentLoss():
                terms_N = xent(inputs, logsumexp_N)
            case DistLoss() | CatDistLoss():
                terms_N = dist(
                    inputs, logsumexp_N, weight=spec.weight, divergence=spec.divergence, jsd_beta=spec.jsd_beta
                )
            case LabelSmoothingLoss(smoothing=smoothing):
                terms_N = label_smoothing(inputs, logsumexp_N, smoothing=smoothing)
            case GatekeeperLoss(pretrain_share=share) if inputs.is_in_first(share):
                terms_N = xent(inputs, logsumexp_N)
            case GatekeeperLoss(alpha=alpha):
                right_N = inputs.logits_NV.argmax(dim=1) == inputs.target_ids_N
                terms_N = gatekeeper(inputs, logsumexp_N, right_N, alpha=alpha)
                sums["gatekeeper/right"] = right_N.float().sum()
            case _:
                assert_never(spec)
        num_target = torch.tensor(float(alpha_N.shape[0]), device=alpha_N.device)
        return LossOutput((alpha_N * terms_N).sum(), num_target, alpha_N.sum(), sums)

    return loss


def _alpha(spec: LossSpec, inputs: LossInputs, sums: dict[str, Tensor]) -> Tensor:
    """alpha (N,); puts the sizes of the four quadrants into `sums` where the large model's signal is there."""
    ones_N = torch.ones(inputs.target_ids_N.shape[0], device=inputs.logits_NV.device)
    teacher = inputs.teacher
    if teacher is None:
        assert not isinstance(spec, CatXentLoss | CatDistLoss)
        return ones_N

    def opinions(small_logits_NV: Tensor) -> Opinions:
        logits_NV = small_logits_NV.detach()
        return Opinions(logits_NV, inputs.target_ids_N, teacher.rank_N, teacher.logprob_N, inputs.injected_N)

    now = opinions(inputs.logits_NV)
    sums |= {f"quadrant/{name}": mask.float().sum() for name, mask in now.quadrants.items()}
    if not isinstance(spec, CatXentLoss | CatDistLoss) or inputs.is_in_first(spec.filter_warmup_share):
        return ones_N
    if spec.judge == "initial":
        assert inputs.initial_logits_NV is not None
        return filter_weights(spec.filter, opinions(inputs.initial_logits_NV), inputs.generator)
    return filter_weights(spec.filter, now, inputs.generator)
