"""The lines that stand beside a cascade on a plot: its oracle, random deferral, and a router's cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from catsweep.cascade.curve import Curve, cascade_curve
from catsweep.cascade.metrics import Additive, Metric
from catsweep.cascade.order import Ids
from catsweep.cascade.ragged import FloatArray

RANDOM_POINTS = 101


def quality_gain(small_statistics: ArrayLike, large_statistics: ArrayLike, metric: Metric) -> FloatArray:
    """(n,) what deferring each query gains, in the metric's unit: n times its effect on the quality of all n.

    Mean metrics: Q_L - Q_S of the row. Most others: the change of the quality when this row alone is swapped, all other
    rows counting half from each model. [ours] Each metric's `gain` says more.
    """
    return metric.gain(*metric.align(small_statistics, large_statistics))


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
    better answer; for multirc_em its highest point is the best, too. For other metrics the best set is not known; the
    order is that of `quality_gain`, which is greedy.
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
    """Highest quality of an oracle curve: of means, exactly that of each query's better answer. NaN if none is defined."""
    return float(np.fmax.reduce(curve.quality))


def random_line(curve: Curve, metric: Metric) -> FloatArray:
    """(n+1,) quality of deferring k random queries.

    For mean metrics the exact expectation, a straight line. For others mostly the score of expected counts, which differs
    from the mean over random orders by O(1/n) [ours]; where it does not come from sums, it is computed at RANDOM_POINTS
    points at most and is straight between them.
    """
    shares = curve.deferral_rate
    if isinstance(metric, Additive) or len(shares) <= RANDOM_POINTS:
        return metric.expected(curve.small_rows, curve.large_rows, shares)
    some = np.linspace(0.0, 1.0, RANDOM_POINTS)
    return np.interp(shares, some, metric.expected(curve.small_rows, curve.large_rows, some))


def router_cost(curve: Curve, *, decision_cost: float = 0.0) -> FloatArray:
    """(n+1,) cost of a router with the same choices: it decides before anyone answers, so a query pays one model only.

    decision_cost: mean cost of the router itself a query, 0 for a free one.
    """
    return curve.cost - curve.deferred_small_cost + decision_cost
