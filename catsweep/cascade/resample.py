"""audc of resampled tables without building them: a resample is a table of rows with integer weights.

A row that is drawn w times stands w times in its place of the deferral order, since its copies share the id's hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import Ids, deferral_order
from catsweep.cascade.ragged import FloatArray


@dataclass(frozen=True, eq=False)
class Prepared:
    """A system in deferral order: group of each row, statistics (n, k), and their sums by group (G, k)."""

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
) -> Prepared:
    """Sort a system once; every resample reuses the order. Raises ValueError where there is not one group a row."""
    score = np.asarray(uncertainty, dtype=np.float64)
    if len(score) != len(group_of_row):
        raise ValueError(f"a system has {len(score)} rows; expected {len(group_of_row)}, one for each group key")
    order = deferral_order(score, ids)
    groups = group_of_row[order]
    small = np.asarray(small_statistics, dtype=np.float64)[order]
    large = np.asarray(large_statistics, dtype=np.float64)[order]
    return Prepared(
        groups, small, large, _by_group(small, groups, num_groups), _by_group(large, groups, num_groups), metric
    )


def group_counts(num_groups: int, num_resamples: int, seed: int, chunk: int) -> Iterator[NDArray[np.int64]]:
    """(b, G) how often each resample of a chunk draws each group."""
    random = np.random.default_rng(seed)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        drawn = random.integers(0, num_groups, size=(size, num_groups)) + num_groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_groups).reshape(size, num_groups)


def resampled(counts: NDArray[np.int64], item: Prepared) -> FloatArray:
    """(b, 3) audc, quality of small and of large alone, of resamples with group counts (b, G)."""
    weights = counts.astype(np.float64)
    quality_small = item.metric.score(weights @ item.small_by_group)
    quality_large = item.metric.score(weights @ item.large_by_group)
    if item.metric.is_mean:
        area = _mean_audc(weights[:, item.group_of_row], item)
    else:
        area = np.array([_corpus_audc(row[item.group_of_row], item) for row in counts])
    return np.stack([area, quality_small, quality_large], axis=1)


def _mean_audc(weights: FloatArray, item: Prepared) -> FloatArray:
    """(b,) audc of a mean metric under row weights (b, n) in deferral order.

    Deferring a row's w copies moves the mean along a straight line, so their trapezoids add up to w (Q_before + Q_after)/2,
    with Q = (S + D)/N, S the small model's weighted sum, D the gain of what is deferred so far.
    """
    gain = weights * (item.large[:, 0] - item.small[:, 0])
    deferred_gain = np.cumsum(gain, axis=1)
    num_rows = weights.sum(axis=1)
    small_sum = weights @ item.small[:, 0]
    deferred_gain -= gain / 2
    area = small_sum * num_rows + (weights[:, None, :] @ deferred_gain[:, :, None])[:, 0, 0]
    average: FloatArray = area / num_rows**2
    return average


def _corpus_audc(weights: NDArray[np.int64], item: Prepared) -> float:
    """audc of a corpus metric under integer row weights (n,): every point of the resampled table is scored."""
    rows = np.repeat(np.arange(len(weights)), weights)
    sums = np.concatenate([item.small[rows].sum(axis=0)[None], (item.large - item.small)[rows]]).cumsum(axis=0)
    quality = item.metric.score(sums)
    return float(np.mean((quality[1:] + quality[:-1]) / 2))


def _by_group(rows: FloatArray, groups: NDArray[np.int64], num_groups: int) -> FloatArray:
    """(G, k) sums of the statistics of each group's rows."""
    return np.stack([np.bincount(groups, weights=column, minlength=num_groups) for column in rows.T], axis=1)
