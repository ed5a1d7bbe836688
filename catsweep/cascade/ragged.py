"""Rows of different lengths, kept as one flat array and n+1 offsets, with vectorised reductions over each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """n rows of numbers; row i is values[offsets[i]:offsets[i + 1]]. A row may be empty.

    values: (M,), any real dtype; every reduction computes in float64.
    offsets: (n+1,) int64, from 0 to M, never falling. Raises ValueError otherwise.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        offsets = self.offsets
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(self.values) or (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must rise from 0 to the number of values, {len(self.values)}")

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[float]]) -> Ragged:
        """The rows of a list of lists, as float64."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return cls(np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=int(offsets[-1])), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) number of values of each row."""
        return np.diff(self.offsets)

    def map(self, values: NDArray[Any]) -> Ragged:
        """Rows of the same lengths with other values (M,)."""
        return Ragged(values, self.offsets)

    def sum(self) -> FloatArray:
        """(n,) sum of each row; 0 for an empty row."""
        return self._reduce(np.add, empty=0.0)

    def mean(self, *, empty: float = np.nan) -> FloatArray:
        """(n,) mean of each row; `empty` for an empty row."""
        result = np.full(len(self), empty)
        np.divide(self.sum(), self.lengths, out=result, where=self.lengths > 0)
        return result

    def max(self, *, empty: float = np.nan) -> FloatArray:
        """(n,) largest value of each row; `empty` for an empty row."""
        return self._reduce(np.maximum, empty=empty)

    def quantile(self, share: float, *, empty: float = np.nan) -> FloatArray:
        """(n,) quantile of each row, share in [0, 1], linear between order statistics; `empty` for an empty row.

        Rows of one length are sorted together, so that the work is a few dense blocks.
        """
        result = np.full(len(self), empty)
        lengths = self.lengths
        by_length = np.argsort(lengths, kind="stable")
        distinct, starts = np.unique(lengths[by_length], return_index=True)
        for length, rows in zip(distinct, np.split(by_length, starts[1:]), strict=True):
            if length == 0:
                continue
            block = self.values[self.offsets[rows][:, None] + np.arange(length)].astype(np.float64)
            block.sort(axis=1)
            position = share * (length - 1)
            below = int(position)
            above = min(below + 1, int(length) - 1)
            result[rows] = block[:, below] + (position - below) * (block[:, above] - block[:, below])
        return result

    def _reduce(self, operation: np.ufunc, *, empty: float) -> FloatArray:
        # reduceat returns a neighbour's value for an empty segment, so only rows with values take part.
        result = np.full(len(self), empty, dtype=np.float64)
        filled = self.lengths > 0
        if filled.any():
            result[filled] = operation.reduceat(self.values.astype(np.float64), self.offsets[:-1][filled])
        return result
