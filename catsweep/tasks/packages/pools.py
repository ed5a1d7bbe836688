"""What the readers share: rows with a group key, picking by hash, and the check of a name that a package may not know."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from catsweep.errors import DataError
from catsweep.spec.yaml import did_you_mean
from catsweep.tasks.groups import components, hash_key

Pool = list[dict[str, Any]]
"""Rows; every one has the columns `id` and `group` too."""

T = TypeVar("T")


def with_groups(pool: Pool, *columns: str) -> Pool:
    """Add `group`: rows that share a text of these columns, ignoring case, have the same."""
    keys = components([[str(row[column]).casefold() for column in columns] for row in pool])
    return [{**row, "group": key} for row, key in zip(pool, keys, strict=True)]


def first_by_hash(items: Iterable[T], max_items: int, key: Callable[[T], str]) -> list[T]:
    """At most so many items, those whose key has the smallest hash, in its order: fewer are a beginning of more."""
    return heapq.nsmallest(max_items, items, key=lambda item: hash_key(key(item)))


def quick_hash(text: str) -> int:
    """32 bits that depend on the text alone, for millions of texts: four times as fast as `hash_key`."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def check_known(name: str, what: str, package: str, known: Sequence[str]) -> None:
    """Raise DataError where a package does not know a language, locale or the like."""
    if name not in known:
        hint = did_you_mean(name, known)
        raise DataError(
            f"package {package}: found no {what} {name!r}; expected one of {', '.join(known)}. {hint}".rstrip()
        )
