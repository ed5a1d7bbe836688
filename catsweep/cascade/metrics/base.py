"""What a metric is: statistics of each answer, and from two models' statistics the quality of every mix of them.

A quality is a function of a set of answers. Most metrics are functions of sums over rows (`Additive`), so that all n+1
points of a curve follow from running sums; the others bring their own exact or gridded way to the same arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError


class Path(NamedTuple):
    """Quality along a deferral order, each (n+1,): index k = the first k rows are answered by the large model.

    quality: of the mix. small_kept: of the small model on the other rows, NaN at k = n. large_deferred: of the large model
    on the first k rows, NaN at k = 0.
    """

    quality: FloatArray
    small_kept: FloatArray
    large_deferred: FloatArray


class Metric(Protocol):
    """How answers are judged.

    name: as in a task's YAML. scale: the largest quality, 1 or 100; lowest: the smallest, 0 or -1. is_mean: quality is the
    mean of a value of each row. num_statistics: k. signature: what fixes the number, for one reference (`signature_for`
    has others). needs_key: rows belong to questions, whose keys `statistics` must be given. is_strict: not every reference is
    one that it can use.

    `statistics` are what rows on storage hold. `align` makes of two models' statistics what all other methods take; there,
    rows stand in deferral order. A quality that is not defined (no rows; a correlation of equal values) is NaN.
    """

    @property
    def name(self) -> str: ...
    @property
    def scale(self) -> float: ...
    @property
    def lowest(self) -> float: ...
    @property
    def is_mean(self) -> bool: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def needs_key(self) -> bool: ...
    @property
    def is_strict(self) -> bool: ...
    @property
    def num_statistics(self) -> int: ...
    @property
    def signature(self) -> str: ...

    def signature_for(self, num_references: int) -> str:
        """The signature for so many references an answer; -1: it varies."""
        ...

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        """k numbers of one answer. Several references are alternatives. Raises DataError for references that the metric
        cannot use, and where it needs a key and there is none."""
        ...

    def quality(self, statistics: ArrayLike) -> float:
        """Quality of one model's answers, from their statistics (n, k)."""
        ...

    def right(self, statistics: ArrayLike) -> FloatArray | None:
        """(n,) 1 where an answer is fully right, else 0; None for metrics that call no answer right."""
        ...

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Two models' statistics (n, k) of the same rows as the arrays (n, j) that the methods below take."""
        ...

    def path(self, small: FloatArray, large: FloatArray) -> Path:
        """Quality along the order of the rows."""
        ...

    def mixed(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """(n+1,) the quality of `path` alone."""
        ...

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """(n,) what deferring each row gains, in the metric's unit: n times its effect on the quality of all n."""
        ...

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """(m,) quality after deferring each of the shares (m,) of the rows at random."""
        ...

    def drawn(self, rows: FloatArray, weights: NDArray[np.int64]) -> FloatArray:
        """The resampled table in which each row stands so many times, its copies side by side."""
        ...

    def facts(self, small: ArrayLike, large: ArrayLike) -> dict[str, int]:
        """What a reader of a curve must know besides, from both models' statistics; empty where there is nothing.

        num_points: at how many points of the curve the quality was computed, where not at all; between them it is
        interpolated. num_unreadable_small, num_unreadable_large: answers that are no number.
        """
        ...


class Base:
    """What most metrics have in common. Subclasses are frozen dataclasses of their settings."""

    scale = 1.0
    lowest = 0.0
    is_mean = False
    higher_is_better = True
    needs_key = False
    is_strict = False

    def right(self, statistics: ArrayLike) -> FloatArray | None:
        return None

    def drawn(self, rows: FloatArray, weights: NDArray[np.int64]) -> FloatArray:
        return take_rows(rows, np.repeat(np.arange(len(rows)), weights))

    def facts(self, small: ArrayLike, large: ArrayLike) -> dict[str, int]:
        return {}


class Additive(Base):
    """A metric that is a function, `score`, of sums over rows: exact at every point of a curve, in time O(n k)."""

    def score(self, sums: ArrayLike) -> FloatArray:
        """(...) quality of sums (..., j) of aligned statistics over the rows of each corpus."""
        raise NotImplementedError

    def quality(self, statistics: ArrayLike) -> float:
        rows, _ = self.align(statistics, statistics)
        return float(self.score(rows.sum(axis=0)))

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        return np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)

    def path(self, small: FloatArray, large: FloatArray) -> Path:
        # What is kept is summed from the end: subtracting from the total would leave noise where little is kept.
        kept, taken = prefix_sums(small[::-1])[::-1], prefix_sums(large)
        path = Path(self.score(kept + taken), self.score(kept), self.score(taken))
        path.small_kept[-1] = path.large_deferred[0] = np.nan
        return path

    def mixed(self, small: FloatArray, large: FloatArray) -> FloatArray:
        return self.score(prefix_sums(small[::-1])[::-1] + prefix_sums(large))

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """The change of the score when this row alone is swapped, all other rows counting half from each model. [ours]
        A score of one sentence would ignore brevity and smoothing."""
        middle, half_step = (small.sum(axis=0) + large.sum(axis=0)) / 2, (large - small) / 2
        return len(small) * np.nan_to_num(self.score(middle + half_step) - self.score(middle - half_step))

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """The score of the expected sums: exact for means, else off by O(1/n). [ours]"""
        share = shares[:, None]
        return self.score((1 - share) * small.sum(axis=0) + share * large.sum(axis=0))


