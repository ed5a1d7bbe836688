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

from catsweep.filters.build import asks_for_rank, filter_weights
from catsweep.filters.injected import injected_sums
from catsweep.filters.opinions import Opinions, SmallOpinion
from catsweep.losses.dist import dist
from catsweep.losses.gatekeeper import gatekeeper
from catsweep.losses.label_smoothing import label_smoothing
from catsweep.losses.xent import xent
from catsweep.spec.filters import FilterSpec
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import HeadInputs, LossInputs, LossOutput, TeacherSignal

Loss = Callable[[LossInputs], LossOutput]


def build_loss(spec: LossSpec) -> Loss:
    """The loss of a spec. A micro-batch in which every token is filtered gives loss 0 with a live gradient of zeros.

    `sums` of the output holds, where the large model's signal is there, the sizes of the four quadrants, judged by the
    model as it is now; for gatekeeper, in its second part, the number of tokens that the model gets right; and where label
    noise is known, how many tokens are injected and what is kept of them.
    """

    def loss(inputs: LossInputs) -> LossOutput:
        logsumexp_N = torch.logsumexp(inputs.logits_NV, dim=1)
        now = small_opinion(spec, inputs.logits_NV, inputs.target_ids_N, logsumexp_N)
        judge = now
        if asks_initial(spec, inputs):
            assert inputs.initial_logits_NV is not None
            judge = small_opinion(spec, inputs.initial_logits_NV, inputs.target_ids_N)
        alpha_N = token_weights(spec, inputs, judge)
        terms_N = token_terms(spec, inputs, logsumexp_N, now.right_N)
        return output((alpha_N * terms_N).sum(), spec, inputs, alpha_N, now)

    return loss


def output(
    loss_sum: Tensor, spec: LossSpec, inputs: LossInputs | HeadInputs, alpha_N: Tensor, now: SmallOpinion
) -> LossOutput:
    """A loss's sum and what is logged beside it. now: the opinion of the model that is trained."""
    sums: dict[str, Tensor] = {}
    if inputs.teacher is not None:
        quadrants = _opinions(inputs, inputs.teacher, now).quadrants
        sums |= {f"quadrant/{name}": mask.float().sum() for name, mask in quadrants.items()}
    if inputs.injected_N is not None:
        sums |= injected_sums(alpha_N, inputs.injected_N)
    if isinstance(spec, GatekeeperLoss) and not inputs.is_in_first(spec.pretrain_share):
        sums["gatekeeper/right"] = now.right_N.float().sum()
    num_target = torch.tensor(float(alpha_N.shape[0]), device=alpha_N.device)
    return LossOutput(loss_sum, num_target, alpha_N.sum(), sums)


def token_terms(spec: LossSpec, inputs: LossInputs, logsumexp_N: Tensor, right_N: Tensor) -> Tensor:
    """The loss of each target token before it is weighed: float32 (N,). right_N: see gatekeeper."""
    match spec:
        case XentLoss() | CatXentLoss():
            return xent(inputs, logsumexp_N)
        case DistLoss() | CatDistLoss():
            return dist(inputs, logsumexp_N, weight=spec.weight, divergence=spec.divergence, jsd_beta=spec.jsd_beta)
        case LabelSmoothingLoss(smoothing=smoothing):
            return label_smoothing(inputs, logsumexp_N, smoothing=smoothing)
        case GatekeeperLoss(pretrain_share=share) if inputs.is_in_first(share):
            return xent(inputs, logsumexp_N)
        case GatekeeperLoss(alpha=alpha):
            return gatekeeper(inputs, logsumexp_N, right_N, alpha=alpha)
        case _:
            assert_never(spec)


def active_filter(spec: LossSpec, inputs: LossInputs | HeadInputs) -> FilterSpec | None:
    """The filter that weighs the target tokens of this step; None where all count."""
    if not isinstance(spec, CatXentLoss | CatDistLoss) or inputs.is_in_first(spec.filter_warmup_share):
        return None
    return spec.filter


def asks_initial(spec: LossSpec, inputs: LossInputs | HeadInputs) -> bool:
    """Whether the filter of this step asks the model as it was before its first step."""
    return active_filter(spec, inputs) is not None and getattr(spec, "judge", "current") == "initial"


def small_opinion(
    spec: LossSpec, logits_NV: Tensor, target_ids_N: Tensor, logsumexp_N: Tensor | None = None
) -> SmallOpinion:
    """What the loss's filter has to know of a small model. logsumexp_N: of the logits, where it is known."""
    ranked = isinstance(spec, CatXentLoss | CatDistLoss) and asks_for_rank(spec.filter)
    return SmallOpinion.of(logits_NV, target_ids_N, logsumexp_N, ranked=ranked)


def token_weights(spec: LossSpec, inputs: LossInputs | HeadInputs, judge: SmallOpinion) -> Tensor:
    """alpha of each target token: float32 (N,), without gradient. judge: the opinion of the model that the filter asks."""
    asked = active_filter(spec, inputs)
    if asked is None:
        assert inputs.teacher is not None or not isinstance(spec, CatXentLoss | CatDistLoss)
        return torch.ones(inputs.target_ids_N.shape[0], device=inputs.target_ids_N.device)
    assert inputs.teacher is not None
    return filter_weights(asked, _opinions(inputs, inputs.teacher, judge), inputs.generator)


def _opinions(inputs: LossInputs | HeadInputs, teacher: TeacherSignal, small: SmallOpinion) -> Opinions:
    return Opinions(small, teacher.rank_N, teacher.logprob_N, inputs.injected_N)
