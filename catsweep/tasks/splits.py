"""Which row lies in which split: a pure function of group keys, the same in every process.

Rows of one group key never lie in two splits. Where a key stands in two given splits, the row of the lower one in
test > calibration > validation > train is dropped. Splits that are not given are cut from train by whole groups in
the order of a hash of the key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.errors import DataError
from catsweep.tasks.groups import Groups

SPLITS = ("train", "validation", "calibration", "test")
PRIORITY = ("test", "calibration", "validation", "train")
MIN_EVALUATION_ROWS = 50
MAX_EVALUATION_ROWS = 1_000
MIN_TEST_ROWS = 500
"""Tasks with fewer test rows are marked small and left out of macro claims [ours]."""


@dataclass(frozen=True)
class Rows:
    """Rows of one given split ("train", "validation" or "test"). indices: where they stand in it, ascending."""

    given: str
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Cut:
    """The rows of each split, and how many rows each given split lost."""

    rows: dict[str, Rows]
    num_dropped: dict[str, int]


def evaluation_size(num_rows: int) -> int:
    """Rows of a split that is cut from `num_rows`: 1,000 where they are more than 10,000, else 10%, at least 50.

    [ours]
    """
    return MAX_EVALUATION_ROWS if num_rows > 10_000 else max(MIN_EVALUATION_ROWS, num_rows // 10)


def cut(groups: Groups, task: str) -> Cut:
    """Cut given splits into the four.

    groups: of the rows of "train", and of "validation" and "test" where given. task: its name, for messages.
    Raises DataError: an empty split, too few rows, groups too large to cut.
    """
    kept = _drop_shared(groups)
    for split, rows in kept.items():
        if not len(rows):
            raise DataError(_nothing_left(task, split, len(groups.numbers[split])))
    missing = [split for split in PRIORITY if split not in kept]
    group_of_row, left = groups.numbers["train"], kept["train"].indices
    size = evaluation_size(len(left))
    needed = MIN_EVALUATION_ROWS * (len(missing) + 1)
    if len(left) < needed:
        raise DataError(
            f"task {task}: found {len(left)} training rows (of {len(group_of_row)}, after those that share a group "
            f"key with a given split were dropped); expected at least {needed}: {MIN_EVALUATION_ROWS} each for "
            f"{', '.join(missing)} and train. Give more rows, or name the splits in `source`"
        )
    rows_of_split = dict(kept)
    for split in missing:
        sizes = np.bincount(group_of_row[left], minlength=len(groups.rank))
        is_chosen = _choose_groups(sizes, groups.rank, size)[group_of_row[left]]
        if is_chosen.sum() < MIN_EVALUATION_ROWS:
            raise DataError(
                f"task {task}: found {is_chosen.sum()} rows for {split}; expected {size} in whole groups, but the largest "
                f"of the {np.count_nonzero(sizes)} groups left has {sizes.max()} rows. Write a finer `doc_to_group`, or "
                "name the split in `source`"
            )
        rows_of_split[split] = Rows("train", left[is_chosen])
        left = left[~is_chosen]
    rows_of_split["train"] = Rows("train", left)
    return Cut(
        {split: rows_of_split[split] for split in SPLITS},
        {split: len(groups.numbers[split]) - len(rows) for split, rows in kept.items()},
    )


def cap(rows: Rows, groups: Groups, max_rows: int | None) -> Rows:
    """At most `max_rows` of a split, the first groups by hash: a smaller cap gives a subset of a larger one."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    by_rank = np.argsort(groups.rank[groups.numbers[rows.given][rows.indices]], kind="stable")
    return Rows(rows.given, np.sort(rows.indices[by_rank[:max_rows]]))


def _drop_shared(groups: Groups) -> dict[str, Rows]:
    seen = np.zeros(len(groups.rank), bool)
    kept = {}
    for split in PRIORITY:
        if split in groups.numbers:
            numbers = groups.numbers[split]
            kept[split] = Rows(split, np.flatnonzero(~seen[numbers]))
            seen[numbers] = True
    return kept


def _choose_groups(sizes: NDArray[np.int64], rank: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Which groups are taken: in the order of their ranks each that still fits into `size` rows. sizes: rows, (G,)."""
    is_chosen = np.zeros(len(sizes), bool)
    num_rows = 0
    for group in np.argsort(rank):
        if sizes[group] and num_rows + sizes[group] <= size:
            is_chosen[group] = True
            num_rows += sizes[group]
        if num_rows == size:
            break
    return is_chosen


def _nothing_left(task: str, split: str, num_rows: int) -> str:
    if num_rows == 0:
        return f"task {task}: found no rows in split {split}; expected at least one. Check `source`"
    return (
        f"task {task}: found no row of {split} whose group key is not in another given split as well ({num_rows} rows "
        "were dropped); expected splits of different groups. Check that `source` does not name one split twice, and "
        "that `doc_to_group` tells rows apart"
    )
