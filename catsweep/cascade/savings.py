"""What a threshold that was picked on other rows saves on these, with its bootstrap draws. Whole groups are drawn, the same
as for the curves (see compare.bootstrap_curves); the threshold stays: intervals are those of test examples and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.compare import TaskDifference, draw_groups, task_difference
from catsweep.cascade.ragged import FloatArray


@dataclass(frozen=True, eq=False)
class CostShare:
    """Mean cost of a cascade as a share of the large model's alone, and its (B,) values on the resamples."""

    value: float
    draws: FloatArray


def cost_shares(
    deferred: Sequence[NDArray[np.bool_]],
    costs: Sequence[tuple[FloatArray, FloatArray]],
    *,
    groups: Sequence[str],
    num_resamples: int,
    seed: int,
) -> list[CostShare]:
    """The cost share of each of several cascades on the same rows, with the same draws for all.

    deferred: (n,) which queries a cascade defers. costs: its (n,) costs of each query under the small and the large model;
    every query pays the small one. groups: (n,) key of each row. The large model must cost something.
    """
    keys, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    sums: list[tuple[FloatArray, FloatArray]] = []
    for mask, (small, large) in zip(deferred, costs, strict=True):
        paid = small + np.where(mask, large, 0.0)
        sums.append((_by_group(paid, group_of_row, len(keys)), _by_group(large, group_of_row, len(keys))))
    parts: list[list[FloatArray]] = [[] for _ in sums]
    for counts in draw_groups(len(keys), len(group_of_row), num_resamples, seed):
        weights = counts.astype(np.float64)
        for part, (own, large) in zip(parts, sums, strict=True):
            part.append(np.einsum("bg,g->b", weights, own) / np.einsum("bg,g->b", weights, large))
    return [
        CostShare(float(own.sum() / large.sum()), np.concatenate(part))
        for part, (own, large) in zip(parts, sums, strict=True)
    ]


def _by_group(values: FloatArray, group_of_row: NDArray[np.int64], num_groups: int) -> FloatArray:
    return np.bincount(group_of_row, weights=values, minlength=num_groups).astype(np.float64)


def saving(own: Sequence[CostShare]) -> TaskDifference:
    """1 - mean cost share over seeds: what is saved of the large model's cost, with its interval."""
    return task_difference([1 - share.value for share in own], [1 - share.draws for share in own])


def saving_against(own: Sequence[CostShare], base: Sequence[CostShare]) -> TaskDifference:
    """1 - mean cost share of one system over that of another, paired by seed, with its interval.

    A seed's part in the ratio of means is its linear one (delta method): r - (own - R base)/mean(base), of which the mean
    over seeds is the estimate itself.
    """
    means = np.mean([share.value for share in own]), np.mean([share.value for share in base])
    ratio = means[0] / means[1]
    values = [1 - ratio - (a.value - ratio * b.value) / means[1] for a, b in zip(own, base, strict=True)]
    draws = 1 - np.mean([share.draws for share in own], axis=0) / np.mean([share.draws for share in base], axis=0)
    return task_difference(values, np.tile(draws, (len(values), 1)))
