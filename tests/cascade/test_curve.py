import numpy as np
import pytest

from catsweep.cascade.curve import (
    ALWAYS_DEFER,
    NEVER_DEFER,
    apgr,
    apply_threshold,
    audc,
    best_point,
    cheapest_point,
    cost_at_quality,
    cpt,
    quality_at_cost,
)
from catsweep.errors import DataError

from .example import of_values, random_rows

# S is right on rows 2 and 3, L on rows 0, 1 and 3. Most uncertain first: rows 0, 1, 2, 3.
FOUR = of_values([0, 0, 1, 1], [1, 1, 0, 1], [4.0, 3.0, 2.0, 1.0])


def test_four_rows_give_the_curve_worked_out_by_hand() -> None:
    curve = FOUR.curve()
    assert curve.deferral_rate.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 1.0, 0.75, 0.75]
    assert curve.cost.tolist() == [1, 3.5, 6, 8.5, 11]
    assert curve.is_threshold.all()
    assert curve.threshold.tolist() == [NEVER_DEFER, 4, 3, 2, ALWAYS_DEFER]
    np.testing.assert_allclose(curve.small_kept_quality, [0.5, 2 / 3, 1, 1, np.nan])
    np.testing.assert_allclose(curve.large_deferred_quality, [np.nan, 1, 1, 2 / 3, 0.75])
    assert (curve.quality_small, curve.quality_large, curve.cost_small, curve.cost_large) == (0.5, 0.75, 1.0, 10.0)
    assert curve.exceeds_large_cost.tolist() == [False] * 4 + [True]


def test_four_rows_give_the_numbers_worked_out_by_hand() -> None:
    curve = FOUR.curve()
    assert audc(curve) == pytest.approx((0.25 + 0.75 + 1 + 0.75 + 0.375) / 4)
    assert apgr(curve) == pytest.approx((0.78125 - 0.5) / 0.25)
    assert [cpt(curve, percent) for percent in (0, 20, 50, 100, 200, 201)] == [0, 0.25, 0.25, 0.25, 0.5, None]
    assert quality_at_cost(curve, 0.4) == 0.75
    assert quality_at_cost(curve, 0.6) == 1.0
    assert quality_at_cost(curve, 0.05) is None
    assert cost_at_quality(curve, 0.8) == (6.0, True)
    assert cost_at_quality(curve, 1.1) == (11.0, False)


def test_the_cheapest_of_several_best_points_is_taken() -> None:
    point = best_point(of_values([0, 1, 1], [1, 1, 1], [3, 2, 1]).curve(), 2.0)
    assert point is not None
    assert (point.num_deferred, point.threshold) == (1, 3.0)


@pytest.mark.parametrize("num_levels", [0, 7])
@pytest.mark.parametrize("metric", ["accuracy", "bleu", "chrf"])
def test_every_point_equals_a_slow_loop(metric: str, num_levels: int) -> None:
    rows = random_rows(60, metric=metric, num_levels=num_levels)
    curve = rows.curve()
    order = rows.order()
    for k in range(rows.n + 1):
        deferred, kept = order[:k], order[k:]
        sums = rows.large[deferred].sum(axis=0) + rows.small[kept].sum(axis=0)
        assert curve.quality[k] == pytest.approx(float(rows.metric.score(sums)), abs=1e-9)
        assert curve.cost[k] == pytest.approx(rows.small_cost.mean() + rows.large_cost[deferred].sum() / rows.n)
        is_true_point = k in (0, rows.n) or rows.uncertainty[order[k - 1]] > rows.uncertainty[order[k]]
        assert curve.is_threshold[k] == is_true_point
        if kept:
            a1 = float(rows.metric.score(rows.small[kept].sum(axis=0)))
            assert curve.small_kept_quality[k] == pytest.approx(a1, abs=1e-9)
        if deferred:
            a2 = float(rows.metric.score(rows.large[deferred].sum(axis=0)))
            assert curve.large_deferred_quality[k] == pytest.approx(a2, abs=1e-9)


def test_quality_of_a_mean_is_the_mix_of_what_is_kept_and_what_is_deferred() -> None:
    curve = random_rows(200).curve()
    d = curve.deferral_rate[1:-1]
    mixed = (1 - d) * curve.small_kept_quality[1:-1] + d * curve.large_deferred_quality[1:-1]
    np.testing.assert_allclose(curve.quality[1:-1], mixed, rtol=1e-12)


