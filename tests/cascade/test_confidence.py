import numpy as np
import pytest

from catsweep.cascade.confidence import aiq, aurc, auroc, correctness, ece
from catsweep.cascade.metrics import get_metric

from .example import of_values, random_rows


def test_aurc_is_the_mean_risk_over_coverages_worked_out_by_hand() -> None:
    # Kept, surest first: right, right, wrong, wrong. Risks at coverage 1/4 .. 1: 0, 0, 1/3, 1/2.
    curve = of_values([0, 0, 1, 1], [1, 1, 1, 1], [4, 3, 2, 1]).curve()
    assert aurc(curve) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_auroc_counts_pairs_with_ties_half() -> None:
    random = np.random.default_rng(0)
    uncertainty, correct = random.integers(0, 6, 200), random.random(200) < 0.6
    pairs = [(u > v) + (u == v) / 2 for u in uncertainty[~correct] for v in uncertainty[correct]]
    assert auroc(uncertainty, correct) == pytest.approx(np.mean(pairs))


def test_auroc_needs_right_and_wrong_answers() -> None:
    assert auroc([1, 2], [1, 1]) is None
    assert auroc([1, 2], [0, 0]) is None


def test_ece_of_two_bins_is_worked_out_by_hand() -> None:
    # Confidences .25, .25 | .75, .75, 1: right 1 of 2, and 3 of 3.
    uncertainty = -np.log([0.25, 0.25, 0.75, 0.75, 1.0])
    expected = 2 / 5 * abs(0.5 - 0.25) + 3 / 5 * abs(1 - 2.5 / 3)
    assert ece(uncertainty, [1, 0, 1, 1, 1], num_bins=2) == pytest.approx(expected)
    assert ece([1e30], [0]) == 0.0
    with pytest.raises(ValueError, match="at least 0"):
        ece([-0.5], [1])


def test_aiq_is_the_mean_height_of_the_hull_worked_out_by_hand() -> None:
    # Costs 1, 3.5, 6, 8.5, 11, qualities .5, .75, 1, .75, .75: hull (1, .5) - (6, 1) - (11, 1).
    curve = of_values([0, 0, 1, 1], [1, 1, 0, 1], [4, 3, 2, 1]).curve()
    assert aiq(curve) == pytest.approx((0.75 * 5 + 1 * 5) / 10)
    assert aiq(of_values([0], [1], [1]).curve(large_cost=[0.0])) is None


def test_aiq_equals_the_lowest_concave_line_over_all_points() -> None:
    curve = random_rows(60, num_levels=20).curve()
    x, y = curve.cost[curve.is_threshold], curve.quality[curve.is_threshold]
    grid = np.linspace(x[0], x[-1], 4001)
    hull = np.zeros_like(grid)
    for i in range(len(x)):
        for j in range(i, len(x)):
            inside = (grid >= x[i]) & (grid <= x[j])
            width = x[j] - x[i]
            slope = (y[j] - y[i]) / width if width else 0.0
            hull[inside] = np.maximum(hull[inside], y[i] + slope * (grid[inside] - x[i]))
    assert aiq(curve) == pytest.approx(np.maximum.accumulate(hull).mean(), abs=1e-4)


def test_only_a_full_value_of_a_mean_metric_is_right() -> None:
    right = correctness([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]], get_metric("token_f1"))
    assert right is not None
    assert right.tolist() == [1, 0, 0]
    assert correctness(np.zeros((3, 10)), get_metric("bleu")) is None
