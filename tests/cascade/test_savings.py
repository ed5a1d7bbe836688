"""What thresholds save, against slow loops over resampled tables."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.cascade.compare import draw_groups
from catsweep.cascade.savings import CostShare, cost_shares, saving, saving_against

GROUPS = ["a", "a", "b", "c", "c", "c", "d", "e"]
RANDOM = np.random.default_rng(0)
SMALL, LARGE = RANDOM.random((3, 8)), 5 + RANDOM.random((3, 8))
DEFERRED = RANDOM.random((3, 8)) < 0.5


def shares(num_resamples: int = 200) -> list[CostShare]:
    costs = list(zip(SMALL, LARGE, strict=True))
    return cost_shares(list(DEFERRED), costs, groups=GROUPS, num_resamples=num_resamples, seed=3)


def test_a_share_and_its_draws_are_those_of_the_resampled_tables() -> None:
    found = shares(20)
    keys = sorted(set(GROUPS))
    counts = np.concatenate(list(draw_groups(len(keys), len(GROUPS), 20, 3)))
    for share, small, large, deferred in zip(found, SMALL, LARGE, DEFERRED, strict=True):
        assert share.value == pytest.approx((small.sum() + large[deferred].sum()) / large.sum())
        for draw, row in zip(share.draws, counts, strict=True):
            drawn = [index for key, times in zip(keys, row, strict=True) for _ in range(times) for index in range(8) if GROUPS[index] == key]  # fmt: skip
            own = sum(small[index] + large[index] * deferred[index] for index in drawn)
            assert draw == pytest.approx(own / sum(large[index] for index in drawn))


def test_a_saving_is_the_mean_over_seeds_and_its_interval_holds_both_parts_of_the_variance() -> None:
    found = shares()
    result = saving(found)
    values = [1 - share.value for share in found]
    assert result.value == pytest.approx(np.mean(values))
    assert result.seed_variance == pytest.approx(np.var(values, ddof=1) / 3)
    assert result.example_variance == pytest.approx(np.mean([share.draws for share in found], axis=0).var(ddof=1))
    assert result.lower < result.value < result.upper


def test_a_saving_against_another_system_is_that_of_the_mean_costs() -> None:
    own, base = shares(), [CostShare(2 * share.value, 2 * share.draws) for share in shares()]
    result = saving_against(own, base)
    assert result.value == pytest.approx(0.5)
    assert result.seed_variance == pytest.approx(0, abs=1e-20)
    assert result.upper - result.lower == pytest.approx(0, abs=1e-9)
    mixed = saving_against(own, base[1:] + base[:1])
    assert mixed.value == pytest.approx(0.5)
    assert mixed.seed_variance is not None
    assert mixed.seed_variance > 0


def test_the_seeds_part_of_a_ratio_is_that_of_the_delta_method() -> None:
    own = [CostShare(value, np.full(5, value)) for value in (0.30, 0.31, 0.29)]
    base = [CostShare(value, np.full(5, value)) for value in (0.50, 0.52, 0.51)]
    result = saving_against(own, base)
    ratio = 0.30 / 0.51
    residuals = np.array([0.30, 0.31, 0.29]) - ratio * np.array([0.50, 0.52, 0.51])
    assert result.value == pytest.approx(1 - ratio)
    assert result.seed_variance == pytest.approx(residuals.var(ddof=1) / 3 / 0.51**2)


def test_one_seed_has_an_interval_over_examples_alone() -> None:
    result = saving(shares()[:1])
    assert result.seed_variance is None
    assert result.lower < result.upper