def test_deferring_at_a_threshold_gives_its_point() -> None:
    rows = random_rows(80, num_levels=9)
    curve = rows.curve()
    for k in np.flatnonzero(curve.is_threshold):
        assert (rows.uncertainty >= curve.threshold[k]).sum() == k
        assert apply_threshold(curve, float(curve.threshold[k])) == curve.point(int(k))


def test_a_threshold_of_calibration_is_realised_on_test() -> None:
    calibration, test = random_rows(300, seed=1).curve(), random_rows(400, seed=2)
    picked = best_point(calibration, 0.5)
    assert picked is not None
    realised = apply_threshold(test.curve(), picked.threshold)
    deferred = test.uncertainty >= picked.threshold
    assert realised.deferral_rate == deferred.mean()
    assert realised.quality == pytest.approx(np.where(deferred, test.large[:, 0], test.small[:, 0]).mean())
    assert realised.cost == pytest.approx(test.small_cost.mean() + (test.large_cost * deferred).mean())


def test_never_and_always_keep_their_meaning_on_other_rows() -> None:
    mild, wild = FOUR.curve(), of_values([0, 1], [1, 1], [100.0, -100.0]).curve()
    assert apply_threshold(wild, float(mild.threshold[0])).num_deferred == 0
    assert apply_threshold(wild, float(mild.threshold[-1])).num_deferred == 2


def test_points_inside_a_tie_cannot_be_operated() -> None:
    rows = of_values([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1])
    curve = rows.curve()
    assert curve.is_threshold.tolist() == [True, False, False, False, True]
    assert quality_at_cost(curve, 0.9) == 0.0
    assert cost_at_quality(curve, 0.25) == (11.0, True)
    assert cpt(curve, 50) == 1.0
    assert audc(curve) == 0.5


def test_the_order_of_the_rows_does_not_change_the_curve() -> None:
    rows = random_rows(100, num_levels=4)
    shuffled = random_rows(100, num_levels=4)
    order = np.random.default_rng(3).permutation(100)
    for name in ("small", "large", "uncertainty", "small_cost", "large_cost"):
        setattr(shuffled, name, getattr(rows, name)[order])
    shuffled.ids = [rows.ids[row] for row in order]
    np.testing.assert_array_equal(rows.curve().quality, shuffled.curve().quality)
    np.testing.assert_allclose(rows.curve().cost, shuffled.curve().cost, rtol=1e-13)


def test_gap_measures_are_none_where_the_large_model_is_not_better() -> None:
    curve = of_values([1, 1], [0, 1], [2, 1]).curve()
    assert apgr(curve) is None
    assert cpt(curve, 50) is None


def test_a_random_rule_closes_half_of_the_gap() -> None:
    assert apgr(random_rows(20_000).curve()) == pytest.approx(0.5, abs=0.03)


def test_rounding_of_fractional_values_does_not_hide_equal_quality() -> None:
    # 0.1 + 0.2 + 0.3 in two orders differ in the last bit.
    curve = of_values([0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [3, 2, 1]).curve()
    assert cheapest_point(curve, curve.quality_large) == curve.point(0)


def test_one_row_has_two_points() -> None:
    curve = of_values([0], [1], [0.5]).curve()
    assert curve.quality.tolist() == [0, 1]
    assert curve.is_threshold.all()
    assert audc(curve) == 0.5


def test_no_rows_and_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        of_values([], [], []).curve()
    with pytest.raises(DataError, match="uncertainty of row 1 is nan"):
        FOUR.curve(uncertainty=[1.0, np.nan, 2.0, np.inf])
    with pytest.raises(DataError, match=r"cost of row 2 is -1\.0"):
        FOUR.curve(small_cost=[0, 0, -1, 0])
    with pytest.raises(ValueError, match=r"small_statistics has the shape \(4, 3\); expected \(4, 2\)"):
        FOUR.curve(small=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="4 ids; expected 3"):
        FOUR.curve(
            small=FOUR.small[:3],
            large=FOUR.large[:3],
            uncertainty=[1, 2, 3],
            small_cost=[0, 0, 0],
            large_cost=[1, 1, 1],
        )
