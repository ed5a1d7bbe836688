"""Filters by rank, probability and excess loss, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from catsweep.filters.build import filter_weights
from catsweep.filters.opinions import Opinions, SmallOpinion
from catsweep.spec.filters import (
    ExcessLossFilter,
    FilterSpec,
    NamedQuadrants,
    ShuffledFilter,
    SoftFilter,
    ThresholdFilter,
    TopKFilter,
)

# p_S of four tokens of a vocabulary of four, and the targets: p_S(y) is 1/2, 1/4, 1/8, 1/8 and S's rank 0, 1, 2, 3.
PROBS = torch.tensor([0.5, 0.25, 0.125, 0.125]).expand(4, 4)
TARGETS = torch.tensor([0, 1, 2, 3])
LARGE_RANKS = torch.tensor([9, 0, 255, 4])
LARGE_PROBS = torch.tensor([0.0625, 0.5, 0.0078125, 0.25])


def told_by(logits: torch.Tensor, targets: torch.Tensor, ranks: torch.Tensor, logprobs: torch.Tensor) -> Opinions:
    return Opinions(SmallOpinion.of(logits, targets), ranks, logprobs)


def opinions() -> Opinions:
    return told_by(PROBS.log() + 3.0, TARGETS, LARGE_RANKS, LARGE_PROBS.log())


def weights(spec: FilterSpec) -> list[float]:
    found = filter_weights(spec, opinions(), torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    return [round(value, 6) for value in found.tolist()]


@pytest.mark.parametrize(
    ("k", "kept"), [(1, [1, 1, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0]), (4, [1, 1, 1, 1]), (255, [1, 1, 1, 1])]
)
def test_top_k_asks_for_the_rank_of_either_model(k: int, kept: list[float]) -> None:
    assert weights(TopKFilter(k=k)) == kept


def test_top_1_is_the_papers_filter() -> None:
    assert weights(TopKFilter(k=1)) == weights(NamedQuadrants(kind="either"))


def test_top_k_counts_ranks_of_the_large_model_beyond_the_small_ones() -> None:
    told = told_by(torch.zeros(2, 600), torch.tensor([599, 599]), torch.tensor([4, 255]), torch.zeros(2))
    assert filter_weights(TopKFilter(k=5), told, torch.Generator()).tolist() == [1, 0]
    assert filter_weights(TopKFilter(k=255), told, torch.Generator()).tolist() == [1, 0]  # 255 may be any rank beyond


@pytest.mark.parametrize(
    ("t", "kept"), [(0, [1, 1, 1, 1]), (0.2, [1, 1, 0, 1]), (0.4, [1, 1, 0, 0]), (1, [0, 0, 0, 0])]
)
def test_threshold_asks_for_the_larger_probability(t: float, kept: list[float]) -> None:
    assert weights(ThresholdFilter(t=t)) == kept


def test_soft_weighs_by_the_larger_probability() -> None:
    assert weights(SoftFilter()) == [0.5, 0.5, 0.125, 0.25]


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [1, 1, 1, 1]), (0.5, [0, 1, 0, 1]), (0.25, [0, 1, 0, 0]), (0.01, [0, 1, 0, 0])]
)
def test_excess_loss_keeps_where_the_small_model_loses_most_against_the_large_one(
    keep: float, kept: list[float]
) -> None:
    # log2 p_L - log2 p_S: -3, 1, -4, 1. Of the two equal ones the first goes first.
    assert weights(ExcessLossFilter(keep=keep)) == kept


def test_excess_loss_compares_tokens_of_one_micro_batch_only() -> None:
    told = opinions()
    first = told_by(*(tensor[:2] for tensor in (PROBS.log(), TARGETS, LARGE_RANKS, LARGE_PROBS.log())))
    spec = ExcessLossFilter(keep=0.5)
    assert filter_weights(spec, first, torch.Generator()).tolist() == [0, 1]
    second = told_by(*(tensor[2:] for tensor in (PROBS.log(), TARGETS, LARGE_RANKS, LARGE_PROBS.log())))
    assert filter_weights(spec, second, torch.Generator()).tolist() == [0, 1]
    third = told_by(*(tensor[:3] for tensor in (PROBS.log(), TARGETS, LARGE_RANKS, LARGE_PROBS.log())))
    assert filter_weights(spec, third, torch.Generator()).sum().item() == 2  # half of three, rounded
    assert filter_weights(spec, told, torch.Generator()).sum().item() == 2


@pytest.mark.parametrize(
    "spec", [NamedQuadrants(kind="either"), TopKFilter(k=2), ThresholdFilter(t=0.3), SoftFilter()], ids=lambda s: s.kind
)
def test_filters_that_judge_each_token_alone_say_the_same_of_parts(spec: FilterSpec) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(60, 9, generator=generator), torch.randint(0, 9, (60,), generator=generator)
    ranks, logprobs = torch.randint(0, 6, (60,), generator=generator), -torch.rand(60, generator=generator) * 4
    parts = [
        filter_weights(spec, told_by(logits[part], targets[part], ranks[part], logprobs[part]), generator)
        for part in (slice(0, 7), slice(7, 40), slice(40, 60))
    ]
    whole = filter_weights(spec, told_by(logits, targets, ranks, logprobs), generator)
    assert torch.allclose(whole, torch.cat(parts), atol=1e-7)
    assert 0 < whole.sum().item() < 60


def test_shuffled_keeps_as_many_as_either() -> None:
    assert sum(weights(ShuffledFilter())) == 2


def test_no_filter_gives_a_weight_beside_zero_and_one() -> None:
    sure = told_by(torch.tensor([[80.0, 0.0]]), torch.tensor([0]), torch.tensor([0]), torch.tensor([1e-6]))
    assert filter_weights(SoftFilter(), sure, torch.Generator()).tolist() == [1.0]
    never = told_by(torch.tensor([[math.log(1e-30), 0.0]]), torch.tensor([0]), torch.tensor([1]), torch.tensor([-6e4]))
    assert 0 <= filter_weights(SoftFilter(), never, torch.Generator()).item() < 1e-29
