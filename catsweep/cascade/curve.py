"""The curve of a cascade: quality and cost after deferring k = 0..n queries, most uncertain first (docs/curves.md).

Only points with `is_threshold` can be operated: inside a tie no threshold separates the queries.
Comparisons with a target quality allow QUALITY_TOLERANCE * scale, so that rounding in a sum does not decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics import Metric, area
from catsweep.cascade.metrics.base import prefix_sums, take_rows
from catsweep.cascade.order import Ids, deferral_order
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError

QUALITY_TOLERANCE = 1e-9
NEVER_DEFER = float(np.finfo(np.float64).max)
"""Threshold of k = 0: above every uncertainty, also those of other data."""
ALWAYS_DEFER = -NEVER_DEFER
"""Threshold of k = n: below every uncertainty, also those of other data."""


@dataclass(frozen=True, eq=False)
class Curve:
    """n+1 points of a cascade; index k = number of deferred queries. Arrays are (n+1,) unless said otherwise.

    deferral_rate: k/n. quality: in [lowest, scale], NaN where the metric is not defined (see metrics.base).
    cost: mean a query, in the unit of the costs given.
    is_threshold: a threshold gives exactly this point. threshold: defer iff uncertainty >= threshold; finite.
    small_kept_quality (A1): of the small model on what it keeps, NaN at k = n. large_deferred_quality (A2): of the
    large model on what it gets, NaN at k = 0.
    deferred_small_cost: mean over all n queries of the small model's cost of the deferred ones.
    order: (n,) rows, most uncertain first. In that order: uncertainty (n,) and the aligned statistics of both models
    (see metrics.base), small_rows and large_rows.
    quality_small, quality_large, cost_small, cost_large: of each model alone. scale, lowest: range of the quality.
    """

    deferral_rate: FloatArray
    quality: FloatArray
    cost: FloatArray
    is_threshold: NDArray[np.bool_]
    threshold: FloatArray
    small_kept_quality: FloatArray
    large_deferred_quality: FloatArray
    deferred_small_cost: FloatArray
    order: NDArray[np.int64]
    uncertainty: FloatArray
    small_rows: FloatArray
    large_rows: FloatArray
    quality_small: float
    quality_large: float
    cost_small: float
    cost_large: float
    num_rows: int
    scale: float
    lowest: float

    @property
    def exceeds_large_cost(self) -> NDArray[np.bool_]:
        """(n+1,) whether a point costs more than the large model alone, as k = n does where the small one is not free."""
        return self.cost > self.cost_large

    def point(self, num_deferred: int) -> OperatingPoint:
        """The point after so many deferred queries."""
        k = num_deferred
        rate, quality, cost = float(self.deferral_rate[k]), float(self.quality[k]), float(self.cost[k])
        return OperatingPoint(int(k), float(self.threshold[k]), rate, quality, cost)


@dataclass(frozen=True)
class OperatingPoint:
    """One point of a curve: what a threshold gives on the rows of the curve."""

    num_deferred: int
    threshold: float
    deferral_rate: float
    quality: float
    cost: float


class CostAtQuality(NamedTuple):
    """The lowest cost that reaches a quality, or the cost of deferring everything with reached = False."""

    cost: float
    reached: bool


def cascade_curve(
    *,
    ids: Ids,
    small_statistics: ArrayLike,
    large_statistics: ArrayLike,
    uncertainty: ArrayLike,
    small_cost: ArrayLike,
    large_cost: ArrayLike,
    metric: Metric,
) -> Curve:
    """The curve of a table of n >= 1 queries; ties stand in the order of a hash of the id.

    ids: (n,) text, or hashes from order.hash_ids. small_statistics, large_statistics: (n, metric.num_statistics).
    uncertainty: (n,) finite, high defers. small_cost, large_cost: (n,) >= 0 of one unit.
    Raises DataError for no rows and for values that are not finite, ValueError where shapes differ.
    """
    score = np.ascontiguousarray(uncertainty, dtype=np.float64)
    n = len(score)
    columns = [_column("small_statistics", small_statistics, n, metric.num_statistics)]
    columns.append(_column("large_statistics", large_statistics, n, metric.num_statistics))
    costs = [_column("small_cost", small_cost, n), _column("large_cost", large_cost, n)]
    _check(score, ids, costs)
    order = deferral_order(score, ids)
    falling = score[order]
    small, large = (take_rows(rows, order) for rows in metric.align(*columns))
    small_cost_sums, large_cost_sums = (prefix_sums(cost[order]) / n for cost in costs)
    quality, small_kept, large_deferred = metric.path(small, large)
    threshold = np.concatenate([[NEVER_DEFER], falling])
    threshold[-1] = ALWAYS_DEFER
    return Curve(
        deferral_rate=np.arange(n + 1) / n,
        quality=quality,
        cost=small_cost_sums[-1] + large_cost_sums,
        is_threshold=np.concatenate([[True], falling[:-1] != falling[1:], [True]]),
        threshold=threshold,
        small_kept_quality=small_kept,
        large_deferred_quality=large_deferred,
        deferred_small_cost=small_cost_sums,
        order=order,
        uncertainty=falling,
        small_rows=small,
        large_rows=large,
        quality_small=float(quality[0]),
        quality_large=float(quality[-1]),
        cost_small=float(small_cost_sums[-1]),
        cost_large=float(large_cost_sums[-1]),
        num_rows=n,
        scale=metric.scale,
        lowest=metric.lowest,
    )


def with_costs(curve: Curve, small_cost: ArrayLike, large_cost: ArrayLike) -> Curve:
    """The same points at the costs of another cost model: (n,) of each query, in the order of the table, of one unit.

    Raises DataError for costs that are negative or not finite.
    """
    n = curve.num_rows
    costs = [_column("small_cost", small_cost, n), _column("large_cost", large_cost, n)]
    _check_costs(costs)
    small_cost_sums, large_cost_sums = (prefix_sums(cost[curve.order]) / n for cost in costs)
    return replace(
        curve,
        cost=small_cost_sums[-1] + large_cost_sums,
        deferred_small_cost=small_cost_sums,
        cost_small=float(small_cost_sums[-1]),
        cost_large=float(large_cost_sums[-1]),
    )


def audc(curve: Curve) -> float:
    """Area under quality against deferral rate, in [lowest, scale]: the trapezoid over all n+1 points (see `area`)."""
    return area(curve.quality)


def apgr(curve: Curve) -> float | None:
    """Mean share of the gap between small and large that is closed, (audc - q_S)/(q_L - q_S); 0.5 for random deferral.

    None where the large model is not better. Never an objective: its anchor moves with the small model.
    """
    gap = curve.quality_large - curve.quality_small
    return (audc(curve) - curve.quality_small) / gap if gap > 0 else None


def cpt(curve: Curve, percent: float) -> float | None:
    """Smallest deferral rate of an operating point that closes percent of the gap, or None where L is not better."""
    gap = curve.quality_large - curve.quality_small
    if not gap > 0:
        return None
    point = cheapest_point(curve, curve.quality_small + percent / 100 * gap)
    return None if point is None else point.deferral_rate


def cheapest_point(curve: Curve, quality: float) -> OperatingPoint | None:
    """The operating point of lowest cost with at least a quality, or None where there is none."""
    enough = curve.is_threshold & (curve.quality >= quality - QUALITY_TOLERANCE * curve.scale)
    return curve.point(int(enough.argmax())) if enough.any() else None


def best_point(curve: Curve, share_of_large_cost: float) -> OperatingPoint | None:
    """The operating point of highest quality (of several the cheapest) that costs at most a share of L alone's mean.

    None where even the small model alone costs more.
    """
    limit = share_of_large_cost * curve.cost_large * (1 + 1e-12)
    affordable = curve.is_threshold & (curve.cost <= limit)
    if not affordable.any():
        return None
    return curve.point(int(np.where(affordable & ~np.isnan(curve.quality), curve.quality, -np.inf).argmax()))


def quality_at_cost(curve: Curve, share_of_large_cost: float) -> float | None:
    """Highest quality of an operating point within a cost; None where even the small model alone costs more."""
    point = best_point(curve, share_of_large_cost)
    return None if point is None else point.quality


def cost_at_quality(curve: Curve, quality: float) -> CostAtQuality:
    """Lowest cost of an operating point with at least a quality; where there is none the cost at d = 1, not reached."""
    point = cheapest_point(curve, quality)
    return CostAtQuality(float(curve.cost[-1]), False) if point is None else CostAtQuality(point.cost, True)


def apply_threshold(curve: Curve, threshold: float) -> OperatingPoint:
    """Realised rate, quality and cost on this curve's rows of a threshold that was picked on other rows."""
    num_deferred = int(np.searchsorted(-curve.uncertainty, -threshold, side="right"))
    return curve.point(num_deferred)


def _column(name: str, values: ArrayLike, *shape: int) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} has the shape {array.shape}; expected {shape}")
    return array


def _check(uncertainty: FloatArray, ids: Ids, costs: list[FloatArray]) -> None:
    if len(uncertainty) == 0:
        raise DataError("a cascade of no rows has no curve; expected one row or more")
    if len(ids) != len(uncertainty):
        raise ValueError(f"there are {len(ids)} ids; expected {len(uncertainty)}, one for each uncertainty")
    if not (np.abs(uncertainty) < NEVER_DEFER).all():
        row = int((~(np.abs(uncertainty) < NEVER_DEFER)).argmax())
        raise DataError(f"the uncertainty of row {row} is {uncertainty[row]}; expected a finite number")
    _check_costs(costs)


def _check_costs(costs: list[FloatArray]) -> None:
    for cost in costs:
        if not (np.isfinite(cost).all() and (cost >= 0).all()):
            row = int((~(np.isfinite(cost) & (cost >= 0))).argmax())
            raise DataError(f"a cost of row {row} is {cost[row]}; expected a finite number of at least 0")
