"""audc of resampled tables without building them: a resample is a table of rows with integer weights.

A row that is drawn w times stands w times in its place of the deferral order, since its copies share the id's hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.metrics import Additive, Metric, area
from catsweep.cascade.metrics.base import take_rows
from catsweep.cascade.order import Ids, deferral_order
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError

POINTS_AT_ONCE = 1 << 13
"""Points of resampled tables that a metric scores in one call: enough for numpy, few enough for a processor's cache."""


@dataclass(frozen=True, eq=False)
class OrderedSystem:
    """A system in deferral order: group of each row (n,), and both models' aligned statistics (n, j). For additive metrics
    these are also summed by group, (j, G); others have no sums."""

    group_of_row: NDArray[np.int64]
    small: FloatArray
    large: FloatArray
    small_by_group: FloatArray
    large_by_group: FloatArray
    metric: Metric


def prepare(
    *,
    ids: Ids,
    small_statistics: FloatArray,
    large_statistics: FloatArray,
    uncertainty: FloatArray,
    group_of_row: NDArray[np.int64],
    num_groups: int,
    metric: Metric,
) -> OrderedSystem:
    """Sort a system once; every resample reuses the order. Raises ValueError where there is not one group a row,
    DataError where a question of multirc_em lies in two groups."""
    score = np.asarray(uncertainty, dtype=np.float64)
    if len(score) != len(group_of_row):
        raise ValueError(f"a system has {len(score)} rows; expected {len(group_of_row)}, one for each group key")
    order = deferral_order(score, ids)
    small, large = metric.align(small_statistics, large_statistics)
    if metric.needs_key:
        _check_questions(small[:, 1], group_of_row, metric.name)
    added = isinstance(metric, Additive)
    by_group = [_sum_by_group(part, group_of_row, num_groups) if added else part[:0] for part in (small, large)]
    return OrderedSystem(
        group_of_row[order], take_rows(small, order), take_rows(large, order), by_group[0], by_group[1], metric
    )


def group_counts(num_groups: int, num_resamples: int, seed: int, chunk: int) -> Iterator[NDArray[np.int64]]:
    """(b, G) how often each resample of a chunk draws each group."""
    random = np.random.default_rng(seed)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        drawn = random.integers(0, num_groups, size=(size, num_groups)) + num_groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_groups).reshape(size, num_groups)


def resampled(counts: NDArray[np.int64], item: OrderedSystem) -> FloatArray:
    """(b, 3) audc, quality of small and of large alone, of resamples with group counts (b, G)."""
    if not isinstance(item.metric, Additive):
        return np.array([_resampled_table(row.take(item.group_of_row), item) for row in counts])
    weights = counts.astype(np.float64)
    # einsum, not @: threads of a BLAS wait for one another wherever other trials keep the cores busy.
    small_sums = np.einsum("bg,kg->bk", weights, item.small_by_group)
    large_sums = np.einsum("bg,kg->bk", weights, item.large_by_group)
    if item.metric.is_mean:
        gain = item.large[:, 0] - item.small[:, 0]
        areas = _mean_audc(counts.astype(np.int32).take(item.group_of_row, axis=1), gain, small_sums)
    else:
        change = item.large - item.small
        weights_of_rows = counts.take(item.group_of_row, axis=1)
        step = max(1, POINTS_AT_ONCE // len(change))
        blocks = [slice(start, start + step) for start in range(0, len(counts), step)]
        areas = np.concatenate([_sums_audc(weights_of_rows[at], small_sums[at], change, item.metric) for at in blocks])
    return np.stack([areas, item.metric.score(small_sums), item.metric.score(large_sums)], axis=1)


def _mean_audc(weights: NDArray[np.int32], gain: FloatArray, small_sums: FloatArray) -> FloatArray:
    """(b,) audc of a mean metric. weights: (b, n) in deferral order; gain: (n,); small_sums: (b, 2) of value and rows.

    Deferring a row's w copies moves the mean along a straight line, so their trapezoids add up to w (Q_before + Q_after)/2,
    with Q = (S + D)/N: S the small model's sum, D the gain of what is deferred so far, N the rows of the resample. Of all
    trapezoids, those under a row's gain are as many as the rows behind it and half of its own copies; these are counted, in
    whole numbers, rather than the gains added up.
    """
    small_sum, num_rows = small_sums.T
    counted = np.cumsum(weights, axis=1, dtype=np.int32)
    counted *= -2
    counted += weights
    counted += 2 * num_rows.astype(np.int32)[:, None]
    area = np.einsum("bn,bn,n->b", weights.astype(np.float64), counted.astype(np.float64), gain)
    result: FloatArray = (small_sum * num_rows + area / 2) / num_rows**2
    return result


def _sums_audc(weights: NDArray[np.int64], small_sums: FloatArray, change: FloatArray, metric: Additive) -> FloatArray:
    """(b,) audc of an additive metric under integer row weights (b, n): every point of the resampled tables is scored.

    small_sums: (b, j); change: (n, j) what deferring each row adds to the sums.
    """
    num_rows = weights.sum(axis=1)
    drawn = np.arange(num_rows.max()) < num_rows[:, None]
    # Before the first row stand the small model's sums, behind the last of a table rows that change nothing.
    row_at = np.full((len(weights), 1 + drawn.shape[1]), len(change))
    row_at[:, 1:][drawn] = np.tile(np.arange(len(change)), len(weights)).repeat(weights.ravel())
    sums = np.vstack([change, np.zeros(change.shape[1])]).T.take(row_at, axis=1)  # (j, b, points)
    sums[:, :, 0] = small_sums.T
    np.cumsum(sums, axis=2, out=sums)
    quality = np.nan_to_num(metric.score(np.moveaxis(sums, 0, -1)), copy=False)
    trapezoids = np.where(drawn, quality[:, 1:] + quality[:, :-1], 0.0)
    result: FloatArray = trapezoids.sum(axis=1) / (2 * num_rows)
    return result


def _resampled_table(weights: NDArray[np.int64], item: OrderedSystem) -> tuple[float, float, float]:
    """audc, quality of small and of large alone under integer row weights (n,), of the table that they describe."""
    quality = item.metric.mixed(item.metric.drawn(item.small, weights), item.metric.drawn(item.large, weights))
    return area(quality), float(quality[0]), float(quality[-1])


def _check_questions(question: FloatArray, groups: NDArray[np.int64], metric: str) -> None:
    distinct = len(np.unique(question))
    if len(np.unique(np.stack([question, groups]), axis=1).T) > distinct:
        raise DataError(
            f"{metric}: the rows of one question lie in several groups; expected one group for all of them, since whole "
            "groups are resampled. Let the group key be that of the passage, or of the question"
        )


def _sum_by_group(rows: FloatArray, groups: NDArray[np.int64], num_groups: int) -> FloatArray:
    """(k, G) sums of the statistics of each group's rows."""
    return np.stack([np.bincount(groups, weights=column, minlength=num_groups) for column in rows.T])
