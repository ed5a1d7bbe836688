"""Correlations of answers that are numbers with the references.

An answer that is no number counts as the mean of the references, which tells nothing about their order, and is counted.
[ours] (T5's script takes -1, an outlier that lowers Pearson's correlation by as much as the scale makes it.) Where all
answers or all references are equal there is no correlation: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics.base import Additive, Base, Path, dense, divide, only_reference
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError

MAX_NUMBER = 1e12
"""Larger numbers do not count as numbers: squares of them would swallow all others in a sum."""
GRID_POINTS = 101
"""A rank correlation's curve is computed at so many points at most."""
_CELLS_IN_MEMORY = 1 << 20
_RELATIVE_NOISE = 1e-12
"""A variance below this share of the mean square is rounding: the values are equal."""


def read_number(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= MAX_NUMBER else None


class _Numbers:
    """Statistics: the answer as a number, NaN where it is none; the reference."""

    name: str
    num_statistics = 2

    @property
    def signature(self) -> str:
        return self.name

    def signature_for(self, num_references: int) -> str:
        return self.signature

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        wanted = read_number(text := only_reference(self.name, references, "one number"))
        if wanted is None:
            raise DataError(f"{self.name}: found the reference {text!r}; expected a number, such as 3.8")
        given = read_number(output)
        return [math.nan if given is None else given, wanted]

    def facts(self, small: ArrayLike, large: ArrayLike) -> dict[str, int]:
        counts = {"num_unreadable_small": small, "num_unreadable_large": large}
        return {name: int(np.isnan(np.asarray(rows)[:, 0]).sum()) for name, rows in counts.items()}

    def _filled(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(n,) the answers of both models, with a number for each, and the references."""
        first, second = np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)
        if (first[:, 1] != second[:, 1]).any():
            raise ValueError(f"{self.name}: the rows of the two models have different references")
        mean = first[:, 1].mean()
        one, two = (np.where(np.isnan(rows[:, 0]), mean, rows[:, 0]) for rows in (first, second))
        return one, two, first[:, 1]


@dataclass(frozen=True)
class Pearson(_Numbers, Additive):
    """Pearson's correlation coefficient in [-1, 1], by sums of the six moments 1, x, y, xx, yy, xy of each row."""

    name = "pearson"
    lowest = -1.0
    is_strict = True

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """The moments of each row. x and y are shifted by their means over the table: a correlation does not see it, while
        without it the moments of numbers far from 0 would differ in their last digits only."""
        one, two, wanted = self._filled(small, large)
        shift, wanted = (one.mean() + two.mean()) / 2, wanted - wanted.mean()
        return moments(one - shift, wanted), moments(two - shift, wanted)

    def score(self, sums: ArrayLike) -> FloatArray:
        return correlation(np.asarray(sums, dtype=np.float64))


@dataclass(frozen=True)
class Spearman(_Numbers, Base):
    """Spearman's rank correlation coefficient in [-1, 1]; equal values share the mean of their ranks.

    Every deferral can change all ranks, so curves are computed at no more than GRID_POINTS points, evenly spread from
    k = 0 to n, and are straight between them (`facts` says so); up to 100 rows every point is computed.
    Aligned rows: the answer's and the reference's places 0, 1, ... among the distinct values of the table.
    """

    name = "spearman"
    lowest = -1.0
    is_strict = True

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        one, two, wanted = self._filled(small, large)
        (first, second), _ = dense(one, two)
        (place,), _ = dense(wanted)
        aligned = [np.stack([column, place], axis=1).astype(np.float64) for column in (first, second)]
        return aligned[0], aligned[1]

    def quality(self, statistics: ArrayLike) -> float:
        rows, _ = self.align(statistics, statistics)
        return self._of(rows)

    def facts(self, small: ArrayLike, large: ArrayLike) -> dict[str, int]:
        num_points = len(grid(len(np.asarray(small))))
        gridded = {} if num_points > len(np.asarray(small)) else {"num_points": num_points}
        return gridded | super().facts(small, large)

    def path(self, small: FloatArray, large: FloatArray) -> Path:
        n = len(small)
        points = grid(n)
        kept = np.array([self._of(small[k:]) for k in points])
        taken = np.array([self._of(large[:k]) for k in points])
        every = np.arange(n + 1)
        return Path(self.mixed(small, large), np.interp(every, points, kept), np.interp(every, points, taken))

    def mixed(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """At each point of the grid the ranks follow from how often each value occurs, and their product with the
        references' ranks, which no deferral changes, from the sum of these over the rows of each value."""
        n, points = len(small), grid(len(small))
        wanted = centred_ranks(np.bincount(small[:, 1].astype(np.int64)).astype(np.float64))[
            small[:, 1].astype(np.int64)
        ]
        first, second = small[:, 0].astype(np.int64), large[:, 0].astype(np.int64)
        num_values = 1 + int(max(first.max(), second.max()))
        counts = np.bincount(first, minlength=num_values).astype(np.float64)
        sums = np.bincount(first, weights=wanted, minlength=num_values)
        quality = np.empty(len(points))
        quality[0] = self._score(counts, sums, wanted)
        block = max(1, _CELLS_IN_MEMORY // num_values)
        for start in range(1, len(points), block):
            mine = points[start : start + block]
            rows = np.arange(points[start - 1], mine[-1])
            step = np.searchsorted(mine, rows, side="right") * num_values
            cells = np.concatenate([step + first[rows], step + second[rows]])
            signs = np.concatenate([-np.ones(len(rows)), np.ones(len(rows))])
            size, shape = len(mine) * num_values, (len(mine), num_values)
            more = np.bincount(cells, weights=signs, minlength=size).reshape(shape).cumsum(axis=0)
            products = signs * np.concatenate([wanted[rows]] * 2)
            changed = np.bincount(cells, weights=products, minlength=size).reshape(shape).cumsum(axis=0)
            quality[start : start + block] = self._score(counts + more, sums + changed, wanted)
            counts, sums = counts + more[-1], sums + changed[-1]
        return np.interp(np.arange(n + 1), points, quality)

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """As Pearson's, of the answers' ranks among the answers of both models. [ours]"""
        first, second, place = (column.astype(np.int64) for column in (small[:, 0], large[:, 0], small[:, 1]))
        ranks = centred_ranks(np.bincount(np.concatenate([first, second])).astype(np.float64))
        wanted = centred_ranks(np.bincount(place).astype(np.float64))[place]
        return Pearson().gain(moments(ranks[first], wanted), moments(ranks[second], wanted))

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """The score of the expected counts of each value, off by O(1/n). [ours]"""
        first, second, place = (column.astype(np.int64) for column in (small[:, 0], large[:, 0], small[:, 1]))
        wanted = centred_ranks(np.bincount(place).astype(np.float64))[place]
        num_values = 1 + int(max(first.max(), second.max()))
        counts = [np.bincount(values, minlength=num_values) for values in (first, second)]
        sums = [np.bincount(values, weights=wanted, minlength=num_values) for values in (first, second)]
        found = [
            self._score((1 - s) * counts[0] + s * counts[1], (1 - s) * sums[0] + s * sums[1], wanted) for s in shares
        ]
        return np.array(found)

    def _of(self, rows: FloatArray) -> float:
        """The correlation of these rows alone."""
        if len(rows) == 0:
            return math.nan
        given, place = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
        wanted = centred_ranks(np.bincount(place).astype(np.float64))[place]
        return float(self._score(np.bincount(given), np.bincount(given, weights=wanted), wanted))

    @staticmethod
    def _score(counts: NDArray[Any], sums: NDArray[Any], wanted: FloatArray) -> FloatArray:
        """(...) the correlation where value v occurs counts[..., v] times and the centred ranks of the references of its
        rows sum to sums[..., v]. wanted: (n,) the centred ranks of all references."""
        ranks = centred_ranks(counts.astype(np.float64))
        spread = np.sqrt((counts * ranks**2).sum(axis=-1) * (wanted**2).sum())
        return divide((ranks * sums).sum(axis=-1), spread, empty=np.nan)


def grid(n: int) -> NDArray[np.int64]:
    """The numbers of deferred queries at which a curve of n rows is computed: all, or GRID_POINTS of them."""
    return np.unique(np.linspace(0, n, min(n + 1, GRID_POINTS)).round().astype(np.int64))


def centred_ranks(counts: FloatArray) -> FloatArray:
    """(..., V) the rank of each value that occurs counts (..., V) times, values rising, minus the mean rank."""
    ranks: FloatArray = np.cumsum(counts, axis=-1) - counts / 2 - counts.sum(axis=-1, keepdims=True) / 2
    return ranks


def moments(x: FloatArray, y: FloatArray) -> FloatArray:
    """(n, 6) 1, x, y, xx, yy, xy of each row."""
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def correlation(sums: FloatArray) -> FloatArray:
    """(...) Pearson's correlation from sums (..., 6) of moments; NaN where one side's values are equal."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    defined = (spread_x > _RELATIVE_NOISE * n * xx) & (spread_y > _RELATIVE_NOISE * n * yy)
    spread = np.sqrt(np.where(defined, spread_x, 0.0)) * np.sqrt(np.where(defined, spread_y, 0.0))
    return np.clip(divide(n * xy - x * y, spread, empty=np.nan), -1.0, 1.0)
