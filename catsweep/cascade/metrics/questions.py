"""MultiRC's exact match: the share of questions all of whose rows are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics.base import dense, divide, equal_text, need_references, text_code
from catsweep.cascade.metrics.cells import CellMetric, expected_empty
from catsweep.cascade.ragged import FloatArray
from catsweep.errors import DataError


@dataclass(frozen=True)
class QuestionMatch(CellMetric):
    """Share of questions all of whose rows that are judged are right. Statistics: right or not, code of the question.

    Cells are the questions; their counts: wrong rows, rows. All rows of a question must lie in one group.
    """

    name = "multirc_em"
    needs_key = True
    is_strict = True
    num_statistics = 2
    num_counts = 2

    @property
    def signature(self) -> str:
        return self.name

    def signature_for(self, num_references: int) -> str:
        return self.signature

    def statistics(self, output: str, references: Sequence[str], key: str | None = None) -> list[float]:
        need_references(self.name, references)
        if key is None:
            raise DataError(
                f"{self.name}: found no key of the question; expected one. In a task: the column `question_key`, or "
                "`key: ...` of the metric; in a table: the column `key`"
            )
        return [max(equal_text(output, reference) for reference in references), text_code(key)]

    def right(self, statistics: ArrayLike) -> FloatArray:
        return np.asarray(statistics, dtype=np.float64)[:, 0]

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Wrong or not, and the question as 0, 1, ..."""
        first, second = np.asarray(small, dtype=np.float64), np.asarray(large, dtype=np.float64)
        if (first[:, 1] != second[:, 1]).any():
            raise ValueError(f"{self.name}: the rows of the two models have different questions")
        (question,), _ = dense(first[:, 1])
        one, two = (np.stack([1 - rows[:, 0], question], axis=1) for rows in (first, second))
        return one, two

    def drawn(self, rows: FloatArray, weights: NDArray[np.int64]) -> FloatArray:
        """Copies of a question are questions of their own."""
        result = super().drawn(rows, weights)
        copy = np.arange(len(result)) - np.repeat(np.cumsum(weights) - weights, weights)
        result[:, 1] += copy * (1 + rows[:, 1].max())
        return result

    def parts(self, rows: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        changes = np.stack([rows[:, 0], np.ones(len(rows))], axis=1)
        return rows[:, 1:].astype(np.int64), changes[:, None]

    def value(self, counts: FloatArray) -> FloatArray:
        wrong, num_rows = counts[..., 0], counts[..., 1]
        return np.stack([(wrong == 0) & (num_rows > 0), num_rows > 0], axis=-1).astype(np.float64)

    def score(self, sums: FloatArray) -> FloatArray:
        return divide(sums[..., 0], sums[..., 1], empty=np.nan)

    def gain(self, small: FloatArray, large: FloatArray) -> FloatArray:
        """A question that the mix can get right is won by deferring all rows that only the large model gets right, and
        lost by deferring one that only the small one does: 1/a for each of the a former, -1/b for each of the b latter, 0
        for all else, times rows a question. [ours]

        In this order, highest first, no cascade has more questions right at any point where a question is complete. The
        question's number sets rows of equal gain apart by less than 1e-9, so that questions are completed in turn.
        """
        question = small[:, 1].astype(np.int64)
        win, lose = (small[:, 0] > large[:, 0]), (small[:, 0] < large[:, 0])
        hopeless, wins, losses = (
            np.bincount(question, weights=flag) for flag in ((small[:, 0] > 0) & (large[:, 0] > 0), win, lose)
        )
        open_question = hopeless[question] == 0
        gain = np.where(win & open_question, 1 / np.maximum(wins[question], 1), 0.0)
        gain -= np.where(lose & open_question, 1 / np.maximum(losses[question], 1), 0.0)
        return gain * (1 + 1e-9 * question / len(wins)) * len(small) / len(wins)

    def expected(self, small: FloatArray, large: FloatArray, shares: FloatArray) -> FloatArray:
        """The expected share of questions without a wrong row, were each row deferred by chance alone; off by O(1/n)."""
        question = small[:, 1].astype(np.int64)
        one, two = small[:, 0] > 0, large[:, 0] > 0
        counts = [np.bincount(question, weights=flag) for flag in (one & ~two, two & ~one, one & two)]
        result: FloatArray = expected_empty(counts[0], counts[1], counts[2], shares) / len(counts[0])
        return result
