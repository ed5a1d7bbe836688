"""Which row lies in which split: a pure function of group keys, the same in every process.

Rows of one group key never lie in two splits. Where a key stands in two given splits, the row of the lower one in
test > calibration > validation > train is dropped. Splits that are not given are cut from train by whole groups in
the order of a hash of the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catsweep.errors import DataError

SPLITS = ("train", "validation", "calibration", "test")
PRIORITY = ("test", "calibration", "validation", "train")
MIN_EVALUATION_ROWS = 50
MAX_EVALUATION_ROWS = 1_000
MIN_TEST_ROWS = 500
"""Tasks with fewer test rows are marked small and left out of macro claims (PAPER, Splits)."""

Position = tuple[str, int]
"""A given split ("train", "validation" or "test") and the index of a row in it."""


@dataclass(frozen=True)
class Cut:
    """The rows of each split, in the order of their positions, and how many rows each given split lost."""

    positions: dict[str, list[Position]]
    num_dropped: dict[str, int]


def hash_key(key: str, purpose: bytes = b"") -> bytes:
    """16 bytes that depend on the text and the purpose alone: not on the process, the platform or PYTHONHASHSEED.

    purpose: at most 16 bytes. Rows that were picked by one hash must be cut by another: else the rows that were picked
    first would all lie in test.
    """
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=purpose).digest()


def evaluation_size(num_rows: int) -> int:
    """Rows of a split that is cut from `num_rows`: 1,000 where they are more than 10,000, else 10%, at least 50.

    Source: PAPER.md "Splits"; the least of 50 and the same rule for test are [ours].
    """
    return MAX_EVALUATION_ROWS if num_rows > 10_000 else max(MIN_EVALUATION_ROWS, num_rows // 10)


def cut(groups: Mapping[str, Sequence[str]], task: str) -> Cut:
    """Cut given splits into the four.

    groups: given split ("train", and "validation" and "test" where given) -> group key of each of its rows.
    task: its name, for messages. Raises DataError: an empty split, too few rows, groups too large to cut.
    """
    kept, num_dropped = _drop_shared(groups)
    for split, indices in kept.items():
        if not indices:
            raise DataError(_nothing_left(task, split, len(groups[split])))
    positions = {split: [(split, index) for index in indices] for split, indices in kept.items()}
    missing = [split for split in PRIORITY if split not in kept]
    num_rows = len(kept["train"])
    size = evaluation_size(num_rows)
    needed = MIN_EVALUATION_ROWS * (len(missing) + 1)
    if num_rows < needed:
        raise DataError(
            f"task {task}: found {num_rows} training rows (of {len(groups['train'])}, after those that share a group "
            f"key with a given split were dropped); expected at least {needed}: {MIN_EVALUATION_ROWS} each for "
            f"{', '.join(missing)} and train. Give more rows, or name the splits in `source`"
        )
    members: dict[str, list[int]] = {}
    for index in kept["train"]:
        members.setdefault(groups["train"][index], []).append(index)
    for split in missing:
        chosen = _take_groups(members, size)
        if len(chosen) < MIN_EVALUATION_ROWS:
            largest = max((len(rows) for rows in members.values()), default=0)
            raise DataError(
                f"task {task}: found {len(chosen)} rows for {split}; expected {size} in whole groups, but the largest "
                f"of the {len(members)} groups left has {largest} rows. Write a finer `doc_to_group`, or name the "
                "split in `source`"
            )
        positions[split] = [("train", index) for index in chosen]
    positions["train"] = [("train", index) for index in sorted(i for rows in members.values() for i in rows)]
    return Cut({split: positions[split] for split in SPLITS}, num_dropped)


def cap(positions: list[Position], groups: Mapping[str, Sequence[str]], max_rows: int | None) -> list[Position]:
    """At most `max_rows` of a split, the first groups by hash: a smaller cap gives a subset of a larger one."""
    if max_rows is None or len(positions) <= max_rows:
        return positions
    ordered = sorted(positions, key=lambda position: (_order(groups[position[0]][position[1]]), position))
    return sorted(ordered[:max_rows])


def components(links: Sequence[Sequence[str]]) -> list[str]:
    """A group key for each row such that rows with a common text, also through other rows, have the same key.

    links: the texts of each row, at least one. The key is the smallest text of the connected component.
    """
    parent: dict[str, str] = {}

    def find(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for texts in links:
        root = find(texts[0])
        for text in texts[1:]:
            other = find(text)
            root, child = min(root, other), max(root, other)  # the smallest text is the root of its component
            parent[child] = root
    return [find(texts[0]) for texts in links]


def _order(key: str) -> bytes:
    return hash_key(key, b"split")


def _drop_shared(groups: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[int]], dict[str, int]]:
    seen: set[str] = set()
    kept: dict[str, list[int]] = {}
    for split in PRIORITY:
        if split in groups:
            kept[split] = [index for index, key in enumerate(groups[split]) if key not in seen]
            seen.update(groups[split])
    return kept, {split: len(groups[split]) - len(indices) for split, indices in kept.items()}


def _take_groups(members: dict[str, list[int]], size: int) -> list[int]:
    """Remove whole groups from `members` in hash order, each that still fits into `size` rows."""
    chosen: list[int] = []
    for key in sorted(members, key=_order):
        if len(chosen) + len(members[key]) <= size:
            chosen += members.pop(key)
        if len(chosen) == size:
            break
    return sorted(chosen)


def _nothing_left(task: str, split: str, num_rows: int) -> str:
    if num_rows == 0:
        return f"task {task}: found no rows in split {split}; expected at least one. Check `source`"
    return (
        f"task {task}: found no row of {split} whose group key is not in another given split as well ({num_rows} rows "
        "were dropped); expected splits of different groups. Check that `source` does not name one split twice, and "
        "that `doc_to_group` tells rows apart"
    )
