"""Losses against values worked out by hand and against plain references."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from catsweep.losses import build_loss
from catsweep.losses.tokens import cross_entropy, distillation
from catsweep.spec.filters import NamedQuadrants, QuadrantsFilter, ShuffledFilter
from catsweep.spec.training import (
    CatDistLoss,
    CatXentLoss,
    DistLoss,
    LossSpec,
    XentLoss,
)
from catsweep.tensors import LossInputs, LossOutput, TeacherSignal

# Two tokens of a vocabulary of three. p_S of the first is (1/2, 1/4, 1/4), of the second (1/4, 1/4, 1/2).
PROBS = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]
LARGE_PROBS = [[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]


def inputs(targets: list[int], ranks: list[int], *, shift: float = 0.0) -> LossInputs:
    """Logits are log-probabilities plus a constant, which no loss may notice."""
    logits = (torch.tensor(PROBS).log() + shift).requires_grad_()
    weights = torch.tensor(LARGE_PROBS)
    ids = torch.arange(3).expand(2, 3)
    signal = TeacherSignal(torch.tensor(ranks), torch.zeros(2), ids, weights)
    return LossInputs(logits, torch.tensor(targets), signal, torch.Generator().manual_seed(0))


def run(spec: LossSpec, batch: LossInputs) -> tuple[LossOutput, Tensor]:
    output = build_loss(spec)(batch)
    (gradient,) = torch.autograd.grad(output.loss_sum, batch.logits_NV)
    return output, gradient


def test_xent_is_the_sum_of_negative_log_probabilities() -> None:
    output, _ = run(XentLoss(), inputs([0, 0], [1, 1]))
    assert output.loss_sum.item() == pytest.approx(math.log(2) + math.log(4))
    assert output.num_target.item() == output.num_kept.item() == 2


def test_dist_mixes_target_and_large_distribution() -> None:
    output, _ = run(DistLoss(weight=0.25), inputs([0, 2], [1, 0]))
    hard = math.log(2) + math.log(2)
    soft = 0.2 * math.log(2) + 0.7 * math.log(4) + 0.1 * math.log(4)
    soft += 0.1 * math.log(4) + 0.1 * math.log(4) + 0.8 * math.log(2)
    assert output.loss_sum.item() == pytest.approx(0.25 * hard + 0.75 * soft)


def test_cat_xent_drops_only_the_token_that_both_get_wrong() -> None:
    # S takes 0 and 2. First token: target 1, both wrong. Second: target 0, S wrong, L right.
    output, gradient = run(CatXentLoss(), inputs([1, 0], [1, 0]))
    assert output.loss_sum.item() == pytest.approx(math.log(4))
    assert output.num_kept.item() == 1
    assert gradient[0].abs().max().item() == 0
    assert output.sums["quadrant/neither"].item() == 1
    assert output.sums["quadrant/only_large"].item() == 1


def test_cat_dist_is_dist_on_the_kept_tokens() -> None:
    output, _ = run(CatDistLoss(weight=0.5), inputs([1, 0], [1, 0]))
    soft = 0.1 * math.log(4) + 0.1 * math.log(4) + 0.8 * math.log(2)
    assert output.loss_sum.item() == pytest.approx(0.5 * math.log(4) + 0.5 * soft)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_filters_that_keep_everything_give_the_unfiltered_loss(weight: float) -> None:
    everything = NamedQuadrants(kind="all")
    plain, gradient = run(DistLoss(weight=weight), inputs([1, 0], [1, 0]))
    kept, kept_gradient = run(CatDistLoss(weight=weight, filter=everything), inputs([1, 0], [1, 0]))
    assert torch.equal(plain.loss_sum, kept.loss_sum)
    assert torch.equal(gradient, kept_gradient)
    assert run(DistLoss(weight=1.0), inputs([1, 0], [1, 0]))[0].loss_sum.item() == pytest.approx(
        run(XentLoss(), inputs([1, 0], [1, 0]))[0].loss_sum.item()
    )


def test_masked_equals_dropped() -> None:
    masked, gradient = run(CatXentLoss(filter=NamedQuadrants(kind="large")), inputs([0, 0], [0, 3]))
    alone = LossInputs(torch.tensor(PROBS[:1]).log().requires_grad_(), torch.tensor([0]), None, torch.Generator())
    dropped, dropped_gradient = run(XentLoss(), alone)
    assert masked.loss_sum.item() == dropped.loss_sum.item()
    assert torch.equal(gradient[:1], dropped_gradient)


def test_a_batch_in_which_every_token_is_filtered_has_loss_zero_and_a_live_zero_gradient() -> None:
    spec = CatXentLoss(filter=NamedQuadrants(kind="both"))
    output, gradient = run(spec, inputs([1, 0], [5, 9]))
    assert output.loss_sum.item() == 0
    assert output.num_kept.item() == 0
    assert gradient.shape == (2, 3)
    assert gradient.abs().max().item() == 0


@pytest.mark.parametrize("spec", [XentLoss(), DistLoss(), CatXentLoss(), CatDistLoss()])
def test_a_constant_on_all_logits_changes_nothing(spec: LossSpec) -> None:
    output, gradient = run(spec, inputs([1, 0], [1, 0]))
    shifted, shifted_gradient = run(spec, inputs([1, 0], [1, 0], shift=7.0))
    assert output.loss_sum.item() == pytest.approx(shifted.loss_sum.item(), rel=1e-5)
    assert torch.allclose(gradient, shifted_gradient, atol=1e-5)


def test_no_gradient_flows_through_alpha() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 7, generator=generator).requires_grad_()
    targets = torch.randint(0, 7, (50,), generator=generator)
    signal = TeacherSignal(torch.randint(0, 3, (50,), generator=generator), torch.zeros(50))
    _, gradient = run(CatXentLoss(), LossInputs(logits, targets, signal, generator))
    kept = (logits.argmax(1) == targets) | (signal.rank_N == 0)
    expected = (logits.softmax(1) - torch.nn.functional.one_hot(targets, 7)) * kept[:, None]
    assert torch.allclose(gradient, expected.detach(), atol=1e-6)


def test_the_terms_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, targets = torch.randn(40, 9, generator=generator), torch.randint(0, 9, (40,), generator=generator)
    large = torch.randn(40, 9, generator=generator).softmax(1)
    logsumexp = logits.logsumexp(1)
    reference = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(cross_entropy(logits, logsumexp, targets), reference, atol=1e-6)
    soft_reference = torch.nn.functional.cross_entropy(logits, large, reduction="none")
    ids = torch.arange(9).expand(40, 9)
    assert torch.allclose(distillation(logits, logsumexp, ids, large), soft_reference, atol=1e-6)


def test_sampled_entries_estimate_the_distillation_term_without_bias() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 6, generator=generator)
    large = torch.randn(1, 6, generator=generator).softmax(1)
    exact = torch.nn.functional.cross_entropy(logits, large).item()
    draws = 20_000
    ids = torch.multinomial(large.expand(draws, 6), 12, replacement=True, generator=generator)
    many = logits.expand(draws, 6)
    estimates = distillation(many, many.logsumexp(1), ids, torch.full(ids.shape, 1 / 12))
    error = estimates.std().item() / math.sqrt(draws)
    assert abs(estimates.mean().item() - exact) < 4 * error


def test_shuffled_keeps_as_many_tokens_as_either() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, targets = torch.randn(300, 5, generator=generator), torch.randint(0, 5, (300,), generator=generator)
    signal = TeacherSignal(torch.randint(0, 3, (300,), generator=generator), torch.zeros(300))
    batch = LossInputs(logits.requires_grad_(), targets, signal, generator)
    either, _ = run(CatXentLoss(), batch)
    shuffled, gradient = run(CatXentLoss(filter=ShuffledFilter()), batch)
    assert shuffled.num_kept.item() == either.num_kept.item()
    kept = gradient.abs().sum(1) > 0
    assert not torch.equal(kept, (logits.argmax(1) == targets) | (signal.rank_N == 0))


def test_any_set_of_quadrants_can_be_kept() -> None:
    spec = CatXentLoss(filter=QuadrantsFilter(keep=["neither", "both"]))
    output, _ = run(spec, inputs([1, 2], [1, 0]))  # neither, both
    assert output.num_kept.item() == 2
