"""Chains of K >= 2 models: each in order answers a query or defers it to the next; the last answers what it gets.

A query that model j defers has paid for all models up to j + 1. With K - 1 thresholds a chain has many points; `front` gives
those that no other point beats in both cost and quality. For K = 2 they are points of `curve.cascade_curve`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.curve import ALWAYS_DEFER, NEVER_DEFER
from catsweep.cascade.metrics import Additive, Metric
from catsweep.cascade.metrics.base import prefix_sums
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError

MAX_EXACT_ROWS = 10_000
"""Chains of three models have every pair of thresholds tried up to so many rows."""
GRID_POINTS = 20_000
"""About so many combinations of thresholds are tried on a grid."""
_CELLS_IN_MEMORY = 1 << 18
"""Points of one block of the exact search: 2 MB an array."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The rows of K models on the same n queries, in the order in which they are asked.

    statistics: (n, k) of each model (see metrics). cost: (n,) of each, in one unit. uncertainty: (n,) of each but the last,
    high defers. Raises DataError for no rows and for metrics that are no function of sums over rows, ValueError where
    shapes differ.
    """

    statistics: Sequence[FloatArray]
    cost: Sequence[FloatArray]
    uncertainty: Sequence[FloatArray]
    metric: Metric

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (*self.statistics, *self.cost, *self.uncertainty)}
        if len(sizes) != 1 or not len(self.statistics) == len(self.cost) == len(self.uncertainty) + 1 >= 2:
            raise ValueError(
                f"a chain of {len(self.statistics)} models has {len(self.cost)} columns of costs, {len(self.uncertainty)} of "
                f"uncertainties and {sorted(sizes)} rows; expected one cost a model, one uncertainty less, and one length"
            )
        if sizes == {0}:
            raise DataError("a chain of no rows has no points; expected one row or more")
        if not can_chain(self.metric):
            raise DataError(f"{self.metric.name} is no function of sums over rows; expected one for a chain of models")

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def num_rows(self) -> int:
        """Queries."""
        return len(self.cost[0])

    def part(self, models: Sequence[int]) -> Chain:
        """The chain of some of the models, two or more, in rising order."""
        return Chain(
            [self.statistics[model] for model in models],
            [self.cost[model] for model in models],
            [self.uncertainty[model] for model in models[:-1]],
            self.metric,
        )

    def answering(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """(n,) the model that answers each query: the first that is not at least as uncertain as its threshold."""
        result = np.full(self.num_rows, len(self) - 1)
        for model in reversed(range(len(self) - 1)):
            result[self.uncertainty[model] < thresholds[model]] = model
        return result

    def realised(self, thresholds: Sequence[float]) -> Realised:
        """What thresholds, picked on other rows too, give on these."""
        return self.answered(self.answering(thresholds))

    def answered(self, model: NDArray[np.int64]) -> Realised:
        """What it gives that these models (n,) answer."""
        rows = np.arange(self.num_rows)
        paid = np.cumsum(np.stack(self.cost), axis=0)[model, rows]
        statistics = np.stack(self.statistics)[model, rows]
        return Realised(float(paid.mean()), self.metric.quality(statistics), statistics, paid)


class Realised(NamedTuple):
    """Mean cost a query and quality of a chain at some thresholds, and the chosen answers' statistics (n, k) and costs (n,)."""

    cost: float
    quality: float
    statistics: FloatArray
    paid: FloatArray


@dataclass(frozen=True, eq=False)
class Front:
    """The points of a chain that no other one beats, cheapest first: quality rises strictly with cost.

    cost: (m,) mean a query. quality: (m,). thresholds: (m, K - 1); a model defers iff its uncertainty is at least its
    threshold. is_exact: every combination of thresholds was tried; else those of a grid of quantiles.
    """

    cost: FloatArray
    quality: FloatArray
    thresholds: FloatArray
    is_exact: bool

    def best_within(self, cost: float) -> int | None:
        """The point of highest quality that costs at most so much; None where there is none."""
        num = int(np.searchsorted(self.cost, cost * (1 + 1e-12), side="right"))
        return num - 1 if num else None


def can_chain(metric: Metric) -> bool:
    """Whether a metric is a function of sums over rows, for any number of models."""
    return isinstance(metric, Additive) and type(metric).align is Additive.align


def front(chain: Chain, *, grid_points: int = GRID_POINTS) -> Front:
    """The Pareto front of cost and quality over all thresholds.

    Exact for two models, and for three up to MAX_EXACT_ROWS rows where the metric is a mean of rows: O(n^2) time, O(n)
    memory (10,000 rows took 5.5 s on one core, with 75 MB). Else about grid_points combinations of quantiles of the
    uncertainties are tried; the front is exact where these are all there are.
    """
    levels = [_levels(uncertainty) for uncertainty in chain.uncertainty]
    if len(chain) == 3 and chain.metric.is_mean and chain.num_rows <= MAX_EXACT_ROWS:
        return _prune(_exact_points(chain, levels), is_exact=True)
    if len(chain) > 2:
        num_levels = max(2, math.floor(grid_points ** (1 / (len(chain) - 1)) + 1e-9))
        thinned = [_thin(own, num_levels) for own in levels]
    else:
        thinned = levels
    is_exact = all(len(own) == len(every) for own, every in zip(thinned, levels, strict=True))
    return _prune(_grid_points(chain, thinned), is_exact=is_exact)


