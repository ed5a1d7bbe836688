"""Uncertainty of curves and of their differences (docs/statistics.md). Group keys are resampled, never rows.

The draws depend on the number of distinct groups, num_resamples and seed alone, so systems on the same rows see the same
draws, in one call or in several: their draws may be subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics import Metric
from catsweep.cascade.order import Ids
from catsweep.cascade.ragged import FloatArray
from catsweep.cascade.resample import group_counts, prepare, resampled
from catsweep.cascade.student import two_sided_p, two_sided_quantile

CONFIDENCE = 0.95
_CELLS_IN_MEMORY = 1 << 16
"""Weights (resamples * rows) of one chunk, so that its arrays stay in cache: 0.5 MB each."""


@dataclass(frozen=True, eq=False)
class System:
    """One cascade on n rows: what its curve is computed from. ids: (n,) text or hashes; statistics: (n, k)."""

    ids: Ids
    small_statistics: FloatArray
    large_statistics: FloatArray
    uncertainty: FloatArray


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval and standard error."""

    value: float
    lower: float
    upper: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """audc and the quality of each model alone of one system, and their (B,) values on the resamples."""

    audc: float
    quality_small: float
    quality_large: float
    audc_draws: FloatArray
    quality_small_draws: FloatArray
    quality_large_draws: FloatArray

    @property
    def audc_interval(self) -> Interval:
        return percentile_interval(self.audc, self.audc_draws)

    @property
    def quality_small_interval(self) -> Interval:
        return percentile_interval(self.quality_small, self.quality_small_draws)

    @property
    def quality_large_interval(self) -> Interval:
        return percentile_interval(self.quality_large, self.quality_large_draws)


def bootstrap_curves(
    systems: Mapping[str, System],
    *,
    groups: Sequence[str] | NDArray[np.str_],
    metric: Metric,
    num_resamples: int = 1_000,
    seed: int = 0,
) -> dict[str, Bootstrap]:
    """Resampled audc and qualities of systems on the same rows, with the same draws for all.

    groups: (n,) key of each row, in the order of the systems' rows; whole groups are drawn, as many as there are, with
    replacement. A row that is drawn w times stands w times in its place of the order (its copies share the id's hash),
    and its audc is exactly that of the resampled table. Mean metrics take one pass of sums over the rows, others score
    the points of every resample. A quality that is not defined on a resample is NaN there. Raises ValueError where the
    numbers of rows differ, DataError where a question of multirc_em lies in two groups.
    """
    keys, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    prepared = {
        name: prepare(
            ids=system.ids,
            small_statistics=system.small_statistics,
            large_statistics=system.large_statistics,
            uncertainty=system.uncertainty,
            group_of_row=group_of_row,
            num_groups=len(keys),
            metric=metric,
        )
        for name, system in systems.items()
    }
    once = np.ones((1, len(keys)), dtype=np.int64)
    parts: dict[str, list[FloatArray]] = {name: [resampled(once, item)] for name, item in prepared.items()}
    for counts in draw_groups(len(keys), len(group_of_row), num_resamples, seed):
        for name, item in prepared.items():
            parts[name].append(resampled(counts, item))
    return {name: _bootstrap(np.concatenate(values)) for name, values in parts.items()}


