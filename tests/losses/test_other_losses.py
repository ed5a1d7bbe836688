"""Gatekeeper, label smoothing, the divergences of dist, and the filters' switches, against values worked out by hand
and dense references."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from catsweep.losses import build_loss
from catsweep.losses.divergence import jsd, reverse_kl
from catsweep.spec.filters import ExcessLossFilter, NamedQuadrants, SoftFilter, ThresholdFilter, TopKFilter
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    GatekeeperLoss,
    LabelSmoothingLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import LossInputs, LossOutput, TeacherSignal

# Two tokens of a vocabulary of three; S takes 0 for the first and 2 for the second.
PROBS = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]
LARGE_PROBS = [[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
ENTROPY = 0.5 * math.log(2) + 0.5 * math.log(4)


def inputs(targets: list[int], ranks: tuple[int, int] = (0, 0), step: int = 1, num_steps: int = 1) -> LossInputs:
    logits = (torch.tensor(PROBS).log() + 5).requires_grad_()
    large = torch.tensor(LARGE_PROBS)
    logprobs = large.gather(1, torch.tensor(targets)[:, None]).squeeze(1).log()
    signal = TeacherSignal(torch.tensor(ranks), logprobs, torch.arange(3).expand(2, 3), large)
    return LossInputs(logits, torch.tensor(targets), signal, torch.Generator().manual_seed(0), step, num_steps)


def run(spec: LossSpec, batch: LossInputs) -> tuple[LossOutput, Tensor]:
    output = build_loss(spec)(batch)
    (gradient,) = torch.autograd.grad(output.loss_sum, batch.logits_NV)
    return output, gradient


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution() -> None:
    output, gradient = run(LabelSmoothingLoss(smoothing=0.3), inputs([0, 1]))
    uniform = (math.log(2) + 2 * math.log(4)) / 3
    assert output.loss_sum.item() == pytest.approx(0.7 * (math.log(2) + math.log(4)) + 0.3 * 2 * uniform, rel=1e-5)
    batch = inputs([0, 1])
    reference = functional.cross_entropy(batch.logits_NV, batch.target_ids_N, label_smoothing=0.3, reduction="sum")
    assert output.loss_sum.item() == pytest.approx(reference.item(), rel=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(reference, batch.logits_NV)[0], atol=1e-6)


def test_no_smoothing_is_xent() -> None:
    smoothed, gradient = run(LabelSmoothingLoss(smoothing=0.0), inputs([1, 2]))
    plain, plain_gradient = run(XentLoss(), inputs([1, 2]))
    assert smoothed.loss_sum.item() == plain.loss_sum.item()
    assert torch.allclose(gradient, plain_gradient)


def test_gatekeeper_is_cross_entropy_where_right_and_distance_to_uniform_where_wrong() -> None:
    output, gradient = run(GatekeeperLoss(alpha=0.25, pretrain_share=0.0), inputs([0, 1]))  # right, wrong
    assert output.loss_sum.item() == pytest.approx(0.25 * math.log(2) + 0.75 * (math.log(3) - ENTROPY), rel=1e-5)
    assert output.num_kept.item() == output.num_target.item() == 2
    assert output.sums["gatekeeper/right"].item() == 1
    # KL(p || uniform) has the gradient p_v (log p_v + H); the target of a wrong token plays no part.
    probs = torch.tensor(PROBS[1])
    assert torch.allclose(gradient[1], 0.75 * probs * (probs.log() + ENTROPY), atol=1e-6)
    assert torch.allclose(gradient[0], 0.25 * (torch.tensor(PROBS[0]) - torch.tensor([1.0, 0, 0])), atol=1e-6)


def test_gatekeeper_agrees_with_torchs_divergence() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(30, 7, generator=generator).requires_grad_()
    targets = torch.full((30,), 6)
    output, _ = run(GatekeeperLoss(alpha=0.0, pretrain_share=0.0), LossInputs(logits, targets, None, generator))
    wrong = logits.argmax(1) != 6
    log_uniform = torch.full((30, 7), -math.log(7))
    each = functional.kl_div(log_uniform, logits.log_softmax(1), reduction="none", log_target=True).sum(1)
    assert output.loss_sum.item() == pytest.approx((each * wrong).sum().item(), rel=1e-5)


def test_gatekeeper_starts_as_xent_and_changes_over_after_its_share_of_the_steps() -> None:
    spec = GatekeeperLoss(alpha=0.25, pretrain_share=0.4)
    plain, _ = run(XentLoss(), inputs([0, 1]))
    tuned, _ = run(GatekeeperLoss(alpha=0.25, pretrain_share=0.0), inputs([0, 1]))
    found = [run(spec, inputs([0, 1], step=step, num_steps=10))[0].loss_sum.item() for step in range(1, 11)]
    assert found == [plain.loss_sum.item()] * 4 + [tuned.loss_sum.item()] * 6


def dense_reverse_kl(logits: Tensor, large: Tensor) -> Tensor:
    return functional.kl_div(large.log(), logits.log_softmax(1), reduction="none", log_target=True).sum(1)


def dense_jsd(logits: Tensor, large: Tensor, beta: float) -> Tensor:
    small = logits.softmax(1)
    mixed = beta * large + (1 - beta) * small
    first = (large * (large / mixed).log()).sum(1)
    return beta * first + (1 - beta) * (small * (small / mixed).log()).sum(1)


def random_pair(num: int = 40, width: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    large = (2 * torch.randn(num, width, generator=generator)).softmax(1)
    return torch.randn(num, width, generator=generator).requires_grad_(), large


def test_the_divergences_of_the_whole_vocabulary_are_exact() -> None:
    logits, large = random_pair()
    order = large.topk(9, dim=1)
    for found, reference in (
        (reverse_kl(logits, logits.logsumexp(1), order.indices, order.values), dense_reverse_kl(logits, large)),
        (jsd(logits, logits.logsumexp(1), order.indices, order.values, beta=0.3), dense_jsd(logits, large, 0.3)),
    ):
        assert torch.allclose(found, reference, atol=1e-5)
        gradient, expected = (torch.autograd.grad(value.sum(), logits)[0] for value in (found, reference))
        assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_fewer_tokens_give_the_divergence_of_the_buckets_which_is_no_larger(k: int) -> None:
    logits, large = random_pair()
    top = large.topk(k, dim=1)
    small_top = logits.softmax(1).gather(1, top.indices)

    def joined(kept: Tensor) -> Tensor:
        return torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1)

    small, teacher = joined(small_top), joined(top.values)
    resolved = teacher[:, -1] > 2**-11  # a smaller rest counts as this
    found = reverse_kl(logits, logits.logsumexp(1), top.indices, top.values)
    reference = (small * (small / teacher).log()).sum(1)
    assert resolved.any()
    assert torch.allclose(found[resolved], reference[resolved], atol=1e-4)
    assert (found <= dense_reverse_kl(logits, large) + 1e-4).all()
    symmetric = jsd(logits, logits.logsumexp(1), top.indices, top.values, beta=0.5)
    assert (symmetric <= dense_jsd(logits, large, 0.5) + 1e-4).all()
    assert (found >= -1e-6).all()
    assert (symmetric >= -1e-6).all()


@pytest.mark.parametrize("divergence", ["reverse_kl", "jsd"])
def test_divergences_stay_finite_where_the_large_model_is_sure(divergence: str) -> None:
    logits = torch.tensor([[30.0, -30.0, 0.0], [-200.0, 200.0, 0.0]]).requires_grad_()
    weights = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    for ids, kept in ((torch.arange(3).expand(2, 3), weights), (torch.tensor([[1], [0]]), torch.ones(2, 1))):
        signal = TeacherSignal(torch.zeros(2, dtype=torch.int64), torch.zeros(2), ids, kept)
        batch = LossInputs(logits, torch.tensor([0, 0]), signal, torch.Generator())
        output, gradient = run(DistLoss(weight=0.0, divergence=divergence), batch)  # type: ignore[arg-type]
        assert math.isfinite(output.loss_sum.item())
        assert gradient.isfinite().all()


def test_jsd_goes_to_the_forward_divergence_of_the_paper() -> None:
    logits, large = random_pair()
    ids = torch.arange(9).expand(40, 9)
    forward = (large * (large.log() - logits.log_softmax(1))).sum(1)
    near = jsd(logits.double(), logits.double().logsumexp(1), ids, large.double(), beta=1e-5) / 1e-5
    assert torch.allclose(near, forward.double(), atol=1e-3)


def test_dist_mixes_the_cross_entropy_with_each_divergence() -> None:
    batch = inputs([0, 2])
    large = torch.tensor(LARGE_PROBS)
    hard = 2 * math.log(2)
    for divergence, reference in (
        ("reverse_kl", dense_reverse_kl(batch.logits_NV, large)),
        ("jsd", dense_jsd(batch.logits_NV, large, 0.2)),
    ):
        spec = DistLoss.model_validate({"weight": 0.25, "divergence": divergence, "jsd_beta": 0.2})
        output, _ = run(spec, inputs([0, 2]))
        assert output.loss_sum.item() == pytest.approx(0.25 * hard + 0.75 * reference.sum().item(), rel=1e-5)


KEEP_FIRST = [
    CatXentLoss(filter=TopKFilter(k=1)),
    CatXentLoss(filter=ThresholdFilter(t=0.3)),
    CatXentLoss(filter=ExcessLossFilter(keep=0.5)),
    CatDistLoss(filter=TopKFilter(k=1), divergence="reverse_kl"),
    CatDistLoss(filter=ThresholdFilter(t=0.3), divergence="jsd"),
]


@pytest.mark.parametrize("spec", KEEP_FIRST, ids=lambda spec: f"{spec.kind}-{spec.filter.kind}")
def test_masked_equals_dropped(spec: CatXentLoss | CatDistLoss) -> None:
    """Target 1 of the first token is right by L alone, and target 0 of the second by neither."""
    masked, gradient = run(spec, inputs([1, 0], ranks=(0, 2)))
    batch = inputs([1, 0])
    assert batch.teacher is not None
    signal = TeacherSignal(*(None if value is None else value[:1] for value in vars(batch.teacher).values()))
    alone = LossInputs(torch.tensor(PROBS[:1]).log().requires_grad_(), torch.tensor([1]), signal, torch.Generator())
    plain = XentLoss() if isinstance(spec, CatXentLoss) else DistLoss(divergence=spec.divergence)
    dropped, dropped_gradient = run(plain, alone)
    assert masked.num_kept.item() == 1
    assert masked.loss_sum.item() == pytest.approx(dropped.loss_sum.item(), rel=1e-5)
    assert torch.allclose(gradient[:1], dropped_gradient, atol=1e-6)
    assert gradient[1].abs().max().item() == 0


@pytest.mark.parametrize(
    "spec",
    [
        CatXentLoss(filter=ThresholdFilter(t=0.99)),
        CatXentLoss(filter=TopKFilter(k=1)),
        CatDistLoss(filter=ThresholdFilter(t=0.99), divergence="reverse_kl"),
        CatDistLoss(filter=ThresholdFilter(t=0.99), divergence="jsd"),
    ],
)
def test_a_batch_in_which_every_token_is_filtered_has_a_live_zero_gradient(spec: LossSpec) -> None:
    output, gradient = run(spec, inputs([1, 0], ranks=(5, 9)))
    assert output.loss_sum.item() == output.num_kept.item() == 0
    assert gradient.abs().max().item() == 0


def test_soft_weighs_the_terms_and_no_gradient_flows_through_the_weight() -> None:
    output, gradient = run(CatXentLoss(filter=SoftFilter()), inputs([0, 0]))
    # max(1/2, 1/5) and max(1/4, 1/10)
    assert output.loss_sum.item() == pytest.approx(0.5 * math.log(2) + 0.25 * math.log(4), rel=1e-5)
    assert output.num_kept.item() == pytest.approx(0.75)
    _, plain = run(XentLoss(), inputs([0, 0]))
    assert torch.allclose(gradient, plain * torch.tensor([[0.5], [0.25]]), atol=1e-6)


def test_a_filter_waits_for_its_share_of_the_steps() -> None:
    spec = CatXentLoss(filter=NamedQuadrants(kind="both"), filter_warmup_share=0.3)
    kept = [run(spec, inputs([1, 2], (1, 0), step, 10))[0].num_kept.item() for step in range(1, 11)]
    assert kept == [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]


def test_the_initial_model_judges_where_it_is_asked_to() -> None:
    # The model as it is gets neither target right, as it was the second one.
    batch = inputs([1, 0], ranks=(1, 1))
    initial = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    judged = LossInputs(**{**vars(batch), "initial_logits_NV": initial})
    assert run(CatXentLoss(judge="current"), judged)[0].num_kept.item() == 0
    output, gradient = run(CatXentLoss(judge="initial"), judged)
    assert output.num_kept.item() == 1
    assert gradient[0].abs().max().item() == 0
    assert gradient[1].abs().max().item() > 0
    assert output.sums["quadrant/neither"].item() == 2  # the quadrants in the log are those of the model as it is


@pytest.mark.parametrize(
    "spec",
    [
        GatekeeperLoss(pretrain_share=0.0),
        LabelSmoothingLoss(),
        DistLoss(divergence="reverse_kl"),
        DistLoss(divergence="jsd"),
        CatXentLoss(filter=SoftFilter()),
        CatXentLoss(filter=ExcessLossFilter(keep=0.5)),
    ],
)
def test_a_constant_on_all_logits_changes_nothing(spec: LossSpec) -> None:
    batch = inputs([1, 0])
    moved = LossInputs(**{**vars(batch), "logits_NV": (batch.logits_NV.detach() + 7).requires_grad_()})
    output, gradient = run(spec, batch)
    shifted, shifted_gradient = run(spec, moved)
    assert output.loss_sum.item() == pytest.approx(shifted.loss_sum.item(), rel=1e-5)
    assert torch.allclose(gradient, shifted_gradient, atol=1e-5)
