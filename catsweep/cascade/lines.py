"""The lines that stand beside a cascade on a plot: its oracle, random deferral, and a router's cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from catsweep.cascade.curve import Curve, cascade_curve
from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import Ids
from catsweep.cascade.ragged import FloatArray


def quality_gain(small_statistics: ArrayLike, large_statistics: ArrayLike, metric: Metric) -> FloatArray:
    """(n,) what deferring each query gains, in the metric's unit: n times its effect on the quality of all n.

    Mean metrics: Q_L - Q_S of the row. Corpus metrics: the change of the corpus score when this row alone is swapped,
    all other rows counting half from each model. [ours] A score of one sentence would ignore brevity and smoothing.
    """
    small = np.asarray(small_statistics, dtype=np.float64)
    large = np.asarray(large_statistics, dtype=np.float64)
    if metric.is_mean:
        return metric.score(large) - metric.score(small)
    middle, half_step = (small.sum(axis=0) + large.sum(axis=0)) / 2, (large - small) / 2
    return len(small) * (metric.score(middle + half_step) - metric.score(middle - half_step))


def oracle_curve(
    *,
    ids: Ids,
    small_statistics: ArrayLike,
    large_statistics: ArrayLike,
    small_cost: ArrayLike,
    large_cost: ArrayLike,
    metric: Metric,
) -> Curve:
    """The cascade that knows which answer is better: queries are deferred in the order of their gain.

    For mean metrics it is the best of all cascades at every deferral rate, and its highest point gives each query its
    better answer. For corpus metrics the best set is not known; the order is that of `quality_gain`, which is greedy.
    """
    return cascade_curve(
        ids=ids,
        small_statistics=small_statistics,
        large_statistics=large_statistics,
        uncertainty=quality_gain(small_statistics, large_statistics, metric),
        small_cost=small_cost,
        large_cost=large_cost,
        metric=metric,
    )


def quality_oracle(curve: Curve) -> float:
    """Highest quality of an oracle curve: of means, exactly that of each query's better answer."""
    return float(curve.quality.max())


def random_line(curve: Curve, metric: Metric) -> FloatArray:
    """(n+1,) quality of deferring k random queries.

    The score of the expected statistics (1-d) S + d L. For mean metrics that is the exact expectation, a straight line;
    for corpus metrics it differs from the mean over random orders by O(1/n). [ours]
    """
    share = curve.deferral_rate[:, None]
    return metric.score((1 - share) * curve.small_sums + share * curve.large_sums)


def random_cost(curve: Curve) -> FloatArray:
    """(n+1,) expected cost of deferring k random queries after the small model has answered all."""
    return curve.cost_small + curve.deferral_rate * curve.cost_large


def router_cost(curve: Curve, *, decision_cost: float = 0.0) -> FloatArray:
    """(n+1,) cost of a router with the same choices: it decides before anyone answers, so a query pays one model only.

    decision_cost: mean cost of the router itself a query, 0 for a free one.
    """
    return curve.cost - curve.deferred_small_cost + decision_cost