def take_rows(rows: FloatArray, places: NDArray[np.int64]) -> FloatArray:
    """(m, j) some rows, column by column in memory: what follows runs along the columns."""
    return np.asfortranarray(rows.take(places, axis=0))  # take(): seven times as fast as indexing for two columns


def prefix_sums(rows: FloatArray) -> FloatArray:
    """(n+1, ...) sums of the first k rows, column by column in memory."""
    sums = np.zeros((len(rows) + 1, *rows.shape[1:]), order="F")
    np.cumsum(rows, axis=0, out=sums[1:])
    return sums


def area(quality: FloatArray) -> float:
    """Trapezoid under n+1 points at equal distances, divided by n. A point that is not defined counts 0. [ours]

    Only correlations have such points: answers that are all equal tell nothing about the order of the references.
    """
    values = np.nan_to_num(quality)
    return float(np.mean((values[1:] + values[:-1]) / 2))


def divide(part: FloatArray, whole: FloatArray, *, empty: float) -> FloatArray:
    """part / whole, and `empty` where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):  # to divide all is ten times as fast as to divide a part
        quotient = np.asarray(np.divide(part, whole))
    quotient[np.equal(whole, 0)] = empty
    return quotient


def need_references(name: str, references: Sequence[str]) -> None:
    """Raises DataError unless there is at least one reference."""
    if isinstance(references, str) or not references:
        raise DataError(f"{name}: found the references {references!r}; expected a list of one or more accepted answers")


def only_reference(name: str, references: Sequence[str], wanted: str) -> str:
    """The one reference of a row, without whitespace around it. Raises DataError where there are several."""
    need_references(name, references)
    distinct = {reference.strip() for reference in references}
    if len(distinct) > 1:
        raise DataError(
            f"{name}: found {len(distinct)} references, {str(list(references))[:100]}; expected {wanted}. "
            "Metrics with alternatives are accuracy, token_f1, squad_em, bleu, chrf and rouge"
        )
    return distinct.pop()


def equal_text(output: str, reference: str) -> float:
    """1 where the texts are equal but for whitespace around them, else 0: accuracy and exact match. [ours]"""
    return float(output.strip() == reference.strip())


def text_code(text: str) -> float:
    """A whole number below 2**53, exact as a float, that stands for a text. Two texts share one by a chance of 1e-16."""
    return float(int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 11)


def dense(*columns: NDArray[Any]) -> tuple[list[NDArray[np.int64]], int]:
    """Each column's values as their ranks 0..V-1 among the distinct values of all columns, and V."""
    values = np.unique(np.concatenate(columns))
    return [np.searchsorted(values, column) for column in columns], len(values)
