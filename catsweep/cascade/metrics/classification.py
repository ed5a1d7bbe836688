"""Metrics of classes: F1 of one class, macro-F1 and Matthews' correlation, as scikit-learn defines them.

Answers are classes as they stand, without whitespace around them; an answer that is no class of the data, or is empty,
is a class of its own that is never right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics.base import Additive, dense, divide, only_reference, text_code
from catsweep.cascade.metrics.cells import CellMetric, cell_counts, expected_empty
from catsweep.cascade.ragged import FloatArray


@dataclass(frozen=True)
class BinaryF1(Additive):
    """F1 of the class `positive`; every other answer is negative. Statistics: both positive, answer, reference positive.

    0 where no answer and no reference is positive, as scikit-learn. MultiRC's F1a is this over all candidate answers.
    """

    name: Literal["f1", "multirc_f1a"]
    positive: str
    is_strict = True
    num_statistics = 3

    @property
    def signature(self) -> str:
        return f"{self.name}|positive:{self.positive}"

    def signature_for(self, num_references: int) -> str:
        return self.signature

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        wanted = only_reference(self.name, references, "one right class")
        given, positive = output.strip() == self.positive.strip(), wanted == self.positive.strip()
        return [float(given and positive), float(given), float(positive)]

    def right(self, statistics: ArrayLike) -> FloatArray:
        values = np.asarray(statistics, dtype=np.float64)
        return np.equal(values[:, 1], values[:, 2]).astype(np.float64)

    def score(self, sums: ArrayLike) -> FloatArray:
        values = np.asarray(sums, dtype=np.float64)
        return divide(2 * values[..., 0], values[..., 1] + values[..., 2], empty=0.0)


class ClassMetric(CellMetric):
    """A metric of the confusion matrix. Statistics: codes of the right class and of the answer; cells are the classes.

    The counts of a class: right answers, answers, references.
    """

    name: str
    is_strict = True
    num_statistics = 2
    num_counts = 3

    @property
    def signature(self) -> str:
        return self.name

    def signature_for(self, num_references: int) -> str:
        return self.signature

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        wanted = only_reference(self.name, references, "one right class")
        return [text_code(wanted), text_code(output.strip())]

    def right(self, statistics: ArrayLike) -> FloatArray:
        values = np.asarray(statistics, dtype=np.float64)
        return np.equal(values[:, 0], values[:, 1]).astype(np.float64)

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        first, second = np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)
        (wanted, given, other), _ = dense(first[:, 0], first[:, 1], second[:, 1])
        if (first[:, 0] != second[:, 0]).any():
            raise ValueError(f"{self.name}: the rows of the two models have different references")
        one, two = np.stack([wanted, given], axis=1), np.stack([wanted, other], axis=1)
        return one.astype(np.float64), two.astype(np.float64)

    def parts(self, rows: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """The answer's class, then the reference's."""
        cells = rows[:, ::-1].astype(np.int64)
        changes = np.zeros((len(rows), 2, 3))
        changes[:, 0, 0] = cells[:, 0] == cells[:, 1]
        changes[:, 0, 1] = changes[:, 1, 2] = 1
        return cells, changes

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """As `Additive.gain`: the change when this row alone is swapped, all other rows counting half from each model."""
        (small_cells, small_changes), (large_cells, large_changes) = self.parts(small), self.parts(large)
        middle = self._middle(small, large, 0.5)
        base = self.value(middle).sum(axis=0)
        swapped = []
        for sign in (0.5, -0.5):
            sums = np.tile(base, (len(small), 1))
            # The references' parts are the same. Where the answers' classes are, nothing changes; else they are two cells.
            for cells, changes, way in ((small_cells, small_changes, -sign), (large_cells, large_changes, sign)):
                counts = middle[cells[:, 0]]
                sums += self.value(counts + way * changes[:, 0]) - self.value(counts)
            swapped.append(self.score(sums))
        return np.where(small[:, 1] == large[:, 1], 0.0, len(small) * (swapped[0] - swapped[1]))

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """The score of the expected counts, off by O(1/n). [ours]"""
        return np.array([self.score(self.value(self._middle(small, large, share)).sum(axis=0)) for share in shares])

    def _middle(self, small: FloatArray, large: FloatArray, share: float) -> FloatArray:
        """(C, 3) counts with each row's answer taken from the large model by a share, else from the small one."""
        num_cells = 1 + int(max(small.max(), large.max()))
        first, second = (cell_counts(*self.parts(rows), num_cells) for rows in (small, large))
        return (1 - share) * first + share * second


@dataclass(frozen=True)
class MacroF1(ClassMetric):
    """Mean F1 of the classes that occur, as references or as answers, in the rows that are judged (scikit-learn's
    average="macro"). A wrong answer that is no class of the data is one more class with an F1 of 0."""

    name = "macro_f1"

    def value(self, counts: FloatArray) -> FloatArray:
        together = counts[..., 1] + counts[..., 2]
        return np.stack([divide(2 * counts[..., 0], together, empty=0.0), together > 0], axis=-1)

    def score(self, sums: FloatArray) -> FloatArray:
        return divide(sums[..., 0], sums[..., 1], empty=np.nan)

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """The F1 of the expected counts, over the expected number of classes that occur; off by O(1/n). [ours]"""
        num_cells = 1 + int(max(small.max(), large.max()))
        wanted, given, other = small[:, 0].astype(int), small[:, 1].astype(int), large[:, 1].astype(int)
        outside = np.bincount(wanted, minlength=num_cells) == 0
        both = np.bincount(given[given == other], minlength=num_cells)
        small_only, large_only = (np.bincount(column, minlength=num_cells) - both for column in (given, other))
        missing = expected_empty(small_only[outside], large_only[outside], both[outside], shares)
        first, second = (cell_counts(*self.parts(rows), num_cells) for rows in (small, large))
        sums = np.array([self.value((1 - s) * first + s * second)[:, 0].sum() for s in shares])
        result: FloatArray = sums / (num_cells - missing)
        return result


@dataclass(frozen=True)
class Matthews(ClassMetric):
    """Matthews' correlation coefficient in [-1, 1], for two classes or more (Gorodkin's R_K).

    0 where all answers or all references are one class, as scikit-learn.
    """

    name = "matthews"
    lowest = -1.0

    def value(self, counts: FloatArray) -> FloatArray:
        right, given, wanted = np.moveaxis(counts, -1, 0)
        return np.stack([right, given * wanted, given**2, wanted**2, wanted], axis=-1)

    def score(self, sums: FloatArray) -> FloatArray:
        right, products, given, wanted, total = np.moveaxis(sums, -1, 0)
        spread = np.sqrt((total**2 - given) * (total**2 - wanted))
        return divide(right * total - products, spread, empty=0.0)
