"""How well an uncertainty knows where the small model is wrong: AURC, AUROC, ECE, and AIQ of the whole cascade."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from catsweep.cascade.curve import Curve
from catsweep.cascade.metrics import Metric
from catsweep.cascade.ragged import FloatArray


def correctness(statistics: ArrayLike, metric: Metric) -> FloatArray | None:
    """(n,) 1 where an answer is fully right, else 0; None for metrics that call no answer right: BLEU, chrF, correlations."""
    return metric.right(statistics)


def aurc(curve: Curve) -> float:
    """Area under risk against coverage of the small model alone, in [0, 1]; lower is better.

    Risk is 1 - quality/scale of what is kept; the mean over coverages 1/n .. 1, where the quality is defined.
    """
    risk = 1 - curve.small_kept_quality[:-1] / curve.scale
    defined = risk[~np.isnan(risk)]
    return float(defined.mean()) if len(defined) else float("nan")


def auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float | None:
    """Chance that a wrong answer is more uncertain than a right one, ties half. None unless both kinds occur.

    uncertainty: (n,). correct: (n,) 1 or True where right.
    """
    score, right = np.asarray(uncertainty, dtype=np.float64), np.asarray(correct, dtype=bool)
    num_right, num_wrong = int(right.sum()), int((~right).sum())
    if num_right == 0 or num_wrong == 0:
        return None
    ordered = np.sort(score[right])
    below = np.searchsorted(ordered, score[~right], side="left")
    up_to = np.searchsorted(ordered, score[~right], side="right")
    return float((below.sum() + up_to.sum()) / 2 / (num_right * num_wrong))


def ece(uncertainty: ArrayLike, correct: ArrayLike, *, num_bins: int = 15) -> float:
    """Expected calibration error in [0, 1] of the confidence exp(-r), over bins of equal width.

    uncertainty: (n,) r >= 0 in nats, n >= 1. correct: (n,) in [0, 1]. Bin b holds ((b-1)/num_bins, b/num_bins].
    Raises ValueError for a negative uncertainty, whose exp(-r) is no probability.
    """
    score, right = np.asarray(uncertainty, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if score.min() < 0:
        raise ValueError(f"ece needs uncertainties of at least 0; found {score.min()}")
    confidence = np.exp(-score)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=right, minlength=num_bins) - np.bincount(bins, confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(score))


def aiq(curve: Curve) -> float | None:
    """Average improvement in quality: mean height of the non-decreasing hull of the operating points over their costs.

    In [0, scale]; the range of costs is that of the curve, from the small model alone to deferring everything
    (RouterBench, arXiv 2403.12031). None where all points cost the same.
    """
    shown = curve.is_threshold & ~np.isnan(curve.quality)
    cost, quality = curve.cost[shown], curve.quality[shown]
    if len(cost) == 0 or cost[-1] <= cost[0]:
        return None
    best_so_far = np.maximum.accumulate(quality)
    record = np.concatenate([[True], best_so_far[1:] > best_so_far[:-1]])
    hull_cost, hull_quality = _upper_hull(
        np.append(cost[record], cost[-1]), np.append(quality[record], best_so_far[-1])
    )
    area = np.sum(np.diff(hull_cost) * (hull_quality[1:] + hull_quality[:-1]) / 2)
    return float(area / (cost[-1] - cost[0]))


def _upper_hull(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The corners of the upper hull of points whose x never falls (Andrew's monotone chain)."""
    hull: list[tuple[float, float]] = []
    for point in zip(x.tolist(), y.tolist(), strict=True):
        while len(hull) > 1 and _turns_left(hull[-2], hull[-1], point):
            hull.pop()
        if hull and hull[-1][0] == point[0]:
            hull[-1] = (point[0], max(point[1], hull[-1][1]))
        else:
            hull.append(point)
    corners = np.array(hull)
    return corners[:, 0], corners[:, 1]


def _turns_left(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether the middle point lies on or below the chord from the first to the last."""
    rise = (middle[0] - first[0]) * (last[1] - first[1]) - (middle[1] - first[1]) * (last[0] - first[0])
    return rise >= 0