def _levels(uncertainty: FloatArray) -> FloatArray:
    """All thresholds that differ in effect, falling: from never to always."""
    distinct = np.unique(uncertainty)[::-1]
    return np.concatenate([[NEVER_DEFER], distinct[:-1], [ALWAYS_DEFER]])


def _thin(levels: FloatArray, num: int) -> FloatArray:
    """At most num of the levels, at equal distances among the distinct values, both ends included."""
    return levels[np.unique(np.linspace(0, len(levels) - 1, min(num, len(levels))).round().astype(np.int64))]


class _Points(NamedTuple):
    """Points (m,) with their thresholds (m, K - 1)."""

    cost: FloatArray
    quality: FloatArray
    thresholds: FloatArray


def _grid_points(chain: Chain, levels: Sequence[FloatArray]) -> Iterator[_Points]:
    """All combinations of the levels: those of the last threshold together, by sums along its order.

    What the models before let through is masked for each combination of their thresholds.
    """
    metric, n = chain.metric, chain.num_rows
    assert isinstance(metric, Additive)
    last = len(chain) - 1
    order = np.argsort(-chain.uncertainty[last - 1], kind="stable")
    falling = chain.uncertainty[last - 1][order]
    num_deferred = np.searchsorted(-falling, -levels[-1], side="right")
    statistics = [np.asarray(own, dtype=np.float64)[order] for own in chain.statistics]
    change, cost = statistics[last] - statistics[last - 1], [own[order] for own in chain.cost]
    for earlier in itertools.product(*levels[:-1]):
        through = np.ones(n, dtype=bool)
        base, paid = np.zeros(statistics[0].shape[1]), 0.0
        for model, threshold in enumerate(earlier):
            paid += cost[model][through].sum()
            kept = through & (chain.uncertainty[model][order] < threshold)
            base = base + statistics[model][kept].sum(axis=0)
            through &= ~kept
        paid += cost[last - 1][through].sum()
        base = base + statistics[last - 1][through].sum(axis=0)
        sums = base + prefix_sums(change * through[:, None])[num_deferred]
        costs = (paid + prefix_sums(cost[last] * through)[num_deferred]) / n
        thresholds = np.column_stack([*(np.full(len(costs), level) for level in earlier), levels[-1]])
        yield _Points(costs, metric.score(sums), thresholds)


def _exact_points(chain: Chain, levels: Sequence[FloatArray]) -> Iterator[_Points]:
    """For each threshold of the first of three models the best points over all thresholds of the second.

    Along the second threshold the cost only rises, so a point matters only where its quality exceeds all before it.
    """
    n = chain.num_rows
    metric = chain.metric
    assert isinstance(metric, Additive)
    values = [metric.score(np.asarray(own, dtype=np.float64)) for own in chain.statistics]
    first, second = (np.argsort(-uncertainty, kind="stable") for uncertainty in chain.uncertainty)
    num_first, num_second = (
        np.searchsorted(-uncertainty[order], -own, side="right")
        for uncertainty, order, own in zip(chain.uncertainty, (first, second), levels, strict=True)
    )
    place = np.empty(n, dtype=np.int32)
    place[first] = np.arange(n)
    place = place[second]  # where each query of the second order stands in the first one
    # Sums, divided at the end: those of values 0 and 1 are exact, and equal qualities are equal numbers.
    quality_to_middle = values[0].sum() + prefix_sums((values[1] - values[0])[first])[num_first]
    cost_to_middle = chain.cost[0].sum() + prefix_sums(chain.cost[1][first])[num_first]
    gain, price = (values[2] - values[1])[second], chain.cost[2][second]
    block = max(1, _CELLS_IN_MEMORY // n)
    for start in range(0, len(num_first), block):
        rows = slice(start, start + block)
        through = place < num_first[rows, None]
        quality, cost = (_along(through, column, num_second) for column in (gain, price))
        quality += quality_to_middle[rows, None]
        cost += cost_to_middle[rows, None]
        is_record = np.ones(quality.shape, dtype=bool)
        is_record[:, 1:] = quality[:, 1:] > np.maximum.accumulate(quality, axis=1)[:, :-1]
        row, column = np.nonzero(is_record)
        thresholds = np.column_stack([levels[0][rows][row], levels[1][column]])
        yield _Points(cost[row, column] / n, quality[row, column] / n, thresholds)


def _along(through: NDArray[np.bool_], values: FloatArray, ends: NDArray[np.int64]) -> FloatArray:
    """(b, m) sums of the first ends (m,) of the values (n,) that each row of `through` (b, n) lets pass."""
    sums = np.zeros((len(through), len(values) + 1))
    np.multiply(through, values, out=sums[:, 1:])
    np.cumsum(sums, axis=1, out=sums)
    return sums if len(ends) == sums.shape[1] else sums[:, ends]


def _prune(blocks: Iterator[_Points], *, is_exact: bool) -> Front:
    """The points that no other one beats. Memory: the front and one block."""
    best: _Points | None = None
    for block in blocks:
        joined = block if best is None else _Points(*(np.concatenate(pair) for pair in zip(best, block, strict=True)))
        quality = np.nan_to_num(joined.quality, nan=-np.inf)
        order = np.lexsort((-quality, joined.cost))  # the last key is sorted by first
        rising = quality[order]
        is_best = np.ones(len(order), dtype=bool)
        is_best[1:] = rising[1:] > np.maximum.accumulate(rising)[:-1]
        kept = order[is_best]
        best = _Points(joined.cost[kept], joined.quality[kept], joined.thresholds[kept])
    assert best is not None
    return Front(best.cost, best.quality, best.thresholds, is_exact)
