"""A chain of models beside every pair of them and each model alone, at given costs.

Thresholds are picked on calibration, numbers are those of test (docs/curves.md); groups are resampled, the same draw for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.cascade.chain import GRID_POINTS, Chain, front
from catsweep.cascade.metrics import Additive
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.resample import group_counts

ARROW = " -> "
_RESAMPLES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class ChainPoint:
    """One system at one cost.

    system: names of its models joined by ARROW. num_models: of them. share: the cost that was allowed, as a share of the
    last model's mean cost on calibration. calibration_quality: there. thresholds: picked there, None where the system
    cannot keep the cost at all; all numbers are NaN then. quality, cost_share: realised on test, the cost as a share of the
    last model's there. draws: (B,) quality on the resamples of test. is_exact: every threshold was tried.
    """

    system: str
    num_models: int
    share: float
    calibration_quality: float
    thresholds: tuple[float, ...] | None
    quality: float
    cost_share: float
    draws: FloatArray
    is_exact: bool


def compare_chain(
    calibration: Chain,
    test: Chain,
    *,
    names: Sequence[str],
    groups: Sequence[str],
    shares: Sequence[float],
    num_resamples: int = 1_000,
    seed: int = 0,
    grid_points: int = GRID_POINTS,
) -> list[ChainPoint]:
    """Every chain of two or more of the models, in their order, and each model alone, at each share of the last model's cost.

    names: of the K models. groups: (n,) key of each row of test.
    """
    keys, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    models = range(len(names))
    points = []
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(models, size):
            points += _points_of(calibration, test, chosen, names, shares, group_of_row, grid_points)
    return [_with_draws(point, sums, test, len(keys), num_resamples, seed) for point, sums in points]


def best_pair(points: Sequence[ChainPoint], share: float) -> ChainPoint | None:
    """The pair of models that is best on calibration at a cost; of equal ones the first. None where none keeps it."""
    pairs = [
        point for point in points if point.num_models == 2 and point.share == share and point.thresholds is not None
    ]
    return max(pairs, key=lambda point: point.calibration_quality) if pairs else None


def _points_of(
    calibration: Chain,
    test: Chain,
    chosen: tuple[int, ...],
    names: Sequence[str],
    shares: Sequence[float],
    group_of_row: NDArray[np.int64],
    grid_points: int,
) -> list[tuple[ChainPoint, FloatArray | None]]:
    """The points of one system, and the sums (G, k) of the chosen answers' statistics by group."""
    name = ARROW.join(names[model] for model in chosen)
    unit_calibration, unit_test = (float(chain.cost[-1].mean()) for chain in (calibration, test))
    found = front(calibration.part(chosen), grid_points=grid_points) if len(chosen) > 1 else None
    points: list[tuple[ChainPoint, FloatArray | None]] = []
    for share in shares:
        thresholds: tuple[float, ...] | None = None
        known = np.nan
        if found is None:
            if calibration.cost[chosen[0]].mean() <= share * unit_calibration * (1 + 1e-12):
                thresholds, known = (), calibration.metric.quality(calibration.statistics[chosen[0]])
        elif (index := found.best_within(share * unit_calibration)) is not None:
            thresholds, known = tuple(found.thresholds[index].tolist()), float(found.quality[index])
        is_exact = found is None or found.is_exact
        nothing = np.empty(0)
        if thresholds is None:
            missing = ChainPoint(name, len(chosen), share, known, None, np.nan, np.nan, nothing, is_exact)
            points.append((missing, None))
            continue
        if len(chosen) > 1:
            _, quality, rows, paid = test.part(chosen).realised(thresholds)
        else:
            rows, paid = test.statistics[chosen[0]], test.cost[chosen[0]]
            quality = test.metric.quality(rows)
        columns = np.asarray(rows, dtype=np.float64).T
        by_group = [np.bincount(group_of_row, weights=column) for column in columns]
        sums = np.stack(by_group, axis=1).astype(np.float64)
        cost = float(paid.mean()) / unit_test
        points.append((ChainPoint(name, len(chosen), share, known, thresholds, quality, cost, nothing, is_exact), sums))
    return points


def _with_draws(
    point: ChainPoint, sums: FloatArray | None, test: Chain, num_groups: int, num_resamples: int, seed: int
) -> ChainPoint:
    if sums is None:
        return ChainPoint(**{**vars(point), "draws": np.full(num_resamples, np.nan)})
    assert isinstance(test.metric, Additive)
    # einsum, not @: threads of a BLAS wait for one another wherever other trials keep the cores busy.
    draws = [
        test.metric.score(np.einsum("bg,gk->bk", counts.astype(np.float64), sums))
        for counts in group_counts(num_groups, num_resamples, seed, _RESAMPLES_AT_ONCE)
    ]
    return ChainPoint(**{**vars(point), "draws": np.concatenate(draws)})
