"""Which examples share a row of a batch, so that next to no padding is computed."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

MAX_PADDING = 0.04
"""A batch with a smaller share of padding tokens is left as it is."""
MAX_ROW = 4
"""A row is at most so many times as long as the longest example of its batch."""


def pack_rows(lengths: Sequence[int]) -> list[list[int]] | None:
    """The examples of each row, or None where one example a row is good enough.

    lengths: number of tokens of each example, at least 1. Rows are filled evenly: the longest example that is left goes to
    the emptiest row (LPT scheduling, Graham 1969). Of the numbers of rows with at most `MAX_PADDING` the largest is taken, since
    attention costs the square of a row's length, up to `MAX_ROW` times the longest example.
    """
    total, longest = sum(lengths), max(lengths)
    if total >= (1 - MAX_PADDING) * longest * len(lengths):
        return None
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    best: tuple[int, list[list[int]]] | None = None
    for num_rows in range(total // longest, 0, -1):
        rows, width = _fill(lengths, order, num_rows)
        if width > MAX_ROW * longest:
            break
        if best is None or num_rows * width < best[0]:
            best = num_rows * width, rows
        if total >= (1 - MAX_PADDING) * num_rows * width:
            break
    return best[1] if best and best[0] < longest * len(lengths) else None


def _fill(lengths: Sequence[int], order: Sequence[int], num_rows: int) -> tuple[list[list[int]], int]:
    """Rows of examples, and the length of the longest row."""
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    heap = [(0, number) for number in range(num_rows)]
    for index in order:
        length, number = heap[0]
        rows[number].append(index)
        heapq.heapreplace(heap, (length + lengths[index], number))
    return rows, max(length for length, _ in heap)
