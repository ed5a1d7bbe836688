from itertools import combinations

import numpy as np
import pytest

from catsweep.cascade.curve import Curve
from catsweep.cascade.lines import oracle_curve, quality_gain, quality_oracle, random_line, router_cost

from .example import Rows, of_values, random_rows


def oracle(rows: Rows) -> Curve:
    return oracle_curve(
        ids=rows.ids,
        small_statistics=rows.small,
        large_statistics=rows.large,
        small_cost=rows.small_cost,
        large_cost=rows.large_cost,
        metric=rows.metric,
    )


def test_the_oracle_of_a_mean_is_the_best_of_all_cascades_at_every_rate() -> None:
    rows = of_values([0.2, 1, 0, 0.5, 0], [0.1, 0, 0, 1, 1], [5, 4, 3, 2, 1])
    curve = oracle(rows)
    for k in range(rows.n + 1):
        best = max(
            np.where(np.isin(range(rows.n), deferred), rows.large[:, 0], rows.small[:, 0]).mean()
            for deferred in combinations(range(rows.n), k)
        )
        assert curve.quality[k] == pytest.approx(best)
    assert quality_oracle(curve) == pytest.approx(np.maximum(rows.small, rows.large)[:, 0].mean())


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_the_oracle_of_a_corpus_metric_beats_both_models_and_a_random_order(metric: str) -> None:
    rows = random_rows(200, metric=metric)
    curve = oracle(rows)
    assert quality_oracle(curve) > max(curve.quality_small, curve.quality_large)
    assert (curve.quality >= rows.curve().quality - 1e-9).all()
    # Greedy, checked against the best of all subsets of a few rows.
    few = random_rows(9, metric=metric, seed=5)
    best = max(
        float(few.metric.score(np.where(np.isin(range(9), deferred)[:, None], few.large, few.small).sum(axis=0)))
        for k in range(10)
        for deferred in combinations(range(9), k)
    )
    assert 0.97 * best <= quality_oracle(oracle(few)) <= best + 1e-9


def test_the_gain_of_a_mean_is_the_difference_and_that_of_a_corpus_adds_up_to_the_gap() -> None:
    rows = random_rows(300)
    np.testing.assert_array_equal(
        quality_gain(rows.small, rows.large, rows.metric), rows.large[:, 0] - rows.small[:, 0]
    )
    corpus = random_rows(300, metric="bleu")
    curve = corpus.curve()
    total = quality_gain(corpus.small, corpus.large, corpus.metric).mean()
    assert total == pytest.approx(curve.quality_large - curve.quality_small, rel=0.05)


def test_random_deferral_of_a_mean_is_the_chord() -> None:
    rows = random_rows(50)
    curve = rows.curve()
    chord = curve.quality_small + curve.deferral_rate * (curve.quality_large - curve.quality_small)
    np.testing.assert_allclose(random_line(curve, rows.metric), chord, rtol=1e-12)


def test_random_deferral_of_a_corpus_metric_is_close_to_the_mean_over_random_orders() -> None:
    rows = random_rows(300, metric="bleu")
    random = np.random.default_rng(0)
    mean = np.mean([rows.curve(uncertainty=random.random(rows.n)).quality for _ in range(100)], axis=0)
    line = random_line(rows.curve(), rows.metric)
    np.testing.assert_allclose(line[[0, -1]], mean[[0, -1]], rtol=1e-12)
    assert np.abs(line - mean).max() < 0.5


def test_a_router_pays_one_model_a_query() -> None:
    rows = random_rows(40)
    cost = router_cost(rows.curve())
    order = rows.order()
    for k in range(rows.n + 1):
        paid = rows.large_cost[order[:k]].sum() + rows.small_cost[order[k:]].sum()
        assert cost[k] == pytest.approx(paid / rows.n)
    np.testing.assert_allclose(router_cost(rows.curve(), decision_cost=2.0), cost + 2)
