"""Which rows belong together, as numbers: what a process holds does not grow with the texts of their keys."""

from __future__ import annotations

import functools
import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catsweep.tasks.store import Spool

IntArray = NDArray[np.int64]


def hash_key(key: str, purpose: bytes = b"") -> bytes:
    """16 bytes that depend on the text and the purpose alone: not on the process, the platform or PYTHONHASHSEED.

    purpose: at most 16 bytes. Rows that were picked by one hash must be cut by another: else the rows that were picked
    first would all lie in test.
    """
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=purpose).digest()


@dataclass(frozen=True)
class Groups:
    """The group of each row of each given split. Rows of all splits that share a text, also through other rows, have one.

    numbers: given split -> group of each of its rows; groups are 0 to G - 1, in no order that means anything.
    """

    numbers: dict[str, IntArray]
    texts: Spool
    """In UTF-8, which sorts as its characters do."""
    first_text: IntArray
    """group -> where its key stands in `texts`; shape (G,)."""

    def key(self, group: int) -> str:
        """The smallest text of a group."""
        return self.texts[int(self.first_text[group])].decode("utf-8", "surrogatepass")

    @functools.cached_property
    def rank(self) -> IntArray:
        """The place of each group in the order in which groups are cut: that of a hash of its key. Shape (G,)."""
        hashes = bytearray()
        for group in range(len(self.first_text)):
            hashes += hash_key(self.key(group), b"split")
        order = np.argsort(np.frombuffer(hashes, "S16"), kind="stable")
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank


def group_rows(links: Mapping[str, Iterable[Sequence[str]]]) -> Groups:
    """Number the groups of rows. links: given split -> the texts of each of its rows, at least one.

    Holds some 130 bytes a row while it works, and 8 afterwards: texts are told apart by 128 bits of their hash (see `hash_key`).
    """
    texts = Spool()
    hashes = bytearray()
    starts = array("q", [0])  # of each row's first text
    num_rows = {}
    for split, rows in links.items():
        before = len(starts)
        for row_texts in rows:
            for text in row_texts:
                texts.append(text.encode("utf-8", "surrogatepass"))
                hashes += hash_key(text)
            starts.append(starts[-1] + len(row_texts))
        num_rows[split] = len(starts) - before
    texts.flush()
    _, first, numbers = np.unique(np.frombuffer(hashes, "S16"), return_index=True, return_inverse=True)
    del hashes
    roots = _roots(numbers, np.array(starts), len(first))
    _, one_text, group_of_text = np.unique(roots, return_index=True, return_inverse=True)
    first_text = first[one_text]
    order = np.argsort(group_of_text, kind="stable")
    ends_of_groups = np.cumsum(np.bincount(group_of_text, minlength=len(one_text)))
    for group, end in enumerate(ends_of_groups):
        start = ends_of_groups[group - 1] if group else 0
        if end - start > 1:
            first_text[group] = min(first[order[start:end]], key=lambda index: texts[int(index)])
    of_row = group_of_text[numbers[np.array(starts[:-1], np.int64)]]
    ends = np.cumsum(list(num_rows.values()))[:-1]
    return Groups(dict(zip(num_rows, np.split(of_row, ends), strict=True)), texts, first_text)


def components(links: Sequence[Sequence[str]]) -> list[str]:
    """A group key for each row such that rows with a common text, also through other rows, have the same key.

    links: the texts of each row, at least one. The key is the smallest text of the connected component.
    """
    groups = group_rows({"": links})
    return [groups.key(group) for group in groups.numbers[""]]


def _roots(numbers: IntArray, starts: IntArray, num_texts: int) -> IntArray:
    """For each text one of those that it is connected to, the same for all of these.

    numbers: the text of each link, (number of links,). starts: row -> its first link, and their number at the end.
    """
    parent = array("q", range(num_texts))

    def find(text: int) -> int:
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for row in np.flatnonzero(np.diff(starts) > 1):
        root, *others = numbers[starts[row] : starts[row + 1]].tolist()
        for other in others:
            parent[find(other)] = find(root)
    return np.fromiter((find(text) for text in range(num_texts)), np.int64, num_texts)