def draw_groups(num_groups: int, num_rows: int, num_resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """(b, G) how often each resample draws each group, in chunks; the same for all that is computed on these rows."""
    return group_counts(num_groups, num_resamples, seed, max(1, _CELLS_IN_MEMORY // num_rows))


def percentile_interval(value: float, draws: FloatArray) -> Interval:
    """The estimate with the central 95% of its draws, of those that are defined; without bounds (NaN) where it is not
    defined itself."""
    tail = (1 - CONFIDENCE) / 2
    draws = draws[~np.isnan(draws)]
    if math.isnan(value) or len(draws) < 2:
        return Interval(value, math.nan, math.nan, math.nan)
    lower, upper = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(lower), float(upper), float(draws.std(ddof=1)))


def _bootstrap(values: FloatArray) -> Bootstrap:
    """values: (1+B, 3) of the table itself and of its resamples, as `resample.resampled` gives them."""
    area, small, large = values.T
    return Bootstrap(float(area[0]), float(small[0]), float(large[0]), area[1:], small[1:], large[1:])


@dataclass(frozen=True)
class TaskDifference:
    """Mean over seeds of a task's paired differences. Variances are those of this mean.

    example_variance: from which examples were drawn. seed_variance: from which seeds were; None with one seed, and the
    interval then holds for that seed only.
    """

    value: float
    lower: float
    upper: float
    p_value: float
    example_variance: float
    seed_variance: float | None
    num_seeds: int


def task_difference(differences: ArrayLike, draws: ArrayLike) -> TaskDifference:
    """The difference of two systems on one task, with its interval and two-sided p.

    differences: (m,) paired difference of each seed. draws: (m, B) their bootstrap draws, the same resamples for all.
    Resamples on which any is not defined are left out; where a difference itself is not, all but num_seeds is NaN.

    The variance is the sum of an example part and a seed part; see `half_width`.
    """
    values, resampled = np.asarray(differences, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    num_seeds = len(values)
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if np.isnan(values).any() or resampled.shape[1] < 2:
        return TaskDifference(math.nan, math.nan, math.nan, math.nan, math.nan, None, num_seeds)
    example_variance = float(resampled.mean(axis=0).var(ddof=1))
    seed_variance = float(values.var(ddof=1) / num_seeds) if num_seeds > 1 else None
    value = float(values.mean())

    half = half_width(example_variance, seed_variance or 0.0, num_seeds)
    p_value = _p_value(abs(value), example_variance, seed_variance or 0.0, num_seeds - 1)
    return TaskDifference(value, value - half, value + half, p_value, example_variance, seed_variance, num_seeds)


def half_width(example_variance: float, seed_variance: float, num_seeds: int) -> float:
    """Half of a task's 95% interval: sqrt(z^2 Var_examples + t_{m-1}^2 Var_seeds), variances of the mean over m seeds.

    Each part counts with its own quantile: the normal one for examples, Student's at m - 1 degrees for seeds. Such an interval
    never holds the truth less often than in 95 of 100 cases (Banerjee, Sankhya A 23, 1961); docs/statistics.md compares it
    with t_{m-1}, and with Satterthwaite's degrees, on the whole variance. [ours]
    """
    square = two_sided_quantile(CONFIDENCE, math.inf) ** 2 * example_variance
    if num_seeds > 1:
        square += two_sided_quantile(CONFIDENCE, num_seeds - 1) ** 2 * seed_variance
    return math.sqrt(square)


def _p_value(distance: float, example_variance: float, seed_variance: float, degrees: int) -> float:
    """The level at which the interval just reaches so far: 1 - p is the confidence of the half width `distance`."""
    if distance == 0:
        return 1.0
    if seed_variance == 0:
        return two_sided_p(distance / math.sqrt(example_variance), math.inf) if example_variance else 0.0
    low, high = 0.0, distance / math.sqrt(seed_variance)  # of Student's quantile
    for _ in range(60):
        t = (low + high) / 2
        z = -NormalDist().inv_cdf(max(two_sided_p(t, degrees) / 2, 1e-300))
        wide = z * z * example_variance + t * t * seed_variance > distance * distance
        low, high = (low, t) if wide else (t, high)
    return two_sided_p((low + high) / 2, degrees)


@dataclass(frozen=True)
class MacroDifference:
    """A difference over all tasks: kinds weigh equally, then tasks in a kind. by_kind: the mean of each kind."""

    value: float
    lower: float
    upper: float
    p_value: float
    by_kind: dict[str, float]


def macro_weights(kinds: Sequence[str]) -> FloatArray:
    """(T,) weight of each task in a macro mean: kinds weigh equally, then tasks in a kind. They sum to 1."""
    _, kind_of_task, sizes = np.unique(np.asarray(kinds), return_inverse=True, return_counts=True)
    weights: FloatArray = 1.0 / (len(sizes) * sizes[kind_of_task])
    return weights


def macro_mean(kinds: Sequence[str], values: ArrayLike) -> float:
    """The macro mean of one number a task."""
    return float(macro_weights(kinds) @ np.asarray(values, dtype=np.float64))


def macro_difference(
    kinds: Sequence[str], differences: ArrayLike, *, num_resamples: int = 10_000, seed: int = 0
) -> MacroDifference:
    """The macro mean of the differences of T >= 1 tasks; bootstrap over kinds, then over the tasks of each drawn kind.

    kinds: (T,). differences: (T,) in units of quality/scale. The draws' distances from the estimate are stretched by
    sqrt(K/(K-1)) t_{K-1}/z for K kinds (of a single kind: for its T tasks): a bootstrap of few units is too narrow, of three
    it would hold the truth in 3 of 4 cases (docs/statistics.md). [ours] With one task there is no interval: NaN.
    p_value: two-sided, twice the smaller share of draws at or beyond 0, counting the estimate as one draw more, so that it
    is never 0. [ours]
    """
    values = np.asarray(differences, dtype=np.float64)
    names, kind_of_task = np.unique(np.asarray(kinds), return_inverse=True)
    by_kind = np.bincount(kind_of_task, weights=values) / np.bincount(kind_of_task)
    kind_means = dict(zip(names.tolist(), by_kind.tolist(), strict=True))
    value = float(by_kind.mean())
    num_units = len(names) if len(names) > 1 else len(values)
    if num_units < 2:
        return MacroDifference(value, math.nan, math.nan, math.nan, kind_means)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(names), size=(num_resamples, len(names)))
    means = np.empty(drawn.shape)
    for kind in range(len(names)):
        tasks = values[kind_of_task == kind]
        slots = drawn == kind
        means[slots] = tasks[random.integers(0, len(tasks), size=(int(slots.sum()), len(tasks)))].mean(axis=1)
    draws = value + small_sample_factor(num_units) * (means.mean(axis=1) - value)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    interval = percentile_interval(value, draws)
    p_value = min(1.0, 2 * (tail + 1) / (num_resamples + 1))
    return MacroDifference(value, interval.lower, interval.upper, p_value, kind_means)


def small_sample_factor(num_units: int) -> float:
    """sqrt(K/(K-1)) t_{K-1}/z: how much wider than a bootstrap's percentiles the 95% interval of a mean of K units is.

    The first part since a bootstrap of K values divides their squares by K, the second since their variance is estimated.
    """
    quantiles = two_sided_quantile(CONFIDENCE, num_units - 1) / two_sided_quantile(CONFIDENCE, math.inf)
    return math.sqrt(num_units / (num_units - 1)) * quantiles


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of n values with Student's interval at n - 1 degrees; without bounds (NaN) where n < 2."""
    found = np.asarray(values, dtype=np.float64)
    value = float(found.mean())
    if len(found) < 2:
        return Interval(value, math.nan, math.nan, math.nan)
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    half = two_sided_quantile(CONFIDENCE, len(found) - 1) * error
    return Interval(value, value - half, value + half, error)


def mean_ranks(kinds: Sequence[str], qualities: ArrayLike) -> FloatArray:
    """(S,) macro mean over tasks of each system's rank: 1 is best, equal ones share the mean of their places (Friedman).

    kinds: (T,). qualities: (T, S), higher is better. Kinds weigh equally, then tasks.
    """
    values = np.asarray(qualities, dtype=np.float64)
    better = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks: FloatArray = macro_weights(kinds) @ (better + (equal + 1) / 2)
    return ranks


def holm(p_values: ArrayLike) -> FloatArray:
    """(m,) p-values adjusted for m tests by Holm's step-down: below alpha iff rejected at family-wise level alpha."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
