"""A chain beside its pairs and single models at given costs."""

from __future__ import annotations

import numpy as np
import pytest

from catsweep.cascade.chain import Chain
from catsweep.cascade.chain_compare import best_pair, compare_chain
from catsweep.cascade.metrics import get_metric

ACCURACY = get_metric("accuracy")


def chain(
    right: list[list[float]], uncertainty: list[list[float]], cost: tuple[float, ...] = (1.0, 3.0, 10.0)
) -> Chain:
    n = len(right[0])
    statistics = [np.stack([np.array(own), np.ones(n)], axis=1) for own in right]
    return Chain(statistics, [np.full(n, own) for own in cost], [np.array(own) for own in uncertainty], ACCURACY)


CALIBRATION = chain(
    right=[[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]],
    uncertainty=[[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 8]],
)
"""S is right on 2 of 8 queries, M on 6, L on all, and both know where they are not."""
TEST = chain(
    right=[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]],
    uncertainty=[[1, 4, 7.5, 8], [1, 2, 7.5, 8]],
)


def test_thresholds_come_from_calibration_and_numbers_from_test() -> None:
    points = compare_chain(
        CALIBRATION, TEST, names=("S", "M", "L"), groups=list("abcd"), shares=(0.6,), num_resamples=50
    )
    by_name = {point.system: point for point in points}
    assert set(by_name) == {"S", "M", "L", "S -> M", "S -> L", "M -> L", "S -> M -> L"}
    # 6 a query: S for all (1), M for the six that S defers (6 * 3 / 8), L for the two that M defers (2 * 10 / 8) cost 5.75.
    whole = by_name["S -> M -> L"]
    assert whole.calibration_quality == 1.0
    assert whole.thresholds == (3.0, 7.0)
    # On test S keeps the first query, M the second, L gets two: (1 + 4 + 14 + 14) / 4 of 10.
    assert (whole.quality, whole.cost_share) == (1.0, pytest.approx(33 / 40))
    # M for all and L for the last two cost 3 + 2.5: the best pair. S -> L can defer four queries of eight.
    assert by_name["M -> L"].thresholds == (7.0,)
    assert by_name["M -> L"].calibration_quality == 1.0
    assert by_name["S -> L"].thresholds == (5.0,)
    assert by_name["S -> L"].calibration_quality == 6 / 8
    found = best_pair(points, 0.6)
    assert found is not None
    assert found.system == "M -> L"
    assert by_name["L"].thresholds is None
    assert np.isnan(by_name["L"].quality)
    assert by_name["M"].quality == 0.5


def test_draws_are_those_of_resampled_tables_and_the_same_for_all_systems() -> None:
    groups = ["a", "a", "b", "c"]
    points = compare_chain(
        CALIBRATION, TEST, names=("S", "M", "L"), groups=groups, shares=(0.6,), num_resamples=40, seed=3
    )
    random = np.random.default_rng(3)
    drawn = random.integers(0, 3, size=(40, 3))
    rows = {"a": [0, 1], "b": [2], "c": [3]}
    for system, right in (("M", [1, 1, 0, 0]), ("S", [1, 0, 0, 0])):
        (point,) = [point for point in points if point.system == system]
        slow = [np.mean([right[row] for group in draw for row in rows["abc"[group]]]) for draw in drawn]
        assert point.draws == pytest.approx(slow)
