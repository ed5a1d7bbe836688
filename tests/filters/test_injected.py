"""Filters that know what label noise injected, and filters as detectors of it, against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from catsweep.filters.build import filter_weights
from catsweep.filters.injected import detection, injected_sums
from catsweep.filters.opinions import Opinions, SmallOpinion
from catsweep.losses import build_loss
from catsweep.spec.filters import (
    CleanOnlyFilter,
    DropInjectedFilter,
    ExcessLossFilter,
    NamedQuadrants,
    ShuffledFilter,
    SoftFilter,
)
from catsweep.spec.training import CatDistLoss, CatXentLoss, XentLoss
from catsweep.tensors import LossInputs, TeacherSignal

# Six tokens; S takes token 0 everywhere. either: S right, L right, neither, S right, neither, L right.
LOGITS = torch.tensor([[2.0, 0.0, 1.0]]).repeat(6, 1)
TARGETS = torch.tensor([0, 1, 1, 0, 2, 2])
RANKS = torch.tensor([3, 0, 1, 0, 2, 0])
INJECTED = torch.tensor([False, True, False, True, True, False])
EITHER = torch.tensor([1.0, 1, 0, 1, 0, 1])


def opinions() -> Opinions:
    return Opinions(SmallOpinion.of(LOGITS, TARGETS), RANKS, torch.linspace(-3, -0.5, 6), INJECTED)


def test_drop_injected_keeps_exactly_the_clean_tokens() -> None:
    found = filter_weights(DropInjectedFilter(), opinions(), torch.Generator())
    assert found.tolist() == [1, 0, 1, 0, 0, 1]
    assert found.dtype == torch.float32


def test_clean_only_keeps_all_injected_tokens_and_asks_about_the_others() -> None:
    found = filter_weights(CleanOnlyFilter(), opinions(), torch.Generator())
    assert filter_weights(NamedQuadrants(), opinions(), torch.Generator()).tolist() == EITHER.tolist()
    assert found.tolist() == [1, 1, 0, 1, 1, 1]  # the fifth is wrong under both, but injected
    soft = filter_weights(CleanOnlyFilter(filter=SoftFilter()), opinions(), torch.Generator())
    assert soft[INJECTED].tolist() == [1, 1, 1]
    assert (soft[~INJECTED] < 1).all()


def test_filters_that_compare_tokens_see_the_clean_ones_alone() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        found = filter_weights(CleanOnlyFilter(filter=ShuffledFilter()), opinions(), generator)
        assert found[INJECTED].tolist() == [1, 1, 1]
        assert found[~INJECTED].sum() == 2  # either keeps two of the three clean ones
    excess = CleanOnlyFilter(filter=ExcessLossFilter(keep=1 / 3))
    assert filter_weights(excess, opinions(), torch.Generator())[~INJECTED].tolist() == [0, 0, 1]


def signal() -> TeacherSignal:
    ids = torch.arange(3).expand(6, 3)
    return TeacherSignal(RANKS, torch.zeros(6), ids, torch.full((6, 3), 1 / 3))


@pytest.mark.parametrize("dropping", ["cat_xent", "cat_dist"])
def test_dropping_the_injected_tokens_is_a_loss_without_them(dropping: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3).requires_grad_()
    kinds = {"cat_xent": CatXentLoss, "cat_dist": CatDistLoss}
    inputs = LossInputs(logits, TARGETS, signal(), torch.Generator(), injected_N=INJECTED)
    output = build_loss(kinds[dropping](filter=DropInjectedFilter()))(inputs)
    (gradient,) = torch.autograd.grad(output.loss_sum, logits)

    clean = LossInputs(
        logits[~INJECTED],
        TARGETS[~INJECTED],
        TeacherSignal(*(None if part is None else part[~INJECTED] for part in vars(signal()).values())),
        torch.Generator(),
    )
    alone = build_loss(kinds[dropping](filter=NamedQuadrants(kind="all")))(clean)
    (expected,) = torch.autograd.grad(alone.loss_sum, logits)
    assert output.loss_sum.item() == pytest.approx(alone.loss_sum.item(), rel=1e-6)
    assert torch.allclose(gradient, expected)
    assert (gradient[INJECTED] == 0).all()
    assert output.num_target.item() == 6  # the denominator is that of the noisy data


def test_every_loss_notes_what_it_kept_of_the_injected_tokens() -> None:
    inputs = LossInputs(LOGITS.clone().requires_grad_(), TARGETS, signal(), torch.Generator(), injected_N=INJECTED)
    for spec, kept in ((XentLoss(), 3), (CatXentLoss(), 2), (CatXentLoss(filter=DropInjectedFilter()), 0)):
        sums = build_loss(spec)(inputs).sums
        assert (sums["injected"].item(), sums["kept_injected"].item()) == (3, kept)
    assert "injected" not in build_loss(XentLoss())(replace(inputs, injected_N=None)).sums


def test_a_filter_as_a_detector_has_a_recall_and_a_precision() -> None:
    sums = {name: value.item() for name, value in injected_sums(EITHER, INJECTED).items()}
    found = detection({**sums, "target": 6.0, "kept": 4.0})
    # either keeps two of three injected ones and two of three clean ones; one of the two dropped ones is injected.
    assert found == pytest.approx(
        {"injected_share": 1 / 2, "kept_share_injected": 2 / 3, "kept_share_clean": 2 / 3, "noise_precision": 1 / 2}
    )


def test_a_detector_without_anything_to_say_says_nothing() -> None:
    assert detection({"target": 6.0, "kept": 4.0}) == {}
    none = detection({"target": 6.0, "kept": 4.0, "injected": 0.0, "kept_injected": 0.0})
    assert none == {"injected_share": 0, "kept_share_clean": pytest.approx(4 / 6), "noise_precision": 0}
    every = detection({"target": 6.0, "kept": 6.0, "injected": 6.0, "kept_injected": 6.0})
    assert every == {"injected_share": 1, "kept_share_injected": 1}
