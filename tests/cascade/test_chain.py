"""Chains of models, against every combination of thresholds applied query by query."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from catsweep.cascade.chain import Chain, front
from catsweep.cascade.curve import ALWAYS_DEFER, NEVER_DEFER
from catsweep.cascade.metrics import get_metric
from catsweep.errors import DataError

from .example import random_rows


def random_chain(n: int, num_models: int, *, seed: int = 0, levels: int = 0, metric: str = "accuracy") -> Chain:
    """Models that are the better the later they stand; levels > 0: so many distinct uncertainties."""
    random = np.random.default_rng(seed)
    judge = get_metric(metric)
    if judge.is_mean:
        skills = np.linspace(0.4, 0.9, num_models)
        statistics = [np.stack([(random.random(n) < skill) * 1.0, np.ones(n)], axis=1) for skill in skills]
    else:
        pairs = [random_rows(n, seed=seed + index, metric=metric) for index in range(num_models)]
        statistics = [(pair.large if index else pair.small) for index, pair in enumerate(pairs)]
    cost = [10.0**index * (1 + random.random(n)) for index in range(num_models)]
    draw = (lambda: random.integers(0, levels, n).astype(float)) if levels else (lambda: random.random(n))
    return Chain(statistics, cost, [draw() for _ in range(num_models - 1)], judge)


def brute(chain: Chain) -> list[tuple[float, float]]:
    """The front by applying every combination of thresholds to every query, one after another."""
    levels = [[NEVER_DEFER, *sorted(set(own.tolist())), ALWAYS_DEFER] for own in chain.uncertainty]
    points = []
    for thresholds in itertools.product(*levels):
        answers, paid = [], 0.0
        for row in range(chain.num_rows):
            model = 0
            paid += chain.cost[0][row]
            while model < len(thresholds) and chain.uncertainty[model][row] >= thresholds[model]:
                model += 1
                paid += chain.cost[model][row]
            answers.append(chain.statistics[model][row])
        points.append((paid / chain.num_rows, chain.metric.quality(np.array(answers))))
    return [
        point
        for point in sorted(set(points))
        if not any(
            cost <= point[0] + 1e-9
            and quality >= point[1] - 1e-9
            and (cost < point[0] - 1e-9 or quality > point[1] + 1e-9)
            for cost, quality in points
        )
    ]


def shown(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted({(round(cost, 6), round(quality, 6)) for cost, quality in points})


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_models_have_the_front_of_all_pairs_of_thresholds(seed: int, levels: int) -> None:
    chain = random_chain(14, 3, seed=seed, levels=levels)
    found = front(chain)
    assert found.is_exact
    assert shown(list(zip(found.cost.tolist(), found.quality.tolist(), strict=True))) == shown(brute(chain))


def test_four_models_and_summed_statistics_have_the_front_of_a_grid_that_holds_all_thresholds() -> None:
    for chain in (random_chain(12, 4, levels=3), random_chain(8, 3, levels=4, metric="chrf")):
        found = front(chain)
        assert found.is_exact
        assert shown(list(zip(found.cost.tolist(), found.quality.tolist(), strict=True))) == shown(brute(chain))


def test_a_coarse_grid_says_so_and_stays_below_the_exact_front() -> None:
    chain = random_chain(200, 4)
    coarse, fine = front(chain, grid_points=64), front(chain, grid_points=8_000)
    assert not coarse.is_exact
    for cost, quality in zip(coarse.cost, coarse.quality, strict=True):
        realised = chain.realised(coarse.thresholds[list(coarse.cost).index(cost)].tolist())
        assert (realised.cost, realised.quality) == pytest.approx((cost, quality))
    assert len(coarse.cost) < len(fine.cost)


@pytest.mark.parametrize("metric", ["accuracy", "chrf"])
def test_two_models_have_the_points_of_the_cascades_curve(metric: str) -> None:
    rows = random_rows(80, metric=metric, num_levels=15)
    curve = rows.curve()
    chain = Chain([rows.small, rows.large], [rows.small_cost, rows.large_cost], [rows.uncertainty], rows.metric)
    found = front(chain)
    points = [(curve.cost[k], curve.quality[k]) for k in range(81) if curve.is_threshold[k]]
    wanted = [(cost, quality) for cost, quality in points if not any(c < cost and q >= quality for c, q in points)]
    assert found.is_exact
    assert list(zip(found.cost, found.quality, strict=True)) == [pytest.approx(point, rel=1e-12) for point in wanted]
    for cost, quality, (threshold,) in zip(found.cost, found.quality, found.thresholds, strict=True):
        k = int((rows.uncertainty >= threshold).sum())
        assert (cost, quality) == pytest.approx((curve.cost[k], curve.quality[k]), rel=1e-12)


def test_thresholds_of_the_front_give_its_points_and_apply_to_other_rows() -> None:
    chain, other = random_chain(60, 3, levels=7), random_chain(50, 3, seed=5)
    found = front(chain)
    for cost, quality, thresholds in zip(found.cost, found.quality, found.thresholds, strict=True):
        realised = chain.realised(thresholds.tolist())
        assert (realised.cost, realised.quality) == pytest.approx((cost, quality))
    assert other.realised([NEVER_DEFER, NEVER_DEFER]).cost == pytest.approx(other.cost[0].mean())
    everything = other.realised([ALWAYS_DEFER, ALWAYS_DEFER])
    assert everything.cost == pytest.approx(sum(cost.mean() for cost in other.cost))
    assert everything.quality == other.metric.quality(other.statistics[2])


def test_a_budget_picks_the_best_affordable_point() -> None:
    found = front(random_chain(40, 3))
    assert found.best_within(found.cost[0] - 0.1) is None
    assert found.best_within(float(found.cost[2])) == 2
    assert found.best_within(np.inf) == len(found.cost) - 1


def test_metrics_that_are_no_sums_are_refused() -> None:
    chain = random_chain(10, 3)
    with pytest.raises(DataError, match="pearson"):
        Chain(chain.statistics, chain.cost, chain.uncertainty, get_metric("pearson"))
