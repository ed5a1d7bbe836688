"""Checks that hold for the rows of every reader."""

from __future__ import annotations

from catsweep.spec.package import PackageReader
from catsweep.tasks.package import make_pool
from catsweep.tasks.packages.pools import Pool


def read_pool(reader: PackageReader) -> Pool:
    """Rows of a reader, with what holds for all: an id each, never twice; a group; the same columns everywhere."""
    pool = make_pool(reader)
    assert pool
    assert len({row["id"] for row in pool}) == len(pool)
    assert {tuple(row) for row in pool} == {tuple(pool[0])}
    assert all(isinstance(row["id"], str) and isinstance(row["group"], str) and row["group"] for row in pool)
    return pool


def share_a_group(pool: Pool, *columns: str) -> bool:
    """Whether rows that share a text of these columns, ignoring case, have the same group."""
    groups: dict[str, set[str]] = {}
    for row in pool:
        for column in columns:
            groups.setdefault(row[column].casefold(), set()).add(row["group"])
    return all(len(found) == 1 for found in groups.values())
