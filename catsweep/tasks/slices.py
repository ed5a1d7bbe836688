"""Slices of a split as Hugging Face writes them: `train[:1000]`, `train[10%:20%]`, `train[-200:]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SLICE = re.compile(r"([^\[]+)(?:\[(?:(-?\d+)(%)?)?:(?:(-?\d+)(%)?)?\])?")


@dataclass(frozen=True)
class Slice:
    """A split and a range of its rows. Bounds are as written: negative ones count from the end; None is open."""

    split: str
    start: tuple[int, bool] | None = None
    stop: tuple[int, bool] | None = None

    @property
    def prefix(self) -> int | None:
        """The first so many rows hold the slice, whatever the size of the split; None where that is unknown."""
        start_is_known = self.start is None or (not self.start[1] and self.start[0] >= 0)
        if self.stop is None or self.stop[1] or self.stop[0] < 0 or not start_is_known:
            return None
        return self.stop[0]

    def bounds(self, num_rows: int) -> tuple[int, int]:
        """First row and the one behind the last, in a split of so many rows."""
        start = 0 if self.start is None else _place(*self.start, num_rows)
        stop = num_rows if self.stop is None else _place(*self.stop, num_rows)
        return start, max(start, stop)


def parse_slice(text: str) -> Slice:
    """The slice that a checked split name says (see `spec.source.SplitName`)."""
    match = _SLICE.fullmatch(text)
    assert match is not None, text
    split, start, start_percent, stop, stop_percent = match.groups()
    percent = bool(start_percent or stop_percent)  # of one bound it counts for both, as with Hugging Face
    return Slice(
        split, None if start is None else (int(start), percent), None if stop is None else (int(stop), percent)
    )


def _place(value: int, is_percent: bool, num_rows: int) -> int:
    rows = round(value * num_rows / 100) if is_percent else value  # to the nearest row, as Hugging Face rounds
    return min(num_rows, max(0, num_rows + rows if value < 0 else rows))
