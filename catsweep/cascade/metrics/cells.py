"""Exact curves of metrics that are sums over cells (classes, questions) of a function of each cell's counts.

Deferring a row changes the counts of one or two cells, so all n+1 points cost O(n log n) however many cells there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catsweep.cascade.metrics.base import Base, Path
from catsweep.cascade.ragged import FloatArray


class CellMetric(Base):
    """A metric whose quality is `score` of sums over cells of `value` of the cell's counts.

    Aligned rows are (n, 2), the same for both models where they gave the same answer. A row counts in m cells.
    """

    num_counts: int

    def parts(self, rows: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
        """The cells (n, m) of aligned rows, and what each row adds to each of their counts (n, m, num_counts)."""
        raise NotImplementedError

    def value(self, counts: FloatArray) -> FloatArray:
        """(..., v) values of cells with counts (..., num_counts)."""
        raise NotImplementedError

    def score(self, sums: FloatArray) -> FloatArray:
        """(...) quality of sums (..., v) of the values of all cells."""
        raise NotImplementedError

    def align(self, small: ArrayLike, large: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """The statistics with their codes replaced by cells 0, 1, ..."""
        raise NotImplementedError

    def quality(self, statistics: ArrayLike) -> float:
        rows, _ = self.align(statistics, statistics)
        return float(self.score(self.value(cell_counts(*self.parts(rows))).sum(axis=0)))

    def path(self, small: FloatArray, large: FloatArray) -> Path:
        path = Path(self.mixed(small, large), self._growing(small[::-1])[::-1], self._growing(large))
        path.small_kept[-1] = path.large_deferred[0] = np.nan
        return path

    def mixed(self, small: FloatArray, large: FloatArray) -> FloatArray:
        small_cells, small_changes = self.parts(small)
        large_cells, large_changes = self.parts(large)
        same = (small_cells == large_cells) & (small_changes == large_changes).all(axis=2)
        num_cells = 1 + max(int(small_cells.max()), int(large_cells.max()))
        start = cell_counts(small_cells, small_changes, num_cells)
        cells = np.concatenate([small_cells, large_cells], axis=1)
        changes = np.concatenate([-small_changes, large_changes], axis=1)
        return self._along(start, cells, changes, ~np.concatenate([same, same], axis=1))

    def _growing(self, rows: FloatArray) -> FloatArray:
        """(n+1,) quality of the first k rows alone."""
        cells, changes = self.parts(rows)
        start = np.zeros((1 + int(cells.max()), self.num_counts))
        return self._along(start, cells, changes, np.ones(cells.shape, dtype=bool))

    def _along(
        self, start: FloatArray, cells: NDArray[np.int64], changes: FloatArray, counted: NDArray[np.bool_]
    ) -> FloatArray:
        """(n+1,) quality as the rows' changes (n, m, j) of cells (n, m), where counted, come one after the other."""
        n, m = cells.shape
        step = np.repeat(np.arange(1, n + 1), m)[counted.ravel()]
        cell, change = cells[counted], changes[counted]  # in the order of the steps
        order = np.argsort(cell.astype(np.uint16 if len(start) <= 1 << 16 else np.int64), kind="stable")
        cell, change, step = cell[order], change[order], step[order]
        sums = np.cumsum(change, axis=0)
        first = np.append(True, cell[1:] != cell[:-1])[: len(cell)]
        before_cell = (sums - change)[first][np.cumsum(first) - 1]
        after = start[cell] + sums - before_cell
        totals = self.value(start).sum(axis=0)
        changed = self.value(after) - self.value(after - change)
        per_step = [np.bincount(step, weights=column, minlength=n + 1) for column in changed.T]
        running = np.cumsum(np.stack(per_step, axis=1), axis=0)
        return self.score(running + totals)


def cell_counts(cells: NDArray[np.int64], changes: FloatArray, num_cells: int = 0) -> FloatArray:
    """(C, j) sums of the changes (n, m, j) of each cell (n, m)."""
    flat = cells.ravel()
    columns = changes.reshape(-1, changes.shape[2]).T
    return np.stack([np.bincount(flat, weights=column, minlength=num_cells) for column in columns], axis=1)


def expected_empty(small_only: ArrayLike, large_only: ArrayLike, both: ArrayLike, shares: FloatArray) -> FloatArray:
    """(m,) expected number of cells that hold nothing after deferring each of the shares (m,) of the rows at random.

    A cell holds small_only (C,) rows if they are kept, large_only rows if they are deferred, and `both` rows in any case;
    rows count as deferred independently of one another, which differs from exactly k of n by O(1/n).
    """
    counts = np.stack([np.asarray(small_only), np.asarray(large_only)], axis=1)[np.asarray(both) == 0]
    pairs, how_often = np.unique(counts, axis=0, return_counts=True)
    share = shares[:, None]
    empty: FloatArray = (share ** pairs[:, 0] * (1 - share) ** pairs[:, 1] * how_often).sum(axis=1)
    return empty
